"""The operations whose eager cost is measured, in tapegrad and in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg

Arrays = dict[str, np.ndarray[Any, Any]]


class Operation(NamedTuple):
    """One row: an operation in both libraries, and its operands by name (see `operands`).

    torch: takes PyTorch's module and the operands. differentiable: whether a backward pass is measured too.
    """

    name: str
    tapegrad: Callable[..., Any]
    torch: Callable[..., Any]
    operands: str = "x"
    differentiable: bool = True


def operands(n: int) -> Arrays:
    """Return the operands: matrices x and y, positive p, a batch of matrices b, a vector v, integers i, a mask m."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, n), dtype=np.float32) for _ in range(2))
    return {
        "x": x,
        "y": y,
        "p": np.abs(x) + np.float32(0.5),
        "b": rng.standard_normal((4, n, n), dtype=np.float32),
        "v": rng.standard_normal(n, dtype=np.float32),
        "i": rng.integers(n, size=n),
        "m": x > 0,
    }


OPERATIONS = (
    Operation("add", lambda x, y: x + y, lambda t, x, y: x + y, "x y"),
    Operation("add a number", lambda x: x + 1.0, lambda t, x: x + 1.0),
    Operation("multiply", lambda x, y: x * y, lambda t, x, y: x * y, "x y"),
    Operation("add a row", lambda x, v: x + v, lambda t, x, v: x + v, "x v"),
    Operation("divide", lambda x, p: x / p, lambda t, x, p: x / p, "x p"),
    Operation("pow", lambda x: x**2, lambda t, x: x**2),
    Operation("exp", tg.exp, lambda t, x: t.exp(x)),
    Operation("log", tg.log, lambda t, p: t.log(p), "p"),
    Operation("tanh", tg.tanh, lambda t, x: t.tanh(x)),
    Operation("abs", tg.abs, lambda t, x: t.abs(x)),
    Operation("sign", tg.sign, lambda t, x: t.sign(x), differentiable=False),
    Operation("clip", lambda x: tg.clip(x, -1.0, 1.0), lambda t, x: t.clamp(x, -1.0, 1.0)),
    Operation("where", lambda x, y, m: tg.where(m, x, y), lambda t, x, y, m: t.where(m, x, y), "x y m"),
    Operation("relu", tg.relu, lambda t, x: t.relu(x)),
    Operation("sigmoid", tg.sigmoid, lambda t, x: t.sigmoid(x)),
    Operation("silu", tg.silu, lambda t, x: t.nn.functional.silu(x)),
    Operation(
        "gelu", lambda x: tg.gelu(x, approximate="tanh"), lambda t, x: t.nn.functional.gelu(x, approximate="tanh")
    ),
    Operation("sum", tg.sum, lambda t, x: t.sum(x)),
    Operation("sum of rows", lambda x: tg.sum(x, axis=-1), lambda t, x: t.sum(x, -1)),
    Operation("mean", tg.mean, lambda t, x: t.mean(x)),
    Operation("max of rows", lambda x: tg.max(x, axis=-1), lambda t, x: t.amax(x, -1)),
    Operation("var of rows", lambda x: tg.var(x, axis=-1), lambda t, x: t.var(x, -1, correction=0)),
    Operation("vector norm", tg.linalg.vector_norm, lambda t, x: t.linalg.vector_norm(x)),
    Operation("softmax", lambda x: tg.softmax(x, axis=-1), lambda t, x: t.softmax(x, -1)),
    Operation("log_softmax", lambda x: tg.log_softmax(x, axis=-1), lambda t, x: t.log_softmax(x, -1)),
    Operation("logsumexp", lambda x: tg.logsumexp(x, axis=-1), lambda t, x: t.logsumexp(x, -1)),
    Operation("cross_entropy", tg.cross_entropy, lambda t, x, i: t.nn.functional.cross_entropy(x, i), "x i"),
    Operation("matmul", lambda x, y: x @ y, lambda t, x, y: x @ y, "x y"),
    Operation("matmul by a transpose", lambda x, y: x @ y.mT, lambda t, x, y: x @ y.mT, "x y"),
    Operation("matmul of a batch by one", lambda b, x: b @ x, lambda t, b, x: b @ x, "b x"),
    Operation("matmul of batches", lambda b: b @ b, lambda t, b: b @ b, "b"),
    Operation("take", lambda x, i: tg.take(x, i, axis=0), lambda t, x, i: x[i], "x i"),
    Operation("slice", lambda x: x[1:], lambda t, x: x[1:]),
    Operation("reshape", lambda x: tg.reshape(x, (-1,)), lambda t, x: t.reshape(x, (-1,))),
    Operation("transpose", tg.matrix_transpose, lambda t, x: x.mT),
    Operation("concat", lambda x, y: tg.concat([x, y]), lambda t, x, y: t.concat([x, y]), "x y"),
    Operation("zeros_like", tg.zeros_like, lambda t, x: t.zeros_like(x), differentiable=False),
)
