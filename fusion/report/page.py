"""``report.html``: one file that opens anywhere, without network, and shows what the fusion is worth."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from extract.pages.rendering import environment
from fusion.report.context import Told, media_root, told
from fusion.report.doubt import SHOWN
from fusion.report.findings import FEWEST_UNITS, MOST_MISTAKES, Findings, Mistake
from fusion.report.outputs import display_name, fell_back, fold_scores
from fusion.report.provenance import Run, gather, text_of
from fusion.report.significance import LEVEL
from fusion.report.training import Panel, read_curves, read_layers
from fusion.strategies.choice import BASELINE, HEAD
from fusion.strategies.nested import FEW_GROUPS, Fusion
from fusion.tables.predictions import SPLITS
from heads.metrics import PAPERS, interval, shown

if TYPE_CHECKING:
    from extract.pages.thumbnails import Picture

__all__ = ["Run", "gather", "write_report"]

TEMPLATE = "report.html.j2"  # its sections are in templates/parts/
MOST_REASONS = 30  # rows of the errors table
LONGEST_TEXT = 320  # characters of what was said


def write_report(path: Path, found: Fusion, run: Run, findings: Findings) -> None:
    """Render the report. Everything that comes from data is escaped; nothing in it is fetched."""
    pages = environment(Path(__file__).with_name("templates"))
    pages.filters |= {
        "interval": interval,
        "shown": shown,
        "display": display_name,
        "p": p_value,
        "polyline": _polyline,
        "breakable": _breakable,
        "text_of": text_of,
    }
    score = found.scores[found.chosen][found.headline]
    html = pages.get_template(TEMPLATE).render(
        run=run,
        found=found,
        by_fold=fold_scores(found),
        papers=PAPERS,
        findings=findings,
        score=score,
        classes=found.units.classes,
        chosen_name=chosen_name(found),
        sentences=plain_reading(found, findings),
        choice=_choice(found, findings),
        splits=sorted(found.scores[found.chosen], key=lambda s: s != found.headline),
        best=found.scores[f"{HEAD}{found.best_head}"][found.headline],
        majority=found.scores["majority"][found.headline],
        baseline=found.scores[f"{BASELINE}{found.best_baseline}"][found.headline] if found.best_baseline else None,
        fell_back=fell_back(found),
        is_head=found.chosen.startswith(HEAD),
        is_baseline=found.chosen.startswith(BASELINE),
        ranges={split: _range(found, split) for split in found.scores[found.chosen]},
        class_counts=_class_counts(found),
        counts=list(_flatten(run.counts)),
        mistakes=_shown(findings.mistakes, run.manifest),
        n_mistakes=round(score["n_units"] * (1 - score["accuracy"]["value"])),
        curves={head: read_curves(file) for head, file in run.sources.items()},
        layers={head: said for head, file in run.sources.items() if (said := read_layers(file))},
        constants={
            "fewest": FEWEST_UNITS,
            "mistakes": MOST_MISTAKES,
            "reasons": MOST_REASONS,
            "text": LONGEST_TEXT,
            "level": LEVEL,
        },
        shown_confidence=SHOWN,
        flattered=", ".join(dict.fromkeys(gap.split for gap in found.gaps if gap.verdict != "pass")),
        rule=found.rule,
        HEAD=HEAD,
        BASELINE=BASELINE,
        nan=math.nan,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        is_known=lambda s: not math.isnan(s["low"]),
    )
    path.write_text(html, encoding="utf-8")


def chosen_name(found: Fusion) -> str:
    if found.chosen.startswith(BASELINE):
        name = f"plain baseline of head {found.chosen.removeprefix(BASELINE)}"
    else:
        name = f"{display_name(found.chosen)} alone" if fell_back(found) else f"fusion ({found.chosen})"
    return f"transductive {name}" if found.transductive else name


def plain_reading(found: Fusion, findings: Findings) -> list[str]:
    """The headline in words: what it is, and whether the gains over the best head and the best plain baseline are more
    than chance."""
    score, majority = found.scores[found.chosen][found.headline], found.scores["majority"][found.headline]
    units = f"{score['n_units']:,} {'training' if found.headline == 'oof' else found.headline} units"
    guess, f1 = majority["macro_f1"]["value"], score["macro_f1"]
    span = "" if math.isnan(f1["low"]) else f" (95 % interval {f1['low']:.3f} to {f1['high']:.3f})"
    sentences = [
        f"On {units} the {chosen_name(found)} names the right one of {len(found.units.classes)} emotions "
        f"{score['accuracy']['value']:.0%} of the time, macro-F1 {f1['value']:.3f}{span}; "
        f"always answering “{majority['class']}” gets {majority['accuracy']['value']:.0%} and {guess:.3f}."
    ]
    few = score["n_groups"] < FEW_GROUPS
    certainty = f"a hint, no more, from {score['n_groups']} groups" if few else "more than chance explains"
    if found.chosen != f"{HEAD}{found.best_head}":
        other = f"the best single head, {found.best_head}"
        sentences.append(_against(other, found.gains[found.best_head]["macro_f1"], certainty))
    if findings.over_baseline is not None:
        reached = found.scores[f"{BASELINE}{found.best_baseline}"][found.headline]["macro_f1"]["value"]
        other = f"the best plain baseline, that of head {found.best_baseline} ({reached:.3f})"
        sentences.append(_against(other, findings.over_baseline["macro_f1"], certainty))
    return sentences


def _against(other: str, gain: dict[str, float], certainty: str) -> str:
    size = abs(gain["value"])
    if math.isnan(gain["low"]):
        return f"It differs from {other}, by {gain['value']:+.3f}."
    if gain["low"] > 0:
        return f"It beats {other}, by {size:.3f}: {certainty}."
    if gain["high"] < 0:
        return f"It is worse than {other}, by {size:.3f}: {certainty}."
    direction = "above" if gain["value"] >= 0 else "below"
    return f"It is {size:.3f} {direction} {other}; so small a gap can be chance."


def _choice(found: Fusion, findings: Findings) -> str:
    """How the strategy came to be the one, in a sentence."""
    if found.forced:
        return f"“{found.chosen}” was asked for; it did not have to win a comparison."
    compared = f"{len(found.strategies)} strateg{'ies' if len(found.strategies) > 1 else 'y'}"
    n_heads, n_baselines = len(found.units.heads), len(set(found.units.distinct_baselines.values()))
    singles = [f"{n_heads} single head{'s' * (n_heads > 1)}"]
    singles += [f"{n_baselines} plain baseline{'s' * (n_baselines > 1)}"] * (n_baselines > 0)
    against = f"{compared}{', ' if n_baselines else ' and '}{' and '.join(singles)}"
    where = "training units" if found.judged_on == "oof" else "val units"
    if fell_back(found):
        what = "plain baseline" if found.chosen.startswith(BASELINE) else "single head"
        return f"Of {against} nothing beat the {what} on {where}, so the fusion fell back to it."
    return f"Of {against}, “{found.chosen}” was taken, on {where} that its fit had not seen."


def p_value(p: float) -> str:
    """As is common: ``.034``, ``< .001``, a dash where there is none."""
    if math.isnan(p):
        return "–"
    return "< .001" if p < 0.001 else "1" if p >= 0.9995 else f"{p:.3f}".removeprefix("0")


def _range(found: Fusion, split: str) -> tuple[float, float]:
    """From where to where the intervals of macro-F1 reach in a table, the majority class left aside."""
    scores = [s[split]["macro_f1"] for name, s in found.scores.items() if name != "majority" and split in s]
    values = [v for s in scores for v in (s["value"], s["low"], s["high"]) if not math.isnan(v)]
    margin = max(0.01, 0.04 * (max(values) - min(values)))
    return max(0.0, min(values) - margin), min(1.0, max(values) + margin)


def _shown(mistakes: Sequence[Mistake], manifest: Path | None) -> list[tuple[Mistake, Told | None, "Picture | None"]]:
    """Mistakes with what the manifest knows of their clips, and pictures of these."""
    if manifest is None:
        return [(mistake, None, None) for mistake in mistakes]
    from extract.pages.thumbnails import pictures  # the media libraries, which predictions from elsewhere do not need

    known = told(manifest, [mistake.unit_id for mistake in mistakes])
    with_media = [mistake.unit_id for mistake in mistakes if mistake.unit_id in known]
    drawn = pictures([(known[unit].video, known[unit].audio) for unit in with_media], media_root(manifest))
    by_unit = dict(zip(with_media, drawn, strict=True))
    return [(mistake, known.get(mistake.unit_id), by_unit.get(mistake.unit_id)) for mistake in mistakes]


def _class_counts(found: Fusion) -> dict[str, list[int]]:
    """Split: units of each class."""
    units = found.units
    return {
        split: np.bincount(units.labels[units.splits == split], minlength=len(units.classes)).tolist()
        for split in SPLITS
        if (units.splits == split).any()
    }


def _flatten(counts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested counts as (name, value) rows."""
    rows = []
    for key, value in counts.items():
        name = f"{prefix} › {key}" if prefix else str(key)
        rows += _flatten(value, name) if isinstance(value, dict) else [(name, text_of(value))]
    return rows


def _breakable(name: str) -> Markup:
    """A name that may be broken after its underscores and hyphens."""
    return Markup(escape(name).replace("_", Markup("_<wbr>")).replace("-", Markup("-<wbr>")))


def _polyline(points: Sequence[tuple[float, float]], panel: Panel, width: float, height: float) -> str:
    """Points of a panel in the coordinates of an SVG picture, whose y axis points down."""
    reach = (panel.high - panel.low) or 1.0
    placed = [(x / max(panel.last, 1) * width, (panel.high - y) / reach * height) for x, y in points]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
