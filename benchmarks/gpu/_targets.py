"""The targets on an H100, with their measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.gpu._records import Record

COMPILED = "tapegrad cuda compiled"
PEER_COMPILERS = ("torch.compile", "jax.jit")
SHARES = {"elementwise": 0.85, "rows": 0.75}  # of the bandwidth of a copy
GPT_LIMIT = 1.2  # times torch.compile's


@dataclass(frozen=True)
class Result:
    """A target: its name, the limit in words, the number measured, None if it was not, and whether it is reached.

    timed: whether the number comes from a clock.
    """

    name: str
    limit: str
    measured: float | None
    passed: bool = False
    timed: bool = True


def results(records: Sequence[Record]) -> list[Result]:
    """Return all targets; a kind of which nothing was measured is one line."""
    found: list[Result] = []
    for title, kind in {
        "tests on CuPy": _tests(records),
        "eager cost": _costs(records),
        "bandwidth": _bandwidth(records),
        "compiled steps": _rows(records),
        "GPT of width 768 in bfloat16": _gpt(records),
    }.items():
        found += list(kind) or [Result(title, "", None)]
    return found


def latest(records: Sequence[Record], kind: str, *names: str) -> list[Record]:
    """Return the records of a kind, of those that agree in these fields only the last."""
    return list({tuple(r[name] for name in names): r for r in records if r["kind"] == kind}.values())


def _tests(records: Sequence[Record]) -> Iterator[Result]:
    for record in latest(records, "tests", "selection"):
        failed = record.get("failed", 0)
        name = f"tests: {record['selection']}, failures{'' if record['complete'] else ' before they were ended'}"
        yield Result(name, "none", failed, record["complete"] and failed == 0, timed=False)


def _costs(records: Sequence[Record]) -> Iterator[Result]:
    for record in latest(records, "cost", "operation", "what"):
        us = record["us"]
        if {"tapegrad", "torch"} <= us.keys():
            ratio = us["tapegrad"] / us["torch"]
            yield Result(f"cost: {record['operation']}, {record['what']}", "at most PyTorch's", ratio, ratio <= 1)


def _bandwidth(records: Sequence[Record]) -> Iterator[Result]:
    for record in latest(records, "bandwidth", "name"):
        least = SHARES.get(record["family"])
        if least is not None and "share" in record:
            share = record["share"]
            yield Result(f"bandwidth: {record['name']}", f"at least {least:.2f} of a copy", share, share >= least)


def _rows(records: Sequence[Record]) -> Iterator[Result]:
    rows: dict[str, dict[str, float]] = {}
    for record in latest(records, "row", "name", "column"):
        if "ms" in record:
            rows.setdefault(record["name"], {})[record["column"]] = record["ms"]
    for name, times in rows.items():
        peers = [time for label, time in times.items() if label.startswith(PEER_COMPILERS)]
        if COMPILED in times and peers:
            ratio = times[COMPILED] / min(peers)
            yield Result(f"compiled: {name}", "at most the best of torch.compile, jax.jit", ratio, ratio <= 1)


def _gpt(records: Sequence[Record]) -> Iterator[Result]:
    times = {r["column"]: r["ms"] for r in latest(records, "gpt", "precision", "column") if _in_bfloat16(r)}
    for label, time in times.items():
        if label.startswith("torch.compile") and COMPILED in times:
            ratio = times[COMPILED] / time
            yield Result("GPT in bfloat16", f"at most {GPT_LIMIT} of {label}", ratio, ratio <= GPT_LIMIT)


def _in_bfloat16(record: Record) -> bool:
    return record["precision"] == "bfloat16" and "ms" in record
