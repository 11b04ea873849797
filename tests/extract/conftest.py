"""Tiny encoders, small media files, and the ways in that users take."""

import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import FURTHER, MODALITIES, WORDS, save_checkpoints
from media_tools import Load, Run, write_video
from s3_server import s3, server  # noqa: F401

from configs.command_line import command
from configs.schema import Encoder
from extract.encoders.encoder import LoadedEncoder
from extract.encoders.loading import LOADERS
from extract.run import main


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a tiny model of every family."""
    return save_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def load(checkpoints: Path) -> Load:
    """``load(checkpoint, **settings)``: the encoder, as a profile would have it loaded."""

    def build(name: str, model: Path | str | None = None, **settings: Any) -> LoadedEncoder:
        modality, family = (MODALITIES | FURTHER)[name]
        if family == "whisper":
            settings = {"window_seconds": 1, **settings}
        settings = {"family": family, "model": str(model or checkpoints / name), **settings}
        return LOADERS[modality](Encoder(**settings), torch.device("cpu"))  # type: ignore[index]

    return build


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Eight clips of each modality; some share their length and some do not."""
    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    clips: dict[str, list[Any]] = {"audio": [], "video": [], "text": []}
    for i, n_samples in enumerate([3200, 5000, 3200, 400, 9111, 5000, 3200, 16000]):
        clips["audio"].append(root / f"{i}.wav")
        with wave.open(str(clips["audio"][-1]), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes((rng.normal(scale=0.1, size=n_samples).clip(-1, 1) * 32767).astype("<i2").tobytes())
    for i, n in enumerate([6, 9, 4, 2, 12, 5, 1, 8]):
        clips["video"].append(root / f"{i}.mkv")
        noise = rng.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8).repeat(10, axis=1).repeat(10, axis=2)
        write_video(clips["video"][-1], noise, codec="ffv1", pixels="bgr0")
    for length in [3, 1, 3, 5, 8, 5, 3, 12]:
        clips["text"].append(" ".join(rng.choice(WORDS[5:18], length)))
    return clips


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(*arguments)``: extract/run.py's command line in this process; exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command(main)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call
