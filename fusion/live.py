"""Emotion over time: windows of a file, a folder that fills, a camera, a microphone, a pipe or an address."""

import gc
import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from configs import UserError
from configs.command_line import command
from fusion.serving.bundle import Bundle
from fusion.serving.options import (
    BundleOption,
    ConfidenceOption,
    DeviceOption,
    EncoderOption,
    PrecisionOption,
    opened,
    pairs,
)

BATCH = 8  # windows answered together, where so many wait


def main(
    source: Annotated[
        str,
        typer.Argument(
            help="A media file; a folder, whose files are clips, old and new; camera[:N]; microphone[:N]; - for "
            "standard input; or an address, as rtsp://... or http://...: nothing else opens the network.",
        ),
    ],
    window: Annotated[float, typer.Option(help="Seconds that are judged together.")] = 4.0,
    hop: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 2.0,
    smooth: Annotated[
        float, typer.Option(help="Seconds after which an earlier answer counts 1/e of what it did; 0: not smoothed.")
    ] = 3.0,
    vad: Annotated[
        str, typer.Option(metavar="THRESHOLD | off", help="Probability from which sound is speech, 0 to 1.")
    ] = "0.5",
    queue: Annotated[int, typer.Option(help="Windows that may wait; then live sources lose the oldest.")] = 8,
    realtime: Annotated[bool, typer.Option("--realtime", help="Read a file as if it were played.")] = False,
    pcm: Annotated[
        str | None, typer.Option(metavar="FORMAT:RATE:CHANNELS", help="Raw sound on -, as s16le:16000:1.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "--meta", metavar="FIELD=VALUE", help="What is known. Repeat for more."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE.srt | FILE.vtt", help="Captions of a file: what is said, and when.")
    ] = None,
    bundle: BundleOption = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    confidence: ConfidenceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each window.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Write these lines there, too.")] = None,
) -> None:
    """Say what emotion is heard and seen, window after window.

    A window of a file gets the answer that fusion/predict.py gives for a clip cut there. One without speech says so:
    its sound is not judged, its pictures are, where there are any. What is printed is smoothed; lines of JSON hold
    both. Nothing of a file is lost; where a live source is faster than the answers, its oldest windows are dropped, and
    lag and drops are printed. Ctrl-C ends it with a summary, and exit code 130. Exit code 3: the source died.

    python fusion/live.py interview.mp4 --metadata topic=exams
    """
    _check(window, hop, smooth, queue, out)
    threshold = _threshold(vad)
    if realtime and not os.path.isfile(source):  # noqa: PTH113
        raise UserError(f"--realtime: is for a file, and {source[:300]} is none")
    from fusion.streaming.captions import read_captions  # these need no torch
    from fusion.streaming.sources import arrivals, source_of

    found = source_of(source, pcm)
    if text and (found.is_live or found.is_folder):
        raise UserError(f"--text: captions belong to a file, and {found.name} is none")
    captions = read_captions(text) if text else None
    stack, profile = opened(bundle, encoder, confidence)
    given = pairs("--metadata", metadata)

    gc.disable()  # libraries allocate much and free nothing while they are imported: a second of start-up
    # these take seconds to import: help and mistakes should not wait for them
    from extract.media.damage import MediaError
    from fusion.serving.clips import known_metadata
    from fusion.serving.live import Predictor
    from fusion.serving.windows import cut_for
    from fusion.streaming.answering import Answering
    from fusion.streaming.showing import summary
    from fusion.streaming.speech import Ear
    from fusion.streaming.waiting import Waiting

    gc.freeze()
    gc.enable()
    ear = None if threshold is None else Ear(threshold)
    with ExitStack() as closing:
        predictor = closing.enter_context(Predictor(stack, profile, device, confidence, precision))
        is_timed = found.is_live or realtime
        answering = Answering(
            predictor, profile, known_metadata(given, predictor.fields), ear, smooth, is_timed, captions
        )
        cut, whole = cut_for(predictor, window, hop, ear is not None), cut_for(predictor, listen=ear is not None)
        if not cut.wanted:
            raise UserError(f"{stack.folder}: none of its heads reads sound or pictures: there is nothing to stream")
        predictor.load(("audio", "video"))
        write = _writer(closing, stack, as_json, out)
        waiting = Waiting(arrivals(found, cut, _note, whole), queue, found.is_live, realtime)
        closing.callback(waiting.stop)
        began = time.monotonic()
        try:
            while batch := waiting.take(1 if found.is_folder else BATCH):
                for line in answering.answer(batch):
                    write(line, waiting.dropped)
        except KeyboardInterrupt as stop:  # the way to end what has no end
            raise SystemExit(128 + next(iter(stop.args), signal.SIGINT)) from None
        except MediaError as error:
            died = f"{found.name}: {error}"
            raise UserError(died, exit_code=3 if answering.counts["windows"] else 2) from error
        finally:
            if answering.counts["windows"]:
                wall = time.monotonic() - began
                closing.callback(lambda: _note(summary(answering, waiting.dropped, wall)))


def _check(window: float, hop: float, smooth: float, queue: int, out: Path | None) -> None:
    if not 0.1 <= window <= 60:
        raise UserError(f"--window {window:g}: from 0.1 to 60 seconds")
    if not 0.05 <= hop <= window:
        raise UserError(
            f"--hop {hop:g}: from 0.05 seconds to --window ({window:g}): nothing is skipped between windows"
        )
    if not 0 <= smooth <= 3600:
        raise UserError(f"--smooth {smooth:g}: from 0 (not smoothed) to 3600 seconds")
    if not 1 <= queue <= 1000:
        raise UserError(f"--queue {queue}: from 1 to 1000 windows")
    if out and (out.suffix != ".jsonl" or not out.absolute().parent.is_dir()):
        raise UserError(f"--out {out}: name a .jsonl file in a folder that is there")
    if out and out.exists():
        raise UserError(f"--out {out}: it is there already: name another, or remove it")


def _threshold(vad: str) -> float | None:
    if vad == "off":
        return None
    try:
        threshold = float(vad)
    except ValueError:
        threshold = -1
    if not 0 < threshold < 1:
        raise UserError(f"--vad {vad}: a probability between 0 and 1, or off")
    return threshold


def _writer(stack: ExitStack, bundle: Bundle, as_json: bool, out: Path | None) -> Any:
    from fusion.streaming.showing import shown

    file: IO[str] | None = stack.enter_context(out.open("x", encoding="utf-8")) if out else None
    show = None if as_json else stack.enter_context(shown(bundle.classes))

    def write(line: dict[str, Any], dropped: int) -> None:
        text = json.dumps(line | {"dropped": dropped}, ensure_ascii=False)
        if file:
            print(text, file=file, flush=True)
        if show:
            show(line, dropped)
        else:
            print(text, flush=True)

    return write


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command(main)
