"""Planning compiled programs: simplified, run together, stacked and merged, with the same values."""

from __future__ import annotations

import gc
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import backends
from tapegrad._compile.capture.graph import Tracer
from tapegrad._compile.plan import accumulate, fusion, stacking
from tapegrad._engine.dispatch import CaptureError
from tapegrad._program.ir import Fold, Node, Run, Scan, Stack
from tapegrad.backends._numpy.executor import tiling
from tapegrad.testing import SAMPLES, Sample

Step = Callable[..., Any]


@pytest.fixture
def small_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run small arrays together too, in blocks of a few elements and on threads."""
    monkeypatch.setattr(backends.Backend, "smallest_run", 2)
    monkeypatch.setattr(fusion, "FEWEST_ROWS", 2)
    monkeypatch.setattr(tiling, "TILE", 3)
    monkeypatch.setattr(tiling, "PARALLEL", 10)
    monkeypatch.setattr(stacking, "FEWEST", 2)
    monkeypatch.setattr(accumulate, "FEWEST", 2)


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def traced_arrays() -> set[int]:
    """Return the identities of all tracers there are."""
    return {id(o) for o in gc.get_objects() if issubclass(type(o), Tracer)}


def items(step: Any) -> list[Any]:
    """Return the names of the items of a compiled function's latest program."""
    return list(step._last.executor.program.nodes)


def ops(step: Any) -> list[str]:
    """Return the names of all operations of a program."""
    return [n.op for item in items(step) for n in (item.nodes if hasattr(item, "nodes") else [item])]


def flat(result: Any) -> Iterator[Any]:
    for x in result if isinstance(result, (tuple, list)) else [result]:
        if isinstance(x, (tuple, list)):
            yield from flat(x)
        else:
            yield x if x is None else x._array


def both(step: Step, *args: Any, calls: int = 5, threads: int | None = None) -> tuple[list[Any], list[Any], Any]:
    """Return the results of an eager call and of the last of several compiled ones, and the compiled function."""
    compiled = tg.compile(step, threads=threads)
    for _ in range(calls):
        got = compiled(*args)
    return list(flat(step(*args))), list(flat(got)), compiled


def same(eager: list[Any], compiled: list[Any]) -> None:
    """Check that results are equal to the bit."""
    assert len(eager) == len(compiled)
    for a, b in zip(eager, compiled, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b, strict=True)


def close(eager: list[Any], compiled: list[Any], rtol: float = 1e-13) -> None:
    """Check that results differ by rounding only."""
    assert len(eager) == len(compiled)
    for a, b in zip(eager, compiled, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol * float(np.max(np.abs(a), initial=0)))


# -- values ------------------------------------------------------------------------------------------------


def total(out: Any) -> Any:
    """Return a sum over results with weights, None if nothing in it is recorded."""
    if isinstance(out, (tuple, list)):
        parts = [t for t in map(total, out) if t is not None]
        return sum(parts[1:], parts[0]) if parts else None
    if not isinstance(out, tg.Tensor) or not out.requires_grad:
        return None
    if "complex" in out.dtype.name:
        out = 0.7 * tg.real(out) + 0.3 * tg.imag(out)
    weights = np.cos(1.3 * np.arange(out.size)).reshape(out.shape)
    return tg.sum(out * tg.exp(0.1 * tg.tanh(out)) * tg.asarray(weights, dtype=out.dtype))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_every_sample_planned_for_blocks(small_plans: None, sample: Sample) -> None:
    xs = [tg.tensor(a, requires_grad=a.dtype.kind in "fc" and sample.order > 0) for a in sample.args]

    def step(*xs: tg.Tensor) -> Any:
        for x in xs:
            x.grad = None
        out = sample.f(*xs)
        loss = total(out)
        if loss is not None:
            loss.backward()
        results = out if isinstance(out, (tuple, list)) else [out]
        return [y.detach() for y in results if isinstance(y, tg.Tensor)], [x.grad for x in xs]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            eager, compiled, _ = both(step, *xs)
        except CaptureError as error:
            pytest.skip(f"not to be compiled: {error}")
    close(eager, compiled)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_give_what_whole_arrays_give(threads: int) -> None:
    x = tg.tensor(normal(1000, 700), requires_grad=True)
    gain = tg.tensor(normal(700, seed=1), requires_grad=True)

    def step() -> Any:
        x.grad = gain.grad = None
        z = x - tg.mean(x, axis=-1, keepdims=True)
        y = gain * z / tg.sqrt(tg.mean(z * z, axis=-1, keepdims=True) + 1e-5)
        p = tg.softmax(tg.gelu(y) + tg.relu(y), axis=-1)
        tg.sum(p * tg.where(x > 0, p, 0.5)).backward()
        return p.detach(), x.grad, gain.grad

    eager, compiled, function = both(step, threads=threads)
    same(eager[:2], compiled[:2])
    close(eager[2:], compiled[2:], 1e-6)  # a sum over rows has another order
    assert any(isinstance(item, Run) for item in items(function))


