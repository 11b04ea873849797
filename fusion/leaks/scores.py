"""Whether the heads' out-of-fold scores flatter: against val and test, which no head and no fusion was fitted on."""

from typing import Any

import numpy as np

from cache import is_published, read_published
from fusion.leaks.outputs import Check, Verdict, skipped
from fusion.leaks.units import Audited
from fusion.strategies.choice import HEAD
from fusion.strategies.nested import cross_fit
from fusion.strategies.optimism import LIKELY, MUCH, NOTABLE, SURE, Gap, gaps, group_accuracies, told
from fusion.strategies.pools import Single, Weighted
from fusion.tables.predictions import read
from heads.metrics.scores import evaluate

NAME = "scores.oof"
POOL = "weighted"  # the fusion that all others start from, as the heads' own may not be made yet


def scores_check(audited: Audited) -> Check:
    """Compare out-of-fold scores of every trained head, and of their weighted pool, with those on val and test.

    Raises:
        UserError, StoreError: predictions of a head that break their contract, or are not what was written.
    """
    profile = audited.profile
    files = {name: profile.head_path(name) / "predictions.parquet" for name in profile.fusion.heads or profile.heads}
    files = {name: path for name, path in files.items() if path.is_file()}
    if not files:
        return skipped(NAME, "No head is trained yet: make one with python heads/train.py --head NAME")
    for name, path in files.items():
        if is_published(path):
            read_published(path, f"train it again with python heads/train.py --head {name}")
    units = read(files)
    splits = [split for split in ("oof", "val", "test") if (units.splits == split).any()]
    if len(splits) == 1:
        return skipped(NAME, "There is no val or test split.")
    candidates = {f"{HEAD}{name}": Single(h) for h, name in enumerate(units.heads)}
    log_p, _, _ = cross_fit(units, candidates | ({POOL: Weighted()} if len(files) > 1 else {}), profile.seed)
    scores: dict[str, dict[str, Any]] = {name: {} for name in log_p}
    by_group: dict[str, dict[str, np.ndarray]] = {name: {} for name in log_p}
    for name, values in log_p.items():
        for split in splits:
            rows = units.where(units.splits == split)
            p, groups = np.exp(values[units.splits == split]), rows.groups.tolist()
            by_group[name][split] = group_accuracies(p.argmax(axis=1) == rows.labels, rows.groups)
            scores[name][split] = evaluate(
                rows.label_names, p, units.classes, groups, profile.fusion.bootstrap, profile.seed
            )
    found = gaps(scores, by_group)
    verdict: Verdict = max((gap.verdict for gap in found), key=("pass", "warn", "fail").index)
    said = told(found)
    text = (
        f"{said[0].upper()}{said[1:]}."
        if said
        else f"Out-of-fold scores of {', '.join(files)} are not higher than those on {' and '.join(splits[1:])} by "
        "more than chance explains."
    )
    text += (
        f" (Told where accuracy and macro-F1 are both more than {NOTABLE} higher and p, adjusted for {len(found)} "
        f"comparisons, is at most {LIKELY}; a failure above {MUCH} and at most {SURE}.)"
    )
    details = {
        f"{gap.name} {gap.split}": {"oof": gap.oof, "held_out": gap.held, "p": None if np.isnan(gap.p) else gap.p}
        for gap in found
    }
    highest = max(gap.difference for gap in found)
    return Check(NAME, verdict, highest, None, text, [_line(gap) for gap in found if gap.verdict != "pass"], details)


def _line(gap: Gap) -> str:
    parts = [f"{score} {gap.oof[score]:.3f}, {gap.held[score]:.3f}" for score in gap.oof]
    return f"{gap.name.replace(':', ' ')}, oof and {gap.split}: {'; '.join(parts)} (p = {gap.p:.2g})"
