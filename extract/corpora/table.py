"""Any CSV or Parquet table with a row per clip -> manifest."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from configs import UserError, some
from configs.sections.datasets import PublicDataset, TableDataset
from configs.tables import Cells, read_cells
from extract.corpora.manifest import TO_PREDICT, Manifest, not_here
from extract.corpora.rows import Rows, finish

__all__ = ["read_table", "read_table_to_predict"]


def read_table(dataset: TableDataset, seed: int) -> Manifest:
    """Read a table whose columns the profile names.

    Everything is read as text, without the white space around it (``text`` itself is kept as it is written), and a cell
    with nothing else in it is null. Without a ``clip_id`` column the row is the id: ``row1``, below the header.
    What then happens to the rows: see :func:`extract.corpora.rows.finish`.

    Args:
        dataset: the table, its columns, and how to split it if it does not say.
        seed: for drawn splits.

    Raises:
        UserError: a column is missing, or what ``finish`` refuses. The message names the table and the row (from 1, the
            header not counted), or the column.
    """
    path = dataset.path
    if not os.path.exists(path):  # noqa: PTH110 (a Path raises where the name is too long)
        raise UserError(f"{not_here(path, 'table')} (dataset.root and dataset.table)")
    cells = read_cells(path)
    ours: dict[str, str] = {ours: theirs.strip() for ours, theirs in dataset.columns.items()}
    ours |= {f"meta_{name.strip()}": name.strip() for name in dataset.metadata}
    ours |= {f"privileged_{name.strip()}": name.strip() for name in dataset.privileged}
    return finish(Rows(_clips(cells, ours), path, notes=cells.notes, finer=_finer(dataset)), dataset, seed)


def read_table_to_predict(
    path: Path, columns: Mapping[str, str], fields: Sequence[str], media: Path | None
) -> Manifest:
    """Read a table of clips whose emotions are asked for, as :func:`read_table` reads one with labels.

    What a label says is not looked at: where any row has one, units are the rows that have; else the last clips of
    conversations, and every clip that is in none. Media that are not there are missing.

    Args:
        columns: our name: the table's, of what there may be; at least text, audio, video or a field is needed.
        fields: metadata that heads read, by the names of their columns.
        media: what media paths are relative to; default: where the table lies.
    Raises:
        UserError: there is nothing in it to predict from, or what ``finish`` refuses.
    """
    cells = read_cells(path)
    there = set(cells.frame.columns)
    ours = {
        ours: theirs for ours, theirs in columns.items() if theirs in there and ours not in ("split", "fold", "group")
    }
    ours |= {f"meta_{field}": field for field in fields if field in there}
    if not any(name in ("text", "audio", "video") or name.startswith("meta_") for name in ours):
        wanted = some([columns.get(name, name) for name in ("text", "audio", "video")] + [*fields], 20)
        raise UserError(
            f"{path}: nothing to predict from: no column is called {wanted}; it has {some(sorted(there), 20)}"
        )
    clips = _clips(cells, ours)
    if "label" in clips.columns and clips["label"].is_not_null().any():
        asked = pl.col("label").is_not_null()
    elif "conversation_id" in clips.columns:
        at = pl.col("index" if "index" in clips.columns else "row").cast(pl.Int32, strict=False)
        asked = at == at.max().over("conversation_id")
    else:
        asked = pl.lit(True)
    label = pl.when(asked).then(pl.lit(TO_PREDICT))
    dataset = PublicDataset(root=path.parent, media_root=media, classes=[TO_PREDICT], missing_media="allow")
    return finish(Rows(clips.with_columns(label=label, split=pl.lit("test")), path, notes=cells.notes), dataset, 0)


def _clips(cells: Cells, ours: dict[str, str]) -> pl.DataFrame:
    """The columns ``ours`` (our name: theirs), all of them text; and ``row``."""
    absent = [name for name in dict.fromkeys(ours.values()) if name not in cells.frame.columns]
    if absent:
        listed = some(absent, len(absent))
        raise UserError(f"{cells.path}: lacks the column {listed}; it has {some(cells.frame.columns, 20)}")
    columns = {name: cells.text(theirs) for name, theirs in ours.items()}
    if "text" in ours and cells.frame.schema[ours["text"]] == pl.String:
        written = cells.frame[ours["text"]]
        columns["text"] = written.set(columns["text"].is_null(), None)
    for name in {"role", "split"} & ours.keys():
        columns[name] = columns[name].str.to_lowercase()
    clips = pl.DataFrame({"row": cells.rows, **columns})
    return clips if "clip_id" in ours else clips.with_columns(clip_id=pl.format("row{}", "row"))


def _finer(dataset: TableDataset) -> str:
    """What a group can be instead of a speaker."""
    name = dataset.columns.get("conversation_id", dataset.columns.get("clip_id", "a column that differs in each row"))
    return f"columns.group: {name} (speakers are then shared between splits and folds, as report and audit will say)"
