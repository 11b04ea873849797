"""``benchmarks/gpu.py``: one section's failure costs one section, and no figure is lost; tried without a card."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from shells import REPOSITORY, shell_in

from configs import UserError


def test_what_fails_is_kept_beside_what_was_found(tmp_path: Path) -> None:
    from benchmarks.on_gpu.report import Notes, Report

    notes = Notes(tmp_path / "figures.json")
    notes.add("fast | slow, clips/s", 12_345.6)

    def lacking() -> float:
        raise ModuleNotFoundError("No module named\n'torchcodec'")

    notes.attempt("decoder, frames/s", lacking)
    kept = json.loads((tmp_path / "figures.json").read_text())  # before the section has ended
    why = "failed: ModuleNotFoundError: No module named 'torchcodec'"
    assert kept == {"fast | slow, clips/s": 12_345.6, "decoder, frames/s": why}

    report = Report({"card": "Card 9000"})
    report.add("audio", 3.21, "stopped after 3 s", kept)
    report.add("text", 1.0, None, {"equal": True, "ratio": 0.5})
    report.write(tmp_path / "gpu.json")
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["sections"]["audio"] == {"seconds": 3.2, "failed": "stopped after 3 s", "figures": kept}
    assert "random weights" in written["note"]
    assert [line.split() for line in report.lines("text")[1:]] == [["equal", "yes"], ["ratio", "0.5"]]
    assert report.lines("audio")[-1] == "  FAILED: stopped after 3 s"
    page = report.markdown()
    assert page.startswith("# Measured on a GPU: Card 9000\n")
    assert "| fast \\| slow, clips/s | 12,346 |\n" in page
    assert f"| decoder, frames/s | {why} |" in page
    assert "**Failed: stopped after 3 s**" in page


def test_a_section_runs_without_a_card(tmp_path: Path) -> None:
    from benchmarks.gpu import Setting
    from benchmarks.on_gpu.encoding import measure
    from benchmarks.on_gpu.report import Notes

    notes = Notes(tmp_path / "figures.json")
    measure(Setting("cpu", True, tmp_path, 1), notes, "text")
    assert 0 < notes.figures["program, bfloat16, share of the pass in which the encoder is busy"] <= 1  # type: ignore[operator]
    assert notes.figures["what limits, in bfloat16"]
    assert not [label for label, value in notes.figures.items() if str(value).startswith("failed")]


def test_a_section_that_takes_too_long_costs_itself(tmp_path: Path) -> None:
    line = (
        f"python {REPOSITORY}/benchmarks/gpu.py --device cpu --tiny --sections audio --minutes 0.02 --markdown gpu.md"
    )
    done = shell_in(tmp_path)(line, code=1)
    section: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())["sections"]["audio"]
    assert section["failed"].startswith("stopped after 1 s")
    assert "sections that failed: audio" in done.stdout
    assert "**Failed: stopped after 1 s" in (tmp_path / "gpu.md").read_text()


def test_sections_are_known_and_a_card_is_not_made_up(tmp_path: Path) -> None:
    from benchmarks.gpu import about

    done = shell_in(tmp_path)(f"python {REPOSITORY}/benchmarks/gpu.py --sections audi", code=2)
    assert "--sections: no section 'audi'; there are: tests, audio, text" in done.stderr
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda: torch sees no CUDA device here"):
            about("cuda", False, 1)
