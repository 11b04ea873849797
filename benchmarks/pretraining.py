"""What pre-training without labels is worth to a head, at few labels and at many: the same trainings with and without.

For each seed, folds are drawn and the head's network is pre-trained for each of them, on all clips that the fold may
see. Then the head is fitted on a share of the fold's labels, once from there and once afresh, for its ``epochs`` and
without early stopping, for an inner validation set would have labels beyond the share. Units are scored out of fold;
differences are paired, and their intervals resample groups, each with what all seeds say of it.
"""

# ruff: noqa: E402
import sys
import time
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer

sys.path[:] = [path for path in sys.path if not path.endswith("benchmarks")]  # there is an extract.py, too

from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import changed, load
from configs.schema import Pretraining, Profile, unpretrainable
from extract.corpora.manifest import Manifest, read_manifest


def share_of(labels: np.ndarray, candidates: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of each class among some units, one at least; a larger share holds all of a smaller one."""
    rng = np.random.default_rng(seed)
    taken = []
    for label in np.unique(labels[candidates]):
        members = rng.permutation(candidates[labels[candidates] == label])
        taken.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(taken))


def curve(profile: Profile, manifest: Manifest, name: str, shares: list[float], seeds: int) -> list[dict[str, Any]]:
    """For each share: labels in a fold, macro-F1 afresh and pre-trained over all seeds, their difference, seconds."""
    from heads.data.folds import unit_folds
    from heads.fitting.cross_validation import Course, open_stores
    from heads.fitting.kinds import KINDS
    from heads.metrics.scores import difference, evaluate
    from heads.pretraining.clips import read_unlabelled
    from heads.pretraining.fitting import pretrained_weights

    units = manifest.units()
    found: dict[float, dict[bool, list[np.ndarray]]] = {share: {False: [], True: []} for share in shares}
    sizes: dict[float, list[int]] = {share: [] for share in shares}
    seconds = {"pre-training": 0.0, "heads": 0.0}
    for seed in range(seeds):
        here = changed(profile, {"seed": seed, "heads": {name: {"patience": 0, "start_from": None}}})
        head, stores = here.heads[name], open_stores(here, here.heads[name])
        folds = unit_folds(units, here.folds, seed, here.manifest_path)
        unlabelled = read_unlabelled(name, head, manifest, stores)
        started = time.monotonic()
        settings = here.pretrain.get(name, Pretraining())
        weights, history = pretrained_weights(head, settings, unlabelled, units, folds, seed)
        seconds["pre-training"] += time.monotonic() - started
        print(f"seed {seed}: pre-trained; the last epoch: {history[-1]}", file=sys.stderr)
        started = time.monotonic()
        data = KINDS[head.kind].read(head, manifest, units, stores)
        course = Course(here, manifest, head, units, folds, data, stores)
        for share in shares:
            log_p = {begun: np.full((len(units), len(manifest.classes)), np.nan) for begun in (False, True)}
            for fold in range(here.folds):
                task, held_out = course.tasks(fold)[0], np.flatnonzero(folds == fold)
                fit = share_of(task.labels, task.train, share, seed * 1000 + fold)
                sizes[share].append(len(fit))
                for begun, start in ((False, {}), (True, weights[fold % len(weights)])):
                    chosen = replace(task, train=fit, inner=(), start=start)
                    model, _ = KINDS[head.kind].fit(chosen)
                    log_p[begun][held_out] = model.log_probabilities(data, held_out)
            for begun, values in log_p.items():
                found[share][begun].append(np.exp(values[folds >= 0]))
        seconds["heads"] += time.monotonic() - started

    trained = [unit for unit in units if unit.split == "train"]
    labels, groups = [unit.label for unit in trained] * seeds, [unit.group for unit in trained] * seeds
    rows = []
    for share, each in found.items():
        fresh, begun = np.concatenate(each[False]), np.concatenate(each[True])
        rows.append(
            {
                "share": share,
                "labels": float(np.mean(sizes[share])),
                "fresh": evaluate(labels, fresh, manifest.classes, groups)["macro_f1"]["value"],
                "pretrained": evaluate(labels, begun, manifest.classes, groups)["macro_f1"]["value"],
                "difference": difference(labels, begun, fresh, manifest.classes, groups)["macro_f1"],
                "seconds": dict(seconds),
            }
        )
    return rows


def main(
    head: Annotated[str, typer.Option("--head", help="The head: a network under 'heads' in the profile.")],
    config: ConfigOption = None,
    shares: Annotated[str, typer.Option(help="Of a fold's labels, separated by commas.")] = "0.05,0.1,0.25,1",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    overrides: OverrideArgument = None,
) -> None:
    """Print macro-F1 out of fold of a head that starts afresh and of the same pre-trained, over shares of labels."""
    profile = load(config, overrides)
    if head not in profile.heads:
        raise UserError(f"--head {head}: no such head in the profile; it has: {', '.join(profile.heads)}")
    if problem := unpretrainable(profile.heads[head]):
        raise UserError(f"--head {head}: {problem}")
    try:
        parts = [float(share) for share in shares.split(",")]
    except ValueError as error:
        raise UserError(f"--shares {shares}: numbers between 0 and 1, separated by commas") from error
    rows = curve(profile, read_manifest(profile.manifest_path), head, parts, seeds)
    print(f"head {head} of {profile.name}, {seeds} seeds, {profile.folds} folds: macro-F1 out of fold")
    print(f"{'share':>6}{'labels':>8}{'afresh':>8}{'pre-trained':>13}{'difference':>12}  95 % interval")
    for row in rows:
        gain = row["difference"]
        print(
            f"{row['share']:>6.0%}{row['labels']:>8.1f}{row['fresh']:>8.3f}{row['pretrained']:>13.3f}"
            f"{gain['value']:>+12.3f}  [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        )
    seconds = rows[0]["seconds"]
    print(f"seconds: pre-training {seconds['pre-training']:.1f}, heads {seconds['heads']:.1f}")


if __name__ == "__main__":
    command(main)
