"""Read the profile's dataset, in its own format, into the manifest that everything downstream reads."""

import json
from pathlib import Path
from typing import Any

from cache import claimed, explained, write_text_atomically
from configs import ConfigOption, OverrideArgument, Profile, command, load
from extract.corpora.avamerg import read_avamerg
from extract.corpora.manifest import Manifest, write_manifest
from extract.corpora.table import read_table


def _read_dataset(profile: Profile) -> Manifest:
    if profile.dataset.adapter == "avamerg":
        return read_avamerg(profile.dataset)
    return read_table(profile.dataset, profile.seed)


def _summary(manifest: Manifest, path: Path) -> str:
    counts = dict(manifest.counts)
    units, clips, conversations = counts.pop("units"), counts.pop("clips"), counts.pop("conversations")
    widths = [max(len(label), 6) for label in manifest.classes]
    lines = [f"{path}: {sum(clips.values())} clips in {sum(conversations.values())} conversations"]
    names = "  ".join(f"{label:>{width}}" for label, width in zip(manifest.classes, widths, strict=True))
    lines.append(f"split    clips   units  {names}")
    for split, per_class in units.items():
        cells = "  ".join(f"{count:>{width}}" for count, width in zip(per_class.values(), widths, strict=True))
        lines.append(f"{split:5} {clips[split]:>8} {sum(per_class.values()):>7}  {cells}")
    lines += [f"{name.replace('_', ' ')}: {_in_words(value)}" for name, value in counts.items() if value]
    return "\n".join(lines)


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def main(config: ConfigOption = None, overrides: OverrideArgument = None) -> None:
    """Read the profile's dataset and write runs/NAME/manifest.parquet: a row per clip, with its label and split.

    Nothing is decoded and no model is run: this takes seconds. Printed, and kept in manifest.json beside the
    manifest: clips and units per split and class, and what was dropped or not found, with the reason.
    """
    profile = load(config, overrides)
    manifest = _read_dataset(profile)
    path = profile.manifest_path
    counts = json.dumps(manifest.counts, indent=2, ensure_ascii=False) + "\n"
    with claimed(path):
        write_manifest(manifest, path)
        with explained(path.with_suffix(".json")):
            write_text_atomically(path.with_suffix(".json"), counts)
    print(_summary(manifest, path))


if __name__ == "__main__":
    command(main)
