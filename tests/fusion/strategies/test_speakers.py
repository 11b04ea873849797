"""Heads centred per speaker: what is taken away, what is not, and that everything says so."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import log_softmax
from synthetic_heads import CLASSES, frame_of, make_units

from cache import write_sealed_parquet
from configs import UserError
from fusion.stack import main
from fusion.strategies.catalogue import load
from fusion.strategies.speakers import (
    HALF,
    TRANSDUCTIVE,
    Met,
    People,
    centred,
    everyone,
    fuse_centred,
    load_centred,
    manifest_speakers,
)
from fusion.tables.predictions import Predictions, read

Write = Callable[..., Path]


def people(n: int = 360, size: int = 24, bias: float = 2.0, test_share: float = 0.0) -> Predictions:
    """Speakers of ``size`` units each, to whom heads give a bias of their own."""
    units = make_units(n, group_size=size, test_share=test_share)
    rng = np.random.default_rng(1)
    names, speaker = np.unique(units.groups, return_inverse=True)
    logits = units.logits + bias * rng.normal(size=(len(names), *units.logits.shape[1:]))[speaker]
    return replace(units, logits=log_softmax(logits, axis=2), speakers=units.groups.astype(object))


def accuracy(units: Predictions) -> float:
    return float((units.logits[:, 0].argmax(axis=1) == units.labels).mean())


def test_what_is_the_speakers_own_goes_and_what_is_the_units_stays() -> None:
    units = people()
    got = centred(units)
    assert accuracy(got) > accuracy(units) + 0.05
    np.testing.assert_allclose(np.exp(got.logits).sum(axis=2), 1)
    rows = units.speakers == "g3"
    n = rows.sum()
    share = (n - 1) / (n - 1 + HALF)
    own = share * (units.logits[rows].mean(axis=0) - units.logits.mean(axis=0))
    np.testing.assert_allclose(got.logits[rows], log_softmax(units.logits[rows] - own, axis=2))


def test_labels_are_not_looked_at_and_splits_not_mixed() -> None:
    units = people(test_share=0.3)
    got = centred(replace(units, labels=units.labels[::-1].copy()))
    np.testing.assert_array_equal(got.logits, centred(units).logits)
    test = units.splits == "test"
    changed = replace(units, speakers=np.where(test, "g0", units.speakers), logits=units.logits.copy())
    np.testing.assert_array_equal(centred(changed).logits[~test], centred(units).logits[~test])


def test_single_rows_unknown_speakers_and_absent_heads_stay_as_they_are() -> None:
    units = people()
    present = units.present.copy()
    present[10, 1] = present[:5, 0] = False
    speakers = units.speakers.copy()  # type: ignore[union-attr]
    speakers[7], speakers[30] = None, "met once"
    units = replace(
        units, present=present, logits=np.where(present[..., None], units.logits, np.nan), speakers=speakers
    )
    got = centred(units)
    np.testing.assert_allclose(got.logits[[7, 30]], units.logits[[7, 30]])
    np.testing.assert_array_equal(np.isnan(got.logits).any(axis=2), ~present)
    masked = replace(units, logits=np.where(present[..., None], units.logits, 5.0))
    np.testing.assert_array_equal(centred(masked).logits[present], got.logits[present])


def test_a_class_that_a_model_masks_says_nothing_of_people() -> None:
    units = people()
    logits = units.logits.copy()
    logits[::9, 0, 2] = -1000.0
    got = centred(replace(units, logits=log_softmax(logits, axis=2)))
    rest = np.arange(len(logits)) % 9 > 0
    assert np.abs(got.logits[rest] - centred(units).logits[rest]).max() < 6
    assert (got.logits[::9, 0, 2] < -900).all()


def test_groups_stand_in_for_speakers_and_units_do_not() -> None:
    units = people()
    np.testing.assert_array_equal(centred(replace(units, speakers=None)).logits, centred(units).logits)
    with pytest.raises(UserError, match="neither a column 'speaker' nor 'group'"):
        centred(replace(units, speakers=None, groups=units.unit_ids))
    with pytest.raises(UserError, match=r"no speaker .* has two units"):
        centred(replace(units, speakers=units.unit_ids.astype(object)))


def test_both_fits_are_kept_and_the_plain_one_is_measured_beside() -> None:
    units = people(test_share=0.3)
    found = fuse_centred(units, ["mean", "weighted"], bootstrap=100)
    assert found.plain is not None
    test = units.splits == "test"
    expected = found.plain.fitted.predict_logits(units.where(test).outputs)
    accuracy = (expected.argmax(axis=1) == units.labels[test]).mean()
    assert found.plain.scores["test"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert found.scores[found.chosen]["test"]["accuracy"]["value"] > accuracy
    assert found.notes[0].startswith("Heads are centred on 15 speakers. A new clip by itself is answered by the same")
    np.testing.assert_allclose(
        found.log_p[found.chosen][test], found.fitted.predict_logits(centred(units).where(test).outputs)
    )


def test_running_means_reach_what_all_of_a_speakers_rows_give() -> None:
    units = people()
    fitted = fuse_centred(units, ["mean"], force=True, bootstrap=100).fitted
    met, rows = Met(People(fitted, everyone(units))), np.flatnonzero(units.speakers == "g3")
    known = [met.centre("g3", units.logits[i]) for i in rows]
    assert [clips for _, clips in known] == [0, 0, 0, 0, *range(5, len(rows) + 1)]
    np.testing.assert_array_equal(known[0][0], units.logits[rows[0]])
    np.testing.assert_allclose(known[-1][0], centred(units).logits[rows[-1]])
    other, clips = met.centre("g4", units.logits[0])
    assert clips == 0
    np.testing.assert_array_equal(other, units.logits[0])
    absent, clips = met.centre("g3", np.where([[True], [False]], np.nan, units.logits[0]))
    assert np.isnan(absent[0]).all()
    assert clips == len(rows) + 1


def test_a_speaker_column_is_read_and_must_not_contradict(table: Write) -> None:
    units = people(60, size=12)
    named = [frame_of(units, h).with_columns(speaker=pl.Series(units.speakers.tolist())) for h in range(2)]  # type: ignore[union-attr]
    got = read({"a": table(named[0], "a.csv"), "b": table(named[1].drop("speaker"), "b.csv")})
    assert got.speakers is not None
    assert got.speakers.tolist() == units.speakers.tolist()  # type: ignore[union-attr]
    other = named[1].with_columns(speaker=pl.lit("somebody"))
    with pytest.raises(UserError, match="has another speaker"):
        read({"a": table(named[0], "a.csv"), "b": table(other, "b.csv")})


def test_a_manifest_says_who_speaks_where_it_knows_the_units(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    clips = pl.DataFrame({"clip_id": ["u0", "u1", "u2"], "speaker": ["anna", None, "ben"]})
    write_sealed_parquet(path, clips, {})
    found = manifest_speakers(path, np.array(["u2", "u1", "u0", "elsewhere"]))
    assert found is not None
    assert found.tolist() == ["ben", None, "anna", None]
    assert manifest_speakers(path, np.array(["u1", "elsewhere"])) is None
    write_sealed_parquet(path, clips.drop("speaker"), {})
    assert manifest_speakers(path, np.array(["u0"])) is None


def test_everything_that_shows_a_number_says_that_it_is_transductive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    units = people(test_share=0.3)
    for h in range(2):
        frame_of(units, h).write_csv(tmp_path / f"h{h}.csv")
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, dataset: {adapter: table, root: ., table: t.csv, columns: {clip_id: id, label: label}, "
        "splits: {}}, encoders: {text: {family: transformer, model: ./model}}, heads: {h0: {inputs: [text]}}, "
        "fusion: {strategies: [mean], bootstrap: 100, standardise: speaker}}"
    )
    monkeypatch.chdir(tmp_path)
    main("mine.yaml", predictions=[Path("h0.csv"), Path("h1.csv")], out=Path("out"))
    assert capsys.readouterr().out.startswith(f"TRANSDUCTIVE: {TRANSDUCTIVE}\n")
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["headline"]["transductive"] is True
    assert metrics["choice"]["transductive"] == [TRANSDUCTIVE]
    assert metrics["headline"]["accuracy"] > metrics["plain"]["test"]["accuracy"]
    headline = json.loads(Path("out/headline.json").read_text())
    assert headline["transductive"] is True
    assert headline["plain"]["accuracy"] == metrics["plain"]["test"]["accuracy"]
    html = Path("out/report.html").read_text()
    assert "transductive · fusion report</title>" in html
    assert "<strong>Transductive.</strong>" in html
    assert f"macro-F1 here is {metrics['plain']['test']['macro_f1']:.3f}" in html
    files = {"h0": Path("h0.csv"), "h1": Path("h1.csv")}
    given = read(files)
    rows = given.where(given.splits == "test")
    people_met = load_centred(Path("out/model"))
    assert people_met is not None
    fused = read({"fused": Path("out/predictions.parquet")})
    shown = fused.logits[fused.splits == "test", 0]
    both = centred(given)
    np.testing.assert_allclose(shown, people_met.fitted.predict_logits(both.where(both.splits == "test").outputs))
    assert np.abs(shown - load(Path("out/model")).predict_logits(rows.outputs)).max() > 0.1
    assert len(CLASSES) == shown.shape[1]
