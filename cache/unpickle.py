"""Take the features out of a pickle, without running anything that is in it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from cache import StoreError, parquet_bytes, writable, write_atomically
from cache.foreign.exports import write_npz, write_whole
from cache.foreign.layouts import Layout, layout_of, outline
from cache.foreign.pickles import read_pickle
from configs import UserError
from configs.advice import completed
from configs.command_line import command

MEMORY = 4  # bytes of memory for one of the file, and
MORE_MEMORY = 2**32  # beside what is taken already
USUAL = {"audio": ("audio", "acoustic"), "video": ("vision", "visual", "video"), "text": ("text", "glove", "bert")}


def main(
    file: Annotated[Path, typer.Argument(help="A pickle: MMSA's aligned_50.pkl, or {id: array} ...")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to. Default: the file's name without its ending.")
    ] = None,
    outline_only: Annotated[
        bool, typer.Option("--outline", help="Say what the file holds, and write nothing.")
    ] = False,
) -> None:
    """Read a pickle's NumPy arrays, numbers, texts, lists and dicts, and write them as files that run no code.

    For each kind of features OUT/NAME.npz, with an array for each clip: what cache/ingest.py takes; and in
    OUT/clips.parquet what else is said of each clip (text, labels, split): what a profile's dataset takes as its table.
    Padding is cut off by the lengths that the file has. Anything else in a pickle, which could run any program, is
    refused by its name.
    """
    with _limited(file):
        held = read_pickle(file)
    print(f"{file}: {outline(held)}")
    if outline_only:
        return
    try:
        found = layout_of(held, file.stem)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    folder = out or file.with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: a file, where a folder is to be: name another with --out")
    _write(found, folder)


def _write(found: Layout, folder: Path) -> None:
    print("\n".join(found.notes), end="\n" * bool(found.notes))
    for name, arrays in found.features.items():
        path = folder / f"{_file_name(name)}.npz"
        write_whole(path, write_npz, ((clip_id, values) for clip_id, values in arrays.items() if values.size))
        empty = [clip_id for clip_id, values in arrays.items() if not values.size]
        widths = sorted({values.shape[-1] for values in arrays.values() if values.size})
        without = f"; {len(empty)} had nothing but padding, and are left out" if empty else ""
        print(
            f"{path}: {len(arrays) - len(empty)} clips, {', '.join(map(str, widths))} numbers in a time step{without}"
        )
    if any(found.rows.values()):
        path = folder / "clips.parquet"
        columns = list(dict.fromkeys(name for row in found.rows.values() for name in row))
        table = {"clip_id": list(found.rows)} | {
            name: pl.Series(name, [row.get(name) for row in found.rows.values()], strict=False) for name in columns
        }
        with writable(path):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, parquet_bytes(pl.DataFrame(table)))
        print(f"{path}: {len(found.rows)} clips: {', '.join(columns)}")
        print(
            f"as a dataset: {{adapter: table, root: {folder}, table: {path.name}, columns: {{clip_id: clip_id, ...}}}}"
        )
    for name in found.features:
        path = folder / f"{_file_name(name)}.npz"
        modality = next((what for what, names in USUAL.items() if name.lower() in names), "MODALITY")
        print(completed(f"python cache/ingest.py --encoder {_file_name(name)} --modality {modality} {path}"))


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() or char in "_-" else "_" for char in name) or "features"


@contextmanager
def _limited(file: Path) -> Iterator[None]:
    """Memory in proportion to the file: a few bytes of a pickle can ask for any amount."""
    memory = Path("/proc/self/statm")
    if not memory.is_file():
        print("warning: no limit on memory here: this system has none that is used", file=sys.stderr)
        yield
        return
    import resource  # of Unix alone

    taken = int(memory.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = taken + MORE_MEMORY + MEMORY * (file.stat().st_size if file.is_file() else 0)
    allowed = [each for each in (wanted, soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    command(main)
