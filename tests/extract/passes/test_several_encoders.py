"""Several encoders of a modality: run together, each store as if it had been alone; and stores that profiles share."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
import yaml
from media_tools import Run

from cache import Store
from configs.schema import Encoder
from extract import manifest
from extract.encoders import loading
from extract.encoders.encoder import LoadedEncoder, Prepared
from extract.media.decoding import Decoders
from extract.media.reading import ClipError

N_CLIPS = 6
RUN = ("--device", "cpu", "--workers", "2")


@pytest.fixture
def profile(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Sounds of several lengths; two encoders of audio that decode alike, and one that does not."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("data").mkdir()
    rows = []
    for i, n_samples in enumerate([3200, 5000, 3200, 9111, 5000, 3200]):
        soundfile.write(f"data/{i}.wav", rng.normal(scale=0.1, size=n_samples), 16000, subtype="PCM_16")
        rows.append({"clip": f"c{i}", "file": f"{i}.wav", "text": "i am happy", "mood": "happy", "part": "train"})
    pl.DataFrame(rows).write_csv("data/clips.csv")
    columns = {"clip_id": "clip", "audio": "file", "text": "text", "label": "mood", "split": "part"}
    small = {"block_clips": 2, "batch_tokens": 1}
    several = {"layers": "all", "pooling": "statistics"}
    stated = {
        "name": "mine",
        "dataset": {"adapter": "table", "root": "data", "table": "clips.csv", "columns": columns},
        "store": {"dtype": "float32", "commit_seconds": 0, "chunk_mb": 0.001},
        "encoders": {
            "waves": {"family": "wav2vec2", "model": str(checkpoints / "wav2vec2"), **small},
            "units": {"family": "hubert", "model": str(checkpoints / "hubert"), **small, **several},
            "short": {"family": "wav2vec2", "model": str(checkpoints / "wav2vec2"), "window_seconds": 5, **small},
            "words": {"family": "transformer", "model": str(checkpoints / "bert"), "pooling": "mean"},
            "tokens": {"family": "transformer", "model": str(checkpoints / "bert"), "boundary": 1},
        },
        "heads": {"both": {"inputs": ["waves", "units"]}},
    }
    write(stated)
    return stated


def write(stated: dict[str, Any], name: str = "mine", **changes: Any) -> None:
    stated = stated | {"name": name} | changes
    Path(f"{name}.yaml").write_text(yaml.safe_dump(stated, sort_keys=False))
    manifest.main(config=f"{name}.yaml")


def stored(name: str, profile: str = "mine") -> dict[str, bytes]:
    folder = Path(f"runs/{profile}/stores/{name}")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def counts(out: str) -> dict[str, int]:
    """How many clips each encoder had to compute."""
    lines = [line for line in out.splitlines() if " clips to compute" in line]
    return {line.split(":")[0]: int(line.split(": ")[1].split()[0]) for line in lines}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that were decoded, as often as they were."""
    names: list[str] = []
    decode = Decoders.decode

    def note(self: Decoders, path: Path, content_hash: str | None = None) -> Any:
        names.append(path.name)
        return decode(self, path, content_hash)

    monkeypatch.setattr(Decoders, "decode", note)
    return names


def test_each_store_is_as_if_its_encoder_had_run_alone(profile: dict[str, Any], run: Run, decoded: list[str]) -> None:
    code, out, _ = run("--config", "mine.yaml", "--modality", "audio", *RUN)
    assert code == 0
    assert counts(out) == {"waves": N_CLIPS, "units": N_CLIPS, "short": N_CLIPS}
    assert sorted(decoded) == sorted([f"{i}.wav" for i in range(N_CLIPS)] * 2)  # once for two of them, once for "short"
    together = {name: stored(name) for name in ("waves", "units", "short")}
    shutil.rmtree("runs/stores")
    for name in together:
        code, out, _ = run("--config", "mine.yaml", "--encoder", name, *RUN)
        assert (code, counts(out)) == (0, {name: N_CLIPS})
    assert {name: stored(name) for name in together} == together


def test_what_one_of_them_has_is_not_computed_again(profile: dict[str, Any], run: Run, decoded: list[str]) -> None:
    run("--config", "mine.yaml", "--encoder", "units", *RUN)
    shutil.copy("data/0.wav", "data/3.wav")
    decoded.clear()
    _, out, _ = run("--config", "mine.yaml", "--modality", "audio", *RUN)
    assert counts(out) == {"waves": N_CLIPS, "units": 1, "short": N_CLIPS}
    assert len(decoded) == 2 * N_CLIPS
    together = {name: stored(name) for name in ("waves", "units")}
    assert counts(run("--config", "mine.yaml", "--modality", "audio", *RUN)[1]) == {"waves": 0, "units": 0, "short": 0}
    assert {name: stored(name) for name in together} == together


