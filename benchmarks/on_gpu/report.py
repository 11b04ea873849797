"""What the sections find: on disk from the first figure on, then a table, and Markdown for ``docs/gpu.md``."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs import UserError, one_line

Figure = float | str | bool
FAULTS = (UserError, RuntimeError, ImportError, AttributeError, OSError, TypeError, ValueError)  # what attempts end in
RANDOM = "Networks are of base size with random weights: speeds and memory only."


@dataclass
class Notes:
    """A section's figures by what they say; each is in the file at once: a section that is killed loses none."""

    path: Path
    figures: dict[str, Figure] = field(default_factory=dict)

    def add(self, label: str, value: Figure) -> None:
        self.figures[label] = value
        write_json(self.path, self.figures)

    def attempt(self, label: str, find: Callable[[], Figure]) -> None:
        """Add what ``find`` gives; where it cannot, why not: what is lacking here costs one line."""
        try:
            self.add(label, find())
        except FAULTS as error:
            self.add(label, f"failed: {type(error).__name__}: {one_line(error, 200)}")


@dataclass
class Report:
    """``about``: card, date, versions. ``sections``: by name ``seconds``, ``failed`` (None or why), ``figures``."""

    about: dict[str, Figure] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, seconds: float, failed: str | None, figures: dict[str, Figure]) -> None:
        self.sections[name] = {"seconds": round(seconds, 1), "failed": failed, "figures": figures}

    def write(self, path: Path) -> None:
        write_json(path, {"note": RANDOM, "about": self.about, "sections": self.sections})

    def lines(self, name: str) -> list[str]:
        """A section as plain text."""
        section = self.sections[name]
        lines = [f"{name} ({section['seconds']:.0f} s)"]
        lines += [f"  {label:<66} {shown(value)}" for label, value in section["figures"].items()]
        return [*lines, *([f"  FAILED: {section['failed']}"] if section["failed"] else [])]

    def markdown(self) -> str:
        """Everything, as a page."""
        card = self.about.get("card", "unknown")
        parts = [f"# Measured on a GPU: {card}", f"Written by `make gpu`. {RANDOM}"]
        parts.append(_table(("", ""), self.about))
        for name, section in self.sections.items():
            parts.append(f"## {name}")
            if section["failed"]:
                parts.append(f"**Failed: {section['failed']}**")
            if section["figures"]:
                parts.append(_table(("what", "measured"), section["figures"]))
        return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, str], figures: dict[str, Figure]) -> str:
    rows = [(_cell(label), _cell(shown(value))) for label, value in figures.items()]
    return "\n".join(f"| {left} | {right} |" for left, right in [head, ("---", "---"), *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def shown(value: Figure) -> str:
    """A figure with as many digits as say something."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1e}"


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)
