"""Ordinary programs give the same on each device, with nothing changed but the string of the default device."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import why_not

import tapegrad as tg

TESTS = Path(__file__).parent
PROGRAMS = sorted(p.stem for p in (TESTS / "programs").glob("*.py") if p.stem != "__init__")
DEVICES = ("cpu", "torch:cpu", "jax:cpu", "strict:device1", "cuda")


def run(name: str) -> dict[str, Any]:
    result: dict[str, Any] = importlib.import_module(f"programs.{name}").run()
    return result


@cache
def expected(name: str) -> dict[str, Any]:
    """Return the result of a program without the name of a device."""
    return run(name)


def check(found: dict[str, Any], name: str, device: str) -> None:
    wanted = expected(name)
    assert found.pop("device") == device
    assert found.keys() == wanted.keys() - {"device"}
    for key, value in found.items():
        np.testing.assert_allclose(value, wanted[key], rtol=1e-9, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("device", DEVICES)
def test_one_string_carries_a_program(device: str, name: str) -> None:
    why = why_not(device)
    if why is not None:
        pytest.skip(why)
    assert expected(name)["device"] == "cpu"
    with tg.default_device(device):
        check(run(name), name, tg.zeros(()).device)


def test_the_variable_carries_a_program() -> None:
    code = "from programs.recommender import run; import json; r = run(); print(json.dumps([r['last'], r['device']]))"
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "TAPEGRAD_DEVICE": "strict:device1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    last, device = eval(done.stdout)
    assert device == "strict:device1"
    np.testing.assert_allclose(last, expected("recommender")["last"], rtol=1e-9)


def test_there_are_ten() -> None:
    assert len(PROGRAMS) == 10
