"""What carried a decision: planted signals are found, and what is shown is what the head answers."""

import json
import re
from contextlib import redirect_stdout
from copy import copy
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from checkpoints import save_checkpoints
from media_tools import write_video

from cache import Store
from configs import UserError
from configs.profiles import load
from extract.corpora.clips import clips_with_media
from extract.corpora.manifest import Manifest, Unit, make_manifest
from extract.encoders.text import load_text_encoder
from extract.passes.engine import open_writer
from heads.data.batches import ROLES, UnitData
from heads.data.live_text import LiveText, without
from heads.data.scripts import words
from heads.explain import main
from heads.explaining.attention import attention_of
from heads.explaining.explanation import Explanation, Group, Piece, explain
from heads.explaining.media import Media, Seen, look
from heads.explaining.page import write_page
from heads.explaining.scene import Scene, _seconds
from heads.explaining.words import disagreements, sentence, share, support
from heads.explaining.words import without as told_without
from heads.fitting.cross_validation import cross_validate, open_stores
from heads.fitting.saved import load_head
from heads.models.network import HeadSizes, NetworkModel, build

pytestmark = pytest.mark.xdist_group("explain")  # what is made for all of them is made once
STEPS = 9
AGES = ("young & old", "<b>old</b>", None)
THOROUGH = {"epochs": 25, "dropout": 0.0, "modality_dropout": 0.0}  # learns what was planted
IDLE = np.array([1, -1, 1, -1, 1, -1], np.float32)  # what every other time step says


def planted_dataset(tools: SimpleNamespace) -> tuple[Manifest, dict[str, dict[str, np.ndarray]], dict[str, int]]:
    """The first clip of each conversation has one time step that shows the class, the labelled clip's text a word."""
    manifest, arrays = tools.dataset(72, columns=lambda c: {"meta_age": AGES[c % 3]})
    rng = np.random.default_rng(1)
    planted = {}
    for unit in manifest.units():
        first = unit.clip_ids[0]
        for clip in unit.clip_ids:
            arrays["audio"][clip] = (IDLE + 0.1 * rng.normal(size=(STEPS, 6))).astype(np.float32)
        planted[first] = int(rng.integers(STEPS))
        arrays["audio"][first][planted[first]] += 6 * np.eye(3, 6)[manifest.classes.index(unit.label)]
        if len(unit.clip_ids) == 4:
            del arrays["audio"][unit.clip_ids[2]]  # missing
    spoken = pl.format("so {} today", pl.col("label"))
    text = pl.when(pl.col("label").is_not_null()).then(spoken).otherwise(pl.lit("i <script>am</script>"))
    clips = manifest.clips.with_columns(text=text)
    return make_manifest(clips, Path(), manifest.classes, {}, "planted"), arrays, planted


def write_texts(folder: Path, manifest: Manifest, name: str) -> None:
    """A text store of a workspace, by the profile's own encoder."""
    profile = load(str(folder / "profile.yaml"))
    spec = profile.encoders[name]
    loaded = load_text_encoder(spec, torch.device("cpu"))
    with open_writer(folder / "runs/tiny/stores" / name, loaded, profile.store) as writer:
        for clip in clips_with_media(manifest, spec):
            assert isinstance(clip.source, str)
            writer.append(clip.clip_id, loaded.alone(clip.source), f"hash of {clip.source}")


