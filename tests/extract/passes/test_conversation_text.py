"""``conversation: true``: what a labelled clip says is read with what was said before it, and nothing after."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from checkpoints import WORDS
from hypothesis import given
from hypothesis import strategies as st
from media_tools import Load, Run
from transformers import AutoTokenizer

from cache import Store
from configs import UserError
from configs.schema import Encoder
from extract import manifest
from extract.corpora.clips import clips_with_media
from extract.corpora.manifest import make_manifest
from extract.encoders.encoder import LoadedEncoder, Window
from extract.encoders.text import load_text_encoder
from extract.media.texts import BETWEEN_TEXTS, join_texts

CLS, SEP = WORDS.index("[CLS]"), WORDS.index("[SEP]")
# t0 is labelled twice, and the listener answers; t1 begins with a clip without text; t2 says nothing.
CLIPS = [
    ("a", "t0", 0, "speaker", "i am sad", None),
    ("b", "t0", 1, "listener", "are you", "sad"),
    ("c", "t0", 2, "speaker", "very very sad", "angry"),
    ("d", "t0", 3, "listener_response", "not happy", None),
    ("e", "t1", 0, "speaker", None, None),
    ("f", "t1", 1, "speaker", "happy today", "happy"),
    ("g", "t2", 0, "speaker", None, "happy"),
]
SPEC = Encoder(family="transformer", model="./none", conversation=True)
NAMES = ["clip_id", "conversation_id", "index", "role", "text", "label"]


def talk(**texts: str) -> pl.DataFrame:
    """The clips above, some with another text."""
    rows = [(*row[:4], texts.get(row[0], row[4]), row[5]) for row in CLIPS]
    return pl.DataFrame(rows, schema=NAMES, orient="row").with_columns(split=pl.lit("train"), group="conversation_id")


def sources(clips: pl.DataFrame) -> dict[str, Any]:
    made = make_manifest(clips, Path(), ["angry", "happy", "sad"], {}, "test")
    return {clip.clip_id: clip.source for clip in clips_with_media(made, SPEC)}


def kept(windows: Iterable[Window]) -> np.ndarray:
    """The tokens that are stored."""
    return np.concatenate([window.inputs["input_ids"][window.keep] for window in windows])


def words(ids: np.ndarray) -> str:
    return " ".join(WORDS[i] for i in ids)


def test_a_unit_reads_its_clips_in_order_up_to_its_own() -> None:
    found = sources(talk())
    assert {unit: source.split(BETWEEN_TEXTS) for unit, source in found.items()} == {
        "b": ["i am sad", "are you"],
        "c": ["i am sad", "are you", "very very sad"],
        "f": ["happy today"],
    }


@given(later=st.text())
def test_nothing_of_a_later_clip_enters(later: str) -> None:
    assert sources(talk(d=later)) == sources(talk())
    assert sources(talk(c=later or "x"))["b"] == sources(talk())["b"]


def test_the_separator_is_the_tokenizers_own(load: Load) -> None:
    prepare = load("bert", conversation=True).prepare
    (window,) = prepare(sources(talk())["c"]).windows
    assert words(window.inputs["input_ids"]) == "[CLS] i am sad [SEP] are you [SEP] very very sad [SEP]"
    (plain,) = load("bert").prepare("i am sad").windows
    (single,) = prepare("i am sad").windows
    assert plain.inputs["input_ids"].tolist() == single.inputs["input_ids"].tolist()


PIECES = st.sampled_from(["[SEP]", "[", "SEP]", "[SE", "P]", BETWEEN_TEXTS, " ", "sad", "[CLS]"])


@given(texts=st.lists(st.lists(PIECES, max_size=8).map("".join), min_size=1, max_size=4))
def test_no_text_can_forge_a_separator(texts: list[str], encoder: LoadedEncoder) -> None:
    """Neither one that is spelled out nor the character between texts: there are as many parts as texts."""
    ids = kept(encoder.prepare(join_texts(texts)).windows)
    assert np.count_nonzero(ids == SEP) == len(texts)
    assert ids[-1] == SEP


@pytest.fixture(scope="module")
def encoder(checkpoints: Path) -> LoadedEncoder:
    settings = {"family": "transformer", "model": str(checkpoints / "bert"), "conversation": True}
    return load_text_encoder(Encoder(**settings), torch.device("cpu"))


@pytest.mark.parametrize("boundary", [None, 1])
def test_a_conversation_longer_than_a_window_keeps_every_token_once(load: Load, boundary: int | None) -> None:
    texts = ["i am so very happy today"] * 9
    encoder = load("bert", conversation=True, boundary=boundary, overlap=0.2)
    prepared = encoder.prepare(join_texts(texts))
    windows = list(prepared.windows)
    assert len(windows) > 2  # of 24 tokens
    assert words(kept(windows)) == "[CLS] " + " [SEP] ".join(texts) + " [SEP]"
    assert prepared.n_steps == len(kept(windows)) == len(encoder.alone(join_texts(texts)))


def test_a_tokenizer_without_a_separator_is_refused(load: Load, checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "no separator"
    folder.mkdir()
    for file in (checkpoints / "bert").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.sep_token = None
    tokenizer.save_pretrained(folder)
    load("bert", folder)
    with pytest.raises(UserError, match=r"^conversation: the tokenizer of .*separator has no sep_token"):
        load("bert", folder, conversation=True)


@pytest.fixture
def profile(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    text = {"family": "transformer", "model": str(checkpoints / "bert"), "conversation": True}
    columns = {name: name for name in [*NAMES, "split", "group"]}
    return {
        "name": "talk",
        "dataset": {"adapter": "table", "root": ".", "table": "clips.csv", "columns": columns},
        "store": {"dtype": "float32"},
        "encoders": {"text": text},
        "heads": {"text": {"inputs": ["text"]}},
    }


def test_the_store_holds_units_and_a_changed_earlier_text_recomputes_them(
    profile: dict[str, Any], run: Run, load: Load
) -> None:
    Path("talk.yaml").write_text(yaml.safe_dump(profile))

    def extract(clips: pl.DataFrame) -> tuple[str, Store]:
        clips.write_csv("clips.csv")
        manifest.main(config="talk.yaml")
        code, out, _ = run("--config", "talk.yaml", "--modality", "text", "--device", "cpu")
        assert code == 0
        return out, Store(Path("runs/talk/stores/text"))

    out, store = extract(talk())
    assert "3 clips to compute" in out
    assert sorted(store.clip_ids) == ["b", "c", "f"]
    expected = load("bert", conversation=True).alone(join_texts(["i am sad", "are you"]))
    np.testing.assert_allclose(store["b"], expected, atol=1e-6)
    assert store.fields["conversation"] is True
    before = {unit: np.array(store[unit]) for unit in store.clip_ids}

    out, store = extract(talk(a="i am happy"))
    assert "2 clips to compute (0 new, 2 changed), 1 reused" in out
    assert [np.array_equal(store[unit], before[unit]) for unit in ("b", "c", "f")] == [False, False, True]
    out, store = extract(talk(a="i am happy", d="you are angry"))  # the listener's answer
    assert "0 clips to compute" in out
    assert "3 reused" in out

    profile["encoders"]["text"]["conversation"] = False
    Path("talk.yaml").write_text(yaml.safe_dump(profile))
    out, store = extract(talk())
    assert "settings changed" in out
    assert sorted(store.clip_ids) == ["a", "b", "c", "f"]
