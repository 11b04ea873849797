"""Labels of any script in PNG files: drawn by a font that has them, or numbered and listed; no boxes, no warnings."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from heads import pictures
from heads.pictures import LIST, literal, save


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has drawn nothing yet."""
    monkeypatch.setattr(pictures, "_numbers", {})
    monkeypatch.setattr(pictures, "_added", [])
    with mpl.rc_context({"font.family": ["sans-serif"]}):
        yield


def drawn(names: list[str], path: Path) -> list[str]:
    """What the labels of a chart with these names are; no warning may come of drawing them."""
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    labels = [literal(name, 16) for name in names]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title(f"it is {labels[0]}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, path)
    return labels


def test_a_name_is_no_formula_and_not_too_long(tmp_path: Path) -> None:
    names = ["$x_{}$", "a" * 40, " two\n lines\x00 ", "naïve", "مرحبا", "שלום", "радость", "😀", "❤\ufe0f"]
    labels = drawn(names, tmp_path / "a.png")
    assert labels[:4] == [r"\$x_{}\$", "a" * 15 + "…", "two lines", "naïve"]
    assert labels[4:] == ["مرحبا", "שלום", "радость", "😀", "❤"]
    assert not (tmp_path / LIST).exists()


def test_what_no_font_has_is_numbered_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pictures, "_installed", lambda: ())
    labels = drawn(["很高兴", "बहुत खुश (3)", "很高兴", "happy"], tmp_path / "a.png")
    assert labels == ["№1", "№2 (3)", "№1", "happy"]
    assert (tmp_path / LIST).read_text(encoding="utf-8") == "№1\t很高兴\n№2\tबहुत खुश\n"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    drawn(["很难过"], tmp_path / "b.png")
    assert len((tmp_path / LIST).read_text(encoding="utf-8").splitlines()) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1  # said once


def test_a_font_of_the_machine_is_used_where_it_has_what_is_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the fonts that matplotlib brings, STIX has mathematical letters that its main one lacks."""
    stix = str(Path(mpl.get_data_path()) / "fonts/ttf/STIXGeneral.ttf")
    lacking = pictures._characters(stix) - pictures._characters(pictures._own_file())
    sign = chr(min(code for code in lacking if chr(code).isalpha()))
    monkeypatch.setattr(pictures, "_installed", lambda: (stix,))
    assert drawn([f"{sign} happy"], tmp_path / "a.png") == [f"{sign} happy"]
    assert mpl.rcParams["font.family"] == ["sans-serif", "STIXGeneral"]
    assert pictures._added == [stix]
    assert not (tmp_path / LIST).exists()
