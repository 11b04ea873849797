"""What a trained head leaves behind: predictions, scores, summary, curves, logs, and the folder that holds them."""

import json
import logging
import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import typer
import yaml

from cache import parquet_bytes, publish_folder
from configs.schema import Head, Profile
from extract.corpora.manifest import Unit
from heads.data.folds import Record
from heads.data.standardised import said_of as said_of_centring
from heads.fitting.curves import by_model, draw_curves, mean_curve, step_of
from heads.fitting.saved import TrainedHead, save_head
from heads.metrics.confusions import SCORES
from heads.metrics.printed import as_printed, interval, shown, without_nan
from heads.metrics.scores import by_fold, difference, evaluate, majority
from heads.pretraining.folder import said_of as said_of_pretraining

Predictions = dict[str, tuple[np.ndarray, np.ndarray]]  # split: indices of its units, log-probabilities (n, classes)
NO_BASELINE = "no baseline: the head reads neither a store nor metadata, or a fold's training units are of one class"


@dataclass(frozen=True)
class Baseline:
    """What a head must beat, as a head of its own; ``table`` is its prediction table."""

    trained: TrainedHead
    predictions: Predictions
    table: pl.DataFrame


@dataclass(frozen=True)
class Outcome:
    """All that a training ends with."""

    profile: Profile
    trained: TrainedHead
    table: pl.DataFrame  # see prediction_table
    baseline: Baseline | None
    scores: dict[str, Any]  # see score
    history: list[Record]  # of all models, each record with ``fold`` and ``seed``
    notes: list[str]  # what a reader of the scores must know of the inputs
    privileged: bool  # whether it reads fields derived from the label
    transductive: str | None  # what of it has read unlabelled clips of those who are judged
    seconds: float


def prediction_table(
    predictions: Predictions,
    units: list[Unit],
    folds: np.ndarray,
    classes: tuple[str, ...],
    has_input: np.ndarray,
) -> pl.DataFrame:
    """predictions.parquet as in docs/design.md; logits are log-probabilities. ``has_input`` (units,) is a column."""
    parts = []
    for split, (indices, log_p) in predictions.items():
        chosen = [units[i] for i in indices]
        columns: dict[str, Any] = {
            "unit_id": [unit.unit_id for unit in chosen],
            "split": [split] * len(chosen),
            "fold": pl.Series([int(folds[i]) if split == "oof" else None for i in indices], dtype=pl.Int32),
            "label": [unit.label for unit in chosen],
            "group": [unit.group for unit in chosen],
            "has_input": has_input[indices],
        }
        columns |= {f"p_{name}": np.exp(log_p[:, i]) for i, name in enumerate(classes)}
        columns |= {f"logit_{name}": log_p[:, i] for i, name in enumerate(classes)}
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def score(
    predictions: Predictions,
    baseline: Predictions | None,
    units: list[Unit],
    folds: np.ndarray,
    classes: tuple[str, ...],
    seed: int,
) -> dict[str, Any]:
    """Each split's scores, with those of the majority class and of the baseline beside them; those of oof by fold, too.

    Where there is a baseline, ``over_baseline`` is how much higher the head's scores are, with paired intervals.
    ``folds`` (units,) is -1 outside the training split.
    """
    trained_on = [units[i].label for i in predictions["oof"][0]]
    result = {}
    for split, (indices, log_p) in predictions.items():
        labels, groups = [units[i].label for i in indices], [units[i].group for i in indices]
        result[split] = evaluate(labels, np.exp(log_p), classes, groups, seed=seed)
        result[split]["majority_class"] = majority(trained_on, labels, classes, groups, seed=seed)
        if baseline is not None:
            simple = np.exp(baseline[split][1])
            result[split]["baseline"] = evaluate(labels, simple, classes, groups, seed=seed)
            result[split]["over_baseline"] = difference(labels, np.exp(log_p), simple, classes, groups, seed=seed)
    oof, log_p = predictions["oof"]
    labels = [units[i].label for i in oof]
    result["oof"]["by_fold"] = by_fold(labels, np.exp(log_p), classes, folds[oof].tolist())
    return result


def write_outputs(path: Path, outcome: Outcome) -> None:
    """Publish the head's folder: whoever reads it finds the former one or the new one. Raises StoreError."""
    publish_folder(path, partial(_write_into, outcome=outcome))


def layers_read(trained: TrainedHead) -> dict[str, list[dict[int, float]]]:
    """Input whose store has several layers: what each of them counts, in each model; those that are not read are left
    out."""
    found: dict[str, list[dict[int, float]]] = {}
    for model in (model for of_fold in trained.models for model in of_fold):
        for name, weights in getattr(model, "layers", {}).items():
            found.setdefault(name, []).append(weights)
    return found


