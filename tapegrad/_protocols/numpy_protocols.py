"""NumPy's protocols: NumPy's ufuncs and functions on Tensors."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from itertools import pairwise
from typing import Any

import numpy as np

from tapegrad._engine.bound import bound
from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.dtypes import DTYPES, DType
from tapegrad._engine.graph_breaks import cut
from tapegrad._engine.mode import notify_use
from tapegrad._engine.tensor import Tensor, host, loses_gradient
from tapegrad._protocols.nan_functions import NAN_FUNCTIONS
from tapegrad.backends import of_type
from tapegrad.ops.contraction import einsum

# NumPy's names that are not the standard's: ufuncs, then functions.
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
_FUNCTIONS = {
    "amax": "max",
    "amin": "min",
    "around": "round",
    "concatenate": "concat",
    "cumprod": "cumulative_prod",
    "cumsum": "cumulative_sum",
}
_OPTIONS = {"a_max": "max", "a_min": "min", "ddof": "correction", "reps": "repetitions"}
# Options that do not change values.
_NEUTRAL = ("casting", "copy", "kind", "subok")
_FLATTEN = ("argsort", "cumulative_prod", "cumulative_sum", "sort", "take")  # where axis=None means the flat array
# Functions that give the values as text.
_TEXTS = ("array2string", "array_repr", "array_str")
# Functions that only read values, and return objects of Python or NumPy.
_LOOKS = frozenset(
    (
        *_TEXTS,
        *("allclose", "array_equal", "array_equiv"),
        *("ndim", "shape", "size"),
        *("can_cast", "common_type", "iscomplexobj", "isrealobj", "result_type"),
        *("may_share_memory", "shares_memory"),
    )
)


def _find(name: str, extension: str = "") -> Any:
    """Return tapegrad's function of a name, in an extension (linalg, fft, special) if one is given; else None."""
    namespace = bound.namespace
    return getattr(getattr(namespace, extension, None) if extension else namespace, name, None)


def _is_wrapper(kind: type) -> bool:
    """Return whether a type with NumPy's protocols wraps arrays, as a quantity with a unit around a Tensor.

    This protocol then declines, so that NumPy tries that of the wrapper.
    """
    return not (kind is Tensor or issubclass(kind, (np.ndarray, np.generic)) or of_type(kind))


# -- ufuncs ----------------------------------------------------------------------------------------------


def _array_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """Run a NumPy ufunc on Tensors as tapegrad's counterpart, recorded.

    A ufunc without a counterpart raises TypeError for a recorded Tensor. On constants it computes, and returns Tensors
    on their device. A ufunc with `out=` raises.
    """
    if any(hasattr(type(x), "__array_ufunc__") and _is_wrapper(type(x)) for x in inputs):
        return NotImplemented
    name = _RENAMED.get(ufunc.__name__, ufunc.__name__)
    function = _divmod if name == "divmod" else _find(name) or _find(name, "special")
    if method == "__call__" and not options and function is not None:
        return function(*inputs)
    what = f"{'numpy.' if hasattr(np, ufunc.__name__) else 'the ufunc '}{ufunc.__name__}"
    what += "" if method == "__call__" else f".{method}"
    if "out" in options:
        raise TypeError(
            f"{what} with a Tensor and out= (as in ndarray += tensor) has no counterpart that keeps the "
            "gradient: write y = y + x, or np.asarray(x.detach()) for the value alone"
        )
    operands = _tensors((inputs, options))
    if method != "at" and not any(loses_gradient(x) for x in operands):
        for x in operands:
            notify_use(x)
        return _returned(getattr(ufunc, method)(*_hosted(inputs), **_hosted(options)), operands[0].device)
    raise TypeError(
        f"{what} with a Tensor{' and options ' + ', '.join(options) if options else ''} has no counterpart "
        "that keeps the gradient: use a function of tapegrad, or np.asarray(x.detach()) for the value alone"
    )


def _returned(out: Any, device: str) -> Any:
    """Return the result of a ufunc as a Tensor on a device; several results as a tuple."""
    return tuple(_returned(y, device) for y in out) if isinstance(out, tuple) else _find("asarray")(out, device=device)


def _divmod(x1: Any, x2: Any) -> tuple[Any, Any]:
    x1, x2 = as_tensors("divmod", x1, x2)
    return x1 // x2, x1 % x2


# -- functions -------------------------------------------------------------------------------------------


