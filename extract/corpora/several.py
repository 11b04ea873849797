"""Several corpora as one manifest: the corpus is a prefix of ids and groups, and the metadata field ``corpus``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from configs import UserError, some
from configs.sections.datasets import CorporaDataset
from configs.tables import filled
from extract.corpora.manifest import Manifest, make_manifest, straddling
from extract.corpora.media_paths import Missing

# Counts that are made anew of all together; what else a reader met is kept by corpus.
OWN = frozenset(
    [
        "clips",
        "conversations",
        "units",
        "clips_with",
        "conversations_without_unit",
        "missing_files",
        "missing_files_first",
        "speakers_in_several_splits",
        "speakers_in_several_groups",
        "folds_given",
        "groups_across_splits",
        "groups_across_folds",
        "notes",
        "warnings",
    ]
)
NAMING = ("clip_id", "conversation_id", "turn_id", "group", "speaker")


def joined(manifests: Mapping[str, Manifest], dataset: CorporaDataset) -> Manifest:
    """The manifests of several corpora in one.

    ``dataset.split`` puts all of a corpus into one split. Media paths are relative to ``dataset.root``, or where a
    corpus lies elsewhere to the innermost folder that holds them all. Folds that corpora give are kept where all of
    those in train have as many.

    Raises:
        UserError: media of a corpus are behind a URL, or the classes of one are not among ``dataset.classes``.
    """
    root, below = _root(manifests, dataset)
    parts, missing, notes, warnings = [], list[Missing](), list[str](), list[str]()
    found: dict[str, Any] = {}
    for name, manifest in manifests.items():
        clips = manifest.clips.with_columns(
            *((pl.lit(f"{name}:") + pl.col(column)).alias(column) for column in NAMING),
            *((pl.lit(below[name]) + pl.col(kind)).alias(kind) for kind in ("audio", "video")),
            meta_corpus=pl.lit(name),
        )
        if split := dataset.split.get(name):
            clips = clips.with_columns(split=pl.lit(split))
        parts.append(clips.with_columns(fold=pl.when(pl.col("split") == "train").then("fold")))
        missing += [Missing(each.kind, below[name] + each.file, f"{name}: {each.place}") for each in manifest.missing]
        found[name] = {key: value for key, value in manifest.counts.items() if value and key not in OWN}
        notes += [f"{name}: {line}" for line in manifest.counts.get("notes", [])]
        warnings += [f"{name}: {line}" for line in manifest.counts.get("warnings", [])]
    clips, counts = _with_folds(pl.concat(parts, how="diagonal"), notes)
    there = {label for manifest in manifests.values() for label in manifest.classes}
    classes = [filled(name) or "" for name in dataset.classes or sorted(there)]
    if strange := sorted(there - set(classes)):
        raise UserError(
            f"dataset.classes: lacks {some(strange, 20)}, which clips are labelled: give them a name by the labels of "
            "their corpus, or drop them there (null)"
        )
    learned = set(clips.filter(pl.col("split") == "train")["label"])
    if unknown := [name for name in classes if name not in learned]:
        warnings.append(f"no training unit is labelled {some(unknown, 20)}: join classes by the labels of each corpus")
    for part in ("split", "fold"):
        if groups := straddling(clips, part):
            counts[f"groups_across_{part}s"] = len(groups)
    counts["found"] = {name: each for name, each in found.items() if each}
    counts |= _corpora(clips) | {"notes": notes, "warnings": warnings}
    return make_manifest(clips, root, classes, counts, "dataset.corpora", missing)


def _root(manifests: Mapping[str, Manifest], dataset: CorporaDataset) -> tuple[Path, dict[str, str]]:
    """What media paths are relative to, and what each corpus's begin with."""
    homes = {}
    for name, manifest in manifests.items():
        if isinstance(manifest.root, str):
            raise UserError(
                f"dataset.corpora.{name}.media_root: {manifest.root}: media of several corpora lie in folders"
            )
        homes[name] = os.path.realpath(manifest.root)
    root, real = dataset.root, os.path.realpath(dataset.root)
    if any(os.path.commonpath([real, home]) != real for home in homes.values()):
        real = os.path.commonpath(list(homes.values()))
        root = Path(real)
    begins = {name: os.path.relpath(home, real).replace(os.sep, "/") for name, home in homes.items()}
    return root, {name: "" if begin == "." else f"{begin}/" for name, begin in begins.items()}


def _with_folds(clips: pl.DataFrame, notes: list[str]) -> tuple[pl.DataFrame, dict[str, Any]]:
    units = clips.filter((pl.col("split") == "train") & pl.col("label").is_not_null())
    given = {name: part["fold"].drop_nulls().n_unique() for (name,), part in units.group_by("meta_corpus")}
    if not any(given.values()):
        return clips, {}
    if len(set(given.values())) > 1:
        said = ", ".join(f"{name} {count or 'none'}" for name, count in sorted(given.items()))
        notes.append(f"folds that corpora give are not used, since they differ ({said}): they are drawn")
        return clips.with_columns(fold=pl.lit(None, pl.Int32)), {}
    found = units["fold"].value_counts().sort("fold")
    return clips, {"folds_given": {str(fold): count for fold, count in found.iter_rows()}}


def _corpora(clips: pl.DataFrame) -> dict[str, Any]:
    """Units of each corpus by split; and where those of test are others than those of train, that it is so."""
    units = clips.filter(pl.col("label").is_not_null())
    table = units.group_by("meta_corpus", "split", maintain_order=True).len()
    counts: dict[str, Any] = {"corpora": {}}
    for corpus, split, number in table.iter_rows():
        counts["corpora"].setdefault(corpus, {})[split] = number
    homes = {part: [name for name, has in counts["corpora"].items() if part in has] for part in ("train", "test")}
    if homes["train"] and homes["test"] and not set(homes["train"]) & set(homes["test"]):
        counts["cross_corpus"] = f"trained on {', '.join(homes['train'])}, tested on {', '.join(homes['test'])}"
    return counts
