import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from synthetic_heads import CLASSES, make_units

from fusion.report.charts import _per_class, write_charts
from fusion.report.doubt import sets_of
from fusion.report.findings import analyse
from fusion.report.outputs import summary, write_outputs
from fusion.report.page import gather, write_report
from fusion.strategies.conformal import SETS_FILE
from fusion.strategies.nested import Fusion, fuse
from heads.metrics.calibration import reliability

KEYS = {
    "headline", "choice", "plain", "best_head", "gain_over_best_head", "majority", "heads", "strategies",
    "significance", "confusion", "per_class", "calibration", "where_heads_win", "gate_weights", "mistakes", "decision",
    "optimism", "baselines", "best_baseline", "gain_over_best_baseline", "by_fold", "confidence",
}  # fmt: skip


def fused(strategies: list[str], **options: float) -> Fusion:
    units = make_units(300, test_share=0.3, **options)  # type: ignore[arg-type]
    gender = np.array(["female", "male"] * 150, dtype=object)
    return fuse(replace(units, metadata={"gender": gender}), strategies, bootstrap=100)


@pytest.fixture(scope="module")
def found() -> Fusion:
    units = make_units(300, test_share=0.3, absent=0.1)
    gender = np.array(["female", "male"] * 150, dtype=object)
    simple = make_units(300, (0.5,), test_share=0.3, seed=1).logits[:, 0]
    units = replace(units, metadata={"gender": gender}, baselines={"h0": simple})
    return fuse(units, ["mean", "weighted", "attention"], bootstrap=100)


