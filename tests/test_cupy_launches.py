"""Launches, copies and waits on CuPy are those of a table: see launches.py."""

from __future__ import annotations

import cuda_stand_in
import pytest

if not cuda_stand_in.is_installed():
    pytest.skip("counts are the stand-in's: python -m pytest -p cuda_stand_in", allow_module_level=True)

import launches

from benchmarks._case import Case
from tapegrad.testing._sample import Sample
from tapegrad.testing._samples import SAMPLES

TABLE = launches.table()


def check(row: launches.Row) -> None:
    name, *cells = row
    assert name in TABLE, f"no row for {name!r}: make the table again with {launches.COMMAND}"
    for what, now, then in zip(("forward, or eager", "backward, or compiled"), cells, TABLE[name], strict=True):
        assert now == then, (
            f"{name} ({what}): {now}; the table has {then}. If that is meant, make the table again with "
            f"{launches.COMMAND}, and look at the difference"
        )


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_operations(sample: Sample) -> None:
    check(launches.of_sample(sample))


@pytest.mark.parametrize("case", launches.cases(), ids=lambda case: f"{case.benchmark} {case.name}")
def test_programs(case: Case) -> None:
    check(launches.of_case(case))


def test_every_row_is_of_something() -> None:
    names = {s.name for s in SAMPLES} | {f"program {c.benchmark}: {c.name}" for c in launches.cases()}
    assert set(TABLE) == names
