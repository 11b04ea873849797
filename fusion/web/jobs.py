"""A bounded queue in front of one worker: what arrives while it works is answered together."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from fusion.web.asked import Asked, Refused
from fusion.web.limits import Limits


@dataclass(eq=False)
class Job:
    """A request on its way. ``stage``: what is being done of it, in words."""

    asked: Asked
    session: str | None = None
    future: "Future[dict[str, Any]]" = field(default_factory=Future)
    stage: str = "waiting for its turn"
    done: int = 0
    total: int = 0


class Jobs:
    """Jobs of many clients, one at a time for each session.

    Args:
        work: sets each job's future; it is called by one thread only, with jobs that wait together.
    """

    def __init__(self, work: Callable[[Sequence[Job]], None], limits: Limits) -> None:
        self._work, self._limits = work, limits
        self._waiting: queue.Queue[Job | None] = queue.Queue()
        self._sessions: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._open = 0  # jobs that nobody has answered yet
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)  # a forced end waits for nobody
        self._thread.start()

    @property
    def unanswered(self) -> int:
        return self._open

    def submit(self, job: Job) -> None:
        """Let it wait for its turn. Its files are removed when its future is done, or cancelled.

        Raises:
            Refused: the queue is full, the session has one already, or no more are taken.
        """
        with self._lock:
            if self._closed:
                raise Refused(503, "stopping: nothing more is taken", wait=30)
            if job.session is not None and job.session in self._sessions:
                raise Refused(429, "one clip at a time: the last one of this session is still being answered", wait=1)
            if self._open >= self._limits.waiting + self._limits.together:
                raise Refused(503, f"{self._open} requests are waiting: try again in a moment", wait=5)
            self._open += 1
            if job.session is not None:
                self._sessions[job.session] = job
        job.future.add_done_callback(lambda _: self._forget(job))
        self._waiting.put(job)

    def of(self, session: str) -> Job | None:
        """What is being answered for a session."""
        return self._sessions.get(session)

    def close(self) -> None:
        """Finish what waits, take nothing new."""
        with self._lock:
            self._closed = True
        self._waiting.put(None)
        self._thread.join()

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._open -= 1
            if job.session is not None:
                self._sessions.pop(job.session, None)
        job.asked.forget()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            jobs: list[Job] = [first]
            last = False
            while len(jobs) < self._limits.together and not last:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                else:
                    jobs.append(more)
            wanted = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if wanted:
                self._work(wanted)
            if last:
                return
