from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

if TYPE_CHECKING:
    from bundled_project import Project


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


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> "Project":
    """Made once for all tests of the group ``predict``, which leave it as it is."""
    from bundled_project import make_project

    return make_project(tmp_path_factory.mktemp("predict"))
