"""Profiles changed for one run: single keys, and fragments in files of their own."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from configs.profiles import _merged, changed, load

PROFILE: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"adapter": "avamerg", "root": "."},
    "encoders": {"audio": {"family": "wav2vec2", "model": "./none"}},
    "heads": {"audio": {"inputs": ["audio"], "lr": 0.01, "hidden": 16}, "topic": {"metadata": ["topic"]}},
}


@pytest.fixture(autouse=True)
def _profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(tmp_path / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    monkeypatch.chdir(tmp_path)


def fragment(settings: Any, name: str = "best.yaml") -> str:
    Path(name).write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
    return name


def test_a_fragment_is_merged_key_by_key() -> None:
    best = fragment({"heads": {"audio": {"lr": 0.5, "metadata": ["age", "topic"]}}, "folds": 3})
    profile = load("profile.yaml", [best])
    assert (profile.heads["audio"].lr, profile.heads["audio"].hidden) == (0.5, 16)
    assert profile.heads["audio"].metadata == ["age", "topic"]
    assert profile.heads["topic"] == load("profile.yaml").heads["topic"]
    assert profile.folds == 3


def test_lists_are_replaced_and_later_ones_win() -> None:
    first = fragment({"heads": {"topic": {"metadata": ["age"], "lr": 0.5}}}, "first.yaml")
    second = fragment({"heads": {"topic": {"lr": 0.25}}}, "second.yml")
    assert load("profile.yaml", [first, second]).heads["topic"].metadata == ["age"]
    assert load("profile.yaml", [first, second]).heads["topic"].lr == 0.25
    assert load("profile.yaml", [second, first]).heads["topic"].lr == 0.5
    assert load("profile.yaml", [first, "heads.topic.lr=1", second]).heads["topic"].lr == 0.25
    assert load("profile.yaml", [second, "heads.topic.lr=1"]).heads["topic"].lr == 1


def test_another_reader_of_datasets_replaces_what_the_former_was_told() -> None:
    former = fragment({"dataset": {"adapter": "avamerg", "root": "a", "units": "every"}}, "former.yaml")
    other = fragment({"dataset": {"adapter": "folder", "root": "b"}}, "other.yaml")
    dataset = load("profile.yaml", [former, other, "dataset.label_folder=0"]).dataset
    assert (dataset.adapter, dataset.root, dataset.label_folder) == ("folder", Path("b"), 0)  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"^wrong\.yaml: dataset\.label_folder = 'x'"):
        load("profile.yaml", [other, fragment({"dataset": {"label_folder": "x"}}, "wrong.yaml")])
    two = {name: {"adapter": "folder", "root": name} for name in ("a", "b")} | {"c": {"adapter": "folder"}}
    several = fragment({"dataset": {"adapter": "corpora", "root": ".", "corpora": two}}, "several.yaml")
    with pytest.raises(UserError, match=r"dataset\.corpora\.c\.root: missing"):
        load("profile.yaml", [several])
    assert load("profile.yaml", [fragment({"dataset": {"root": "c"}})]).dataset.adapter == "avamerg"


def test_a_value_that_ends_like_a_file_is_still_a_value() -> None:
    assert load("profile.yaml", ["encoders.audio.model=./folder.yaml"]).encoders["audio"].model == "./folder.yaml"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"heads": {"audio": {"learning_rate": 1}}}, r"^best\.yaml: heads\.audio\.learning_rate: no such setting"),
        ({"nonsense": 1}, r"^best\.yaml: nonsense: no such setting"),
        ({"heads": {"audio": {"lr": -1}}}, r"^best\.yaml: heads\.audio\.lr = -1"),
        (
            {"heads": {"audio": {"inputs": ["smell"]}}},
            r"^best\.yaml: heads\.audio\.inputs names 'smell'",
        ),
        ({"heads": {"audio": {"attention_heads": 3}}}, r"^best\.yaml: heads\.audio: attention_heads \(3\) must divide"),
        ({"heads": {"new": {"hidden": 4}}}, r"^best\.yaml: heads\.new: a head needs inputs"),
        ("- a list", r"^best\.yaml: a fragment of a profile is a mapping of settings, found list"),
        ("", r"^best\.yaml: a fragment of a profile is a mapping of settings, found NoneType"),
        ("a: [", r"^best\.yaml: not valid YAML"),
    ],
)
def test_what_is_wrong_in_a_fragment_names_its_file(content: Any, line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        load("profile.yaml", [fragment(content)])
    assert "\n" not in str(error.value)


def test_a_fragment_is_not_blamed_for_what_stands_elsewhere() -> None:
    best = fragment({"heads": {"audio": {"lr": 0.5}}})
    with pytest.raises(UserError, match=r"^profile\.yaml: heads\.audio\.lr = -1"):
        load("profile.yaml", [best, "heads.audio.lr=-1"])
    with pytest.raises(UserError, match=r"^profile\.yaml: heads\.audio\.hidden"):
        load("profile.yaml", ["heads.audio.hidden=0", best])
    with pytest.raises(UserError, match=r"^best\.yaml: heads\.audio\.lr = -1"):
        load("profile.yaml", ["heads.audio.lr=1", fragment({"heads": {"audio": {"lr": -1}}})])


def test_a_missing_fragment_says_what_an_override_is() -> None:
    with pytest.raises(UserError, match=r"^best\.yaml: no such file; an override is KEY=VALUE or a YAML file"):
        load("profile.yaml", ["best.yaml"])
    Path("folder.yaml").mkdir()
    with pytest.raises(UserError, match=r"^folder\.yaml: no regular file"):
        load("profile.yaml", ["folder.yaml"])


def test_changed_checks_the_whole_and_leaves_the_profile_as_it_was() -> None:
    profile = load("profile.yaml")
    other = changed(profile, {"heads": {"audio": {"lr": 0.5}}})
    assert (other.heads["audio"].lr, other.heads["audio"].hidden, profile.heads["audio"].lr) == (0.5, 16, 0.01)
    assert changed(profile, {}) == profile
    with pytest.raises(UserError, match=r"heads\.audio\.inputs names 'video', which is not under encoders"):
        changed(profile, {"heads": {"audio": {"inputs": ["video"]}}})
    with pytest.raises(UserError, match="a linear head has no such setting"):  # hidden was set
        changed(profile, {"heads": {"audio": {"kind": "linear"}}})


trees = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(below=st.dictionaries(st.sampled_from("abc"), trees), above=st.dictionaries(st.sampled_from("abc"), trees))
def test_merging_takes_every_value_of_the_fragment_and_keeps_the_rest(below: Any, above: Any) -> None:
    def check(low: Any, high: Any, result: Any) -> None:
        if isinstance(low, dict) and isinstance(high, dict):
            assert result.keys() == low.keys() | high.keys()
            for key in result:
                if key in low and key in high:
                    check(low[key], high[key], result[key])
                else:
                    assert result[key] == (high if key in high else low)[key]
        else:
            assert result == high

    check(below, above, _merged(below, above))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("heads.audoi.lr=1e-3", "heads.audoi: the profile has none of that name: did you mean audio?"),
        ("heads.audio.drop_out=0", "heads.audio.drop_out: no such setting: did you mean dropout?"),
        ("dataset.grup=speaker", "dataset.grup: no such setting: did you mean group?"),
        ("foldss=3", "foldss: no such setting: did you mean folds?"),
    ],
)
def test_a_name_that_is_nearly_another_is_asked_about(override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        load("profile.yaml", [override])
    assert str(caught.value) == f"profile.yaml: {line}"
