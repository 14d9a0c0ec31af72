"""Functions of the standard about dtypes.

They take a DType, a dtype's name, a library's own dtype, or a Tensor or array for its dtype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tapegrad._engine.dispatch import dtype_of, find_backend, native_device
from tapegrad._engine.dtypes import DTYPES, KIND_RANKS, SCALAR_RANKS, DType, as_dtype, bits_of, of_parts, promote
from tapegrad._engine.rules import nondifferentiable
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._text import documented
from tapegrad.typing import ArrayLike, DTypeLike

# Name -> (bits of the fraction, greatest exponent).
_FLOATS = {"float16": (10, 15), "bfloat16": (7, 127), "float32": (23, 127), "float64": (52, 1023)}
_NARROWER = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}


class FInfo(NamedTuple):
    """Limits of a floating dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


class IInfo(NamedTuple):
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: DType


def _raw_or_none(x: Any) -> Any:
    """Return the raw array that something is or holds, or None if it is a dtype."""
    if isinstance(x, Tensor):
        return x._array
    return None if find_backend(x) is None else x


def _dtype(x: Any) -> DType:
    array = _raw_or_none(x)
    return as_dtype(x) if array is None else dtype_of(array)


def _with_number(dtype: DType, number: Any) -> DType:
    """Return the dtype of a dtype and a Python number, which counts as little as it can."""
    rank = SCALAR_RANKS[type(number)]
    if rank <= KIND_RANKS[dtype.kind]:
        return dtype
    if type(number) is complex:
        return of_parts(dtype if dtype.kind == "real floating" else DTYPES["float64"])
    return DTYPES["int64" if type(number) is int else "float64"]


@nondifferentiable
@documented(
    "The dtype.",
    "TypeError: One of them has no dtype.",
    "ValueError: There are only numbers.",
    arrays_and_dtypes="Tensors, arrays, dtypes and Python numbers; their order makes no difference.",
)
def result_type(*arrays_and_dtypes: ArrayLike | DTypeLike) -> DType:
    """Dtype that an operation on these gives.

    It follows the standard's tables, in which a Python number keeps the dtype of the others wherever its kind allows.
    Where the standard leaves it open, it is as on NumPy: an integer beside a float gives a float wide enough for both
    (int32 and float32: float64), uint64 beside a signed dtype gives float64. Beside an array on a device without 64-bit
    dtypes, the result is of 32 bits.

    >>> import tapegrad as tg
    >>> tg.result_type(tg.int8, tg.uint8), tg.result_type(tg.zeros(2, dtype=tg.float32), 1.5)
    (tapegrad.int16, tapegrad.float32)
    """
    given = [plain(x) for x in arrays_and_dtypes]
    numbers = [x for x in given if type(x) in SCALAR_RANKS]
    others = [x for x in given if type(x) not in SCALAR_RANKS]
    if not others:
        raise ValueError("result_type: at least one array or dtype is needed beside numbers")
    # The highest kind first: an int then widens a float only if it does so alone.
    found, *rest = sorted(map(_dtype, others), key=lambda dtype: -KIND_RANKS[dtype.kind])
    for dtype in rest:
        found = promote(found, dtype)
    for number in numbers:
        found = _with_number(found, number)
    arrays = [a for a in map(_raw_or_none, others) if a is not None]
    return found if not arrays or _there(found, arrays[0]) else DTYPES[_NARROWER[found.name]]


def plain(x: Any) -> Any:
    """Return a scalar of NumPy, which counts no more than Python's, as a Python number; all else as it is."""
    backend = None if isinstance(x, Tensor) else find_backend(x)
    number = None if backend is None else backend.as_scalar(x)
    return x if number is None else number


def _there(dtype: DType, array: Any) -> bool:
    """Say whether the device of a raw array has a dtype."""
    backend = find_backend(array)
    return backend is not None and backend.has_dtype(dtype.name, native_device(array))


@nondifferentiable
@documented(
    "Whether promotion can lead there.",
    "TypeError: One of them has no dtype.",
    from_="A dtype, or a Tensor or array for its dtype; from an array, only to a dtype that its device has.",
    to="The dtype to cast to.",
)
def can_cast(from_: ArrayLike | DTypeLike, to: DTypeLike, /) -> bool:
    """Test of a dtype promotion: True if it can lead from a dtype to another one.

    Between kinds it goes by `result_type`, as on NumPy: int32 can be cast to float64, not to float32.

    >>> import tapegrad as tg
    >>> tg.can_cast(tg.int8, tg.int16), tg.can_cast(tg.float64, tg.float32)
    (True, False)
    """
    target, array = as_dtype(to), _raw_or_none(from_)
    return promote(_dtype(from_), target) is target and (array is None or _there(target, array))


@nondifferentiable
@documented(
    "The limits: `bits`, `eps`, `max`, `min`, `smallest_normal` (Python numbers) and `dtype`.",
    "TypeError: The dtype is not floating.",
    type="A floating dtype, or a Tensor or array for its dtype; a complex one stands for that of its parts.",
)
def finfo(type: ArrayLike | DTypeLike, /) -> FInfo:
    """Limits of a floating dtype.

    >>> import tapegrad as tg
    >>> tg.finfo(tg.float32).eps, tg.finfo(tg.complex64).dtype
    (1.1920928955078125e-07, tapegrad.float32)
    """
    dtype = _dtype(type)
    if dtype.kind == "complex floating":
        dtype = DTYPES[f"float{bits_of(dtype) // 2}"]
    if dtype.name not in _FLOATS:
        raise TypeError(f"finfo: {dtype.name} is not a floating dtype: see tapegrad.iinfo for integers")
    fraction, exponent = _FLOATS[dtype.name]
    eps = 2.0**-fraction
    most = (2 - eps) * 2.0**exponent
    return FInfo(bits_of(dtype), eps, most, -most, 2.0 ** (1 - exponent), dtype)


@nondifferentiable
@documented(
    "The limits: `bits`, `max`, `min` (Python integers) and `dtype`.",
    "TypeError: The dtype is not one of integers.",
    type="An integer dtype, or a Tensor or array for its dtype.",
)
def iinfo(type: ArrayLike | DTypeLike, /) -> IInfo:
    """Limits of an integer dtype.

    >>> import tapegrad as tg
    >>> tg.iinfo(tg.int8).min, tg.iinfo(tg.uint8).max
    (-128, 255)
    """
    dtype = _dtype(type)
    bits = bits_of(dtype)
    if dtype.kind == "unsigned integer":
        return IInfo(bits, 2**bits - 1, 0, dtype)
    if dtype.kind == "signed integer":
        return IInfo(bits, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), dtype)
    raise TypeError(f"iinfo: {dtype.name} is not an integer dtype: see tapegrad.finfo for floating ones")