def test_every_encoder_of_the_profile_without_an_option(profile: dict[str, Any], run: Run) -> None:
    stale = Path("runs/mine/extracted/former.json")
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    code, out, _ = run("--config", "mine.yaml", *RUN)
    assert (code, list(counts(out))) == (0, ["waves", "units", "short", "words", "tokens"])
    receipts = sorted(path.stem for path in stale.parent.iterdir())
    assert receipts == sorted(profile["encoders"])  # that of an encoder that the profile no longer has is gone
    # The pooled and the boundary store of one encoder stand beside each other.
    assert Store("runs/mine/stores/words").lengths == {f"c{i}": 1 for i in range(N_CLIPS)}
    assert Store("runs/mine/stores/tokens").fields["boundary"] == 1


def interrupted_at(monkeypatch: pytest.MonkeyPatch, n_calls: int) -> Callable[[], None]:
    """Ctrl-C at the n-th time that any audio encoder is asked. Gives what ends that."""
    load: Callable[..., LoadedEncoder] = loading.LOADERS["audio"]
    calls = 0

    def load_interrupted(*arguments: Any) -> LoadedEncoder:
        encoder = load(*arguments)

        def hidden(inputs: dict[str, torch.Tensor], lengths: list[int] | None) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == n_calls:
                raise KeyboardInterrupt
            return encoder.hidden(inputs, lengths)

        return replace(encoder, hidden=hidden)

    monkeypatch.setitem(loading.LOADERS, "audio", load_interrupted)
    return lambda: monkeypatch.setitem(loading.LOADERS, "audio", load)


@pytest.mark.parametrize("n_calls", [3, 6])
def test_an_interrupted_pass_goes_on_to_the_same_bytes(
    profile: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch, n_calls: int
) -> None:
    run("--config", "mine.yaml", "--modality", "audio", *RUN)
    whole = {name: stored(name) for name in ("waves", "units")}
    shutil.rmtree("runs/stores")
    again = interrupted_at(monkeypatch, n_calls)
    code, _, err = run("--config", "mine.yaml", "--modality", "audio", *RUN)
    assert code == 130
    assert err.endswith("interrupted: what was committed is kept; run the same command to go on\n")
    again()
    n_stored = [len(Store(f"runs/mine/stores/{name}")) for name in ("waves", "units")]
    assert n_stored[0] == n_stored[1]  # whole blocks of both
    _, out, _ = run("--config", "mine.yaml", "--modality", "audio", *RUN)
    assert counts(out)["waves"] == counts(out)["units"] == N_CLIPS - n_stored[0]
    assert {name: stored(name) for name in whole} == whole


def test_several_devices_write_the_same_stores_as_one(profile: dict[str, Any], run: Run) -> None:
    """Two processes on the CPU stand for two GPUs."""
    run("--config", "mine.yaml", "--modality", "audio", *RUN)
    one = {name: stored(name) for name in ("waves", "units")}
    shutil.rmtree("runs/stores")
    code, _, _ = run("--config", "mine.yaml", "--modality", "audio", "--device", "cpu,cpu", "--workers", "2")
    assert code == 0
    assert {name: stored(name) for name in one} == one


