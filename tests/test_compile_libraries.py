"""Compiled functions handed to a library's own compiler: jax.jit and torch.compile."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg


def executor_of(compiled: Any) -> Any:
    """Return the executor of a compiled function's one program."""
    ((replay,),) = compiled._programs.values()
    return replay.executor


def training(xp: Place) -> tuple[Any, dict[str, tg.Tensor], Any]:
    """Return a step of a classifier, its parameters and a function that makes arguments."""
    rng = np.random.default_rng(0)
    p = {
        "w": xp.tensor(rng.standard_normal((5, 8)), requires_grad=True),
        "b": xp.tensor(np.zeros(8), requires_grad=True),
        "v": xp.tensor(rng.standard_normal((8, 3)), requires_grad=True),
    }

    def step(x: Any, labels: Any) -> Any:
        for w in p.values():
            w.grad = None
        loss = tg.cross_entropy(tg.gelu(x @ p["w"] + p["b"]) @ p["v"], labels)
        loss.backward()
        with tg.no_grad():
            for w in p.values():
                assert w.grad is not None
                w -= 0.5 * w.grad
        return loss.detach()

    def arguments(seed: int, bad: bool = False) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 3, 6)
        labels[3] = 3 if bad else labels[3]
        return xp.tensor(rng.standard_normal((6, 5))), xp.tensor(labels)

    return step, p, arguments


def check_training(xp: Place) -> Any:
    """Train eagerly and compiled, compare, and give a bad label; return the compiled step."""
    step, p, arguments = training(xp)
    eager, q, _ = training(xp)
    compiled = tg.compile(step)
    for n in range(6):
        xp.check(compiled(*arguments(n)), xp.values(eager(*arguments(n))), rtol=1e-11)
    before = {n: xp.values(w) for n, w in p.items()}
    with pytest.raises(ValueError, match="a label is out of range: with 3 classes"):
        compiled(*arguments(9, bad=True))
    for name, w in p.items():
        np.testing.assert_array_equal(xp.values(w), before[name])  # refused before anything was updated
    compiled(*arguments(7))
    eager(*arguments(7))
    for name, w in p.items():
        xp.check(w, xp.values(q[name]), rtol=1e-10)
        xp.check(w.grad, xp.values(q[name].grad), rtol=1e-10)
        assert w.requires_grad
    return compiled


@pytest.mark.parametrize("xp", ["jax"], indirect=True)
def test_jax_compiles_the_replay(xp: Place) -> None:
    compiled = check_training(xp)
    assert executor_of(compiled).how == "compiled by jax.jit"


@pytest.mark.parametrize("xp", ["jax"], indirect=True)
def test_jax_keeps_arrays_that_others_hold(xp: Place) -> None:
    w = xp.tensor([1.0, 2.0])
    held = w.detach()
    raw = w._array

    @tg.compile
    def step(x: Any) -> Any:
        w[...] = w * x
        return w + 1.0

    for _ in range(4):
        y = step(xp.tensor([2.0, 2.0]))
    xp.check(held, [1.0, 2.0])
    assert not raw.is_deleted()
    xp.check(w, [16.0, 32.0])
    xp.check(y, [17.0, 33.0])


@pytest.mark.parametrize("xp", ["jax"], indirect=True)
def test_what_jax_cannot_trace_is_replayed(xp: Place) -> None:
    @tg.compile
    def written(x: Any, mask: Any, values: Any) -> Any:
        y = x * 2.0
        y[mask] = values
        return y

    args = xp.tensor([0.5, 1.5, 2.5]), xp.tensor(np.asarray([True, False, True])), xp.tensor([7.0, 8.0])
    for _ in range(2):
        written(*args)
    with pytest.warns(RuntimeWarning, match="compile: calls are replayed one by one, as jax.jit refused: "):
        xp.check(written(*args), [7.0, 3.0, 8.0])
    xp.check(written(*args), [7.0, 3.0, 8.0])
    assert "as jax.jit refused" in executor_of(written).how


@pytest.mark.parametrize("xp", ["jax"], indirect=True)
def test_constants_are_where_they_were(xp: Place) -> None:
    table = np.arange(12.0).reshape(3, 4)

    @tg.compile
    def look_up(i: Any) -> Any:
        return tg.take(tg.asarray(table, device=xp.device), i, axis=0)

    for n in range(4):
        xp.check(look_up(xp.tensor(np.asarray([n % 3, 1]))), table[[n % 3, 1]])


