"""Look at every byte of a feature store, and cut out what is damaged."""

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from cache import StoreError
from cache.checks import Report, inspect
from cache.disk.locks import locked, writing_process
from cache.repair import repair
from cache.shelf import extraction_of
from configs import UserError
from configs.command_line import command

_SHOWN = 20


def main(
    store: Annotated[Path, typer.Argument(help="A store's folder, such as runs/sample/stores/audio.")],
    repair_it: Annotated[
        bool, typer.Option("--repair", help="Drop the damaged clips from the store, and make again what can be made.")
    ] = False,
) -> None:
    """Is a feature store what was written? Looks at every byte of every file in its folder.

    Checked: the checksums of all files, the index against the files, each clip's values against its hash; NaN and
    infinity. Named as suspicious: clips whose values are all zero or never change, and clips of different content with
    the same values.

    Exit codes: 0 the store is whole (or was made so by --repair), 1 it is damaged, 2 it is no store or is being
    written at this moment.
    """
    if not store.is_dir():
        raise StoreError(f"{store}: not a feature store (no such folder)")
    if process := writing_process(store):
        raise StoreError(f"{store}: is being written by process {process}: verify it when that is done")
    with locked(store) if repair_it else nullcontext():
        report = _inspect(store)
        _print(report)
        if report.whole:
            print(f"{store}: whole")
            return
        found = f"{store}: damaged: {len(report.damaged_files)} files, {len(report.damaged_clips)} clips"
        if not repair_it:
            raise UserError(f"{found}; --repair drops the damaged clips and keeps the others", exit_code=1)
        try:
            done = repair(store, report)
        except StoreError as error:
            raise UserError(str(error), exit_code=1) from error
        _print_findings("done", done)
        if not (after := _inspect(store)).whole:
            _print(after)
            raise UserError(f"{store}: still damaged after --repair", exit_code=1)
    print(f"{store}: whole again; {len(report.damaged_clips)} clips are to be computed again")
    if report.damaged_clips:
        print(f"  {extraction_of(store)}")


def _inspect(store: Path) -> Report:
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    with tqdm(total=size, desc="verifying", unit="B", unit_scale=True, disable=None, delay=2, leave=False) as progress:
        return inspect(store, progress.update)


def _print(report: Report) -> None:
    print(f"{report.n_clips} clips, {report.n_bytes:,} bytes of values")
    if report.n_same:
        print(f"{report.n_same} clips have the same content and values as another clip")
    _print_findings("damaged files", report.damaged_files.values())
    _print_findings("damaged clips", report.damaged_clips.values())
    _print_findings("suspicious", report.suspicious)
    _print_findings("beside the store's own files", report.strangers)


def _print_findings(title: str, findings: Iterable[object]) -> None:
    lines = [str(finding) for finding in findings]
    if lines:
        print(f"{title}: {len(lines)}")
        print("".join(f"  {line}\n" for line in lines[:_SHOWN]), end="")
    if len(lines) > _SHOWN:
        print(f"  ... and {len(lines) - _SHOWN} more")


if __name__ == "__main__":
    command(main)