def test_what_one_encoder_cannot_take_is_missing_for_it_alone(
    profile: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    load: Callable[..., LoadedEncoder] = loading.LOADERS["audio"]

    def particular(spec: Encoder, device: torch.device) -> LoadedEncoder:
        encoder = load(spec, device)

        def prepare(clip: Any) -> Prepared:
            if spec.family == "hubert" and clip.n == 9111:
                raise ClipError("not to its taste")
            return encoder.prepare(clip)

        return replace(encoder, prepare=prepare)

    monkeypatch.setitem(loading.LOADERS, "audio", particular)
    Path("data/4.wav").write_text("not a sound")
    code, _, err = run("--config", "mine.yaml", "--modality", "audio", *RUN)
    assert code == 3
    assert err.startswith("error: waves: 1 of 6 clips failed, more than")
    assert "; units: 2 of 6 clips failed, more than" in err
    failed = {name: pl.read_parquet(f"runs/mine/stores/{name}/errors.parquet") for name in ("waves", "units")}
    assert failed["waves"].select("clip_id", "stage").rows() == [("c4", "decode")]
    assert failed["units"].sort("clip_id").select("clip_id", "stage").rows() == [("c3", "encode"), ("c4", "decode")]
    assert "c3" in Store("runs/mine/stores/waves")


def test_profiles_with_the_same_encoder_and_clips_compute_them_once(profile: dict[str, Any], run: Run) -> None:
    run("--config", "mine.yaml", "--encoder", "waves", *RUN)
    before = stored("waves")
    receipt = Path("runs/mine/extracted/waves.json").read_text()
    encoders = {"speech": profile["encoders"]["waves"] | {"batch_tokens": 9}}  # what changes no value
    write(profile, "other", encoders=encoders, heads={"h": {"inputs": ["speech"]}})
    code, out, _ = run("--config", "other.yaml", "--modality", "audio", *RUN)
    assert (code, counts(out)) == (0, {"speech": 0})
    assert "speech: uses the store of mine (waves)" in out
    assert stored("speech", "other") == stored("waves") == before
    write(profile, "other", encoders={"speech": encoders["speech"] | {"layer": 1}}, heads={"h": {"inputs": ["speech"]}})
    assert counts(run("--config", "other.yaml", *RUN)[1]) == {"speech": N_CLIPS}
    assert stored("waves") == before
    run("--config", "mine.yaml", "--encoder", "waves", *RUN)
    assert Path("runs/mine/extracted/waves.json").read_text() == receipt


def test_a_profile_with_fewer_clips_takes_nothing_from_one_with_more(profile: dict[str, Any], run: Run) -> None:
    Path("data/1.wav").write_text("not a sound")
    share = {"store": profile["store"] | {"max_error_share": 0.5}}
    write(profile, **share)
    run("--config", "mine.yaml", "--encoder", "waves", *RUN)
    receipt = Path("runs/mine/extracted/waves.json").read_text()
    pl.read_csv("data/clips.csv").filter(pl.col("clip").is_in(["c0", "c3"])).write_csv("data/few.csv")
    few = profile["dataset"] | {"table": "few.csv"}
    heads = {"h": {"inputs": ["waves"]}}
    write(profile, "few", dataset=few, encoders={"waves": profile["encoders"]["waves"]}, heads=heads, **share)
    code, out, _ = run("--config", "few.yaml", *RUN)
    assert (code, counts(out)) == (0, {"waves": 0})
    assert "0 to leave the store" in out
    assert len(Store("runs/mine/stores/waves")) == N_CLIPS - 1
    assert pl.read_parquet("runs/mine/stores/waves/errors.parquet")["clip_id"].to_list() == ["c1"]
    soundfile.write("data/6.wav", np.random.default_rng(2).normal(scale=0.1, size=4000), 16000)
    pl.read_csv("data/few.csv").vstack(
        pl.DataFrame({"clip": "c6", "file": "6.wav", "text": "i am happy", "mood": "happy", "part": "train"})
    ).write_csv("data/few.csv")
    manifest.main(config="few.yaml")
    assert counts(run("--config", "few.yaml", *RUN)[1]) == {"waves": 1}
    # What the other profile reads is what it was, and so is what DVC watches of it.
    assert counts(run("--config", "mine.yaml", "--encoder", "waves", *RUN)[1]) == {"waves": 1}  # what failed, again
    assert Path("runs/mine/extracted/waves.json").read_text() == receipt


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--encoder", "nose"], "--encoder nose: the profile 'mine' names no such encoder; it has: waves, units"),
        (["--encoder", "waves", "--modality", "audio"], "--encoder waves: a name says its modality, too"),
        (["--modality", "video"], "names none that reads video"),
        (["encoders.video={family: hubert, model: ./x}"], "encoders.video: hubert reads audio: give it another name"),
        (["encoders.units.face_crop={}"], "encoders.units: face_crop: only video has faces"),
        (["encoders.waves.conversation=true"], "encoders.waves: conversation: only texts are joined"),
        (["--encoder", "units", "encoders.units.model=./nowhere"], "encoders.units: model './nowhere': no such model"),
        (["encoders.values={family: hubert, model: ./x}"], "encoders.values: networks use this name themselves"),
        (["name=stores"], "runs/stores holds the stores of all profiles: choose another name"),
    ],
)
def test_mistakes_name_the_encoder(profile: dict[str, Any], run: Run, arguments: list[str], expected: str) -> None:
    code, _, err = run("--config", "mine.yaml", *RUN, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert expected in err


def test_two_names_for_one_encoder_are_refused(profile: dict[str, Any], run: Run) -> None:
    encoders = {"a": profile["encoders"]["waves"], "b": profile["encoders"]["waves"]}
    write(profile, encoders=encoders, heads={"h": {"inputs": ["a"]}})
    code, _, err = run("--config", "mine.yaml", *RUN)
    assert (code, err) == (2, "error: encoders.b: the same encoder as encoders.a: leave one of them out\n")


def test_a_profile_without_encoders_has_nothing_to_extract(profile: dict[str, Any], run: Run) -> None:
    write(profile, encoders={}, heads={"said": {"kind": "bag_of_words", "inputs": ["text"]}})
    code, _, err = run("--config", "mine.yaml", *RUN)
    assert (code, err) == (0, "")
    assert Path("runs/mine/extracted").is_dir()  # the pipeline's next stage reads it
