"""The dtypes of the standard: one object for each, on all libraries."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, final

import numpy as np

from tapegrad.backends._array import DTYPE_NAMES

_BITS = {name: int("".join(filter(str.isdigit, name)) or 8) for name in DTYPE_NAMES}
_KINDS = {
    "bool": ("bool",),
    "signed integer": ("int8", "int16", "int32", "int64"),
    "unsigned integer": ("uint8", "uint16", "uint32", "uint64"),
    "real floating": ("float16", "bfloat16", "float32", "float64"),
    "complex floating": ("complex64", "complex128"),
}
_KINDS["integral"] = _KINDS["signed integer"] + _KINDS["unsigned integer"]
_KINDS["numeric"] = _KINDS["integral"] + _KINDS["real floating"] + _KINDS["complex floating"]
# The order of kinds in promotion. A Python int ranks as the least of integers, as it fits them all.
KIND_RANKS = {
    "bool": 0,
    "unsigned integer": 1,
    "signed integer": 2,
    "real floating": 3,
    "complex floating": 4,
}
SCALAR_RANKS: dict[type, int] = {bool: 0, int: 1, float: 3, complex: 4}


@final
class DType:
    """A dtype of the array API standard, the same object whichever library holds the data.

    Equal to itself, and to a library's own dtype of the same name, so that `x.dtype == np.float32` holds as it seems
    to say. NumPy takes it for its own dtype, and so do libraries that ask NumPy. Those of the standard are
    `tapegrad.float32` and the like.

    Parameters
    ----------
    name : str
        The name that the standard gives it.

    Attributes
    ----------
    name : str
        The name that the standard gives it.
    kind : str
        Its kind, as `isdtype` knows it: 'bool', 'signed integer', 'unsigned integer', 'real floating' or 'complex
        floating'.
    itemsize : int
        The number of bytes of an element.

    Raises
    ------
    TypeError
        It is not the name of a dtype of the standard.

    Examples
    --------
    >>> import numpy as np, tapegrad as tg
    >>> tg.float32, tg.float32 == np.float32, tg.float32 == tg.float64
    (tapegrad.float32, True, False)
    >>> np.dtype(tg.float32), np.zeros(2, dtype=tg.int32)
    (dtype('float32'), array([0, 0], dtype=int32))
    """

    __slots__ = ("itemsize", "kind", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        kinds = [kind for kind, names in _KINDS.items() if name in names]
        if not kinds:
            raise TypeError(f"DType: {name!r} is not the name of a dtype of the array API standard")
        self.kind = kinds[0]
        self.itemsize = _BITS[name] // 8

    def __repr__(self) -> str:
        return f"tapegrad.{self.name}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DType):
            return self is other
        try:
            return as_dtype(other) is self
        except TypeError:
            return False

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's dtype; NumPy reads this attribute, and from 2.4 on `__numpy_dtype__`."""
        return numpy_dtype(self)

    @property
    def __numpy_dtype__(self) -> np.dtype[Any]:
        return numpy_dtype(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (as_dtype, (self.name,))


DTYPES = {name: DType(name) for name in DTYPE_NAMES}


def as_dtype(dtype: object) -> DType:
    """Return the dtype that a DType, a name or a library's own dtype object means.

    Raises TypeError for dtypes that the standard does not have, such as objects and strings.

    >>> from tapegrad._engine.dtypes import as_dtype
    >>> as_dtype("float64")
    tapegrad.float64
    """
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str):
        name = dtype
    else:  # np.float32, np.dtype("float32"), torch.float32, array_api_strict.float32
        name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
        name = name.rpartition(".")[2]
    found = DTYPES.get(name)
    if found is None:
        raise TypeError(f"{dtype!r} is not a dtype of the array API standard: use one of {', '.join(DTYPES)}")
    return found


def numpy_dtype(dtype: object, /) -> np.dtype[Any]:
    """Return NumPy's dtype object for a dtype.

    NumPy's functions, and libraries that ask NumPy, take a DType as it is; this is for those that look for the object
    of NumPy.

    Parameters
    ----------
    dtype : DTypeLike
        A DType, as of `x.dtype`, a name or a library's own.

    Returns
    -------
    numpy.dtype
        The dtype of the same name.

    Raises
    ------
    TypeError
        It is no dtype of the standard, or it is bfloat16 and ml_dtypes is not installed.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.numpy_dtype(tg.zeros(2).dtype)
    dtype('float64')
    """
    name = as_dtype(dtype).name
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(
            "NumPy has no bfloat16 of its own: pip install ml_dtypes, or convert with tapegrad.astype(x, "
            "tapegrad.float32) first"
        ) from None
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


@lru_cache(maxsize=None, typed=True)  # some libraries raise when their dtypes are compared with those of others
def is_complex(dtype: object) -> bool:
    """Return whether a dtype, native or a DType, is complex."""
    return as_dtype(dtype).kind == "complex floating"


def isdtype(dtype: object, kind: str | object | tuple[Any, ...]) -> bool:
    """Say whether a dtype is of a kind.

    Parameters
    ----------
    dtype : DTypeLike
        A DType, a name or a library's own dtype.
    kind : str, DTypeLike or tuple of them
        A dtype, or 'bool', 'signed integer', 'unsigned integer', 'integral', 'real floating', 'complex floating' or
        'numeric'; a tuple of them stands for any.

    Returns
    -------
    bool
        Whether it is of the kind.

    Raises
    ------
    ValueError
        The name of the kind is unknown.
    TypeError
        It is no dtype of the standard.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.isdtype(tg.float32, ("integral", "real floating"))
    True
    """
    found = as_dtype(dtype)
    if isinstance(kind, tuple):
        return any(isdtype(found, k) for k in kind)
    if isinstance(kind, str):
        if kind not in _KINDS:
            raise ValueError(f"unknown kind of dtype {kind!r}: use one of {', '.join(_KINDS)}")
        return found.name in _KINDS[kind]
    return found is as_dtype(kind)


# -- promotion -------------------------------------------------------------------------------------------


def bits_of(dtype: DType) -> int:
    """Return the number of bits of an element."""
    return 8 * dtype.itemsize


def _holder(dtype: DType) -> DType:
    """Return the floating dtype that an integer dtype becomes beside floating ones."""
    return DTYPES[{8: "float16", 16: "float32"}.get(bits_of(dtype), "float64")]


def of_parts(dtype: DType) -> DType:
    """Return the complex dtype whose parts can hold a floating dtype."""
    return DTYPES["complex128" if dtype.name == "float64" else "complex64"]


def promote(a: DType, b: DType) -> DType:
    """Return the promotion of two dtypes: by the standard's tables, else by NumPy's."""
    low, high = sorted((a, b), key=lambda dtype: KIND_RANKS[dtype.kind])
    if low is high or low.kind == "bool":
        return high
    if low.kind == high.kind:
        if {low.name, high.name} == {"float16", "bfloat16"}:
            return DTYPES["float32"]
        return max(low, high, key=bits_of)
    if high.kind == "signed integer":  # and the other is unsigned
        bits = max(bits_of(high), 2 * bits_of(low))
        return DTYPES[f"int{bits}" if bits <= 64 else "float64"]
    if low.kind in ("unsigned integer", "signed integer"):
        low = high if high.name == "bfloat16" and bits_of(low) == 8 else _holder(low)
    return promote(of_parts(low), high) if high.kind == "complex floating" else promote(low, high)
