from dataclasses import replace

import numpy as np
import pytest
from synthetic_heads import CLASSES, make_units

from fusion.report.findings import FEWEST_UNITS, MOST_MISTAKES, analyse
from fusion.strategies.nested import Fusion, fuse
from fusion.tables.predictions import Predictions
from heads.metrics.scores import evaluate


def units_with(metadata: dict[str, list[str | None]], **options: float) -> Predictions:
    units = make_units(400, strengths=(1.6, 0.5), test_share=0.3, **options)  # type: ignore[arg-type]
    fields = {name: np.array(values, dtype=object) for name, values in metadata.items()}
    return replace(units, metadata=fields)


@pytest.fixture(scope="module")
def found() -> Fusion:
    ages: list[str | None] = [("young", "old", None)[i % 3] for i in range(400)]
    return fuse(
        units_with(
            {
                "age": ages,
                "age_again": [{"young": "1", "old": "2", None: None}[age] for age in ages],
                "place": [f"place {i % 2}" if i % 40 else f"rare {i}" for i in range(400)],
                "name": [f"n{i}" for i in range(400)],
                "<b>": ["x", "y"] * 200,
            }
        ),
        ["mean", "weighted", "attention"],
        bootstrap=100,
    )


def test_subgroups_are_scored_on_their_own_units(found: Fusion) -> None:
    rows = analyse(found).subgroups["age"]
    assert list(rows) == ["old", "young", "(unknown)"] or list(rows) == ["young", "old", "(unknown)"]
    test = found.units.splits == "test"
    old = test & (found.units.metadata["age"] == "old")
    labels = found.units.where(old).label_names
    assert rows["old"].units == old.sum()
    for name, value in (("head:h0", rows["old"].heads["h0"]), (found.chosen, rows["old"].fusion)):
        expected = evaluate(labels, np.exp(found.log_p[name][old]), CLASSES, bootstrap=0)["macro_f1"]["value"]
        assert value == pytest.approx(expected)
    assert rows["old"].best == ("h0",)
    assert rows["old"].low < rows["old"].fusion < rows["old"].high
    assert sum(row.units for row in rows.values()) == test.sum()


def test_small_subgroups_are_pooled_and_useless_fields_left_out(found: Fusion) -> None:
    findings = analyse(found)
    place = findings.subgroups["place"]
    assert min(row.units for row in list(place.values())[:-1]) >= FEWEST_UNITS
    assert list(place)[-1].startswith("(other: ")
    assert set(findings.subgroups) == {"age", "place", "<b>"}
    assert "fewer than two of them" in findings.pooled["name"]
    assert findings.pooled["age_again"] == "divides the units as age does"


def test_every_candidate_but_the_best_head_is_compared_with_it(found: Fusion) -> None:
    findings = analyse(found, bootstrap=100)
    assert set(findings.comparisons) == {"head:h1", "mean", "weighted", "attention"}
    gain = found.gains["h0"]["macro_f1"]
    if found.chosen in findings.comparisons:
        assert findings.comparisons[found.chosen]["macro_f1"] | gain == findings.comparisons[found.chosen]["macro_f1"]


def test_calibration_is_before_from_the_table_and_after_from_the_fusion() -> None:
    units = make_units(600, strengths=(1.5, 1.2), test_share=0.4)
    loud = units.logits.copy()
    loud[:, 0] *= 4  # far too sure
    loud -= np.log(np.exp(loud).sum(axis=2, keepdims=True))
    both = analyse(fuse(replace(units, logits=loud), ["mean"], bootstrap=100)).calibration["h0"]
    assert both["before"]["ece"] > 0.12 > 0.08 > both["after"]["ece"]


@pytest.mark.parametrize("unheard", [1, None])
def test_units_of_which_no_head_says_anything_are_reported_as_they_were_answered(unheard: int | None) -> None:
    units = make_units(200, test_share=0.3)
    silent = np.flatnonzero(units.splits == "test")[:unheard]
    logits, present = units.logits.copy(), units.present.copy()
    logits[silent], present[silent] = np.nan, False
    calibration = analyse(fuse(replace(units, logits=logits, present=present), ["mean"], bootstrap=100))
    assert np.isfinite(calibration.fused_calibration["before"]["ece"])


def test_the_most_confident_mistakes_come_first(found: Fusion) -> None:
    mistakes = analyse(found).mistakes
    assert len(mistakes) == MOST_MISTAKES
    assert all(m.label != m.predicted for m in mistakes)
    confidences = [m.confidence for m in mistakes]
    assert confidences == sorted(confidences, reverse=True)
    test = found.units.splits == "test"
    p = np.exp(found.log_p[found.chosen][test])
    wrong = p.argmax(axis=1) != found.units.labels[test]
    assert confidences[0] == pytest.approx(p[wrong].max())


def test_the_gate_is_told_by_predicted_class(found: Fusion) -> None:
    gate = analyse(found).gate
    assert gate is not None
    assert sum(weight.mean for weight in gate.overall.values()) == pytest.approx(1)
    assert sum(n for n, _ in gate.by_class.values()) == (found.units.splits == "test").sum()
    assert gate.overall["h0"].mean > gate.overall["h1"].mean  # the head that knows more
    assert analyse(fuse(make_units(60), ["mean"], bootstrap=100)).gate is None


def test_a_head_that_is_absent_throughout_has_no_diagram() -> None:
    units = make_units(300, strengths=(1.5, 1.2), test_share=0.3)
    gone = (units.splits == "test")[:, None] & np.array([False, True])
    logits = np.where(gone[..., None], np.nan, units.logits)
    findings = analyse(fuse(replace(units, present=~gone, logits=logits), ["mean"], bootstrap=100))
    assert findings.calibration["h1"] == {}
    assert all(mistake.heads["h1"] is None for mistake in findings.mistakes)
