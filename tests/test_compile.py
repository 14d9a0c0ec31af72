"""Compiled steps: exactly as the eager ones, or refused with their line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiling import CALLS, Model, refused, same, visible

import tapegrad as tg


def plain(m: Model, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    m.zero()
    loss = m.loss(x, y)
    loss.backward()
    m.sgd(0.1)
    return loss


def test_plain_sgd() -> None:
    same(Model, plain)


class Adam(Model):
    """Weights, moments and a step count, Tensor or Python."""

    def __init__(self, count: Any = 0) -> None:
        super().__init__()
        self.t = count
        self.m = [tg.zeros_like(p) for p in self.parameters()]
        self.v = [tg.zeros_like(p) for p in self.parameters()]

    def update(self) -> None:
        with tg.no_grad():
            self.t += 1
            for p, m, v in zip(self.parameters(), self.m, self.v, strict=True):
                g = p.grad
                assert g is not None
                m[...] = 0.9 * m + 0.1 * g
                v[...] = 0.999 * v + 0.001 * g * g
                p -= 0.01 * (m / (1 - 0.9**self.t)) / (tg.sqrt(v / (1 - 0.999**self.t)) + 1e-8)


def adam(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    m.zero()
    loss = m.loss(x, y)
    loss.backward()
    m.update()
    return loss  # type: ignore[no-any-return]


def test_adam_with_a_tensor_step_count() -> None:
    same(lambda: Adam(tg.asarray(0.0)), adam)


def test_adam_with_a_python_step_count_is_refused() -> None:
    refused(Adam, adam, r"divide at test_compile.py:\d+: the number .* became .*in place.*as an argument")


def test_state_made_on_the_first_call() -> None:
    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        m.zero()
        loss = m.loss(x, y)
        loss.backward()
        with tg.no_grad():
            if not hasattr(m, "momentum"):
                m.momentum = [tg.zeros_like(p) for p in m.parameters()]
            for p, v in zip(m.parameters(), m.momentum, strict=True):
                v *= 0.9
                v += p.grad
                p -= 0.1 * v
        return loss  # type: ignore[no-any-return]

    same(Model, step)


def test_state_computed_on_the_first_call() -> None:
    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        m.zero()
        loss = m.loss(x, y)
        loss.backward()
        with tg.no_grad():
            if hasattr(m, "momentum"):
                m.momentum[...] = m.momentum * 0.9 + m.w.grad
            else:
                m.momentum = m.w.grad * 1.0
            m.w -= 0.1 * m.momentum
        return loss  # type: ignore[no-any-return]

    same(Model, step)


def test_rebound_state_is_refused() -> None:
    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        loss = plain(m, x, y)
        m.ema = 0.9 * m.ema + 0.1 * m.w.detach() if hasattr(m, "ema") else m.w.detach()
        return loss

    refused(Model, step, r"test_compile.py:\d+.*in place")


def test_a_rate_decayed_in_python_is_refused() -> None:
    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        m.zero()
        loss = m.loss(x, y)
        loss.backward()
        m.rate = getattr(m, "rate", 0.1) * 0.5
        m.sgd(m.rate)
        return loss  # type: ignore[no-any-return]

    refused(
        Model, step, r"multiply at compiling.py:\d+: the number 0.025 became 0.0125: keep changing values in a Tensor"
    )


def test_a_rate_in_a_tensor() -> None:
    def make() -> Any:
        m: Any = Model()
        m.rate = tg.asarray(0.1)
        return m

    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        m.zero()
        loss = m.loss(x, y)
        loss.backward()
        m.sgd(m.rate)
        m.rate *= 0.5
        return loss  # type: ignore[no-any-return]

    same(make, step)


def test_a_batch_picked_inside_is_refused() -> None:
    def step(m: Any) -> tg.Tensor:
        m.i = getattr(m, "i", -1) + 1
        return plain(m, tg.asarray(m.xs[m.i]), tg.asarray(m.ys[m.i]))

    refused(Model, step, r"index_get at test_compile.py:\d+: the number 1 became 2", lambda m, i: ())


def test_a_batch_picked_inside_by_random_indices_is_refused() -> None:
    def step(m: Any) -> tg.Tensor:
        m.rng = getattr(m, "rng", np.random.default_rng(0))
        chosen = m.rng.integers(-5, 5, size=3)
        return tg.sum(m.w[chosen % 4, 0] * 2.0).detach() + tg.sum(m.w[m.rng.integers(-4, 4, size=2)]).detach()

    refused(Model, step, r"test_compile.py:\d+: .*another one in each call", lambda m, i: ())


def test_random_noise_in_a_buffer_of_our_own_is_refused() -> None:
    def make() -> Any:
        m: Any = Model()
        m.noise, m.rng = np.zeros(3), np.random.default_rng(0)
        return m

    def step(m: Any) -> tg.Tensor:
        m.rng.standard_normal(out=m.noise)
        return (m.b + m.noise).detach()  # type: ignore[no-any-return]

    refused(make, step, r"test_compile.py:\d+ a raw array from outside is updated in place", lambda m, i: ())


def test_a_raw_array_outside_is_read_again() -> None:
    def make() -> Any:
        m: Any = Model()
        m.shift = np.zeros(3)
        return m

    def before(m: Any, i: int) -> None:
        if i > 3:
            m.shift += 1.0

    def shifted(m: Any, x: tg.Tensor, y: tg.Tensor) -> Any:
        with tg.no_grad():
            m.b[...] = tg.asarray(m.shift)
            return m.b * m.shift, tg.asarray(m.shift)

    same(make, shifted, before=before)


@pytest.mark.parametrize("when", ["start", "end", "never", "every third"])
def test_when_gradients_are_reset(when: str) -> None:
    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        if when == "start":
            m.zero()
        loss = m.loss(x, y)
        loss.backward()
        m.sgd(0.1)
        if when == "end":
            m.zero()
        return loss  # type: ignore[no-any-return]

    def before(m: Any, i: int) -> None:
        if when == "every third" and i % 3 == 0:
            m.zero()

    same(Model, step, before=before, arguments=lambda m, i: m.batch(i % CALLS), calls=16)


def test_gradients_used_before_they_are_made_anew() -> None:
    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        m.sgd(0.1)
        m.zero()
        loss = m.loss(x, y)
        loss.backward()
        return loss  # type: ignore[no-any-return]

    def before(m: Any, i: int) -> None:
        if i == 0:
            m.loss(*m.batch(0)).backward()

    same(Model, step, before=before)


def test_an_optimiser_alone() -> None:
    def before(m: Any, i: int) -> None:
        m.zero()
        m.loss(*m.batch(i % CALLS)).backward()

    same(Model, lambda m: m.sgd(0.1), lambda m, i: (), before=before)


def test_a_gradient_set_by_hand() -> None:
    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> None:
        m.w.grad = tg.ones_like(m.w) * 0.5
        m.b.grad = tg.full(3, 0.25)

    same(Model, step)


def test_a_gradient_set_to_what_python_counts_is_refused() -> None:
    def step(m: Any) -> None:
        m.i = getattr(m, "i", 0) + 1
        m.b.grad = tg.full(3, float(m.i))

    refused(Model, step, r"full at test_compile.py:\d+: the number 2.0 became 3.0", lambda m, i: ())


def test_state_that_the_user_changes_between_calls() -> None:
    def before(m: Any, i: int) -> None:
        if i == 5:
            m.w[...] = 0.25
        if i == 8:
            m.b.requires_grad = False
        if i == 11:
            m.b.requires_grad = True

    def outside(m: Any, i: int) -> None:
        with tg.no_grad():
            before(m, i)

    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        m.zero()
        loss = m.loss(x, y)
        loss.backward()
        with tg.no_grad():
            for p in m.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad
        return loss  # type: ignore[no-any-return]

    same(Model, step, lambda m, i: m.batch(i % CALLS), calls=16, before=outside)


def test_a_gradient_that_nobody_needs_is_still_set() -> None:
    v, x = tg.zeros(2), tg.tensor([1.0, 2.0], requires_grad=True)
    f = tg.compile(lambda: tg.sum(v + x).backward())
    for _ in range(5):
        x.grad = None
        f()
    v.requires_grad = True
    x.grad = None
    f()
    assert v.grad is not None


def test_state_replaced_by_another_tensor() -> None:
    def before(m: Any, i: int) -> None:
        if i in (1, 2, 3, 5, 6, 11):
            m.w = m.make(np.full((4, 3), 0.1 * i), True)

    same(Model, plain, lambda m, i: m.batch(i % CALLS), before=before, calls=16)


def test_two_compiled_functions_see_replaced_state() -> None:
    m = Model()
    train, look = tg.compile(lambda x, y: plain(m, x, y)), tg.compile(lambda x: (x @ m.w).detach())
    for i in range(CALLS):
        x, y = m.batch(i)
        train(x, y)
        look(x)
    m.w = m.make(np.zeros((4, 3)), True)
    assert not np.asarray(look(m.batch(0)[0])).any()
    before = visible(m)
    train(*m.batch(0))
    assert visible(m) != before


def test_float32() -> None:
    same(lambda: Model(dtype="float32"), plain)


def test_complex_weights() -> None:
    def make() -> Any:
        m: Any = Model()
        m.c = tg.tensor([1.0 + 2.0j, 3.0 - 1.0j], requires_grad=True)
        return m

    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        m.c.grad = None
        loss = tg.sum(tg.abs(m.c * tg.exp(1j * m.c)) * x[0, :2])
        loss.backward()
        with tg.no_grad():
            m.c -= 0.1 * m.c.grad
        return loss

    same(make, step)


def test_an_error_before_the_end_leaves_state_untouched() -> None:
    """Whatever raises: a value that is to be written into state lies elsewhere until nothing can raise any more."""
    w = tg.asarray([1.0, 2.0])

    def step(x: Any, labels: Any) -> Any:
        new = w * 0.5
        loss = tg.cross_entropy(x, labels) + tg.linalg.inv(x)[0, 0]
        w[...] = new
        return loss

    compiled = tg.compile(step)
    eye = tg.eye(2)
    for _ in range(4):
        compiled(eye, tg.asarray([1, 0]))
    for x, labels in ((eye, [1, 7]), (eye * 0.0, [1, 0])):
        with pytest.raises(ValueError, match=r"out of range|Singular"):
            compiled(x, tg.asarray(labels))
        assert w.tolist() == [1 / 16, 2 / 16]
