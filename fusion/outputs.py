"""What fusion leaves behind: predictions, metrics.json, headline.json, confusion.csv, summary.txt, the fitted model."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from fusion.metrics import SCORES, interval
from fusion.nested import RULE, Fusion
from fusion.predictions import write


def write_outputs(found: Fusion, folder: Path) -> str:
    """Write all but the pictures and the report into ``folder``; returns the summary that is to be printed."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "predictions.parquet", found.units, found.log_p[found.chosen])
    metrics = flat_metrics(found)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    (folder / "headline.json").write_text(json.dumps(headline(metrics), indent=1, allow_nan=False) + "\n")

    is_headline = found.units.splits == found.headline
    predicted = found.log_p[found.chosen][is_headline].argmax(axis=1)
    actual = found.units.where(is_headline).label_names
    pl.DataFrame({"actual": actual, "predicted": [found.units.classes[i] for i in predicted]}).write_csv(
        folder / "confusion.csv"
    )
    shutil.rmtree(folder / "model", ignore_errors=True)  # no trees of an earlier choice beside the new model
    found.fitted.save(folder / "model")
    inputs = {"heads": found.units.heads, "classes": found.units.classes}  # what the model's axes mean, in order
    (folder / "model" / "inputs.json").write_text(json.dumps(inputs, indent=1) + "\n")
    text = summary(found)
    (folder / "summary.txt").write_text(text + "\n", encoding="utf-8")
    return text


def flat_metrics(found: Fusion) -> dict[str, Any]:
    """``headline``, ``best_head``, ``gain_over_best_head``, ``majority``, ``heads`` and ``strategies``, for DVC."""
    by_split = {name: {split: _flat(score) for split, score in splits.items()} for name, splits in found.scores.items()}
    return {
        "headline": {"split": found.headline, "strategy": found.chosen, **by_split[found.chosen][found.headline]},
        "best_head": {"head": found.best_head, **by_split[f"head:{found.best_head}"][found.headline]},
        "gain_over_best_head": _scores(found.gains[found.best_head]),
        "majority": by_split["majority"],
        "heads": {head: by_split[f"head:{head}"] for head in found.units.heads},
        "strategies": {name: by_split[name] for name in found.strategies},
    }


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The few numbers that fit a line of ``dvc metrics show``: the fusion, the best head and the majority class."""
    split = metrics["headline"]["split"]
    rows = {"fused": metrics["headline"], "best_head": metrics["best_head"], "majority": metrics["majority"][split]}
    scores = {name: {score: row[score] for score in ("accuracy", "macro_f1")} for name, row in rows.items()}
    return {"split": split, "strategy": metrics["headline"]["strategy"], **scores}


def _flat(score: dict[str, Any]) -> dict[str, Any]:
    return _scores(score) | {name: score[name] for name in ("log_loss", "ece", "n_units", "n_groups")}


def _scores(score: dict[str, Any]) -> dict[str, float | None]:
    """``macro_f1``, ``macro_f1_low``, ``macro_f1_high``, ...; null where there is no interval."""
    flat = {}
    for name in SCORES:
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            value = score[name][part]
            flat[name + suffix] = None if math.isnan(value) else value
    return flat


def summary(found: Fusion) -> str:
    """The printed tables, one per split with the headline's first, and the notes."""
    width = max(len(display_name(name)) for name in found.scores) + 2
    lines = []
    for split in sorted(found.scores[found.chosen], key=lambda s: s != found.headline):
        score = found.scores[found.chosen][split]
        where = f"{split}: {score['n_units']} units in {score['n_groups']} groups"
        lines += [
            where + (" (cross-fitted)" if split == "oof" else "") + (", headline" if split == found.headline else ""),
            f"  {'':{width}}{'accuracy':>9}  {'macro-F1 (95 % interval)':<24}{'balanced acc.':>14}{'log-loss':>10}",
        ]
        for name, splits in found.scores.items():
            lines.append(_line(display_name(name), splits[split], width, name == found.chosen))
        lines.append("")
    lines.append(f"* {display_name(found.chosen)}: " + ("asked for" if found.forced else f"chosen by {RULE}"))
    lines += [f"- {note}" for note in found.notes]
    lines.append("")
    for head in found.units.heads:
        gain = found.gains[head]["macro_f1"]
        where = f"fused on {found.headline}: {gain['value']:+.3f} macro-F1"
        lines.append(f"{where} over head {head} {interval(gain, '+.3f')}")
    return "\n".join(lines)


def _line(name: str, score: dict[str, Any], width: int, is_chosen: bool) -> str:
    f1 = f"{score['macro_f1']['value']:.3f} {interval(score['macro_f1'])}"
    return (
        f"{'*' if is_chosen else ' '} {name:<{width}}{score['accuracy']['value']:>9.3f}  {f1:<24}"
        f"{score['balanced_accuracy']['value']:>14.3f}{score['log_loss']:>10.3f}"
    )


def display_name(name: str) -> str:
    return f"head {name.removeprefix('head:')}" if name.startswith("head:") else name