@pytest.fixture(scope="module")
def folder(found: Fusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fusion")
    findings = analyse(found)
    write_outputs(found, folder, findings)
    write_charts(found, folder, findings)
    return folder


def test_metrics_json_keeps_its_keys(found: Fusion, folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == KEYS
    assert {"split", "strategy", "transductive", "macro_f1", "macro_f1_low", "ece", "classwise_ece", "n_units"} <= set(
        metrics["headline"]
    )
    by_fold = metrics["by_fold"][found.chosen]
    assert [each["fold"] for each in by_fold["folds"]] == np.unique(found.units.folds[found.units.folds >= 0]).tolist()
    keys = {"strategy", "rule", "judged_on", "forced", "fell_back", "transductive", "notes", "warnings"}
    assert set(metrics["choice"]) == keys
    assert set(metrics["optimism"][0]) == {"candidate", "split", "oof", "held", "p", "verdict"}
    for candidate in metrics["significance"]["candidates"].values():
        assert set(candidate) == {"macro_f1", "accuracy", "mcnemar"}
        assert {"value", "low", "high", "p", "p_holm"} == set(candidate["macro_f1"])
        assert {"gained", "lost", "p", "p_holm"} == set(candidate["mcnemar"])
    assert set(metrics["calibration"]) == {"temperatures", "heads", "fusion"}
    assert set(metrics["calibration"]["heads"]["h0"]["before"]) == {"ece", "classwise_ece", "bins"}
    row = {"units", "fusion", "heads", "best", "low", "high"}
    assert set(metrics["where_heads_win"]["classes"]["sad"]) == row
    assert set(metrics["where_heads_win"]["subgroups"]["gender"]["male"]) == row
    assert set(metrics["gate_weights"]["overall"]) == {"h0", "h1"}
    assert {"mean", "std"} == set(metrics["gate_weights"]["by_predicted_class"]["sad"]["heads"]["h1"])
    assert {"unit_id", "label", "predicted", "confidence", "of_label", "heads"} == set(metrics["mistakes"][0])


def test_the_numbers_agree_with_each_other(found: Fusion, folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    confusion = np.array(metrics["confusion"]["fusion"])
    assert confusion.trace() / confusion.sum() == pytest.approx(metrics["headline"]["accuracy"])
    assert metrics["calibration"]["fusion"]["after"]["ece"] == metrics["headline"]["ece"]
    listed = pl.read_csv(folder / "confusion.csv")
    assert (listed["actual"] != listed["predicted"]).sum() == confusion.sum() - confusion.trace()
    assert metrics["per_class"]["fusion"]["sad"]["f1"] == metrics["where_heads_win"]["classes"]["sad"]["fusion"]
    candidate = metrics["significance"]["candidates"]["mean"]["mcnemar"]
    best = metrics["best_head"]["accuracy"] * metrics["best_head"]["n_units"]
    mean = metrics["strategies"]["mean"]["test"]["accuracy"] * metrics["best_head"]["n_units"]
    assert mean - best == pytest.approx(candidate["gained"] - candidate["lost"])


def test_the_corrected_decision_stands_beside_the_plain_one(found: Fusion, folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    decision = metrics["decision"]
    assert set(decision) == {"tau", "metric", "oof", "test"}
    assert decision["metric"] == "macro_f1"
    assert {"macro_f1", "macro_f1_low", "accuracy_high"} <= set(decision["test"])
    if not decision["tau"]:
        assert decision["test"]["macro_f1"] == metrics["headline"]["macro_f1"]
    favoured = replace(found, decision=replace(found.decision, tau=0.5))
    text = summary(favoured, analyse(favoured))
    assert f"on test: macro-F1 {decision['test']['macro_f1']:.3f} " in text
    assert f" for {metrics['headline']['macro_f1']:.3f}, accuracy" in text
    plain = replace(found, decision=replace(found.decision, tau=0.0))
    assert "no class is to be favoured" in summary(plain, analyse(plain))


def test_sets_of_classes_are_counted_on_each_split(found: Fusion, folder: Path) -> None:
    doubt = json.loads((folder / "metrics.json").read_text())["confidence"]
    assert doubt["plain"] is None
    assert set(doubt["splits"]) == {"oof", "test"}
    sets = sets_of(found.units, found.log_p[found.chosen])
    assert json.loads((folder / "model" / SETS_FILE).read_text())["everyone"]["units"] == sets.everyone.units
    assert (
        doubt["calibration"]["groups"]
        == sets.everyone.groups
        == len(set(found.units.groups[found.units.splits == "oof"]))
    )
    rows = found.units.where(found.units.splits == "test")
    inside = sets.sets(np.exp(found.log_p[found.chosen][found.units.splits == "test"]), rows.present, 0.9)
    hit = inside[np.arange(len(inside)), rows.labels]
    score = doubt["splits"]["test"]["0.9"]
    assert score["unit_coverage"]["value"] == pytest.approx(hit.mean())
    assert score["coverage"]["value"] == pytest.approx(
        np.mean([hit[rows.groups == name].mean() for name in set(rows.groups)])
    )
    assert score["size"]["value"] == pytest.approx(inside.sum(axis=1).mean())
    assert score["coverage"]["low"] <= score["coverage"]["value"] <= score["coverage"]["high"]
    sad = score["per_class"]["sad"]
    assert sad["coverage"]["value"] == pytest.approx(hit[rows.labels == 1].mean())
    assert sum(each["units"] for each in score["per_class"].values()) == score["n_units"] == len(hit)
    assert "Sets of classes at 90% confidence hold the true one on test in" in (folder / "summary.txt").read_text()


def test_the_plain_baseline_stands_beside_the_rest(found: Fusion, folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["best_baseline"] == {"head": "h0", **metrics["baselines"]["h0"]["test"]}
    gain = metrics["headline"]["macro_f1"] - metrics["best_baseline"]["macro_f1"]
    assert metrics["gain_over_best_baseline"]["macro_f1"] == pytest.approx(gain)
    assert "baseline:h0" in metrics["significance"]["candidates"]
    assert f"{gain:+.3f} macro-F1 over the plain baseline of h0" in (folder / "summary.txt").read_text()


def test_where_the_baseline_wins_the_fusion_is_it(tmp_path: Path) -> None:
    """Its diagram is of its own probabilities, before and after; no picture or page minds."""
    units = make_units(300, (0.5, 0.4), test_share=0.3)
    own = make_units(300, (3.0,), test_share=0.3).logits[:, 0]
    found = fuse(replace(units, baselines={"h1": own}), ["mean"], bootstrap=100)
    assert found.chosen == "baseline:h1"
    findings = analyse(found, 100)
    rows = found.units.splits == "test"
    labels = found.units.where(rows).label_names
    assert findings.fused_calibration["before"] == reliability(labels, np.exp(own[rows]), CLASSES)
    assert findings.over_baseline is None
    write_outputs(found, tmp_path, findings)
    write_charts(found, tmp_path, findings)
    write_report(tmp_path / "report.html", found, gather({}, None, None, "fuse"), findings)
    html = (tmp_path / "report.html").read_text()
    assert "nothing was clearly better than the plain baseline on training units, so the fusion fell back to it" in html
    assert "the plain baseline of head h1 names the right one" in html
    assert json.loads((tmp_path / "metrics.json").read_text())["choice"]["fell_back"] is True


def test_one_group_gives_null_rather_than_nan(tmp_path: Path) -> None:
    units = make_units(120, test_share=0.5)
    one = np.where(units.splits == "test", "everyone", units.groups)
    found = fuse(replace(units, groups=one), ["mean"], bootstrap=100)
    write_outputs(found, tmp_path, analyse(found))
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    metrics = json.loads(text)
    assert metrics["headline"]["macro_f1_low"] is None
    assert metrics["significance"]["candidates"]["mean"]["macro_f1"]["p_holm"] is None
    assert metrics["gate_weights"] is None


def test_a_fall_back_is_said(tmp_path: Path) -> None:
    found = fused(["mean"], strengths=(3.0, 0.0))  # type: ignore[arg-type]
    text = write_outputs(found, tmp_path, analyse(found))
    assert found.chosen == "head:h0"
    assert json.loads((tmp_path / "metrics.json").read_text())["choice"]["fell_back"] is True
    assert "Nothing was clearly better than head" in text


def test_the_summary_is_a_page(folder: Path) -> None:
    lines = (folder / "summary.txt").read_text().splitlines()
    assert len(lines) < 66
    assert any(line.startswith("on test, against head ") for line in lines)
    assert any(line.startswith("- head h0, out of fold: UA ") and "weighted F1" in line for line in lines)
    assert any(line.startswith("- ") and ", test: UA " in line for line in lines)
    for name in ("h0", "h1", *CLASSES):
        assert any(line.startswith(f"  {name} ") for line in lines)


def test_the_charts_are_drawn(folder: Path) -> None:
    names = {"strategies", "confusion_matrix", "per_class", "reliability", "where_heads_win", "gate_weights"}
    assert {path.stem for path in folder.glob("*.png")} == names
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_same_input_same_bytes(found: Fusion, folder: Path, tmp_path: Path) -> None:
    write_outputs(found, tmp_path, analyse(found))
    for name in ("metrics.json", "summary.txt", "headline.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_class_without_a_unit_and_labels_of_any_script(tmp_path: Path) -> None:
    """No test unit is angry: there is nothing to score, which is not a score of 0. No picture warns of its labels."""
    units = replace(make_units(300, test_share=0.3), classes=("很高兴", "दुखी", "غاضب"))
    kept = (units.splits == "oof") | (units.labels != 2)
    found = fuse(units.where(kept), ["mean", "attention"], bootstrap=100)
    findings = analyse(found)
    text = write_outputs(found, tmp_path, findings)
    assert next(line for line in text.splitlines() if line.startswith("  غاضب")).endswith("none: no unit has it")
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["per_class"]["fusion"]["غاضب"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert metrics["where_heads_win"]["classes"]["غاضب"]["best"] == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_charts(found, tmp_path, findings)
        write_report(tmp_path / "report.html", found, gather({}, None, None, "fuse"), findings)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "none: no test unit has it" in html
    assert "one that occurs only among answers counts as 0" in html
    assert ">nan<" not in html
    if (tmp_path / "labels.txt").exists():  # no font of this machine has them
        assert "\t很高兴\n" in (tmp_path / "labels.txt").read_text(encoding="utf-8")


def test_a_head_that_was_taken_and_has_no_test_prediction_is_drawn_as_the_fusion(tmp_path: Path) -> None:
    units = make_units(120, strengths=(2.0,), test_share=0.3)
    silent = units.splits == "test"
    logits, present = units.logits.copy(), units.present.copy()
    logits[silent], present[silent] = np.nan, False
    found = fuse(replace(units, logits=logits, present=present), ["mean"], bootstrap=100)
    assert found.chosen == "head:h0"
    write_charts(found, tmp_path, analyse(found, 100))
    assert (tmp_path / "reliability.png").is_file()


@pytest.mark.parametrize(("name", "turned"), [("surprised", 0), ("somewhat surprised", 30)])
def test_names_in_charts_are_whole_and_do_not_overlap(name: str, turned: int) -> None:
    score = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 3.0}
    first, _ = _per_class({name: score, "calm": score}).axes[0].get_xticklabels()
    assert (first.get_text(), first.get_rotation()) == (f"{name}\n(3)", turned)
