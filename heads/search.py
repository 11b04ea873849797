"""Search for a head's best settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from cache import claimed, write_text_atomically
from configs import UserError
from configs.advice import completed
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from extract.corpora.manifest import read_manifest
from heads.cluster.engines import EngineOption, fitting_on

if TYPE_CHECKING:
    from heads.fitting.study import Search

SHOWN = 5  # of the best trials


def main(
    head: Annotated[str, typer.Option("--head", help="The head: a name under 'heads' in the profile.")],
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls included.")] = 50,
    config: ConfigOption = None,
    engine: EngineOption = "local",
    overrides: OverrideArgument = None,
) -> None:
    """Try settings of one head and keep the best, by macro-F1 on training units, each predicted out of fold.

    What is tried stands in the profile, under 'search: {HEAD: {SETTING: [choices] or {low, high, log}}}', or is a
    space for the head's kind. Units of the test split are not read. A trial that falls behind the others is ended
    early. Everything is kept in runs/PROFILE/search/HEAD/study.db: stop when you like, and run the same command to go
    on. The best settings are written beside it as best.yaml, which any command takes in place of a KEY=VALUE:
    python heads/train.py --head audio runs/sample/search/audio/best.yaml
    """
    profile = load(config, overrides)
    if head not in profile.heads:
        raise UserError(f"--head {head}: no such head in the profile; it has: {', '.join(profile.heads)}")
    manifest = read_manifest(profile.manifest_path)

    # torch and optuna take seconds to import: help and mistakes should not wait for them
    from heads.fitting.study import Search

    with claimed(profile.search_path(head)), fitting_on(engine) as fit_folds:  # its study is made by one process, too
        search = Search(profile, manifest, head, fit_folds)
        if (n_done := len(search.ended)) >= trials:
            print(f"nothing to try: {n_done} trials are done already; for 20 more: --trials {n_done + 20}")
        try:
            search.run(trials)
        finally:  # Ctrl-C too
            if search.best():
                again = completed(f"python heads/train.py --head {head}")
                print(_summary(search))
                print(f"use it: {again} {_write_best(search, again)}")


def _write_best(search: "Search", again: str) -> Path:
    (best,) = search.best()
    path = search.path.with_name("best.yaml")
    settings = {"heads": {search.name: search.settings_of(best)}}
    write_text_atomically(
        path,
        f"# Macro-F1 {best.value:.4f} on training units, out of fold: the best of {len(search.ended)} trials (number "
        f"{best.number} of study {search.study_name}).\n# It was chosen for that score, which is therefore a little "
        "too high: judge it by the test split.\n"
        f"# Use it: {again} {path}\n" + yaml.safe_dump(settings, sort_keys=False),
    )
    return path


def _summary(search: "Search") -> str:
    """The best trials, a row each, and what each setting mattered."""
    best, n_all = search.best(SHOWN), len(search.ended)
    n_cut = n_all - len(search.best(n_all))
    rows = [["trial", "macro-F1", *search.space]]
    for trial in best:
        settings = search.settings_of(trial)
        rows.append([str(trial.number), f"{trial.value:.4f}", *(_short(settings[name]) for name in search.space)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"head {search.name}: the best of {n_all} trials ({n_cut} ended early), by macro-F1 out of fold"]
    from heads.fitting.outputs import transductive_of  # torch is there by now

    if transductive := transductive_of(search.profile, search.profile.heads[search.name]):
        lines.append(f"TRANSDUCTIVE: {transductive}")
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if importances := search.importances():
        lines.append("what mattered: " + ", ".join(f"{name} {share:.2f}" for name, share in importances.items()))
    return "\n".join(lines)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    command(main)
