"""Heads with weights of eight bits: how much smaller, faster and worse they are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion.exporting import checking
from fusion.exporting.standalone import Stack
from fusion.serving.bundle import Bundle
from heads.exporting.graph import EXACT
from heads.metrics.printed import interval, without_nan
from heads.metrics.scores import difference, evaluate

INT8, ROUNDS = "int8", 30


@dataclass(frozen=True)
class Table:
    rows: list[dict[str, Any]]
    note: str
    change: str = "largest change of p"  # what of each row is called largest_change

    @property
    def plain(self) -> dict[str, Any]:
        return {"note": self.note, "rows": without_nan(self.rows)}

    @property
    def markdown(self) -> list[str]:
        head = f"| graph | KiB | int8 KiB | times as fast | macro-F1 | int8 | difference [95 %] | {self.change} |"
        lines = [head, "|---" * 8 + "|"]
        for row in self.rows:
            scores = ["", "", ""]
            if row["macro_f1"] is not None:
                scores = [
                    f"{row['macro_f1']:.3f}",
                    f"{row['int8_macro_f1']:.3f}",
                    f"{row['difference']['value']:+.3f} {interval(row['difference'], '+.3f')}",
                ]
            cells = [
                row["graph"],
                f"{row['bytes'] / 1024:.0f}",
                f"{row['int8_bytes'] / 1024:.0f}",
                f"{row['speed']:.2f}",
                *scores,
                f"{row['largest_change']:.3f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return [*lines, "", self.note]


def quantise(folder: Path, graphs: Sequence[str], operators: list[str] | None = None) -> None:
    """Write each graph once more below ``int8/``: products, LSTMs and tables with eight-bit weights, what
    they are multiplied with as it comes. Linear models stay as they are, and so do trees; what would grow has none.

    Args:
        operators: of ONNX, whose weights are rounded; None: all that can be.
    """
    import logging

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().addFilter(lambda record: "pre-processing" not in record.getMessage())  # said of every model
    for path in graphs:
        small = folder / INT8 / path
        small.parent.mkdir(parents=True, exist_ok=True)
        exact = [node.name for node in onnx.load(folder / path).graph.node if node.name.startswith(EXACT)]
        quantize_dynamic(
            *(folder / path, small, operators),
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=exact,
        )
        if small.stat().st_size >= (folder / path).stat().st_size:  # nothing in it that could be smaller
            small.unlink()


def table(bundle: Bundle, folder: Path, given: checking.Material) -> Table:
    """Size, speed and score of each head and of all together, as they are and quantised, on the same units."""
    units, sources = checking.described(given), checking.features(bundle, given)
    stacks = [Stack(folder), Stack(folder, int8=True)]
    both = [checking.answers(stack, units, sources) for stack in stacks]
    labels, groups = [unit.label for unit in given.units], [unit.group for unit in given.units]
    rows = []
    for path in both[0][0]:
        feed = stacks[0].feed(stacks[0].graphs[path], units[: checking.BATCH], sources)
        times = least_seconds([stack.sessions[path] for stack in stacks], feed)
        small = folder / INT8 / path
        if not small.is_file():
            times[1] = times[0]
        sizes = [place.stat().st_size for place in (folder / path, small if small.is_file() else folder / path)]
        rows.append(
            row_of(path, sizes, times, [said[path] for said, _ in both], labels, groups, bundle, given.labelled)
        )
    total = [sum(row[name] for row in rows) for name in ("bytes", "int8_bytes", "seconds", "int8_seconds")]
    fused = [answer for _, answer in both]
    rows.append(row_of("all, fused", total[:2], total[2:], fused, labels, groups, bundle, given.labelled))
    note = (
        f"On {given.said}; speed on a batch of {min(checking.BATCH, len(units))} units, the fastest of {ROUNDS} turns."
    )
    return Table(rows, note)


def least_seconds(sessions: Sequence[Any], feed: dict[str, np.ndarray], rounds: int = ROUNDS) -> list[float]:
    """The least seconds of each, turn by turn: what else the machine does meets both, and counts for neither."""
    found: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.run(None, feed)
    for _ in range(rounds):
        for session, own in zip(sessions, found, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            own.append(time.perf_counter() - start)
    return [min(own) for own in found]


def row_of(
    graph: str,
    sizes: Sequence[int],
    times: Sequence[float],
    log_p: Sequence[np.ndarray],
    labels: Sequence[str],
    groups: Sequence[str],
    bundle: Bundle,
    labelled: bool,
) -> dict[str, Any]:
    """A row of the table, from two answers (units, classes) to the same units, as logarithms."""
    there = np.flatnonzero(~np.isnan(log_p[0]).any(axis=1)).tolist()
    p, small = (np.exp(each[there].astype(float)) for each in log_p)
    p, small = (each / each.sum(axis=1, keepdims=True) for each in (p, small))
    row = {
        "graph": graph,
        "bytes": sizes[0],
        "int8_bytes": sizes[1],
        "seconds": times[0],
        "int8_seconds": times[1],
        "speed": times[0] / times[1],
        "largest_change": float(np.abs(p - small).max(initial=0.0)),
        "units": len(there),
        **dict.fromkeys(("macro_f1", "int8_macro_f1", "difference")),
    }
    if labelled and len(there):
        own, of_groups = [labels[i] for i in there], [groups[i] for i in there]
        scores = [evaluate(own, each, bundle.classes, of_groups, 0)["macro_f1"]["value"] for each in (p, small)]
        paired = difference(own, small, p, bundle.classes, of_groups)["macro_f1"]
        row |= {"macro_f1": scores[0], "int8_macro_f1": scores[1], "difference": paired}
    return row
