"""Messages of mypy for a user's program: none for a right one, and the line of each mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).resolve().parent.parent
RIGHT = """
from collections.abc import Callable
from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad import Tensor


@tg.compile(threads=1)
def step(v: Tensor) -> Tensor:
    return tg.sum(v * v)


@tg.compile
def scaled(v: Tensor, k: int) -> Tensor:
    return v * k


class Model:
    def __init__(self) -> None:
        self.w = tg.tensor([1.0], requires_grad=True)

    @tg.compile
    def loss(self, x: Tensor) -> Tensor:
        return tg.sum(self.w * x)


def f(v: Tensor, name: str = "") -> Tensor:
    return tg.sum(v)


x = tg.ones(3)
y: Tensor = step(x)
y = scaled(x, 2) + Model().loss(x) + tg.checkpoint(f)(x)
y = tg.vmap(f)(x)
print(step.program, tg.grad(f)(x, name="a"), tg.value_and_grad(f)(x)[0].shape)
anything: dict[str, Callable[..., Any]] = {"a": tg.grad(lambda a: a * 2), "b": tg.vmap(lambda a: a), "c": tg.hessian(f)}
print(tg.grad(lambda a: tg.sum(a**2))(np.ones(3)), tg.jacobian(lambda a, b: a * b)(x, x), tg.compile(lambda a: a)(x))
tg.jvp(tg.grad(f), (x,), (x,))
if x.ndim and x.T.shape and (x @ x > 0):
    x[0] = 1.0
"""
WRONG = """
import tapegrad as tg
from tapegrad import Tensor


@tg.compile
def scaled(v: Tensor, k: int) -> Tensor:
    return v * k


def f(v: Tensor) -> Tensor:
    return tg.sum(v)


x = tg.ones(3)
scaled(x, nothing=1)  # error: call-arg
scaled(x, "a")  # error: arg-type
tg.grad(f)("a")  # error: arg-type
tg.vmap(f)(x, x)  # error: call-arg
s: str = tg.checkpoint(f)(x)  # error: assignment
v: Tensor = x.sum()  # error: attr-defined
n: int = "text"  # error: assignment
tg.sum(x, 0)  # error: misc|call-arg
tg.sum(x, dim=0)  # error: call-arg
tg.nothing(x)  # error: attr-defined
"""


def found(code: str, folder: Path) -> list[tuple[int, str]]:
    """Return the lines that mypy complains of, each with the name of the complaint."""
    (folder / "user.py").write_text(code)
    options = ["--strict", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache' / 'users'}", "--follow-imports=silent"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "user.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = re.findall(r"user.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)
    assert lines or "Success" in done.stdout, done.stdout
    return [(int(n), kind) for n, kind in lines]


def test_a_right_program(tmp_path: Path) -> None:
    assert found(RIGHT, tmp_path) == []


def test_each_mistake_is_seen(tmp_path: Path) -> None:
    expected = [(n, line.partition("# error: ")[2]) for n, line in enumerate(WRONG.split("\n"), 1) if "# error" in line]
    got = dict(found(WRONG, tmp_path))
    assert sorted(got) == [n for n, _ in expected]
    for n, kinds in expected:
        assert got[n] in kinds.split("|"), (n, got[n])
