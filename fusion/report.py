"""``report.html``: one file that opens anywhere, without network, and shows what the fusion is worth."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl

from configs import Profile
from fusion.metrics import interval
from fusion.nested import FEW_GROUPS, RULE, Fusion
from fusion.outputs import display_name
from fusion.predictions import SPLITS

TEMPLATE = Path(__file__).with_name("report.html.j2")
MOST_REASONS = 30  # rows of the errors table


@dataclass(frozen=True)
class Run:
    """What surrounds a fusion: where its inputs came from."""

    name: str
    sources: dict[str, Path]  # head: prediction table
    commands: list[str]  # that make this report again
    privileged: list[str] = field(default_factory=list)  # heads that read label-derived columns
    counts: dict[str, Any] = field(default_factory=dict)  # what the dataset adapter met
    stores: list[tuple[str, str, str]] = field(default_factory=list)  # modality, encoder, fingerprint
    errors: list[tuple[str, str, str, list[str]]] = field(default_factory=list)  # modality, stage, reason, clip ids


def gather(files: dict[str, Path], profile: Profile | None, config: str | None, command_line: str) -> Run:
    """Collect what the run's folders say about the inputs; files that do not exist are left out."""
    privileged = [head for head, path in files.items() if _json(path.parent / "model" / "head.json").get("privileged")]
    if profile is None:
        return Run("fusion of " + ", ".join(files), files, [command_line], privileged)
    option = f" --config {config}" if config else ""
    is_of_profile = all(head in profile.heads for head in files)
    privileged += [h for h in files if is_of_profile and profile.heads[h].privileged and h not in privileged]
    commands = [
        f"python extract/manifest.py{option}",
        *(f"python extract/run.py{option} --modality {modality}" for modality in profile.encoders),
        *(f"python heads/train.py{option} --head {head}" for head in files),
        command_line,
    ]
    stores: list[tuple[str, str, str]] = []
    errors: list[tuple[str, str, str, list[str]]] = []
    for modality, encoder in profile.encoders.items():
        fingerprint = _json(profile.store_path(modality) / "store.json").get("fingerprint")
        if fingerprint is not None:
            stores.append((modality, f"{encoder.family}, {encoder.model}", _text(fingerprint)))
        errors += _errors(modality, profile.store_path(modality) / "errors.parquet")
    return Run(
        profile.name,
        files,
        commands if is_of_profile else [command_line],
        privileged,
        _json(profile.manifest_path.with_suffix(".json")),
        stores,
        errors,
    )


def write_report(path: Path, found: Fusion, run: Run) -> None:
    """Render the report. Everything that comes from data is escaped; nothing in it is fetched."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "interval": interval, "display": display_name}
    score = found.scores[found.chosen][found.headline]
    confusion = np.array(score["confusion"])
    html = environment.get_template(TEMPLATE.name).render(
        run=run,
        found=found,
        score=score,
        classes=found.units.classes,
        chosen_name=chosen_name(found),
        sentences=plain_reading(found),
        splits=sorted(found.scores[found.chosen], key=lambda s: s != found.headline),
        best=found.scores[f"head:{found.best_head}"][found.headline],
        majority=found.scores["majority"][found.headline],
        confusion=confusion.tolist(),
        shares=(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)).tolist(),
        class_counts=_class_counts(found),
        counts=list(_flatten(run.counts)),
        errors=run.errors[:MOST_REASONS],
        more_errors=len(run.errors) - MOST_REASONS,
        rule=RULE,
        nan=math.nan,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        is_known=lambda s: not math.isnan(s["low"]),
    )
    path.write_text(html, encoding="utf-8")


def chosen_name(found: Fusion) -> str:
    return f"head {found.best_head} alone" if found.chosen.startswith("head:") else f"fusion ({found.chosen})"


def plain_reading(found: Fusion) -> list[str]:
    """The headline in words: what it is, and whether the gain over the best head is more than chance."""
    score, majority = found.scores[found.chosen][found.headline], found.scores["majority"][found.headline]
    units = f"{score['n_units']:,} {'training' if found.headline == 'oof' else 'test'} units"
    guess = majority["macro_f1"]["value"]
    sentences = [
        f"On {units} the {chosen_name(found)} names the right one of {len(found.units.classes)} emotions "
        f"{score['accuracy']['value']:.0%} of the time, macro-F1 {score['macro_f1']['value']:.3f}; "
        f"always answering “{majority['class']}” gets {majority['accuracy']['value']:.0%} and {guess:.3f}."
    ]
    gain = found.gains[found.best_head]["macro_f1"]
    head, size = found.best_head, abs(gain["value"])
    few = score["n_groups"] < FEW_GROUPS
    certainty = f"a hint, no more, from {score['n_groups']} groups" if few else "more than chance explains"
    if found.chosen.startswith("head:"):
        sentences.append(f"No way of combining heads did better on training units than head {head} by itself.")
    elif math.isnan(gain["low"]):
        sentences.append(f"It differs from the best single head, {head}, by {gain['value']:+.3f}.")
    elif gain["low"] > 0:
        sentences.append(f"It beats the best single head, {head}, by {size:.3f}: {certainty}.")
    elif gain["high"] < 0:
        sentences.append(f"It is worse than the best single head, {head}, by {size:.3f}: {certainty}.")
    else:
        direction = "above" if gain["value"] >= 0 else "below"
        sentences.append(f"It is {size:.3f} {direction} the best single head, {head}; so small a gap can be chance.")
    return sentences


def _class_counts(found: Fusion) -> dict[str, list[int]]:
    """Split: units of each class."""
    units = found.units
    return {
        split: np.bincount(units.labels[units.splits == split], minlength=len(units.classes)).tolist()
        for split in SPLITS
        if (units.splits == split).any()
    }


def _errors(modality: str, path: Path) -> list[tuple[str, str, str, list[str]]]:
    """Reasons with the clips that failed for them, the most frequent first."""
    if not path.is_file():
        return []
    clips: dict[tuple[str, str], list[str]] = {}
    for clip_id, stage, reason in pl.read_parquet(path, columns=["clip_id", "stage", "reason"]).iter_rows():
        clips.setdefault((str(stage), str(reason)), []).append(str(clip_id))
    return [(modality, *key, ids) for key, ids in sorted(clips.items(), key=lambda item: -len(item[1]))]


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _flatten(counts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested counts as (name, value) rows."""
    rows = []
    for key, value in counts.items():
        name = f"{prefix} › {key}" if prefix else str(key)
        rows += _flatten(value, name) if isinstance(value, dict) else [(name, _text(value))]
    return rows


def _percent(value: float) -> str:
    """For CSS: 0.1234 is 12.34%."""
    return f"{100 * value:.2f}%"