def views_learned(outcome: Outcome) -> dict[str, int]:
    """Input: how many augmented views of a training clip were learned from; those without any are left out."""
    head, encoders = outcome.trained.settings, outcome.profile.encoders
    views = {name: encoders[name].views for name in head.stores if head.views == "all"}
    return {name: n for name, n in views.items() if n}


def _write_into(folder: Path, outcome: Outcome) -> None:
    save_head(outcome.trained, folder / "model")
    (folder / "model" / "profile.yaml").write_text(resolved(outcome.profile), encoding="utf-8")
    (folder / "predictions.parquet").write_bytes(parquet_bytes(outcome.table))
    if outcome.baseline is not None:
        save_head(outcome.baseline.trained, folder / "baseline" / "model")
        (folder / "baseline" / "predictions.parquet").write_bytes(parquet_bytes(outcome.baseline.table))
    else:  # a pipeline's output must be there
        (folder / "baseline").mkdir()
        (folder / "baseline" / "none.txt").write_text(NO_BASELINE + "\n", encoding="utf-8")
    says = {"privileged": outcome.privileged, "transductive": outcome.transductive, "notes": outcome.notes}
    layers = layers_read(outcome.trained)
    views = views_learned(outcome)
    metrics = says | ({"layers": layers} if layers else {}) | ({"views": views} if views else {}) | outcome.scores
    files = {"metrics.json": metrics, "training_history.json": outcome.history}
    for name, content in (files | {"headline.json": headline_scores(outcome.scores)}).items():
        text = json.dumps(without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    (folder / "summary.txt").write_text(summary(outcome), encoding="utf-8")
    draw_curves(outcome.history, title(outcome), folder / "curves.png")
    write_live(folder / "live", outcome)


def headline_scores(scores: dict[str, Any]) -> dict[str, dict[str, float]]:
    """headline.json, which ``dvc metrics show`` prints as a row: the head's scores out of fold and on test (where there
    is none, on val), and the baseline's macro-F1 beside them."""
    found = {}
    for split in ("oof", "test" if "test" in scores else "val"):
        if result := scores.get(split):
            found[split] = {name: result[name]["value"] for name in ("accuracy", "macro_f1")}
            if simple := result.get("baseline"):
                found[split]["baseline_macro_f1"] = simple["macro_f1"]["value"]
    return found


def resolved(profile: Profile) -> str:
    """The profile with every setting that it uses, defaults too, as YAML that ``configs.profiles.load`` reads."""
    return yaml.safe_dump(profile.resolved(), sort_keys=False, allow_unicode=True)


def write_live(folder: Path, outcome: Outcome) -> None:
    """DVCLive's files: means over all models at every epoch that all reached, then the scores.

    Nothing is sent anywhere, whatever DVC is configured to, and no repository is looked for: one without a commit
    would end the training, and in one that DVC does not know it would make itself at home. Without DVCLive, as on a
    machine that only computes, there are none, and that is said.
    """
    os.environ["DVC_STUDIO_OFFLINE"] = "true"
    try:
        from dvclive import Live  # a second to import
    except ModuleNotFoundError:
        typer.echo("warning: dvclive is not installed: the head is whole, but has no live/", err=True)
        return

    class Apart(Live):
        def _init_dvc(self) -> None: ...

    logging.getLogger("dvclive").setLevel(logging.ERROR)
    runs = by_model(outcome.history)
    names = [name for name in ("train_loss", "inner_loss", "inner_macro_f1") if name in outcome.history[0]]
    curves = {name: mean_curve(list(runs.values()), name) for name in names}
    with Apart(str(folder), save_dvc_exp=False, report=None, dvcyaml=None) as live:
        for step in range(min((len(curve) for curve in curves.values()), default=0)):
            live.step = step
            for name, curve in curves.items():
                live.log_metric(name, curve[step])
        for split, result in outcome.scores.items():
            for score_name in SCORES:
                live.log_metric(f"{split}/{score_name}", result[score_name]["value"], plot=False)


def transductive_of(profile: Profile, head: Head) -> str | None:
    """What of a head is transductive, for titles and ``metrics.json``. Raises UserError, StoreError."""
    parts = [said_of_centring(head), said_of_pretraining(profile, head)]
    return "; ".join(part for part in parts if part) or None


def title(outcome: Outcome) -> str:
    says = " (PRIVILEGED: reads fields derived from the label)" if outcome.privileged else ""
    says += f" (TRANSDUCTIVE: {outcome.transductive})" if outcome.transductive else ""
    return f"head {outcome.trained.name} of profile {outcome.profile.name}{says}"


def headline(outcome: Outcome) -> str:
    """What is printed: a table with a row per split, the majority class and the baseline below each, and a verdict."""
    lines = [title(outcome), *(f"! {note}" for note in outcome.notes)]
    lines += [f"{'':<16}{'units':>7}" + "".join(f"{name:>26}" for name in SCORES)]
    for split, result in outcome.scores.items():
        rows = {split: result, "  majority": result["majority_class"], "  baseline": result.get("baseline")}
        for row, values in rows.items():
            if values is not None:
                cells = [f"{values[name]['value']:.3f} {interval(values[name])}" for name in SCORES]
                lines.append(f"{row:<16}{values['n_units']:>7}" + "".join(f"{cell:>26}" for cell in cells))
    trained = outcome.trained
    said = verdict(outcome.scores["oof"].get("over_baseline"), trained.name, trained.settings.kind)
    return "\n".join([*lines, f"out of fold: {as_printed(outcome.scores['oof']['by_fold'])}", said])


def verdict(over_baseline: dict[str, dict[str, float]] | None, name: str, kind: str) -> str:
    """One honest line: whether the head beats the baseline out of fold, and what to try where it is worse."""
    if over_baseline is None:
        return NO_BASELINE
    gain = over_baseline["macro_f1"]
    if math.isnan(gain["low"]):
        return f"out of fold macro-F1 {gain['value']:+.3f} against the baseline, of too few groups to be tested"
    numbers = f"macro-F1 {gain['value']:+.3f} {interval(gain, '+.3f')}"
    if gain["low"] > 0:
        return f"out of fold it beats the baseline: {numbers}"
    if gain["high"] < 0:
        attempt = f": try heads.{name}.kind=linear" if kind != "linear" else ""
        return f"out of fold it is WORSE than the baseline, {numbers}{attempt}"
    return f"out of fold neither it nor the baseline is clearly better: {numbers}"


def summary(outcome: Outcome) -> str:
    """summary.txt: what was read, how it was trained, all scores."""
    profile, trained, head = outcome.profile, outcome.trained, outcome.trained.settings
    fields = ", ".join(head.metadata) or "none"
    lines = [
        headline(outcome),
        "",
        f"kind {head.kind}; {len(trained.models)} folds, {len(trained.models[0])} model(s) each; seed {profile.seed}; "
        f"this run took {outcome.seconds:.1f} s",
        f"manifest  {profile.manifest_path}",
        *(
            f"{name:<9} {profile.store_path(name)}, fingerprint {about['fingerprint']}"
            for name, about in trained.stores.items()
        ),
        f"metadata  {fields}",
        *(f"{name:<9} {n} augmented views of each training clip, too" for name, n in views_learned(outcome).items()),
        *([f"begins at {profile.pretrained_path(head.start_from)}"] if head.start_from else []),
        "",
        f"{'F1 by class':<28}" + "".join(f"{split:>14}" for split in outcome.scores),
    ]
    for name in trained.classes:
        cells = [result["per_class"][name] for result in outcome.scores.values()]
        lines.append(f"{name[:27]:<28}" + "".join(f"{shown(cell['f1']):>8}{cell['support']:>6}" for cell in cells))
    lines += ["(F1, and the number of units of the class; none: the split has none. Macro-F1 is over the classes that"]
    lines += [" occur among a split's labels or answers, and one that only answers have counts as 0.)", "", "kept"]
    for (fold, seed), records in by_model(outcome.history).items():
        model = f"fold {fold}" + (f", seed {seed}" if seed else "")
        best = next(record for record in records if record["best"])
        values = [f"{step_of(best)} {best[step_of(best)]}"]
        values += [f"{name} {best[name]:.3f}" for name in ("inner_macro_f1", "inner_loss") if name in best]
        values += [str(best["read"])] if "read" in best else []
        if "letters" in best:
            values.append("words and their letters" if best["letters"] else "words")
        if "share" in best:
            correction = f"{best['share']:g} of the network's correction"
            values.append(correction if best["share"] else "the linear base alone")
        lines.append(f"  {model:<18}{', '.join(values)}, of {len(records)}")
    for name, models in layers_read(trained).items():
        numbers = sorted({number for weights in models for number in weights})
        lines += ["", f"layers of {name}: mean weight (lowest and highest) over {len(models)} models"]
        for number in numbers:
            each = [weights.get(number, 0.0) for weights in models]
            lines.append(f"  layer {number:<12}{sum(each) / len(each):.3f} ({min(each):.3f} - {max(each):.3f})")
    return "\n".join(lines) + "\n"
