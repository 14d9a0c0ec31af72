"""`python -m benchmarks.gradbench --suite PATH`: time our functions beside the suite's own tools, one thread.

Prints one table of medians, and writes table.txt, results.json and results.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gradbench import MODULES
from benchmarks.gradbench._inputs import Case, cases
from benchmarks.gradbench._peers import Evaluation, Missing, cpp, difference, pytorch

CPP, TORCH, OURS = "C++ by hand", "PyTorch tool", "tapegrad "
LONG = 2.0  # seconds: a tool that takes longer for one run is not run again


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return 0, or 1 if a result is not valid against the C++ tool's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradbench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODULE", help=f"any of {', '.join(MODULES[1:])}; default: all")
    parser.add_argument("--suite", type=Path, help="a checkout of the suite; without it, our column only")
    parser.add_argument("--device", default="cpu", help="a tapegrad device")
    parser.add_argument("--compile", action="store_true", help="a column of compiled functions too, timed on replays")
    parser.add_argument("--seconds", type=float, default=0.3, help="to spend at least on each cell, three times")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "gradbench")
    options = parser.parse_args(argv)
    from benchmarks._machine import keep_freed_memory, machine, versions
    from benchmarks._measure import held_to
    from benchmarks._report import write_json

    keep_freed_memory()
    busy = f"load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else "load unknown"
    tools = _tools(options.device, options.suite, options.compile)
    columns = list(tools)
    rows = []
    with held_to(1):
        for case in cases(options.tiny, options.suite):
            if options.names and case.module not in options.names:
                continue
            print(f"{case.module} {case.name} ...", file=sys.stderr, flush=True)
            rows.append(_measure(case, tools, options.seconds))
    notes = [
        "median time to gradient in ms, one thread; (ratio of ours to that tool"
        + ("; then of ours compiled, timed on replays)" if options.compile else ")"),
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


def _tools(device: str, suite: Path | None, compiled: bool) -> dict[str, Tool]:
    """Return the programs to measure side by side, by column: ours first."""
    from benchmarks.gradbench._compiled import Compiler
    from benchmarks.gradbench.run import functions

    def own(case: Case, runs: dict[str, float], compiler: Compiler | None = None) -> Evaluation:
        function = functions(case.module)[case.function]
        how = partial(compiler, case.module, refuse=Missing) if compiler else None
        output, timings = function.evaluate(case.given | runs, device, how)
        return json.loads(json.dumps(output)), timings

    tools: dict[str, Tool] = {f"{OURS}{device}": own}
    if compiled:
        tools[f"{OURS}{device} compiled"] = partial(own, compiler=Compiler(kept=1))
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
                notes.append(
                    f"{label}: {case.module} {case.name}: {why}" if ours(label) else f"{label}: {case.module}: {why}"
                )
                continue
            found = [t["nanoseconds"] / 1e9 for t in timings if t["name"] == "evaluate"]
            samples.setdefault(label, []).extend(found)
    golden = outputs.get(CPP)
    error = max(difference(outputs[k], golden) for k in outputs if ours(k)) if golden is not None else None
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
    from benchmarks._text import aligned

    lines = [["evaluation", *columns, *(["off by"] if CPP in columns else [])]]
    for row in rows:
        times = row["milliseconds"]
        cells = [_beside(times, label, [k for k in columns if ours(k)]) for label in columns]
        if CPP in columns:
            cells.append("-" if row["difference"] is None else f"{row['difference']:.0e}")
        lines.append([f"{row['module']} {row['case']}", *cells])
    return aligned(lines).split("\n")


def _beside(times: dict[str, float], label: str, own: list[str]) -> str:
    """Return the time in a column; for another's tool also the ratio of each of our columns to it."""
    if label not in times:
        return "-"
    if ours(label):
        return _short(times[label])
    ratios = [f"{_short(times[k] / times[label])}x" if k in times else "-" for k in own]
    return f"{_short(times[label])} ({', '.join(ratios)})"


def ours(label: str) -> bool:
    """Say whether a column is one of ours."""
    return label.startswith(OURS)


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
    height = 0.84 / max(len(columns), 3)
    for i, label in enumerate(columns):
        at = [
            (k + (i - (len(columns) - 1) / 2) * height, row["milliseconds"][label])
            for k, row in enumerate(rows)
            if label in row["milliseconds"]
        ]
        panel.barh([y for y, _ in at], [x for _, x in at], height, label=label)
    panel.set_yticks(range(len(rows)), [f"{row['module']} {row['case']}" for row in rows], fontsize=8)
    panel.set_xscale("log")
    panel.invert_yaxis()
    panel.set_xlabel("time to gradient, ms")
    panel.legend()
    figure.savefig(path, dpi=150)
    return True


if __name__ == "__main__":
    sys.exit(main())
