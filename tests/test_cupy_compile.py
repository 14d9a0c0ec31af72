"""Compiled steps on CuPy: launches, copies, waits, and state that stays as it should."""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from places import why_not

import tapegrad as tg

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy
from cuda_stand_in import Counts, counted, is_installed

from tapegrad.backends._cupy.codegen.cuda_types import HELPERS
from tapegrad.backends._cupy.executor import kernel_groups, library_calls
from tapegrad.backends._cupy.executor import plan as plans
from tapegrad.backends._cupy.executor.executor import Executor

stand_in = pytest.mark.skipif(not is_installed(), reason="counts calls of the stand-in for CUDA")


def gelu(x: Any) -> Any:
    return 0.5 * x * (1.0 + tg.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def gelu_erf(x: Any) -> Any:
    return 0.5 * x * (1.0 + tg.special.erf(x * 0.7071067811865476))


def layer_norm(x: Any, gain: Any, bias: Any) -> Any:
    centred = x - tg.mean(x, axis=-1, keepdims=True)
    return centred / tg.sqrt(tg.mean(centred * centred, axis=-1, keepdims=True) + 1e-5) * gain + bias


class Model:
    """Parameters, and a training step by AdamW with its state in Tensors."""

    def __init__(self, kind: str, device: str) -> None:
        rng = np.random.default_rng(0)

        def parameter(*shape: int) -> Any:
            data = (0.3 * rng.normal(size=shape)).astype(np.float32)
            return tg.tensor(data, device=device, requires_grad=True)

        self.kind = kind
        sizes: dict[str, Any] = {
            "mlp": [(20, 32), (32,), (32, 10), (10,)],
            "gelu": [(20, 32), (32, 10)],
            "lstm": [(20, 64), (16, 64), (64,), (16, 10)],
            "layernorm": [(20, 32), (32,), (32,), (32, 10)],
        }
        self.parameters = [parameter(*s) for s in sizes[kind]]
        self.m = [tg.zeros(p.shape, dtype=tg.float32, device=device) for p in self.parameters]
        self.v = [tg.zeros(p.shape, dtype=tg.float32, device=device) for p in self.parameters]
        self.t = tg.zeros((), dtype=tg.float32, device=device)

    def logits(self, x: Any) -> Any:
        p = self.parameters
        if self.kind == "mlp":
            return tg.matmul(tg.relu(tg.matmul(x, p[0]) + p[1]), p[2]) + p[3]
        if self.kind == "gelu":
            return tg.matmul(gelu_erf(gelu(tg.matmul(x, p[0]))), p[1])
        if self.kind == "layernorm":
            return tg.matmul(layer_norm(tg.matmul(x, p[0]), p[1], p[2]), p[3])
        h = c = tg.zeros((x.shape[0], 16), dtype=tg.float32, device=x.device)
        for _ in range(3):
            gates = tg.matmul(x, p[0]) + tg.matmul(h, p[1]) + p[2]
            i, f, o = (tg.sigmoid(gates[:, 16 * k : 16 * (k + 1)]) for k in range(3))
            c = f * c + i * tg.tanh(gates[:, 48:])
            h = o * tg.tanh(c)
        return tg.matmul(h, p[3])

    def step(self, x: Any, y: Any) -> Any:
        for p in self.parameters:
            p.grad = None
        loss = -tg.mean(tg.sum(tg.log_softmax(self.logits(x), axis=-1) * y, axis=-1))
        loss.backward()
        with tg.no_grad():
            self.t[...] = self.t + 1
            for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
                m[...] = 0.9 * m + 0.1 * p.grad
                v[...] = 0.999 * v + 0.001 * p.grad**2
                change = m / (1 - 0.9**self.t) / (tg.sqrt(v / (1 - 0.999**self.t)) + 1e-8)
                p[...] = p - 0.01 * (change + 0.01 * p)
        return loss


def batches(device: str, count: int = 8) -> Iterator[tuple[Any, Any]]:
    rng = np.random.default_rng(1)
    for _ in range(count):
        x, y = rng.normal(size=(32, 20)), np.eye(10)[rng.integers(0, 10, 32)]
        yield tuple(tg.tensor(a.astype(np.float32), device=device) for a in (x, y))  # type: ignore[misc]


def values(x: Any) -> np.ndarray[Any, Any]:
    return np.asarray(x.detach().to_device("cpu"))


def same_training(kind: str, device: str, reassociate: bool = False) -> None:
    eager, compiled = Model(kind, device), Model(kind, device)
    step = tg.compile(compiled.step, reassociate=reassociate)
    for x, y in batches(device):
        np.testing.assert_allclose(values(step(x, y)), values(eager.step(x, y)), rtol=1e-4)
    for a, b in zip(
        (*compiled.parameters, *compiled.m, *compiled.v, compiled.t),
        (*eager.parameters, *eager.m, *eager.v, eager.t),
        strict=True,
    ):
        np.testing.assert_allclose(values(a), values(b), rtol=2e-3, atol=2e-5)
    for p, q in zip(compiled.parameters, eager.parameters, strict=True):
        np.testing.assert_allclose(values(p.grad), values(q.grad), rtol=1e-3, atol=1e-5)


KINDS = ["mlp", "gelu", "lstm", "layernorm"]


def plan_of(executor: Executor) -> plans.Plan:
    assert executor._plan is not None
    return executor._plan


def on_device(array: Any, device: str = "cuda", **options: Any) -> Any:
    return tg.tensor(np.asarray(array), device=device, **options)


# -- training steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_is_one_graph_that_updates_state_in_place(executors: list[Executor], kind: str) -> None:
    same_training(kind, "cuda")
    plan = plan_of(executors[-1])
    assert executors[-1].how == "1 CUDA graphs"
    assert len(plan.donated) == 3 * len(Model(kind, "cuda").parameters) + 1
    batches = [group for group in plan.groups if isinstance(group, kernel_groups.UpdateBatch)]
    assert len(batches) == 1  # all parameters by one launch
    assert len(plan.steps) < {"mlp": 16, "gelu": 14, "lstm": 75, "layernorm": 17}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reassociated_step(kind: str) -> None:
    same_training(kind, "cuda", reassociate=True)


def test_sources_are_deterministic(executors: list[Executor]) -> None:
    for _ in range(2):
        step = tg.compile(Model("mlp", "cuda").step)
        for x, y in batches("cuda", 5):
            step(x, y)
    first, second = (plan_of(executor).source for executor in executors)
    assert first == second
    assert not re.search(r"0x[0-9a-f]{9,}", first[len(HELPERS) :])


def test_five_replays_give_results_of_their_own(executors: list[Executor]) -> None:
    def f(x: Any) -> Any:
        return gelu(x) * tg.softmax(x, axis=-1), tg.sum(x, axis=0)

    compiled = tg.compile(f)
    results = []
    for i in range(11):
        x = on_device(np.linspace(-3, 3, 96, dtype=np.float32).reshape(12, 8) + np.float32(i))
        results.append((compiled(x), [values(y) for y in f(x)]))
    for got, expected in results:
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(values(a), b, rtol=1e-5, atol=1e-6)
    assert executors[-1].how == "1 CUDA graphs"
    assert len(plan_of(executors[-1]).steps) <= 4


# -- state -------------------------------------------------------------------------------------------------


def test_what_others_hold_of_a_state_never_changes(executors: list[Executor]) -> None:
    w = tg.zeros(5, dtype=tg.float32, device="cuda")

    @tg.compile
    def step(x: Any) -> Any:
        w[...] = w + x
        return tg.sum(w)

    one = tg.ones(5, dtype=tg.float32, device="cuda")
    held = []
    for i in range(10):
        assert step(one).item() == 5.0 * (i + 1)
        if i in (3, 6):
            held.append((w.detach(), i + 1.0))
        if i == 7:
            held.append((w[1:3], i + 1.0))
    w[...] = one  # another array in its place
    for i in range(3):
        assert step(one).item() == 5.0 * (i + 2)
    for x, n in held:
        np.testing.assert_array_equal(values(x), n)
    assert executors[-1]._shared  # a new plan, where that state is copied


def test_state_stays_in_its_buffer_until_it_is_seen() -> None:
    w = tg.zeros(5, device="cuda")

    @tg.compile
    def step() -> Any:
        w[...] = w + 1.0
        return tg.sum(w)

    for _ in range(5):
        step()
    place = w._array.data.ptr
    for _ in range(4):
        step()
        assert w._array.data.ptr == place
    assert values(w).tolist() == [9.0] * 5
    w = tg.zeros(5)


def test_state_that_is_read_elsewhere_is_updated_when_all_is_done(executors: list[Executor]) -> None:
    """A step that needs the old value late, one that fails, views, constants, and two states that change places."""
    a, b = on_device([1.0, 2.0, 3.0]), on_device([4.0, 5.0, 6.0])
    c, d = on_device([[1.0, 2.0], [3.0, 4.0]]), on_device([7.0, 8.0])

    def step(x: Any) -> Any:
        old = a * 1.0
        a[...] = a * 2.0 + x
        a2, b2 = a * 1.0, b * 1.0
        a[...], b[...] = b2, a2
        c[...] = tg.matrix_transpose(c) + tg.sum(x)
        total = tg.sum(old + a) + tg.sum(tg.linalg.solve(c, d))
        d[...] = tg.zeros(2, device="cuda")
        return total

    compiled = tg.compile(step)
    for i in range(8):
        x = on_device([1.0, float(i), 0.5])
        before = [tg.asarray(s, copy=True) for s in (a, b, c, d)]
        got = compiled(x)
        after = [values(s) for s in (a, b, c, d)]
        for state, old in zip((a, b, c, d), before, strict=True):
            state[...] = old
        np.testing.assert_allclose(got.item(), step(x).item(), rtol=1e-12)
        for state, new in zip((a, b, c, d), after, strict=True):
            np.testing.assert_allclose(values(state), new, rtol=1e-12)
    assert len(plan_of(executors[-1]).donated) == 4


def write_all(x: Any) -> Any:
    y = x * 2
    y[...] = x[0, 0] if x.size else 1
    return y * x


def gradient_of_slices(x: Any) -> Any:
    return tg.grad(lambda x: tg.sum(tg.real(x[:2] * 2)) + tg.sum(tg.real(x[2:] * 3)))(x)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 0)])
