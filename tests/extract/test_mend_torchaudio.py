"""torchaudio's compiled libraries: renamed where they do not load, and nowhere else."""

import sys
from pathlib import Path

import pytest
from xxhash import _xxhash

from configs import UserError
from configs.command_line import command
from extract.mend_torchaudio import main, settle

# As the real one: it loads what lies in lib, fails where that does, and does without where there is nothing.
TORCHAUDIO = """
import ctypes, pathlib
for path in sorted((pathlib.Path(__file__).parent / "lib").glob("*.so")):
    ctypes.CDLL(path)
"""
NAMES = ["_torchaudio.abi3.so", "libtorchaudio.abi3.so"]


@pytest.fixture
def lib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ``lib`` folder of a torchaudio that child processes find, and a torch beside it; it holds no libraries."""
    for name, code in (("torchaudio", TORCHAUDIO), ("torch", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "torchaudio" / "lib"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def loadable() -> bytes:
    return Path(_xxhash.__file__).read_bytes()


def put(folder: Path, content: bytes, suffix: str = "") -> None:
    for name in NAMES:
        (folder / (name + suffix)).write_bytes(content)


def test_libraries_that_do_not_load_are_set_aside_once_and_put_back_when_they_do(lib: Path) -> None:
    put(lib, b"for another machine")
    assert settle(lib).startswith("its 2 compiled libraries do not load beside this torch: they are set aside")
    assert names(lib) == [f"{name}.aside" for name in NAMES]
    assert settle(lib) == "its 2 compiled libraries are set aside: they do not load beside this torch"
    assert names(lib) == [f"{name}.aside" for name in NAMES]
    put(lib, loadable(), ".aside")  # as if torch had become one that they fit
    assert settle(lib).endswith("they are put back")
    assert names(lib) == NAMES


def test_libraries_that_load_are_left_alone_and_so_is_their_absence(lib: Path) -> None:
    assert settle(lib) == "imports as it is: nothing to do"
    put(lib, loadable())
    assert settle(lib) == "imports as it is: nothing to do"
    assert names(lib) == NAMES


def test_an_installation_over_one_that_was_mended(lib: Path) -> None:
    put(lib, b"former", ".aside")
    put(lib, b"for another machine")
    settle(lib)
    assert names(lib) == [f"{name}.aside" for name in NAMES]
    assert (lib / f"{NAMES[0]}.aside").read_bytes() == b"for another machine"


def test_libraries_that_load_and_still_do_not_fit(lib: Path) -> None:
    (lib.parent / "__init__.py").write_text(TORCHAUDIO + "    raise RuntimeError('built for another CUDA')")
    put(lib, loadable())
    for _ in range(2):
        assert "set aside" in settle(lib)
        assert names(lib) == [f"{name}.aside" for name in NAMES]


def test_where_they_are_not_why_it_fails_nothing_is_renamed(lib: Path) -> None:
    (lib.parent / "__init__.py").write_text("raise ImportError('a file is missing')")
    put(lib, loadable())
    with pytest.raises(UserError, match=r"does not import, and its .* are not why: ImportError: a file is missing$"):
        settle(lib)
    assert names(lib) == NAMES


def test_the_command_says_what_it_did(
    lib: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mend_torchaudio.py"])
    for place, code, said in ((lib.parents[1], 0, "torchaudio: imports as it is"), (None, 2, "pip install -r")):
        monkeypatch.setattr("extract.mend_torchaudio.find_spec", lambda name, place=place: place and spec(place / name))
        with pytest.raises(SystemExit) as ended:
            command(main)
        assert int(ended.value.code or 0) == code
        printed = capsys.readouterr()
        assert said in printed.out + printed.err


def spec(folder: Path) -> object:
    return type("Spec", (), {"submodule_search_locations": [str(folder)]})
