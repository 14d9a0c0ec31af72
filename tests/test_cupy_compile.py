"""Compiled steps on CuPy: on a device, and on a stand-in for CuPy over NumPy."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import cuda_on_host
import numpy as np
import pytest
from fake_cupy import FakeCupy, FakeGemm

import tapegrad as tg
from tapegrad import backends
from tapegrad.backends._cupy_compile import Executor
from tapegrad.backends._cupy_ops import EXTRA
from tapegrad.backends._cupy_types import HELPERS
from tapegrad.backends._numpy import Adapter

host = pytest.mark.skipif(cuda_on_host.compiler() is None, reason="g++ is not installed")
INTEGERS = ("int8", "uint8", "int32", "uint32", "int64", "uint64")


# -- whole steps: on the stand-in, and on a device -------------------------------------------------------


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


class Standing:
    """The stand-ins, and the executors made on them."""

    def __init__(self) -> None:
        self.cupy = FakeCupy()
        self.gemm = FakeGemm(self.cupy)
        self.executors: list[Executor] = []
        self.refused: set[str] = set()  # operations that cannot be captured, though the plan takes them for it

    def executor(self, adapter: Any, program: Any, threads: int | None = None) -> Executor:
        nodes = [n for item in program.nodes for n in getattr(item, "nodes", (item,))]
        for n in nodes:
            if not n.effect:
                n.function = self.cupy.recorded(n.function, n.op not in self.refused)
        self.executors.append(Executor(program, self.cupy, lambda: self.gemm))
        return self.executors[-1]

    @property
    def plan(self) -> Any:
        plan = self.executors[-1]._plan
        assert plan is not None
        return plan

    @property
    def graphs(self) -> list[Any]:
        return self.executors[-1]._graphs


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> Standing:
    """Run what is compiled for NumPy on a stand-in for CuPy."""
    if cuda_on_host.compiler() is None:
        pytest.skip("g++ is not installed")
    made = Standing()
    monkeypatch.setattr(Adapter, "executor", lambda *args: made.executor(*args))
    monkeypatch.setattr(Adapter, "smallest_run", 1)
    monkeypatch.setattr(Adapter, "elementwise", EXTRA)
    return made


@pytest.fixture
def cuda() -> str:
    """Skip where no CUDA device answers."""
    try:
        backends.of_device("cuda")
    except (RuntimeError, ValueError) as error:
        pytest.skip(str(error))
    return "cuda"


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_on_the_stand_in(standing: Standing, kind: str) -> None:
    same_training(kind, "cpu")
    plan = standing.plan
    assert standing.executors[-1].how == "1 CUDA graphs"
    assert [g.launches for g in standing.graphs] == [standing.executors[-1]._calls - 2]  # two warmed up
    assert len(plan.donated) == 3 * len(Model(kind, "cpu").parameters) + 1  # all state is updated in place
    assert len(plan.steps) < {"mlp": 18, "gelu": 16, "lstm": 75, "layernorm": 21}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_on_a_device(cuda: str, kind: str) -> None:
    same_training(kind, cuda)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reassociated_step_on_the_stand_in(standing: Standing, kind: str) -> None:
    same_training(kind, "cpu", reassociate=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reassociated_step_on_a_device(cuda: str, kind: str) -> None:
    same_training(kind, cuda, reassociate=True)


def check_graph_replay(device: str) -> None:
    """Five replays of one graph equal five eager calls, and results are arrays of their own."""

    def f(x: Any) -> Any:
        return gelu(x) * tg.softmax(x, axis=-1), tg.sum(x, axis=0)

    compiled = tg.compile(f)
    results = []
    for i in range(11):
        x = tg.tensor(np.linspace(-3, 3, 96, dtype=np.float32).reshape(12, 8) + np.float32(i), device=device)
        results.append((compiled(x), [values(y) for y in f(x)]))
    for got, expected in results:
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(values(a), b, rtol=1e-5, atol=1e-6)


def test_graph_replay_on_the_stand_in(standing: Standing) -> None:
    check_graph_replay("cpu")
    assert [g.launches for g in standing.graphs] == [standing.executors[-1]._calls - 2]
    assert standing.graphs[0].launches >= 5
    assert len(standing.plan.steps) <= 4


def test_graph_replay_on_a_device(cuda: str) -> None:
    check_graph_replay(cuda)


def check_state_is_private(device: str) -> None:
    """What others hold of a state's value never changes, whenever they took it."""
    w = tg.zeros(5, dtype=tg.float32, device=device)

    @tg.compile
    def step(x: Any) -> Any:
        w[...] = w + x
        return tg.sum(w)

    one = tg.ones(5, dtype=tg.float32, device=device)
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


def test_state_is_private_on_the_stand_in(standing: Standing) -> None:
    check_state_is_private("cpu")
    assert standing.executors[-1]._shared  # a new plan, where that state is copied


def test_state_is_private_on_a_device(cuda: str) -> None:
    check_state_is_private(cuda)


def test_state_stays_in_its_buffer_until_it_is_seen(standing: Standing) -> None:
    w = tg.zeros(5)

    @tg.compile
    def step() -> Any:
        w[...] = w + 1.0
        return tg.sum(w)

    for _ in range(5):
        step()
    place = w._array.ctypes.data
    for _ in range(4):
        step()
        assert w._array.ctypes.data == place
    assert values(w).tolist() == [9.0] * 5
    w = tg.zeros(5)


