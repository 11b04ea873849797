"""What an audit leaves behind: a verdict for each check, as JSON, as text and as a table to print."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cache import publish_folder

Verdict = Literal["pass", "warn", "fail", "skipped"]
BY_SEVERITY: tuple[Verdict, ...] = ("fail", "warn", "skipped", "pass")
FORMAT = 1  # of audit.json; raised when a key changes its meaning
WIDTH = 110


@dataclass(frozen=True)
class Check:
    """One question about leaks, its answer, and the number that the answer rests on."""

    name: str  # stable, with dots: overlap.text.splits
    verdict: Verdict
    number: float | None  # what was measured
    threshold: float | None  # ``number`` above it fails; None where the verdict rests on more than the number
    text: str  # one sentence, for a stranger
    examples: list[str] = field(default_factory=list)  # a few offenders
    details: dict[str, Any] = field(default_factory=dict)


def skipped(name: str, why: str) -> Check:
    return Check(name, "skipped", None, None, why)


def worst(checks: Sequence[Check]) -> Verdict:
    """The gravest verdict; skipped checks count where there are no others."""
    order: tuple[Verdict, ...] = ("fail", "warn", "pass", "skipped")
    return min((check.verdict for check in checks), key=order.index)


def write_audit(folder: Path, checks: Sequence[Check], about: dict[str, Any]) -> None:
    """Publish a folder with ``audit.json`` and ``audit.txt``; same checks, same bytes."""
    content = {"format": FORMAT, **about, "verdict": worst(checks), "checks": [asdict(check) for check in checks]}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)

    def write(fresh: Path) -> None:
        (fresh / "audit.json").write_text(text + "\n", encoding="utf-8")
        (fresh / "audit.txt").write_text(report(checks, about), encoding="utf-8")

    publish_folder(folder, write)


def table(checks: Sequence[Check]) -> str:
    """A line per check: verdict, name, number and threshold."""
    width = max(len(check.name) for check in checks)
    lines = [f"{'verdict':<8} {'check':<{width}} {'number':>8} {'fails above':>12}"]
    lines += [
        f"{check.verdict.upper():<8} {check.name:<{width}} {_number(check.number):>8} {_number(check.threshold):>12}"
        for check in checks
    ]
    return "\n".join(lines)


def report(checks: Sequence[Check], about: dict[str, Any]) -> str:
    """audit.txt: the table, then the sentence and the examples of each check, the gravest first."""
    lines = [f"Leak audit of profile {about['profile']}: {worst(checks)}", "", table(checks)]
    for verdict in BY_SEVERITY:
        for check in (check for check in checks if check.verdict == verdict):
            lines += ["", f"{verdict.upper()}  {check.name}", f"  {check.text}"]
            lines += [f"    {_short(example)}" for example in check.examples]
    lines += ["", f"manifest {about['manifest']['path']}, sha256 {about['manifest']['sha256']}; seed {about['seed']}"]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