def test_replay_is_deterministic() -> None:
    x = tg.tensor(normal(300, 1000), requires_grad=True)

    @tg.compile
    def step() -> Any:
        x.grad = None
        loss = tg.sum(tg.tanh(x) * x)
        loss.backward()
        return loss, x.grad

    step(), step(), step()
    first = list(flat(step()))
    for _ in range(5):
        same(first, list(flat(step())))


# -- work that is saved --------------------------------------------------------------------------------------


def test_what_is_computed_twice_is_computed_once() -> None:
    x = tg.tensor(normal(5))
    eager, compiled, step = both(lambda: tg.exp(x) * tg.sin(x) + tg.exp(x) * tg.sin(x))
    same(eager, compiled)
    assert ops(step) == ["exp", "sin", "multiply", "add"]


def test_what_nobody_reads_is_not_computed() -> None:
    x = tg.tensor(normal(5))

    def step() -> Any:
        tg.exp(x)
        return tg.sin(x)

    _, _, compiled = both(step)
    assert ops(compiled) == ["sin"]


def test_constants_are_computed_once_and_products_with_one_not_at_all() -> None:
    x = tg.tensor(normal(5), requires_grad=True)

    def step() -> Any:
        y = x * 1 * tg.ones(5, dtype=tg.float32) + tg.sqrt(tg.full(5, 4.0, dtype=tg.float32))
        return tg.grad(lambda v: tg.sum(v * x.detach()))(y.detach()), y.detach()

    eager, compiled, function = both(step)
    same(eager, compiled)
    assert ops(function) == ["add"]


def test_what_is_written_over_all_of_an_array_takes_its_place() -> None:
    w = tg.tensor(normal(3, 3))

    def step() -> None:
        w[...] = w - 0.25 * tg.sin(w)

    compiled, expected = tg.compile(step), np.asarray(w).copy()
    for _ in range(5):
        compiled()
        expected = expected - np.float32(0.25) * np.sin(expected)
        np.testing.assert_array_equal(w, expected)
    assert ops(compiled) == ["sin", "multiply", "subtract"]


def test_what_others_get_too_is_copied_where_it_is_written() -> None:
    v, w, u = (tg.tensor(normal(3, 3, seed=i)) for i in range(3))
    x = tg.tensor(normal(3, 3, seed=3))

    def step() -> Any:
        made = tg.sin(x)
        v[...] = made
        w[...] = made
        u[...] = x.T
        w[:, :1] = 0
        return made

    compiled = tg.compile(step)
    for _ in range(5):
        made = compiled()
        expected = np.sin(np.asarray(x))
        np.testing.assert_array_equal(made, expected)
        np.testing.assert_array_equal(v, expected)
        np.testing.assert_array_equal(u, np.asarray(x).T)
        expected[:, :1] = 0
        np.testing.assert_array_equal(w, expected)
        for changed in (v, w, u, made):  # none of them is another
            others = [np.asarray(y).copy() for y in (v, w, u, made, x) if y is not changed]
            changed += 1
            for y, before in zip((y for y in (v, w, u, made, x) if y is not changed), others, strict=True):
                np.testing.assert_array_equal(y, before)
        x += 0.125


