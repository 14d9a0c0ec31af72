"""The report: steps that ran, with their machine, steps that failed or are missing, and the targets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks._text import aligned, short
from benchmarks.gpu._records import Record, read
from benchmarks.gpu._targets import latest, results

FILE = "report.txt"
FIGURES = dict.fromkeys(("row", "memory", "product"), ("name", "column")) | {"gpt": ("precision", "column")}
"""Kind of record -> the fields that say which case and which library."""


def write(folder: Path) -> str:
    """Write the report of a folder's records, and return it."""
    text = report(read(folder))
    (folder / FILE).write_text(text + "\n")
    return text


def report(records: Sequence[Record]) -> str:
    """Return the report of records; of a step that ran more than once it takes the last."""
    parts = [_about(records), _steps(records), _failures(records), *_figures(records), _targets(records)]
    return "\n\n".join(part for part in parts if part)


def _about(records: Sequence[Record]) -> str:
    found = latest(records, "environment")
    if not found:
        return "no environment was recorded: run the phase environment first"
    about = found[-1]
    lines = [f"{key}: {about[key]}" for key in ("gpu", "driver", "date", "commit", "cpu", "cores")]
    lines.append(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    if about["stand_in"]:
        lines.append("No driver answers: this is CuPy on a stand-in for CUDA, and no time here means anything.")
    elif about["tiny"]:
        lines.append("A tiny run says that everything runs; no time here means anything.")
    else:
        name = re.sub(r"[^a-z0-9]+", "-", str(about["gpu"]).lower()).strip("-")
        lines.append(f"commit as: benchmarks/results/gpu/{name}-{about['date'][:10]}-{about['commit']}")
    return "\n".join(lines)


def _steps(records: Sequence[Record]) -> str:
    lines = [["step", "seconds", "limit", "outcome"]]
    for record in latest(records, "step", "phase", "step"):
        name = f"{record['phase']}: {record['step']}"
        lines.append([name, f"{record['seconds']:.1f}", f"{record['limit']:g}", record["outcome"]])
    return aligned(lines) if len(lines) > 1 else ""


def _failures(records: Sequence[Record]) -> str:
    lines = [f"FAIL {r['name']}: {r['detail']}" for r in latest(records, "fact", "name") if not r["passed"]]
    lines += [f"FAILED {r['test']}: {r['why']}" for r in latest(records, "failure", "test")]
    for kind, names in {"cost": ("operation", "what"), "bandwidth": ("name",), **FIGURES}.items():
        for record in latest(records, kind, *names):
            if record.get("failed"):
                lines.append(f"FAILED {kind}, {', '.join(str(record[n]) for n in names)}: {record['failed']}")
    lines += [f"MISSING {r['what']}: {r['fix']}" for r in latest(records, "missing", "what")]
    lines += [f"skipped: {r['what']}: {r['why']}" for r in latest(records, "skipped", "what")]
    return "\n".join(lines)


def _figures(records: Sequence[Record]) -> Iterator[str]:
    """Yield a table for each kind of figure: a line a case, in the columns those of the libraries."""
    for kind, title, unit in (
        ("gpt", "ms a step at GPT-2's width", "ms"),
        ("gpt", "MB at most at GPT-2's width", "mb"),
        ("row", "ms a step", "ms"),
        ("memory", "MB at most above the inputs", "mb"),
        ("product", "TFLOP/s", "tflops"),
    ):
        name, column = FIGURES[kind]
        found = [record for record in latest(records, kind, name, column) if unit in record]
        cells = {(record[name], record[column]): short(record[unit]) for record in found}
        names, columns = ([*dict.fromkeys(record[key] for record in found)] for key in (name, column))
        lines = [[each, *(cells.get((each, label), "-") for label in columns)] for each in names]
        if lines:
            yield aligned([[title, *columns], *lines])


def _targets(records: Sequence[Record]) -> str:
    lines = [["target on an H100", "limit", "measured", ""]]
    for result in results(records):
        if result.measured is None:
            lines.append([result.name, result.limit, "not measured", ""])
        else:
            verdict = "-" if result.timed and not _times_count(records) else "pass" if result.passed else "miss"
            lines.append([result.name, result.limit, short(result.measured), verdict])
    return aligned(lines)


def _times_count(records: Sequence[Record]) -> bool:
    """Say whether times mean anything: not those of tiny sizes, nor of a stand-in."""
    return not any(about["tiny"] or about["stand_in"] for about in latest(records, "environment"))
