"""Features centred per speaker or corpus: what is taken away, who is missing, and that every title says so."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from cache import Store
from configs import UserError
from configs.profiles import load
from configs.schema import Head
from extract.corpora.manifest import Manifest, read_manifest
from fusion.report.provenance import transductive_heads
from heads.data.batches import UnitData
from heads.data.standardised import FEWEST, Centred, standardised
from heads.explaining.occlusion import Removal, answers
from heads.fitting.base import baseline_head
from heads.fitting.cross_validation import cross_validate, open_stores
from heads.fitting.kinds import KINDS
from heads.fitting.saved import load_head, predict
from heads.models.presence import inputs_found

pytestmark = pytest.mark.xdist_group("standardised")  # what is made for all of them is made once
SPEAKERS = 8


@pytest.fixture(scope="module")
def people(tools: SimpleNamespace) -> tuple[Manifest, Any]:
    """Conversations of eight speakers, each with features of his own, three times as large as the classes'."""
    manifest, arrays = tools.dataset(
        96, splits=("train",), most_clips=2, signal=1.5, columns=lambda c: {"speaker": f"s{c % SPEAKERS}"}
    )
    speakers = dict(manifest.clips.select("clip_id", "speaker").iter_rows())
    rng = np.random.default_rng(3)
    own = {f"s{i}": rng.normal(scale=4, size=11) for i in range(SPEAKERS)}
    parts = {"audio": slice(0, 6), "text": slice(6, 11)}
    arrays = {
        name: {clip: (x + own[speakers[clip]][parts[name]]).astype(np.float32) for clip, x in clips.items()}
        for name, clips in arrays.items()
    }
    return manifest, arrays


def head(**settings: Any) -> Head:
    return Head.model_validate({"kind": "linear", "inputs": ["audio"], "c": 0.1, "standardise": "speaker"} | settings)


def test_every_speakers_time_steps_have_mean_0_and_keep_their_shape(people: tuple[Manifest, Any]) -> None:
    manifest, arrays = people
    centred = standardised(head(), manifest, arrays)["audio"]
    rows = manifest.clips.filter(pl.col("speaker") == "s3")["clip_id"].to_list()
    steps = np.concatenate([centred[clip] for clip in rows])
    np.testing.assert_allclose(steps.mean(axis=0), 0, atol=1e-5)
    before = np.concatenate([arrays["audio"][clip] for clip in rows])
    np.testing.assert_allclose(steps, before - before.mean(axis=0), atol=1e-5)


def test_who_is_unknown_or_hardly_there_is_missing(people: tuple[Manifest, Any]) -> None:
    manifest, arrays = people
    first = manifest.clips["clip_id"].to_list()[: 2 * FEWEST]
    names = dict.fromkeys(first[: FEWEST - 1], "few") | dict.fromkeys(first[FEWEST - 1 : 2 * FEWEST - 1], "enough")
    clips = manifest.clips.with_columns(
        speaker=pl.col("clip_id").replace_strict(names, default=None, return_dtype=pl.String)
    )
    centred = standardised(head(), Manifest(clips, manifest.root, manifest.classes, {}), arrays)["audio"]
    assert [clip for clip in clips["clip_id"] if clip in centred] == first[FEWEST - 1 : 2 * FEWEST - 1]
    found = inputs_found(head(), Manifest(clips, manifest.root, manifest.classes, {}), manifest.units(), arrays)
    assert any(found)
    assert not all(found)


@pytest.mark.parametrize("kind", ["linear", "xgboost", "sequence", "cross_modal"])
def test_all_kinds_read_what_is_centred(kind: str, people: tuple[Manifest, Any]) -> None:
    manifest, arrays = people[0], {"audio": people[1]["audio"]}
    settings = {"kind": kind, "inputs": ["audio"]}
    wants, plain = Head.model_validate(settings | {"standardise": "speaker"}), Head.model_validate(settings)
    got = KINDS[kind].read(wants, manifest, manifest.units(), arrays)
    expected = KINDS[kind].read(plain, manifest, manifest.units(), by_hand(manifest, arrays))
    np.testing.assert_allclose(numbers(got), numbers(expected), atol=1e-6)
    assert np.abs(numbers(got) - numbers(KINDS[kind].read(plain, manifest, manifest.units(), arrays))).max() > 1


