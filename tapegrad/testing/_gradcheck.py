"""Derivatives from the tape against finite differences along one random direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad._engine.coercion import as_tensor
from tapegrad._engine.dtypes import isdtype
from tapegrad._engine.mode import mode_set
from tapegrad._engine.tensor import Tensor, host, wrap
from tapegrad._transforms.custom_rules import isolated
from tapegrad._transforms.forward import jvp
from tapegrad._transforms.reverse import grad
from tapegrad.ops.conversion import transfer
from tapegrad.ops.creation import asarray
from tapegrad.ops.elementwise import conj, real
from tapegrad.ops.reductions import sum as sum_
from tapegrad.typing import ArrayLike

# Central differences of fourth order: f'(0) = sum of c f(k h) / h, with an error of h^4.
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
# dtype name -> (relative step, tolerance): the step balances h^4 against rounding / h.
_ACCURACY = {"float64": (1e-3, 1e-6), "complex128": (1e-3, 1e-6), "float32": (2e-2, 5e-3)}
_FLOATING = ("real floating", "complex floating")


class GradcheckError(AssertionError):
    """A derivative from the tape and a finite difference disagree.

    Examples
    --------
    >>> import tapegrad as tg
    >>> from tapegrad.testing import GradcheckError, gradcheck
    >>> try:
    ...     gradcheck(lambda x: x * tg.stop_gradient(x), [tg.asarray([1.0, 2.0])])
    ... except GradcheckError as error:
    ...     print(str(error).partition(" of shape")[0])
    gradcheck: first derivative argument 0
    """


def gradcheck(
    f: Callable[..., Any], args: Sequence[ArrayLike], *, rtol: float | None = None, seed: int = 0, name: str = ""
) -> None:
    """Check the first derivative of a function, in both modes, against finite differences.

    It is checked in each floating argument. Both sides are projected on random directions, so the cost is six calls of
    `f` an argument.

    Parameters
    ----------
    f : callable
        A function that takes and returns Tensors of any shape.
    args : sequence of ArrayLike
        Where to check it; floating and complex arguments are differentiated by.
    rtol : float or None, default None
        The greatest relative error. By default 1e-6 in float64 and 5e-3 in float32.
    seed : int, default 0
        The seed of the directions.
    name : str, default ''
        The name of the function in messages.

    Raises
    ------
    GradcheckError
        They disagree; the message has the argument, both numbers and the likely cause.

    Examples
    --------
    >>> import tapegrad as tg
    >>> from tapegrad.testing import gradcheck
    >>> gradcheck(lambda x: tg.sin(x) * x, [tg.asarray([0.5, 1.0])])
    """
    rng = np.random.default_rng(seed)
    xs = [as_tensor(a).detach() for a in args]
    f = isolated(f)
    w = _random_like(rng, f(*xs))

    def projected(*inputs: Tensor) -> Tensor:
        return _inner(w, f(*inputs))

    for i, x in enumerate(xs):
        if isdtype(x.dtype, _FLOATING) and x.size:
            _compare(projected, xs, i, rng, rtol, f"{name or 'gradcheck'}: first derivative", f)


def gradgradcheck(
    f: Callable[..., Any], args: Sequence[ArrayLike], *, rtol: float | None = None, seed: int = 0, name: str = ""
) -> None:
    """Check the second derivative of a function, reverse and forward over reverse.

    It is compared with differences of the first, for each pair of floating arguments.

    Parameters
    ----------
    f : callable
        A function that takes and returns Tensors of any shape.
    args : sequence of ArrayLike
        Where to check it; floating and complex arguments are differentiated by.
    rtol : float or None, default None
        The greatest relative error. By default 1e-6 in float64 and 5e-3 in float32.
    seed : int, default 0
        The seed of the directions.
    name : str, default ''
        The name of the function in messages.

    Raises
    ------
    GradcheckError
        They disagree; the message has the arguments, both numbers and the likely cause.

    Examples
    --------
    >>> import tapegrad as tg
    >>> from tapegrad.testing import gradgradcheck
    >>> gradgradcheck(lambda x, y: tg.exp(x) * y, [tg.asarray([0.5]), tg.asarray([2.0])])
    """
    rng = np.random.default_rng(seed)
    xs = [as_tensor(a).detach() for a in args]
    f = isolated(f)
    # A sum of squares: linear functions have second derivatives to check too.
    w, offset = _random_like(rng, f(*xs)), _random_like(rng, f(*xs))
    floating = [i for i, x in enumerate(xs) if isdtype(x.dtype, _FLOATING) and x.size]
    directions = {i: _random_like(rng, xs[i]) for i in floating}

    def projected(*inputs: Tensor) -> Tensor:
        y = f(*inputs)
        return _inner(w, y) + 0.5 * _inner(y - offset, y - offset)

    for j in floating:
        first = grad(projected, j)

        def slope(*inputs: Tensor, j: int = j, first: Callable[..., Any] = first) -> Tensor:
            return _inner(directions[j], first(*inputs))

        for i in floating:
            _compare(
                slope,
                xs,
                i,
                rng,
                rtol,
                f"{name or 'gradgradcheck'}: second derivative, by argument {j} and",
                f,
            )


def _compare(
    s: Callable[..., Tensor],
    xs: list[Tensor],
    i: int,
    rng: np.random.Generator,
    rtol: float | None,
    what: str,
    f: Callable[..., Any],
) -> None:
    x = xs[i]
    step, default = _ACCURACY.get(x.dtype.name, _ACCURACY["float32"])
    rtol = default if rtol is None else rtol
    v = _random_like(rng, x)
    g = grad(s, i)(*xs)
    if g.shape != x.shape or g.dtype is not x.dtype or g.device != x.device:
        raise GradcheckError(
            f"{what} argument {i}: the gradient is {g.dtype.name}{g.shape} on {g.device}, the argument "
            f"{x.dtype.name}{x.shape} on {x.device}"
        )
    products = host(g).astype(complex).conj() * host(v)
    tape, scale = float(np.sum(products.real)), float(np.sum(np.abs(products))) + 1e-3

    def moving(x: Tensor) -> Tensor:
        return s(*xs[:i], x, *xs[i + 1 :])

    forward = float(jvp(moving, (x,), (v,))[1].item())
    if abs(tape - forward) > rtol * max(scale, abs(forward)):
        raise GradcheckError(
            f"{what} argument {i} of shape {x.shape}: reverse mode says {tape:.10g}, forward mode says {forward:.10g}. "
            "Likely cause: a rule that is not linear in its cotangent, or a custom_jvp not linear in its tangents"
        )

    def along(k: float) -> float:
        moved = [*xs]
        moved[i] = x + v * (k * step)
        return float(s(*moved).item())

    with mode_set(recording=False):
        finite = sum(c * along(k) for k, c in _STENCIL) / step
        error = abs(tape - finite) / max(scale, abs(finite))
        if error <= rtol:
            return
        half = sum(c * along(k / 2) for k, c in _STENCIL) / (step / 2)
    cause = "the rule is wrong"
    if not np.isfinite(finite):
        cause = "the function is not finite around the argument: choose another point"
    elif not np.isfinite(tape):
        cause = "the rule gives NaN or inf here: 0 * inf, or a point where the derivative is undefined"
    elif abs(half - finite) > 1e-3 * max(abs(half), abs(finite), 1e-3):
        cause = "the finite difference depends on its step: a kink or a jump lies close to the argument"
    elif g_is_zero(g):
        cause = "the gradient is zero: the chain may be cut by detach, no_grad or a conversion inside the function"
    raise GradcheckError(
        f"{what} argument {i} of shape {x.shape}: the tape says {tape:.10g}, finite differences say {finite:.10g} "
        f"(relative error {error:.1e}, allowed {rtol:.0e}). Likely cause: {cause}"
    )


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the real inner product of two Tensors; complex numbers count as pairs of real ones."""
    product = conj(a) * b if isdtype(a.dtype, "complex floating") else a * b
    return sum_(real(product) if isdtype(product.dtype, "complex floating") else product)


def g_is_zero(g: Tensor) -> bool:
    """Return whether a gradient is zero everywhere."""
    return not host(g).any()


def _random_like(rng: np.random.Generator, x: Any) -> Tensor:
    x = as_tensor(x)
    values = np.asarray(rng.standard_normal(x.shape))
    if isdtype(x.dtype, "complex floating"):
        values = values + 1j * rng.standard_normal(x.shape)
    return asarray(values, dtype=x.dtype, device=x.device) if x.device == "cpu" else _elsewhere(values, x)


def _elsewhere(values: Any, like: Tensor) -> Tensor:
    narrow = values.astype(host(like).dtype)
    return wrap(transfer(narrow, like.device))
