"""``report.html``: one file that opens anywhere, without network, and shows what the fusion is worth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from extract.pages.rendering import environment
from fusion.report.context import Told, media_root, told
from fusion.report.doubt import SHOWN
from fusion.report.findings import FEWEST_UNITS, SAME, Findings, Mistake
from fusion.report.outputs import display_name, fell_back, fold_scores, untestable, worsened
from fusion.report.provenance import Run, gather, text_of
from fusion.report.significance import LEVEL
from fusion.report.training import Panel, read_curves, read_layers
from fusion.strategies.choice import BASELINE, HEAD
from fusion.strategies.nested import FEW_GROUPS, Fusion
from fusion.tables.predictions import SPLITS
from heads.metrics.printed import PAPERS, interval, shown

if TYPE_CHECKING:
    from extract.pages.thumbnails import Picture

Shown = tuple[Mistake, Told | None, "Picture | None"]
__all__ = ["Run", "gather", "write_report"]

TEMPLATE = "report.html.j2"  # its sections are in templates/parts/
MOST_REASONS = 30  # rows of the errors table
UNFOLDED_MISTAKES = 9  # three rows of them; the others are folded away
LONGEST_TEXT = 320  # characters of what was said
LEADING = 3  # strategies that are shown beside the chosen one; the others are folded away
FEWEST_TO_DIAGNOSE = 50  # units; with fewer, only the choice has a reliability diagram


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
        scales={split: _scale(found, split) for split in found.scores[found.chosen]},
        leading=_leading(found),
        untestable=untestable(found),
        worsened=worsened,
        better_calibrated=_better_calibrated(found),
        class_counts=_class_counts(found),
        counts=list(_flatten(run.counts)),
        mistakes=_by_confusion(_shown(findings.mistakes, run.manifest)),
        n_mistakes=round(score["n_units"] * (1 - score["accuracy"]["value"])),
        curves={head: read_curves(file) for head, file in run.sources.items()},
        layers={head: said for head, file in run.sources.items() if (said := read_layers(file))},
        constants={
            "fewest": FEWEST_UNITS,
            "unfolded": UNFOLDED_MISTAKES,
            "reasons": MOST_REASONS,
            "text": LONGEST_TEXT,
            "level": LEVEL,
            "diagnose": FEWEST_TO_DIAGNOSE,
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
    if len(sentences) > 1 and untestable(found):
        sentences.append(f"No difference on {found.headline} can be tested: {untestable(found)}.")
    return sentences


def _against(other: str, gain: dict[str, float], certainty: str) -> str:
    size = abs(gain["value"])
    if math.isnan(gain["low"]):
        return f"It is {size:.3f} {'above' if gain['value'] >= 0 else 'below'} {other}."
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
        return f"Of {against} nothing was clearly better than the {what} on {where}, so the fusion fell back to it."
    return f"Of {against}, “{found.chosen}” was taken, on {where} that its fit had not seen."


def p_value(p: float) -> str:
    """As is common: ``.034``, ``< .001``, a dash where there is none."""
    if math.isnan(p):
        return "–"
    return "< .001" if p < 0.001 else "1" if p >= 0.9995 else f"{p:.3f}".removeprefix("0")


@dataclass(frozen=True)
class Scale:
    """The axis of a table of scores."""

    low: float
    high: float
    ticks: list[float]
    chance: float  # macro-F1 of guessing evenly among the classes

    def place(self, value: float) -> float:
        """From 0, at its left end, to 1."""
        return (value - self.low) / (self.high - self.low)


def _scale(found: Fusion, split: str) -> Scale:
    """From guessing, or the lowest interval of macro-F1 of a table, to the highest; the majority class left aside."""
    chance = 1 / len(found.units.classes)
    scores = [s[split]["macro_f1"] for name, s in found.scores.items() if name != "majority" and split in s]
    values = [v for s in scores for v in (s["value"], s["low"], s["high"]) if not math.isnan(v)]
    low, high = max(0.0, min(chance, *values) - 0.03), min(1.0, max(values) + 0.03)
    step = 0.1 if high - low < 0.55 else 0.2
    ticks = [step * i for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]
    return Scale(low, high, ticks, chance)


def _leading(found: Fusion) -> set[str]:
    """What the tables show at once: the choice, the strategies next to it, the heads, the best baseline."""

    def score(name: str) -> float:
        return float(found.scores[name][found.judged_on]["macro_f1"]["value"])

    others = [name for name in found.strategies if name != found.chosen]
    best = sorted(others, key=score, reverse=True)[:LEADING]
    heads = [f"{HEAD}{head}" for head in found.units.heads]
    baseline = [f"{BASELINE}{found.best_baseline}"] if found.best_baseline else []
    return {found.chosen, "majority", *best, *heads, *baseline}


def _better_calibrated(found: Fusion) -> tuple[str, float] | None:
    """Of the candidates whose macro-F1 is the choice's, the one with the lowest ECE, where it is not the choice."""

    def at(name: str) -> dict[str, Any]:
        score: dict[str, Any] = found.scores[name][found.headline]
        return score

    chosen = at(found.chosen)
    equal = [n for n in found.scores if abs(at(n)["macro_f1"]["value"] - chosen["macro_f1"]["value"]) < SAME]
    best = min(equal, key=lambda name: float(at(name)["ece"]))
    return (best, at(best)["ece"]) if at(best)["ece"] < chosen["ece"] - SAME else None


def _by_confusion(shown: list[Shown]) -> list[Shown]:
    """Mistakes by what was taken for what: those of the surest one first."""
    kinds: dict[tuple[str, str], list[Shown]] = {}
    for each in shown:
        kinds.setdefault((each[0].label, each[0].predicted), []).append(each)
    return [each for kind in kinds.values() for each in kind]


def _shown(mistakes: Sequence[Mistake], manifest: Path | None) -> list[Shown]:
    """Mistakes with what the manifest knows of their clips, and pictures of these."""
    if manifest is None:
        return [(mistake, None, None) for mistake in mistakes]
    from extract.pages.thumbnails import pictures  # the media libraries, which predictions from elsewhere do not need

    known = told(manifest, [mistake.unit_id for mistake in mistakes])
    with_media = [mistake.unit_id for mistake in mistakes if mistake.unit_id in known]
    drawn = pictures([(known[unit].video, known[unit].audio) for unit in with_media], media_root(manifest), heard=True)
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
