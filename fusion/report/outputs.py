"""What fusion leaves behind: predictions, metrics.json, headline.json, confusion.csv, summary.txt, the fitted model."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from configs.tables import plain
from fusion.report.doubt import said_of_sets, sets_of
from fusion.report.findings import Findings, Gate, Row, Weight
from fusion.report.significance import LEVEL
from fusion.strategies.catalogue import save
from fusion.strategies.choice import BASELINE, HEAD, NAMES
from fusion.strategies.conformal import save_sets
from fusion.strategies.nested import Fusion
from fusion.strategies.speakers import SAVED, save_centred
from fusion.tables.predictions import write
from heads.metrics.confusions import SCORES
from heads.metrics.intervals import TESTABLE_GROUPS
from heads.metrics.printed import PAPERS, as_printed, interval, without_nan
from heads.metrics.scores import by_fold

PLAIN = "plain heads"  # the row of the chosen strategy without centring


def write_outputs(found: Fusion, folder: Path, findings: Findings) -> str:
    """Write all but the pictures and the report into a new folder; returns the summary that is to be printed."""
    write(folder / "predictions.parquet", found.units, found.log_p[found.chosen])
    metrics = all_metrics(found, findings)
    (folder / "metrics.json").write_text(_json(metrics), encoding="utf-8")
    (folder / "headline.json").write_text(_json(headline(metrics)), encoding="utf-8")

    is_headline = found.units.splits == found.headline
    predicted = found.log_p[found.chosen][is_headline].argmax(axis=1)
    actual = [plain(name) for name in found.units.where(is_headline).label_names]
    confusion = pl.DataFrame({"actual": actual, "predicted": [plain(found.units.classes[i]) for i in predicted]})
    (folder / "confusion.csv").write_text(confusion.write_csv(), encoding="utf-8")
    save((found.plain or found).fitted, folder / "model")
    save_sets(sets_of(found.units, found.plain.log_p if found.plain else found.log_p[found.chosen]), folder / "model")
    if found.plain:
        save_centred(found, folder / "model")
        save_sets(sets_of(found.units, found.log_p[found.chosen]), folder / "model" / SAVED)
    # what the model's axes mean, in order, and whose plain baselines it reads
    alone = [found.chosen.removeprefix(BASELINE)] if found.chosen.startswith(BASELINE) else []
    inputs = {"heads": found.units.heads, "classes": found.units.classes, "baselines": alone}
    (folder / "model" / "inputs.json").write_text(_json(inputs), encoding="utf-8")
    text = summary(found, findings)
    (folder / "summary.txt").write_text(text + "\n", encoding="utf-8")
    return text


def all_metrics(found: Fusion, findings: Findings) -> dict[str, Any]:
    """metrics.json: all that the report says, with keys that stay.

    A *score* is ``macro_f1, macro_f1_low, macro_f1_high``, the same of ``accuracy``, ``balanced_accuracy`` and
    ``weighted_f1``, and ``log_loss, ece, classwise_ece, n_units, n_groups``. What cannot be known is null.

    - ``headline``: ``split``, ``strategy`` (``head:NAME``, ``baseline:NAME``: fell back to that head, or to its plain
      baseline), ``transductive``, and a score
    - ``choice``: ``strategy``, ``rule``, ``judged_on`` (a split), ``forced``, ``fell_back``, ``transductive`` (what
      is), ``notes``, ``warnings``
    - ``plain``: null, or where heads were centred, by split the score of the same strategy on plain heads, which
      answers for a clip by itself
    - ``decision``: ``tau``, the ``metric`` that chose it, and by split what a score holds of classes, were they named
      by ``argmax (log p - tau log prior)``; all other numbers are of the plain answers
    - ``best_head``: ``head``, and a score on the headline split; ``best_baseline``: the same of a plain baseline, null
      where there is none
    - ``gain_over_best_head``, ``gain_over_best_baseline``: differences, with intervals, as in a score
    - ``majority``, ``heads.HEAD``, ``baselines.HEAD``, ``strategies.STRATEGY``: by split, a score
    - ``by_fold``: of each head and of the choice: ``folds`` (``fold``, ``n_units`` and the scores of each one), and
      their ``mean`` and ``std``; out of fold, what was fused cross-fitted
    - ``optimism``: of each head and baseline, and of the choice: ``candidate, split, oof, held`` (``accuracy`` and
      ``macro_f1`` on both), ``p`` (adjusted) and ``verdict``: whether out-of-fold scores flatter
    - ``confidence``: how often sets of classes hold the true one, and how large they are: :func:`doubt.measured`
    - all of the headline split: ``significance`` (``against``, and by candidate ``macro_f1`` and ``accuracy`` with
      ``value, low, high, p``, and ``mcnemar`` with ``gained, lost, p``; ``p_holm`` is adjusted over all candidates),
      ``confusion`` and ``per_class`` (of ``fusion`` and ``best_head``), ``calibration`` (``heads.HEAD`` and
      ``fusion``: ``before`` and ``after``, each with ``ece, classwise_ece, bins``; ``temperatures``),
      ``where_heads_win`` (``classes.CLASS``, by F1, and ``subgroups.FIELD.VALUE``, by macro-F1: ``units, fusion,
      low, high, heads, best``), ``gate_weights`` (null without attention; ``overall.HEAD`` and
      ``by_predicted_class.CLASS``: ``mean, std``), ``mistakes`` (the most confident ones)
    """
    by_split = {name: {split: _flat(score) for split, score in splits.items()} for name, splits in found.scores.items()}
    best = f"{HEAD}{found.best_head}"
    shown = {"fusion": found.scores[found.chosen][found.headline], "best_head": found.scores[best][found.headline]}
    return {
        "headline": {
            "split": found.headline,
            "strategy": found.chosen,
            "transductive": bool(found.transductive),
            **by_split[found.chosen][found.headline],
        },
        "choice": {
            "strategy": found.chosen,
            "rule": found.rule,
            "judged_on": found.judged_on,
            "forced": found.forced,
            "fell_back": fell_back(found),
            "transductive": found.transductive,
            "notes": found.notes,
            "warnings": found.warnings,
        },
        "decision": {
            "tau": found.decision.tau,
            "metric": found.decision.metric,
            **{split: _scores(score) for split, score in found.decision.scores.items()},
        },
        "plain": {split: _flat(score) for split, score in found.plain.scores.items()} if found.plain else None,
        "best_head": {"head": found.best_head, **by_split[best][found.headline]},
        "best_baseline": {"head": found.best_baseline, **by_split[f"{BASELINE}{found.best_baseline}"][found.headline]}
        if found.best_baseline is not None
        else None,
        "gain_over_best_head": _scores(found.gains[found.best_head]),
        "gain_over_best_baseline": None if findings.over_baseline is None else _scores(findings.over_baseline),
        "majority": by_split["majority"],
        "heads": {head: by_split[f"{HEAD}{head}"] for head in found.units.heads},
        "baselines": {head: by_split[f"{BASELINE}{first}"] for head, first in found.units.distinct_baselines.items()},
        "strategies": {name: by_split[name] for name in found.strategies},
        "by_fold": fold_scores(found),
        "significance": {"against": found.best_head, "candidates": findings.comparisons},
        "confusion": {
            "classes": found.units.classes,
            **{name: score["confusion"] for name, score in shown.items()},
        },
        "per_class": {name: score["per_class"] for name, score in shown.items()},
        "calibration": {
            "temperatures": found.temperatures,
            "heads": findings.calibration,
            "fusion": findings.fused_calibration,
        },
        "where_heads_win": {
            "classes": _rows(findings.classes),
            "subgroups": {name: _rows(rows) for name, rows in findings.subgroups.items()},
        },
        "gate_weights": _gate(findings.gate),
        "confidence": findings.doubt,
        "mistakes": [asdict(mistake) for mistake in findings.mistakes],
        "optimism": [
            {"candidate": gap.name, **{key: getattr(gap, key) for key in ("split", "oof", "held", "p", "verdict")}}
            for gap in found.gaps
        ],
    }


def fold_scores(found: Fusion) -> dict[str, dict[str, Any]]:
    """Out of fold, of each head and of what was chosen: :func:`heads.metrics.scores.by_fold`."""
    oof = found.units.splits == "oof"
    labels, folds = found.units.where(oof).label_names, found.units.folds[oof].tolist()
    names = dict.fromkeys([*(f"head:{head}" for head in found.units.heads), found.chosen])
    return {name: by_fold(labels, np.exp(found.log_p[name][oof]), found.units.classes, folds) for name in names}


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The few numbers that fit a line of ``dvc metrics show``: the fusion, the best head, the best plain baseline if
    there is one, and the majority class."""
    split = metrics["headline"]["split"]
    rows = {"fused": metrics["headline"], "best_head": metrics["best_head"], "best_baseline": metrics["best_baseline"]}
    rows |= {"majority": metrics["majority"][split], "plain": (metrics["plain"] or {}).get(split)}
    scores = {name: {score: row[score] for score in ("accuracy", "macro_f1")} for name, row in rows.items() if row}
    named = {"transductive": True} if metrics["headline"]["transductive"] else {}
    return {"split": split, "strategy": metrics["headline"]["strategy"], **named, **scores}


