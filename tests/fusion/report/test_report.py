import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from html_page import Page
from media_tools import greys, write_audio, write_mp4
from synthetic_heads import make_units

from cache import Store, StoreWriter, write_sums
from configs.profiles import load
from configs.schema import Profile
from extract.corpora.manifest import make_manifest, read_manifest, write_manifest
from fusion.report.findings import analyse
from fusion.report.outputs import fold_scores, summary
from fusion.report.page import gather, p_value, write_report
from fusion.report.training import read_curves, read_layers
from fusion.strategies.nested import Fusion, fuse

PROFILE = """
name: mine
dataset: {adapter: table, root: media, table: t.csv, columns: {clip_id: id, label: label}, splits: {test: 0.2}}
encoders: {video: {family: image, model: ./model}}
heads: {h0: {inputs: [video]}, h1: {inputs: [video], privileged: true}}
"""
COMMAND = "python fusion/stack.py --config mine.yaml seed=3"
SECRET = "what the annotator knew"


@pytest.fixture(scope="module")
def found() -> Fusion:
    units = make_units(200, strengths=(1.2, 0.8), test_share=0.4)
    return fuse(units, ["mean", "weighted", "attention"], bootstrap=100)


def write_clips(profile: Profile, found: Fusion, media: dict[str, tuple[str | None, str | None]]) -> None:
    """The manifest, two clips a conversation; ``media`` are the (video, audio) of some units."""
    units = found.units
    rows = []
    for i, unit in enumerate(units.unit_ids.tolist()):
        split = "train" if units.splits[i] == "oof" else str(units.splits[i])
        common = {"conversation_id": unit, "split": split, "group": str(units.groups[i])}
        video, audio = media.get(unit, (None, None))
        said = {"text": f"<i>I am {unit}</i>", "video": video, "audio": audio, "role": "speaker"}
        before = {"clip_id": f"{unit}before", "index": 0, "text": f"How is {unit}?", "role": "listener"}
        labelled = {"clip_id": unit, "index": 1, "label": units.label_names[i], "privileged_cause": SECRET}
        rows += [common | before, common | said | labelled]
    profile.run_dir.mkdir(parents=True, exist_ok=True)
    clips = pl.DataFrame(rows, infer_schema_length=None)
    write_manifest(make_manifest(clips, Path("media"), units.classes, {}, "t.csv"), profile.manifest_path)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Fusion) -> Profile:
    """A run's folder: manifest, predictions, a store."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(PROFILE)
    Path("media").mkdir()
    profile = load("mine.yaml")
    write_clips(profile, found, {})
    for head in found.units.heads:
        profile.head_path(head).mkdir(parents=True)
        (profile.head_path(head) / "predictions.parquet").write_bytes(head.encode())
    with StoreWriter(profile.store_path("video"), {"layer": -1}, dim=4):
        pass
    return profile


def page_of(found: Fusion, profile: Profile | None, overrides: list[str] | None = None) -> tuple[str, Page]:
    heads = found.units.heads
    files = {
        head: profile.head_path(head) / "predictions.parquet" if profile else Path(f"{head}.csv") for head in heads
    }
    run = gather(files, profile, "mine.yaml" if profile else None, COMMAND, overrides)
    write_report(Path("report.html"), found, run, analyse(found))
    html = Path("report.html").read_text()
    return html, Page(html)


def test_the_page_fetches_nothing_and_runs_nothing(found: Fusion, profile: Profile) -> None:
    html, page = page_of(found, profile)
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint(tag for tag, _ in page.tags)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    assert not [attrs for _, attrs in page.tags if {"src", "onload", "onclick"} & set(attrs)]
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"] for _, attrs in page.tags if "href" in attrs} <= {f"#{target}" for target in targets}
    assert "http://" not in html
    assert "https://" not in html
    assert not re.search(r"url\(|@import", html)


def test_mistakes_show_what_was_said_and_nothing_privileged(found: Fusion, profile: Profile) -> None:
    html, page = page_of(found, profile)
    assert sum(tag == "article" for tag, _ in page.tags) == 20
    assert "<i>I am u" not in html
    assert "<i>I am u" in page.text
    assert "listener: How is u" in page.text
    assert SECRET not in html
    assert "uses privileged" in re.findall("<title>(.*)</title>", html)[0]  # the head h1 does


def test_mistakes_show_what_is_seen_or_heard_or_why_not(found: Fusion, profile: Profile) -> None:
    write_mp4(Path("media/a.mp4"), greys([40, 90, 140, 190, 240]), None)
    Path("media/broken.mp4").write_bytes(b"no video at all")
    write_audio(Path("media/a.wav"), np.sin(np.arange(8000) / 9)[:, None] * 0.5, 16_000, "pcm_s16le")
    first = [mistake.unit_id for mistake in analyse(found).mistakes[:3]]
    kinds = [("a.mp4", None), ("broken.mp4", None), (None, "a.wav")]
    write_clips(profile, found, dict(zip(first, kinds, strict=True)))
    html, page = page_of(found, profile)
    pictures = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == len(set(pictures)) == 3
    assert all(picture.startswith("data:image/jpeg;base64,/9j/") for picture in pictures)
    assert "No picture of it: broken.mp4: " in page.text
    assert html.count(f'aria-label="loudness of {first[2]}"') == 1
    heard = [attrs["src"] or "" for tag, attrs in page.tags if tag == "audio"]
    assert [sound.partition(",")[0] for sound in heard] == ["data:audio/mpeg;base64"]


def test_two_groups_are_not_tested_and_the_page_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    units = make_units(120, strengths=(1.2, 0.8), test_share=0.4)
    groups = np.where(units.splits == "test", np.array([f"p{i % 2}" for i in range(120)]), units.groups)
    found = fuse(replace(units, groups=groups), ["mean", "weighted"], bootstrap=50)
    _, page = page_of(found, None)
    assert page.text.count("its units form 2 groups") == 2  # in the lead, and where the tests would be
    assert "McNemar" not in page.text
    assert "no difference can be tested: its units form 2 groups" in summary(found, analyse(found, 50))
    assert [
        line for line in summary(found, analyse(found, 50)).splitlines() if "macro-F1 over" in line and "[" in line
    ] == []


def test_without_a_profile_there_are_ids_and_answers(
    found: Fusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, page = page_of(found, None)
    assert sum(tag == "article" for tag, _ in page.tags) == 20
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "came without a profile" in page.text


def test_the_audit_is_shown_with_failures_first(found: Fusion, profile: Profile) -> None:
    _, page = page_of(found, profile)
    assert "python fusion/audit.py --config mine.yaml" in page.text
    checks = [
        {"name": "text overlap", "verdict": "pass", "number": 0, "text": "No text is in two splits."},
        {"name": "speaker overlap", "verdict": "fail", "number": 2, "text": "<b>2 speakers</b> are in two splits."},
        {"name": "media", "verdict": "skipped", "number": None, "text": "There are none."},
    ]
    path = profile.run_dir / "audit" / "audit.json"
    path.parent.mkdir()
    manifest = {"sha256": hashlib.sha256(profile.manifest_path.read_bytes()).hexdigest()}
    path.write_text(json.dumps({"checks": checks, "manifest": manifest}))
    write_sums(path.parent)
    html, page = page_of(found, profile)
    assert "The leak audit failed: speaker overlap" in page.text
    assert page.text.index("<b>2 speakers</b>") < page.text.index("No text is in two splits.")
    assert "<b>2 speakers" not in html
    assert "of another manifest" not in page.text
    path.write_text(json.dumps({"checks": checks, "manifest": {"sha256": "0" * 64}}))
    write_sums(path.parent)
    assert "of another manifest" in page_of(found, profile)[1].text


def test_the_commands_and_fingerprints_are_complete(found: Fusion, profile: Profile) -> None:
    model = profile.head_path("h0") / "model"
    model.mkdir()
    (model / "head.json").write_text(json.dumps({"settings": {}, "stores": {"video": {"fingerprint": "beef" * 16}}}))
    _, page = page_of(found, profile, ["seed=3", "name=a b"])
    for line in (
        "python extract/manifest.py --config mine.yaml seed=3 'name=a b'",
        "python extract/run.py --config mine.yaml seed=3 'name=a b'",
        "python heads/train.py --config mine.yaml --head h1 seed=3 'name=a b'",
        COMMAND,
    ):
        assert line in page.text
    assert Store(profile.store_path("video")).fingerprint in page.text
    assert "Head h0 was trained on another state of this store: " + "beef" * 16 in page.text
    assert "Head h1 was trained" not in page.text
    for content in (b"h0", b"h1"):
        assert hashlib.sha256(content).hexdigest() in page.text


def test_training_curves_are_drawn_where_there_are_epochs(found: Fusion, profile: Profile) -> None:
    history = [
        {
            "fold": fold,
            "seed": 0,
            "epoch": e,
            "train_loss": 1 / (e + 1),
            "inner_macro_f1": e / 10,
            "best": e == 5 + fold,
        }
        for fold in range(2)
        for e in range(8 + fold)
    ]
    path = profile.head_path("h0") / "training_history.json"
    path.write_text(json.dumps(history))
    curves = read_curves(path.with_name("predictions.parquet"))
    assert curves.models == 2
    loss, f1 = curves.panels
    assert [line.kind for line in loss.lines] == ["model", "model", "mean"]
    assert len(loss.lines[2].points) == 8  # as far as both got
    assert loss.lines[2].points[1] == (1, pytest.approx(0.5))
    assert [x for x, _, _ in f1.kept] == [5, 6]
    tried = [{"fold": 0, "seed": 0, "c": 0.1, "inner_loss": 1.0, "best": True}]
    (profile.head_path("h1") / "training_history.json").write_text(json.dumps(tried))
    html, page = page_of(found, profile)
    assert html.count('class="train_loss mean"') == 1
    assert "Head h1: fitted in one go" in page.text


def test_what_layers_counted_is_said_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    assert read_layers(path) == []
    (tmp_path / "metrics.json").write_text(json.dumps({"notes": []}))
    assert read_layers(path) == []
    (tmp_path / "metrics.json").write_text(json.dumps({"layers": {"voice": [{"0": 0.25, "3": 0.75}, {"3": 1.0}]}}))
    (line,) = read_layers(path)
    wanted = "layer 0: 0.125 (0.000 to 0.250), layer 3: 0.875 (0.750 to 1.000)"
    assert line == f"layers of voice, mean weight (lowest to highest) over 2 models: {wanted}"


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    history = [{"fold": 0, "seed": 0, "round": r, "train_loss": 2.0 - r / 1e4, "best": r == 9} for r in range(5000)]
    (tmp_path / "training_history.json").write_text(json.dumps(history))
    (line,) = read_curves(tmp_path / "predictions.parquet").panels[0].lines
    assert len(line.points) <= 60
    assert (line.points[0][0], line.points[-1][0]) == (0, 4999)


def test_the_table_names_every_candidate_and_its_significance(found: Fusion, profile: Profile) -> None:
    _, page = page_of(found, profile)
    assert "adjusted for the 4 comparisons (Holm 1979)" in page.text
    assert f"head {found.best_head}, the best single one" in page.text
    for name in ("majority", "head h0", "head h1", "mean", "weighted", "attention"):
        assert name in page.text
    assert "Whom the attention fusion listens to" in page.text


def test_the_page_prints_scores_as_papers_do_and_says_what_is_cross_corpus(found: Fusion, profile: Profile) -> None:
    path = profile.manifest_path
    manifest = read_manifest(path)
    said = {"cross_corpus": "trained on one, tested on two", "folds_given": {"a": 1, "b": 1}}
    write_manifest(replace(manifest, counts=manifest.counts | said), path)
    _, page = page_of(found, profile)
    assert "mine · trained on one, tested on two" in page.text
    assert "in the folds that the data gives: mean and standard deviation of" in page.text
    each = fold_scores(found)[found.chosen]
    assert f"{100 * each['mean']['balanced_accuracy']:.1f} ± {100 * each['std']['balanced_accuracy']:.1f}" in page.text
    assert re.search(r"On test the [^.]* has UA \d+\.\d, WA \d+\.\d, weighted F1 \d+\.\d\.", page.text)


@pytest.mark.parametrize(
    ("p", "shown"), [(0.0342, ".034"), (0.0002, "< .001"), (1.0, "1"), (0.9996, "1"), (float("nan"), "–")]
)
def test_p_values_are_written_as_is_common(p: float, shown: str) -> None:
    assert p_value(p) == shown
