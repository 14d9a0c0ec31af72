"""The contract of an adapter: methods beyond the array API standard, with defaults."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from tapegrad._program.executor import AttentionKernels, Executor, FusedProgram
from tapegrad._program.interpreter import PlainExecutor
from tapegrad._program.ir import Node, Program, nodes_only
from tapegrad._program.loops import Criterion, Round
from tapegrad.backends import _convolution, _philox, _windows
from tapegrad.backends import _deterministic_scatter as scatter
from tapegrad.backends import _matrices as matrices
from tapegrad.backends import _scans as scans
from tapegrad.backends._array import DTYPE_NAMES, Array
from tapegrad.backends._norms import scaled, scaled_std
from tapegrad.backends._special import Special, find

# Functions beyond the standard that every namespace has, in the words of the standard where no adapter has its own.
_COMPOSED = {
    _convolution: "convolution convolution_input convolution_weight",
    _windows: "max_pool pad_last pool_gather pool_scatter window_spread window_sum windows windows_sum",
}


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
        """Call a function, recorded as one opaque operation, which may read values.

        Parameters
        ----------
        function : callable
            The function, of this namespace and the arrays. It must take leading batch axes.
        *arrays : array
            Its arrays.

        Returns
        -------
        array
            Its result.
        """
        return function(self, *arrays)

    def replace(self, **own: Any) -> None:
        """Put functions in front of the library's own.

        Parameters
        ----------
        **own : callable
            The functions, by name.
        """
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
        The start of its device strings.
    xp : Namespace
        The namespace that rules compute with.
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
    # The module of the library's fused attention, for `tapegrad._compile.plan.attention`.
    attention: AttentionKernels | None = None
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
        self.xp.replace(
            cumulative_max=partial(scans.cumulative_extreme, self.xp, "maximum"),
            cumulative_min=partial(scans.cumulative_extreme, self.xp, "minimum"),
            segment_max=partial(scans.segment_extreme, self.xp, True),
            segment_min=partial(scans.segment_extreme, self.xp, False),
        )
        self.xp.replace(special=Special(self.special), std=scaled_std(self.xp, xp.std))
        for module, names in _COMPOSED.items():
            self.xp.replace(**{name: partial(getattr(module, name), self.xp) for name in names.split()})
        if hasattr(xp, "linalg"):
            linalg = Namespace(xp.linalg, vector_norm=scaled(self.xp, xp.linalg.vector_norm))
            linalg.replace(
                expm=partial(matrices.expm, self.xp, self.to_host),
                solve_triangular=partial(matrices.solve_triangular, self.xp),
            )
            self.xp.replace(linalg=linalg)
        if type(self).races is not Backend.races:
            self.xp.replace(
                index_set=partial(scatter.index_set, self),
                index_add=partial(scatter.index_add, self),
            )
        self.dtype_names: dict[object, str] = {self.native_dtype(n): n for n in self._known_dtypes()}

    # -- the library ---------------------------------------------------------------------------------

    @property
    def root(self) -> Backend:
        """The adapter of the library that computes: itself, except for arrays of vmap and of capture."""
        return self

    @classmethod
    def why_not(cls) -> str | None:
        """Return the reason why the library cannot be used here, called before there is an adapter.

        Returns
        -------
        str or None
            One line, with the fix; None if it can be used.
        """
        return None

    def remedy(self, error: Exception) -> str:
        """Return advice for an error of the device below the library.

        Parameters
        ----------
        error : Exception
            The error of a call.

        Returns
        -------
        str
            One line; an empty string for other errors.
        """
        return ""

    def owns(self, array_type: type) -> bool:
        """Return whether a type from this library's package is its array type.

        Parameters
        ----------
        array_type : type
            The type of an operand.

        Returns
        -------
        bool
            Whether arrays of that type are this adapter's.
        """
        return True

    def _known_dtypes(self) -> Iterator[str]:
        return (name for name in DTYPE_NAMES if hasattr(self.xp, name))

    def native_dtype(self, name: str) -> Any:
        """Return the library's dtype object for a name of the standard, as `array.dtype` gives it.

        Parameters
        ----------
        name : str
            The name, as in 'float32'.

        Returns
        -------
        object
            The dtype.

        Raises
        ------
        AttributeError
            The library has no such dtype.
        """
        return getattr(self.xp, name)

    def has_dtype(self, name: str, device: Any) -> bool:
        """Return whether a device has a dtype.

        Parameters
        ----------
        name : str
            The standard's name of the dtype.
        device : object
            A native device; None for the default one.

        Returns
        -------
        bool
            Whether arrays of it can be made there.
        """
        dtypes = self.xp.__array_namespace_info__().dtypes(device=device)
        return name in dtypes

    # -- devices and moving --------------------------------------------------------------------------

    def native_device(self, text: str) -> Any:
        """Return the library's device object for a device string.

        Parameters
        ----------
        text : str
            The part after the colon, as in '1' of 'cuda:1'; empty for the default device.

        Returns
        -------
        object
            The device, as creation functions of `xp` take it.

        Raises
        ------
        ValueError
            There is no such device.
        RuntimeError
            The device could be there, and is not usable now.
        """
        for device in self.xp.__array_namespace_info__().devices():
            if text in ("", str(device)):
                return device
        raise ValueError(f"{self.name} has no device {text!r}")

    def devices(self) -> list[str]:
        """Return the device strings of the library here.

        Returns
        -------
        list of str
            The strings, the default device first.
        """
        return [self.full_name(device) for device in self.xp.__array_namespace_info__().devices()]

    def full_name(self, device: Any) -> str:
        """Return the device string of a native device.

        Parameters
        ----------
        device : object
            A native device.

        Returns
        -------
        str
            The string, which `native_device` takes back after the colon.
        """
        return f"{self.prefix}:{device}"

    def device_string(self, array: Array) -> str:
        """Return the device string of an array.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        str
            The string, as `full_name` gives it.
        """
        return self.full_name(array.device)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Return the values as a NumPy array, and wait for them where a device computes on its own.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        numpy.ndarray
            An array of the same shape and dtype, which may share memory. bfloat16 comes as float32.
        """
        return np.asarray(array)

    def from_host(self, array: np.ndarray[Any, Any], device: Any) -> Array:
        """Return a new array with the values of a NumPy array.

        Parameters
        ----------
        array : numpy.ndarray
            The values, of any shape and layout. The library has its dtype.
        device : object
            The native device; None for the default one.

        Returns
        -------
        array
            An array of the same shape and dtype, in memory of its own.
        """
        return self.xp.asarray(array, dtype=self.native_dtype(array.dtype.name), device=device, copy=True)

    def move(self, array: Array, device: Any) -> Array:
        """Return the array on another device of the same library.

        Parameters
        ----------
        array : array
            An array of the library.
        device : object
            The native device.

        Returns
        -------
        array
            An array of the same shape and dtype; the array itself if it is there already.
        """
        return array.to_device(device)

    def transfer(self, array: Array, device: str) -> Array:
        """Return an array of vmap on another device, of any library; not for adapters of libraries.

        Parameters
        ----------
        array : array
            An array of the library.
        device : str
            The device string.

        Returns
        -------
        array
            The array there.

        Raises
        ------
        NotImplementedError
            The array is none of vmap.
        """
        raise NotImplementedError

    def peek(self, array: Array) -> np.ndarray[Any, Any]:
        """Return the values on the host for a text that only shows them.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        numpy.ndarray
            The values.
        """
        return self.to_host(array)

    def refuse(self, condition: Array, error: Callable[[], Exception]) -> None:
        """Raise an error if a condition holds; on a GPU when the host next waits for it.

        Parameters
        ----------
        condition : array
            One boolean, of shape ().
        error : callable
            A function that makes the error.

        Raises
        ------
        Exception
            The error, now or at the next wait.
        """
        if condition:
            raise error()

    def refuse_outside(self, indices: Array, n: int, error: Callable[[], Exception]) -> None:
        """Raise an error, as `refuse` does, unless all of some integers are in 0 to n - 1.

        Parameters
        ----------
        indices : array
            Integers, of any shape.
        n : int
            The first number that is too large.
        error : callable
            A function that makes the error.

        Raises
        ------
        Exception
            The error, now or at the next wait.
        """
        self.refuse(self.xp.any((indices < 0) | (indices >= n)), error)

    def refusal_outside(self, indices: Array, n: int, error: Callable[[], Exception]) -> Any:
        """Do as `refuse_outside` does, or leave the check to a later operation.

        A library where each check is a kernel launch returns an array. The caller hands it to
        `xp.note_outside(indices, n, array)`, beside other work, which does the check.

        Parameters
        ----------
        indices : array
            Integers, of any shape.
        n : int
            The first number that is too large.
        error : callable
            A function that makes the error.

        Returns
        -------
        array or bool
            The array for `xp.note_outside`; False where there is nothing left to do.

        Raises
        ------
        Exception
            The error, now or at the next wait.
        """
        self.refuse_outside(indices, n, error)
        return False

    def is_symbolic(self, array: Array) -> bool:
        """Return whether an array has no values yet, as inside a function that its library compiles or maps.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        bool
            Whether reading a value would fail.
        """
        return False

    def holds(self, condition: Array) -> bool:
        """Return whether a condition holds, and wait for it.

        Parameters
        ----------
        condition : array
            One boolean, of shape ().

        Returns
        -------
        bool
            The value.
        """
        return bool(condition)

    def loop(self, until: Criterion, step: Round, x: Array) -> Array:
        """Return the array that a loop ends with.

        Parameters
        ----------
        until : Criterion
            The stopping criterion. Called with a step and an array, it takes steps until values say that it is enough.
        step : callable
            One round: from an array to the next one, the largest change and the largest element.
        x : array
            The start.

        Returns
        -------
        array
            The last array, of the shape and dtype of the start.

        Raises
        ------
        RuntimeError
            The criterion does not hold after its largest number of rounds.
        """
        return until(step, x)

    def raising(self) -> AbstractContextManager[Any]:
        """Return a context in which linear algebra raises for singular matrices, even if the host must wait.

        Returns
        -------
        context manager
            The context. By default it does nothing, as most libraries raise anyway.
        """
        return nullcontext()

    def synchronize(self, array: Array) -> None:
        """Wait until the values of an array are computed.

        Parameters
        ----------
        array : array
            An array of the library.
        """

    # -- compiled programs ---------------------------------------------------------------------------

    def executor(self, program: Program, threads: int | None = None) -> Executor:
        """Return an executor of a captured program; by default one that calls the library's functions in turn.

        Parameters
        ----------
        program : Program
            The program. It has groups of nodes only for adapters that plan (`plans`, `stacks`).
        threads : int or None, optional
            The largest number of threads; None for the library's own choice.

        Returns
        -------
        Executor
            Its executor, see `tapegrad._program.executor`.
        """
        return PlainExecutor(nodes_only(program), self.as_array)

    def fused_program(self, program: Program[Node], name: str) -> FusedProgram | None:
        """Return a small traced program that runs in fewer kernel launches than its calls.

        It is asked for where `fuses` is set.

        Parameters
        ----------
        program : Program
            The calls of a forward function or a rule, with no groups.
        name : str
            The operation, for names of kernels.

        Returns
        -------
        FusedProgram or None
            The program; None if no launch is saved, which is the default.
        """
        return None

    # -- results, scalars and functions --------------------------------------------------------------

    def as_array(self, result: Any) -> Array:
        """Return the result of a function of the library as an array, as NumPy returns scalars.

        Parameters
        ----------
        result : object
            An array, or a scalar of the library.

        Returns
        -------
        array
            The array, of the same dtype.
        """
        return result

    def as_scalar(self, operand: Any) -> bool | int | float | complex | None:
        """Return an operand that is a scalar of the library, not an array, as a Python number.

        Parameters
        ----------
        operand : object
            An operand of any type.

        Returns
        -------
        bool, int, float, complex or None
            The number; None for other operands.
        """
        return None

    def sigmoid(self, x: Array) -> Array:
        """Return 1 / (1 + exp(-x)), precise and without overflow.

        Parameters
        ----------
        x : array
            The argument, real or complex. Integers become the widest float of the device.

        Returns
        -------
        array
            An array of the same shape.
        """
        if not self.xp.isdtype(x.dtype, ("real floating", "complex floating")):
            x = self.xp.astype(x, self.native_dtype("float64" if self.has_dtype("float64", x.device) else "float32"))
        e = self.xp.exp(-self.xp.abs(x))
        return self.xp.where(x >= 0, 1, e) / (1 + e)

    def sigmoid_slope(self, x: Array) -> Array:
        """Return sigmoid(x) sigmoid(-x), the derivative of sigmoid; it has all digits where sigmoid(x) is nearly 1.

        Parameters
        ----------
        x : array
            The argument, of a floating-point dtype, real or complex.

        Returns
        -------
        array
            An array of the same shape and dtype.
        """
        if self.xp.isdtype(x.dtype, "complex floating"):
            return 0.25 * self.xp.tanh_slope(0.5 * x)
        e = self.xp.exp(-self.xp.abs(x))  # cosh would overflow
        return e / ((1 + e) * (1 + e))

    def tanh_slope(self, x: Array) -> Array:
        """Return 1 / cosh(x)^2, the derivative of tanh; it has all digits where tanh(x) is nearly 1.

        Parameters
        ----------
        x : array
            The argument, of a floating-point dtype, real or complex.

        Returns
        -------
        array
            An array of the same shape and dtype.
        """
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
        """Return a special function for arrays: by default SciPy's, through the host.

        Parameters
        ----------
        name : str
            SciPy's name of the function, as in 'erf'.

        Returns
        -------
        callable
            The function, elementwise, of arrays of one floating-point dtype that broadcast.

        Raises
        ------
        ImportError
            Neither the library nor SciPy has it; raised here, or by the function.
        """
        return find(self, name)

    # -- random numbers --------------------------------------------------------------------------------

    def philox_dtype(self, device: Any) -> str:
        """Return the dtype in which words of 32 bits are multiplied.

        Parameters
        ----------
        device : object
            The library's own device.

        Returns
        -------
        str
            'uint64' or 'int64', in which products are exact; 'uint32' on devices without these.
        """
        return "uint64" if self.has_dtype("uint64", device) else "uint32"

    words = _philox.Words  # the arithmetic of 32-bit words

    def draw(self, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int = 0) -> Array:
        """Return the random numbers of a key and a counter.

        Parameters
        ----------
        key : array
            The key: 4 words of uint32 along its last axis.
        count : array
            The counter: 8 words of uint32 along its last axis.
        form : str
            The kind of numbers, one of `FORMS` in `_philox`.
        shape : tuple of int
            The shape of one draw.
        dtype : str
            The dtype of the numbers.
        least : int, default 0
            The least word that counts as true, for the form 'at least'.

        Returns
        -------
        array
            The numbers: leading axes of key and counter, then the shape.
        """
        return _philox.draw(self, key, count, form, shape, dtype, least)

    def skip(self, count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
        """Return a counter advanced by `start`, or such counters in a shape, `step` apart.

        Parameters
        ----------
        count : array
            The counter: 8 words of uint32 along its last axis.
        shape : tuple of int
            The shape of the counters; empty for one.
        start : int
            The blocks that the first counter goes on by.
        step : int
            The blocks between one counter and the next.

        Returns
        -------
        array
            The counters: leading axes of the given one, the shape, then the words.
        """
        return _philox.skip(self, count, shape, start, step)

    def dropped(self, x: Array, key: Array, count: Array, shape: tuple[int, ...], least: int, scale: float) -> Array:
        """Return x times a scale where a random word is at least a number, else 0.

        Parameters
        ----------
        x : array
            The array; it may have further axes in front of those of the words.
        key, count : array
            Key and counter: words of uint32 along their last axis.
        shape : tuple of int
            The shape of the words, behind the leading axes of key and counter.
        least : int
            The least word that keeps an element.
        scale : float
            The factor of elements that are kept.

        Returns
        -------
        array
            The result, of the shape of x.
        """
        if least > _philox.MASK:
            return self.xp.zeros_like(x)
        return self.xp.where(self.xp.draw(key, count, "at least", shape, "bool", least), x * scale, 0.0)

    def gamma_sample(self, a: Array, x: Array) -> Array:
        """Return x, in memory of its own: the operation is there for its derivative in `a`.

        Parameters
        ----------
        a : array
            The concentration of the gamma distribution.
        x : array
            Numbers drawn from it.

        Returns
        -------
        array
            The same numbers.
        """
        return self.copy(x)

    # -- records of arrays -----------------------------------------------------------------------------

    def outer_record(self, array: Array) -> Any:
        """Return the record of the Tensor inside a batched array of vmap; not for adapters of libraries.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        Record or None
            The record; None for any other array.
        """
        return None

    def detached(self, array: Array) -> Array:
        """Return an array of the same values without ties to the tape.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        array
            The array itself, except for arrays of vmap.
        """
        return array

    def refuse_recorded(self, array: Array) -> None:
        """Refuse an array from outside whose gradient the library itself records.

        Parameters
        ----------
        array : array
            An array of the library.

        Raises
        ------
        TypeError
            The library's own autograd would lose the gradient.
        """

    # -- buffers -------------------------------------------------------------------------------------

    def copy(self, array: Array) -> Array:
        """Return a copy in memory of its own.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        array
            An array of the same shape, dtype and device; the array itself where none can be written to.
        """
        return self.xp.asarray(array, copy=True) if self.mutable else array

    def export(self, array: Array) -> Array:
        """Return the values for users, so that no write of theirs changes this array.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        array
            A copy, or a view that cannot be written to.
        """
        return self.copy(array)

    def copied_dlpack(self, array: Array, **options: Any) -> Any:
        """Return a DLPack capsule of a copy of an array, marked as one.

        Parameters
        ----------
        array : array
            An array of the library.
        **options : object
            The other options of `__dlpack__`.

        Returns
        -------
        capsule
            The capsule.
        """
        return array.__dlpack__(copy=True, **options)

    def readonly_dlpack(self, array: Array, stream: Any) -> Any:
        """Return a DLPack capsule of an array's own memory that is marked as read-only.

        Parameters
        ----------
        array : array
            An array of the library.
        stream : object
            The stream of the consumer, as in `__dlpack__`.

        Returns
        -------
        capsule
            The capsule.

        Raises
        ------
        BufferError
            The library has no such mark.
        """
        raise BufferError(f"{self.name} cannot export memory as read-only: DLPack export needs a copy")

    def is_private(self, holder: Any) -> bool:
        """Return whether an array may be written to, as nothing else refers to its buffer.

        It is asked about the slot, not the array: a reference passed as an argument would itself count.

        Parameters
        ----------
        holder : object
            The only object whose `_array` may be the array.

        Returns
        -------
        bool
            Whether only `holder._array` refers to it; False where the library cannot tell.
        """
        return False

    def memory(self, array: Array) -> int | None:
        """Return a number that arrays on the same memory share, as views do.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        int or None
            The number; None if it is unknown.
        """
        return None

    def can_share(self, array: Array, target: Array) -> bool:
        """Return whether a write of a whole array may share that array in place of a copy.

        Parameters
        ----------
        array : array
            The array that is written.
        target : array
            The array of the same shape and dtype that is written to.

        Returns
        -------
        bool
            Whether the array may take the place of the target.
        """
        return False

    def races(self, array: Array) -> bool:
        """Return whether an array's device adds and writes at repeated indices in no fixed order.

        Adapters that override it get sums in a fixed order under `tapegrad.deterministic`.

        Parameters
        ----------
        array : array
            An array of the library.

        Returns
        -------
        bool
            Whether the order may differ from run to run.
        """
        return False

    def index_get(self, array: Array, key: tuple[Any, ...]) -> Array:
        """Return `array[key]`.

        Parameters
        ----------
        array : array
            An array of the library.
        key : tuple
            An index with an entry for each axis: integers in range, slices and integer arrays, with None between them.
            A boolean array stands alone, or after leading slices.

        Returns
        -------
        array
            The elements, which may be a view.
        """
        return array[key]

    def index_set(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        """Write `array[key] = value` into a private array.

        Parameters
        ----------
        array : array
            An array that nobody else holds.
        key : tuple
            An index, as in `index_get`.
        value : array
            Values of the array's dtype that broadcast to the shape of `array[key]`.

        Returns
        -------
        array
            The array, or a new one where none can be written to.
        """
        array[key] = value
        return array

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        """Add values at an index into a private array; repeated indices add up.

        This default writes one item of an integer index at a time: right on every library, and slow.

        Parameters
        ----------
        array : array
            An array that nobody else holds.
        key : tuple
            An index, as in `index_get`.
        value : array
            Values of the array's dtype and of the shape of `array[key]`.

        Returns
        -------
        array
            The array, or a new one where none can be written to.
        """
        if not self.has_integer_arrays(key):
            array[key] = array[key] + value
            return array
        for at, item in self.items(array, key):
            array[at] = array[at] + value[item]
        return array

    def has_integer_arrays(self, key: tuple[Any, ...]) -> bool:
        """Return whether a key holds integer arrays, whose items may repeat.

        Parameters
        ----------
        key : tuple
            An index, as in `index_get`.

        Returns
        -------
        bool
            Whether there is such an array.
        """
        return any(hasattr(i, "shape") and not self.xp.isdtype(i.dtype, "bool") for i in key)

    def items(self, array: Array, key: tuple[Any, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Iterate over the items of `array[key]`, for a key that holds integer arrays.

        Parameters
        ----------
        array : array
            An array of the library.
        key : tuple
            An index, as in `index_get`.

        Yields
        ------
        tuple of tuple and tuple
            The index into the array, and the index into the result.
        """
        arrays = self.spell_out(array, key)
        shape = broadcast_shape([a.shape for a in arrays])
        arrays = [self.xp.broadcast_to(a, shape) for a in arrays]
        for item in product(*map(range, shape)):
            yield tuple(int(a[item]) for a in arrays), item

    def spell_out(self, array: Array, key: tuple[Any, ...]) -> list[Array]:
        """Return an equivalent key of one integer array for each axis, for a key that holds integer arrays.

        Parameters
        ----------
        array : array
            An array of the library.
        key : tuple
            An index, as in `index_get`.

        Returns
        -------
        list of array
            The arrays, of shapes that broadcast to that of `array[key]`.
        """
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