def test_what_is_taken_from_one_value_is_that_value() -> None:
    x, rows = tg.tensor(normal(5, 3)), tg.asarray([0, 3, 3, 1])

    def step() -> Any:
        picked = tg.take(tg.full((5, 3), 2.0, dtype=tg.float32), rows, axis=0)
        out = tg.zeros((5, 3), dtype=tg.float32)
        out[rows] += -(picked + picked)  # no row twice, as in NumPy
        return out * x

    eager, replayed, compiled = both(step)
    same(eager, replayed)
    assert not {"take", "add", "negative"} & set(ops(compiled))


def test_rows_that_are_added_to_twice_are_looked_up_once() -> None:
    x, y = (tg.tensor(normal(6, 2, 3, seed=i), requires_grad=True) for i in range(2))

    def step(rows: tg.Tensor) -> Any:
        x.grad = y.grad = None
        tg.sum(tg.take(x, rows, axis=0) * tg.take(y, rows, axis=0) * 0.5).backward()
        return x.grad, y.grad

    compiled = tg.compile(step)
    for rows in ([0, 5, 5, 1], [2, 2, 2, 2], [0, 1, 2, 3], [-1, 5, 0, -6], [1, 0, 1, 0]):
        given = tg.asarray(rows)
        same(list(flat(step(given))), list(flat(compiled(given))))
    called = [f.__name__ for f, _ in compiled._last.executor.code if hasattr(f, "__name__")]
    assert called.count("add_rows") == 2
    with pytest.raises(IndexError, match="out of bounds"):
        compiled(tg.asarray([0, 1, 2, 6]))


def test_negative_zero_is_no_zero() -> None:
    x = tg.tensor([1.0, -1.0])
    eager, compiled, _ = both(lambda: (x * 0.0 + -0.0, x * -0.0 + 0.0, x * -0.0))
    for a, b in zip(eager, compiled, strict=True):
        np.testing.assert_array_equal(np.signbit(a), np.signbit(b))


# -- groups --------------------------------------------------------------------------------------------------


def test_a_choice_between_the_same_value_twice() -> None:
    x = tg.tensor(normal(4, 3))
    mask = tg.asarray(normal(4, 3, seed=1) > 0)
    eager, compiled, _ = both(lambda: tg.where(mask, tg.sin(x), tg.sin(x)) + 1)
    same(eager, compiled)


def test_a_choice_between_the_same_value_twice_in_a_run(small_plans: None) -> None:
    test_a_choice_between_the_same_value_twice()


def test_complex_products_of_one_element_are_rounded_alike() -> None:
    xs = [tg.tensor(np.exp(1j * normal(1, seed=i))) for i in range(7)]
    eager, compiled, _ = both(lambda: [tg.exp(x) * (x + 2j) * (x + 1j) + 1 for x in xs])
    same(eager, compiled)


def test_one_value_beside_what_it_is_broadcast_with() -> None:
    x = tg.tensor(normal(2, 1))
    eager, compiled, _ = both(lambda: tg.sin(x) * tg.full((1, 4), 2.0, dtype=tg.float32))
    same(eager, compiled)


def test_the_gradient_of_a_number_read_by_a_key_of_nothing() -> None:
    x = tg.tensor(normal(4))
    eager, compiled, _ = both(lambda: tg.grad(lambda s: s[()] * s)(tg.sum(x)))
    same(eager, compiled)


def test_an_optimiser_update_is_one_run_written_in_place() -> None:
    w = tg.tensor(normal(300, 400), requires_grad=True)
    m, v = tg.zeros_like(w.detach()), tg.zeros_like(w.detach())
    g = tg.tensor(normal(300, 400, seed=1))

    @tg.compile
    def step() -> None:
        with tg.no_grad():
            m.__imul__(0.9)
            m.__iadd__(0.1 * g)
            v.__imul__(0.99)
            v.__iadd__(0.01 * g * g)
            w.__isub__(0.001 * m / (tg.sqrt(v) + 1e-8))

    for _ in range(4):
        step()
    buffers = [id(x._array) for x in (w, m, v)]
    step()
    assert [type(item) for item in items(step)] == [Run]
    assert buffers == [id(x._array) for x in (w, m, v)]