def _array_function(self: Tensor, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    """Run a NumPy function on Tensors as tapegrad's counterpart, recorded.

    A function without a counterpart raises TypeError for a recorded Tensor. Constants are passed to it as NumPy arrays.
    """
    if any(_is_wrapper(kind) for kind in types):
        return NotImplemented
    name: str = function.__name__
    if name not in _LOOKS:
        extension = function.__module__.partition("numpy.")[2]
        own = _SPECIAL.get(f"{extension}.{name}" if extension else name)
        given = _given(function, args, kwargs)
        if given is not None:
            out = own(**given) if own is not None else _translated(function, _counterpart(name, extension), given)
            if out is not NotImplemented:
                return out
        if any(loses_gradient(x) for x in _tensors((args, kwargs))):
            what = f"numpy.{extension + '.' if extension else ''}{name}"
            known = own is not None or _counterpart(name, extension) is not None
            raise TypeError(
                f"{what} with a Tensor{' and these arguments' if known else ''} has no counterpart that keeps the "
                "gradient: use a function of tapegrad, or x.detach() for the value alone"
            )
        for x in _tensors((args, kwargs)):
            notify_use(x)
    elif name in _TEXTS:
        for x in _tensors((args, kwargs)):
            if x._record is not None:
                cut(f"numpy.{name}()", x._record)
    return function(*_hosted(args), **_hosted(kwargs))


def _counterpart(name: str, extension: str) -> Any:
    """Return tapegrad's counterpart of a NumPy function that is not a ufunc, or None."""
    own = _FUNCTIONS.get(name, name)
    return _find(own, extension) or (None if extension else _find(own, "special"))


def _given(function: Any, args: Any, kwargs: Any) -> dict[str, Any] | None:
    """Return a call's arguments by NumPy's names, without those equal to the default; None without a signature."""
    try:
        parameters = signature(function)
    except ValueError:
        return None
    given = parameters.bind(*args, **kwargs).arguments
    return {
        name: value
        for name, value in given.items()
        if not (name in _NEUTRAL or (name == "order" and value in (None, "C", "K", "A")))
        and not _is_default(value, parameters.parameters[name].default)
    }


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (type(value) in (bool, int, str) and type(value) is type(default) and value == default)


def _translated(function: Any, counterpart: Callable[..., Any] | None, given: dict[str, Any]) -> Any:
    """Call tapegrad's function with a NumPy function's arguments; return NotImplemented for an unknown argument."""
    if counterpart is None or isinstance(counterpart, type):
        return NotImplemented
    parameters = signature(counterpart).parameters
    several = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters.values())
    leading = [n for n, p in parameters.items() if p.kind is not Parameter.KEYWORD_ONLY]
    numpys = list(signature(function).parameters)
    operands: list[Any] = []
    options: dict[str, Any] = {}
    for name, value in given.items():
        own = _OPTIONS.get(name, name)
        if own == "dtype" and not isinstance(value, DType):
            value = np.dtype(value).name
        place = numpys.index(name)
        if several and place == 0:
            operands += value
        elif own in parameters and parameters[own].kind is not Parameter.POSITIONAL_ONLY:
            options[own] = value
        elif place < len(leading) and place == len(operands):
            operands.append(value)
        else:
            return NotImplemented
    if counterpart.__name__ in _FLATTEN and _wants_flat(counterpart.__name__, function, given):
        operands[0] = _find("reshape")(operands[0], (-1,))
        options.pop("axis", None)
    return counterpart(*operands, **options)


def _wants_flat(name: str, function: Any, given: dict[str, Any]) -> bool:
    """Return whether axis=None, given or by default, means the flat array."""
    return given.get("axis", signature(function).parameters["axis"].default) is None and name in _FLATTEN


def _diff(a: Any, n: int = 1, axis: int = -1, **ends: Any) -> Any:
    """Return differences; NumPy's prepend and append may be numbers, for one element along the axis."""

    def end(value: Any) -> Any:
        shape = tuple(1 if i == axis % a.ndim else length for i, length in enumerate(a.shape))
        return value if _ndim(value) else _find("broadcast_to")(as_tensors("diff", a, value)[1], shape)

    if not isinstance(a, Tensor) or not a.ndim:
        return NotImplemented
    return _find("diff")(a, n=n, axis=axis, **{name: end(value) for name, value in ends.items()})


def _transpose(a: Any, axes: Any = None) -> Any:
    return _find("permute_dims")(a, tuple(range(a.ndim))[::-1] if axes is None else axes)


def _squeeze(a: Any, axis: Any = None) -> Any:
    return _find("squeeze")(a, tuple(i for i, n in enumerate(a.shape) if n == 1) if axis is None else axis)


def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    return _find("nonzero")(condition) if x is None and y is None else _find("where")(condition, x, y)


def _tile(A: Any, reps: Any) -> Any:
    return _find("tile")(A, (reps,) if isinstance(reps, int) else reps)


def _ndim(x: Any) -> int:
    """Return the number of axes, without a copy from a device."""
    return x.ndim if isinstance(x, Tensor) else np.ndim(x)


def _dot(a: Any, b: Any, **options: Any) -> Any:
    if options:
        return NotImplemented
    if _ndim(a) == 0 or _ndim(b) == 0:
        return _find("multiply")(a, b)
    if _ndim(b) <= 2:
        return _find("matmul")(a, b)
    return _find("tensordot")(a, b, axes=((-1,), (-2,)))


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    vector, matrix = _find("vector_norm", "linalg"), _find("matrix_norm", "linalg")
    if vector is None or matrix is None:
        return NotImplemented
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    if ord is None or len(axes) == 1:
        return vector(x, axis=axes, keepdims=keepdims, ord=2 if ord is None else ord)
    if len(axes) != 2:
        return NotImplemented
    # matrix_norm takes the last two axes; with keepdims they are moved back.
    out = matrix(_find("moveaxis")(x, axes, (-2, -1)), keepdims=keepdims, ord=ord)
    return _find("moveaxis")(out, (-2, -1), axes) if keepdims else out


