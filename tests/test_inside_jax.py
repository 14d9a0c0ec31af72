"""Computations of tapegrad inside functions that users hand to jax.jit and jax.vmap themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from places import why_not
from test_compile_samples import REFUSED, number
from test_samples import FIRST, floating

import tapegrad as tg
from tapegrad.testing import SAMPLES, Sample

if why_not("jax:cpu"):
    pytest.skip("JAX is not installed", allow_module_level=True)

import jax
import jax.numpy as jnp

TRACED = [s for s in SAMPLES if s.name in FIRST and s.operation not in REFUSED and s.name not in REFUSED]
# Operations whose rules make new arrays on the device of others, or look at values.
COMPILED = [
    s for s in TRACED if s.operation in ("getitem", "setitem", "take", "rfft", "det", "diagonal", "cross_entropy")
]
COMPILED += [s for s in TRACED[::24] if s.order and s not in COMPILED]


def value_and_gradients(sample: Sample, *raw: Any) -> list[Any]:
    """Return a number made of the result of a sample, and its gradients, as raw arrays."""
    where, xs = floating(sample), [tg.asarray(x) for x in raw]

    def loss(*given: Any) -> Any:
        y = sample.f(*[given[where.index(i)] if i in where else x for i, x in enumerate(xs)])
        return sum(number(v if "floating" in v.dtype.kind else tg.astype(v, tg.float64), None) for v in parts(y))

    given = [xs[i] for i in where]
    if not where or not sample.order:
        return [loss(*given).array]
    value, gradients = tg.value_and_grad(loss, tuple(range(len(where))))(*given)
    return [value.array, *[g.array for g in gradients]]


def parts(y: Any) -> list[Any]:
    return [v for part in y for v in parts(part)] if isinstance(y, (tuple, list)) else [y]


def arguments(sample: Sample) -> list[Any]:
    return [jnp.asarray(a) for a in sample.args]


def test_every_operation_can_be_traced() -> None:
    for sample in TRACED:
        found = jax.eval_shape(partial(value_and_gradients, sample), *arguments(sample))
        expected = [(), *[sample.args[i].shape for i in floating(sample)]]
        assert [x.shape for x in found] == expected[: len(found)], sample.name


def test_gradients_of_what_is_compiled() -> None:
    def all_of_them(given: list[Any]) -> list[Any]:
        return [value_and_gradients(s, *raw) for s, raw in zip(COMPILED, given, strict=True)]

    found = jax.jit(all_of_them)([arguments(s) for s in COMPILED])
    for sample, got in zip(COMPILED, found, strict=True):
        for a, b in zip(got, value_and_gradients(sample, *sample.args), strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-9, atol=1e-9, err_msg=sample.name)


def first_two(x: Any) -> Any:
    return x[0] * x[1] + x[-1]


X, ROWS, NUMBERS = np.asarray([2.0, 3.0, 5.0]), np.asarray([[2.0, 3.0, 5.0], [1.0, 4.0, 6.0]]), np.asarray([2.0, 7.0])
READS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "grad": (tg.grad(first_two), (X,)),
    "grad of grad": (tg.grad(lambda x: tg.sum(tg.grad(first_two)(x) ** 2)), (X,)),
    "hessian": (tg.hessian(first_two), (X,)),
    "jvp": (lambda x: tg.jvp(first_two, (x,), (x,))[1], (X,)),
    "linearize": (lambda x: tg.linearize(first_two, x)[1](x), (X,)),
    "slices": (tg.grad(lambda x: tg.sum(x[1:] * x[:-1])), (X,)),
    "integers": (tg.grad(lambda x: tg.sum(x[[0, 0, 2]] ** 2)), (X,)),
    "vmap": (tg.vmap(first_two), (ROWS,)),
    "vmap of grad": (tg.vmap(tg.grad(first_two)), (ROWS,)),
    "grad of vmap": (tg.grad(lambda x: tg.sum(tg.vmap(first_two)(x))), (ROWS,)),
    "vmap over numbers": (tg.vmap(lambda x: x * 2.0 + tg.sum(x[None])), (NUMBERS,)),
    "vmap over numbers, x[...]": (tg.vmap(tg.grad(lambda x: x[...] ** 3)), (NUMBERS,)),
    "vmap over indices": (lambda x, i: tg.vmap(lambda i: tg.asarray(x)[i] * 2.0)(i), (X, np.asarray([2, 0]))),
    "vmap over indices, grad": (
        tg.grad(lambda x, i: tg.sum(tg.vmap(lambda i, x: x[i] ** 2, in_axes=(0, None))(i, x))),
        (X, np.asarray([2, 2])),
    ),
    "an index that is traced": (tg.grad(lambda x, i: x[i] ** 2), (X, np.asarray(1))),
    "a write at one that is": (tg.grad(lambda x, i: tg.sum(put(x, i) ** 2)), (X, np.asarray(1))),
    "backward": (lambda x: of_leaf(x), (X,)),
}


def put(x: Any, i: Any) -> Any:
    y = x * 1.0
    y[i] = y[0] * 3.0
    return y


def of_leaf(x: Any) -> Any:
    leaf = tg.tensor(x, requires_grad=True)
    first_two(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad.array


def raw(y: Any) -> Any:
    return y.array if isinstance(y, tg.Tensor) else y


def test_reads_of_items() -> None:
    def all_of_them(given: list[Any]) -> list[Any]:
        return [raw(f(*xs)) for (f, _), xs in zip(READS.values(), given, strict=True)]

    found = jax.jit(all_of_them)([[jnp.asarray(x) for x in xs] for _, xs in READS.values()])
    for (name, (f, xs)), got in zip(READS.items(), found, strict=True):
        np.testing.assert_allclose(np.asarray(got), raw(f(*xs)), rtol=1e-12, err_msg=name)


def test_inside_of_jax_vmap_and_grad() -> None:
    rows = jnp.asarray(ROWS)
    np.testing.assert_allclose(jax.vmap(tg.grad(first_two))(rows), tg.vmap(tg.grad(first_two))(ROWS))
    with pytest.raises(TypeError, match="jax"):  # two engines at once
        jax.grad(lambda x: tg.sum(tg.grad(first_two)(x)))(rows[0])


def test_a_text_of_what_has_no_values() -> None:
    texts = []

    def f(x: Any) -> Any:
        texts.append(repr(tg.asarray(x)))
        return x

    jax.jit(f)(jnp.asarray(X))
    assert texts[0].startswith("Tensor(")
    assert "float64[3]" in texts[0]


def test_labels_out_of_range_give_nan_where_nothing_can_raise() -> None:
    step = jax.jit(tg.value_and_grad(tg.cross_entropy))
    logits = jnp.asarray([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])
    value, gradient = step(logits, jnp.asarray([0, 2]))
    expected = tg.value_and_grad(tg.cross_entropy)(np.asarray(logits), np.asarray([0, 2]))
    np.testing.assert_allclose(value, expected[0])
    np.testing.assert_allclose(gradient, expected[1])
    for bad in (3, -1):
        value, gradient = step(logits, jnp.asarray([0, bad]))
        assert np.isnan(value)
        assert np.isnan(gradient[1]).all()