@pytest.mark.parametrize("f", [write_all, gradient_of_slices])
def test_a_node_that_stands_for_others_takes_any_dtype_and_size(f: Any, shape: tuple[int, ...], dtype: str) -> None:
    x = tg.ones(shape, dtype=getattr(tg, dtype), device="cuda") * 1.5
    compiled = tg.compile(f)
    for _ in range(4):
        np.testing.assert_array_equal(values(compiled(x)), values(f(x)))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_state_is_not_written_over_while_a_view_of_it_is_read(
    executors: list[Executor], whole: bool, first: bool
) -> None:
    """All new state comes from one launch, in which one array reads the transpose of another."""
    start = np.arange(9.0).reshape(3, 3)

    def stepped(device: str) -> list[Any]:
        a, b, c = (tg.asarray(start.copy(), device=device) for _ in range(3))

        def step(x: Any) -> None:
            new = (a if whole else c) * 0.5 + x, tg.sin(tg.matrix_transpose(a)) + b
            if first:
                a[...], b[...] = new
            else:
                b[...], a[...] = new[::-1]
            c[...] = c * 2.0

        compiled = tg.compile(step)
        for i in range(6):
            compiled(tg.asarray(float(i), device=device))
        return [np.asarray(tg.asarray(y, device="cpu")) for y in (a, b, c)]

    np.testing.assert_allclose(stepped("cuda"), stepped("cpu"), rtol=1e-12)
    plan = plan_of(executors[-1])
    assert len(plan.donated) == 3
    assert len(plan.overwritten) == 2  # in place, without the one that is read as a view


