"""A corpus with every fault: each is found, and nothing in clips that have none."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import yaml
from html_page import Page
from hypothesis import given, settings
from hypothesis import strategies as st
from media_tools import greys, write_audio, write_mp4, write_video
from small_project import Done, run

from cache import verify_published
from configs import UserError
from extract.checking import texts
from extract.checking.findings import assembled, refused
from extract.checking.kinds import KINDS
from extract.checking.looking import TOGETHER, look
from extract.checking.measures import PictureLook, SoundLook, clipped, frame_cells, is_blank
from extract.corpora.manifest import make_manifest
from extract.media.decoding import Decoders
from extract.media.reading import MediaError
from extract.media.sources import Sources
from extract.media.tasks import Decoded

RATE = 16_000
HOSTILE = "</script><img src=x onerror=alert(1)>"
CLEAN = 22
SAID = "this is what somebody says in clip number"


def voice(seed: int, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """(n, 1): noise that comes and goes four times a second, as syllables do, with a pause at the end."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    loudness = np.clip(np.sin(2 * np.pi * 2 * time) ** 2 - 0.1, 0, 1) * (time < 0.9 * seconds)
    return (0.1 * rng.normal(size=len(time)) * loudness + 1e-3 * rng.normal(size=len(time))).clip(-0.9, 0.9)[:, None]


