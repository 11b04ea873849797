"""What a decoder's child does in tests that it would not do of itself. Children import this by name."""

import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.media.decoding import MEMORY_BYTES
from extract.media.reading import Beat
from extract.media.tasks import AudioTask, Decoded, VideoTask


@dataclass(frozen=True)
class FaultyTask:
    """Does what the file's name says; a decoded clip holds the child's process id, and no file is read."""

    def decode(self, path: Path, beat: Beat) -> Decoded:
        match path.name:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "abort":
                os.abort()
            case "leave":
                os._exit(3)
            case "hang":
                signal.pause()
            case "memory":
                np.ones(MEMORY_BYTES, dtype=np.uint8)
            case "bug":
                return {}["no such key"]
            case "killed once" if not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "silent":
                time.sleep(1)
            case "slow":
                for _ in range(6):
                    time.sleep(0.4)
                    beat()
            case "torch":
                import sys

                assert not {"torch", "transformers", "polars", "pyarrow"} & set(sys.modules)
        return Decoded(1, 1, np.array([os.getpid()]))

    def stream(self, path: Path, beat: Beat) -> Iterator[Any]:
        for _ in range(40):  # more than fits between two processes
            yield np.full(1_000_000, os.getpid())


def peak_mib() -> float:
    """Most memory that this process ever had resident."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) / 1024


@dataclass(frozen=True)
class MeasuredAudio(AudioTask):
    """Streams what AudioTask does, and at the end the child's peak memory in MiB."""

    def stream(self, path: Path, beat: Beat) -> Iterator[Any]:
        yield from super().stream(path, beat)
        yield peak_mib()


@dataclass(frozen=True)
class MeasuredVideo(VideoTask):
    """Streams what VideoTask does, and at the end the child's peak memory in MiB."""

    def stream(self, path: Path, beat: Beat) -> Iterator[Any]:
        yield from super().stream(path, beat)
        yield peak_mib()
