"""Read the profile's dataset, in its own format, into the manifest that everything downstream reads."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from cache import claimed, writable, write_text_atomically
from configs import UserError, some
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from configs.schema import Profile
from configs.sections.datasets import AvamergDataset, TableDataset
from configs.tables import plain, shortened
from extract.corpora.manifest import Manifest, write_manifest
from extract.corpora.media_paths import Missing, MissingMedia
from extract.corpora.reading import read_dataset
from extract.pages.overview import write_overview


def _summary(manifest: Manifest, path: Path) -> str:
    counts = dict(manifest.counts)
    units, clips, conversations = counts.pop("units"), counts.pop("clips"), counts.pop("conversations")
    notes, warnings = counts.pop("notes", []), counts.pop("warnings", [])
    widths = [max(len(label), 6) for label in manifest.classes]
    lines = [f"{path}: {sum(clips.values())} clips in {sum(conversations.values())} conversations"]
    names = "  ".join(f"{label:>{width}}" for label, width in zip(manifest.classes, widths, strict=True))
    lines.append(f"split    clips   units  {names}")
    for split, per_class in units.items():
        cells = "  ".join(f"{count:>{width}}" for count, width in zip(per_class.values(), widths, strict=True))
        lines.append(f"{split:5} {clips[split]:>8} {sum(per_class.values()):>7}  {cells}")
    lines += _speakers(manifest)
    lines += [f"{name.replace('_', ' ')}: {_in_words(value)}" for name, value in counts.items() if value]
    lines += [f"note: {line}" for line in notes] + [f"warning: {line}" for line in warnings]
    return "\n".join(lines)


def _speakers(manifest: Manifest) -> Iterator[str]:
    """Who speaks in which split."""
    known = manifest.clips.filter(pl.col("speaker").is_not_null())
    for (split,), clips in known.group_by("split", maintain_order=True):
        names = [shortened(name) for name in clips["speaker"].unique(maintain_order=True)]
        yield f"speakers of {split}: {some(names, 12)}"


def _lacking(manifest: Manifest) -> Iterator[str]:
    """Splits in which classes have no unit."""
    for split, numbers in manifest.counts["units"].items():
        lacks = [shortened(label) for label, n in numbers.items() if not n]
        if lacks and len(lacks) < len(numbers):
            yield f"{split} has no unit of {some(lacks, 12)}"


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _list_missing(missing: Sequence[Missing], path: Path) -> None:
    """All files that are named and not there, or no list where there are none."""
    with writable(path):
        path.unlink(missing_ok=True)
        if missing:
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [tuple(plain(str(cell)) for cell in row) for row in missing]
            table = pl.DataFrame(rows, schema=Missing._fields, orient="row")
            write_text_atomically(path, table.write_csv())


def _untrainable(manifest: Manifest, profile: Profile) -> Iterator[str]:
    """What ends the training of every head, said before the encoders run."""
    units = manifest.clips.filter((pl.col("split") == "train") & pl.col("label").is_not_null())
    groups, conversations = units["group"].n_unique(), units["conversation_id"].n_unique()
    regroupable = (AvamergDataset, TableDataset)
    numbers = Counter(units["label"])
    most = max(numbers.values(), default=0)
    if units.is_empty():
        yield "no unit is in train: heads cannot be trained"
    elif len(numbers) < 2:
        yield f"every training unit is labelled {shortened(units['label'][0])}: there is nothing to tell apart"
    elif len(units) - most == 1:
        common = shortened(numbers.most_common(1)[0][0])
        yield f"all but one training unit are labelled {common}: in the fold without it there is nothing to tell apart"
    elif units["fold"].null_count() == 0:
        for fold in sorted(units["fold"].unique()):
            if units.filter(pl.col("fold") != fold)["label"].n_unique() < 2:
                yield f"all training units outside of fold {fold} are of one class: there is nothing to tell apart"
    elif (limit := min(groups, most)) < profile.folds:
        why = f"are of {groups} group(s)" if groups <= most else f"have no class with more than {most} unit(s)"
        remedy = f"set folds to {limit} or fewer" if limit > 1 else "fewer folds do not help"
        if groups <= most and conversations > groups and most > 1 and isinstance(profile.dataset, regroupable):
            key = "dataset.group: conversation"
            if isinstance(profile.dataset, TableDataset):
                columns = profile.dataset.columns
                key = f"dataset.columns.group: {columns.get('conversation_id', columns.get('clip_id', 'an id'))}"
            remedy += f"; {key} makes {conversations} (speakers are then shared between folds, as report and audit say)"
        yield f"the training units {why}, too few for folds = {profile.folds}: {remedy}"


def _folds_said(manifest: Manifest, profile: Profile) -> Iterator[str]:
    """That the folds are the data's own, and the profile's number is not used."""
    given = manifest.counts.get("folds_given", {})
    if given and "folds" in profile.model_fields_set and profile.folds != len(given):
        yield f"the data says which fold predicts which unit: its {len(given)} folds, not folds = {profile.folds}"


def main(
    config: ConfigOption = None,
    overrides: OverrideArgument = None,
    overview: Annotated[bool, typer.Option(help="Write overview.html, too: the data to look at.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 2 where no head could be trained.")] = False,
) -> None:
    """Read the profile's dataset and write runs/NAME/manifest.parquet: a row per clip, with its label and split.

    No model is run: this takes seconds. Printed, and kept in manifest.json beside the manifest: clips and units per
    split and class, and what was dropped or not found, with the reason. Media files that are named and not there are
    all listed in missing_media.csv. overview.html shows the same, and how long media are by their headers; for it a
    dozen clips are decoded.
    """
    profile = load(config, overrides)
    path = profile.manifest_path
    missing = path.with_name("missing_media.csv")
    try:
        manifest = read_dataset(profile.dataset, profile.seed)
    except MissingMedia as error:
        _list_missing(error.missing, missing)
        raise UserError(f"{error}; all {len(error.missing)} are listed in {missing}") from error
    problems = list(_untrainable(manifest, profile))
    notes = [*manifest.counts.get("notes", []), *_folds_said(manifest, profile)]
    warnings = [*manifest.counts.get("warnings", []), *_lacking(manifest), *problems]
    said = {name: lines for name, lines in (("notes", notes), ("warnings", warnings)) if lines}
    manifest = replace(manifest, counts=manifest.counts | said)
    counts = json.dumps(manifest.counts, indent=2, ensure_ascii=False) + "\n"
    with claimed(path):
        write_manifest(manifest, path)
        with writable(path.with_suffix(".json")):
            write_text_atomically(path.with_suffix(".json"), counts)
        _list_missing(manifest.missing, missing)
        if overview:
            with writable(path.with_name("overview.html")):
                write_overview(manifest, path.with_name("overview.html"), profile.name)
    print(_summary(manifest, path))
    if strict and problems:
        raise UserError(problems[0])


if __name__ == "__main__":
    command(main)