def check_refusal(device: str) -> None:
    """A refused value raises before state is updated."""
    total = tg.zeros((), dtype=tg.float32, device=device)

    @tg.compile
    def step(logits: Any, labels: Any) -> Any:
        loss = tg.cross_entropy(logits, labels)
        total[...] = total + loss
        return loss

    logits = tg.tensor(np.zeros((4, 3), np.float32), device=device)
    good = tg.asarray(np.asarray([0, 1, 2, 1]), device=device)
    bad = tg.asarray(np.asarray([0, 1, 3, 1]), device=device)
    for i in range(8):
        if i in (3, 6):
            before = total.item()
            with pytest.raises((IndexError, ValueError)):
                step(logits, bad)
            assert total.item() == before
        np.testing.assert_allclose(step(logits, good).item(), np.log(3), rtol=1e-6)
    np.testing.assert_allclose(total.item(), 8 * np.log(3), rtol=1e-6)


def test_refusal_on_the_stand_in(standing: Standing) -> None:
    check_refusal("cpu")
    assert standing.plan.refusals
    assert not standing.plan.donated


def test_refusal_on_a_device(cuda: str) -> None:
    check_refusal(cuda)


def check_calls_between_graphs(device: str) -> None:
    def f(a: Any, b: Any) -> Any:
        return tg.sum(tg.exp(tg.linalg.solve(a * a + 10.0 * tg.eye(4, device=a.device), b * 2.0)) * b, axis=0)

    compiled = tg.compile(f)
    rng = np.random.default_rng(0)
    for _ in range(9):
        a, b = (tg.tensor(rng.normal(size=(4, 4)), device=device) for _ in range(2))
        np.testing.assert_allclose(values(compiled(a, b)), values(f(a, b)), rtol=1e-10)


def test_calls_that_cannot_be_captured_split_the_graph(standing: Standing) -> None:
    standing.refused.add("linalg.solve")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_calls_between_graphs("cpu")
    assert [g is not None for g in standing.graphs] == [True, False, True]
    assert standing.executors[-1].how == "2 CUDA graphs"


def test_calls_between_graphs_on_a_device(cuda: str) -> None:
    check_calls_between_graphs(cuda)


def test_a_loop_is_a_call_between_graphs(standing: Standing) -> None:
    standing.refused.add("loop")
    w = tg.tensor([1.0, 2.0])

    def step(rate: Any) -> Any:
        new = w * 0.5 + 1.0
        z = tg.fixed_point(lambda z: rate * z + w, w * 0.0, max_iterations=50)
        w[...] = new
        return tg.exp(z)

    compiled = tg.compile(step)
    for i in range(7):
        w_before, rate = tg.asarray(w, copy=True), tg.tensor(0.05 * i)
        found, after = compiled(rate), values(w)
        w[...] = w_before
        np.testing.assert_allclose(values(found), values(step(rate)), rtol=1e-15)
        np.testing.assert_array_equal(values(w), after)
    assert [g is not None for g in standing.graphs] == [True, False, True]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the last of 50 iterations"):
            compiled(tg.tensor(2.0))
        np.testing.assert_array_equal(values(w), after)


def test_a_failed_capture_warns_once_and_launches_call_by_call(standing: Standing) -> None:
    standing.refused.add("cumulative_sum")
    f = tg.compile(lambda x: tg.cumulative_sum(tg.exp(x)) * 2.0)
    x = tg.tensor([1.0, 2.0])
    with pytest.warns(RuntimeWarning, match="could not be captured") as warned:
        [f(x) for _ in range(9)]
    assert len(warned) == 1
    for i in range(3):
        np.testing.assert_allclose(values(f(x + i)), 2 * np.cumsum(np.exp([1.0 + i, 2.0 + i])))
    assert standing.executors[-1].how == "generated kernels, launched one by one"
    assert standing.cupy.graph is None


def test_another_stream_waits_for_the_one_before(standing: Standing) -> None:
    f = tg.compile(lambda x: tg.exp(x) + 1.0)
    x = tg.tensor([1.0, 2.0])
    for _ in range(5):
        f(x)
    before = standing.cupy.streams[-1]
    with standing.cupy.cuda.Stream(non_blocking=True):
        f(x)
    assert before.synchronized == 1


def test_writing_and_joining_on_the_stand_in(standing: Standing) -> None:
    def f(x: Any, i: Any) -> Any:
        y = tg.concat([x, x[:, ::-1] * 2.0, tg.expand_dims(x[0], axis=0)], axis=0)
        y[1:2, ...] = 7.0
        y[:, 1] += tg.sum(y, axis=1)
        z = tg.matmul(tg.permute_dims(x, (1, 0)), x[::-1])
        return y, z, tg.take(x, i, axis=0), tg.where(x > 0, x, 0.0), tg.astype(x > 0, tg.int32), x + 1.5j

    compiled = tg.compile(f)
    rng = np.random.default_rng(0)
    for _ in range(8):
        x, i = tg.tensor(rng.normal(size=(4, 3))), tg.asarray(rng.integers(0, 4, 5))
        for a, b in zip(compiled(x, i), f(x, i), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(values(a), values(b))


def test_sources_are_deterministic(standing: Standing) -> None:
    for _ in range(2):
        model = Model("mlp", "cpu")
        step = tg.compile(model.step)
        for x, y in batches("cpu", 5):
            step(x, y)
    first, second = standing.cupy.modules
    assert first == second
    assert not re.search(r"0x[0-9a-f]{9,}", first[len(HELPERS) :])
