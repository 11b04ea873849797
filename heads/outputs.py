"""What a trained head leaves behind: predictions, scores, and the folder that holds them."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from extract.manifest import Unit
from fusion.metrics import SCORES, evaluate, interval, majority
from heads.saved import TrainedHead, save_head

Predictions = dict[str, tuple[np.ndarray, np.ndarray]]  # split: indices of its units, log-probabilities (n, classes)


def prediction_table(
    predictions: Predictions,
    units: list[Unit],
    folds: np.ndarray,
    classes: tuple[str, ...],
) -> pl.DataFrame:
    """predictions.parquet as in docs/design.md; logits are log-probabilities."""
    parts = []
    for split, (indices, log_p) in predictions.items():
        chosen = [units[i] for i in indices]
        columns: dict[str, Any] = {
            "unit_id": [unit.unit_id for unit in chosen],
            "split": [split] * len(chosen),
            "fold": pl.Series([int(folds[i]) if split == "oof" else None for i in indices], dtype=pl.Int32),
            "label": [unit.label for unit in chosen],
            "group": [unit.group for unit in chosen],
        }
        columns |= {f"p_{name}": np.exp(log_p[:, i]) for i, name in enumerate(classes)}
        columns |= {f"logit_{name}": log_p[:, i] for i, name in enumerate(classes)}
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def score(predictions: Predictions, units: list[Unit], classes: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Each split's scores, with the majority class's beside them."""
    trained_on = [units[i].label for i in predictions["oof"][0]]
    result = {}
    for split, (indices, log_p) in predictions.items():
        labels, groups = [units[i].label for i in indices], [units[i].group for i in indices]
        result[split] = evaluate(labels, np.exp(log_p), classes, groups, seed=seed)
        result[split]["majority_class"] = majority(trained_on, labels, classes, groups, seed=seed)
    return result


def write_outputs(path: Path, table: pl.DataFrame, files: dict[str, Any], trained: TrainedHead) -> None:
    """Publish the head's folder by renaming: a killed run leaves the old one, or none, never half of one."""
    fresh, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_head(trained, fresh / "model")
    table.write_parquet(fresh / "predictions.parquet")
    for name, content in files.items():
        text = json.dumps(_without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
        (fresh / name).write_text(text + "\n", encoding="utf-8")
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _without_nan(content: Any) -> Any:
    """NaN (an interval that one group cannot give) becomes null: JSON has no NaN."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def summary(scores: dict[str, Any], title: str) -> str:
    """A table: a row per split, and one for the majority class below it."""
    lines = [title, f"{'':<16}{'units':>7}" + "".join(f"{name:>26}" for name in SCORES)]
    for split, result in scores.items():
        for row, values in ((split, result), ("  majority", result["majority_class"])):
            cells = [f"{values[name]['value']:.3f} {interval(values[name])}" for name in SCORES]
            lines.append(f"{row:<16}{values['n_units']:>7}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
