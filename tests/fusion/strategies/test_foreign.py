"""Tables from elsewhere: names that stay short, and groups that ids hide."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_heads import frame_of, make_units

from configs import UserError
from fusion.tables.foreign import LONGEST_NAME, grouped, names_of, proposal
from fusion.tables.predictions import read
from fusion.tables.reading import Table

Write = Callable[..., Path]
EMOTIONS = "WLEATFN"  # as in file names that say them
BOTH = [(1, 1), (1, 2), (2, 1), (2, 2)]


# --- names ---


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.csv", "out/b.csv"], ["a", "b"]),
        (["text/predictions.parquet", "audio/predictions.parquet"], ["text", "audio"]),
        (["runs/text/predictions.parquet"], ["text"]),
        (["x/exp_1/fold/p.csv", "x/exp_2/fold/p.csv"], ["exp_1", "exp_2"]),
        (["x/one/a/p.csv", "y/one/a/p.csv"], ["x", "y"]),
        (["/ravdess_speech_wav2vec2_large_posteriors_v2.csv", "/ravdess_speech_hubert_posteriors_v2.csv"],
         ["wav2vec2_large", "hubert"]),
    ],
)  # fmt: skip
def test_names_are_what_tells_files_apart(paths: list[str], names: list[str]) -> None:
    assert names_of([Path(path) for path in paths]) == dict(zip(names, map(Path, paths), strict=True))


def test_names_that_stay_long_are_cut_and_stay_different() -> None:
    paths = [Path(f"{'a' * 40}{i}{'b' * 40}.csv") for i in range(3)]
    names = names_of(paths)
    assert list(names.values()) == paths
    assert max(map(len, names)) <= LONGEST_NAME


PARTS = st.text("ab_-./ 12é", min_size=1, max_size=40).filter(lambda name: name.strip("/ ."))


@given(st.lists(PARTS, min_size=1, max_size=6, unique_by=lambda name: str(Path(name))))
@settings(max_examples=60, deadline=None)
def test_names_are_short_and_each_table_has_its_own(paths: list[str]) -> None:
    given = [Path(path) for path in paths]
    names = names_of(given)
    assert list(names.values()) == given
    assert max(map(len, names)) <= LONGEST_NAME
    assert min(map(len, names)) > 0


# --- groups ---


def ids_of(kind: str) -> tuple[list[str], list[int]]:
    """Ids as corpora have them, and class numbers."""
    rng = np.random.default_rng(0)
    if kind == "acted":
        cells = [(label, strong, said, actor) for actor in range(1, 25) for label in range(7) for strong, said in BOTH]
        ids = [f"03-01-{label + 1:02}-{strong:02}-{said:02}-01-{actor:02}" for label, strong, said, actor in cells]
        return ids, [label for label, *_ in cells]
    labels = rng.integers(7, size=300).tolist()
    if kind == "code":
        texts = ("a01", "a02", "a04", "a05", "b01", "b02", "b03", "b09")
        ids = [
            f"{3 + i // 30:02}{texts[i % 8]}{EMOTIONS[label]}{'abcdef'[i // 8 % 6]}" for i, label in enumerate(labels)
        ]
    elif kind == "dialogue":
        lengths = rng.integers(3, 20, size=60)
        ids = [f"dia{d}_utt{u}" for d, n in enumerate(lengths) for u in range(n)][:300]
    else:
        ids = [
            f"Ses0{i // 60 + 1}{'FM'[i % 2]}_{'script01_1' if i % 3 else 'impro02'}_F{i % 40:03}" for i in range(300)
        ]
    return ids, labels


def proposed(ids: list[str], labels: list[int]) -> dict[str, int]:
    """Each part that is proposed, and its number of values; that its pattern finds them is checked."""
    line = proposal(ids, labels)
    assert "\n" not in line
    found = {}
    for what, count, pattern in re.findall(
        r"(?:Of unit_id|\)), (.+?) takes (\d+) values \(.+?; --group-from '(.+?)'\)", line
    ):
        matches = [re.search(pattern, unit) for unit in ids]
        assert all(matches)
        assert len({match[1] for match in matches if match}) == int(count)
        found[what] = int(count)
    return found


@pytest.mark.parametrize(
    ("kind", "what", "values"),
    [
        ("acted", "the last of 7 parts", 24),
        ("code", "the first of 5 runs of digits or letters", 10),
        ("dialogue", "the first of 2 parts", 28),
        ("sessions", "the first of its parts", 10),
    ],
)
def test_the_speaker_or_the_conversation_is_proposed(kind: str, what: str, values: int) -> None:
    found = proposed(*ids_of(kind))
    assert what in found
    assert abs(found[what] - values) <= 8 * (kind == "dialogue")
    assert len(found) <= 3


def test_what_tells_the_label_or_counts_on_is_not_proposed() -> None:
    assert "the third of 7 parts" not in proposed(*ids_of("acted"))  # the emotion
    assert list(proposed(*ids_of("dialogue"))) == ["the first of 2 parts"]


@pytest.mark.parametrize(
    "ids",
    [
        [],
        ["a"],
        [f"u{i}" for i in range(300)],
        [f"{i:05}" for i in range(300)],
        [f"clip_{i}" for i in range(300)],
        [f"{i * 2654435761 % 2**32:08x}" for i in range(300)],
        ["_"] * 3,
        [f"-{i}" for i in range(50)],
    ],
    ids=["none", "one", "counted", "digits", "clips", "hashes", "blank", "before"],
)
def test_ids_that_say_nothing_give_no_proposal(ids: list[str]) -> None:
    assert proposal(ids, [i % 3 for i in range(len(ids))]) == ""


@given(st.lists(st.tuples(st.text(max_size=12), st.integers(0, 3)), max_size=40))
@settings(max_examples=50, deadline=None)
def test_any_ids_are_looked_through(units: list[tuple[str, int]]) -> None:
    proposed([unit for unit, _ in units], [label for _, label in units])


@given(
    st.lists(st.sampled_from(["ann", "ben", "Zoë", "山田"]), min_size=20, max_size=60),
    st.sampled_from("_-./"),
    st.integers(0, 2**20),
)
@settings(max_examples=40, deadline=None)
def test_speakers_of_any_name_are_found(speakers: list[str], between: str, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(9, size=len(speakers)).tolist()
    ids = [f"{speaker}{between}{i:03}" for i, speaker in enumerate(speakers)]
    found = proposed(ids, labels)
    assert set(found) <= {"the first of 2 parts"}
    if found:
        assert found["the first of 2 parts"] == len(set(speakers))


# --- read: what is said, and what is asked for ---


def test_what_tables_lack_is_warned_of(table: Write) -> None:
    frame = frame_of(make_units(60))
    assert read({"h": table(frame, "whole.csv")}).warnings == ()
    assert "No table has a column group" in read({"h": table(frame.drop("group"), "folds.csv")}).warnings[0]
    assert read({"h": table(frame.drop("fold"), "groups.csv")}).warnings == ()
    (said,) = read({"h": table(frame.drop("fold", "group"), "bare.csv")}).warnings
    assert "folds are drawn at random over units" in said


def test_groups_from_ids_keep_drawn_folds_apart(table: Write) -> None:
    frame = frame_of(make_units(60)).drop("fold", "group")
    frame = frame.with_columns(unit_id=pl.Series([f"{'xyzvw'[i % 5]}{i}" for i in range(60)]))
    got = read({"h": table(frame, "a.csv")}, group_from="^(.)")
    assert set(got.groups) == set("xyzvw")
    assert got.warnings == ()
    for group in set(got.groups):
        assert len(set(got.folds[got.groups == group])) == 1


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "--group-from '(': not a regular expression (missing ), unterminated subpattern at position 0)"),
        ("u", "--group-from 'u': no group in it: put the part of unit_id that names the group into (...)"),
        ("u1(.)", "--group-from 'u1(.)': finds nothing in 50 of 60 unit ids of "),
        ("(x?)", "--group-from '(x?)': finds nothing in 60 of 60 unit ids of "),
        ("(.*)", "--group-from '(.*)': gives every unit a group of its own"),
    ],
)
def test_a_mistake_in_the_pattern_is_one_line(table: Write, pattern: str, says: str) -> None:
    path = table(frame_of(make_units(60)).drop("group"), "a.csv")
    with pytest.raises(UserError) as caught:
        read({"h": path}, group_from=pattern)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_tables_with_groups_keep_them(table: Write) -> None:
    path = table(frame_of(make_units(60)), "a.csv")
    with pytest.raises(UserError, match=r"a\.csv: has a column group: leave out --group-from"):
        read({"h": path}, group_from="(.)")


@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=20, unique=True))
@settings(max_examples=60, deadline=None)
def test_any_pattern_gives_groups_or_one_line(pattern: str, ids: list[str]) -> None:
    rows = pl.DataFrame({"unit_id": ids, "group": pl.Series([None] * len(ids), dtype=pl.String)})
    said, got = "", {}
    try:
        got = grouped({"h": Table(Path("a.csv"), ("x", "y"), rows, np.zeros((len(ids), 2)))}, pattern)
    except UserError as error:
        said = str(error)
    assert bool(said) != bool(got)
    assert "\n" not in said
    assert all(table.rows["group"].null_count() == 0 for table in got.values())
