"""Integers where floats are meant, and labels and indices of small integer dtypes along long axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.special
from places import Place

import tapegrad as tg

LONG = 300
LABELS = np.arange(512) % 10
SMALL = ("int8", "uint8", "uint16")


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> str:
    """Give each small dtype in turn."""
    return str(request.param)


def test_take_along_axis_adds_into_its_own_rows(xp: Place, small: str) -> None:
    """Each row gets its own cotangent, also beyond row 255."""
    rows = 20 if xp.device.startswith("strict:") and small != "uint8" else len(LABELS)  # strict takes its time
    labels = xp.tensor(LABELS[:rows].astype(small)[:, None])
    g = tg.grad(lambda x: tg.sum(tg.take_along_axis(x, labels, axis=1)))(xp.tensor(np.zeros((rows, 10))))
    xp.check(g, np.eye(10)[LABELS[:rows]])


def test_one_hot_has_one_one(xp: Place, small: str) -> None:
    """A label is met once among more classes than its dtype counts."""
    labels = xp.tensor(np.asarray([0, 44, 127], dtype=small))
    xp.check(tg.one_hot(labels, LONG), np.eye(LONG)[[0, 44, 127]])


def test_cross_entropy_of_many_classes(xp: Place, small: str) -> None:
    """Labels are in range, and one class gets the gradient of each."""
    labels = np.asarray([0, 44, 127])
    logits = np.zeros((3, LONG))
    g = tg.grad(tg.cross_entropy)(xp.tensor(logits), xp.tensor(labels.astype(small)))
    xp.check(g, (1 / LONG - np.eye(LONG)[labels]) / 3, rtol=1e-7)
    with pytest.raises(ValueError, match="a label is out of range: with 100 classes"):
        tg.cross_entropy(xp.tensor(logits[:, :100]), xp.tensor(labels.astype(small))).item()  # see Backend.refuse


def test_indexing_is_by_numbers(xp: Place, small: str) -> None:
    """Small integers are indices to read and to write by, never masks."""
    index = xp.tensor(np.asarray([1, 0, 1], dtype=small))
    x = xp.tensor(np.arange(3.0))
    xp.check(x[index], [1.0, 0.0, 1.0])
    xp.check(tg.take(x, index), [1.0, 0.0, 1.0])
    xp.check(tg.grad(lambda x: tg.sum(x[index]) + tg.sum(tg.take(x, index)))(x), [2.0, 4.0, 0.0])

    def written(x: tg.Tensor) -> tg.Tensor:
        y = x * 1
        y[index] = 5.0
        return tg.sum(y)

    xp.check(tg.grad(written)(x), [0.0, 0.0, 1.0])


def test_labels_in_compiled_and_mapped_functions(small: str) -> None:
    """Mapped and compiled calls give the same."""
    labels = tg.asarray(LABELS.astype(small))
    x = tg.zeros((len(LABELS), LONG))
    expected = (1 / LONG - np.eye(LONG)[LABELS]) / len(LABELS)
    gradient = tg.compile(tg.grad(tg.cross_entropy))
    for _ in range(3):
        np.testing.assert_allclose(np.asarray(gradient(x, labels)), expected)
    each = tg.vmap(tg.grad(tg.cross_entropy))(x, labels)
    np.testing.assert_allclose(np.asarray(each), expected * len(LABELS))


# -- functions of floats ------------------------------------------------------------------------------------

VALUES = [[100, 7], [3, 120]]  # their sums, differences and squares wrap in eight bits
OF_FLOATS: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(tg, name) for name in ("sigmoid", "silu", "gelu", "softmax", "log_softmax", "logsumexp")},
    "gelu by tanh": partial(tg.gelu, approximate="tanh"),
    **{name: getattr(tg.special, name) for name in ("expit", "log_expit", "softmax", "log_softmax", "logsumexp")},
    **{name: getattr(tg.special, name) for name in ("erf", "gammaln", "digamma", "log_ndtr", "entr")},
    **{name: getattr(tg.linalg, name) for name in ("det", "inv", "pinv", "matrix_rank", "svdvals", "vector_norm")},
    "symmetric eigenvalues": lambda x: tg.linalg.eigvalsh(x + tg.matrix_transpose(x)),
    "cholesky": lambda x: tg.linalg.cholesky(tg.astype(x * tg.eye(2, dtype=x.dtype, device=x.device), x.dtype)),
    "solve": lambda x: tg.linalg.solve(x, x[0]),
    "slogdet": lambda x: tg.linalg.slogdet(x).logabsdet,
    "qr": lambda x: tg.abs(tg.linalg.qr(x).R),
    "eig": lambda x: tg.abs(tg.linalg.eigvals(x)),
    **{f"matrix_norm {ord}": partial(tg.linalg.matrix_norm, ord=ord) for ord in ("fro", "nuc", 1, 2)},
    **{f"vector_norm {ord}": partial(tg.linalg.vector_norm, ord=ord) for ord in (0, 1, 3, np.inf)},
    "vector_norm of no axes": lambda x: tg.linalg.vector_norm(x, axis=()),
    "cross_entropy": lambda x: tg.cross_entropy(x, tg.asarray([0, 1], device=x.device)),
    "betaln": lambda x: tg.special.betaln(x, x[0]),
    "rel_entr": lambda x: tg.special.rel_entr(x, x[0]),
    "xlogy": lambda x: tg.special.xlogy(x, x[0]),
    "polygamma": lambda x: tg.special.polygamma(1, x),
    "polygamma of orders": lambda x: tg.special.polygamma(x[0] % 3, x),
}


BOOLEANS = (
    "gelu",
    "sigmoid",
    "silu",
    "softmax",
    "log_softmax",
    "logsumexp",
    "log_expit",
    "vector_norm",
    "svdvals",
    "polygamma",
)


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "uint8") for name in OF_FLOATS), *((name, "bool") for name in BOOLEANS)]
)
def test_functions_of_floats_take_integers(xp: Place, name: str, dtype: str) -> None:
    """As floats of their values, on every library."""
    f = OF_FLOATS[name]
    values = np.asarray(VALUES).astype(dtype)
    if name == "symmetric eigenvalues":
        values = values // 2
    y = f(xp.tensor(values))
    with np.errstate(all="ignore"):
        expected = f(tg.asarray(values.astype(np.float64))) if "orders" not in name else _trigamma(values)
    assert "float" in y.dtype.name or name == "matrix_rank"
    np.testing.assert_allclose(
        xp.values(y), expected.tolist(), rtol=2e-3 if y.dtype.name == "float16" else 1e-4, atol=1e-6
    )


def _trigamma(values: Any) -> Any:
    return tg.asarray(scipy.special.polygamma(values[0] % 3, values.astype(np.float64)))


def test_integers_to_a_negative_power(xp: Place) -> None:
    x = xp.tensor(np.asarray([2, 3]))
    with pytest.raises((ValueError, RuntimeError, TypeError), match="egative.*powers"):
        x**-1
    with pytest.raises((ValueError, RuntimeError, TypeError), match="egative.*powers"):
        x **= -1
    xp.check(tg.astype(x, tg.float32) ** -1, np.asarray([1 / 2, 1 / 3], dtype=np.float32))


def test_norms_of_nothing(xp: Place) -> None:
    for ord, value in ((2, 0.0), (1, 0.0), (3, 0.0), (0, 0.0), (np.inf, 0.0), (-1, np.inf)):
        x = xp.tensor(np.zeros((2, 0)), requires_grad=True)
        y = tg.linalg.vector_norm(x, axis=1, ord=ord)
        xp.check(y, [value, value])
        tg.sum(y).backward()
        assert x.grad is not None
        assert x.grad.shape == (2, 0)
        assert tg.linalg.vector_norm(x, keepdims=True, ord=ord).shape == (1, 1)
        assert tg.linalg.vector_norm(x, axis=0, ord=ord).shape == (0,)
    with pytest.raises(ValueError, match=r"vector_norm: ord=-inf is the least of no elements.*\(2, 0\)"):
        tg.linalg.vector_norm(xp.tensor(np.zeros((2, 0))), ord=-np.inf)