def test_state_that_somebody_holds_is_not_written() -> None:
    w = tg.tensor(normal(4))

    @tg.compile
    def step() -> None:
        w.__iadd__(1.0)

    for _ in range(5):
        step()
    held, view = w.detach(), w.array
    was = held.tolist()
    step()
    assert held.tolist() == view.tolist() == was
    assert w.tolist() == [x + 1 for x in was]


def test_outputs_are_fresh() -> None:
    x = tg.tensor(normal(100, 1000))
    step = tg.compile(lambda: (tg.exp(x), tg.exp(x)[0], tg.reshape(tg.sin(x), (1000, 100)).T))
    results = [list(flat(step())) for _ in range(5)]
    kept = [[a.copy() for a in r] for r in results]
    step()
    for r, k in zip(results, kept, strict=True):
        same(r, k)
    assert not any(np.shares_memory(a, b) for a in results[3] for b in results[4])


def test_independent_operations_on_small_arrays_are_stacked() -> None:
    w, b = (tg.tensor(normal(8, seed=i), requires_grad=True) for i in range(2))
    x0 = tg.tensor(normal(8, seed=2))

    def step() -> Any:
        w.grad = b.grad = None
        x = x0
        for _ in range(40):
            x = tg.tanh(x * w + b)
        tg.sum(x).backward()
        return x.detach(), w.grad, b.grad

    eager, compiled, function = both(step)
    same(eager, compiled)
    kinds = [type(item) for item in items(function)]
    assert (kinds.count(Stack), kinds.count(Fold)) == (3, 2)
    assert kinds.count(Node) < 6 * 40


def test_what_a_stack_has_asked_for_is_done_once() -> None:
    def step(w: tg.Tensor, y: tg.Tensor) -> Any:
        total = tg.zeros(2)
        for i in range(12):
            w[...] = tg.sin(w) * 0.9
            s = tg.square(tg.tanh(w))
            total = y * s if i == 0 else total + s  # asks for all squares with the first
        return total

    w, eager = tg.tensor([0.5, 1.5]), tg.tensor([0.5, 1.5])
    y = tg.tensor([2.0, 3.0])
    compiled = tg.compile(lambda: step(w, y))
    for _ in range(5):
        np.testing.assert_array_equal(compiled(), step(eager, y), strict=True)
        np.testing.assert_array_equal(w, eager, strict=True)
    nodes = [n for item in items(compiled) for n in getattr(item, "nodes", [item])]
    assert any(isinstance(item, Stack) for item in items(compiled))
    assert len(nodes) == len(set(nodes))


def test_a_stack_of_what_results_are_views_of() -> None:
    xs = [tg.tensor(normal(3, seed=i)) for i in range(20)]

    def step() -> Any:
        made = [tg.sin(x) for x in xs]
        doubled = [y * y for y in made]
        return doubled[15][None], tg.sum(tg.stack(doubled))

    eager, compiled, function = both(step)
    same(eager, compiled)
    assert any(isinstance(item, Stack) for item in items(function))


def test_differences_of_neighbours_in_a_loop() -> None:
    xs = [tg.tensor(normal(3, seed=i)) for i in range(12)]

    def step() -> Any:
        made = [tg.sum(tg.sin(x)) for x in xs]
        apart = [b - a for a, b in pairwise(made)]
        return sum((tg.square(d) for d in apart), made[0])

    eager, compiled, _ = both(step)
    same(eager, compiled)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2,)])
def test_sums_of_a_loop_are_added_in_its_order(shape: tuple[int, ...]) -> None:
    x = tg.tensor(normal(*shape, seed=3))

    def step() -> Any:
        total = x
        for i in range(100):
            total = total + tg.sin(x * (i + 0.1))
        return total

    eager, compiled, function = both(step)
    same(eager, compiled)
    assert any(isinstance(item, Fold) for item in items(function))


def test_a_sum_of_negative_zeros_is_one() -> None:
    x = tg.tensor([0.0, -0.0])

    def step() -> Any:
        total = -x
        for i in range(20):
            total = total + tg.sin(x * -(i + 1))
        return total

    eager, compiled, function = both(step)
    assert any(isinstance(item, Fold) for item in items(function))
    np.testing.assert_array_equal(np.signbit(compiled[0]), np.signbit(eager[0]))


