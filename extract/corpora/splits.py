"""Which rows belong together, and who goes into which split."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from configs import UserError

__all__ = ["connected", "make_splits", "natural"]


def connected(pairs: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Join conversations that share a group, directly or through others.

    Args:
        pairs: (conversation, group) for each clip; a conversation may have several groups, or None alone.

    Returns:
        Conversation -> name of its component: its smallest group, or ``conversation:ID`` where no group is known.
        The names do not depend on the order of the pairs.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def find(node: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]  # path halving
            node = parent[node]
        return node

    conversations: dict[str, None] = {}
    for conversation, group in pairs:
        conversations[conversation] = None
        here = find(("conversation", conversation))
        if group is not None:
            # The smaller root wins: "group" must win over "conversation", so swap the order of the kinds.
            there = find(("group", group))
            low, high = sorted((here, there), key=lambda node: (node[0] == "conversation", node[1]))
            parent[high] = low
    names = {}
    for conversation in conversations:
        kind, name = find(("conversation", conversation))
        names[conversation] = name if kind == "group" else f"conversation:{name}"
    return names


def make_splits(
    labels: Sequence[str], groups: Sequence[str], *, val: float, test: float, seed: int, finer: str | None = None
) -> dict[str, str]:
    """Draw train, val and test: whole groups, the same class shares in each, as far as the groups allow.

    Greedy: groups from the largest to the smallest, those of equal size in an order drawn from ``seed``; each goes
    where it brings the class counts closest to ``share * total`` (squared difference, each class weighed by one over
    its total, so that rare classes count). A wanted split that is left empty gets the group whose move
    costs least.

    Args:
        labels: class of each unit.
        groups: group of each unit, parallel to ``labels``. The result does not depend on the order of the units.
        val, test: wanted shares of the units; a share of 0 makes no such split.
        finer: the setting that makes enough smaller groups, for the error; None if there is none.

    Returns:
        Group -> ``train``, ``val`` or ``test``.

    Raises:
        UserError: there are fewer groups than wanted splits.
    """
    shares = {"train": 1 - val - test, "val": val, "test": test}
    wanted = [split for split, share in shares.items() if share > 0]
    names = sorted(set(groups))
    if len(names) < len(wanted):
        raise UserError(
            f"dataset.splits: {len(names)} group(s) cannot fill {len(wanted)} splits ({', '.join(wanted)}): a group "
            f"stays whole; set val or test to 0{f', or group by something finer: {finer}' if finer else ''}"
        )
    row, column = {name: i for i, name in enumerate(names)}, {name: i for i, name in enumerate(sorted(set(labels)))}
    counts = np.zeros((len(names), len(column)))  # (groups, classes)
    for (group, label), count in Counter(zip(groups, labels, strict=True)).items():
        counts[row[group], column[label]] = count
    weights = 1 / counts.sum(axis=0)
    missing = np.outer([shares[split] for split in wanted], counts.sum(axis=0))  # (splits, classes): still to come

    def costs(group: int) -> np.ndarray:
        """What each split's squared difference grows by if it takes the group. (splits,)"""
        return ((counts[group] ** 2 - 2 * counts[group] * missing) * weights).sum(axis=1)

    def leaving(group: int) -> float:
        """What the squared difference of the group's present split grows by if the group leaves it."""
        return float(((counts[group] ** 2 + 2 * counts[group] * missing[home[group]]) * weights).sum())

    shuffled = np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]
    home = np.zeros(len(names), dtype=int)
    for group in order:
        home[group] = costs(group).argmin()
        missing[home[group]] -= counts[group]
    for split in range(len(wanted)):
        if (home == split).any():
            continue
        movable = [group for group in order if (home == home[group]).sum() > 1]
        moved = min(movable, key=lambda group: costs(group)[split] + leaving(group))
        missing[home[moved]] += counts[moved]
        missing[split] -= counts[moved]
        home[moved] = split
    return {name: wanted[home[i]] for i, name in enumerate(names)}


def natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]
