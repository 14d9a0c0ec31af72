"""The same tapegrad program on several devices, eager and compiled: `python -m benchmarks --compare cpu cuda`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any

import tapegrad as tg
from benchmarks._case import Case
from benchmarks._check import TOLERANCE, calls_of, check
from benchmarks._columns import Column, first_line, full_precision, tapegrad_at
from benchmarks._compare_report import chart, table
from benchmarks._compared import Compared, compiled
from benchmarks._machine import machine, versions
from benchmarks._measure import Row, ready, sample
from benchmarks._memory import peak_memory
from benchmarks._report import write_json


def present(devices: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the devices that are here, and why the others are not."""
    found, missing = [], {}
    for device in dict.fromkeys(devices):
        try:
            tg.zeros(1, dtype=tg.float32, device=device)
        except Exception as error:  # of as many kinds as there are libraries
            missing[device] = first_line(error)
        else:
            found.append(device)
    return found, missing


def programs(names: Sequence[str], tiny: bool) -> list[Case]:
    """Return the cases to compare: whole steps, timed in ms."""
    cases = [case for name in names for case in import_module(f"benchmarks.{name}").cases(tiny)]
    whole = [case for case in cases if not case.memory and not case.first and "tapegrad" not in case.uncompiled]
    return [replace(case, unit="ms", per=1, targets=()) for case in whole]


def compare(case: Case, devices: Sequence[str], repeat: int, threads: int, tiny: bool) -> Compared:
    """Run and time one program on all devices; disagreement is measured, not an error."""
    columns = [column for device in devices for column in tapegrad_at(device, device, True)]
    row = Row(case)
    with ready(row, columns, threads) as steps:
        seen = check(case, steps, calls_of(case, columns), tolerance=inf)
        sample(row, steps, seen, repeat)
    found = Compared(row, seen.off)
    for column in columns:
        if column.label in row.samples:
            _add_memory(found, column, tiny)
    return found


def _add_memory(found: Compared, column: Column, tiny: bool) -> None:
    try:
        found.memory[column.label] = peak_memory(found.row.case, column, tiny)
    except RuntimeError as error:
        found.row.notes.append(f"{found.name}: {column.label}: no peak memory ({first_line(error)})")


def as_json(results: Sequence[Compared], devices: Sequence[str]) -> list[dict[str, Any]]:
    """Return the measurements of each program, as JSON knows them."""

    def of(result: Compared, label: str) -> dict[str, Any] | None:
        row = result.row
        if label not in row.samples:
            return None
        return {
            "median": row.median(label),
            "spread": row.spread(label),
            "samples": len(row.samples[label]),
            "peak_memory": result.memory.get(label),
            "off": result.off[label],
        }

    return [
        {
            "benchmark": result.row.case.benchmark,
            "case": result.row.case.name,
            "one_thread": result.row.case.one_thread,
            "devices": {
                device: {
                    "eager": of(result, device),
                    "compiled": of(result, compiled(device)),
                    "speed_up": result.speed_up(device),
                }
                for device in devices
            },
            "notes": result.row.notes,
        }
        for result in results
    ]


def run(names: Sequence[str], wanted: Sequence[str], repeat: int, threads: int, tiny: bool, out: Path) -> int:
    """Compare, print the table, write it with results.json and results.png.

    Returns 0; 1 if the results of two devices differ too much, 2 if no device is here.
    """
    devices, missing = present(wanted)
    absent = list(missing.values())
    if not devices:
        print("\n".join(absent), file=sys.stderr)
        return 2
    full_precision()
    results = []
    for case in programs(names, tiny):
        print(f"{case.benchmark} {case.name} ...", file=sys.stderr, flush=True)
        results.append(compare(case, devices, repeat, threads, tiny))
    about = machine()
    notes = absent + [note for result in results for note in result.row.notes]
    apart = [result.name for result in results if not max(result.off.values()) <= TOLERANCE]
    notes += [f"{name}: the results differ by more than {TOLERANCE:g}" for name in apart]
    if tiny:
        notes.append("a tiny run says that everything runs, and nothing about speed")
    lines = [f"{key}: {value}" for key, value in about.items()]
    lines += [", ".join(f"{package} {version}" for package, version in versions().items()), ""]
    lines += [table(results, devices), *[f"- {note}" for note in notes]]
    text = "\n".join(lines)
    print(text)

    out.mkdir(parents=True, exist_ok=True)
    (out / "table.txt").write_text(f"{text}\n")
    report = {
        "machine": about,
        "versions": versions(),
        "settings": {"tiny": tiny, "repeat": repeat, "threads": threads, "devices": devices, "missing": missing},
        "programs": as_json(results, devices),
        "notes": notes,
    }
    write_json(report, out / "results.json")
    if not chart(results, devices, out / "results.png"):
        print("- no chart: matplotlib is not installed (pip install 'tapegrad[examples]')")
    return 1 if apart else 0