def test_the_chain_of_cotangents_of_a_loop_is_one_call() -> None:
    w, b = (tg.tensor(normal(8, seed=i), requires_grad=True) for i in range(2))

    def step() -> Any:
        w.grad = b.grad = None
        x = tg.asarray(normal(8, seed=2))
        for _ in range(30):
            x = tg.tanh(x * w + b)
        tg.sum(x).backward()
        return w.grad, b.grad

    eager, replayed, compiled = both(step)
    same(eager, replayed)
    scans = [item for item in items(compiled) if isinstance(item, Scan)]
    assert [len(item.nodes) for item in scans] == [59]  # 30 slopes, and 29 times w
    assert sum(isinstance(item, Node) for item in items(compiled)) <= 96  # else the forward pass, link by link
    compiled.program.profile()  # each item alone, on arrays of its own
    assert "scan" in str(compiled.program)


def test_results_along_a_chain_can_be_read() -> None:
    x = tg.tensor(normal(5))

    def step() -> Any:
        total, product, seen = x, x + 2.0, []
        for i in range(12):
            total = tg.exp(x * (0.1 * i)) + total
            product = product * tg.cos(x + i)
            seen += [total, product]
        return seen[3], seen[8], tg.stack(seen[2::4]), total, product

    eager, replayed, compiled = both(step)
    same(eager, replayed)
    assert sum(isinstance(item, Scan) for item in items(compiled)) == 2


def test_a_chain_that_is_read_on_its_way_stays() -> None:
    x = tg.tensor(normal(5))

    def step() -> Any:
        y, w = x, x * 0.5
        for _ in range(20):
            w = w * tg.tanh(w)
            y = y * w
        return y

    eager, replayed, compiled = both(step)
    same(eager, replayed)
    w_chain = [n for n in items(compiled) if isinstance(n, Node) and n.op == "multiply"]
    assert len(w_chain) >= 20


def test_a_chain_of_its_own_results_stays() -> None:
    x = tg.tensor(normal(5))

    def step() -> Any:
        a, b = x, x + 0.5
        for _ in range(20):
            a, b = b, a * b
        return b

    eager, replayed, compiled = both(step)
    same(eager, replayed)
    assert not any(isinstance(item, Scan) for item in items(compiled))