def test_state_that_is_only_read_is_read_where_it_is(executors: list[Executor]) -> None:
    w = on_device([1.0, 2.0])
    train = tg.compile(lambda x: w.__setitem__(..., w + x))
    predict = tg.compile(lambda x: w * x)
    for i in range(8):
        train(on_device([1.0, 1.0]))
        np.testing.assert_array_equal(values(predict(on_device([2.0, 3.0]))), (values(w) * [2.0, 3.0]))
        assert values(w).tolist() == [2.0 + i, 3.0 + i]
    training, predicting = executors
    assert not training._shared  # nobody holds its array
    assert len(predicting._bound) == 1
    w[...] = on_device([5.0, 7.0])  # another array
    np.testing.assert_array_equal(values(predict(on_device([2.0, 3.0]))), [10.0, 21.0])
    np.testing.assert_array_equal(values(predict(on_device([2.0, 1.0]))), [10.0, 7.0])


def test_gradients_are_handed_out_without_copies_until_one_is_kept(executors: list[Executor]) -> None:
    w = on_device([1.0, 2.0], requires_grad=True)

    @tg.compile
    def step(x: Any) -> Any:
        w.grad = None
        loss = tg.sum(w * w * x)
        loss.backward()
        return loss

    def grad() -> Any:
        assert w.grad is not None
        return w.grad

    places = set()
    for i in range(7):
        step(on_device([1.0, float(i)]))
        np.testing.assert_array_equal(values(grad()), [2.0, 4.0 * i])
        if i > 2:
            places.add(grad()._array.data.ptr)
    assert len(places) == 1
    kept, part = grad(), None
    step(on_device([1.0, 7.0]))
    np.testing.assert_array_equal(values(kept), [2.0, 24.0])
    part = grad()[1:]
    step(on_device([1.0, 8.0]))
    np.testing.assert_array_equal(values(part), [28.0])
    np.testing.assert_array_equal(values(grad()), [2.0, 32.0])
    assert not plan_of(executors[-1]).outputs.lent


