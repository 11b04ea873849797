"""Windows between who reads them and who answers: a queue with an end, and a rule for what happens when it is full."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from extract.media.streaming.cutting import Window


@dataclass(frozen=True)
class Arrival:
    """A window of the source's part ``name`` (a file of a folder), and when it came, by ``time.monotonic``.

    ``fault``: there is none, for it cannot be read.
    """

    name: str
    window: Window | None
    at: float
    fault: str = ""


class Waiting:
    """At most ``most`` arrivals, read by a thread of its own.

    Args:
        is_live: where it is full, the oldest window is dropped, unless the source runs ahead of the clock: then it
            can wait. Otherwise the reader waits, and nothing is dropped.
        paced: windows of a file come when they would if it were played.
    """

    def __init__(self, arrivals: Iterable[Arrival], most: int, is_live: bool, paced: bool = False) -> None:
        self._most, self._is_live, self._paced = most, is_live, paced
        self._changed = threading.Condition()
        self._held: deque[Arrival] = deque()
        self._done = self._stopped = False
        self._error: BaseException | None = None
        self._began: float | None = None  # when the source's time was zero, by our clock
        self.dropped = 0
        threading.Thread(target=self._read, args=[arrivals], daemon=True).start()

    def take(self, most: int) -> list[Arrival]:
        """What waits, the oldest first; empty: nothing will come. Raises what reading raised, behind the last one."""
        with self._changed:
            while not (self._held or self._done):
                self._changed.wait(0.5)
            taken = [self._held.popleft() for _ in range(min(most, len(self._held)))]
            self._changed.notify_all()
            if not taken and self._error is not None:
                raise self._error
            return taken

    def stop(self) -> None:
        """Read no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _read(self, arrivals: Iterable[Arrival]) -> None:
        try:
            for arrival in arrivals:
                if not self._put(arrival):
                    break
        except BaseException as error:  # raised again where windows are taken
            self._error = error
        finally:
            if hasattr(arrivals, "close"):
                arrivals.close()  # ends its child process
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _put(self, arrival: Arrival) -> bool:
        """False: nobody wants more."""
        stop = arrival.window.stop if arrival.window else 0.0
        with self._changed:
            if self._began is None:
                self._began = arrival.at - (stop if self._is_live else 0.0)
            if self._paced:
                self._wait_until(self._began + stop)
                arrival = Arrival(arrival.name, arrival.window, max(arrival.at, self._began + stop))
            while len(self._held) >= self._most and not self._stopped:
                if self._is_live and time.monotonic() >= self._began + stop:
                    self._held.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait(0.1)
            self._held.append(arrival)
            self._changed.notify_all()
            return not self._stopped

    def _wait_until(self, when: float) -> None:
        while (rest := when - time.monotonic()) > 0 and not self._stopped:
            self._changed.wait(min(rest, 0.5))