def test_the_baseline_reads_what_is_centred() -> None:
    simple = baseline_head(head(), ["audio"])
    assert simple is not None
    assert simple.standardise == "speaker"


def by_hand(manifest: Manifest, arrays: Any) -> Any:
    centred = Centred(arrays["audio"], owners(manifest))
    return {"audio": {clip: centred[clip] for clip in arrays["audio"]}}


def owners(manifest: Manifest) -> dict[str, str]:
    return dict(manifest.clips.select("clip_id", "speaker").iter_rows())


def numbers(read: Any) -> np.ndarray:
    if isinstance(read, UnitData):
        batch = read.batch(np.arange(len(read.units)), read.metadata_ids({}))
        return batch.frames["audio"].values[batch.frames["audio"].mask].numpy()
    seen = [read.moments("audio", view, np.arange(read.n_units)) for view in ("own", "before", "all")]
    return np.nan_to_num(np.concatenate([part for each in seen for part in (each.mean, each.deviation)], axis=1))


def test_a_store_is_read_clip_by_clip_and_gives_what_arrays_give(
    tools: SimpleNamespace, people: tuple[Manifest, Any], tmp_path: Path
) -> None:
    manifest, arrays = people
    tools.write_store(tmp_path / "audio", arrays["audio"])
    store = {"audio": Store(tmp_path / "audio")}
    wants = Head(inputs=["audio"], standardise="speaker", time="attentive")
    expected = KINDS["sequence"].read(wants, manifest, manifest.units(), {"audio": arrays["audio"]})
    whole = KINDS["sequence"].read(wants, manifest, manifest.units(), store)
    streamed = UnitData(manifest, manifest.units(), standardised(wants, manifest, store), resident_bytes=0)
    assert streamed.streams
    for data in (whole, streamed):
        np.testing.assert_allclose(numbers(data), numbers(expected), atol=1e-6)