def test_gradients_that_add_up() -> None:
    w = on_device([1.0, 2.0], requires_grad=True)
    v = on_device([1.0, 2.0], requires_grad=True)

    def step(w: Any, x: Any) -> Any:
        loss = tg.sum(w * w * x)
        loss.backward()
        return loss

    compiled = tg.compile(step)
    for i in range(9):
        x = on_device([1.0, float(i)])
        assert compiled(w, x).item() == step(v, x).item()
        assert w.grad is not None
        assert v.grad is not None
        np.testing.assert_array_equal(values(w.grad), values(v.grad))


# -- refusals ----------------------------------------------------------------------------------------------


class Counting:
    """A step with labels that counts its calls in state; parameters: weights, which it trains."""

    def __init__(self, device: str = "cuda") -> None:
        self.count = tg.zeros((), dtype=tg.float32, device=device)
        self.w = [on_device(np.ones(n, np.float32), device, requires_grad=True) for n in (3, 3, 1)]

    def __call__(self, logits: Any, labels: Any) -> Any:
        for w in self.w:
            w.grad = None
        loss = tg.cross_entropy(logits * self.w[0] + self.w[1] + self.w[2], labels)
        loss.backward()
        with tg.no_grad():
            self.count += 1
            for w in self.w:
                w -= 0.5 * w.grad
        return loss

    def state(self) -> list[Any]:
        return [values(x).tolist() for x in (self.count, *self.w)]


GOOD, BAD = [0, 1, 2, 1], [0, 1, 3, 1]
OUT_OF_RANGE = "a label is out of range: with 3 classes they are 0 to 2"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_refused_call_leaves_state_as_it_was(executors: list[Executor], device: str, late: bool) -> None:
    if device == "cuda:1" and cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one device")
    step, eager = Counting(device), Counting()
    compiled = tg.compile(step.__call__)
    logits = on_device(np.eye(4, 3, dtype=np.float32), device)
    for i in range(10):
        if i > 4:
            before = step.state()
            compiled(logits, on_device(BAD, device))
            # The next call reports it if nothing waits.
            look: Callable[[], Any] = (lambda: compiled(logits, on_device(GOOD, device))) if late else step.count.item
            with pytest.raises(ValueError, match=OUT_OF_RANGE):
                look()
            gc.collect()  # of a traceback that holds the count
            assert step.state() == before
        loss = eager(on_device(values(logits)), on_device(GOOD)).item()
        assert compiled(logits, on_device(GOOD, device)).item() == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(step.state()[0], eager.state()[0])
        for a, b in zip(step.w, eager.w, strict=True):
            np.testing.assert_allclose(values(a), values(b), rtol=1e-5)
    assert len(plan_of(executors[-1]).donated) == 4