@pytest.mark.slow
@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_torch_compiles_the_replay(xp: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapegrad.backends import _torch_compile

    if not _torch_compile.has_compiler():
        pytest.skip("no C++ compiler")
    monkeypatch.delenv("TAPEGRAD_TORCH_COMPILE")
    compiled = check_training(xp)
    assert executor_of(compiled).how == "compiled by torch.compile"


@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_without_a_compiler_torch_replays_call_by_call(xp: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapegrad.backends import _torch_compile

    monkeypatch.delenv("TAPEGRAD_TORCH_COMPILE")
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(_torch_compile, "_warned", False)
    with pytest.warns(RuntimeWarning, match="needs a C\\+\\+ compiler"):
        compiled = check_training(xp)
    assert executor_of(compiled).how == "replayed call by call"
    check_training(xp)  # says so once


@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_what_torch_cannot_compile_is_replayed(xp: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no toolchain\nat all")

    monkeypatch.delenv("TAPEGRAD_TORCH_COMPILE")
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr("tapegrad.backends._torch_compile.has_compiler", lambda: True)
    with pytest.warns(RuntimeWarning, match="calls are replayed one by one, as torch.compile refused: no tool"):
        compiled = check_training(xp)
    assert executor_of(compiled).how == "replayed call by call, as torch.compile refused: no toolchain"


@pytest.mark.parametrize("wrong", [lambda x: x * (1 + 1e-6), lambda x: x / 0])
@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_what_torch_compiles_wrongly_is_replayed(xp: Place, monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    import torch

    def broken(function: Any, **options: Any) -> Any:
        def run(arrays: Any, given: Any) -> Any:
            outs, conditions = function(arrays, given)
            return [wrong(outs[0]), *outs[1:]], conditions

        return run

    monkeypatch.delenv("TAPEGRAD_TORCH_COMPILE")
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr("tapegrad.backends._torch_compile.has_compiler", lambda: True)
    expected = (
        r"one by one, as torch.compile made other values of the same calls: \w+ at test_compile_libraries.py:\d+: "
        r"(the largest difference is .*, of values up to|it is not finite).*Replayed calls are right; write that"
    )
    with pytest.warns(RuntimeWarning, match=expected):
        compiled = check_training(xp)
    assert "as torch.compile made other values" in executor_of(compiled).how


@pytest.mark.parametrize("xp", ["jax"], indirect=True)
@pytest.mark.parametrize("double", [False, True])
def test_a_gradient_that_is_zero_but_for_rounding_is_no_alarm(xp: Place, double: bool) -> None:
    """A bias before a batch norm under Adam: its update has the sign of rounding, and the size of any other."""
    rng, dtype = np.random.default_rng(0), tg.float64 if double else tg.float32

    def on_device(values: Any) -> Any:
        return tg.asarray(values, dtype=dtype, device=xp.device)

    w, b, w2 = (on_device(v) for v in (rng.normal(size=(8, 16)), np.zeros(16), rng.normal(size=(16, 1))))
    params = [w, b, w2]
    m, v = ([tg.zeros_like(p) for p in params] for _ in range(2))

    def loss(params: Any, x: Any, y: Any) -> Any:
        h = x @ params[0] + params[1]
        h = (h - tg.mean(h, axis=0)) / tg.sqrt(tg.var(h, axis=0) + 1e-5)
        return tg.mean((tg.tanh(h) @ params[2] - y) ** 2)

    @tg.compile
    def step(x: Any, y: Any) -> Any:
        value, gradients = tg.value_and_grad(loss)(params, x, y)
        for p, g, mean, square in zip(params, gradients, m, v, strict=True):
            mean[...] = 0.9 * mean + 0.1 * g
            square[...] = 0.999 * square + 0.001 * g**2
            p -= 0.01 * mean / (tg.sqrt(square) + 1e-12)
        return value

    for _ in range(4):
        step(on_device(rng.normal(size=(32, 8))), on_device(rng.normal(size=(32, 1))))
    assert executor_of(step).how == "compiled by jax.jit"


@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_torch_has_a_time_to_compile_in(xp: Place, monkeypatch: pytest.MonkeyPatch, swallows: bool) -> None:
    import torch

    begun = []

    def endless(function: Any, **options: Any) -> Any:
        def run(arrays: Any, given: Any) -> Any:
            begun.append(0)
            until = time.monotonic() + 60.0
            while time.monotonic() < until:
                try:
                    sum(range(100))
                except BaseException:
                    if not swallows or len(begun) > 1:
                        raise
                    begun.append(0)

        return run

    monkeypatch.delenv("TAPEGRAD_TORCH_COMPILE")
    monkeypatch.setenv("TAPEGRAD_TORCH_COMPILE_SECONDS", "4")
    monkeypatch.setattr(torch, "compile", endless)
    monkeypatch.setattr("tapegrad.backends._torch_compile.has_compiler", lambda: True)
    start = time.monotonic()
    with pytest.warns(RuntimeWarning, match=r"one by one, as torch.compile took more than 4 s \(TAPEGRAD_.*allows"):
        compiled = check_training(xp)
    assert time.monotonic() - start < 50.0
    assert executor_of(compiled).how.startswith("replayed call by call, as torch.compile took more than 4 s")
    assert len(begun) == 1 + swallows


def test_what_ends_in_time_is_not_disturbed() -> None:
    pytest.importorskip("torch")
    from tapegrad.backends._torch_compile import limited

    for _ in range(200):
        assert limited(lambda: 3, 10.0, "") == 3
    with pytest.raises(ZeroDivisionError):
        limited(lambda: 1 / 0, 10.0, "")
    for n in range(30):  # about when the time is over
        with suppress(TimeoutError):
            assert limited(partial(time.sleep, 0.004), 0.004 + n * 2e-5, "too long") is None
    sum(range(100_000))  # nothing is on its way any more


@pytest.mark.parametrize(
    "key",
    [
        (1, 2, 3),
        (slice(None), 2),
        (slice(0, 2), slice(1, 4), slice(None)),
        (slice(0, 3, 2), slice(1, 4, 2), slice(0, 5, 3)),
        (None, slice(1, 2), None, 0),
        (slice(0, 0), slice(None)),
        (slice(3, None), slice(0, 1)),
        (),
    ],
    ids=str,
)
@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_values_padded_for_the_compiler_are_added_in_the_same_places(xp: Place, key: Any) -> None:
    import torch

    from tapegrad.backends._torch_functions import added

    rng = np.random.default_rng(0)
    array = torch.asarray(rng.normal(size=(4, 5, 6)))
    value = torch.asarray(rng.normal(size=array[key].shape))
    expected = array.clone()
    expected[key] += value
    full = (*key, *[slice(None)] * (3 - sum(i is not None for i in key)))
    assert torch.equal(added(array, full, value), expected)
    one = torch.asarray(2.0, dtype=torch.float64)
    expected = array.clone()
    expected[key] += one
    assert torch.equal(added(array, full, one), expected)


@pytest.mark.slow
@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_torch_compiles_a_convolution_written_by_slices(xp: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapegrad.backends import _torch_compile

    if not _torch_compile.has_compiler():
        pytest.skip("no C++ compiler")
    monkeypatch.delenv("TAPEGRAD_TORCH_COMPILE")
    w, x = (np.random.default_rng(0).normal(size=shape) for shape in ((3, 3), (4, 12, 12)))

    def loss(w: Any, x: Any) -> Any:
        y = sum(x[:, i : i + 10, j : j + 10] * w[i, j] for i in range(3) for j in range(3))
        return tg.sum(tg.tanh(y) ** 2)

    f = tg.compile(tg.grad(loss, (0, 1)))
    for _ in range(4):
        for g, e in zip(f(xp.tensor(w), xp.tensor(x)), tg.grad(loss, (0, 1))(xp.tensor(w), xp.tensor(x)), strict=True):
            xp.check(g, xp.values(e))
    assert executor_of(f).how == "compiled by torch.compile"


@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_complex_programs_are_not_given_to_torch_compile(xp: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPEGRAD_TORCH_COMPILE")
    f = tg.compile(lambda x: tg.abs(x * 1j))
    for _ in range(4):
        xp.check(f(xp.tensor([1.0, -2.0])), [1.0, 2.0])
    assert executor_of(f).how == "replayed call by call"


@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_torch_results_are_not_recorded_by_torch(xp: Place) -> None:
    y = check_training(xp)(*training(xp)[2](0))
    assert not y._array.requires_grad


def test_a_program_of_two_libraries(xp: Place) -> None:
    w = xp.tensor([0.5, 1.5], requires_grad=True)

    def step(x: Any) -> Any:
        w.grad = None
        there = (w * x).to_device("strict:CPU_DEVICE" if xp.device == "cpu" else "cpu")
        y = tg.sum(there**2)
        y.backward()
        return [y.detach(), w.grad, tg.max(x)]

    compiled = tg.compile(step)
    for n in range(4):
        x = xp.tensor([1.0, 2.0 + n])
        for a, b in zip(compiled(x), step(x), strict=True):
            assert a.device == b.device
            np.testing.assert_array_equal(np.asarray(a.to_device("cpu")), np.asarray(b.to_device("cpu")))
