"""What tables from elsewhere lack: short names for their models, and the groups that their unit ids may hide."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from configs import UserError, one_line
from configs.tables import shortened
from fusion.tables.reading import Table

LONGEST_NAME = 30  # characters
BETWEEN = r"_./\s-"  # what parts of an id or of a name stand between
RUN = re.compile(r"(?P<d>\d+)|(?P<u>[A-Z]+)|(?P<l>[^\W\dA-Z_]+)|(?P<o>[\W_]+)")
RUNS = {"d": r"\d+", "u": "[A-Z]+", "l": r"[^\W\dA-Z_]+", "o": r"[\W_]+"}
MOST_PARTS = 3  # of an id, that are proposed
SHARED = 0.8  # of the units, that have a group's value with another one
ONE_FOR_ALL = 0.9  # a value of more units tells nobody apart
OF_LABEL = 0.5  # of the way from chance to certainty that a part tells the label: it is the label in other words
COUNTS_DOWN = -0.7  # correlation of a running number with how often it occurs
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


# --- names ---


def names_of(paths: Sequence[Path]) -> dict[str, Path]:
    """Names of at most ``LONGEST_NAME`` characters: by file, by folder where files share a name (as
    ``predictions.parquet`` does), else by what of the paths is not the same for all.

    Raises:
        UserError: a file is named twice.
    """
    if len(set(paths)) < len(paths):
        raise UserError("--predictions: the same file is named twice")
    whole = [[*path.absolute().parent.parts[1:], path.stem] for path in paths]
    ways = ([parts[-1] for parts in whole], [(parts[-2:-1] or [""])[0] for parts in whole])
    for names in (*ways, ["/".join(parts) for parts in _apart(whole)]):
        if len(set(names)) == len(paths) and not {"predictions", ""} & set(names):
            break
    if max(map(len, names)) > LONGEST_NAME:
        split = [re.findall(rf"[^{BETWEEN}]+|[{BETWEEN}]+", name) for name in names]
        names = ["".join(parts).strip("_-. /") or name for parts, name in zip(_apart(split), names, strict=True)]
    half = (LONGEST_NAME - 3) // 2
    names = [name if len(name) <= LONGEST_NAME else f"{name[:half]}...{name[-half:]}" for name in names]
    if len(set(names)) < len(names):
        names = [f"{i + 1} {name[: LONGEST_NAME - 5]}" for i, name in enumerate(names)]
    return dict(zip(names, paths, strict=True))


def _apart(lists: Sequence[list[str]]) -> list[list[str]]:
    """Without what all begin with, and without what all end with, as long as something is left of each."""
    result = [list(parts) for parts in lists]
    for end in (0, -1):
        while min(map(len, result)) > 1 and len({parts[end] for parts in result}) == 1:
            for parts in result:
                del parts[end]
    return result


# --- groups ---


def grouped(tables: dict[str, Table], pattern: str) -> dict[str, Table]:
    """Tables whose groups are the part of each unit's id that the first group of a regular expression matches.

    Raises:
        UserError: no regular expression, or one without a group; ids that it does not match; a table that has groups;
            every unit would be a group of its own.
    """
    option = f"--group-from {shortened(pattern)}"
    try:
        with warnings.catch_warnings(action="ignore"):  # of syntax that may change its meaning
            expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"{option}: not a regular expression ({one_line(error)})") from error
    if not expression.groups:
        raise UserError(f"{option}: no group in it: put the part of unit_id that names the group into (...)")
    result: dict[str, Table] = {}
    groups: dict[str, str] = {}
    for head, table in tables.items():
        if table.rows["group"].null_count() < len(table.rows):
            raise UserError(f"{table.path}: has a column group: leave out --group-from")
        ids = table.rows["unit_id"].to_list()
        found = {unit: match[1] for unit in ids if (match := expression.search(unit)) and match[1]}
        without = [unit for unit in ids if unit not in found]
        if without:
            raise UserError(
                f"{option}: finds nothing in {len(without)} of {len(ids)} unit ids of {table.path}, such as "
                f"{shortened(without[0])}"
            )
        groups |= found
        rows = table.rows.with_columns(group=pl.Series([found[unit] for unit in ids], dtype=pl.String))
        result[head] = replace(table, rows=rows)
    if len(set(groups.values())) == len(groups):
        raise UserError(f"{option}: gives every unit a group of its own")
    return result


@dataclass(frozen=True)
class Part:
    """A part of every unit's id."""

    what: str  # in words
    pattern: str  # a regular expression whose first group it is
    values: list[str]  # of each unit

    def is_found(self, ids: Sequence[str]) -> bool:
        """Whether the expression finds the values, as it may not in ids with line breaks."""
        matches = (re.search(self.pattern, unit) for unit in ids)
        return [match and match[1] for match in matches] == self.values


