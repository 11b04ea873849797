"""Label permutation through the whole stack: heads and fusion, trained on labels that mean nothing, must know nothing.

The labels of each split are dealt out again among its units, and every head is retrained in its folds and fused by the
code that trains and fuses it otherwise. Whatever still predicts the *dealt* labels of units that it was not trained on
has seen them; whatever predicts the *true* ones has not been trained on the dealt ones.

On test, chance is known exactly. Out of fold, a fusion is fitted to predictions of other folds, by heads that were
trained on the fold that is held out. If by chance the labels of units that look alike agree more often than not, or
less often, that is so for both folds; the fusion learns it from one and uses it in the other, and wins a little over
chance (0.02 to 0.04 with 90 units and three folds) without any leak in the code. So a fusion out of fold is judged
apart: with the heads' predictions as they are, on labels that are dealt out once more.

This audit opens doors of ``heads``, since it is the training that it audits. Nothing is written into the heads' own
folders.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from tqdm import tqdm

from fusion.leaks.chance import LIKELY, STATISTIC, SURE, against_chance, relabelling_p
from fusion.leaks.outputs import Check, Verdict, skipped
from fusion.leaks.probes import numbers_of
from fusion.leaks.units import Audited
from fusion.strategies.choice import HEAD
from fusion.strategies.nested import Fusion, fuse
from fusion.tables.predictions import manifest_metadata, read
from heads.fitting.coverage import usable
from heads.fitting.cross_validation import open_stores, predict_all, train_folds
from heads.fitting.outputs import prediction_table
from heads.models.presence import has_input

CHECKS = ("permutation.oof", "permutation.fusion", "permutation.test", "permutation.true_labels")
BOOTSTRAP = 100  # its intervals are not used
PLACES = {"oof": "out of fold", "test": "on test"}


@dataclass(frozen=True)
class Run:
    """A stack that was trained on dealt labels; n units in the order of ``stack.units``."""

    stack: Fusion
    alone: Fusion  # of the same predictions, fitted to labels that were dealt out after the heads were trained
    truth: np.ndarray  # (n,) true class numbers


def permutation_checks(audited: Audited, heads: Sequence[str], left_out: str, runs: int) -> list[Check]:
    """Train some heads on permuted labels, fuse them, and compare with chance.

    Args:
        left_out: a sentence on the heads of the profile that are not among them, or nothing.
        runs: how often labels are dealt out; scores are over all runs together.
    """
    found = [run_permuted(audited, heads, number) for number in tqdm(range(runs), "permutation", disable=None)]
    stacks, alone = [run.stack for run in found], [run.alone for run in found]
    who = f"Heads trained on permuted labels ({', '.join(heads)})"
    fusion = "Their fusion, fitted to labels that were dealt once more,"
    models = list(stacks[0].log_p)
    single = [name for name in models if name.startswith(HEAD)]
    fused = [name for name in models if name not in single]
    checks = [
        _judged(audited, "permutation.oof", stacks, single, f"{who} reach"),
        _judged(audited, "permutation.fusion", alone, fused, f"{fusion} reaches"),
        _judged(audited, "permutation.test", stacks, models, f"{who} and their fusion reach"),
        _true_labels(audited, found, f"{who} and their fusion"),
    ]
    whole = float(np.mean([stack.scores[stack.chosen]["oof"]["balanced_accuracy"]["value"] for stack in stacks]))
    said = f" Fitted to the labels that the heads were trained on, the fusion that would be chosen reaches {whole:.3f}."
    checks[1] = replace(checks[1], text=checks[1].text + said, details=checks[1].details | {"whole_stack": whole})
    return [replace(check, text=f"{check.text} {left_out}".strip()) for check in checks]


def run_permuted(audited: Audited, heads: Sequence[str], number: int) -> Run:
    """Train and fuse on labels that the ``number``-th dealing gave; folds are those of the true labels.

    The folds must not be drawn for the dealt labels: which units share a fold would then tell something of them.
    """
    profile = audited.profile
    permuted = with_permuted_labels(audited, heads, np.random.default_rng([profile.seed, number]))
    with TemporaryDirectory(prefix="emocache-audit-") as folder:
        files = {}
        for name in heads:
            stores = open_stores(profile, profile.heads[name])
            head, _ = usable(profile, permuted.manifest, name, stores, unfinished=True)
            trained, data, _ = train_folds(name, head, profile, permuted.manifest, list(permuted.units), permuted.folds)
            predictions = predict_all(trained, data, list(permuted.units), permuted.folds)
            files[name] = Path(folder) / f"{name}.parquet"
            there = has_input(head, permuted.manifest, permuted.units, stores)
            table = prediction_table(
                predictions, list(permuted.units), permuted.folds, permuted.manifest.classes, there
            )
            table.write_parquet(files[name])
        units = read(files)
    units = replace(units, metadata=units.metadata | manifest_metadata(profile.manifest_path, units.unit_ids))
    again = units.labels.copy()
    rng = np.random.default_rng([profile.seed, number, 1])
    for split in np.unique(units.splits):
        again[units.splits == split] = rng.permutation(again[units.splits == split])
    stack, alone = (
        fuse(
            given,
            list(profile.fusion.strategies),
            metric=profile.fusion.metric,
            choice=profile.fusion.choice,
            bootstrap=BOOTSTRAP,
            seed=profile.seed,
        )
        for given in (units, replace(units, labels=again))
    )
    true = dict(zip([unit.unit_id for unit in audited.units], audited.labels.tolist(), strict=True))
    return Run(stack, alone, np.array([true[unit_id] for unit_id in units.unit_ids]))


def with_permuted_labels(audited: Audited, heads: Sequence[str], rng: np.random.Generator) -> Audited:
    """The same units with the labels of each split dealt out again, and with them the finer labels that heads learn."""
    clips = audited.manifest.clips
    finer = {audited.profile.heads[name].auxiliary for name in heads}
    dealt = [name for name in clips.columns if name == "label" or name.partition("_")[2] in finer]
    rows = clips.with_row_index("row").filter(pl.col("label").is_not_null()).select("row", "split", *dealt)
    taken = np.arange(len(rows))
    for split in rows["split"].unique(maintain_order=True):
        part = np.flatnonzero(rows["split"] == split)
        taken[part] = rng.permutation(part)
    rows = rows.select("row").hstack(rows.select(dealt)[taken])
    indexed = clips.with_row_index("row")
    changed = indexed.update(rows, on="row", include_nulls=True).drop("row")
    manifest = replace(audited.manifest, clips=changed)
    return replace(audited, manifest=manifest, units=manifest.units())


def _judged(audited: Audited, name: str, fusions: Sequence[Fusion], models: Sequence[str], who: str) -> Check:
    """Balanced accuracy of some models on the labels that their fusion was given, against chance."""
    place = "test" if name == "permutation.test" else "oof"
    parts = [(fusion, np.flatnonzero(fusion.units.splits == place)) for fusion in fusions]
    if not len(parts[0][1]):
        return skipped(name, f"There are no {place} units.")
    n_folds, n_classes = audited.n_folds, len(audited.manifest.classes)
    labels = np.concatenate([fusion.units.labels[rows] for fusion, rows in parts])
    folds = [np.maximum(fusion.units.folds[rows], 0) + n_folds * run for run, (fusion, rows) in enumerate(parts)]
    guesses = {
        model: np.concatenate([fusion.log_p[model][rows].argmax(1) for fusion, rows in parts]) for model in models
    }
    chance = against_chance(labels, guesses, n_classes, np.concatenate(folds), audited.profile.seed, place == "oof")
    best = chance.best
    p, score, expected = chance.p[best], chance.scores[best], chance.expected[best]
    verdict: Verdict = "fail" if p <= SURE else "warn" if p <= LIKELY else "pass"
    meaning = {
        "fail": "They see labels that they must not see.",
        "warn": "That is unlikely without a leak: run the audit again with more --permutations.",
        "pass": "So it should be.",
    }
    text = (
        f"{who} balanced accuracy {score[STATISTIC]:.3f} {PLACES[place]} (the best of {len(models)}: {best}); "
        f"chance gives {expected[STATISTIC]:.3f}, and hardly ever more than {chance.limit[best]:.3f} (p = {p:.2g}). "
        f"Macro-F1 {score['macro_f1']:.3f}, by chance {expected['macro_f1']:.3f}; accuracy {score['accuracy']:.3f}, by "
        f"chance {expected['accuracy']:.3f}. {meaning[verdict]}"
    )
    details = numbers_of(chance) | {"scores": chance.scores, "scores_by_chance": chance.expected}
    return Check(name, verdict, score[STATISTIC], chance.limit[best], text, [], details)


def _true_labels(audited: Audited, runs: Sequence[Run], who: str) -> Check:
    """Balanced accuracy on the true labels: whether the dealt ones reached the training at all."""
    name, n_classes = "permutation.true_labels", len(audited.manifest.classes)
    places = [place for place in PLACES if (runs[0].stack.units.splits == place).any()]
    p, score = {}, {}
    for place in places:
        confusions = np.zeros((len(runs), n_classes, n_classes))
        for number, run in enumerate(runs):
            rows = run.stack.units.splits == place
            np.add.at(confusions[number], (run.truth[rows], run.stack.log_p[run.stack.chosen][rows].argmax(1)), 1)
        p[place], score[place], least = relabelling_p(confusions, audited.profile.seed)
    worst = min(places, key=lambda place: (p[place], -score[place]))
    corrected = min(1.0, p[worst] * len(places))  # Bonferroni
    verdict: Verdict = "fail" if corrected <= SURE else "warn" if corrected <= LIKELY else "pass"
    listed = " and ".join(f"{score[place]:.3f} {PLACES[place]}" for place in places)
    text = (
        f"{who} tell the true labels with balanced accuracy {listed}; by chance {1 / n_classes:.3f}, "
        f"p = {corrected:.2g} (chance: any exchange of the names of their answers)."
    )
    if verdict != "pass":
        text += " They may not have been trained on the permuted labels: the other permutation checks are then void."
    elif least * len(places) > LIKELY:
        text += f" With {n_classes} classes, {len(runs)} permutation(s) cannot tell: use more --permutations."
        verdict = "skipped"
    details = {"balanced_accuracy": score, "p": p, "chosen": [run.stack.chosen for run in runs]}
    return Check(name, verdict, score[worst], None, text, [], details)
