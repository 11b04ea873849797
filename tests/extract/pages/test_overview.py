import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from html_page import Page
from media_tools import decode_audio, greys, write_audio, write_mp4

import extract.pages.overview
from configs import UserError
from extract.corpora.manifest import Manifest, make_manifest
from extract.media.decoding import Decoders
from extract.pages import tallies
from extract.pages.lengths import MOST_FILES, Lengths, look
from extract.pages.overview import write_overview
from extract.pages.tallies import MOST_CLASSES, MOST_ROWS, Shown, spread

HOSTILE = "</script><img src=x onerror=alert(1)>"


def build(rows: list[dict[str, Any]], classes: list[str], root: Path | str = Path("media"), **counts: Any) -> Manifest:
    full = [
        {"clip_id": f"c{i}", "conversation_id": f"d{i}", "index": 0, "split": "train", "group": f"d{i}"} | row
        for i, row in enumerate(rows)
    ]
    return make_manifest(pl.DataFrame(full, infer_schema_length=None), root, classes, counts, "source")


def page_of(manifest: Manifest, folder: Path) -> tuple[str, Page]:
    path = folder / "overview.html"
    write_overview(manifest, path, "mine")
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def numbered(manifest: Manifest) -> tuple[pl.DataFrame, Shown]:
    shown = Shown(manifest)
    return shown.numbered(manifest.clips), shown


def test_media_are_seen_heard_and_measured_and_what_is_broken_is_shown_as_such(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    tone = np.sin(np.arange(8000) / 9)[:, None] * 0.5
    write_audio(media / "a.wav", tone, 16_000, "pcm_s16le")
    write_mp4(media / "a.mp4", greys([40, 90, 140, 190, 240]), None)
    (media / "broken.wav").write_bytes(b"no sound at all")
    rows = [
        {"label": "happy", "audio": "a.wav", "video": "a.mp4", "speaker": "ann"},
        {"label": "sad", "audio": "broken.wav", "speaker": "ben"},
    ]
    html, page = page_of(build(rows, ["happy", "sad"], media), tmp_path)
    assert html.count("data:image/jpeg;base64,/9j/") == 3
    (sound,) = re.findall(r'<audio controls preload="metadata" src="data:audio/mpeg;base64,([\w+/=]+)"', html)
    (tmp_path / "heard.mp3").write_bytes(b64decode(sound))
    heard = decode_audio(tmp_path / "heard.mp3")
    assert len(heard) == pytest.approx(8000, abs=400)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.1)
    assert "Not shown: broken.wav: " in page.text
    assert "Audio files that could not be opened: 1 of the 2 that were tried" in page.text
    assert "no file that was opened says" not in page.text
    assert "median 0.5\u00a0s" in page.text
    assert str(tmp_path) not in html
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


def test_what_comes_from_data_is_escaped_and_privileged_values_are_not_told(tmp_path: Path) -> None:
    rows = [
        {
            "label": (HOSTILE, "شادی", "悲しい")[i % 3],
            "text": HOSTILE,
            "speaker": HOSTILE,
            "meta_topic": HOSTILE,
            "privileged_cause": "what the annotator knew",
        }
        for i in range(6)
    ]
    manifest = build(rows, [HOSTILE, "شادی", "悲しい"], warnings=[HOSTILE], dropped={HOSTILE: 2})
    html, page = page_of(manifest, tmp_path)
    assert not any(tag in ("img", "script") for tag, _ in page.tags)
    assert page.text.count(HOSTILE) > 8
    assert "annotator" not in html
    assert "<bdi>شادی</bdi>" in html
    assert "悲しい" in page.text
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"] for _, attrs in page.tags if "href" in attrs} <= {f"#{target}" for target in targets}


def test_a_corpus_of_one_class_without_media_or_speakers_has_a_page(tmp_path: Path) -> None:
    _, page = page_of(build([{"label": "sad"}], ["sad", "happy"]), tmp_path)
    assert "No clip is labelled “happy”" in page.text
    assert "Who speaks is not known." in page.text
    assert "No clip has anything to see, hear or read." in page.text
    _, page = page_of(build([{"label": "sad"}, {"label": "sad"}], ["sad"]), tmp_path)
    assert "nothing to tell apart" in page.text


