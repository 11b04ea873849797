"""The one worker: answers for requests that came together, then windows and explanations of each."""

import traceback
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import polars as pl

from configs import UserError
from configs.schema import Profile
from extract.corpora.manifest import Manifest
from extract.media.decoding import Decoders
from extract.media.reading import SAMPLE_RATE, MediaError
from fusion.serving.bundle import Bundle
from fusion.serving.clips import manifests
from fusion.serving.live import Answer, Predictor
from fusion.serving.spans import Cutter, LookTask, Window, spans, write_pictures, write_sound
from fusion.web.asked import Asked, Refused, Said, SaidToExplain, as_refused
from fusion.web.explaining import explain
from fusion.web.jobs import Job
from fusion.web.limits import Limits

TIMEOUT = 30.0  # seconds without a sign of life, after which a decoder is given up
NOTHING = {"prediction": None, "probability": None, "probabilities": None, "error": "nothing to go on"}
FEW = 8  # windows answered in one go: what lies on disk at a time


class Answering:
    """A bundle that answers requests; to be entered.

    Args:
        profile: the bundle's, with encoders' folders as they are on this machine.
        confidence, precision: as of :class:`fusion.serving.live.Predictor`.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: Profile,
        device: str,
        limits: Limits,
        confidence: float | None = None,
        precision: str | None = None,
    ) -> None:
        self._limits = limits
        self.bundle, self.profile = bundle, profile
        self._open = ExitStack()
        self.predictor = self._open.enter_context(Predictor(bundle, profile, device, confidence, precision))
        self._cutter = self._open.enter_context(closing(Cutter(TIMEOUT)))
        self._looks = self._open.enter_context(closing(Decoders(LookTask(limits.seconds), 2, TIMEOUT)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def warm(self) -> None:
        """Load encoders and heads, and let a clip pass through, so that the first one that is asked about waits less.

        Raises:
            UserError: an encoder cannot be loaded, or is not the one that the heads were trained on.
        """
        self.predictor.load()
        with TemporaryDirectory(prefix="emocache-") as folder:
            noise = np.random.default_rng(0).normal(scale=0.1, size=SAMPLE_RATE).astype(np.float32)
            greys = [np.full((96, 96, 3), level, dtype=np.uint8) for level in range(0, 256, 32)]
            asked = Asked(Path(folder), Said())
            asked.files["audio"] = write_sound(asked.folder / "a.wav", noise)
            asked.files["video"] = write_pictures(asked.folder / "a.mkv", greys)
            asked.names |= {"audio": "a.wav", "video": "a.mkv"}
            self.look(asked)
            self._answers([self._manifest(asked)])
            self.predictor.forget()

    def look(self, asked: Asked) -> None:
        """How long a request's clip is, and whether it can be answered at all; from any thread.

        Raises:
            Refused: a file cannot be read or is too long, metadata that nothing reads, windows that do not fit.
        """
        for kind, path in asked.files.items():
            try:
                seconds = self._looks.decode(path).seconds
            except MediaError as error:
                raise Refused(422, asked.shown(f"{asked.names[kind]}: not a clip that can be read: {error}")) from error
            if seconds > self._limits.seconds:
                raise Refused(413, f"{asked.names[kind]}: longer than {self._limits.seconds} s, which is the most")
            asked.seconds = max(asked.seconds, seconds)
        try:
            self._manifest(asked)
            if asked.said.window is not None and asked.files:
                self._spans(asked)
        except UserError as error:
            refused = as_refused(error)
            raise Refused(refused.status, asked.shown(refused.line)) from error

    def work(self, jobs: Sequence[Job]) -> None:
        """Set each job's result, or what it is refused with."""
        to_explain = [job for job in jobs if isinstance(job.asked.said, SaidToExplain)]
        plain = [job for job in jobs if job not in to_explain]
        for together in [[job] for job in plain] if self.predictor.centres else [plain] * bool(plain):
            self._guarded(together, self._predict)
        for job in to_explain:
            self._guarded([job], self._explain)

    def _guarded(self, jobs: Sequence[Job], do: Any) -> None:
        """A worker that fails for one request must go on with the others."""
        self.predictor.forget()
        try:
            do(jobs)
        except UserError as error:
            self._refuse(jobs, as_refused(error, status=500))
        except Refused as error:
            self._refuse(jobs, error)
        except Exception as error:  # a fault of this program: it costs these requests, and stands in the log
            traceback.print_exception(error)
            self._refuse(jobs, Refused(500, "a fault of this program: its log says more"))

    def _refuse(self, jobs: Sequence[Job], why: Refused) -> None:
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(why)

    def _predict(self, jobs: Sequence[Job]) -> None:
        def tell(stage: str) -> None:
            for job in jobs:
                job.stage = stage

        tell("looking at it")
        self.predictor.tell = tell
        answers = self._answers([self._manifest(job.asked) for job in jobs])
        for job, answer in zip(jobs, answers, strict=True):
            shown = named(answer, job.asked)
            if shown["error"]:
                job.future.set_exception(Refused(422, f"{shown['unit']}: {shown['error']}"))
            elif job.asked.said.window is None or not job.asked.files:
                job.future.set_result(shown)
            else:
                self._guarded([job], lambda one, shown=shown: self._timeline(one[0], shown))

    def _timeline(self, job: Job, answer: Answer) -> None:
        """The answer, and those of the windows."""
        asked = job.asked
        parts = self._spans(asked)
        job.total = len(parts)
        self.predictor.tell = lambda stage: setattr(job, "stage", f"windows: {stage}")
        cut = self._cutter.windows(
            asked.files.get("audio") or asked.files.get("video"), asked.files.get("video"), parts, asked.folder
        )
        timeline: list[dict[str, Any]] = []
        with closing(cut):
            while few := [window for _, window in zip(range(FEW), cut, strict=False)]:
                there = [w for w in few if w.audio or w.video or asked.said.metadata]
                found = dict(zip(there, self._answers([self._manifest(asked, w) for w in there]), strict=True))
                for window in few:
                    each = found.get(window, NOTHING)
                    kept = {key: each[key] for key in ("prediction", "probability", "probabilities", "error")}
                    timeline.append({"start": window.start, "stop": window.stop} | asked.shown(kept))
                    for path in filter(None, (window.audio, window.video)):
                        path.unlink()
                job.done = len(timeline)
        job.future.set_result(answer | {"seconds": asked.seconds, "timeline": timeline})

    def _explain(self, jobs: Sequence[Job]) -> None:
        (job,) = jobs
        asked, said = job.asked, job.asked.said
        assert isinstance(said, SaidToExplain)

        def tell(stage: str) -> None:
            job.stage = stage

        self.predictor.tell = tell
        manifest = _called(self._manifest(asked), asked.unit)
        files = {"audio": asked.files.get("audio") or asked.files.get("video"), "video": asked.files.get("video")}
        there = {kind: path for kind, path in files.items() if path}
        job.future.set_result(
            asked.shown(explain(self.predictor, self.bundle, self.profile, manifest, there, said.head, tell, TIMEOUT))
        )

    def _answers(self, asked: Sequence[Manifest]) -> list[Answer]:
        """An answer for each of some manifests of one clip."""
        if not asked:
            return []
        clips = [_called(each, f"\x1f{number}").clips for number, each in enumerate(asked)]
        return list(self.predictor.answers(replace(asked[0], clips=pl.concat(clips))))

    def _manifest(self, asked: Asked, window: Window | None = None) -> Manifest:
        """The request as a clip, as fusion/predict.py takes it; or a window of it, of whose text nothing is known."""
        said = asked.said
        files = {"audio": window.audio, "video": window.video} if window else asked.files
        video = files.get("video")
        text = None if window else said.text
        (only,) = manifests(
            [video] if video else [], text, files.get("audio"), said.metadata, None, self.profile, self.predictor.fields
        )
        return only

    def _spans(self, asked: Asked) -> list[tuple[float, float]]:
        length = asked.said.window or 0.0
        return spans(asked.seconds, length, asked.said.hop or length)


def _called(manifest: Manifest, name: str) -> Manifest:
    """A manifest of one clip under another name."""
    columns = {column: pl.lit(name) for column in ("clip_id", "conversation_id", "group")}
    return replace(manifest, clips=manifest.clips.with_columns(**columns))


def named(answer: Answer, asked: Asked) -> Answer:
    """An answer with the sender's own names in it."""
    missing = [each | {"clip": asked.unit if each["clip"] else None} for each in answer["missing"]]
    return asked.shown(answer | {"unit": asked.unit, "missing": missing})
