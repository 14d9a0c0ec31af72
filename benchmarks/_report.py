"""The report of a run: table, targets, JSON file and chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._case import Target
from benchmarks._columns import Column, hand_of
from benchmarks._measure import Row
from benchmarks._text import aligned, short


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Return one table: a row a case, in each cell the median, the spread, the ratio to hand-written."""
    labels = [c.label for c in columns if any(c.label in row.samples for row in rows)]
    head = ["median ± interquartile range (ratio to hand)", "unit", *labels]
    lines = [[_name(row), row.case.unit, *[_cell(row, label, columns) for label in labels]] for row in rows]
    return aligned([head, *lines])


def targets(rows: Sequence[Row]) -> str:
    """Return the table of requests and measurements; requests without one are left out."""
    lines = [["target", "at most", "measured", ""]]
    for row, target, measured in _measured_targets(rows):
        against = f"{row.case.benchmark} {target.row}" if target.row else target.against
        relation = f" {'over' if target.difference else 'to'} {against}" if target.against else ""
        lines.append(
            [
                f"{_name(row)}: {target.column}{relation}",
                f"{target.limit:.3g}x" if _kind(target) == "ratio" else f"{target.limit:.3g} {row.case.unit}",
                f"{measured:.3g}",
                "pass" if measured <= target.limit else "FAIL",
            ]
        )
    return aligned(lines) if len(lines) > 1 else ""


def as_json(rows: Sequence[Row], columns: Sequence[Column], **about: Any) -> dict[str, Any]:
    """Return everything measured, with the notes `about` it, as JSON knows it."""
    return {
        **about,
        "rows": [
            {
                "benchmark": row.case.benchmark,
                "case": row.case.name,
                "unit": row.case.unit,
                "one_thread": row.case.one_thread,
                "columns": {
                    label: {
                        "median": row.median(label),
                        "spread": row.spread(label),
                        "ratio": ratio(row, label, columns),
                        "samples": len(samples),
                    }
                    for label, samples in row.samples.items()
                },
                "notes": row.notes,
            }
            for row in rows
        ],
        "targets": [
            {
                "row": _name(row),
                "column": target.column,
                "against": target.row or target.against,
                "kind": _kind(target),
                "at_most": target.limit,
                "measured": measured,
                "passed": measured <= target.limit,
            }
            for row, target, measured in _measured_targets(rows)
        ],
    }


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write the report to a file."""
    path.write_text(json.dumps(report, indent=2) + "\n")


def chart(rows: Sequence[Row], columns: Sequence[Column], path: Path) -> bool:
    """Draw the ratios to hand-written as bars into a PNG file; return False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    colors = {c.label: f"C{i}" for i, c in enumerate(c for c in columns if c.library != "hand")}
    names = list(dict.fromkeys(row.case.benchmark for row in rows))
    groups = [[row for row in rows if row.case.benchmark == name] for name in names]
    heights = [sum(len(row.samples) + 1 for row in group) for group in groups]
    figure = Figure(figsize=(9, 1.5 + 0.14 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    handles: dict[str, Any] = {}
    for panel, name, group in zip(panels, names, groups, strict=True):
        at = 0
        ticks = []
        for row in group:
            labels = [label for label in row.samples if label in colors]
            ticks.append(at + (len(labels) - 1) / 2)
            for label in labels:
                times = ratio(row, label, columns)
                # From 1, where the hand-written program is: slower to the right, faster to the left.
                handles[label] = panel.barh(at, times - 1, 1, left=1, color=colors[label])
                panel.bar_label(handles[label], [f" {short(times)} "], fontsize=6)
                at += 1
            at += 1
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_title(name, loc="left", fontsize=10)
        panel.set_yticks(ticks, [row.case.name for row in group], fontsize=8)
        panel.set_xscale("log")
        panel.margins(x=0.1)
        panel.invert_yaxis()
    panels[-1].set_xlabel("time, or memory, as a multiple of the hand-written program's")
    shown = [label for label in colors if label in handles]
    figure.legend([handles[label] for label in shown], shown, loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=150)
    return True


def ratio(row: Row, label: str, columns: Sequence[Column]) -> float:
    """Return the cost of a column, as a multiple of the program by hand for its kind of device."""
    column = next(c for c in columns if c.label == label)
    return row.ratio(label, hand_of(column, list(row.samples)))


def _measured_targets(rows: Sequence[Row]) -> list[tuple[Row, Target, float]]:
    by_name = {_name(row): row for row in rows}
    found = []
    for row in rows:
        for target in row.case.targets:
            other = by_name.get(f"{row.case.benchmark} {target.row}") if target.row else row
            if other is None or target.column not in row.samples:
                continue
            if target.against is None:
                measured = row.median(target.column)
            elif target.against not in other.samples:
                continue
            elif other is not row:
                measured = row.median(target.column) / other.median(target.against)
            elif target.difference:
                measured = row.excess(target.column, target.against)
            else:
                measured = row.ratio(target.column, target.against)
            found.append((row, target, measured))
    return found


def _kind(target: Target) -> str:
    return "itself" if target.against is None else "difference" if target.difference else "ratio"


def _name(row: Row) -> str:
    return f"{row.case.benchmark} {row.case.name}"


def _cell(row: Row, label: str, columns: Sequence[Column]) -> str:
    if label not in row.samples:
        return "-"
    median, spread = row.median(label), row.spread(label)
    library = next(c.library for c in columns if c.label == label)
    times = "" if library == "hand" else f" ({short(ratio(row, label, columns))}x)"
    return f"{short(median)} ±{short(spread, 2)}{times}"
