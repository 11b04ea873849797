"""Any CSV or Parquet table with a row per clip -> manifest."""

import os

import polars as pl

from configs import UserError, some
from configs.sections.datasets import TableDataset
from configs.tables import Cells, read_cells
from extract.corpora.manifest import Manifest, not_here
from extract.corpora.rows import Rows, finish

__all__ = ["read_table"]


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
    return finish(Rows(_clips(cells, dataset), path, notes=cells.notes, finer=_finer(dataset)), dataset, seed)


def _clips(cells: Cells, dataset: TableDataset) -> pl.DataFrame:
    """The columns that the profile names, under our names, all of them text; and ``row``."""
    ours: dict[str, str] = {ours: theirs.strip() for ours, theirs in dataset.columns.items()}
    ours |= {f"meta_{name.strip()}": name.strip() for name in dataset.metadata}
    ours |= {f"privileged_{name.strip()}": name.strip() for name in dataset.privileged}
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
