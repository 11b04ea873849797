"""Everything that has a CUDA branch, run once on a card: ``make gpu``, or ``python3 benchmarks/gpu.py``.

Under eight minutes, what is worth most first. Each section is a process of its own with a time limit: one that fails
costs one section. ``--device cpu --tiny`` tries all of it without a card, where no figure means anything.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(path for path in sys.path if not path.endswith("benchmarks"))]  # extract.py is there, too

from benchmarks.on_gpu.report import Notes, Report
from configs import UserError
from configs.command_line import command

MINUTES = 7.8  # of the whole
PACKAGES = ("torch", "transformers", "numpy", "av", "polars", "scikit-learn")


@dataclass(frozen=True)
class Setting:
    """Where and how large a section runs; ``folder`` is its own."""

    device: str
    tiny: bool
    folder: Path
    workers: int


# name: (module, function, what else it is given, seconds it may take); what is worth most comes first
SECTIONS: dict[str, tuple[str, str, tuple[Any, ...], int]] = {
    "tests": ("whole", "run_tests", (), 100),
    "audio": ("encoding", "measure", ("audio",), 80),
    "text": ("encoding", "measure", ("text",), 60),
    "video": ("encoding", "measure", ("video",), 90),
    "heads": ("training", "measure_heads", (), 100),
    "pipeline": ("whole", "run_pipeline", (), 100),
    "fine_tuning": ("training", "measure_fine_tuning", (), 80),
    "decoding": ("decoding", "measure", (), 50),
    "kernels": ("kernels", "measure", (), 90),
}


def main(
    sections: Annotated[str | None, typer.Option(help="Some of them, separated by commas. Default: all.")] = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the command itself.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="As small as goes: no figure then means anything.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Decoders.")] = os.cpu_count() or 1,
    minutes: Annotated[float, typer.Option(min=0.01, help="For all of it.")] = MINUTES,
    out: Annotated[Path, typer.Option(help="The figures as JSON, written after each section.")] = Path("gpu.json"),
    markdown: Annotated[Path | None, typer.Option(help="The same as a page, such as docs/gpu.md.")] = None,
    inside: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the CUDA tests and measure extraction, heads, fine-tuning, decoding and the pipeline on this machine's card.

    Ends with exit code 1 where a section failed; what the others found is written all the same.
    """
    names = list(SECTIONS) if sections is None else sections.split(",")
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"--sections: no section {name!r}; there are: {', '.join(SECTIONS)}")
    if inside is not None:
        module, function, more, _ = SECTIONS[names[0]]
        measure = getattr(import_module(f"benchmarks.on_gpu.{module}"), function)
        measure(Setting(device, tiny, inside, workers), Notes(inside / "figures.json"), *more)
        return
    report = Report(about(device, tiny, workers))
    end = time.monotonic() + 60 * minutes
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            limit = min(SECTIONS[name][3] * (3 if device == "cpu" else 1), end - time.monotonic())
            options = ["--device", device, "--workers", str(workers), *(["--tiny"] if tiny else [])]
            started = time.monotonic()
            failed = "no time was left for it" if limit < 1 else run_section(name, options, Path(folder), limit)
            figures = Path(folder) / "figures.json"
            found = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else {}
            report.add(name, time.monotonic() - started, failed, found)
        report.write(out)
        if markdown is not None:
            markdown.write_text(report.markdown(), encoding="utf-8")
        print("\n".join(report.lines(name)), flush=True)
    failures = [name for name in names if report.sections[name]["failed"]]
    print(f"figures: {out}; sections that failed: {', '.join(failures) or 'none'}")
    if failures:
        raise typer.Exit(1)


def run_section(name: str, options: list[str], folder: Path, limit: float) -> str | None:
    """A section in a process of its own; None, or why it failed."""
    line = [sys.executable, str(Path(__file__)), "--sections", name, "--inside", str(folder), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (folder / "said.txt").open("w+") as said:
        child = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s; what it had found stands here"
        finally:
            end_group(child)
        said.seek(0)
        lines = [each for each in said.read().splitlines() if each.strip()]
    if code == 0:
        return None
    print("\n".join(lines[-25:]), file=sys.stderr)
    return f"exit code {code}: {lines[-1].strip()[:300] if lines else 'it said nothing'}"


def end_group(child: "subprocess.Popen[Any]") -> None:
    """What a section has started must not take the next one's memory and cores."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def about(device: str, tiny: bool, workers: int) -> dict[str, Any]:
    """The card, the day, and the versions of what decides speed."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; to try the command itself: --device cpu --tiny")
    card = torch.cuda.get_device_name() if device.startswith("cuda") else "none (CPU)"
    found: dict[str, Any] = {
        "card": card,
        "date": datetime.now(UTC).date().isoformat(),
        "CUDA": str(torch.version.cuda),
    }
    found |= {"python": sys.version.split()[0], "cores": os.cpu_count(), "decoders": workers}
    if device.startswith("cuda"):
        found["memory, GB"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | ({"tiny": "yes: these figures mean nothing"} if tiny else {})


if __name__ == "__main__":
    command(main)
