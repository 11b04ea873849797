"""Say what a feature store is."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from cache import StoreError
from cache.files import writing_process
from cache.layout import Header, read_index_table
from configs import command


def main(store: Annotated[Path, typer.Argument(help="A store's folder, such as runs/sample/stores/audio.")]) -> None:
    """Say what a feature store is: its form, how much is in it, what it was computed from, what failed.

    Exit codes: 0 said, 2 it is no store or cannot be read. Whether it is whole, python cache/verify.py finds out.
    """
    header = Header.read(store)
    index, total_rows = read_index_table(store)
    lengths = index.column("length").to_numpy()
    row_bytes = header.dim * np.dtype(header.dtype).itemsize
    live = int(lengths.sum())
    _line("store", store)
    _line("values", f"{header.dtype}, {header.dim} a time step, {header.backend}")
    _line("clips", len(index))
    if len(lengths):
        _line("time steps", f"{lengths.min()} min, {np.median(lengths):g} median, {lengths.max()} max")
    _line("rows", f"{total_rows}: {live} live, {total_rows - live} dead" + _compaction(store, total_rows, live))
    files = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    _line("on disk", f"{sum(files) / 2**20:.1f} MiB in {len(files)} files")
    _line("chunks", f"{header.chunk_rows} rows, {header.chunk_rows * row_bytes / 2**20:.1f} MiB")
    _line("errors", _errors(store / "errors.parquet"))
    process = writing_process(store)
    _line("being written", f"by process {process}" if process else "no")
    for aside in sorted(store.parent.glob(f"{store.name}.*")):
        if (aside / "store.json").is_file():
            _line("set aside", f"{aside} ({len(read_index_table(aside)[0])} clips)")
    _line("fingerprint", header.fingerprint)
    for name, value in sorted(header.fields.items()):
        _line(f"  {name}", value if isinstance(value, str) else json.dumps(value))


def _line(name: str, value: object) -> None:
    print(f"{name:<18}{value}")


def _compaction(store: Path, total_rows: int, live: int) -> str:
    worth_it = total_rows - live > 0.2 * total_rows
    return f" (python cache/convert.py {store} DESTINATION leaves the dead ones out)" if worth_it else ""


def _errors(path: Path) -> str:
    if not path.is_file():
        return "no errors.parquet"
    try:
        stages = pc.value_counts(pq.read_table(path).column("stage")).to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise StoreError(f"{path}: not a table of errors ({' '.join(str(error).split())})") from error
    counted = sorted((entry["values"], entry["counts"]) for entry in stages)
    return ", ".join(f"{count} {stage}" for stage, count in counted) or "none"


if __name__ == "__main__":
    command(main, StoreError)