def proposal(unit_ids: Sequence[str], labels: Sequence[int]) -> str:
    """A line on the parts of ids that may name the speaker or the conversation; nothing where no part repeats.

    Left out are parts that (nearly) all units share or that hardly two share, those that tell the label (file names
    often say it), and running numbers.

    Args:
        labels: class numbers.
    """
    of_unit = dict(zip(unit_ids, labels, strict=True))  # an id may stand in several splits
    ids, classes = list(of_unit), np.array(list(of_unit.values()))
    found: list[Part] = []
    telling = False  # whether a part is the label in other words: what holds it is no group
    for part in _parts(ids):
        counts = Counter(part.values)
        shared = sum(count for count in counts.values() if count > 1) / len(ids)
        if (
            len(counts) < 2
            or 2 * len(counts) > len(ids)
            or shared < SHARED
            or max(counts.values()) > ONE_FOR_ALL * len(ids)
        ):
            continue
        if _tells(part.values, classes):
            telling = True
        elif not (found and _runs_on(counts)) and not (part.what.startswith("all") and telling):
            found.append(part)
    many = [part for part in found if len(set(part.values)) > 2] or found
    most = sorted(many[1:], key=lambda part: -len(set(part.values)))[: MOST_PARTS - 1]
    chosen = [part for part in many if part in (*many[:1], *most) and part.is_found(ids)]
    if not chosen:
        return ""
    said = []
    for part in chosen:
        values = sorted(set(part.values))
        shown = ", ".join(shortened(value, 24) for value in values[:2]) + (", ..." if len(values) > 2 else "")
        said.append(f"{part.what} takes {len(values)} values ({shown}; --group-from '{part.pattern}')")
    one = "that" if len(said) == 1 else "one of these"
    return (
        f"Of unit_id, {', '.join(said)}: if {one} is the speaker or the conversation, give a column group, or add the "
        "option"
    )


def _parts(ids: Sequence[str]) -> Iterator[Part]:
    """What ids can be cut into, from their beginning to their end, and last all but the last part."""
    inside, between = f"[^{BETWEEN}]+", f"[{BETWEEN}]+"
    cut = [re.split(between, unit) for unit in ids]
    if not ids or not all(map(all, cut)):
        return  # an id begins or ends with a separator
    fewest, most = min(map(len, cut)), max(map(len, cut))
    if fewest == most == 1:
        yield from _runs(ids)
    for place in range(fewest) if fewest == most > 1 else [0] * (fewest > 1):
        before = f"(?:{inside}{between}){{{place}}}" if place > 1 else f"{inside}{between}" * place
        name = f"the {_place(place, most)} of {'its' if fewest < most else most} parts"
        yield Part(name, f"^{before}({inside})", [parts[place] for parts in cut])
    if fewest < most and fewest > 1:
        yield Part("the last of its parts", f"({inside})$", [parts[-1] for parts in cut])
    if most > 2 and fewest > 1:
        head = [unit[: re.search(f"{between}{inside}$", unit).start()] for unit in ids]  # type: ignore[union-attr]
        yield Part("all before the last part", f"^(.+?){between}{inside}$", head)


def _runs(ids: Sequence[str]) -> Iterator[Part]:
    """Of ids without separators: runs of digits, of capitals, of other letters, where all have the same ones."""
    runs = [list(RUN.finditer(unit)) for unit in ids]
    kinds = {tuple(str(run.lastgroup) for run in each) for each in runs}
    if len(kinds) > 1:
        return
    (kind,) = kinds
    for place in range(len(kind) if len(kind) > 1 else 0):
        pattern = "^" + "".join(RUNS[each] for each in kind[:place]) + f"({RUNS[kind[place]]})"
        name = f"the {_place(place, len(kind))} of {len(kind)} runs of digits or letters"
        yield Part(name, pattern, [each[place][0] for each in runs])


def _place(place: int, of: int) -> str:
    return "last" if place == of - 1 else PLACES[place] if place < len(PLACES) else f"{place + 1}th"


def _tells(values: Sequence[str], labels: np.ndarray) -> bool:
    """Whether a part that takes few values tells the label."""
    numbers = {value: i for i, value in enumerate(dict.fromkeys(values))}
    codes = np.array([numbers[value] for value in values])
    if len(numbers) > 2 * len(np.unique(labels)):
        return False

    def right(truth: np.ndarray) -> float:
        counts = np.zeros((len(numbers), labels.max() + 1))
        np.add.at(counts, (codes, truth), 1)
        return float(counts.max(axis=1).sum() / len(truth))

    chance = right(np.random.default_rng(0).permutation(labels))
    return chance < 1 and (right(labels) - chance) / (1 - chance) > OF_LABEL


def _runs_on(counts: Counter[str]) -> bool:
    """Whether values are running numbers: the higher, the fewer units have it."""
    numbers = [int(match[0]) for value in counts if (match := re.search(r"[0-9]{1,9}$", value))]
    if len(set(numbers)) < max(3, len(counts)) or len(set(counts.values())) == 1:
        return False
    return float(np.corrcoef(numbers, list(counts.values()))[0, 1]) < COUNTS_DOWN