def test_without_decoders_or_with_media_elsewhere_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"label": "sad", "audio": "a.wav"}, {"label": "happy", "audio": "b.wav"}]

    def refuse(*arguments: Any) -> None:
        raise UserError("no decoder can be started: no memory")

    monkeypatch.setattr(Decoders, "decode", refuse)
    _, page = page_of(build(rows, ["happy", "sad"]), tmp_path)
    assert page.text.count("no decoder can be started: no memory") == 3  # the card, and two clips
    _, page = page_of(build(rows, ["happy", "sad"], "s3://bucket/clips"), tmp_path)
    assert page.text.count("object storage") == 3


def test_the_page_stays_small_however_many_classes_speakers_and_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"label": f"l{i % 90}", "speaker": f"s{i % 400}", "text": "x " * 4000, "meta_topic": f"t{i}"}
        for i in range(1000)
    ]
    html, page = page_of(build(rows, [f"l{i}" for i in range(90)], warnings=["w"] * 500), tmp_path)
    assert len(html) < 200_000
    assert f"{90 - MOST_CLASSES} others" in page.text
    assert f"and {400 - MOST_ROWS} more" in page.text
    assert sum(tag == "article" for tag, _ in page.tags) == extract.pages.overview.MOST_CLIPS
    assert "and 480 more, in manifest.json" in page.text


def test_of_many_files_some_are_opened_spread_over_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 4 * MOST_FILES
    asked: list[int] = []

    class Decoded:
        seconds = 36.0

    def decode(self: Decoders, path: Path) -> type[Decoded]:
        asked.append(int(path.stem))
        return Decoded

    monkeypatch.setattr(Decoders, "decode", decode)
    rows = [{"label": ("sad", "happy")[i % 2], "audio": f"{i}.wav", "conversation_id": f"{i:05}"} for i in range(n)]
    found = look(build(rows, ["happy", "sad"]))["audio"]
    assert found.is_sample
    assert found.opened == len(set(asked)) == MOST_FILES
    assert max(np.diff(sorted(asked))) <= 5
    assert found.hours == pytest.approx(n / 100)


def test_hours_leave_out_what_cannot_be_opened() -> None:
    assert Lengths(100, 10, {str(i): 3600.0 for i in range(8)}, [("a", ""), ("b", "")]).hours == pytest.approx(80)


def test_a_label_is_followed_by_the_next_one_of_its_conversation() -> None:
    labels = ["sad", None, "happy", "happy", "sad"]
    rows = [{"label": label, "conversation_id": "d", "group": "d", "index": 9 - i} for i, label in enumerate(labels)]
    units, shown = numbered(build([*rows, {"label": "sad", "conversation_id": "e", "group": "e"}], ["happy", "sad"]))
    counts = tallies.transitions(units, shown)
    assert counts is not None
    assert counts.tolist() == [[1, 1], [1, 0]]
    assert tallies.expected_stay(counts) == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 1 / 3)
    units, shown = numbered(build([{"label": "sad"}], ["sad"]))
    assert tallies.transitions(units, shown) is None


def test_what_is_absent_for_one_class_alone_is_said() -> None:
    rows = [{"label": "sad", "text": None if i < 15 else "oh"} for i in range(20)]
    rows += [{"label": "happy", "text": "ah"} for _ in range(20)]
    assert list(tallies.uneven(*numbered(build(rows, ["happy", "sad"])))) == [
        "text is absent from 75% of “sad” and from 0% of “happy”: that it is absent tells of the label"
    ]
    even = [{"label": ("happy", "sad")[i % 2], "text": None if i < 20 else "oh"} for i in range(40)]
    assert not list(tallies.uneven(*numbered(build(even, ["happy", "sad"]))))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("values", [[3], [2, 2, 2], [1, 2, 3, 1000], list(range(500)), [0] * 99 + [10**6]])
def test_every_value_is_in_one_bin(values: list[float], whole: bool) -> None:
    found = spread(values, whole)
    assert found is not None
    assert sum(n for _, _, n in found.bins) == len(values)
    assert (found.least, found.most) == (min(values), max(values))
    assert len(found.bins) <= tallies.BINS + 1


def test_clips_that_are_shown_are_of_different_speakers_and_from_train() -> None:
    rows = [{"label": "sad", "speaker": ("ann", "ben")[i > 20], "split": "train"} for i in range(22)]
    rows += [{"label": "sad", "speaker": "cyd", "split": "test"} for _ in range(30)]
    chosen = extract.pages.overview._chosen(*numbered(build(rows, ["sad"])))
    assert [clip["speaker"] for clip in chosen[:2]] in (["ann", "ben"], ["ben", "ann"])
    assert "train" in {clip["split"] for clip in chosen}
