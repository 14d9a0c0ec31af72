"""The contract of an adapter: what an array library must do beyond the array API standard, with defaults."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import product
from typing import Any, cast

import numpy as np

from tapegrad._program.interpreter import PlainExecutor
from tapegrad._program.ir import Node, Program
from tapegrad.backends import _deterministic_scatter as scatter
from tapegrad.backends import _philox
from tapegrad.backends._array import DTYPE_NAMES, Array
from tapegrad.backends._norms import scaled, scaled_std
from tapegrad.backends._special import Special, find


class Namespace:
    """A library's array API namespace, with an adapter's own functions in front of it.

    Derivative rules see this and nothing else of the library.

    Parameters
    ----------
    base : module
        The library's namespace.
    **own : callable
        The functions in front of it, by name.

    Examples
    --------
    >>> from tapegrad import backends
    >>> backends.load("cpu").xp
    <array_api_compat.numpy as tapegrad sees it>
    """

    # For a library that computes on a current device: calls a function while the device of its arrays is the current
    # one. See `Everywhere` in _cupy/devices.py.
    elsewhere: Callable[..., Any] | None = None

    def __init__(self, base: Any, **own: Any) -> None:
        self._base = base
        self.replace(**own)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._base, name)
        self.__dict__[name] = value  # the next look-up is a plain attribute
        return value

    def as_one(self, function: Callable[..., Any], *arrays: Array) -> Array:
        """Return `function(self, *arrays)`, recorded as one opaque operation, which may read values.

        The function must take batch axes.
        """
        return function(self, *arrays)

    def replace(self, **own: Any) -> None:
        """Put functions in front of the library's own."""
        self.__dict__.update(own)

    def __repr__(self) -> str:
        return f"<{self._base.__name__} as tapegrad sees it>"


