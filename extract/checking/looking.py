"""All files of one modality, each content once: measured in child processes as the passes decode, and remembered."""

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from cache import StoreError, read_sealed_parquet, write_sealed_parquet
from configs import first_line
from extract.checking.measures import PICTURES, SOUND, VERSION, PictureLook, SoundLook
from extract.corpora.manifest import Manifest
from extract.media.decoding import Decoders
from extract.media.hashing import ChangedError
from extract.media.reading import DECODING, ClipError, MediaError
from extract.media.sources import Clip, Sources, local_copy

AHEAD = 4  # files a worker that are given out at a time: what is held of them does not grow with the corpus
TOGETHER = 32  # rows of a table, to begin with: an interruption costs those that are not in one
SAVE_SECONDS = 20  # after which what was measured is written down
VALUES = {"audio": SOUND, "video": PICTURES}
TYPES = {"face": pl.Boolean} | dict.fromkeys(("rate", "channels", "dead_channels", "width", "height"), pl.Int32)
ABOUT = {"problem": pl.String, "damage": pl.Float64, "note": pl.String}  # why it cannot be read; the share that is lost


def schema(kind: str) -> dict[str, Any]:
    """Columns of what is found of a modality's files, after ``hash``: of their content."""
    return {"hash": pl.String, **ABOUT, **{name: TYPES.get(name, pl.Float64) for name in VALUES[kind]}}


@dataclass(frozen=True)
class Looked:
    """``files``: a row per clip that names a file: ``clip_id`` and the columns of :func:`schema`."""

    files: pl.DataFrame
    n_measured: int
    n_remembered: int


def look(
    manifest: Manifest,
    task: SoundLook | PictureLook,
    sources: Sources,
    remembered: Path,
    workers: int,
    timeout: float,
) -> Looked:
    """Look at every file of sound, or of pictures, that a manifest names.

    Args:
        remembered: the Parquet file of what was measured before; it may be deleted at any time.
        workers: decoders, each a child process.
        timeout: seconds without a sign of life, after which a decoder is stopped.
    Raises:
        UserError: no decoder can be started, or objects cannot be had at all.
    """
    kind = "audio" if isinstance(task, SoundLook) else "video"
    rows = manifest.clips.filter(pl.col(kind).is_not_null()).select("clip_id", kind).iter_rows()
    clips = [Clip(clip_id, manifest.media(path)) for clip_id, path in rows]
    hashes, problems = _hashed(clips, kind, sources, workers)
    first: dict[str, Clip] = {}
    for clip, content in zip(clips, hashes, strict=True):
        if content is not None:
            first.setdefault(content, clip)
    known = _read(remembered, task, kind).filter(pl.col("hash").is_in(list(first)))
    waiting = [(content, clip) for content, clip in first.items() if content not in set(known["hash"])]
    parts = [known]
    saved = time.monotonic()
    try:
        for part in _measured(waiting, kind, task, workers, timeout):
            parts.append(part)
            if time.monotonic() - saved > SAVE_SECONDS:
                _write(remembered, parts, task)
                saved = time.monotonic()
    finally:
        if len(parts) > 1:
            _write(remembered, parts, task)
    found = pl.DataFrame(
        {"clip_id": [clip.clip_id for clip in clips], "hash": hashes, "unread": problems},
        schema={"clip_id": pl.String, "hash": pl.String, "unread": pl.String},
    ).join(pl.concat(parts), on="hash", how="left", maintain_order="left")
    found = found.with_columns(problem=pl.coalesce("unread", "problem")).select("clip_id", *schema(kind))
    return Looked(found, len(waiting), len(known))


def _hashed(clips: list[Clip], kind: str, sources: Sources, workers: int) -> tuple[list[str | None], list[str | None]]:
    """Of each clip the hash of its content, or why it has none. Remembered as the extraction does, and for it."""
    hashes = tqdm(
        sources.content_hashes(clips, workers), f"hashing {kind}", len(clips), unit="clip", disable=None, delay=2
    )
    found = list(hashes)
    sources.save()
    return [content for content, _ in found], [reason or None for _, reason in found]


def _measured(
    clips: Sequence[tuple[str, Clip]], kind: str, task: SoundLook | PictureLook, workers: int, timeout: float
) -> Iterator[pl.DataFrame]:
    """What is found, in parts."""
    decoders = Decoders(task, workers, timeout)
    pool = ThreadPoolExecutor(workers)
    waiting = iter(clips)
    under_way: deque[Future[dict[str, Any]]] = deque()
    try:
        with tqdm(total=len(clips), desc=f"looking at {kind}", unit="file", disable=None) as progress:
            rows: list[dict[str, Any]] = []
            while True:
                for content, clip in islice(waiting, AHEAD * workers - len(under_way)):
                    under_way.append(pool.submit(_row, content, clip, decoders))
                if under_way:
                    rows.append(under_way.popleft().result())
                    progress.update()
                if rows and (len(rows) == TOGETHER or not under_way):
                    yield pl.DataFrame(rows, schema=schema(kind))
                    rows = []
                if not under_way:
                    return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        decoders.close()
        pool.shutdown()


def _row(content: str, clip: Clip, decoders: Decoders) -> dict[str, Any]:
    assert not isinstance(clip.source, str)
    is_local = isinstance(clip.source, Path)
    try:
        with local_copy(clip.source, None if is_local else content) as path:  # type: ignore[arg-type]
            found: Any = decoders.decode(path, content if is_local else None)
    except (MediaError, ClipError, ChangedError, OSError) as error:
        return {"hash": content, "problem": first_line(error)}
    damage = found.damage
    return {
        "hash": content,
        "damage": damage.share if damage else 0.0,
        "note": damage.reason if damage else None,
        **found.values,
    }


def _key(task: SoundLook | PictureLook) -> str:
    return json.dumps({"version": VERSION, "decoding": DECODING, "look": repr(task)})


def _read(path: Path, task: SoundLook | PictureLook, kind: str) -> pl.DataFrame:
    """What was measured before in the same way."""
    empty = pl.DataFrame(schema=schema(kind))
    if not path.is_file():
        return empty
    try:
        read_sealed_parquet(path, "every file is looked at again")
        same = pl.read_parquet_metadata(path).get("emocache") == _key(task)
        table = pl.read_parquet(path) if same else empty
    except (pl.exceptions.PolarsError, StoreError, OSError) as error:
        print(f"{path}: unreadable ({first_line(error)}): every file is looked at again, and this one made anew")
        return empty
    return table if table.schema == empty.schema else empty


def _write(path: Path, parts: list[pl.DataFrame], task: SoundLook | PictureLook) -> None:
    """Without what could not be read: that is tried again."""
    parts[:] = [pl.concat(parts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed_parquet(path, parts[0].filter(pl.col("problem").is_null()), {"emocache": _key(task)})
