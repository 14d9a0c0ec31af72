"""`python -m benchmarks.gradbench --suite PATH`: time our functions beside the suite's own tools, one thread.

Prints one table of medians, and writes table.txt, results.json and results.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gradbench import MODULES
from benchmarks.gradbench._inputs import Case, cases
from benchmarks.gradbench._peers import Evaluation, Missing, cpp, difference, pytorch

CPP, TORCH = "C++ by hand", "PyTorch tool"
LONG = 2.0  # seconds: a tool that takes longer for one run is not run again


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return 0, or 1 if a result is not valid against the C++ tool's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradbench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODULE", help=f"any of {', '.join(MODULES[1:])}; default: all")
    parser.add_argument("--suite", type=Path, help="a checkout of the suite; without it, our column only")
    parser.add_argument("--device", default="cpu", help="a tapegrad device")
    parser.add_argument("--seconds", type=float, default=0.3, help="to spend at least on each cell, three times")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "gradbench")
    options = parser.parse_args(argv)
    from benchmarks._machine import keep_freed_memory, machine, versions
    from benchmarks._measure import held_to
    from benchmarks._report import write_json

    keep_freed_memory()
    busy = f"load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else "load unknown"
    ours = f"tapegrad {options.device}"
    rows = []
    with held_to(1):
        for case in cases(options.tiny, options.suite):
            if options.names and case.module not in options.names:
                continue
            print(f"{case.module} {case.name} ...", file=sys.stderr, flush=True)
            rows.append(_measure(case, _tools(ours, options.device, options.suite), options.seconds))
    columns = [ours] + ([TORCH, CPP] if options.suite else [])
    notes = [
        "median time to gradient in ms, one thread; (ratio of ours to that tool)",
        f"{machine()['cpu']}, {machine()['cores']} cores, {busy}",
        *dict.fromkeys(note for row in rows for note in row["notes"]),
    ]
    text = "\n".join([*_table(rows, columns), "", *[f"- {note}" for note in notes]])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.txt").write_text(text + "\n")
    report = {
        "machine": machine(),
        "versions": versions(),
        "tiny": options.tiny,
        "notes": notes,
        "columns": columns,
        "rows": rows,
    }
    write_json(report, options.out / "results.json")
    if not _chart(rows, columns, options.out / "results.png"):
        print("- no chart: matplotlib is not installed (pip install 'tapegrad[examples]')")
    return int(any(row["valid"] is False for row in rows))


Tool = Callable[[Case, dict[str, float]], Evaluation]


def _tools(ours: str, device: str, suite: Path | None) -> dict[str, Tool]:
    from benchmarks.gradbench.run import functions

    def own(case: Case, runs: dict[str, float]) -> Evaluation:
        output, timings = functions(case.module)[case.function].evaluate(case.given | runs, device)
        return json.loads(json.dumps(output)), timings

    tools: dict[str, Tool] = {ours: own}
    if suite is not None:
        path = suite.resolve()
        tools[TORCH] = lambda case, runs: pytorch(path, case, runs)
        tools[CPP] = lambda case, runs: cpp(path, case, runs)
    return tools


def _measure(case: Case, tools: dict[str, Tool], seconds: float) -> dict[str, Any]:
    """Return the row of a case: three rounds, in each of which every tool gets its turn."""
    samples: dict[str, list[float]] = {}
    outputs: dict[str, Any] = {}
    notes: list[str] = []
    for turn in range(3):
        for label, tool in tools.items():
            if turn and (label not in samples or min(samples[label]) > LONG):
                continue
            try:
                outputs[label], timings = tool(case, {"min_runs": 1, "min_seconds": seconds})
            except Missing as why:
                notes.append(f"{label}: {case.module}: {why}")
                continue
            found = [t["nanoseconds"] / 1e9 for t in timings if t["name"] == "evaluate"]
            samples.setdefault(label, []).extend(found)
    ours = next(iter(tools))
    error = difference(outputs[ours], outputs[CPP]) if CPP in outputs else None
    return {
        "module": case.module,
        "case": case.name,
        "function": case.function,
        "milliseconds": {label: 1e3 * median(found) for label, found in samples.items()},
        "samples": {label: len(found) for label, found in samples.items()},
        "difference": error,
        "valid": None if error is None else error <= 1e-4,
        "notes": notes,
    }


def _table(rows: list[dict[str, Any]], columns: list[str]) -> list[str]:
    from benchmarks._report import aligned

    lines = [["evaluation", *columns, *(["off by"] if CPP in columns else [])]]
    for row in rows:
        times = row["milliseconds"]
        cells = [_short(times[columns[0]])]
        cells += [_beside(times, label, columns[0]) for label in columns[1:]]
        if CPP in columns:
            cells.append("-" if row["difference"] is None else f"{row['difference']:.0e}")
        lines.append([f"{row['module']} {row['case']}", *cells])
    return aligned(lines).split("\n")


def _beside(times: dict[str, float], label: str, ours: str) -> str:
    return f"{_short(times[label])} ({_short(times[ours] / times[label])}x)" if label in times else "-"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _chart(rows: list[dict[str, Any]], columns: list[str], path: Path) -> bool:
    """Draw the times as bars into a PNG file; return False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 1.5 + 0.45 * len(rows)), layout="constrained")
    panel = figure.subplots()
    for i, label in enumerate(columns):
        at = [
            (k + (i - 1) * 0.28, row["milliseconds"][label])
            for k, row in enumerate(rows)
            if label in row["milliseconds"]
        ]
        panel.barh([y for y, _ in at], [x for _, x in at], 0.28, label=label)
    panel.set_yticks(range(len(rows)), [f"{row['module']} {row['case']}" for row in rows], fontsize=8)
    panel.set_xscale("log")
    panel.invert_yaxis()
    panel.set_xlabel("time to gradient, ms")
    panel.legend()
    figure.savefig(path, dpi=150)
    return True


if __name__ == "__main__":
    sys.exit(main())
