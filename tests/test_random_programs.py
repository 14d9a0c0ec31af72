"""Two thousand random programs, differentiated, compiled and mapped in several ways: see random_programs.py."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import random_programs
from places import Place

import tapegrad as tg
from tapegrad._engine import rules as _rules

CHUNK = 100


@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_all_ways_agree(first: int) -> None:
    found = list(random_programs.failures(range(first, first + CHUNK)))
    assert not found, "; ".join(f"{seed} {name}: {text[:300]}" for seed, name, text in found[:5])


def test_programs_are_as_promised() -> None:
    """They are the same for the same seed, of all kinds of lines, and few of them are refused anywhere."""
    programs = [random_programs.made(seed) for seed in range(120)]
    assert [p.steps for p in programs] == [random_programs.made(seed).steps for seed in range(120)]
    kinds = Counter(s.kind for p in programs for s in p.steps)
    assert set(kinds) == set(random_programs.KINDS)
    assert min(kinds.values()) > 8
    arrays = [a for p in programs for a in p.args]
    assert {a.dtype.name for a in arrays} == set(random_programs.DTYPES)
    assert sum(a.size == 0 for a in arrays) > 10
    assert sum(a.ndim == 0 for a in arrays) > 10
    assert sum(len(p.steps) for p in programs) > 4 * len(programs)
    random_programs.counts.clear()
    list(random_programs.failures(range(2000, 2030), lambda seed: ["compiled", "mapped"]))
    counts = random_programs.counts
    assert counts["compiled right"] > 2 * counts["compiled refused"]
    assert counts["mapped right"] > 4 * counts["mapped refused"]


def wrong(xp: Any, t: Any, x: Any) -> Any:
    return t * xp.sin(x)


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    sin = _rules.OPERATIONS["sin"]
    monkeypatch.setattr(sin, "vjps", (_rules.bind(wrong, ("x",)),))
    assert float(tg.grad(tg.sin)(0.5)) == np.sin(0.5)
    found = {name for _, name, _ in random_programs.failures(range(30), lambda seed: ["differences"])}
    assert found == {"differences"}


# -- what they found ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [tg.tril, tg.triu])
@pytest.mark.parametrize("shape", [(), (0,), (3,)])
def test_triangles_are_of_matrices(xp: Place, f: Any, shape: tuple[int, ...]) -> None:
    """NumPy makes a matrix of a vector, whose gradient was refused by an assertion."""
    with pytest.raises(ValueError, match=r"tri[lu]: it takes matrices, with two axes or more, not shape"):
        f(xp.tensor(np.ones(shape)))


@pytest.mark.parametrize("name", ["fft", "ifft", "rfft", "irfft", "hfft", "ihfft"])
def test_transforms_of_nothing_are_of_zeros(xp: Place, name: str) -> None:
    """NumPy 2.4 reads memory that is not there for irfft and hfft."""
    if xp.device == "jax:cpu":
        pytest.skip("JAX refuses it")
    f = getattr(tg.fft, name)
    for shape, axis in (((0,), 0), ((2, 0), -1), ((0, 3), 0)):
        x = xp.tensor(np.zeros(shape, dtype=float if name in ("rfft", "ihfft") else complex))
        for _ in range(3):
            y = f(x, n=4, axis=axis)
            assert not np.any(xp.values(tg.abs(y)))
            g = tg.grad(lambda x, axis=axis: tg.sum(tg.abs(f(x, n=4, axis=axis) + 1.0)))(x)
            assert g.shape == shape
