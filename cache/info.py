"""Say what feature stores there are, and what one is."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from cache import StoreError
from cache.disk.locks import writing_process
from cache.disk.unfinished import begun
from cache.files.layout import Header, read_index_table
from cache.shelf import stores_of
from configs import UserError, one_line, some
from configs.advice import completed
from configs.command_line import command
from configs.profiles import load
from configs.schema import OF_VIEW, SHELF

ERRORS, DAMAGED = "errors.parquet", "damaged.parquet"
MOST_NAMES = 12  # of a list that is shown whole


def main(
    store: Annotated[
        Path | None,
        typer.Argument(help="A store's folder, such as runs/sample/stores/audio. Default: list all stores there are."),
    ] = None,
    unused: Annotated[bool, typer.Option("--unused", help="List those that no profile uses, to delete them.")] = False,
) -> None:
    """Say what feature stores there are; or of one its form, what it was computed from, and what failed.

    A store is used by the profiles whose runs/PROFILE/stores/ENCODER lead to it, as long as configs/PROFILE.yaml, where
    it is there, still has that encoder.

    Exit codes: 0 said, 2 it is no store or cannot be read. Whether it is whole, python cache/verify.py finds out.
    """
    if store is None:
        _list(Path("runs"), unused)
    elif unused:
        raise UserError("--unused: lists stores: name none")
    else:
        _show(store)


def _list(runs: Path, unused: bool) -> None:
    stores = {path: [link for link in links if _is_wanted(link)] for path, links in stores_of(runs).items()}
    if unused:
        stores = {path: links for path, links in stores.items() if not links and path.parent == runs / SHELF}
    rows = [("store", "clips", "failed", "MiB", "used by")]
    for path, links in stores.items():
        users = ", ".join(f"{link.parts[-3]} ({link.name})" for link in links)
        if path.parent != runs / SHELF:  # from before there was a shelf: the next extraction moves it there
            users = f"{path.parts[-3]} ({path.name})"
        n_clips, size = len(read_index_table(path)[0]), sum(_sizes(path))
        rows.append((str(path), f"{n_clips}", _errors(path / ERRORS), f"{size / 2**20:.1f}", users or "no profile"))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows if len(rows) > 1 else ():
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if len(rows) == 1:
        print(f"{runs / SHELF}: {'every store is used by a profile' if unused else 'no store yet'}")
    elif unused:
        print("nothing of the profiles reads these: remove what you do not want to go back to, with rm -r")


def _is_wanted(link: Path) -> bool:
    """False where the profile has no such encoder, or view, any more; one that cannot be read keeps what it has."""
    encoder = link.name.partition(OF_VIEW)[0]
    try:
        profile = load(link.parts[-3])
        return encoder in profile.encoders and link.name in (encoder, *profile.views_of(encoder))
    except UserError:
        return True


def _sizes(store: Path) -> list[int]:
    return [path.stat().st_size for path in store.rglob("*") if path.is_file()]


def _show(store: Path) -> None:
    header = Header.read(store)
    index, total_rows = read_index_table(store)
    lengths = index.column("length").to_numpy()
    row_bytes = header.dim * np.dtype(header.dtype).itemsize
    live = int(lengths.sum())
    _line("store", f"{store} -> {store.resolve()}" if store.is_symlink() else store)
    _line("values", f"{header.dtype}, {header.dim} a time step, {header.backend}")
    _line("clips", len(index))
    if len(lengths):
        _line("time steps", f"{lengths.min()} min, {np.median(lengths):g} median, {lengths.max()} max")
    _line("rows", f"{total_rows}: {live} live, {total_rows - live} dead" + _compaction(store, total_rows, live))
    files = _sizes(store)
    _line("on disk", f"{sum(files) / 2**20:.1f} MiB in {len(files)} files")
    _line("chunks", f"{header.chunk_rows} rows, {header.chunk_rows * row_bytes / 2**20:.1f} MiB")
    _line("errors", _errors(store / ERRORS))
    if (store / DAMAGED).is_file():
        _line("damaged", f"{_height(store / DAMAGED)} clips, stored without what could not be decoded ({DAMAGED})")
    process = writing_process(store)
    _line("being written", f"by process {process}" if process else "no")
    _line("unfinished", ", ".join(f"{who} ({n} clips)" for who, n in begun(store).items()) or "no")
    _line("fingerprint", header.fingerprint)
    for name, value in sorted(header.fields.items()):
        _line(f"  {name}", _said(value))


def _line(name: str, value: object) -> None:
    print(f"{name:<18}{value}")


def _said(value: object) -> str:
    if isinstance(value, list) and len(value) > MOST_NAMES:  # the names of columns may be thousands
        return some(map(json.dumps, value))
    return value if isinstance(value, str) else json.dumps(value)


def _compaction(store: Path, total_rows: int, live: int) -> str:
    worth_it = total_rows - live > 0.2 * total_rows
    leave_out = completed(f"python cache/convert.py {store} DESTINATION leaves the dead ones out")
    return f" ({leave_out})" if worth_it else ""


def _errors(path: Path) -> str:
    if not path.is_file():
        return "no errors.parquet"
    try:
        stages = pc.value_counts(pq.read_table(path).column("stage")).to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise StoreError(f"{path}: not a table of errors ({one_line(error)})") from error
    counted = sorted((entry["values"], entry["counts"]) for entry in stages)
    return ", ".join(f"{count} {stage}" for stage, count in counted) or "none"


def _height(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{path}: not a table ({one_line(error)})") from error


if __name__ == "__main__":
    command(main)