class Backend:
    """An array library: its namespace and the few things the standard has no word for.

    A subclass for a library is an adapter. Only arrays and native devices and dtypes of that library come in and go
    out; no adapter knows of Tensors or records.

    Parameters
    ----------
    name : str
        The name of the library.
    xp : module
        Its array API namespace.

    Attributes
    ----------
    name : str
        The name of the library.
    prefix : str
        What its device strings start with.
    xp : Namespace
        What rules compute with.
    dtype_names : dict
        The standard's name of each native dtype.

    Examples
    --------
    >>> from tapegrad import backends
    >>> backends.load("cpu").prefix
    'cpu'
    """

    plans = False  # whether the executor takes a planned program, which holds runs
    stacks = False  # whether the planned program may also hold stacks and folds of operations on small arrays
    smallest_run = 65536  # the smallest number of elements of an array whose operations are put into runs
    attention: Any = None  # the module of the library's fused attention, for `tapegrad._compile.plan.attention`
    kernels = False  # whether a run becomes a kernel, which reads each operand at any element
    elementwise: frozenset[str] = frozenset()  # functions beyond the standard that the executor takes as elementwise
    fuses = False  # whether forward functions and rules are traced and run as few kernels: see `fused_program`
    # Operator -> function that replaces the library's own `x op= y`.
    in_place: Mapping[str, Callable[[Array, Any], Array]] = {}
    mutable = True  # whether arrays can be written in place
    dtype_hint = ""  # further advice for a missing dtype, in messages
    adapted = True  # whether the library has an adapter of its own, found by its name
    depth = 0  # the number of nested calls of vmap that its arrays belong to

    def __init__(self, name: str, xp: Any) -> None:
        self.name = name
        self.prefix = name  # the start of device strings
        self.xp = Namespace(
            xp,
            index_get=self.index_get,
            index_set=self.index_set,
            index_add=self.index_add,
            sigmoid=self.sigmoid,
            sigmoid_slope=self.sigmoid_slope,
            tanh_slope=self.tanh_slope,
            draw=self.draw,
            skip=self.skip,
            dropped=self.dropped,
            gamma_sample=self.gamma_sample,
        )
        self.xp.replace(special=Special(self.special), std=scaled_std(self.xp, xp.std))
        if hasattr(xp, "linalg"):
            self.xp.replace(linalg=Namespace(xp.linalg, vector_norm=scaled(self.xp, xp.linalg.vector_norm)))
        if type(self).races is not Backend.races:
            self.xp.replace(
                index_set=partial(scatter.index_set, self),
                index_add=partial(scatter.index_add, self),
            )
        self.dtype_names: dict[object, str] = {self.native_dtype(n): n for n in self._known_dtypes()}

    # -- what the library is -------------------------------------------------------------------------

    @property
    def root(self) -> Backend:
        """The adapter of the library that computes: itself, except for arrays of vmap."""
        return self

    @classmethod
    def why_not(cls) -> str | None:
        """Return the reason, in one line, why the library cannot be used here, or None if it can."""
        return None

    def remedy(self, error: Exception) -> str:
        """Return advice, in one line, for an error of the device below the library; "" for other errors."""
        return ""

    def owns(self, array_type: type) -> bool:
        """Return whether a type from this library's package is its array type."""
        return True

    def _known_dtypes(self) -> Iterator[str]:
        return (name for name in DTYPE_NAMES if hasattr(self.xp, name))

    def native_dtype(self, name: str) -> Any:
        """Return the library's dtype object for a name of the standard, as `array.dtype` gives it."""
        return getattr(self.xp, name)

    def has_dtype(self, name: str, device: Any) -> bool:
        """Return whether a device has a dtype."""
        dtypes = self.xp.__array_namespace_info__().dtypes(device=device)
        return name in dtypes

    # -- devices and moving --------------------------------------------------------------------------

    def native_device(self, text: str) -> Any:
        """Return the library's device object for what follows the colon of a device string."""
        for device in self.xp.__array_namespace_info__().devices():
            if text in ("", str(device)):
                return device
        raise ValueError(f"{self.name} has no device {text!r}")

    def devices(self) -> list[str]:
        """Return the device strings of the library here."""
        return [self.full_name(device) for device in self.xp.__array_namespace_info__().devices()]

    def full_name(self, device: Any) -> str:
        """Return the device string of a native device."""
        return f"{self.prefix}:{device}"

    def device_string(self, array: Array) -> str:
        """Return the device string of an array."""
        return self.full_name(array.device)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Return the values as a NumPy array, which may share memory with the array."""
        return np.asarray(array)

    def from_host(self, array: np.ndarray[Any, Any], device: Any) -> Array:
        """Return a new array on a device with the values, and the dtype, of a NumPy array."""
        return self.xp.asarray(array, dtype=self.native_dtype(array.dtype.name), device=device, copy=True)

    def move(self, array: Array, device: Any) -> Array:
        """Return the array on another device of the same library."""
        return array.to_device(device)

    def transfer(self, array: Array, device: str) -> Array:
        """Return an array of vmap on another device, of any library."""
        raise NotImplementedError

    def peek(self, array: Array) -> np.ndarray[Any, Any]:
        """Return the values on the host for a text that only shows them."""
        return self.to_host(array)

    def refuse(self, condition: Array, error: Callable[[], Exception]) -> None:
        """Raise an error if a condition, an array of one boolean, holds; on a GPU when the host next waits for it."""
        if condition:
            raise error()

    def refuse_outside(self, indices: Array, n: int, error: Callable[[], Exception]) -> None:
        """Raise an error, as `refuse` does, unless all of some integers are in 0 to n - 1."""
        self.refuse(self.xp.any((indices < 0) | (indices >= n)), error)

    def refusal_outside(self, indices: Array, n: int, error: Callable[[], Exception]) -> Any:
        """Do as `refuse_outside` does, or return an array for `xp.note_outside(indices, n, array)`, which is to do it.

        It returns False where there is nothing left to do.
        """
        self.refuse_outside(indices, n, error)
        return False

    def is_symbolic(self, array: Array) -> bool:
        """Return whether an array has no values yet, as inside a function that its library compiles or maps."""
        return False

    def holds(self, condition: Array) -> bool:
        """Return whether a condition, an array of one boolean, holds."""
        return bool(condition)

    def loop(self, until: Any, step: Callable[[Array], Any], x: Array) -> Array:
        """Return `until(step, x)`, which takes a step again and again until values say that it is enough."""
        return until(step, x)

    def raising(self) -> AbstractContextManager[Any]:
        """Return a context in which linear algebra raises for singular matrices, even if the host must wait."""
        return nullcontext()

    def synchronize(self, array: Array) -> None:
        """Wait until the values of an array are computed."""

    # -- compiled programs ---------------------------------------------------------------------------

    def executor(self, program: Program, threads: int | None = None) -> Any:
        """Return what runs a captured program: `run(arrays)` gives its outputs. By default call by call."""
        # Only adapters that plan, which override this, are given groups.
        return PlainExecutor(cast("Program[Node]", program), self.as_array)

    def fused_program(self, program: Program[Node], name: str) -> Any:
        """Return what runs a small traced program in fewer launches, None if nothing does; name: of the operation."""
        return None

    # -- what functions return and users pass ---------------------------------------------------------

    def as_array(self, result: Any) -> Array:
        """Return what a function of the library returned as an array (NumPy returns scalars)."""
        return result

    def as_scalar(self, operand: Any) -> bool | int | float | complex | None:
        """Return an operand that is a scalar of the library, not an array, as a Python number."""
        return None

    def sigmoid(self, x: Array) -> Array:
        """Return 1 / (1 + exp(-x)), precise and without overflow."""
        if not self.xp.isdtype(x.dtype, ("real floating", "complex floating")):
            x = self.xp.astype(x, self.native_dtype("float64" if self.has_dtype("float64", x.device) else "float32"))
        e = self.xp.exp(-self.xp.abs(x))
        return self.xp.where(x >= 0, 1, e) / (1 + e)

    def sigmoid_slope(self, x: Array) -> Array:
        """Return sigmoid(x) sigmoid(-x), the derivative of sigmoid; it has all digits where sigmoid(x) is nearly 1."""
        if self.xp.isdtype(x.dtype, "complex floating"):
            return 0.25 * self.xp.tanh_slope(0.5 * x)
        e = self.xp.exp(-self.xp.abs(x))  # cosh would overflow
        return e / ((1 + e) * (1 + e))

    def tanh_slope(self, x: Array) -> Array:
        """Return 1 / cosh(x)^2, the derivative of tanh; it has all digits where tanh(x) is nearly 1."""
        xp = self.xp
        if not xp.isdtype(x.dtype, "complex floating"):
            sech = 1 / xp.cosh(x)
            return sech * sech
        # By cosh beside its zeros; further out, where it overflows, by e = exp(-2 abs(x)).
        z = xp.where(xp.real(x) < 0, -x, x)
        near = xp.real(z) < 1
        sech = 1 / xp.cosh(xp.where(near, z, 1))
        e = xp.exp(-2 * xp.where(near, 1, z))
        return xp.where(near, sech * sech, 4 * e / (1 + e) / (1 + e))

    def special(self, name: str) -> Callable[..., Array]:
        """Return the special function that SciPy has under a name, for arrays: by default SciPy's, through the host."""
        return find(self, name)

    # -- random numbers --------------------------------------------------------------------------------

    def philox_dtype(self, device: Any) -> str:
        """Return the dtype in which words of 32 bits are multiplied: uint64 or int64, else uint32."""
        return "uint64" if self.has_dtype("uint64", device) else "uint32"

    words = _philox.Words  # the arithmetic of 32-bit words

    def draw(self, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int = 0) -> Array:
        """Return the random numbers of a key and a counter, see `_philox.draw`."""
        return _philox.draw(self, key, count, form, shape, dtype, least)

    def skip(self, count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
        """Return a counter advanced by `start`, or such counters in a shape, `step` apart; see `_philox.skip`."""
        return _philox.skip(self, count, shape, start, step)

    def dropped(self, x: Array, key: Array, count: Array, shape: tuple[int, ...], least: int, scale: float) -> Array:
        """Return x times a scale where a random word is at least a number, else 0.

        shape: that of the words, behind the leading axes of key and counter; x may have further axes in front.
        """
        if least > _philox.MASK:
            return self.xp.zeros_like(x)
        return self.xp.where(self.xp.draw(key, count, "at least", shape, "bool", least), x * scale, 0.0)

    def gamma_sample(self, a: Array, x: Array) -> Array:
        """Return x, in memory of its own: the operation is there for its derivative in `a`."""
        return self.copy(x)

    # -- what hides in an array ------------------------------------------------------------------------

    def outer_record(self, array: Array) -> Any:
        """Return the record of the Tensor inside a batched array of vmap; None for any other array."""
        return None

    def detached(self, array: Array) -> Array:
        """Return an array of the same values without ties to the tape."""
        return array

    def refuse_recorded(self, array: Array) -> None:
        """Raise TypeError for an array from outside whose gradient the library itself records."""

    # -- buffers -------------------------------------------------------------------------------------

    def copy(self, array: Array) -> Array:
        """Return a copy in memory of its own."""
        return self.xp.asarray(array, copy=True) if self.mutable else array

    def export(self, array: Array) -> Array:
        """Return the values for users, so that no write of theirs changes this array."""
        return self.copy(array)

    def copied_dlpack(self, array: Array, **options: Any) -> Any:
        """Return a DLPack capsule of a copy of an array, marked as one."""
        return array.__dlpack__(copy=True, **options)

    def readonly_dlpack(self, array: Array, stream: Any) -> Any:
        """Return a DLPack capsule of an array's own memory that says it is read-only; BufferError if there is none."""
        raise BufferError(f"{self.name} cannot export memory as read-only: DLPack export needs a copy")

    def is_private(self, holder: Any) -> bool:
        """Return whether only `holder._array` refers to its buffer, so that it may be written to.

        False where the library cannot tell. It is asked about the slot, not the array: a reference
        passed as an argument would itself count.
        """
        return False

    def memory(self, array: Array) -> int | None:
        """Return a number that arrays on the same memory share, as views do; None if unknown."""
        return None

    def can_share(self, array: Array, target: Array) -> bool:
        """Return whether a write of a whole array to `target` may share the array in place of a copy."""
        return False

    def races(self, array: Array) -> bool:
        """Return whether an array's device adds and writes at repeated indices in no fixed order."""
        return False

    def index_get(self, array: Array, key: tuple[Any, ...]) -> Array:
        """Return `array[key]`, which may be a view."""
        return array[key]

    def index_set(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        """Write `array[key] = value` into a private array and return it (or a new array)."""
        array[key] = value
        return array

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        """Add values at an index into a private array and return it; repeated indices add up.

        This default writes one item of an integer index at a time: right on every library, and slow.
        """
        if not self.has_integer_arrays(key):
            array[key] = array[key] + value
            return array
        for at, item in self.items(array, key):
            array[at] = array[at] + value[item]
        return array

    def has_integer_arrays(self, key: tuple[Any, ...]) -> bool:
        """Return whether a key holds integer arrays, whose items may repeat."""
        return any(hasattr(i, "shape") and not self.xp.isdtype(i.dtype, "bool") for i in key)

    def items(self, array: Array, key: tuple[Any, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Iterate over the items of `array[key]` as (index into array, index into the result)."""
        arrays = self.spell_out(array, key)
        shape = broadcast_shape([a.shape for a in arrays])
        arrays = [self.xp.broadcast_to(a, shape) for a in arrays]
        for item in product(*map(range, shape)):
            yield tuple(int(a[item]) for a in arrays), item

    def spell_out(self, array: Array, key: tuple[Any, ...]) -> list[Array]:
        """Return an equivalent key of one integer array for each axis, for a key that holds integer arrays."""
        where = [n for n, i in enumerate(key) if isinstance(i, int) or hasattr(i, "shape")]
        wide = max(len(getattr(key[n], "shape", ())) for n in where)
        # Index arrays with a slice or None between them put their axes first, else where they stand.
        first = where[0] if where[-1] - where[0] < len(where) else 0
        others = [n for n in range(len(key)) if n not in where]
        ndim = wide + len(others)
        out, axis = [], 0
        for n, i in enumerate(key):
            if i is None:
                continue
            if n in where:
                a = i if hasattr(i, "shape") else self._numbers(array, [i], ())
                place = first + wide
            else:
                numbers = range(array.shape[axis])[i]
                a = self._numbers(array, numbers, (len(numbers),))
                k = others.index(n)
                place = k + 1 if k < first else k + 1 + wide
            out.append(self.xp.reshape(a, (*(1,) * (place - len(a.shape)), *a.shape, *(1,) * (ndim - place))))
            axis += 1
        return out

    def _numbers(self, array: Array, numbers: Any, shape: tuple[int, ...]) -> Array:
        a = self.xp.asarray(list(numbers), dtype=self.native_dtype("int64"), device=getattr(array, "device", None))
        return self.xp.reshape(a, shape)


def broadcast_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape that shapes known to fit broadcast to."""
    ndim = max(map(len, shapes))
    padded = [(1,) * (ndim - len(s)) + tuple(s) for s in shapes]
    return tuple(next((n for n in column if n != 1), 1) for column in zip(*padded, strict=True))


class _Holder:
    __slots__ = ("_array",)

    _array: object

    def count(self) -> int:
        array = self._array
        return sys.getrefcount(array)


def _calibrate() -> int:
    holder = _Holder()
    holder._array = np.zeros(4)
    return holder.count()


PRIVATE_COUNT = _calibrate()  # of references to an array that only a holder knows, in `is_private`
