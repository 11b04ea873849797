"""Scores in words: as people read them, and as JSON takes them."""

import math
from collections.abc import Mapping
from typing import Any

PAPERS = {"balanced_accuracy": "UA", "accuracy": "WA", "weighted_f1": "weighted F1"}


def as_printed(folds: Mapping[str, Any]) -> str:
    """What :func:`by_fold` gave in a line, under the field's names, in percent: mean and standard deviation."""
    said = (f"{name} {100 * folds['mean'][key]:.1f} ± {100 * folds['std'][key]:.1f}" for key, name in PAPERS.items())
    return f"{', '.join(said)} % (mean and standard deviation of {len(folds['folds'])} folds)"


def interval(score: dict[str, float], spec: str = ".3f") -> str:
    """``[0.612, 0.704]``, or a dash where one group cannot give an interval."""
    return "[-]" if math.isnan(score["low"]) else f"[{score['low']:{spec}}, {score['high']:{spec}}]"


def shown(value: float, spec: str = ".3f") -> str:
    """A score, or ``none`` where there was no unit to score."""
    return "none" if math.isnan(value) else f"{value:{spec}}"


def without_nan(content: Any) -> Any:
    """NaN (an interval that one group cannot give, a class without a unit) becomes null: JSON has no NaN."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
