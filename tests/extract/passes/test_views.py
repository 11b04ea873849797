"""Augmented views of clips: stores beside that of the clips themselves, which stays as it was."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import yaml
from media_tools import Run

from cache import Store, repair
from cache.checks import inspect
from cache.shelf import extraction_of
from extract import manifest
from extract.encoders import loading
from extract.media.decoding import Decoders
from extract.passes.blocks import BlockComputer

TRAIN = ["c0", "c1", "c3", "c4"]
AUGMENT = {"word_dropout": 0.5}
RUN = ("--config", "mine.yaml", "--device", "cpu", "--workers", "1")


@pytest.fixture
def profile(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("data").mkdir()
    rows = []
    for i, n_samples in enumerate([3200, 5000, 3200, 9111, 400, 3200]):
        soundfile.write(f"data/{i}.wav", rng.normal(scale=0.1, size=n_samples), 16000, subtype="PCM_16")
        part = "train" if f"c{i}" in TRAIN else "test"
        rows.append(
            {
                "clip": f"c{i}",
                "file": f"{i}.wav",
                "text": f"i am so happy today , not sad {i}",
                "mood": "happy",
                "part": part,
            }
        )
    pl.DataFrame(rows).write_csv("data/clips.csv")
    columns = {"clip_id": "clip", "audio": "file", "text": "text", "label": "mood", "split": "part"}
    stated = {
        "name": "mine",
        "dataset": {"adapter": "table", "root": "data", "table": "clips.csv", "columns": columns},
        "store": {"dtype": "float32", "commit_seconds": 0, "chunk_mb": 0.001, "max_error_share": 0.5},
        "encoders": {
            "waves": {"family": "wav2vec2", "model": str(checkpoints / "wav2vec2"), "block_clips": 2},
        },
        "heads": {"h": {"inputs": ["waves"]}},
    }
    write(stated)
    manifest.main(config="mine.yaml")
    return stated


def write(stated: dict[str, Any], **encoder: Any) -> None:
    encoders = {name: settings | encoder for name, settings in stated["encoders"].items()}
    Path("mine.yaml").write_text(yaml.safe_dump(stated | {"encoders": encoders}, sort_keys=False))


def stored(name: str) -> dict[str, bytes]:
    folder = Path(f"runs/mine/stores/{name}")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def values(name: str) -> dict[str, list[Any]]:
    store = Store(f"runs/mine/stores/{name}")
    return {clip: store[clip].tolist() for clip in sorted(store.clip_ids)}


def counts(out: str) -> dict[str, int]:
    lines = [line for line in out.splitlines() if " clips to compute" in line]
    return {line.split(":")[0]: int(line.split(": ")[1].split()[0]) for line in lines}


@pytest.fixture
def texts(profile: dict[str, Any], checkpoints: Path) -> dict[str, Any]:
    """The same with an encoder of texts, which nothing decodes."""
    words = {"family": "transformer", "model": str(checkpoints / "bert"), "pooling": "mean", "block_clips": 2}
    stated = profile | {"encoders": {"words": words}, "heads": {"h": {"inputs": ["words"]}}}
    write(stated)
    return stated


def test_views_are_of_training_clips_and_each_file_is_decoded_once(
    profile: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*RUN)[0] == 0
    plain = stored("waves")
    decoded: list[str] = []
    decode = Decoders.decode

    def note(self: Decoders, path: Path, content_hash: str | None = None) -> Any:
        decoded.append(path.name)
        return decode(self, path, content_hash)

    monkeypatch.setattr(Decoders, "decode", note)
    loads: list[str] = []
    load_audio = loading.LOADERS["audio"]
    monkeypatch.setitem(loading.LOADERS, "audio", lambda *given: (loads.append("one"), load_audio(*given))[1])
    # Of 400 samples, all of which the network needs, a clip that is played faster has too few.
    write(profile, views=2, augment={"speed": [1.1, 1.2], "noise_db": [5, 20]})
    code, out, _ = run(*RUN)
    assert (code, counts(out)) == (0, {"waves": 0, "waves@1": len(TRAIN), "waves@2": len(TRAIN)})
    assert sorted(decoded) == sorted(f"{clip[1]}.wav" for clip in TRAIN)
    assert loads == ["one"]
    assert stored("waves") == plain
    assert "waves@2: 3 of 4 clips" in out
    views = [values("waves@1"), values("waves@2")]
    assert [list(view) for view in views] == [TRAIN[:-1], TRAIN[:-1]]
    assert all(views[0][clip] != views[1][clip] != values("waves")[clip] for clip in TRAIN[:-1])


def test_what_changes_computes_no_more_than_it_must(texts: dict[str, Any], run: Run) -> None:
    write(texts, views=2, augment=AUGMENT)
    code, out, _ = run(*RUN)
    assert (code, counts(out)) == (0, {"words": 6, "words@1": len(TRAIN), "words@2": len(TRAIN)})
    assert [clip for clip, vector in values("words@1").items() if vector != values("words")[clip]]
    receipt = json.loads(Path("runs/mine/extracted/words@2.json").read_text())
    assert (receipt["clips"], receipt["fields"]["view"]["number"]) == (len(TRAIN), 2)
    assert extraction_of(Path("runs/mine/stores/words@2")).endswith("--encoder words")
    plain, kept = stored("words"), stored("words@1")
    code, _, err = run(*RUN, "--encoder", "words@1")
    assert (code, err) == (2, "error: --encoder words@1: views run with their encoder: --encoder words\n")
    write(texts, views=3, augment=AUGMENT)
    assert counts(run(*RUN)[1]) == {"words": 0, "words@1": 0, "words@2": 0, "words@3": len(TRAIN)}
    write(texts, views=1, augment={"word_dropout": 0.2})
    assert counts(run(*RUN)[1]) == {"words": 0, "words@1": len(TRAIN)}
    assert sorted(path.name for path in Path("runs/mine/extracted").iterdir()) == ["words.json", "words@1.json"]
    write(texts, views=1, augment=AUGMENT)
    assert counts(run(*RUN)[1]) == {"words": 0, "words@1": 0}
    assert (stored("words"), stored("words@1")) == (plain, kept)


def test_a_view_is_the_same_whoever_computes_it(
    texts: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("words", "words@1", "words@2")
    write(texts, views=2, augment=AUGMENT)
    run(*RUN)
    together = {name: stored(name) for name in names}
    computed = {name: values(name) for name in names}
    shutil.rmtree(Path("runs/mine/stores/words@2").resolve())
    assert counts(run(*RUN)[1]) == {"words": 0, "words@1": 0, "words@2": len(TRAIN)}
    assert {name: stored(name) for name in names} == together

    shutil.rmtree("runs/stores")
    compute = BlockComputer.compute

    def stopped(self: BlockComputer, blocks: Iterable[Any]) -> Iterator[Any]:
        yield from compute(self, list(blocks)[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BlockComputer, "compute", stopped)
        assert run(*RUN)[0] == 130
    assert len(Store("runs/mine/stores/words@1")) == 2
    assert counts(run(*RUN)[1]) == {"words": 4, "words@1": 2, "words@2": 2}
    assert {name: stored(name) for name in names} == together

    texts["store"]["backend"] = "hdf5"
    write(texts, views=2, augment=AUGMENT)
    run(*RUN)
    assert Store("runs/mine/stores/words@2").backend == "hdf5"
    assert {name: values(name) for name in names} == computed
    shutil.rmtree("runs/stores")
    write(texts, views=2, augment=AUGMENT, batch_tokens=1)  # every text alone
    run(*RUN)
    for name, expected in computed.items():
        assert list(values(name)) == list(expected)
        np.testing.assert_allclose(list(values(name).values()), list(expected.values()), atol=1e-5)


def test_a_damaged_view_is_found_mended_and_computed_again(texts: dict[str, Any], run: Run) -> None:
    write(texts, views=1, augment=AUGMENT)
    run(*RUN)
    store, before = Path("runs/mine/stores/words@1").resolve(), values("words@1")
    chunk = next(path for path in sorted(store.rglob("*")) if path.is_file() and path.parent.name == "0")
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    report = inspect(store)
    assert report.damaged_clips
    repair.repair(store, report)
    assert counts(run(*RUN)[1]) == {"words": 0, "words@1": len(report.damaged_clips)}
    assert values("words@1") == before
    assert inspect(store).whole
