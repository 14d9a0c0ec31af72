"""Two thousand random programs, differentiated, compiled and mapped in several ways: see random_programs.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import random_programs
import reduced_programs
from places import Place

import tapegrad as tg
from tapegrad._engine import rules
from tapegrad._transforms import forward
from tapegrad.ops._kinks import kink

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


# -- faults that were planted ----------------------------------------------------------------------------------------

Fault = Callable[[Any, Any], Any]


def off_by_one_percent(xp: Any, g: Any) -> Any:
    return 1.01 * g


def second_is_nan(xp: Any, g: Any) -> Any:
    return kink(xp, g, g, True)


def second_is_off(xp: Any, g: Any) -> Any:
    """Add a term that is 0, with a derivative that is not; both modes agree on it."""
    return g + 0.1 * (g - g.detach()) if type(g) is tg.Tensor else g


def reads_values(rule: Callable[..., Any]) -> bool:
    """Say whether a rule reads operands or the result, so that it has a derivative by them."""
    return not {"x", "x1", "x2", "out"}.isdisjoint(rules.reads(rule))


def planted(entry: Any, rule: Callable[..., Any]) -> Any:
    return entry if entry is None or entry[1] < 0 else (rule, *entry[1:])


@contextmanager
def rule_instead(name: str, i: int, rule: Callable[..., Any]) -> Iterator[None]:
    """Put another rule in the place of one of an operation: `rule(the rule, xp, t, *saved)`."""
    op = rules.OPERATIONS[name]
    entry = op.vjps[i]

    def other(xp: Any, t: Any, *saved: Any) -> Any:
        return rule(entry[0], xp, t, *saved)

    with pytest.MonkeyPatch.context() as patch:
        for o in (op, forward._constants(op)):  # forward mode has a copy, which it keeps
            patch.setattr(o, "vjps", (*op.vjps[:i], planted(entry, other), *op.vjps[i + 1 :]))
        yield


@pytest.fixture(scope="module")
def users() -> dict[tuple[str, int], list[int]]:
    """Return the programs in double precision that run each rule: of an operation, for one of its operands."""
    out: dict[tuple[str, int], list[int]] = {}
    ran: set[tuple[str, int]] = set()
    with ExitStack() as stack:
        stack.enter_context(random_programs.quiet())
        for name, op in rules.OPERATIONS.items():
            for i in range(len(op.vjps)):

                def noted(rule: Any, xp: Any, t: Any, *saved: Any, key: Any = (name, i)) -> Any:
                    ran.add(key)
                    return rule(xp, t, *saved)

                stack.enter_context(rule_instead(name, i, noted))
        for seed in range(200):
            p = random_programs.made(seed)
            if random_programs.single(p):
                continue
            ran.clear()
            tg.grad(random_programs.loss_of(p), tuple(range(len(p.args))))(*random_programs.wide(p.args))
            for key in ran:
                out.setdefault(key, []).append(seed)
    return {key: seeds for key, seeds in out.items() if len(seeds) > 4}


def missed(users: dict[tuple[str, int], list[int]], check: str, fault: Fault) -> set[str]:
    """Return the operations with a rule in which a fault is not found by any of the first programs that run it."""
    out = set()
    for (name, i), seeds in users.items():
        if check == "second" and not reads_values(rules.OPERATIONS[name].vjps[i][0]):
            continue

        def wrong(rule: Any, xp: Any, t: Any, *saved: Any) -> Any:
            return fault(xp, rule(xp, t, *saved))

        with rule_instead(name, i, wrong):
            tries = (next(random_programs.failures(range(s, s + 1), lambda seed: [check]), None) for s in seeds[:6])
            if not any(tries):
                out.add(name)
    return out


def test_a_wrong_rule_is_found(users: dict[tuple[str, int], list[int]]) -> None:
    assert len(users) > 50
    assert missed(users, "differences", off_by_one_percent) == set()


@pytest.mark.parametrize("fault", [second_is_nan, second_is_off])
def test_a_wrong_second_derivative_is_found(users: dict[tuple[str, int], list[int]], fault: Fault) -> None:
    assert missed(users, "second", fault) == set()


def test_programs_meet_kinks() -> None:
    """A slope that is NaN at 0 is not found at random points, but at kinks."""

    def without_subgradient(rule: Any, xp: Any, t: Any, x: Any) -> Any:
        return rule(xp, xp.where(x == 0, np.nan, t), x)

    with rule_instead("abs", 0, without_subgradient):
        assert not list(random_programs.failures(range(60), lambda seed: ["differences"]))
        assert any(random_programs.failures(range(300), lambda seed: ["kinks"]))


def test_a_program_that_fails_is_reduced(users: dict[tuple[str, int], list[int]]) -> None:
    made = (random_programs.made(seed) for seed in users["tanh", 0])
    with random_programs.quiet(), rule_instead("tanh", 0, lambda rule, *args: 1.1 * rule(*args)):
        p = next(p for p in made if reduced_programs.failure(p, "differences") is not None and len(p.steps) > 3)
        q = reduced_programs.reduced(p, "differences")
        text = "\n".join(reduced_programs.described(q))
    assert [s.kind for s in q.steps] == ["pointwise"]
    assert "getattr(tg, name)(x)  # float64" in text or "getattr(tg, name)(x)  # complex128" in text


# -- points where differences are hard -------------------------------------------------------------------------------


@dataclass(frozen=True)
class After(random_programs.Program):
    """Lines over a function of the only argument, which comes first, and the argument."""

    start: Callable[[Any], Any]

    def variables(self, *xs: Any) -> list[Any]:
        env = [self.start(xs[0]), *xs]
        for s in self.steps:
            env.append(s.run(self.choices, env))
        return env


def point(seed: int, n: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.15, 1.2, n) * rng.choice([-1.0, 1.0], n)


EQUAL: dict[str, Callable[[Any], Any]] = {
    "the spectrum of a real product": lambda x: tg.fft.ifftn(tg.linalg.outer(x, x[:3])),
    "complex numbers that are real": lambda x: tg.fft.ifft(tg.fft.fft(x)),
}


@pytest.mark.parametrize("start", EQUAL)
def test_no_line_jumps_at_numbers_equal_but_for_rounding(start: str) -> None:
    """An order of such numbers, or the sign of an imaginary part, is chance: differences across it are of jumps."""
    tried: Counter[str] = Counter()
    with random_programs.quiet():
        for kind in random_programs.KINDS:
            for seed in range(40):
                step = random_programs.Step(kind, 0, seed % 2, seed)
                p = After(seed, random_programs.Random, (point(seed, 6),), (step,), (2,), EQUAL[start])
                try:
                    if not random_programs.fine(p(tg.asarray(p.args[0]))[0]):
                        continue
                except random_programs.REFUSALS:
                    continue
                tried[kind] += 1
                assert (error := reduced_programs.failure(p, "differences")) is None, f"{kind} {seed}: {error}"
    assert min(tried.values()) > 10


STEEP: dict[str, Callable[[Any], Any]] = {
    "waves": lambda x: tg.sin(300.0 * x),
    "poles": lambda x: 1.0 / (1.1 + tg.sin(120.0 * x)),
    "corners": lambda x: tg.hypot(tg.sin(120.0 * x), tg.asarray(0.3)),
}


@pytest.mark.parametrize("check", ["differences", "second"])
@pytest.mark.parametrize("start", STEEP)
def test_steep_functions_are_compared_by_finer_steps(start: str, check: str) -> None:
    """Differences of a coarse step are off there, at all points; a wrong rule is found nevertheless."""
    ps = [After(s, random_programs.Random, (point(s, 3),), (), (0,), STEEP[start]) for s in range(6)]
    for p in ps:
        assert reduced_programs.failure(p, check) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_programs, "STEPS", random_programs.STEPS[:1])
        assert any(reduced_programs.failure(p, check) for p in ps)
    wrong = off_by_one_percent if check == "differences" else second_is_off
    with rule_instead("sin", 0, lambda rule, xp, t, *saved: wrong(xp, rule(xp, t, *saved))):
        for p in ps:
            assert type(reduced_programs.failure(p, check)) is random_programs.Disagreement


# -- findings -----------------------------------------------------------------------------------------------------


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


def test_a_jump_of_a_complex_number_is_apart_from_0_at_kinks_too() -> None:
    r = random_programs.AtKinks(0)
    assert random_programs.jump(r, tg.asarray([1.0])) == 0.0
    assert random_programs.jump(r, tg.asarray([1j])) > 0.0
    for check in random_programs.CHECKS.values():
        check(random_programs.made(10028474))