def _of_matrix(name: str) -> Callable[..., Any]:
    """Return a function of the diagonal of a matrix; NumPy takes the first two axes, the standard the last two."""

    def call(a: Any, offset: int = 0, **options: Any) -> Any:
        own = _find(name, "linalg")
        return NotImplemented if own is None or options or a.ndim != 2 else own(a, offset=offset)

    return call


def _unique(ar: Any, **options: Any) -> Any:
    own = _find("unique_values")
    return NotImplemented if own is None or options else own(ar)


def _outer(a: Any, b: Any, **options: Any) -> Any:
    if options:
        return NotImplemented
    reshape = _find("reshape")
    a, b = as_tensors("outer", a, b)
    return _find("multiply")(reshape(a, (-1, 1)), reshape(b, (1, -1)))


def _pad(array: Any, pad_width: Any, mode: Any = "constant", kwargs: Any = None) -> Any:
    options = dict(kwargs or {})
    value = options.pop("constant_values", 0)
    if options or mode not in ("constant", "edge", "reflect", "wrap") or _ndim(value):
        return NotImplemented
    return _find("pad")(array, pad_width, mode=mode, value=value)


def _ravel(a: Any, **options: Any) -> Any:
    return NotImplemented if options else _find("reshape")(a, (-1,))


def _swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    axes = list(range(a.ndim))
    axes[axis1], axes[axis2] = axes[axis2], axes[axis1]
    return _find("permute_dims")(a, tuple(axes))


def _diag(v: Any, k: int = 0) -> Any:
    if v.ndim != 1:
        return _find("diagonal", "linalg")(v, offset=k)
    zeros = [_find("zeros")(n, dtype=v.dtype, device=v.device) for n in (max(-k, 0), max(k, 0))]
    rows = _find("concat")([zeros[0], v, zeros[1]])
    n = rows.shape[0]
    mask = _find("eye")(n, k=k, dtype=DTYPES["bool"], device=v.device)
    return _find("where")(mask, _find("expand_dims")(rows, axis=1), 0)


def _vdot(a: Any, b: Any) -> Any:
    a, b = as_tensors("vdot", a, b)
    return _find("vecdot")(_find("reshape")(a, (-1,)), _find("reshape")(b, (-1,)))


def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    """Return slices between indices, or a number of slices of equal length."""
    n = ary.shape[axis]
    if isinstance(indices_or_sections, int):
        if n % indices_or_sections:
            raise ValueError(f"split: {n} elements along axis {axis} do not make {indices_or_sections} equal parts")
        ends = range(0, n + 1, n // indices_or_sections) if n else [0] * (indices_or_sections + 1)
    else:
        ends = [0, *indices_or_sections, n]
    before = (slice(None),) * (axis % ary.ndim)
    return [ary[(*before, slice(i, j))] for i, j in pairwise(ends)]


def _einsum(operands: Any, optimize: Any = False, **options: Any) -> Any:
    """Return an Einstein sum; from left to right if no other order is asked for, as NumPy does."""
    return NotImplemented if options else einsum(*operands, optimize=optimize)


# NumPy's functions that the standard lacks, or whose arguments differ in meaning.
_SPECIAL: dict[str, Callable[..., Any]] = {
    **NAN_FUNCTIONS,
    "copy": lambda a, **options: NotImplemented if options else +a,
    "diag": _diag,
    "diagonal": _of_matrix("diagonal"),
    "diff": _diff,
    "dot": _dot,
    "einsum": _einsum,
    "linalg.lstsq": lambda **options: NotImplemented,  # it returns ranks and residuals too
    "linalg.norm": _norm,
    "outer": _outer,
    "pad": _pad,
    "ravel": _ravel,
    "resize": lambda a, new_shape: NotImplemented,  # which repeats elements
    "split": _split,
    "squeeze": _squeeze,
    "swapaxes": _swapaxes,
    "tile": _tile,
    "trace": _of_matrix("trace"),
    "transpose": _transpose,
    "unique": _unique,
    "vdot": _vdot,
    "where": _where,
}


def _tensors(tree: Any) -> list[Tensor]:
    """Return the Tensors in nested arguments."""
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [x for part in parts for x in _tensors(part)]


def _hosted(tree: Any) -> Any:
    """Return nested arguments with the values of Tensors, read-only, as NumPy arrays."""
    if isinstance(tree, Tensor):
        view = host(tree).view()
        view.flags.writeable = False
        return view
    if isinstance(tree, dict):
        return {name: _hosted(part) for name, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)([_hosted(part) for part in tree]) if type(tree) in (list, tuple) else tree
    return tree


def install() -> None:
    """Give Tensor NumPy's protocols; done once, when tapegrad is imported."""
    Tensor.__array_ufunc__ = _array_ufunc  # type: ignore[method-assign]
    Tensor.__array_function__ = _array_function  # type: ignore[method-assign]