def fell_back(found: Fusion) -> bool:
    """Whether a single head or a plain baseline was taken because nothing that combines heads did better."""
    return found.chosen.startswith((HEAD, BASELINE))


def _flat(score: dict[str, Any]) -> dict[str, Any]:
    return _scores(score) | {name: score[name] for name in ("log_loss", "ece", "classwise_ece", "n_units", "n_groups")}


def _scores(score: dict[str, Any]) -> dict[str, float]:
    """``macro_f1``, ``macro_f1_low``, ``macro_f1_high``, ..."""
    parts = (("value", ""), ("low", "_low"), ("high", "_high"))
    return {name + suffix: score[name][part] for name in SCORES for part, suffix in parts}


def _rows(rows: dict[str, Row]) -> dict[str, Any]:
    return {name: asdict(row) for name, row in rows.items()}


def _gate(gate: Gate | None) -> dict[str, Any] | None:
    def plain(weights: dict[str, Weight]) -> dict[str, Any]:
        return {head: asdict(weight) for head, weight in weights.items()}

    if gate is None:
        return None
    by_class = {name: {"units": n, "heads": plain(weights)} for name, (n, weights) in gate.by_class.items()}
    return {"overall": plain(gate.overall), "by_predicted_class": by_class}


def _json(content: Any) -> str:
    return json.dumps(without_nan(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def summary(found: Fusion, findings: Findings) -> str:
    """A page: the tables of the headline split and of the one that the choice was made on, the notes, the findings."""
    width = max(len(name) for name in (*map(display_name, found.scores), *[PLAIN] * bool(found.plain))) + 2
    lines = [f"! {warning}" for warning in found.warnings]
    lines += [f"TRANSDUCTIVE: {what}" for what in found.transductive]
    for split in dict.fromkeys((found.headline, found.judged_on, "oof")):
        score = found.scores[found.chosen][split]
        where = f"{split}: {score['n_units']} units in {score['n_groups']} groups"
        where += " (transductive)" if found.transductive else ""
        lines += [
            where + (" (cross-fitted)" if split == "oof" else "") + (", headline" if split == found.headline else ""),
            f"  {'':{width}}{'accuracy':>9}  {'macro-F1 (95 % interval)':<24}{'balanced acc.':>14}{'log-loss':>10}"
            f"{'ECE':>8}",
        ]
        for name, splits in found.scores.items():
            lines.append(_line(display_name(name), splits[split], width, name == found.chosen))
        if found.plain:
            lines.append(_line(PLAIN, found.plain.scores[split], width, False))
        lines.append("")
    lines.append(f"* {display_name(found.chosen)}: " + ("asked for" if found.forced else f"chosen by {found.rule}"))
    lines += [f"- {note}" for note in found.notes]
    lines.append(f"- {_decided(found)}")
    lines.append(f"- {said_of_sets(findings.doubt, found.headline)}")
    lines += [f"- {display_name(name)}, out of fold: {as_printed(each)}" for name, each in fold_scores(found).items()]
    if found.headline != "oof":
        score = found.scores[found.chosen][found.headline]
        values = ", ".join(f"{name} {100 * score[key]['value']:.1f}" for key, name in PAPERS.items())
        lines.append(f"- {display_name(found.chosen)}, {found.headline}: {values} %")
    lines += ["", *_findings(found, findings), ""]
    over = {f"head {head}": found.gains[head] for head in found.units.heads}
    if findings.over_baseline is not None:
        over[f"the plain baseline of {found.best_baseline}"] = findings.over_baseline
    for other, gains in over.items():
        gain = gains["macro_f1"]
        bounds = "" if math.isnan(gain["low"]) else f" {interval(gain, '+.3f')}"
        lines.append(f"fused on {found.headline}: {gain['value']:+.3f} macro-F1 over {other}{bounds}")
    return "\n".join(lines)


def _line(name: str, score: dict[str, Any], width: int, is_chosen: bool) -> str:
    f1 = f"{score['macro_f1']['value']:.3f} {interval(score['macro_f1'])}"
    return (
        f"{'*' if is_chosen else ' '} {name:<{width}}{score['accuracy']['value']:>9.3f}  {f1:<24}"
        f"{score['balanced_accuracy']['value']:>14.3f}{score['log_loss']:>10.3f}{score['ece']:>8.3f}"
    )


def _decided(found: Fusion) -> str:
    """What naming classes with their frequencies taken off would make of the headline."""
    if not found.decision.tau:
        return f"The plain decision is the best for {NAMES[found.decision.metric]} on oof: no class is to be favoured."
    corrected, plain = found.decision.scores[found.headline], found.scores[found.chosen][found.headline]
    said = (
        f"{NAMES[name]} {corrected[name]['value']:.3f} {interval(corrected[name])} for {plain[name]['value']:.3f}"
        for name in ("macro_f1", "accuracy")
    )
    how = f"argmax (log p - {found.decision.tau:g} log prior)"
    return f"Rare classes favoured, {how}, it would have on {found.headline}: {', '.join(said)}."


def _findings(found: Fusion, findings: Findings) -> list[str]:
    """On the headline split: significance, calibration, and what each head is best at."""
    few = untestable(found)
    if few:
        lines = [f"on {found.headline} no difference can be tested: {few}"]
    else:
        lines = [
            f"on {found.headline}, against head {found.best_head}, adjusted for {len(findings.comparisons)} "
            "comparisons:"
        ]
    clear = {
        "better": [n for n, c in findings.comparisons.items() if c["macro_f1"]["value"] > 0 and is_clear(c)],
        "worse": [n for n, c in findings.comparisons.items() if c["macro_f1"]["value"] < 0 and is_clear(c)],
    }
    for word, names in clear.items() if not few else ():
        lines.append(f"  macro-F1 {word}, p < {LEVEL}: {', '.join(map(display_name, names)) or 'none'}")
    lines.append("calibration error (ECE) before -> after:")
    width = max(len(name) for name in (*found.units.heads, *found.units.classes)) + 2
    for head, both in findings.calibration.items():
        if both:
            worse = " (worse)" if worsened(both) else ""
            lines.append(f"  {head:<{width}}{both['before']['ece']:.3f} -> {both['after']['ece']:.3f}{worse}")
    lines.append("best head of each class, by F1:")
    for name, row in findings.classes.items():
        best = f"{', '.join(row.best)} {max(row.heads.values()):.3f}" if row.best else "none finds it"
        said = f"{best}; fusion {row.fusion:.3f}" if row.units else "none: no unit has it"
        lines.append(f"  {name:<{width}}{said}")
    return lines


def worsened(both: dict[str, dict[str, Any]]) -> bool:
    """Whether calibration made confidence less trustworthy here, by more than rounding."""
    return bool(both["after"]["ece"] > both["before"]["ece"] + 5e-4)


def untestable(found: Fusion) -> str:
    """Why differences on the headline split have neither interval nor p; empty where they have."""
    n = found.scores[found.chosen][found.headline]["n_groups"]
    few = f"its units form {n} group{'s' * (n != 1)}, and fewer than {TESTABLE_GROUPS} prove nothing, all alike or not"
    return few if n < TESTABLE_GROUPS else ""


def is_clear(comparison: dict[str, Any]) -> bool:
    """Whether a difference in macro-F1 is more than chance explains, all comparisons considered."""
    return bool(comparison["macro_f1"]["p_holm"] < LEVEL)


def display_name(name: str) -> str:
    return name.replace(":", " ", 1) if name.startswith((HEAD, BASELINE)) else name
