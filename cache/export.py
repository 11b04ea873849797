"""Give a store's features to other programs: NumPy, HDF5, Parquet, WebDataset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from tqdm import tqdm

from cache import Store, StoreError, claimed
from cache.foreign.exports import FORMATS, write_whole
from configs.command_line import command


def main(
    store: Annotated[Path, typer.Argument(help="The store: runs/PROFILE/stores/ENCODER.")],
    out: Annotated[Path, typer.Option(help="The file to write; one that is there is replaced.")],
    kind: Annotated[
        Literal["npz", "hdf5", "parquet", "webdataset"] | None,
        typer.Option("--format", help="Default: as the file's ending says: .npz, .h5, .parquet, .tar."),
    ] = None,
    dtype: Annotated[
        Literal["stored", "float32"], typer.Option(help="float32: for programs that do not know float16.")
    ] = "stored",
) -> None:
    """Write the features of every clip of a store into one file, under the clips' ids.

    npz and hdf5 have an array (time, dim) for each id, parquet a row for each time step with clip_id and a list of
    float32, webdataset a tar with ID.npy and ID.json. Values are those of the store, each checked against its hash;
    cache/ingest.py reads all of these again. The file is there when all of it is.
    """
    source = Store(store)
    endings = {ending: name for name, (ending, _) in FORMATS.items()} | {".hdf5": "hdf5"}
    chosen = kind or endings.get(out.suffix.lower())
    if chosen is None:
        raise StoreError(f"--out {out}: say which format: --format, or an ending of {', '.join(endings)}")
    if not len(source):
        raise StoreError(f"{store}: holds no clip: there is nothing to write")

    def clips() -> Iterator[tuple[str, np.ndarray]]:
        for clip_id in tqdm(source.clip_ids, "writing", unit="clip", disable=None, delay=2):
            values = source[clip_id]
            yield clip_id, values.astype(np.float32) if dtype == "float32" else values

    with claimed(out):
        write_whole(out, FORMATS[chosen][1], clips())
    print(f"{out}: {len(source)} clips, {source.dim} numbers in a time step, {out.stat().st_size / 2**20:.1f} MiB")
    if several := source.fields.get("layers"):  # which the file does not say
        widths = ", ".join(f"{number} ({width})" for number, width in several["taken"])
        print(
            f"of each layer its {', then its '.join(several['statistics'])}, layer after layer: "
            f"number (width): {widths}"
        )


if __name__ == "__main__":
    command(main)