def workspace(
    folder: Path,
    tools: SimpleNamespace,
    heads: dict[str, Any],
    texts: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> SimpleNamespace:
    """A profile whose heads are trained on planted signals; beside ``audio`` a ``voice`` of one vector a clip."""
    save_checkpoints(folder, ["bert"])
    manifest, arrays, planted = planted_dataset(tools)
    encoders = {"audio": {"family": "wav2vec2", "model": "./none"}, "voice": {"family": "hubert", "model": "./none"}}
    encoders |= {name: {"family": "transformer", "model": str(folder / "bert")} | text for name, text in texts.items()}
    sound = arrays["audio"]
    stores = {"audio": sound, "voice": {clip: values.mean(0, keepdims=True) for clip, values in sound.items()}}
    tools.write_workspace(folder, manifest, stores, heads, encoders=encoders)
    for name in texts:
        write_texts(folder, manifest, name)
    monkeypatch.chdir(folder)
    profile = load("profile.yaml")
    for name in heads:
        cross_validate(profile, manifest, name)
    units = {split: [u for u in manifest.units() if u.split == split] for split in ("train", "test")}
    return SimpleNamespace(folder=folder, profile=profile, manifest=manifest, planted=planted, units=units)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tools: SimpleNamespace) -> Any:
    heads = {
        "audio": tools.head_settings(inputs=["audio"], metadata=["age"], **THOROUGH),
        "crossed": tools.head_settings(kind="cross_modal", inputs=["audio", "text"], epochs=2, segments=2),
        "summed": tools.head_settings(inputs=["audio"], time="statistics", epochs=2),
        "words": {"kind": "bag_of_words", "inputs": ["text"], "c": 10.0},
        "texts": {"kind": "linear", "inputs": ["text"], "c": 1.0},
        "trees": {"kind": "xgboost", "inputs": ["text"], "metadata": ["age"], "trees": 5},
        "several": tools.head_settings(inputs=["audio", "voice", "text", "tokens"], epochs=2),
    }
    texts = {"text": {"pooling": "mean"}, "tokens": {"layer": 1}}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        yield workspace(tmp_path_factory.mktemp("plain"), tools, heads, texts, patch)