def test_state_that_others_see_is_as_it_was_after_a_refused_call(executors: list[Executor]) -> None:
    step = Counting()
    compiled = tg.compile(step.__call__)
    logits = on_device(np.eye(4, 3, dtype=np.float32))
    held = []
    for _ in range(6):
        compiled(logits, on_device(GOOD))
        held += [x.detach() for x in (step.count, *step.w)]
    assert not plan_of(executors[-1]).donated
    before = step.state()
    compiled(logits, on_device(BAD))
    with pytest.raises(ValueError, match=OUT_OF_RANGE):
        step.count.item()
    assert step.state() == before
    compiled(logits, on_device(GOOD))
    assert step.state()[0] == before[0] + 1


@stand_in
def test_a_training_step_copies_its_batch_in_and_its_loss_out() -> None:
    step = tg.compile(Model("mlp", "cuda").step)
    *first, (x, y) = batches("cuda")
    for batch in first:
        step(*batch)
    with counted() as counts:
        step(x, y)
    assert counts == Counts(copies_on_device=2, launches=1, graph_launches=1)


@stand_in
def test_a_refusal_costs_no_wait() -> None:
    step = Counting()
    compiled = tg.compile(step.__call__)
    logits, labels = on_device(np.eye(4, 3, dtype=np.float32)), [on_device(GOOD) for _ in range(7)]
    for good in labels[1:]:
        compiled(logits, good)
    with counted() as counts:
        compiled(logits, labels[0])
    assert counts.waits == counts.copies_out == counts.copies_in == 0


# -- failures ----------------------------------------------------------------------------------------------


def test_calls_that_cannot_be_captured_split_the_graph(executors: list[Executor]) -> None:
    def f(a: Any, b: Any) -> Any:
        return tg.sum(tg.exp(tg.linalg.solve(a * a + 10.0 * tg.eye(4, device=a.device), b * 2.0)) * b, axis=0)

    compiled = tg.compile(f)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(9):
            a, b = (on_device(rng.normal(size=(4, 4))) for _ in range(2))
            np.testing.assert_allclose(values(compiled(a, b)), values(f(a, b)), rtol=1e-10)
    assert [g is not None for g in executors[-1]._graphs.graphs] == [True, False, True]
    assert executors[-1].how == "2 CUDA graphs"


def test_a_loop_is_a_call_between_graphs(executors: list[Executor]) -> None:
    w = on_device([1.0, 2.0])

    def step(rate: Any) -> Any:
        new = w * 0.5 + 1.0
        z = tg.fixed_point(lambda z: rate * z + w, w * 0.0, max_iterations=50)
        w[...] = new
        return tg.exp(z)

    compiled = tg.compile(step)
    for i in range(7):
        w_before, rate = tg.asarray(w, copy=True), on_device(0.05 * i)
        found, after = compiled(rate), values(w)
        w[...] = w_before
        np.testing.assert_allclose(values(found), values(step(rate)), rtol=1e-15)
        np.testing.assert_array_equal(values(w), after)
    assert [g is not None for g in executors[-1]._graphs.graphs] == [True, False, True]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the last of 50 iterations"):
            compiled(on_device(2.0))
        np.testing.assert_array_equal(values(w), after)


