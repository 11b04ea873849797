"""What augmented views of training clips are worth to heads: the same trainings with so many of them, and with none.

For each seed, the views are drawn and stored (what is there is found again), folds are drawn, and each head is trained
in them. Units are scored out of fold, on view 0 as ever; differences are paired, and their intervals resample groups,
each with what all seeds say of it.
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
from configs.schema import Profile
from extract.corpora.manifest import Manifest, read_manifest

Found = dict[tuple[str, int], list[np.ndarray]]  # head and number of views: for each seed, (units, classes)


def out_of_fold(profile: Profile, manifest: Manifest, name: str) -> np.ndarray:
    """Probabilities of the training units, (units, classes), by a head as the profile has it.

    Where it has nothing to choose, inner folds, which would then only be reported on, are not fitted.
    """
    from heads.data.folds import unit_folds
    from heads.data.views import with_views
    from heads.fitting.cross_validation import Course, must_choose, open_stores
    from heads.fitting.kinds import KINDS

    head, units = profile.heads[name], manifest.units()
    folds = unit_folds(units, profile.folds, profile.seed, profile.manifest_path)
    stores, kind = open_stores(profile, head), KINDS[head.kind]
    data = kind.read(head, manifest, units, with_views(profile, manifest, head, stores))
    course = Course(profile, manifest, head, units, folds, data, stores)
    log_p = np.empty((len(units), len(manifest.classes)))
    for fold in range(course.n_folds):
        task = course.tasks(fold)[0]
        model, _ = kind.fit(task if must_choose(head) else replace(task, inner=()))
        held = np.flatnonzero(folds == fold)
        log_p[held] = model.log_probabilities(data, held)
    return np.exp(log_p[folds >= 0])


def measure(profile: Profile, manifest: Manifest, names: list[str], counts: list[int], seeds: int) -> Found:
    from extract.passes.extraction import extract
    from extract.passes.means import Means

    found: Found = {}
    viewed = [name for name, encoder in profile.encoders.items() if encoder.views]
    for seed in range(seeds):
        here = changed(profile, {"seed": seed})
        extract(here, manifest, list(profile.encoders), Means("cpu", 1))
        for name in names:
            for count in [0, *counts]:
                some = {"encoders": {each: {"views": count} for each in viewed}} if count else {}
                which = {"heads": {name: {"views": "all" if count else "none"}}}
                started = time.monotonic()
                p = out_of_fold(changed(here, some | which), manifest, name)
                found.setdefault((name, count), []).append(p)
                labels = [manifest.classes.index(unit.label) for unit in manifest.units() if unit.split == "train"]
                right, seconds = float((p.argmax(1) == labels).mean()), time.monotonic() - started
                print(f"seed {seed}, {name}, {count} views: accuracy {right:.3f}, {seconds:.1f} s", file=sys.stderr)
    return found


def table(found: Found, manifest: Manifest, seeds: int) -> list[dict[str, Any]]:
    from heads.metrics.scores import difference, evaluate

    trained = [unit for unit in manifest.units() if unit.split == "train"]
    labels, groups = [unit.label for unit in trained] * seeds, [unit.group for unit in trained] * seeds
    rows = []
    for (name, count), each in found.items():
        p, none = np.concatenate(each), np.concatenate(found[name, 0])
        scores = evaluate(labels, p, manifest.classes, groups)
        gain = difference(labels, p, none, manifest.classes, groups)["macro_f1"]
        rows.append({"head": name, "views": count, "log_loss": scores["log_loss"], "gain": gain})
        rows[-1] |= {score: scores[score]["value"] for score in ("accuracy", "macro_f1")}
    return rows


def main(
    config: ConfigOption = None,
    heads: Annotated[str, typer.Option(help="Of the profile, separated by commas.")] = "",
    counts: Annotated[str, typer.Option(help="Numbers of views, separated by commas.")] = "1,3,5",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    overrides: OverrideArgument = None,
) -> None:
    """Print accuracy and macro-F1 out of fold of heads that learn from no augmented view, and from some."""
    profile = load(config, overrides)
    names = heads.split(",") if heads else list(profile.heads)
    if unknown := [name for name in names if name not in profile.heads]:
        raise UserError(f"--heads {heads}: {unknown[0]!r} is no head of the profile: {', '.join(profile.heads)}")
    most = max((encoder.views for encoder in profile.encoders.values()), default=0)
    if not most:
        raise UserError(f"{profile.name}: none of its encoders has views: write views: 5 and augment")
    parts = [int(part) for part in counts.split(",") if part.strip().isdecimal()]
    if not parts or not all(0 < part <= most for part in parts):
        raise UserError(f"--counts {counts}: numbers from 1 to {most}, which the profile has, separated by commas")
    manifest = read_manifest(profile.manifest_path)
    rows = table(measure(profile, manifest, names, parts, seeds), manifest, seeds)
    print(f"{profile.name}, {seeds} seeds: out of fold; macro-F1 against no views, with 95 % intervals")
    print(f"{'head':<12}{'views':>6}{'accuracy':>10}{'macro-F1':>10}{'log-loss':>10}{'gain':>9}")
    for row in rows:
        gain = row["gain"]
        said = f"{gain['value']:>+9.3f}  [{gain['low']:+.3f}, {gain['high']:+.3f}]" if row["views"] else ""
        numbers = f"{row['accuracy']:>10.3f}{row['macro_f1']:>10.3f}{row['log_loss']:>10.3f}"
        print(f"{row['head']:<12}{row['views']:>6}{numbers}{said}")


if __name__ == "__main__":
    command(main)
