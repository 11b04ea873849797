import hashlib
import json
import re
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from html_page import Page
from small_project import Done, run

from cache import Store, StoreWriter
from extract.corpora.manifest import make_manifest, write_manifest
from heads.mapping.drawing import MOST_VALUES
from heads.mapping.points import centred, principal, read_points
from heads.mapping.separation import in_words, separate

PROFILE = """
name: mine
dataset: {adapter: table, root: ., table: t.csv, columns: {label: label}, splits: {test: 0.2}}
encoders: {audio: {family: whisper, model: ./model}, other: {family: whisper, model: ./model}}
heads: {audio: {kind: linear, inputs: [audio]}}
"""
HOSTILE = "</script><script>alert(1)</script>"
N, SPEAKERS, DIM = 120, 6, 12


def draw(seed: int, emotion: float, speaker: float) -> tuple[np.ndarray, list[str], list[str]]:
    """Features in which emotions and speakers have means of their own, so strong."""
    rng = np.random.default_rng(seed)
    labels, speakers = np.arange(N) % 3, np.arange(N) // 3 % SPEAKERS
    values = rng.normal(size=(N, DIM)) + emotion * rng.normal(size=(3, DIM))[labels]
    values += speaker * rng.normal(size=(SPEAKERS, DIM))[speakers]
    return values.astype(np.float32), [f"e{i}" for i in labels], [f"s{i}" for i in speakers]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest and a store; one clip has no label, one no features, and texts are hostile."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(PROFILE)
    values, labels, speakers = draw(0, 2.0, 0.5)
    rows = [
        {
            "clip_id": f"c{i}",
            "conversation_id": f"d{i:03}",
            "index": 0,
            "split": "train",
            "group": speakers[i],
            "label": labels[i] if i else None,
            "speaker": speakers[i],
            "text": HOSTILE if i == 1 else "so it goes",
            "meta_corpus": ("a", HOSTILE)[i % 2],
            "meta_nth": str(i),
            "meta_many": str(i // 2),
            "privileged_cause": "what the annotator knew",
        }
        for i in range(N)
    ]
    Path("runs/mine").mkdir(parents=True)
    manifest = make_manifest(pl.DataFrame(rows), Path(), ["e0", "e1", "e2"], {}, "t.csv")
    write_manifest(manifest, Path("runs/mine/manifest.parquet"))
    with StoreWriter(Path("runs/mine/stores/audio"), {"family": "whisper"}, dim=DIM) as writer:
        for i in range(N - 1):  # two time steps, whose mean it is
            writer.append(f"c{i}", np.stack([values[i] + 1, values[i] - 1]).astype(np.float16), f"{i:032x}")
        writer.commit()
    return tmp_path


def draw_map(*arguments: str) -> Done:
    return run("cache/map", "--config", "mine.yaml", *arguments)


def data_of(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def codes(field: dict[str, Any]) -> list[str]:
    return [field["names"][i] for i in np.frombuffer(b64decode(field["codes"]), "<u2")]


def test_the_page_holds_every_point_and_runs_no_script_but_its_own(project: Path) -> None:
    done = draw_map("--encoder", "audio")
    assert done.code == 0, done.err
    assert "It separates" in done.out
    html = Path("runs/mine/maps/audio.html").read_text(encoding="utf-8")
    page, data = Page(html), data_of(html)
    assert HOSTILE not in html
    assert "annotator" not in html
    policy = next(attrs["content"] or "" for tag, attrs in page.tags if attrs.get("http-equiv"))
    script = html[html.rindex("<script>") + len("<script>") : html.rindex("</script>")]
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not re.search(r"https?://|url\(|@import", html)
    assert data["ids"] == [f"c{i}" for i in range(1, N - 1)]
    assert data["texts"][0] == HOSTILE
    fields = {field["name"]: field for field in data["fields"]}
    assert list(fields) == ["class", "speaker", "corpus", "many"]  # split is one, and every clip has its own nth
    assert codes(fields["class"]) == [f"e{i % 3}" for i in range(1, N - 1)]
    assert codes(fields["corpus"])[:2] == [HOSTILE, "a"]
    assert fields["many"]["names"][-1] == f"{60 - MOST_VALUES} others"
    assert sum(fields["many"]["sizes"]) == N - 2
    x = np.frombuffer(b64decode(data["x"]), "<u2").astype(float)
    by_class = [x[np.array(codes(fields["class"])) == name].mean() for name in ("e0", "e1", "e2")]
    assert np.ptp(by_class) > 5000  # of 65536: the emotion is what differs most
    numbers = json.loads(Path("runs/mine/maps/audio.json").read_text(encoding="utf-8"))
    assert numbers["clips"] == N - 2
    assert numbers["separation"]["emotion"]["n_names"] == 3
    assert " ".join(numbers["in_words"]) in done.out


def test_unlabelled_clips_are_drawn_when_asked_for_and_many_are_sampled(project: Path) -> None:
    assert draw_map("--encoder", "audio", "--every").code == 0
    fields = data_of(Path("runs/mine/maps/audio.html").read_text(encoding="utf-8"))["fields"]
    assert codes(fields[0]).count("unknown") == 1
    assert draw_map("--encoder", "audio", "--points", "50").code == 0
    html = Path("runs/mine/maps/audio.html").read_text(encoding="utf-8")
    assert len(data_of(html)["ids"]) == 50
    assert f"50 clips, drawn at random from {N - 2}" in html


def test_a_map_of_several_layers_says_so(project: Path) -> None:
    layered = "{family: whisper, model: ./model, layers: all, pooling: statistics}"
    Path("mine.yaml").write_text(PROFILE.replace("other: {family: whisper, model: ./model}", f"other: {layered}"))
    about = {"taken": [[0, 2], [3, 4]], "statistics": ["mean", "deviation"]}
    with StoreWriter(Path("runs/mine/stores/other"), {"layers": about}, dim=DIM) as writer:
        for i, row in enumerate(draw(0, 2.0, 0.5)[0]):
            writer.append(f"c{i}", row[None].astype(np.float16), f"{i:032x}")
        writer.commit()
    assert draw_map("--encoder", "other").code == 0
    features = "layers 0, 3 side by side, each with its mean and deviation over time"
    assert f"12 numbers each: {features}." in Path("runs/mine/maps/other.html").read_text(encoding="utf-8")
    assert json.loads(Path("runs/mine/maps/other.json").read_text(encoding="utf-8"))["features"].startswith(features)


def test_what_is_not_there_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, said in [
        (["--encoder", "audoi"], "error: --encoder audoi: the profile has no such encoder (it has: audio, other)"),
        (["--encoder", "other"], "runs/mine/stores/other: no such store: make it with 'python extract/run.py --config"),
    ]:
        done = draw_map(*arguments)
        assert done.code == 2
        assert said in done.err
        assert done.err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "umap", None)
    done = draw_map("--encoder", "audio", "--method", "umap")
    assert (done.code, done.err) == (2, "error: --method umap: needs the package umap-learn: pip install -e '.[map]'\n")
    with StoreWriter(Path("runs/mine/stores/other"), {"family": "whisper"}, dim=DIM) as writer:
        writer.append("c5", np.ones((1, DIM), np.float16), "0" * 32)
        writer.commit()
    assert "holds 1 of the manifest's labelled clips, too few for a map" in draw_map("--encoder", "other").err


@pytest.mark.parametrize(
    ("emotion", "speaker", "said"),
    [(0.1, 3.0, "the speaker more than the emotion"), (3.0, 0.1, "the emotion more than the speaker")],
)
def test_it_is_said_what_is_separated(emotion: float, speaker: float, said: str) -> None:
    values, labels, speakers = draw(1, emotion, speaker)
    found = separate(values, labels, speakers, speakers, seed=0)
    assert said in " ".join(in_words(found))
    assert found.people_apart
    assert found.emotion_silhouette is not None
    assert found.speaker_silhouette is not None
    assert (found.emotion_silhouette > found.speaker_silhouette) == (emotion > speaker)


def test_noise_separates_nothing_although_speakers_are_on_both_sides() -> None:
    values, labels, speakers = draw(2, 0.0, 0.0)
    found = separate(values, labels, speakers, speakers, seed=0)
    assert found.emotion is not None
    assert found.speaker is not None
    assert abs(found.emotion.gain) < 0.2
    assert abs(found.speaker.gain) < 0.2
    assert "It separates neither beyond what can be chance." in in_words(found)


def test_the_emotion_is_probed_on_groups_that_were_not_trained_on() -> None:
    """Each speaker says each emotion in a way that no other does: known people would be read, others are not."""
    rng = np.random.default_rng(3)
    labels, speakers = np.arange(N) % 3, np.arange(N) // 3 % SPEAKERS
    own = rng.normal(size=(SPEAKERS, 3, 60))
    values = (rng.normal(size=(N, 60)) + 3 * own[speakers, labels]).astype(np.float32)
    names, people = [f"e{i}" for i in labels], [f"s{i}" for i in speakers]
    apart = separate(values, names, people, people, seed=0).emotion
    mixed = separate(values, names, people, [str(i) for i in range(N)], seed=0)
    assert apart is not None
    assert mixed.emotion is not None
    assert apart.score < 0.6 < 0.9 < mixed.emotion.score
    assert not mixed.people_apart


def test_where_emotion_and_speaker_are_one_or_unknown_nothing_is_claimed() -> None:
    values, labels, speakers = draw(4, 1.0, 1.0)
    assert "go together" in " ".join(in_words(separate(values, labels, labels, [str(i) for i in range(N)], seed=0)))
    nobody: list[str | None] = [None] * N
    found = separate(values, labels, nobody, speakers, seed=0)
    assert found.speaker is found.speaker_silhouette is found.centred is None
    assert "Speakers are not known of enough clips" in " ".join(in_words(found))
    assert in_words(separate(values, nobody, nobody, speakers, seed=0))[0].startswith("Neither")
    assert separate(values, ["sad"] * N, speakers, speakers, seed=0).emotion is None
    assert separate(values, labels, ["ann"] * N, ["g"] * N, seed=0).emotion is None  # one group: nothing to hold out


def test_features_are_scaled_each_by_itself_and_centred_by_speaker(project: Path) -> None:
    from extract.corpora.manifest import read_manifest

    points = read_points(read_manifest("runs/mine/manifest.parquet"), Store("runs/mine/stores/audio"), True, 1000, 0)
    np.testing.assert_allclose(points.values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(points.values.std(axis=0), 1, atol=1e-5)
    taken = centred(np.array([[1.0], [3.0], [7.0], [9.0]]), ["a", "a", None, "b"])
    assert taken.tolist() == [[-1.0], [1.0], [7.0], [0.0]]
    placed, shares = principal(np.ones((5, 1)) * np.arange(5)[:, None], 0)
    assert placed.shape == (5, 2)
    assert shares == (1.0,)
