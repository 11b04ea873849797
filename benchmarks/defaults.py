"""Heads as they come against the plain baseline, on corpora of many sizes: what decides their defaults.

    python benchmarks/defaults.py --config a.yaml --config b.yaml --units 100 --units 400 --try sequence --try linear

A corpus is a profile's training units, of which ``--units`` are drawn, whole groups at a time, for each of ``--draws``
seeds; what is left is the test set, up to ``--most-test`` units. Corpora without that many units are cut into the
profile's folds, each of which is predicted in turn. Every setting is tried as ``KIND`` or ``KIND,setting=value,...`` on
each input of the profile by itself and, with ``--joint``, on all of them together. All draws are the same for all.
"""

import os
import sys

sys.path[:] = [path for path in sys.path if not path.endswith("benchmarks")]  # there is an extract.py, too
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from tqdm import tqdm

from configs.command_line import command
from configs.profiles import load
from configs.schema import Head, Profile
from extract.corpora.manifest import Manifest, Unit, read_manifest
from heads.data.folds import FoldTask, inner_parts, unit_folds
from heads.fitting.base import baseline_head
from heads.fitting.cross_validation import compute_deterministically, must_choose, open_stores
from heads.fitting.kinds import KINDS
from heads.metrics.scores import difference, evaluate


@dataclass(frozen=True)
class Corpus:
    name: str
    profile: Profile
    manifest: Manifest
    units: list[Unit]
    inputs: tuple[str, ...]
    parts: list[tuple[np.ndarray, np.ndarray]]  # training and test units, as indices


def main(
    config: Annotated[list[str], typer.Option(help="A profile whose stores are there.")],
    tries: Annotated[list[str], typer.Option("--try", help="KIND or KIND,setting=value,...")],
    units: Annotated[
        list[int] | None, typer.Option(help="Training units. Default: all, in the profile's folds.")
    ] = None,
    draws: int = 3,
    most_test: int = 2000,
    joint: Annotated[bool, typer.Option(help="All inputs of a profile together, too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Append a JSON line for each result.")] = None,
) -> None:
    """Train and print, for each corpus and setting, macro-F1 and accuracy, and what the baseline has."""
    compute_deterministically()
    print(f"{'corpus':<38}{'head':<46}{'macro-F1':>9}{'over baseline (95 %)':>26}{'log-loss':>9}{'s/fold':>8}")
    for corpus in corpora(config, units or [0], draws, most_test, joint):
        for row in rows(corpus, tries):
            gain = f"{row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            print(
                f"{corpus.name:<38}{row['head']:<46}{row['macro_f1']:>9.3f}{gain:>26}{row['log_loss']:>9.3f}"
                f"{row['seconds']:>8.1f}",
                flush=True,
            )
            if out:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"corpus": corpus.name} | row) + "\n")


def corpora(configs: list[str], sizes: list[int], draws: int, most_test: int, joint: bool) -> Iterator[Corpus]:
    for config in configs:
        profile = load(config, [])
        manifest = read_manifest(profile.manifest_path)
        units = [replace(unit, split="train") for unit in manifest.units() if unit.split == "train"]
        names = list(profile.encoders)
        inputs = [(name,) for name in names] + ([tuple(names)] if joint and len(names) > 1 else [])
        for size in sizes:
            if not size:
                folds = unit_folds(units, profile.folds, profile.seed, profile.manifest_path)
                parts = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(profile.folds)]
            else:
                parts = [drawn(units, size, most_test, seed) for seed in range(draws)]
            for each in inputs:
                name = f"{profile.name} {'+'.join(each)} {size or len(units)}"
                yield Corpus(name, profile, manifest, units, each, parts)


def drawn(units: list[Unit], size: int, most_test: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``size`` units, whole groups, and others."""
    groups = np.array([unit.group for unit in units])
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    place = {name: number for number, name in enumerate(names)}
    order = np.argsort([place[group] for group in groups], kind="stable")
    return np.sort(order[:size]), np.sort(order[size : size + most_test])


def rows(corpus: Corpus, tries: list[str]) -> Iterator[dict[str, Any]]:
    simple = baseline_head(Head(inputs=list(corpus.inputs)), corpus.inputs)
    assert simple is not None
    baseline, seconds = predicted(corpus, simple)
    yield scores(corpus, "baseline", baseline, baseline, seconds)
    for text in tries:
        kind, *settings = text.split(",")
        values = {key: yaml.safe_load(value) for key, value in (each.split("=") for each in settings)}
        head = Head.model_validate({"kind": kind, "inputs": list(corpus.inputs)} | values)
        log_p, seconds = predicted(corpus, head)
        yield scores(corpus, text, log_p, baseline, seconds)


def scores(corpus: Corpus, name: str, log_p: np.ndarray, baseline: np.ndarray, seconds: float) -> dict[str, Any]:
    """Of all parts' test units together, each part's as units of their own."""
    tested = [(part, i) for part, (_, test) in enumerate(corpus.parts) for i in test]
    labels = [corpus.units[i].label for _, i in tested]
    groups = [corpus.units[i].group for _, i in tested]
    found = evaluate(labels, np.exp(log_p), corpus.manifest.classes, groups, bootstrap=0)
    gain = difference(labels, np.exp(log_p), np.exp(baseline), corpus.manifest.classes, groups, bootstrap=500)
    return {
        "head": name,
        "macro_f1": found["macro_f1"]["value"],
        "accuracy": found["accuracy"]["value"],
        "log_loss": found["log_loss"],
        "gain": gain["macro_f1"]["value"],
        "low": gain["macro_f1"]["low"],
        "high": gain["macro_f1"]["high"],
        "seconds": seconds,
    }


def predicted(corpus: Corpus, head: Head) -> tuple[np.ndarray, float]:
    """Log-probabilities of the test units, part after part, and seconds for each part."""
    stores = open_stores(corpus.profile, head)
    data = KINDS[head.kind].read(head, corpus.manifest, corpus.units, stores)
    _, groups = np.unique([unit.group for unit in corpus.units], return_inverse=True)
    labels = np.array([corpus.manifest.classes.index(unit.label) for unit in corpus.units])
    found = []
    started = time.monotonic()
    for number, (train, test) in enumerate(tqdm(corpus.parts, desc=corpus.name, disable=None)):
        task = FoldTask(
            head=head,
            data=data,
            labels=labels,
            train=train,
            inner=inner_parts(corpus.units, train, number, must_choose(head)),
            n_classes=len(corpus.manifest.classes),
            seed=number,
            groups=groups,
            encoders=corpus.profile.encoders,
            stored={name: store.fields for name, store in stores.items()},
        )
        model, _ = KINDS[head.kind].fit(task)
        found.append(model.log_probabilities(data, test))
    return np.concatenate(found), (time.monotonic() - started) / len(corpus.parts)


if __name__ == "__main__":
    command(main)
