"""NumPy's protocols: what NumPy functions and scalars do when they meet a Tensor."""

from __future__ import annotations

from typing import Any

from tapegrad._tensor import Tensor

# NumPy's names that are not the standard's.
_RENAMED = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "conjugate": "conj",
    "fabs": "abs",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "mod": "remainder",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "rint": "round",
    "true_divide": "divide",
}


def _array_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """Run a NumPy ufunc on Tensors as tapegrad's function of the same meaning, recorded; or raise."""
    name = _RENAMED.get(ufunc.__name__, ufunc.__name__)
    import tapegrad

    function = getattr(tapegrad, name, None)
    if method != "__call__" or options or function is None:
        what = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        raise TypeError(
            f"numpy.{what} with a Tensor{' and options ' + ', '.join(options) if options else ''} has no counterpart "
            "that keeps the gradient: use a function of tapegrad, or x.detach() for the value alone"
        )
    return function(*inputs)


def bind() -> None:
    """Give Tensor NumPy's protocols; done once, when tapegrad is imported."""
    Tensor.__array_ufunc__ = _array_ufunc  # type: ignore[method-assign]