@pytest.mark.parametrize("seed", range(40))
def test_random_loops_are_stacked_to_the_bit(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(stacking, "FEWEST", 2)
    monkeypatch.setattr(accumulate, "FEWEST", 2)
    rng = np.random.default_rng(seed)
    w = [tg.tensor(normal(3, seed=i), requires_grad=True) for i in range(3)]
    choices, length = rng.integers(0, 9, size=6), int(rng.integers(3, 14))

    def step() -> Any:
        for p in w:
            p.grad = None
        x, y, kept = w[0] * 0.5, w[1] + 1.0, []
        for i in range(length):
            for c in choices:
                if c == 0:
                    x = x * w[2]
                elif c == 1:
                    x = tg.tanh(x) + y
                elif c == 2:
                    y = y * tg.cos(w[0] + i)
                elif c == 3:
                    y = y + x
                elif c == 4:
                    x, y = y, x
                elif c == 5:
                    y = tg.sin(w[1] * i) * y
                elif c == 6:
                    kept.append(y)
                elif c == 7:
                    x, y = y, x * y
                else:
                    x = tg.exp(w[2] * (0.01 * i)) + x
        loss = tg.sum(x * y) + sum((tg.sum(k) for k in kept), tg.zeros(()))
        loss.backward()
        return [loss.detach(), x.detach(), *[k.detach() for k in kept], *[p.grad for p in w]]

    with np.errstate(all="ignore"):  # some overflow
        eager, replayed, _ = both(step)
    same(eager, replayed)


def test_products_in_a_loop_are_merged() -> None:
    x = tg.tensor(normal(12, 3, 5))
    wx, wh = (tg.tensor(0.3 * normal(*shape, seed=i), requires_grad=True) for i, shape in enumerate([(5, 4), (4, 4)]))

    def step() -> Any:
        wx.grad = wh.grad = None
        h = tg.zeros((3, 4), dtype=tg.float32)
        for t in range(12):
            h = tg.tanh(x[t] @ wx + h @ wh)
        tg.sum(h * h).backward()
        return h.detach(), wx.grad, wh.grad

    eager, compiled, function = both(step)
    close(eager, compiled, 1e-5)
    assert ops(function).count("matmul") == 1 + 12 + 11 + 2  # of all x; forward, backward in h; two gradients


def test_buffers_are_reused() -> None:
    x = tg.tensor(normal(1000))

    def step() -> Any:
        y = x
        for _ in range(50):
            y = tg.sin(y) * 1.1
        return y

    eager, compiled, function = both(step)
    same(eager, compiled)
    assert function._last.executor.nbytes <= 2 * x._array.nbytes


def test_nothing_is_kept_alive() -> None:
    gc.collect()
    before = traced_arrays()
    x = tg.tensor(normal(10), requires_grad=True)
    step = tg.compile(lambda: tg.grad(lambda v: tg.sum(tg.sin(v)))(x.detach()))
    for _ in range(4):
        step()
    gc.collect()
    assert traced_arrays() <= before


def test_views_keep_what_they_are_views_of(small_plans: None) -> None:
    x, y = (tg.tensor(normal(6, 4, seed=i)) for i in range(2))

    def step() -> Any:
        a = tg.sin(x)
        flat = tg.reshape(a, (6, 2, 2))
        b = tg.exp(flat) + tg.reshape(y, (6, 2, 2))
        c = tg.cos(y) * 2.0
        turned = tg.where(y > 0, tg.flip(c), c)
        both = tg.sin(y)
        return b, a * c, turned, both + tg.flip(both, axis=0), tg.sum(a * c), tg.sum(tg.where(y > 0, a, c) * a)

    eager, compiled, _ = both(step)
    close(eager, compiled, 1e-6)


def test_state_read_as_a_whole_is_not_written_row_by_row(small_plans: None) -> None:
    def make() -> Any:
        w = tg.tensor(normal(8))

        def step() -> Any:
            spread = tg.sin(w) + 0.0 * tg.reshape(w, (8, 1)) + tg.ones((8, 8), dtype=tg.float32) * w
            w.__imul__(0.5)
            return spread + tg.reshape(w, (8, 1))

        return step

    eager, compiled = make(), tg.compile(make())
    for _ in range(6):
        same(list(flat(eager())), list(flat(compiled())))


def test_what_is_read_by_rows_and_as_a_whole(small_plans: None) -> None:
    x, y = tg.tensor(normal(4, 4)), tg.tensor(normal(4, 4, 4, seed=1))
    eager, compiled, function = both(lambda: (tg.sin(x) * x, tg.maximum(x, y) * x))
    same(eager, compiled)
    assert isinstance(items(function)[0], Run)


def test_small_parts_are_read_where_they_lie() -> None:
    x = tg.tensor(normal(3, 4, 2), requires_grad=True)
    y = tg.tensor(normal(3))

    def step() -> Any:
        x.grad = None
        a, b, c, d = tg.unstack(tg.sin(x), axis=1)
        p, q, r = tg.unstack(y)
        loss = tg.sum(tg.reshape(a, (6,)) * tg.reshape(b @ tg.permute_dims(c, (1, 0)), (9,))[:6] * p) + q * r * d[0, 0]
        loss.backward()
        return loss.detach(), x.grad, d.detach()

    eager, compiled, function = both(step)
    close(eager, compiled, 1e-6)
    assert "unstack" in ops(function)


def test_a_replay_needs_a_fraction_of_the_memory() -> None:
    x = tg.tensor(normal(300_000), requires_grad=True)

    def step() -> Any:
        x.grad = None
        loss = tg.sum(tg.tanh(tg.sin(x) * tg.exp(-x * x) + x))
        loss.backward()
        return x.grad

    compiled = tg.compile(step)
    for _ in range(5):
        compiled()
    peaks = []
    for f in (step, compiled):
        f()
        gc.collect()
        tracemalloc.start()
        f()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.4 * peaks[0]
