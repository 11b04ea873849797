"""What only Unix has is asked for where it is used, and what stands for it elsewhere works, as far as can be tried."""

import ast
import fcntl
import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from shells import REPOSITORY

import cache.disk.locks
import extract.media.hashing
from cache import StoreError
from configs.outside import read_at
from emocache.commands import ROOMS
from extract.media.hashing import ChangedError, new_content_hash

UNIX = {"fcntl", "grp", "pwd", "resource", "termios", "pty", "syslog"}
# Calls of os, signal and select that Windows lacks. Who uses one asks first: hasattr, os.name or sys.platform.
CALLS = {
    *("fork", "killpg", "getuid", "pread", "pwrite", "sched_getaffinity", "O_NONBLOCK", "SIGHUP", "SIGKILL", "poll"),
    *("setsid", "getpgid", "mkfifo", "fchmod", "statvfs", "O_DIRECTORY", "RTLD_GLOBAL"),
}
NAMED = re.compile(rf"\b(?:{'|'.join(UNIX)})\b|\b(?:os|signal|select)\.(?:{'|'.join(CALLS)})\b")
SOURCES = sorted(path for folder in ROOMS for path in (REPOSITORY / folder).rglob("*.py"))

BLOCKED = """
import builtins, importlib
real, ours = builtins.__import__, {ours}
def without(name, globals=None, *rest, **named):
    importing = (globals or dict()).get("__name__", "")
    if name in {unix} and importing.split(".")[0] in ours and importing != "cache.disk.locks":
        raise ImportError(f"no {{name}} here")
    return real(name, globals, *rest, **named)
builtins.__import__ = without
for name in {names}:
    importlib.import_module(name)
"""


def imports_at_once(tree: ast.AST) -> set[str]:
    """What a module imports when it is imported itself, but under a question for the system."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif not isinstance(node, ast.FunctionDef) and not (
            isinstance(node, ast.If) and "platform" in ast.unparse(node)
        ):
            found |= imports_at_once(node)
    return found


def test_what_only_unix_has_is_asked_for_first() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if not NAMED.search(text):
            continue
        tree, lines = ast.parse(text), text.splitlines()
        assert not imports_at_once(tree) & UNIX, path
        for node in ast.walk(tree):
            of = ast.unparse(node.value) if isinstance(node, ast.Attribute) else ""
            if isinstance(node, ast.Attribute) and node.attr in CALLS and of in ("os", "signal", "select"):
                asked = "\n".join(lines[max(0, node.lineno - 4) : node.end_lineno])
                asks = any(word in asked for word in ("hasattr", "os.name", "sys.platform"))
                assert asks, f"{path}, line {node.lineno}"


@pytest.mark.soak
def test_every_module_imports_without_what_only_unix_has() -> None:
    """But that of locks, which asks for the system: see below."""
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]
    names = [name for name in names if "extract.sample" not in name]  # it needs what only making it needs
    code = BLOCKED.format(ours=set(ROOMS), unix=UNIX, names=names)
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def module_of(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"again_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_installs_what_is_not_installed_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = module_of(REPOSITORY / "make.py")
    targets = (REPOSITORY / "Makefile").read_text().partition(".PHONY:")[2].splitlines()[0].split()
    assert set(targets) == {*make.TARGETS, "help"}
    monkeypatch.chdir(tmp_path)
    done: list[str] = []
    monkeypatch.setattr(make, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(make, "run", lambda command, more=None: done.append(" ".join(command[1:])))
    for name in ("requirements.txt", "pyproject.toml"):
        Path(name).touch()
        os.utime(name, (1000, 1000))
    Path(".venv").mkdir()

    def installs(what: str) -> list[str]:
        done.clear()
        make.install(what)
        return [line.split()[-1] for line in done]

    assert installs("installed-sample") == ["requirements.txt", "mend-torchaudio", ".[sample]"]
    assert "2.5 GB" in capsys.readouterr().out
    assert installs("installed-sample") == []
    assert installs("installed-test") == [".[test]"]
    os.utime(".venv/installed-sample", (2000, 2000))  # what it builds on was installed anew since
    assert installs("installed-test") == [".[sample]", ".[test]"]


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of locks as Windows takes it, on a file that is locked as there: exclusively, and with its errors."""

    def locking(descriptor: int, mode: int, n_bytes: int) -> None:
        assert (mode, n_bytes, os.lseek(descriptor, 0, os.SEEK_CUR)) == (2, 1, 2**30)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error

    msvcrt = ModuleType("msvcrt")
    msvcrt.__dict__.update(locking=locking, LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    with monkeypatch.context() as windows:
        windows.setattr(sys, "platform", "win32")
        return module_of(Path(cache.disk.locks.__file__))


def test_locks_of_windows_say_who_holds_them_and_go_with_their_holder(on_windows: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    with on_windows.claimed(folder):
        assert on_windows.writing_process(folder) == str(os.getpid())
        with pytest.raises(StoreError, match=rf"head: another process makes it .* \(process {os.getpid()}\)"):
            on_windows.take_lock(folder, "another process makes it at this moment")
    assert on_windows.writing_process(folder) is None
    (tmp_path / ".head.lock").write_text("123456")  # whoever was killed leaves the file, and not the lock
    assert on_windows.writing_process(folder) is None
    with on_windows.claimed(folder):
        pass


def test_a_place_in_a_file_is_read_alike_without_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with (tmp_path / "a").open("rb", buffering=0) as file:
        file.seek(3)
        there = read_at(file.fileno(), 4, 5)
        monkeypatch.delattr(os, "pread")
        assert read_at(file.fileno(), 4, 5) == there == b"5678"
        assert read_at(file.fileno(), 4, 8) == b"89"
        assert file.tell() == 3


def test_without_names_of_descriptors_a_file_that_was_replaced_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract.media.hashing.sys, "platform", "darwin")
    path, digest = tmp_path / "a", new_content_hash()
    digest.update(b"first")
    path.write_bytes(b"first")
    with extract.media.hashing.held(path, digest.hexdigest()) as file:
        assert file == path
    (tmp_path / "b").write_bytes(b"other")
    with (
        pytest.raises(ChangedError, match="changed while it was read"),
        extract.media.hashing.held(path, digest.hexdigest()),
    ):
        (tmp_path / "b").replace(path)
