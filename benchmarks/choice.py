"""Which strategy is the best one, and which rule chooses best among them: fusion problems by the hundred.

Every problem is drawn from its seed (`benchmarks/draws.py`), fused as `fusion/stack.py` does, and judged on test units
that are so many that what is left is quality. Printed is by how much each strategy, and each rule that chooses among
them, differs from the pool with one weight per head, with 95 % intervals over problems. Tune on seeds 0 to 199, and
confirm on others: `--first 1000`.
"""

import sys
from pathlib import Path

# In this folder a file is named as a package is.
sys.path[:] = [str(Path(__file__).parents[1]), *(path for path in sys.path if not path.endswith("benchmarks"))]

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, get_args

import numpy as np
import typer
from tqdm import tqdm

from benchmarks.draws import KINDS, draw
from configs.command_line import command
from configs.schema import Fusion, Metric
from fusion.strategies.catalogue import STRATEGIES
from fusion.strategies.choice import HEAD, NAMES, choose, decide, goodness_of
from fusion.strategies.nested import cross_fit
from fusion.strategies.pools import Single

POOL = "weighted"  # what all else is compared with
JUDGES = ("log_loss", "macro_f1", "accuracy")
SIZES = {"< 200": (0, 200), "200-1000": (200, 1000), "> 1000": (1000, 10**9)}
DECIDED = "default, prior-corrected"


@dataclass(frozen=True)
class Result:
    """One problem: what each candidate and each rule is worth on test."""

    seed: int
    kind: str
    size: str
    worth: dict[str, dict[str, float]]  # judge: strategy or rule: goodness on test


def main(
    draws: Annotated[int, typer.Option(min=2, help="Problems.")] = 200,
    first: Annotated[int, typer.Option(min=0, help="The seed of the first one.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Problems that are solved at a time.")] = 2,
    test_units: Annotated[int, typer.Option(min=100, help="Test units of each problem.")] = 4000,
    few_groups: Annotated[bool, typer.Option("--few-groups", help="Problems of three to five people.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables as Markdown.")] = False,
) -> None:
    """Compare fusion strategies, and rules that choose among them, on drawn problems."""
    seeds = range(first, first + draws)
    with ProcessPoolExecutor(jobs) as pool:
        solved = pool.map(partial(solve, test_units=test_units, few_groups=few_groups), seeds)
        results = list(tqdm(solved, "problems", total=draws, disable=None))
    counts = {size: sum(result.size == size for result in results) for size in SIZES}
    print(f"{draws} problems, seeds {first} to {seeds[-1]}; by units: {counts}\n")
    for judge in JUDGES:
        title = f"{NAMES[judge]} on test, x 1000, better than `{POOL}` by"
        columns: dict[str, list[Result]] = {"all": results}
        columns |= {size: [result for result in results if result.size == size] for size in SIZES}
        columns |= {kind: [result for result in results if result.kind == kind] for kind in KINDS}
        _print_table(title, {name: _differences(part, judge) for name, part in columns.items()}, markdown)
    print("best, and what is not a standard error behind it, by units and kind of problem:")
    for line in leaders(results):
        print(f"  {line}")


def solve(seed: int, test_units: int, few_groups: bool = False) -> Result:
    """Fuse the problem of a seed in all ways, and let all rules choose."""
    problem = draw(seed, test_units, few_groups)
    units, oof = problem.units, problem.units.splits == "oof"
    heads = {f"{HEAD}{name}": Single(h) for h, name in enumerate(units.heads)}
    log_p, _, _ = cross_fit(units, {**heads, **STRATEGIES}, seed)
    test = {name: values[~oof] for name, values in log_p.items()}
    worth = {judge: goodness_of(units.where(~oof), test, judge) for judge in JUDGES}
    known, on_oof = units.where(oof), {name: values[oof] for name, values in log_p.items()}
    chosen = {
        f"{choice} by {NAMES[metric]}": choose(known, on_oof, metric, choice)
        for choice in ("best", "one_se", "likeliest")
        for metric in get_args(Metric)
    }
    default = choose(known, on_oof, Fusion().metric, Fusion().choice)
    decided = decide(units, log_p[default], "macro_f1", bootstrap=0).scores["test"]
    n = int(oof.sum())
    return Result(
        seed,
        problem.kind,
        next(name for name, (low, high) in SIZES.items() if low <= n < high),
        {
            judge: {name: each[name] for name in STRATEGIES}
            | {"best head": max(each[name] for name in heads)}
            | {rule: each[name] for rule, name in chosen.items()}
            | ({DECIDED: decided[judge]["value"]} if judge in decided else {})
            for judge, each in worth.items()
        },
    )


def _differences(results: list[Result], judge: str) -> dict[str, np.ndarray]:
    """Strategy or rule: how much better than the pool, (problems,)."""
    names = [name for name in results[0].worth[judge] if name != POOL] if results else []
    return {name: np.array([r.worth[judge][name] - r.worth[judge][POOL] for r in results]) for name in names}


def _print_table(title: str, columns: Mapping[str, Mapping[str, np.ndarray]], markdown: bool) -> None:
    names = list(columns["all"])
    cells = [
        [name, *(_mean(column[name]) if column and len(column[name]) > 1 else "-" for column in columns.values())]
        for name in names
    ]
    rows = [[title, *columns], *cells]
    if markdown:
        rows.insert(1, ["---"] * (len(columns) + 1))
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    else:
        print("\n".join(f"{row[0]:<50}" + "".join(f"{cell:>16}" for cell in row[1:]) for row in rows))
    print()


def _mean(differences: np.ndarray) -> str:
    half = 1.96 * differences.std(ddof=1) / len(differences) ** 0.5
    return f"{1000 * differences.mean():+.1f} ± {1000 * half:.1f}"


def leaders(results: list[Result]) -> Iterator[str]:
    """For each judge, size and kind: the best strategy on average, and those not a (paired) standard error behind."""
    for judge in JUDGES[:2]:
        for size in SIZES:
            for kind in KINDS:
                part = [result.worth[judge] for result in results if (result.size, result.kind) == (size, kind)]
                if len(part) < 3:
                    continue
                worth = {name: np.array([each[name] for each in part]) for name in STRATEGIES}
                best = max(worth, key=lambda name: float(worth[name].mean()))
                behind = {name: worth[best] - values for name, values in worth.items() if name != best}
                near = [n for n, d in behind.items() if d.mean() <= d.std(ddof=1) / len(part) ** 0.5]
                yield f"{NAMES[judge]}, {size}, {kind} ({len(part)}): {best}; {', '.join(near) or 'none'}"


if __name__ == "__main__":
    command(main)
