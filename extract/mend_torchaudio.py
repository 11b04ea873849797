"""Set torchaudio's compiled libraries aside where they do not load; this program needs none of them."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from configs import UserError, first_line
from configs.command_line import command

ASIDE = ".aside"  # behind the name of a library that is not to be found


def main() -> None:
    """Make torchaudio importable beside a torch that its compiled libraries were not built for.

    Its wheels are built for CUDA. Beside another torch, importing it fails, and with it whatever of transformers looks
    for it. Where the libraries are absent it runs without them, as its own loader provides for: transforms, filters,
    resampling and Kaldi's features need none. So they are renamed where they do not load, put back where they do again
    (after another torch was installed), and left alone where they always did. Run it after every installation; it can
    be run again at any time. Exit codes: 0 torchaudio imports, 2 it does not, and why.
    """
    found = find_spec("torchaudio")  # which does not run it
    if found is None or not found.submodule_search_locations:
        raise UserError("torchaudio is not installed: pip install -r requirements.txt")
    print(f"torchaudio: {settle(Path(found.submodule_search_locations[0]) / 'lib')}")


def settle(folder: Path) -> str:
    """Rename the libraries in torchaudio's ``lib`` folder if that is needed, and say what was done.

    Raises:
        UserError: it does not import without them either, or they cannot be renamed; they are as before.
    """
    libraries = sorted(path for path in folder.glob("*") if path.suffix in (".so", ".pyd"))
    aside = sorted(folder.glob(f"*{ASIDE}"))
    if aside and not libraries:
        if _reason(f"import ctypes, torch; [ctypes.CDLL(path) for path in {[str(path) for path in aside]}]"):
            return _checked(f"its {len(aside)} compiled libraries are set aside: they do not load beside this torch")
        _rename({path: path.with_suffix("") for path in aside})
        if not _reason("import torchaudio"):
            return f"its {len(aside)} compiled libraries load beside this torch: they are put back"
        _rename({path.with_suffix(""): path for path in aside})  # they load, and say that they do not fit
        return _checked(f"its {len(aside)} compiled libraries are set aside: they do not fit this torch")
    if not libraries or not _reason("import torchaudio"):
        return _checked("imports as it is: nothing to do")
    _rename({path: path.with_name(path.name + ASIDE) for path in libraries})
    try:
        return _checked(
            f"its {len(libraries)} compiled libraries do not load beside this torch: they are set aside "
            f"({folder}/*{ASIDE}), and it imports without them"
        )
    except UserError:
        _rename({path.with_name(path.name + ASIDE): path for path in libraries})
        raise


def _checked(what: str) -> str:
    reason = _reason("import torchaudio")
    if reason:
        raise UserError(f"torchaudio does not import, and its compiled libraries are not why: {reason}")
    return what


def _reason(code: str) -> str:
    """Why a child process fails to run some code: what it says last; nothing where it does not fail.

    A child, since what a process once failed to load may stay half loaded in it.
    """
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
    return lines[-1][:300] if ended.returncode else ""


def _rename(names: dict[Path, Path]) -> None:
    for old, new in names.items():
        try:
            old.replace(new)
        except OSError as error:
            raise UserError(
                f"{old}: cannot be renamed ({first_line(error)}): run this as whoever installed it"
            ) from error


if __name__ == "__main__":
    command(main)
