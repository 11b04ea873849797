"""What a profile may not say: numbers without end, flags for numbers, names twice; each refused in one short line."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import UserError
from configs.heads import Head, Range, Tail
from configs.profiles import load
from configs.schema import Encoder, FaceCrop, Fusion, Profile, StoreSettings
from configs.sections.datasets import MakeSplits

PROFILE: dict[str, Any] = {
    "name": "tiny",
    "dataset": {
        "adapter": "table",
        "root": "data",
        "table": "t.csv",
        "columns": {"clip_id": "id", "label": "emotion"},
        "splits": {"test": 0.2},
    },
    "encoders": {
        "audio": {"family": "wav2vec2", "model": "./none", "boundary": 2},
        "video": {"family": "videomae", "model": "./none", "face_crop": {}},
    },
    "heads": {"audio": {"inputs": ["audio"], "fine_tune": {"audio": {}}}, "video": {"inputs": ["video"]}},
    "search": {"video": {"lr": {"low": 1e-4, "high": 1e-2}}},
}
SECTIONS = {
    "": Profile,
    "store.": StoreSettings,
    "fusion.": Fusion,
    "dataset.splits.": MakeSplits,
    "encoders.audio.": Encoder,
    "encoders.video.face_crop.": FaceCrop,
    "heads.audio.": Head,
    "heads.audio.fine_tune.audio.": Tail,
    "search.video.lr.": Range,
}


def numbers() -> list[str]:
    found = []
    for prefix, section in SECTIONS.items():
        for name, field in section.model_fields.items():
            if re.search(r"\b(int|float)\b", str(field.annotation)):
                found.append(prefix + name)
    return found


@pytest.fixture(autouse=True)
def _profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(PROFILE))
    monkeypatch.chdir(tmp_path)


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load("p.yaml", list(overrides))
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 1200
    return line


def test_there_are_numbers() -> None:
    assert len(numbers()) > 45
    load("p.yaml")


@pytest.mark.parametrize("key", numbers())
def test_every_number_has_bounds_and_is_no_flag(key: str) -> None:
    for value in (".inf", "-.inf", ".nan", "1e400", "1e30", "-1e30", "9" * 4000, "yes", "off", "true", "[[1]]"):
        assert key.rpartition(".")[2] in refused(f"{key}={value}"), value


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "seed=4294967296",
        "seed=1.5",
        "seed=yes",
        'seed=!!int ""',
        "seed=2024-99-99",
        "seed=2024-01-01",
        "seed=" + "[" * 900,
        "seed=" + "9" * 5000,
        "seed=" + "[" * 300 + "]" * 300,
        "folds=1",
        "folds=700",
        "fusion.bootstrap=10000000000",
        "store.chunk_mb=.inf",
        "heads.audio.lr=.inf",
        "heads.audio.inputs=[audio, audio]",
        "heads.video.metadata=[age, age]",
        "fusion.strategies=[mean, mean]",
        "fusion.strategies=[]",
        "fusion.heads=[audio, audio]",
        "fusion.heads=[]",
        "dataset.metadata=[age, age]",
        "dataset.privileged=[age, age]",
        "dataset.classes=[sad, sad]",
        "dataset.columns.text=emotion",
        "search.video.hidden=[8, 8]",
        "search.video.hidden=[]",
        "search.video.hidden=[8, yes]",
        "search.video.hidden=[8, -8]",
        "search.video.lr=[.nan]",
        "search.video.lr={low: .nan, high: 1}",
        "search.video.lr={low: 0, high: 1e13}",
        "search.video.lr={low: -1, high: 1}",
        "search.video.hidden={low: 0.5, high: 7.5}",
        "search.video.inputs=[[video, video]]",
        "search.video.kind=[forest]",
        "name=" + "a" * 5000,
        "name=yes",
        "a.b" + ".a" * 5000 + "=1",
        "x" * 5000 + "=1",
        '"a\nb"=1',
        "dataset.root=",
        "dataset.root=' '",
        "dataset.root=" + "a" * 5000,
        "dataset.root=~nobody-of-this-name/data",
        "dataset.media_root=~nobody-of-this-name/data",
        "encoders.audio.model=~nobody-of-this-name/data",
        'dataset.root="a\\0b"',
        "a" * 5000 + ".yaml",
    ],
    ids=lambda override: override[:40],
)
def test_what_means_nothing_is_one_short_line(override: str) -> None:
    refused(override)


def test_an_open_end_of_a_range_may_be_the_bound_of_its_setting() -> None:
    load("p.yaml", ["search.video.dropout={low: 0, high: 1}", "search.video.c={low: 0, high: 10}"])


def test_a_tilde_is_somebodys_home_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = load("p.yaml", ["dataset.root=~/data", "dataset.media_root=~/media", "dataset.table=~/t.csv"]).dataset
    assert (dataset.root, dataset.media_root) == (tmp_path / "data", tmp_path / "media")
    assert dataset.adapter == "table"
    assert dataset.root / dataset.table == tmp_path / "t.csv"
    assert load("p.yaml", ["dataset.media_root=s3://bucket/a"]).dataset.media == "s3://bucket/a"
    load("p.yaml", ["encoders.audio.model=~/wav2vec2"])


def test_a_profile_that_is_no_file_or_none_that_is_named_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("pipe.yaml", "a" * 5000, "nul\0", "folder/"):
        with pytest.raises(UserError, match="no such profile"):
            load(name)
    for content in ("vars:", "vars: 5", "vars: {a: 1}", "[]", "vars: [[1]]"):
        (tmp_path / "dvc.yaml").write_text(content)
        with pytest.raises(UserError, match=r"dvc\.yaml: "):
            load()


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
values = st.recursive(plain, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=3), v, max_size=2))
KEYS = [prefix + name for prefix, section in SECTIONS.items() for name in section.model_fields]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from([*KEYS, "zzz", "heads.zzz", "encoders.audio.zzz"]), values, min_size=1, max_size=3)
)
def test_any_settings_are_a_profile_or_one_line(given: dict[str, Any]) -> None:
    try:
        load(
            "p.yaml",
            [f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6)}" for key, value in given.items()],
        )
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