def moving(seed: int, n: int = 10, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def build(media: Path) -> list[dict[str, Any]]:
    """Clips with the names of what is wrong with them, and clean ones."""

    def sound(name: str, samples: np.ndarray, rate: int = RATE, layout: str = "mono") -> str:
        write_audio(media / f"{name}.wav", samples, rate, "pcm_s16le", layout)
        return f"{name}.wav"

    def film(name: str, images: np.ndarray | None, samples: np.ndarray | None = None) -> str:
        write_mp4(media / f"{name}.mp4", images, samples)
        return f"{name}.mp4"

    rows = [
        {"id": f"clean{i}", "audio": sound(f"clean{i}", voice(i)), "video": film(f"clean{i}", moving(i))}
        for i in range(CLEAN)
    ]
    both = np.concatenate([voice(70), 0 * voice(70)], axis=1)
    long = np.concatenate([voice(80 + i) for i in range(5)])
    rows += [
        {"id": "silent", "audio": sound("silent", np.zeros((RATE, 1)))},
        {"id": "pauses", "audio": sound("pauses", np.concatenate([voice(71, 0.2), np.zeros((RATE, 1))]))},
        {"id": "clipped level", "audio": sound("clipped", (40 * voice(72)).clip(-1, 1))},
        {"id": "noise", "audio": sound("noise", 0.1 * np.random.default_rng(0).normal(size=(RATE, 1)))},
        {"id": "level", "audio": sound("level", 0.04 * voice(73))},
        {"id": "narrow format", "audio": sound("narrow", voice(74, rate=8000), 8000)},
        {"id": "channels format", "audio": sound("one", both, layout="stereo")},
        {"id": "channels format 2", "audio": sound("against", voice(75) * [1, -1], layout="stereo")},
        {"id": "length", "audio": sound("long", long)},
        {"id": "apart", "audio": sound("apart", voice(76)), "video": film("apart", moving(60, 15))},
        {"id": "blank", "video": film("black", np.concatenate([greys([0] * 5), moving(61, 5)]))},
        {"id": "frozen", "video": film("frozen", np.repeat(moving(62, 1), 10, axis=0))},
        {"id": "format", "video": film("large", moving(63, height=64))},
        {"id": "unreadable", "video": film("cut", moving(64, 20))},
        {"id": "unreadable 2", "audio": sound("empty", voice(77))},
        {"id": "empty_text text_length", "text": "...!"},
        {"id": "text_length", "text": "word " * 200},
        {"id": "script", "text": "Это другое письмо, а не то, что у всех остальных"},
        {"id": "copies contradicting", "audio": "clean0.wav", "label": "sad"},
        {"id": "copies copies_across_splits", "video": "clean1.mp4", "split": "test"},
        {"id": "contradicting repeated_text text_across_splits", "text": "Words twice, said here: " + HOSTILE},
        {
            **{"id": "contradicting repeated_text text_across_splits 2", "label": "sad", "split": "test"},
            "text": "words TWICE  said here " + HOSTILE,
        },
    ]
    whole = (media / "cut.mp4").read_bytes()
    (media / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (media / "empty.wav").write_bytes(b"")
    for number, row in enumerate(rows):
        if row["id"].split(" ")[0] not in ("empty_text", "text_length", "script", "contradicting"):
            row["text"] = f"{SAID} {number:02}"
    return [{"audio": None, "video": None, "label": "happy", "split": "train", **row} for row in rows]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("check")
    (folder / "media").mkdir()
    pl.DataFrame(build(folder / "media")).write_csv(folder / "media" / "clips.csv")
    columns = {"clip_id": "id", **{name: name for name in ("audio", "video", "text", "label", "split")}}
    profile = {
        "name": "small",
        "dataset": {"adapter": "table", "root": "media", "table": "clips.csv", "columns": columns},
        "store": {"max_error_share": 0.1},
        "heads": {"words": {"kind": "bag_of_words", "inputs": ["text"]}},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(profile))
    before = Path.cwd()
    os.chdir(folder)
    assert run("extract/manifest", "--config", "small.yaml", "--no-overview").code == 0
    yield folder
    os.chdir(before)


def check(*arguments: str) -> Done:
    return run("extract/check", "--config", "small.yaml", "--workers", "1", *arguments)


class InProcess(Decoders):
    """Starts no child, and notes what it is asked for."""

    asked: ClassVar[list[str]] = []

    def decode(self, path: Path, content_hash: str | None = None) -> Decoded:
        self.asked.append(path.name)
        return self._task.decode(path, lambda: None)


@pytest.fixture(scope="module")
def checked(project: Path) -> tuple[Done, pl.DataFrame]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.checking.looking.Decoders", InProcess)
        return check(), pl.read_parquet("runs/small/check/clips.parquet")


def test_every_fault_is_found_and_nothing_in_clean_clips(checked: tuple[Done, pl.DataFrame]) -> None:
    done, table = checked
    found = {clip: set(names) for clip, names in table.select("clip_id", "findings").iter_rows()}
    assert found.pop("clean0") == {"copies", "contradicting"}
    assert found.pop("clean1") == {"copies", "copies_across_splits"}
    for clip, names in found.items():
        expected = set() if clip.startswith("clean") else {word for word in clip.split(" ") if word in KINDS}
        assert names == expected, clip
    nowhere = {"damaged", "no_face", "language"}  # tested by themselves
    assert set().union(*found.values(), {"copies"}) == set(KINDS) - nowhere
    assert done.code == 0
    assert "20 of 44 clips have no finding" in done.out
    for name in set(KINDS) - nowhere:
        assert f"\n  {name} " in done.out, name


def test_the_table_says_why_and_how_much(checked: tuple[Done, pl.DataFrame]) -> None:
    rows = {row["clip_id"]: row for row in checked[1].iter_rows(named=True)}
    assert rows["unreadable 2"]["audio_problem"] == "the file is empty"
    assert rows["unreadable"]["video_problem"]
    assert rows["silent"]["audio_silence"] == 1
    assert 0.8 < rows["pauses"]["audio_silence"] < 0.95
    assert rows["blank"]["video_blank"] == pytest.approx(0.5)
    assert rows["frozen"]["video_frozen"] == 1
    assert rows["clean3"]["video_fps"] == 10
    assert (rows["narrow format"]["audio_rate"], rows["channels format"]["audio_channels"]) == (8000, 2)
    assert rows["length"]["audio_seconds"] == pytest.approx(5)
    assert rows["script"]["text_script"] == "CYRILLIC"
    assert rows["clean3"]["audio_copies"] == 0
    assert rows["empty_text text_length"]["audio_copies"] is None


def test_the_page_opens_anywhere_shows_the_worst_and_escapes_what_comes_from_data(
    project: Path, checked: tuple[Done, pl.DataFrame]
) -> None:
    folder = project / "runs" / "small" / "check"
    html = (folder / "index.html").read_text()
    page = Page(html)
    assert HOSTILE in page.text
    assert not any(tag == "script" for tag, _ in page.tags)
    assert all((attrs["src"] or "").startswith("data:") for _, attrs in page.tags if "src" in attrs)
    assert {tag for tag, _ in page.tags} >= {"img", "audio"}
    identities = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identities) == len(set(identities))
    assert {attrs["href"] for _, attrs in page.tags if "href" in attrs} <= {f"#{target}" for target in identities}
    assert len(html) < 1_500_000
    assert (folder / "summary.txt").read_text().strip() in checked[0].out
    verify_published(folder, "")


def test_the_next_check_looks_at_what_is_new_and_at_what_could_not_be_read(
    project: Path, checked: tuple[Done, pl.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.checking.looking.Decoders", InProcess)
    InProcess.asked.clear()
    monkeypatch.setattr("extract.check.write_page", lambda path, *rest: path.write_text("no page"))
    shutil.copy("media/clean2.wav", "media/keep.wav")
    shutil.copy("media/clean3.wav", "media/clean2.wav")  # content that is known, under another name
    (project / "runs" / "small" / ".check.video.parquet").write_bytes(b"damaged")
    done = check("--fail-on", "clipped, unreadable:0.5")
    shutil.move("media/keep.wav", "media/clean2.wav")
    assert [name for name in InProcess.asked if name.endswith(".wav")] == ["empty.wav"]
    assert len([name for name in InProcess.asked if name.endswith(".mp4")]) == CLEAN + 5
    assert "unreadable" in done.out
    assert "every file is looked at again" in done.out
    assert done.code == 3
    assert done.err == "error: clipped: 1 of 44 clips, more than --fail-on allows (0.0%)\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [("clippd", "no such kind of finding"), ("clipped:2", "is 0 to 1"), ("clipped:much", "is 0 to 1")],
)
def test_a_wrong_limit_ends_in_one_line(project: Path, given: str, said: str) -> None:
    done = check("--fail-on", given)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_too_many_unreadable_files_end_in_exit_code_3_by_default(checked: tuple[Done, pl.DataFrame]) -> None:
    assert refused(checked[1], None, 0.1) == []
    (first, second) = refused(checked[1], None, 0.02)
    assert first.startswith("1 of 34 audio files cannot be read")
    assert second.startswith("1 of 28 video files cannot be read")


@given(gain=st.floats(0.05, 1), seed=st.integers(0, 3), codec=st.sampled_from(["pcm_f32le", "pcm_s24le"]))
@settings(max_examples=15, deadline=None)
def test_a_softer_clip_differs_in_level_alone(
    tmp_path_factory: pytest.TempPathFactory, gain: float, seed: int, codec: str
) -> None:
    folder = tmp_path_factory.mktemp("gain")
    measured = []
    for scale in (1.0, gain):
        write_audio(folder / "a.wav", scale * voice(seed), RATE, codec)
        measured.append(SoundLook(0.05).decode(folder / "a.wav", lambda: None).values)
    first, second = measured
    moved = {name: second[name] - first[name] for name in ("level", "loudest")}
    assert moved == pytest.approx(dict.fromkeys(moved, 20 * np.log10(gain)), abs=0.05)
    for name in set(first) - {"level", "loudest", "peak"}:
        assert second[name] == pytest.approx(first[name], abs=0.05), name


def test_a_crest_is_no_flat_top() -> None:
    time = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 220 * time)[None]
    assert clipped(tone).sum() == 0
    top = (2 * tone).clip(-1, 1)
    assert clipped(top).mean() == pytest.approx((np.abs(top) == 1).mean(), abs=0.01)
    assert clipped(1.1 * tone).mean() > 0.2  # beyond full scale, as lossy codecs decode it
    assert [clipped(np.ones((1, n))).sum() for n in (0, 1, 2, 3)] == [0, 0, 0, 3]


def test_black_and_plain_frames_are_blank_and_dark_ones_are_not() -> None:
    dark = np.full((90, 160, 3), 10, np.uint8)
    assert is_blank(frame_cells(dark))
    dark[20:40, 30:60] = 90
    assert not is_blank(frame_cells(dark))
    assert is_blank(frame_cells(np.full((90, 160, 3), 128, np.uint8)))


def test_a_film_of_few_frames_is_no_standing_picture(tmp_path: Path) -> None:
    write_video(tmp_path / "slow.mkv", moving(1, 8), times=[i / 5 for i in range(8)], codec="ffv1", pixels="bgr0")
    assert PictureLook(0.05).decode(tmp_path / "slow.mkv", lambda: None).values["frozen"] == 0
    write_video(tmp_path / "one.mkv", greys([0, 255]).repeat(1, axis=0), times=[0, 2], codec="ffv1", pixels="bgr0")
    assert PictureLook(0.05).decode(tmp_path / "one.mkv", lambda: None).values["seconds"] > 1


def test_damage_is_told_with_its_share_and_above_the_limit_is_a_failure(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", voice(0, 4), RATE, "flac")
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.flac").write_bytes(content)
    rows = [{"clip_id": "a", "conversation_id": "a", "index": 0, "split": "train", "group": "a", "label": "x"}]
    manifest = make_manifest(pl.DataFrame([{**rows[0], "audio": "a.flac"}]), tmp_path, ["x"], {}, "here")
    looked = look(manifest, SoundLook(0.5), Sources(None), tmp_path / "known.parquet", 1, 60)
    assert assembled(manifest, {"audio": looked.files})["findings"].to_list() == [["damaged"]]
    with pytest.raises(MediaError, match="more than max_damage = 0"):
        SoundLook(0).decode(tmp_path / "a.flac", lambda: None)


def test_what_is_usual_is_asked_in_each_corpus(tmp_path: Path) -> None:
    rows = [
        {"clip_id": f"{corpus}{i}", "text": text + " more" * (i % 3), "meta_corpus": corpus, "label": "x"}
        for corpus, text in (("a", "only a few words here"), ("b", "дольше " * 60))
        for i in range(25)
    ]
    full = [{"conversation_id": r["clip_id"], "index": 0, "split": "train", "group": "g", **r} for r in rows]
    manifest = make_manifest(pl.DataFrame(full), tmp_path, ["x"], {}, "here")
    found = set(assembled(manifest, {})["findings"].explode(empty_as_null=True).drop_nulls())
    assert found <= {"repeated_text", "language"}
    alone = make_manifest(pl.DataFrame(full[:26]).drop("meta_corpus"), tmp_path, ["x"], {}, "here")
    last = assembled(alone, {})["findings"][-1].to_list()
    assert {"text_length", "script"} <= set(last)


def test_languages_are_told_where_a_text_is_long_enough() -> None:
    pytest.importorskip("lingua")
    english = "I was so happy when they finally told me about the new house"
    german = "Ich habe mich sehr gefreut, als sie mir endlich von dem neuen Haus erzählten"
    assert texts.languages([english, german, "Oui, merci", "???"]) == ["en", "de", None, None]


@pytest.mark.parametrize(
    ("text", "script", "key"),
    [
        ("Ｈello,  WORLD!", "LATIN", "hello world"),
        ("漢字かな", "HAN AND KANA", "漢字かな"),
        ("شادی", "ARABIC", "شادی"),
        ("12 !", None, "12"),
        ("🙂", None, ""),
    ],
)
def test_scripts_and_keys_of_texts(text: str, script: str | None, key: str) -> None:
    assert (texts.script(text), texts.key(text)) == (script, key)


def test_faces_are_looked_for_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    from configs.schema import FaceCrop

    write_video(tmp_path / "a.mkv", moving(1, 10), codec="ffv1", pixels="bgr0")
    assert PictureLook(0.05, FaceCrop()).decode(tmp_path / "a.mkv", lambda: None).values["face"] == 0
    monkeypatch.setattr("extract.media.faces.face_detector", lambda: lambda image, upsample: [1])
    assert PictureLook(0.05, FaceCrop()).decode(tmp_path / "a.mkv", lambda: None).values["face"] == 1


def test_clips_are_left_out_by_their_ids(project: Path) -> None:
    (project / "media" / "out.txt").write_text("clean5\n\n  noise \n")
    arguments = ("extract/manifest", "--config", "small.yaml", "--no-overview", "name=less")
    done = run(*arguments, "dataset.exclude=out.txt")
    assert "excluded: 2" in done.out
    ids = pl.read_parquet("runs/less/manifest.parquet")["clip_id"]
    assert len(ids) == 42
    assert not set(ids) & {"clean5", "noise"}
    (project / "media" / "out.txt").write_text("nobody\n")
    assert "the dataset has no clip 'nobody'" in run(*arguments, "dataset.exclude=out.txt").err
    (project / "media" / "out.txt").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in run(*arguments, "dataset.exclude=out.txt").err
    assert "no such file" in run(*arguments, "dataset.exclude=none.txt").err


def test_faces_that_are_wanted_need_dlib(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UserError("face_crop: needs dlib")

    monkeypatch.setattr("extract.media.faces.face_detector", refuse)
    done = check("--faces")
    assert (done.code, done.err) == (2, "error: --faces: needs dlib; install it with: pip install -e '.[face]'\n")


def test_objects_are_brought_to_disk_and_looked_at_once(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "a.wav", voice(0), RATE, "pcm_s16le")
    s3.write("media/a.wav", (tmp_path / "a.wav").read_bytes())
    monkeypatch.setattr("extract.checking.looking.Decoders", InProcess)
    about = {"index": 0, "split": "train", "group": "g", "label": "x"}
    rows = [{"clip_id": name, "conversation_id": name, "audio": f"{name}.wav", **about} for name in ("a", "gone")]
    manifest = make_manifest(pl.DataFrame(rows), "s3://bucket/media", ["x"], {}, "here")
    sources = Sources(None)
    first = look(manifest, SoundLook(0.05), sources, tmp_path / "known.parquet", 1, 60)
    assert first.files["problem"].to_list() == [None, "no such object"]
    assert first.files["seconds"].to_list() == [1, None]
    again = look(manifest, SoundLook(0.05), sources, tmp_path / "known.parquet", 1, 60)
    assert (first.n_measured, again.n_measured, again.n_remembered) == (1, 0, 1)
    assert again.files.equals(first.files)


def test_an_interrupted_look_keeps_what_it_has_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"index": 0, "split": "train", "group": "g", "label": "x"}
    names = [f"{i:02}" for i in range(40)]
    rows = [{"clip_id": name, "conversation_id": name, "audio": f"{name}.wav", **about} for name in names]
    for i, name in enumerate(names):
        write_audio(tmp_path / f"{name}.wav", voice(i, 0.1), RATE, "pcm_s16le")
    manifest = make_manifest(pl.DataFrame(rows), tmp_path, ["x"], {}, "here")

    class Interrupted(InProcess):
        def decode(self, path: Path, content_hash: str | None = None) -> Decoded:
            if path.stem == "36":
                raise KeyboardInterrupt
            return super().decode(path, content_hash)

    monkeypatch.setattr("extract.checking.looking.Decoders", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        look(manifest, SoundLook(0.05), Sources(None), tmp_path / "known.parquet", 2, 60)
    monkeypatch.setattr("extract.checking.looking.Decoders", InProcess)
    looked = look(manifest, SoundLook(0.05), Sources(None), tmp_path / "known.parquet", 2, 60)
    assert (looked.n_remembered, looked.n_measured) == (TOGETHER, 40 - TOGETHER)
    assert looked.files["seconds"].to_list() == [0.1] * 40