def test_a_step_that_fails_to_be_captured_is_launched_between_graphs(
    executors: list[Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = library_calls._stored

    def refusing(outs: Any, function: Any, *args: Any) -> None:
        if cupy.cuda.get_current_stream().is_capturing():
            raise RuntimeError("not while capturing")
        real(outs, function, *args)

    monkeypatch.setattr(library_calls, "_stored", refusing)
    f = tg.compile(lambda x: tg.cumulative_sum(tg.exp(x)) * 2.0)
    x = on_device([1.0, 2.0])
    with pytest.warns(
        RuntimeWarning, match=r"cumulative_sum at test_cupy_compile\.py:\d+ could not be captured"
    ) as found:
        [f(x * 1.0) for _ in range(9)]
    assert len(found) == 1
    for i in range(3):
        np.testing.assert_allclose(values(f(x + float(i))), 2 * np.cumsum(np.exp([1.0 + i, 2.0 + i])))
    assert executors[-1].how == "2 CUDA graphs"


@pytest.mark.parametrize("when", range(3, 7))
def test_state_is_as_it_was_when_memory_runs_out(when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory while planning, while warming up, at capture and at a replay."""
    state = [on_device(np.ones(n)) for n in (3, 4, 5)]

    @tg.compile
    def step(x: Any) -> Any:
        for s in state:
            s += 1.0
        return tg.cumulative_sum(x * state[0])

    x = on_device([1.0, 2.0, 3.0])
    for _ in range(when):
        step(x)
    before = [values(s) for s in state]

    def full(nbytes: int) -> Any:
        raise cupy.cuda.memory.OutOfMemoryError(nbytes, nbytes)

    with cupy.cuda.using_allocator(full):
        monkeypatch.setattr(cupy.cuda, "MemoryPool", lambda: type("Full", (), {"malloc": staticmethod(full)}))
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            step(x)
        monkeypatch.undo()
    for s, v in zip(state, before, strict=True):
        np.testing.assert_array_equal(values(s), v)
    np.testing.assert_allclose(values(step(x)), np.cumsum([1.0, 2.0, 3.0]) * values(state[0])[0])
    for s, v in zip(state, before, strict=True):
        np.testing.assert_array_equal(values(s), v + 1)


def test_a_capture_for_which_memory_runs_out_is_made_again(
    executors: list[Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = library_calls._stored
    failures: list[int] = []

    def full(*args: Any) -> None:
        if cupy.cuda.get_current_stream().is_capturing() and not failures:
            failures.append(1)
            raise cupy.cuda.memory.OutOfMemoryError(1, 1)
        real(*args)

    monkeypatch.setattr(library_calls, "_stored", full)
    w = on_device([1.0, 2.0], requires_grad=True)

    @tg.compile
    def step() -> None:
        w.grad = None
        tg.sum(tg.cumulative_sum(w) * w).backward()
        with tg.no_grad():
            w[...] = w + 1.0

    for _ in range(5):
        step()
    before = values(w), values(w.grad)
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        step()
    np.testing.assert_array_equal(values(w), before[0])
    np.testing.assert_array_equal(values(w.grad), before[1])
    step()
    np.testing.assert_array_equal(values(w), before[0] + 1.0)
    assert executors[-1].how == "1 CUDA graphs"


def test_another_stream_waits_for_the_one_before() -> None:
    f = tg.compile(lambda x: tg.exp(x) + 1.0)
    x = on_device([1.0, 2.0])
    for _ in range(5):
        f(x)
    with cupy.cuda.Stream(non_blocking=True):
        with counted() as counts:
            f(x)
        assert counts.waits == int(is_installed())
        with counted() as counts:
            f(x)
        assert counts.waits == 0


def test_writing_and_joining() -> None:
    def f(x: Any, i: Any) -> Any:
        y = tg.concat([x, x[:, ::-1] * 2.0, tg.expand_dims(x[0], axis=0)], axis=0)
        y[1:2, ...] = 7.0
        y[:, 1] += tg.sum(y, axis=1)
        z = tg.matmul(tg.permute_dims(x, (1, 0)), x[::-1])
        a, b, c = tg.unstack(tg.exp(x), axis=1)
        rows = tg.stack([a * b, c, a - c], axis=0)
        columns = tg.stack([a * b, c, a - c], axis=-1)
        joined = tg.concat([rows, tg.concat([rows * 2.0, a[None]], axis=0)], axis=0)
        picked = tg.take(x, i, axis=0), tg.where(x > 0, x, 0.0), tg.astype(x > 0, tg.int32), x + 1.5j
        product = tg.matmul(x, x[:, ::-1].T)
        turned = tg.stack([tg.matrix_transpose(product), tg.matmul(x, tg.permute_dims(x, (1, 0)))], axis=-3)
        vectors = tg.matrix_transpose(tg.matmul(x[0], tg.permute_dims(tg.stack([x, tg.exp(x)]), (0, 2, 1))))
        return y, z, rows, columns, joined, turned, vectors, *picked

    compiled = tg.compile(f)
    rng = np.random.default_rng(0)
    for _ in range(8):
        x, i = on_device(rng.normal(size=(4, 3))), on_device(rng.integers(0, 4, 5))
        for a, b in zip(compiled(x, i), f(x, i), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(values(a), values(b))


# -- launches -----------------------------------------------------------------------------------------------


def steps_of(function: Callable[..., Any], *shapes: tuple[int, ...]) -> list[str]:
    """Return the operations of the kernels that a function is compiled to."""
    compiled = tg.compile(function)
    rng = np.random.default_rng(0)
    for _ in range(4):
        arguments = [on_device(rng.normal(size=shape)) for shape in shapes]
        np.testing.assert_allclose(values(compiled(*arguments)), values(function(*arguments)), rtol=1e-12, atol=1e-14)
    return [step.name for step in plan_of(compiled._last.executor).steps]


def test_a_softmax_of_a_product_is_one_kernel() -> None:
    steps = steps_of(lambda x, w: tg.softmax(x @ w, axis=-1), (16, 4), (4, 9))
    assert steps == ["matmul", "max subtract exp sum divide"]


def test_a_softmax_of_masked_scores_is_one_kernel() -> None:
    """The mask broadcasts over the leading axes, where rows of a NumPy program would not."""
    steps = steps_of(lambda z, mask: tg.softmax(0.5 * z + mask, axis=-1), (2, 3, 5, 5), (5, 5))
    assert steps == ["multiply add max subtract exp sum divide"]


def test_parts_of_an_array_are_read_and_computed_where_they_are() -> None:
    def f(x: Any, w: Any) -> Any:
        a, b, c = tg.unstack(x)
        return tg.stack([tg.exp(a), b @ w, tg.matrix_transpose(c @ w)])

    assert sorted(steps_of(f, (3, 4, 4), (4, 4))) == ["exp", "matmul", "matmul"]


def test_the_gradient_of_slices_is_one_kernel_that_puts_them_together() -> None:
    def f(x: Any) -> Any:
        def loss(x: Any) -> Any:
            return tg.sum(tg.exp(x[:, :3])) + tg.sum(tg.sin(x[:, 3:]))

        return tg.grad(loss)(x)

    assert steps_of(f, (4, 8)).count("join") == 1
    assert "add" not in steps_of(f, (4, 8))


def test_heads_of_attention_are_written_where_they_are_joined() -> None:
    """Neither the heads' results nor the gradients of queries, keys and values are copied into one array."""

    def heads(x: Any, mask: Any) -> Any:
        q, k, v = tg.unstack(tg.permute_dims(tg.reshape(x, (2, 8, 3, 4, 8)), (2, 0, 3, 1, 4)))
        p = tg.softmax(q @ tg.matrix_transpose(k) * 0.3 + mask, axis=-1)
        return tg.reshape(tg.permute_dims(p @ v, (0, 2, 1, 3)), (16, 32))

    def f(x: Any, mask: Any) -> Any:
        return heads(x, mask), tg.grad(lambda x: tg.sum(tg.sin(heads(x, mask))))(x)

    compiled = tg.compile(f)
    mask = on_device(np.triu(np.full((8, 8), -np.inf, np.float32), k=1))
    rng = np.random.default_rng(0)
    for _ in range(6):
        x = on_device(rng.normal(size=(16, 96)).astype(np.float32))
        for a, b in zip(compiled(x, mask), f(x, mask), strict=True):
            np.testing.assert_allclose(values(a), values(b), rtol=1e-4, atol=1e-5)
    names = [step.name.split(" at ")[0] for step in plan_of(compiled._last.executor).steps]
    assert "attention" in names
    assert "attention_gradient" in names
    assert "copy" not in names
    assert "join" not in names


def test_reductions_of_several_kernels_are_completed_together() -> None:
    def f(x: Any, y: Any, z: Any) -> Any:
        sums = [
            tg.sum(tg.exp(x), axis=0),
            tg.max(tg.sin(y), axis=0),
            tg.sum(tg.astype(4.0 * z, tg.int32), axis=0),
            tg.any(tg.astype(z, tg.int8) > 1, axis=0),
            tg.expand_dims(tg.sum(y * y), axis=0),
        ]
        return tg.concat([tg.astype(s, tg.float64) for s in sums], axis=0)

    steps = steps_of(f, (20, 6), (300, 5), (9, 4))
    assert steps.count("partial results") == 1
