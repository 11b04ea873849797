"""Files from outside: reading them ends soon, in a value or in one line that names the file."""

import os
from pathlib import Path

import pytest

from configs import UserError
from configs.outside import parse_json, parse_yaml, read_json, read_outside

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "endless", "folder"):
        with pytest.raises(UserError, match=f"{name}: no regular file"):
            read_json(tmp_path / name)
    (tmp_path / "large").write_bytes(b"123456")
    with pytest.raises(UserError, match="large: 6 bytes; no more than 5"):
        read_outside(tmp_path / "large", largest=5)
    for name in ("a" * 5000, "nul\0"):
        with pytest.raises(UserError, match="cannot be read") as caught:
            read_json(tmp_path / name)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "1" * 5000, '{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', "{", "", b"\xff\xfe{\0}\0", b"\x80"],
)
def test_json_that_means_nothing_is_one_line(text: str | bytes) -> None:
    with pytest.raises(UserError, match=r"^notes\.json: [^\n]{1,300}$"):
        parse_json(text, "notes.json")


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "a: {b: 1, b: 2}",
        "[" * 5000,
        '!!int ""',
        "2024-99-99",
        "9" * 5000,
        "{[1, 2]: 3}",
        "a: [",
        "&a [*a]",
        "!!python/object/apply:os.system [true]",
        BOMB,
    ],
)
def test_yaml_that_means_nothing_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^profile\.yaml: [^\n]{1,400}$"):
        parse_yaml(text, "profile.yaml")


def test_anchors_and_merges_are_kept() -> None:
    assert parse_yaml("x: &x {b: 1}\ny:\n  <<: *x\n  c: 2\nz: *x", "p") == {
        "x": {"b": 1},
        "y": {"b": 1, "c": 2},
        "z": {"b": 1},
    }
