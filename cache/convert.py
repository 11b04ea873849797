"""Copy a feature store, losslessly, into the other backend or without its dead rows."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import copyfileobj
from typing import Annotated, Literal

import numpy as np
import typer
from tqdm import tqdm

from cache import Store, StoreError, StoreWriter, attach
from cache.disk.unfinished import begin, begun, end
from cache.files.checksums import read_checksums
from cache.files.layout import OWN_FILES, Entry, Header, new_values_hash, read_index
from cache.shelf import extraction_of
from configs.command_line import command

_COMMIT_SECONDS = 20


def main(
    store: Annotated[Path, typer.Argument(help="The store to copy.")],
    destination: Annotated[Path, typer.Argument(help="The folder of the copy; new, or of an interrupted copy.")],
    backend: Annotated[Literal["zarr", "hdf5"] | None, typer.Option(help="Default: the same as the store's.")] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Copy a store whose extraction has not finished, as it is now.")
    ] = False,
) -> None:
    """Copy a feature store into the other backend, or into the same without the rows of replaced clips.

    Values, their hashes and the fingerprint stay the same, and each clip is checked against its hash on the way. The
    same command goes on after an interruption.

    Exit codes: 0 copied, 2 the store is damaged or unfinished, or the destination is something else.
    """
    source, (entries, _), header = Store(store), read_index(store), Header.read(store)
    wanted, half = backend or header.backend, begun(store)
    if half and not unfinished:
        raise StoreError(
            f"{store}: {_said(half, len(entries))}; finish it with '{extraction_of(store)}', or copy what is there "
            "with --unfinished"
        )
    _refuse_what_is_no_copy(store, destination, header.fingerprint, wanted)
    chunk_mb = header.chunk_rows * source.dim * source.dtype.itemsize / 2**20
    with StoreWriter(destination, header.fields, source.dim, header.dtype, wanted, chunk_mb) as writer:
        held = writer.content_hashes
        if foreign := held.keys() - entries.keys():
            raise StoreError(
                f"{destination}: holds clips that {store} does not ({min(foreign)!r}); name another folder"
            )
        committed = time.monotonic()
        for clip_id, entry in tqdm(entries.items(), "copying", unit="clip", disable=None, delay=2):
            if held.get(clip_id) != entry.content_hash:
                writer.append(clip_id, _checked_parts(source, clip_id, entry), entry.content_hash)
            if time.monotonic() - committed > _COMMIT_SECONDS:
                writer.commit()
                committed = time.monotonic()
    for name in sorted(read_checksums(store).keys() - OWN_FILES):
        with (store / name).open("rb") as file:
            attach(destination, name, partial(copyfileobj, file))
    for who in begun(destination).keys() - half.keys():
        end(destination, who)
    for who, n_clips in half.items():  # the copy of a half is one, too
        begin(destination, who, n_clips)
    print(f"{destination}: {len(entries)} clips, {wanted}" + (f"; {_said(half, len(entries))}" if half else ""))


def _said(half: dict[str, int], n_stored: int) -> str:
    (who, n_clips), *others = half.items()
    more = f" (and {len(others)} more)" if others else ""
    return f"the extraction of {who}{more} has not finished: {n_stored} clips are stored, {n_clips} are to be tried"


def _refuse_what_is_no_copy(store: Path, destination: Path, fingerprint: str, backend: str) -> None:
    if destination.resolve() == store.resolve():
        raise StoreError(f"{destination}: is the store itself; name another folder")
    if (destination / "store.json").is_file():
        present = Header.read(destination)
        if (present.fingerprint, present.backend) != (fingerprint, backend):
            raise StoreError(f"{destination}: is another store already; name another folder")
    elif destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise StoreError(f"{destination}: is there and is no store; name another folder")


def _checked_parts(source: Store, clip_id: str, entry: Entry) -> Iterator[np.ndarray]:
    values_hash = new_values_hash()
    for part in source.parts(clip_id):
        values_hash.update(part)
        yield part
    if values_hash.hexdigest() != entry.values_hash:
        raise StoreError(
            f"{source.path}: the values of clip {clip_id!r} are damaged: python cache/verify.py {source.path}"
        )


if __name__ == "__main__":
    command(main)
