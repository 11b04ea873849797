"""What a stream costs: seconds of work for a second of it, of each stage, with a bundle (``fusion/live.py``).

A film is made of the sample's own clips - sounds one after the other, pictures of one of them over and over - and read
as fast as it goes. Below 1 a stage keeps up with what is live; all stages together must, with decoding beside them.

    python benchmarks/live.py [--bundle FOLDER] [--seconds 60] [--window 4] [--hop 2]
"""

import sys

sys.path[:] = [path for path in sys.path if not path.endswith("benchmarks")]  # a file there is named as a package is

import time
from contextlib import suppress
from fractions import Fraction
from itertools import chain, cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import av
import numpy as np
import typer

from configs import UserError
from configs.command_line import command
from configs.profiles import load
from extract.media.damage import MediaError
from extract.media.reading import SAMPLE_RATE, audio_blocks, frames_at, middles
from fusion.serving.bundle import open_bundle
from fusion.serving.live import Predictor
from fusion.serving.windows import cut_for
from fusion.streaming.answering import STAGES, Answering
from fusion.streaming.sources import arrivals, source_of
from fusion.streaming.speech import Ear
from fusion.streaming.waiting import Waiting

SAMPLE = Path(__file__).parents[1] / "extract" / "sample"
RATE = 25  # pictures a second


def main(
    bundle: Annotated[Path | None, typer.Option(help="Default: the bundle of the profile that dvc.yaml names.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of the film.")] = 60.0,
    window: float = 4.0,
    hop: float = 2.0,
    batch: Annotated[int, typer.Option(help="Windows answered together; what is live has few.")] = 8,
) -> None:
    """Print seconds of work for a second of a film with sound, and of its sound alone."""
    opened = open_bundle(bundle or load().run_dir / "bundle")
    ear = Ear(0.5)
    print(f"windows of {window:g} s every {hop:g} s; {seconds:g} s of film; seconds of work for a second of it:")
    print(f"{'':<12}{''.join(f'{stage:>9}' for stage in STAGES)}{'wall':>9}{'CPU':>9}  windows")
    with TemporaryDirectory() as folder, Predictor(opened, opened.profile, "cpu") as predictor:
        predictor.load(("audio", "video"))
        cut = cut_for(predictor, window, hop, listen=True)
        for name, file in _films(Path(folder), seconds).items():
            answering = Answering(predictor, opened.profile, {}, ear, 3.0)
            waiting = Waiting(arrivals(source_of(str(file), None), cut, print, cut), batch, is_live=False)
            wall, cpu = time.perf_counter(), time.process_time()
            while given := waiting.take(batch):
                answering.answer(given)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu + answering.seconds["decode"]
            costs = [*(answering.seconds[stage] for stage in STAGES), wall, cpu]
            ratios = "".join(f"{cost / answering.covered:>9.3f}" for cost in costs)
            print(f"{name:<12}{ratios}  {answering.counts['windows']}", flush=True)


def _films(folder: Path, seconds: float) -> dict[str, Path]:
    """A film with sound, and its sound alone."""
    sounds = []
    for path in sorted((SAMPLE / "test_audio").glob("*.ogg")):
        with suppress(MediaError):  # some of the sample's are broken, as those of a corpus
            sounds.append(np.concatenate(list(audio_blocks(path))))
    clip = next(iter(sorted((SAMPLE / "test_video").iterdir())), None)
    if not sounds or clip is None:
        raise UserError(f"{SAMPLE}: the sample's clips are not there")
    n = round(seconds * SAMPLE_RATE)
    samples = np.resize(np.concatenate(sounds), n)
    images = list(frames_at(clip, middles(0.0, 2.0, 2 * RATE)))
    found = {"film": folder / "film.mp4", "sound alone": folder / "sound.wav"}
    for name, file in found.items():
        with av.open(str(file), "w") as container:
            tracks = []
            if name == "film":
                video = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
                video.height, video.width = (side // 2 * 2 for side in images[0].shape[:2])
                shown = (image[: video.height, : video.width] for image in cycle(images))
                frames = (av.VideoFrame.from_ndarray(np.ascontiguousarray(image)) for image in shown)
                tracks.append((video, islice(frames, round(seconds * RATE))))
            audio = container.add_stream("aac" if name == "film" else "pcm_s16le", rate=SAMPLE_RATE, layout="mono")
            tracks.append((audio, (_sound(samples[i : i + 1024], i) for i in range(0, n, 1024))))
            for stream, given in tracks:
                for each in chain(given, [None]):
                    container.mux(stream.encode(each))
    return found


def _sound(samples: np.ndarray, first: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
    return frame


if __name__ == "__main__":
    command(main)