@pytest.fixture(scope="module")
def trained(
    tools: SimpleNamespace, people: tuple[Manifest, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Manifest]:
    """Two heads of a profile, one of them centred, in folds of whole speakers."""
    folder = tmp_path_factory.mktemp("people")
    manifest, arrays = people
    clips = manifest.clips.with_columns(group=pl.col("speaker"))
    manifest = Manifest(clips, manifest.root, manifest.classes, {})
    heads = {"raw": {"kind": "linear", "inputs": ["audio"], "c": 0.1}}
    heads["centred"] = heads["raw"] | {"standardise": "speaker"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tools.write_workspace(folder, manifest, arrays, heads)
        profile = load("profile.yaml")
        manifest = read_manifest(profile.manifest_path)
        for name in heads:
            cross_validate(profile, manifest, name)
        yield profile, manifest


def test_people_whom_no_fold_has_met_are_understood_better_and_the_title_says_why(
    trained: tuple[Any, Manifest], capsys: pytest.CaptureFixture[str]
) -> None:
    profile, _ = trained
    metrics = {name: json.loads((profile.head_path(name) / "metrics.json").read_text()) for name in profile.heads}
    scores = {name: found["oof"]["macro_f1"]["value"] for name, found in metrics.items()}
    assert scores["centred"] > scores["raw"] + 0.1
    assert metrics["raw"]["transductive"] is None
    assert metrics["centred"]["transductive"] == "features centred per speaker, whose unlabelled clips are read"
    titles = {name: (profile.head_path(name) / "summary.txt").read_text().splitlines()[0] for name in profile.heads}
    assert "(TRANSDUCTIVE: features centred per speaker" in titles["centred"]
    assert "TRANSDUCTIVE" not in titles["raw"]


def test_the_fusion_of_such_a_head_says_so_too(trained: tuple[Any, Manifest]) -> None:
    profile, _ = trained
    files = {name: profile.head_path(name) / "predictions.parquet" for name in ("raw", "centred")}
    said = "features centred per speaker, whose unlabelled clips are read"
    assert transductive_heads(files) == (f"head centred: {said}",)
    assert transductive_heads(files | {"again": files["centred"]}) == (f"heads centred, again: {said}",)
    assert transductive_heads({"foreign": Path("no.csv")}) == ()


def test_new_clips_are_centred_on_each_other_and_too_few_are_missing(trained: tuple[Any, Manifest]) -> None:
    profile, manifest = trained
    loaded = load_head(profile.head_path("centred") / "model")
    stores = open_stores(profile, profile.heads["centred"])
    units = [unit for unit in manifest.units() if unit.group == "s2"]
    clips = manifest.clips.filter(pl.col("speaker") == "s2")
    alone = Manifest(clips, manifest.root, manifest.classes, {})
    live = {"audio": {clip: np.array(stores["audio"][clip]) for clip in clips["clip_id"] if clip in stores["audio"]}}
    np.testing.assert_allclose(predict(loaded, alone, units, live), predict(loaded, manifest, units, stores), atol=1e-9)
    one = Manifest(clips.filter(pl.col("clip_id").is_in(units[0].clip_ids)), manifest.root, manifest.classes, {})
    assert inputs_found(loaded.settings, one, units[:1], live) == [[]]


def test_an_explanation_takes_things_away_from_what_is_centred(trained: tuple[Any, Manifest]) -> None:
    profile, manifest = trained
    loaded = load_head(profile.head_path("centred") / "model")
    stores = open_stores(profile, profile.heads["centred"])
    unit = manifest.units()[5]
    last = unit.unit_id
    removals = [Removal(arrays={("audio", last): np.array(stores["audio"][last])}), Removal({("audio", last): None})]
    found = answers(loaded, None, manifest, unit, stores, removals)
    np.testing.assert_allclose(found.base, predict(loaded, manifest, [unit], stores)[0], atol=1e-9)
    np.testing.assert_allclose(found.variants[0], found.base, atol=1e-9)  # all of it is left
    assert np.abs(found.variants[1] - found.base).max() > 1e-3


def test_what_cannot_be_centred_is_refused_in_one_line(
    tools: SimpleNamespace, people: tuple[Manifest, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, arrays = people
    nobody = manifest.clips.with_columns(speaker=pl.lit(None, pl.String))
    heads = {
        "audio": {"kind": "linear", "inputs": ["audio"], "standardise": "speaker"},
        "corpora": {"kind": "linear", "inputs": ["audio"], "standardise": "corpus"},
    }
    tools.write_workspace(tmp_path, Manifest(nobody, manifest.root, manifest.classes, {}), arrays, heads)
    monkeypatch.chdir(tmp_path)
    profile = load("profile.yaml")
    for name, where in (("audio", r"dataset\.columns\.speaker"), ("corpora", r"corpus in dataset\.metadata")):
        with pytest.raises(UserError, match=rf"heads.{name}.standardise: the manifest names no .* of 3 clips.*{where}"):
            cross_validate(profile, read_manifest(profile.manifest_path), name)
    with pytest.raises(ValidationError, match="standardise: a bag_of_words head has no such setting"):
        Head(kind="bag_of_words", inputs=["text"], standardise="speaker")
    with pytest.raises(ValidationError, match="not with fine_tune"):
        Head.model_validate({"inputs": ["text"], "fine_tune": {"text": {}}, "standardise": "speaker"})


def test_corpora_are_centred_by_the_manifests_column(people: tuple[Manifest, Any]) -> None:
    manifest, arrays = people
    clips = manifest.clips.with_columns(meta_corpus=pl.col("speaker"))
    both = Manifest(clips, manifest.root, manifest.classes, {})
    one, other = (standardised(head(standardise=by), both, arrays)["audio"] for by in ("corpus", "speaker"))
    clip = manifest.clips["clip_id"][0]
    np.testing.assert_array_equal(one[clip], other[clip])
