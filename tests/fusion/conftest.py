from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Write a table: ``table(frame, "name.csv")``."""

    def write(frame: pl.DataFrame, name: str = "a.parquet") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            frame.write_csv(path)
        else:
            frame.write_parquet(path)
        return path

    return write
