"""Databases in the format audformat: a header in YAML, tables in CSV or Parquet beside it.

They are read here rather than by the package of that name, which unpickles a table wherever a ``.pkl`` lies beside it.
"""

from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from configs import UserError, some
from configs.outside import read_yaml
from configs.sections.datasets import AudformatDataset
from configs.tables import Cells, filled, read_cells, said
from extract.corpora.manifest import not_here
from extract.corpora.readers.walk import kind_of
from extract.corpora.rows import Rows

USUAL = {"label": "emotion", "speaker": "speaker"}  # how databases call them
SPLITS = ("train", "dev", "test")


class _Database:
    """The header, and the tables that were asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / "db.yaml"
        if not self.path.is_file():
            raise UserError(f"{not_here(self.path, 'header')} (dataset.root)")
        header = read_yaml(self.path)
        header = header if isinstance(header, dict) else {}
        self.tables: dict[str, Any] = self._section(header, "tables")
        self.schemes, self.splits = self._section(header, "schemes"), self._section(header, "splits")
        self._cells: dict[str, Cells] = {}

    def _section(self, header: dict[str, Any], name: str) -> dict[str, Any]:
        section = header.get(name) or {}
        if not isinstance(section, dict) or not all(isinstance(each, dict) for each in section.values()):
            raise UserError(f"{self.path}: {name} must be a mapping of mappings, as audformat writes it")
        return {str(key): each for key, each in section.items()}

    def columns(self, table: str) -> dict[str, Any]:
        return self.tables[table].get("columns") or {}

    def having(self, column: str) -> list[str]:
        """The tables of whole files that have a column."""
        return [
            name
            for name, about in self.tables.items()
            if column in self.columns(name) and about.get("type") == "filewise"
        ]

    def split_of(self, table: str) -> str | None:
        name = self.tables[table].get("split_id")
        kind = self.splits.get(str(name), {}).get("type", name)
        return kind if kind in SPLITS else None

    def cells(self, table: str) -> Cells:
        if table not in self._cells:
            paths = [self.root / f"db.{table}.{suffix}" for suffix in ("parquet", "csv")]
            found = next((path for path in paths if path.is_file()), None)
            if found is None:
                raise UserError(
                    f"{paths[1]}: no such table (nor .parquet); a .pkl is not read, since it can run code: save with "
                    "storage_format='csv'"
                )
            cells = self._cells[table] = read_cells(found)
            if "file" not in cells.frame.columns:
                raise UserError(f"{found}: lacks the column file")
        return self._cells[table]

    def by_file(self, column: str) -> dict[str, str | None]:
        """What tables of whole files say of a file under a name."""
        said_of: dict[str, str | None] = {}
        for table in self.having(column):
            cells = self.cells(table)
            said_of |= dict(zip(cells.text("file"), cells.text(column), strict=True))
        return said_of

    def attribute(self, name: str, of: str) -> dict[str, str | None] | None:
        """What the labels of a scheme say under a name: of speakers, their gender."""
        labels = self.schemes.get(of, {}).get("labels")
        if not isinstance(labels, dict) or not any(isinstance(each, dict) and name in each for each in labels.values()):
            return None
        return {str(label): filled(about.get(name)) for label, about in labels.items() if isinstance(about, dict)}


def read_audformat(dataset: AudformatDataset) -> Rows:
    """A clip for each file of the tables that hold the label; splits are those of the tables.

    Raises:
        UserError: there is no header, no table or several have the label, a table is of segments or only pickled, or a
            column is in none.
    """
    database = _Database(dataset.root)
    names: dict[str, str] = USUAL | dataset.columns
    label = names["label"]
    tables = dataset.tables or [name for name in database.tables if label in database.columns(name)]
    for name in tables:
        if label not in database.columns(name) if name in database.tables else True:
            raise UserError(f"{database.path}: no table {name!r} with a column {label!r}; tables: {_shown(database)}")
        if database.tables[name].get("type") != "filewise":
            raise UserError(f"{database.path}: table {name!r} is not of whole files: cut its segments into files first")
    if not tables:
        raise UserError(
            f"{database.path}: no table has a column {label!r}: dataset.columns.label: one of {_shown(database)}"
        )
    wanted = {ours: theirs for ours, theirs in names.items() if ours != "label"}
    wanted |= {f"meta_{name}": name for name in dataset.metadata}
    found = {ours: database.by_file(theirs) for ours, theirs in wanted.items() if database.having(theirs)}
    rows = []
    for table in tables:
        cells = database.cells(table)
        for file, emotion in zip(cells.text("file"), cells.text(label), strict=True):
            path = str(file)
            media = {"audio": path} | ({"video": path} if kind_of(path) == "video" else {})
            row = {"row": f"{table}: {path}", "clip_id": filled(str(PurePosixPath(path).with_suffix("")))}
            row |= {"label": emotion, "split": database.split_of(table)}
            rows.append(row | media | {ours: values.get(path) for ours, values in found.items()})
    for ours, theirs in wanted.items():
        if ours in found or (ours == "speaker" and "speaker" not in dataset.columns):
            continue
        values = database.attribute(theirs, names["speaker"])
        if values is None:
            raise UserError(
                f"{database.path}: no table of whole files has a column {theirs!r}; tables: {_shown(database)}"
            )
        for row in rows:
            row[ours] = values.get(str(row.get("speaker")))
    for row in rows:
        if "text" in row:
            row["text"] = said(row["text"])
    clips = pl.DataFrame(rows, infer_schema_length=None)
    if clips["split"].is_null().any():
        if not clips["split"].is_null().all():
            raise UserError(f"{database.path}: of {some(tables)} some have a split, others none: name dataset.tables")
        clips = clips.drop("split")
    return Rows(clips, str(dataset.root), {"tables": tables}, published=True)


def _shown(database: _Database) -> str:
    return some((f"{name} ({', '.join(map(str, database.columns(name)))})" for name in database.tables), 10)