@pytest.fixture
def here(plain: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.chdir(plain.folder)
    return plain


@pytest.fixture(scope="module")
def live(plain: SimpleNamespace) -> LiveText:
    return LiveText(plain.profile, "text", Store(plain.folder / "runs/tiny/stores/text"))


def explained(here: SimpleNamespace, head: str, unit: Unit, live: Any = "not needed", **more: Any) -> Explanation:
    return explain(here.profile, here.manifest, unit, head, Media(), {"text": live}, 0.5, **more)


def strongest(group: Group) -> Piece:
    return max(group.pieces, key=lambda piece: piece.lost)


def test_removal_finds_the_clip_and_the_time_step_that_carry_the_class(here: SimpleNamespace) -> None:
    units = [*here.units["train"][:12], *here.units["test"][:12]]
    found = [explained(here, "audio", unit) for unit in units]
    right = [(unit, each) for unit, each in zip(units, found, strict=True) if each.predicted == unit.label]
    assert len(right) > 15
    hits = steps = 0
    for unit, each in right:
        first = unit.clip_ids[0]
        hits += strongest(each.clips).clip_id == first
        window = strongest(each.views[0].groups["audio"])
        steps += (window.start, window.stop) == (here.planted[first] / STEPS, (here.planted[first] + 1) / STEPS)
        assert strongest(each.everything).name == "audio"
    assert hits >= 0.85 * len(right)
    assert steps >= 0.85 * len(right)


@pytest.mark.parametrize("head", ["words", "texts"])
def test_removal_finds_the_word_that_carries_the_class(here: SimpleNamespace, live: LiveText, head: str) -> None:
    for unit in [*here.units["train"][:4], *here.units["test"][:4]]:
        found = explained(here, head, unit, live)
        assert found.predicted == unit.label
        assert strongest(found.views[-1].groups["words"]).name == unit.label
        assert found.views[-1].groups["words"].pieces[0].name == "so"
        assert not found.clips.has_attention


@pytest.mark.parametrize("head", ["audio", "crossed", "summed", "words", "texts", "trees"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_answer_is_the_one_in_the_predictions(here: SimpleNamespace, live: LiveText, head: str, split: str) -> None:
    table = pl.read_parquet(here.profile.head_path(head) / "predictions.parquet")
    for unit in here.units[split][:3]:
        found = explained(here, head, unit, live)
        row = table.filter(unit_id=unit.unit_id).to_dicts()[0]
        assert found.fold == row["fold"]
        assert (found.fold is None) == (split == "test")
        np.testing.assert_allclose(found.p, [row[f"p_{name}"] for name in found.classes], atol=1e-5)
        assert found.notes == [] or all("metadata field" in note for note in found.notes)


def test_removing_what_is_missing_changes_nothing(here: SimpleNamespace) -> None:
    unit = next(unit for unit in here.units["train"] if len(unit.clip_ids) == 4)
    found = explained(here, "audio", unit)
    lost = {piece.clip_id: piece.lost for piece in found.clips.pieces}
    assert lost[unit.clip_ids[2]] == pytest.approx(0, abs=1e-6)
    assert "audio" in found.views[2].missing
    assert "audio" not in found.views[2].groups
    assert abs(lost[unit.clip_ids[0]]) > 1e-3


def test_unknown_fields_are_said_and_known_ones_removed(here: SimpleNamespace) -> None:
    ages = {}
    for unit in here.units["test"]:
        found = explained(here, "audio", unit)
        age = here.manifest.clips.filter(clip_id=unit.unit_id)["meta_age"][0]
        ages[age] = ([piece.name for piece in found.everything.pieces], found.notes)
        if len(ages) == 3:
            break
    assert "age: <b>old</b>" in ages["<b>old</b>"][0]
    assert ages[None][0] == ["audio"]
    assert "age" in ages[None][1][0]


def test_seconds_and_words_belong_to_the_modality_contributions_to_the_encoder(
    here: SimpleNamespace, live: LiveText
) -> None:
    names = ["audio", "voice", "text", "tokens"]
    tokens = LiveText(here.profile, "tokens", Store(here.profile.store_path("tokens")))
    unit = next(unit for unit in here.units["test"] if len(unit.clip_ids) == 2)
    found = explain(
        here.profile, here.manifest, unit, "several", Media(), {"text": live, "tokens": tokens}, 0.5, explained=None
    )
    assert found.modalities == {"audio": "audio", "voice": "audio", "text": "text", "tokens": "text"}
    assert found.notes == []
    assert found.difference < 1e-5
    assert [piece.name for piece in found.everything.pieces] == names
    view = found.views[-1]
    assert [piece.name for piece in view.groups["modalities"].pieces] == names
    # The one vector of "voice" cannot be cut: the windows are those of "audio", and it is said what stays.
    assert len(view.groups["audio"].pieces) == STEPS
    assert "The voice store keeps one vector a clip: what is taken away of the others stays in it." in view.notes
    words_of = view.groups["words"].pieces
    assert [piece.name for piece in words_of] == (view.text or "").split()
    assert all(piece.attention is not None for piece in [*words_of, *view.groups["audio"].pieces])
    assert sum(piece.attention or 0 for piece in view.groups["audio"].pieces) == pytest.approx(1)
    # A text that is taken away is taken from both of its encoders, unless one of them is asked about.
    trained = load_head(here.profile.head_path("several") / "model")
    stores = open_stores(here.profile, trained.settings)
    scene = Scene(here.profile, here.manifest, unit, trained, stores, Media(), {"text": live, "tokens": tokens})
    removal = scene.without_text({unit.unit_id: None})
    assert set(removal.arrays) == {("text", unit.unit_id), ("tokens", unit.unit_id)}
    assert set(scene.without_text({unit.unit_id: "so"}, only="tokens").arrays) == {("tokens", unit.unit_id)}


def test_words_stay_where_one_of_several_encoders_is_not_there(here: SimpleNamespace, live: LiveText) -> None:
    unit = here.units["test"][0]
    found = explain(
        here.profile, here.manifest, unit, "several", Media(), {"text": live, "tokens": "no such folder"}, 0.5
    )
    assert "words" not in found.views[-1].groups
    assert found.notes == ["Words are not taken away: no such folder"]


def test_other_classes_can_be_explained(here: SimpleNamespace) -> None:
    unit = here.units["test"][0]
    other = next(name for name in here.manifest.classes if name != explained(here, "audio", unit).predicted)
    found = explained(here, "audio", unit, explained=other)
    assert found.explained == other != found.predicted
    with pytest.raises(UserError, match=r"bored: no such class.*angry"):
        explained(here, "audio", unit, explained="bored")


def test_without_its_encoder_words_stay_and_it_is_said(here: SimpleNamespace) -> None:
    found = explained(here, "texts", here.units["test"][0], "no encoder here")
    assert "words" not in found.views[-1].groups
    assert any("no encoder here" in note for note in found.notes)
    assert [piece.name for piece in found.everything.pieces] == ["text"]


def test_a_text_that_changed_since_is_said(here: SimpleNamespace, live: LiveText) -> None:
    unit = here.units["test"][0]
    clips = here.manifest.clips.with_columns(text=pl.lit("very sad today"))
    changed = SimpleNamespace(profile=here.profile, manifest=replace(here.manifest, clips=clips))
    found = explained(changed, "texts", unit, live)
    assert "words" not in found.views[-1].groups
    assert any("not the one that the store was computed from" in note for note in found.notes)


def test_another_store_is_refused(here: SimpleNamespace, tools: SimpleNamespace, tmp_path: Path) -> None:
    unit = here.units["test"][0]
    path = here.profile.store_path("audio")
    kept = path.with_name("audio.kept")
    path.rename(kept)
    try:
        tools.write_store(path, {unit.unit_id: np.ones((2, 6), np.float32)}, layer=3)
        with pytest.raises(UserError, match="differ in layer"):
            explained(here, "audio", unit)
    finally:
        path.rename(tmp_path / "other")
        kept.rename(path)


def run(monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace, *arguments: str) -> int:
    return tools.exit_code(monkeypatch, main, *arguments)


def test_the_command_writes_pages_that_need_nothing_else(
    here: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    tools: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = set(here.manifest.clips.filter(meta_age="<b>old</b>")["clip_id"])
    unit = next(unit for unit in here.units["test"] if unit.unit_id in old and len(unit.clip_ids) > 1)
    heads = ["audio", "trees"]
    assert run(monkeypatch, tools, unit.unit_id, *(part for head in heads for part in ("--head", head))) == 0
    printed = capsys.readouterr().out
    folder = Path("runs/tiny/explain") / unit.unit_id
    index = (folder / "index.html").read_text()
    assert all(f'href="{head}.html"' in index for head in heads)
    assert f"python fusion/explain.py {unit.unit_id} --config profile.yaml" in index
    for head in heads:
        path = Path("runs/tiny/explain") / unit.unit_id / head
        html = path.with_suffix(".html").read_text()
        assert re.search(r"https?:|//[a-z]|<script|<b>old|@import|url\(", html) is None
        assert "default-src 'none'" in html
        assert "i &lt;script&gt;am&lt;/script&gt;" in re.sub(r"</?span[^>]*>", "", html)
        assert "age: &lt;b&gt;old&lt;/b&gt;" in html
        facts = json.loads(path.with_suffix(".json").read_text())
        assert f"{head}: {facts['predicted']}" in printed
        assert facts["difference"] < 1e-5
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_head_that_cannot_be_explained_is_left_out_unless_it_is_asked_for(
    together: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    tools: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(together.folder)
    unit = together.units["test"][0].unit_id
    table = together.profile.head_path("texts") / "predictions.parquet"
    table.rename(tmp_path / "table")
    try:
        assert run(monkeypatch, tools, unit, "--head", "texts") == 2
        assert "train.py --config profile.yaml --head texts" in capsys.readouterr().err
        assert run(monkeypatch, tools, unit, "--out", str(tmp_path / "out")) == 0
        assert "left out: " in capsys.readouterr().out
        files = {"index.html", "spare.html", "spare.json", "spare.png"}
        assert {path.name for path in (tmp_path / "out").iterdir()} == files
    finally:
        (tmp_path / "table").rename(table)


def test_mistakes_end_in_one_line(
    here: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tools: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = next(unit for unit in here.units["test"] if len(unit.clip_ids) > 1)
    for arguments, said in {
        (unit.unit_id + "9",): f"no such unit.*{unit.unit_id}",
        (unit.clip_ids[0],): f"carries no label; it is part of the unit {unit.unit_id}",
        (unit.unit_id, "--head", "nose"): "no such head.*audio",
        (unit.unit_id, "heads.fresh.inputs=[audio]", "--head", "fresh"): "not trained: run python heads/train.py",
        (unit.unit_id, "name=empty"): "no such manifest",
    }.items():
        assert run(monkeypatch, tools, *arguments) == 2
        error = capsys.readouterr().err
        assert re.search(said, error)
        assert error.count("\n") == 1


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, tools: SimpleNamespace) -> Any:
    """Texts are encoded as conversations, token by token."""
    heads = {
        "texts": tools.head_settings(inputs=["text"], context_clips=0, **THOROUGH),
        "spare": {"kind": "bag_of_words", "inputs": ["text"], "c": 1.0},
    }
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        yield workspace(tmp_path_factory.mktemp("together"), tools, heads, {"text": {"conversation": True}}, patch)


def test_texts_that_are_encoded_together(together: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(together.folder)
    live = LiveText(together.profile, "text", Store("runs/tiny/stores/text"))
    units = [unit for unit in together.units["test"] if len(unit.clip_ids) in (2, 3)]
    answers = [explained(together, "texts", unit, live) for unit in units]
    right = [(unit, found) for unit, found in zip(units, answers, strict=True) if found.predicted == unit.label]
    assert len(right) > 4
    hits = 0
    for unit, found in right:
        assert found.difference < 1e-5
        assert found.notes == []
        for view in found.views:
            pieces = view.groups["words"].pieces
            assert [piece.name for piece in pieces] == (view.text or "").split()
            assert all(piece.attention is not None for piece in pieces)
        hits += strongest(found.views[-1].groups["words"]).name == unit.label
        assert [piece.clip_id for piece in found.clips.pieces] == list(unit.clip_ids)
        assert 0 < sum(piece.attention or 0 for piece in found.clips.pieces) < 1  # the rest is on special tokens
        assert found.clips.pieces[-1].attention == pytest.approx(
            sum(piece.attention or 0 for piece in found.views[-1].groups["words"].pieces)
        )
    assert hits >= 0.8 * len(right)


@pytest.mark.parametrize(
    ("kind", "time"),
    [("sequence", "attentive"), ("sequence", "lstm"), ("transformer", "attentive"), ("cross_modal", "attentive")],
)
def test_attention_is_what_the_network_uses(tools: SimpleNamespace, kind: str, time: Any) -> None:
    manifest, arrays = tools.dataset(20, most_clips=3, missing=0.2)
    torch.manual_seed(0)
    parts = 2 if kind == "cross_modal" else 1
    sizes = HeadSizes(kind, 3, {"audio": 6, "text": 5}, 1 + len(ROLES), {}, 16, 2, 0.1, time=time, segments=parts)
    model = NetworkModel(build(sizes).eval(), {})
    at = next(i for i, u in enumerate(manifest.units()) if len(u.clip_ids) == 3 and u.clip_ids[1] in arrays["audio"])
    unit = manifest.units()[at]
    data = UnitData(manifest, manifest.units(), arrays)
    before = model.log_probabilities(data, np.arange(20))
    found = attention_of([model, model], data, at)
    np.testing.assert_array_equal(model.log_probabilities(data, np.arange(20)), before)
    assert found.clips.shape == (3,)
    assert found.clips.sum() == pytest.approx(1)
    for place, clip in enumerate(unit.clip_ids):
        for modality in arrays:
            assert ((modality, place) in found.steps) == (clip in arrays[modality])
            if clip in arrays[modality]:
                steps = found.steps[modality, place]
                assert steps.shape == (len(arrays[modality][clip]),)
                assert steps.sum() == pytest.approx(1)
    for shares in found.across.values():
        assert shares.sum() == pytest.approx(1)


def test_attention_follows_the_step_it_is_made_to_follow(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(3, most_clips=1)
    unit = manifest.units()[0]
    values = np.zeros((7, 6), np.float32)
    values[4] = [9, -1, -1, -1, -1, -1]
    for kind in ("sequence", "transformer", "cross_modal"):
        parts = 2 if kind == "cross_modal" else 1
        network = build(HeadSizes(kind, 3, {"audio": 6}, 1 + len(ROLES), {}, 16, 2, 0.1, segments=parts))
        for name, module in network.named_parameters():
            if name.endswith(("audio.pool.score.0.weight", "audio.clips.pool.score.0.weight")):
                module.data.zero_()[0, 0] = 1
            if name.endswith(("audio.pool.score.2.weight", "audio.clips.pool.score.2.weight")):
                module.data.zero_()[0, 0] = 20
        data = UnitData(manifest, [unit], {"audio": {unit.unit_id: values}})
        steps = attention_of([NetworkModel(network, {})], data, 0).steps["audio", 0]
        assert steps.argmax() == 4
        assert steps[4] > (0.3 if kind == "cross_modal" else 0.9)  # of one of two parts


def piece(name: str, lost: float, attention: float | None) -> Piece:
    return Piece(name, "c", 0, 1, lost, 0.5, "sad", attention)


def test_where_attention_and_removal_disagree(here: SimpleNamespace) -> None:
    found = explained(here, "audio", here.units["test"][0])
    mislead = Group("clips", None, (piece("one", 0.0, 0.8), piece("two", -0.1, 0.15), piece("three", 1.9, 0.05)))
    assert mislead.rank_correlation == pytest.approx(-1)
    assert mislead.shares == pytest.approx([0, -0.05, 0.95])
    (line,) = disagreements(replace(found, everything=mislead, clips=Group("clips", None, ()), views=[]))
    assert "attention looks most at one (80.0%" in line
    assert "three moves the answer most (supports +1.90" in line
    agree = Group("clips", None, (piece("one", 0.9, 0.8), piece("two", 0.1, 0.2)))
    assert agree.rank_correlation is None  # of two
    assert disagreements(replace(found, everything=agree, clips=agree, views=[])) == []
    idle = Group("clips", None, (piece("one", 1e-5, 0.8), piece("two", 0.0, 0.2)))
    (line,) = disagreements(replace(found, everything=idle, clips=Group("clips", None, ()), views=[]))
    assert "changes nothing" in line


def test_effects_in_words(here: SimpleNamespace) -> None:
    assert [support(lost) for lost in (2.1, -0.31, 0.004)] == ["supports +2.10", "against −0.31", "≈ 0"]
    told = told_without("audio", 0.58, 0.07, "angry", "contempt").replace("\u00a0", " ")
    assert told == "without audio: 58 % → 7 %, the answer becomes contempt"
    assert [share(p).replace("\u00a0", " ") for p in (0.0, 0.001, 0.996, 1.0)] == ["0 %", "< 1 %", "> 99 %", "100 %"]
    found = explained(here, "audio", here.units["test"][0])
    strong = replace(found.everything.pieces[0], name="audio", lost=2.0, p=0.07, becomes=found.predicted)
    said = sentence(replace(found, everything=Group("inputs", None, (piece("age", 0.1, None), strong))))
    assert said is not None
    assert said.startswith("without audio: ")
    assert said.endswith(f"the answer stays {found.predicted}")
    assert sentence(replace(found, everything=Group("inputs", None, (piece("age", -1.0, None),)))) is None


def test_a_page_has_one_scale_and_no_table_twice(here: SimpleNamespace, tmp_path: Path) -> None:
    alone = next(unit for unit in here.units["test"] if len(unit.clip_ids) == 1)
    found = explained(here, "audio", alone)
    assert len(found.everything.pieces) > 1  # what would stand there again as that of its only clip
    write_page(tmp_path, found, Media(), "again", [])
    html = (tmp_path / "audio.html").read_text()
    assert "What was read of this clip" not in html
    pieces = [piece for group in found.groups if group.what not in ("clips", "modalities") for piece in group.pieces]
    most = max(abs(piece.lost) for piece in pieces)
    assert f"a full bar is {most:.2f} nats" in html
    widths = [float(width) for width in re.findall(r'<i class="(?:for|against)" style="width:([\d.]+)%', html)]
    assert max(widths) == 100
    for each in found.everything.pieces:
        assert f"width:{100 * abs(each.lost) / most:.2f}%" in html


def test_words_of_a_text() -> None:
    text = "  Oh no,\nnot  again! "
    assert [text[a:b] for a, b in words(text)] == ["Oh", "no,", "not", "again!"]
    assert [without(text, *span) for span in words(text)][:2] == ["  no,\nnot  again! ", "  Oh\nnot  again! "]
    assert without("well", 0, 4) is None
    assert [("很 高兴")[a:b] for a, b in words("很 高兴")] == ["很", "高", "兴"]


def test_media_are_shown_as_they_are_or_not_at_all(tmp_path: Path) -> None:
    samples = np.zeros(32000, np.float32)
    samples[16000:20000] = 0.5
    soundfile.write(tmp_path / "one.wav", samples, 16000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    images = np.repeat(np.linspace(0, 255, 10).astype(np.uint8), 48 * 48 * 3).reshape(10, 48, 48, 3)
    write_video(tmp_path / "one.mp4", images)
    audio = {"a": tmp_path / "one.wav", "b": tmp_path / "broken.wav", "c": tmp_path / "gone.wav"}
    found = look(audio, {"a": tmp_path / "one.mp4"}, {"n_frames": 4}, 60)
    assert found.heard["a"].seconds == pytest.approx(2)
    loud = np.flatnonzero(found.heard["a"].outline > 0.5) / len(found.heard["a"].outline)
    assert loud.min() == pytest.approx(0.5, abs=0.02)
    assert loud.max() == pytest.approx(0.625, abs=0.02)
    assert found.seen["a"].frames.shape[0] == 4
    assert (np.diff(found.seen["a"].frames.mean((1, 2, 3))) > 30).all()
    assert found.seen["a"].jpeg(0.1).startswith(b"\xff\xd8")
    assert set(found.problems) == {("audio", "b"), ("audio", "c")}
    assert "No such file" in found.problems["audio", "c"]


def test_frames_that_are_not_there_are_never_made_up(here: SimpleNamespace, tmp_path: Path) -> None:
    found = explained(here, "audio", here.units["test"][0])
    view = found.views[0]
    frames = replace(view.groups["audio"], what="video")
    found = replace(
        found, inputs=["video"], modalities={"video": "video"}, views=[replace(view, groups={"video": frames})]
    )
    images = np.random.default_rng(0).integers(0, 255, size=(STEPS, 8, 8, 3)).astype(np.uint8)
    for media, pictures in {
        "there": (Media(seen={view.clip_id: Seen(3.0, 1, images)}), STEPS),
        "gone": (Media(problems={("video", view.clip_id): "the file is <gone>"}), 0),
    }.values():
        write_page(tmp_path, found, media, "again", [])
        html = (tmp_path / "audio.html").read_text()
        assert len(set(re.findall(r"data:image/jpeg;base64,[^\"]*", html))) == pictures
        assert html.count("<figure") == STEPS
        assert html.count("no picture") == STEPS - pictures
        assert ("not shown: the file is &lt;gone&gt;" in html) == (pictures == 0)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"pooling": "none"}, 4),
        ({"pooling": "none", "steps_per_second": 100.0}, 2),
        ({"pooling": "none", "steps_per_second": None}, None),  # one vector of a clip
        ({"pooling": 5.0, "steps_per_second": 100.0}, 40),
        ({"pooling": "mean"}, None),
    ],
)
def test_how_long_a_clip_is_follows_from_what_its_encoder_gives_a_second(
    fields: dict[str, Any], seconds: float | None
) -> None:
    assert _seconds(fields, 200) == seconds


def test_tokens_of_a_prefix_are_of_no_text(live: LiveText) -> None:
    plain = live.clip_of_token({"a": "so happy"}, 4)
    assert plain == [None, ("a", (0, 2)), ("a", (3, 8)), None]
    prefixed = copy(live)
    prefixed._spec = live._spec.model_copy(update={"prefix": "you are "})
    assert prefixed.clip_of_token({"a": "so happy"}, 6) == [None, None, *plain]
    assert prefixed.clip_of_token({"a": "so happy"}, 4) is None
