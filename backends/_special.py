"""Special functions of a library, found by SciPy's names for them when they are first used.

A library without special functions of its own gets SciPy's, through the host. What a library lacks, or has in a form
that is less precise, is written here once in terms of what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from math import factorial, inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tapegrad.backends._base import Array, Backend

Function = Callable[..., Any]


class Special:
    """What `xp.special` is on raw arrays: a function is looked for once, then it is a plain attribute."""

    def __init__(self, find: Callable[[str], Function]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        function = self._find(name)
        self.__dict__[name] = function
        return function


def scipy_special() -> Any:
    """Return scipy.special; ImportError with the install command where SciPy is missing."""
    try:
        import scipy.special
    except ImportError as error:
        raise ImportError(
            "special functions of NumPy arrays, and of libraries without their own, are SciPy's, which cannot be "
            f"imported ({error}): pip install 'tapegrad[special]'"
        ) from error
    return scipy.special


def find(
    backend: Backend,
    name: str,
    module: Any = None,
    own: Mapping[str, Function] | None = None,
    composed: Collection[str] = (),
) -> Function:
    """Return a special function for the arrays of a library.

    name: SciPy's; module: where the library has its own; own: those that it has elsewhere or under another name;
    composed: names for which the composition is better than what is in the module.
    """
    if own is not None and name in own:
        return own[name]
    missing = module is not None and not hasattr(module, name)
    if name in COMPOSED and (missing or name in composed or name == "polygamma"):
        return partial(COMPOSED[name], backend.xp)
    if module is None or missing:
        return through_host(backend, name)
    return getattr(module, name)  # type: ignore[no-any-return]


def through_host(backend: Backend, name: str) -> Function:
    """Return SciPy's function for arrays of another library: the result is on the device of the argument."""
    function = getattr(scipy_special(), name)

    def call(*args: Any) -> Array:
        device = next(getattr(a, "device", None) for a in args if hasattr(a, "shape"))
        out = function(*[backend.to_host(a) if hasattr(a, "shape") else a for a in args])
        return backend.from_host(np.asarray(out), device)

    return call


def polygamma(xp: Any, n: int, x: Array) -> Array:
    """Return the n-th derivative of digamma by the Hurwitz zeta function, DLMF 25.11.12: in the dtype of x."""
    if n == 0:
        return xp.special.digamma(x)
    scale = float(factorial(n)) if n < 171 else inf
    return (-scale if n % 2 == 0 else scale) * xp.special.zeta(n + 1.0, x)


def ndtr(xp: Any, x: Array) -> Array:
    """Return the normal distribution function by erfc, which is precise where it is near 0."""
    return 0.5 * xp.special.erfc(x * -sqrt(0.5))


def rel_entr(xp: Any, x: Array, y: Array) -> Array:
    """Return x log(x / y), by log1p where x is near y; 0 for x = 0 <= y, inf outside."""
    inside = (x > 0) & (y > 0)
    x1, y1 = xp.where(inside, x, 1), xp.where(inside, y, 1)
    near = xp.abs(x1 - y1) < 0.5 * y1
    log = xp.where(near, xp.log1p(xp.where(near, x1 - y1, 0) / y1), xp.log(x1) - xp.log(y1))
    out = xp.where(inside, x1 * log, xp.where((x == 0) & (y >= 0), 0, inf))
    return xp.where(xp.isnan(x) | xp.isnan(y), x + y, out)


def betaln(xp: Any, a: Array, b: Array) -> Array:
    """Return log(gamma(a) gamma(b) / gamma(a + b)), by Stirling's series (DLMF 5.11.1) where one of both is large."""
    small, large = xp.minimum(a, b), xp.maximum(a, b)
    stirling = (large >= 10) & (small > 0)
    c = xp.where(stirling, large, 10)
    d = xp.where(stirling, small, 1)
    tail = d - (c - 0.5) * xp.log1p(d / c) - d * xp.log(c + d) + _stirling(c) - _stirling(c + d)
    lgamma = xp.special.gammaln
    return lgamma(small) + xp.where(stirling, tail, lgamma(large) - lgamma(xp.where(stirling, 1, a + b)))


def _stirling(x: Array) -> Array:
    """Return gammaln(x) - ((x - 1/2) log(x) - x + log(2 pi) / 2), for x >= 10."""
    s = 1 / (x * x)
    return (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s * (1 / 1680 - s * (1 / 1188 - s * (691 / 360360)))))) / x


COMPOSED: dict[str, Function] = {"betaln": betaln, "ndtr": ndtr, "polygamma": polygamma, "rel_entr": rel_entr}
