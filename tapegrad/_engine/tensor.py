"""Tensor: an array of the array API standard, on any library, that operations can be recorded on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, final
from weakref import ref

import numpy as np

from tapegrad._engine.bound import bound
from tapegrad._engine.dispatch import backend_of, detached_array, device_of, dtype_of, outer_record
from tapegrad._engine.dtypes import DType, isdtype
from tapegrad._engine.graph_breaks import cut, cuts
from tapegrad._engine.levels import mapping
from tapegrad._engine.mode import mode, mode_set, notify_use
from tapegrad._engine.record import LEAF, RELEASED, Record, next_seq
from tapegrad.backends import Array

new = object.__new__
# The published versions of the standard; each adds to the one before.
_PUBLISHED = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")


@final
class Tensor:
    """A differentiable array: a value, on a device, in a dtype.

    Make one with `tapegrad.tensor`, `tapegrad.asarray` or a creation function; the class itself raises TypeError.
    Functions of the array API standard are in the namespace `tapegrad` (`tg.sum(x)`, `tg.reshape(x, shape)`); the
    array's own methods and operators are the standard's.

    A Tensor is a value: slices never alias, `x[i] = v` and `x += y` give this Tensor a new value and no other Tensor
    sees it.

    Attributes
    ----------
    shape : tuple of int
        The length of each axis.
    ndim : int
        The number of axes.
    size : int
        The number of elements.
    dtype : DType
        The element type.
    device : str
        The device, which names the library too.
    array : array
        The value as its library's own array.
    requires_grad : bool
        Whether operations on it are recorded.
    is_leaf : bool
        Whether it is no result of a recorded operation.
    grad : Tensor or None
        The gradient that `backward` added up here.
    T : Tensor
        The transpose of a Tensor of two axes.
    mT : Tensor
        The Tensor with its last two axes swapped.

    Examples
    --------
    >>> import tapegrad as tg
    >>> x = tg.asarray([1.0, 2.0])
    >>> isinstance(x, tg.Tensor), x.shape, x.dtype, x.device
    (True, (2,), tapegrad.float64, 'cpu')
    """

    __slots__ = ("__weakref__", "_array", "_base", "_grad", "_record")

    _array: Array
    _record: Record | None
    _grad: Tensor | None
    _base: Tensor | None  # the Tensor that it was sliced, reshaped or transposed from: see views.py

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("make a Tensor with tapegrad.tensor(data) or tapegrad.asarray(data)")

    # -- attributes of the standard ------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return tuple(self._array.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._array.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        n = 1
        for length in self._array.shape:
            n *= length
        return n

    @property
    def dtype(self) -> DType:
        """The element type, the same object on every library."""
        return dtype_of(self._array)

    @property
    def device(self) -> str:
        """The device string, which names the library too: "cpu", "cuda:0", "torch:cpu"."""
        return device_of(self._array)

    @property
    def array(self) -> Array:
        """The value as its library's own array: a read-only view on NumPy, a copy where there are none.

        Raises TypeError while this Tensor is being recorded: computations on the raw array would
        be lost to the gradient.
        """
        self._leave("reading .array")
        return backend_of[type(self._array)].export(self._array)

    # -- gradients -----------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """True if operations on this Tensor are recorded. Set it on a Tensor to make it a leaf."""
        return (self._record or outer_record(self._array)) is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        notify_use(self)
        if value and self._record is None:
            make_leaf(self)
        elif not value and self._record is not None:
            if not self.is_leaf:
                raise RuntimeError("requires_grad cannot be unset on the result of an operation: use x.detach()")
            self._record = None

    @property
    def is_leaf(self) -> bool:
        """True if this Tensor is no result of a recorded operation."""
        return self._record is None or self._record.op is LEAF

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward` added up here, or None. Set it to None to start anew."""
        notify_use(self)
        try:
            return self._grad
        except AttributeError:
            return None

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        notify_use(self)
        if value is not None:
            check_like("the gradient", value, self._array.shape, self._array)
        self._grad = value

    def detach(self) -> Tensor:
        """Return the same value, cut from the tape: a constant to everything that follows.

        Returns
        -------
        Tensor
            A Tensor of the same value.

        Examples
        --------
        >>> import tapegrad as tg
        >>> x = tg.tensor([1.0], requires_grad=True)
        >>> (x * x.detach()).requires_grad, x.detach().requires_grad
        (True, False)
        """
        record = self._record or outer_record(self._array)
        if record is not None:
            cut("detach()", record)
        y = wrap(detached_array(self._array))
        notify_use(self)
        notify_use(y)
        return y

    def retain_grad(self) -> None:
        """Have `backward` keep the gradient of this intermediate result in `.grad`.

        Call it before `backward`.

        Raises
        ------
        RuntimeError
            The Tensor is not recorded.

        Examples
        --------
        >>> import tapegrad as tg
        >>> x = tg.tensor(3.0, requires_grad=True)
        >>> a = x * x
        >>> a.retain_grad()
        >>> (a * 5.0).backward()
        >>> a.grad
        Tensor(5.)
        """
        if self._record is None:
            raise RuntimeError("retain_grad: this Tensor is not recorded, so it will get no gradient")
        hooks = self._record.tensor
        if isinstance(hooks, Hooks):
            hooks.tensor = ref(self)
        else:
            self._record.tensor = ref(self)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Hook:
        """Have `backward` call a function with the gradient of this Tensor as soon as that is complete.

        Hooks run in the order of registering.

        Parameters
        ----------
        hook : callable
            A function of the gradient, which returns another one to go on with (of the same shape, dtype and device),
            or None.

        Returns
        -------
        Hook
            A handle whose `remove()` takes the hook off.

        Raises
        ------
        RuntimeError
            The Tensor is not recorded, or is one of a vmap, where the gradient is taken outside.

        Examples
        --------
        >>> import tapegrad as tg
        >>> x = tg.tensor(3.0, requires_grad=True)
        >>> handle = x.register_hook(lambda g: g * 10.0)
        >>> (x * x).backward()
        >>> x.grad
        Tensor(60.)
        """
        if self._record is None:
            raise RuntimeError("register_hook: this Tensor is not recorded, so it will get no gradient")
        if outer_record(self._array) is not None:
            raise RuntimeError(
                "register_hook: inside vmap, a hook would not see the gradient that is taken outside: hook the Tensor "
                "that vmap is given, or its result"
            )
        hooks = self._record.tensor
        if not isinstance(hooks, Hooks):
            hooks = self._record.tensor = Hooks(hooks)
        hooks.functions.append(hook)
        return Hook(hooks.functions, hook)

    # -- looking at the value ------------------------------------------------------------------------

    def item(self) -> Any:
        """Return the value of a one-element Tensor as a Python scalar: a constant, to look at.

        A transform raises RuntimeError if all that its function returns was computed from such values.

        Returns
        -------
        bool, int, float or complex
            The value.

        Raises
        ------
        ValueError
            There is other than one element.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.tensor([2.5]).item()
        2.5
        """
        value = self._only("item")
        self._looked_at("item()")
        return value

    def tolist(self) -> Any:
        """Return the values as nested Python lists: constants, to look at, as by `item`.

        Returns
        -------
        list or scalar
            A list for each axis; a scalar for a Tensor without axes.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.tensor([[1.0, 2.0]]).tolist()
        [[1.0, 2.0]]
        """
        values = host(self).tolist()
        self._looked_at("tolist()")
        return values

    def _looked_at(self, how: str) -> None:
        """Note a graph break: values were read, and a transform's result may depend on them alone."""
        if self._record is not None:
            cut(how, self._record)

    def __bool__(self) -> bool:
        return bool(self._only("bool(x), as in `if x:`", ": use tapegrad.any(x) or tapegrad.all(x)"))

    def _only(self, what: str, instead: str = "", kind: type[Exception] = ValueError) -> Any:
        """Return the single element; raise an error of type `kind`, which names `what`, if there are more or none."""
        if self.size != 1:
            raise kind(f"{what}: a Tensor of shape {self.shape} has {self.size} elements, not one{instead}")
        return host(self).item()

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a Tensor with no axes")
        return self.shape[0]

    def __repr__(self) -> str:
        device, dtype = self.device, self.dtype
        self._looked_at("repr()")
        text = np.array2string(backend_of[type(self._array)].peek(self._array), separator=", ", prefix="Tensor(")
        if dtype.name not in ("float64", "int64", "bool"):
            text += f", dtype={dtype.name}"
        if device != "cpu":
            text += f", device={device!r}"
        if self._record is not None:
            text += ", requires_grad=True" if self.is_leaf else f", op={self._record.op.name}"
        return f"Tensor({text})"

    def __format__(self, spec: str) -> str:
        if not spec:
            return repr(self)
        instead = ": format the items of x.tolist(), or print x under numpy.printoptions"
        text = format(self._only(f"the format {spec!r}", instead, TypeError), spec)
        self._looked_at("format()")
        return text

    __hash__ = object.__hash__  # by identity: == compares elements

    # -- leaving the tape ----------------------------------------------------------------------------

    def _leave(self, how: str, instead: str = "") -> None:
        if self._record is not None:
            if not loses_gradient(self):
                notify_use(self)
                return
            raise TypeError(
                f"{how} would take this Tensor off the tape and lose its gradient: use x.detach() first, "
                f"or x.item() to look at one number, a constant{instead}"
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        self._leave("conversion to a NumPy array", ", or the function of the same name in tapegrad")
        values = host(self)
        if copy or (dtype is not None and np.dtype(dtype) != values.dtype):
            if copy is False:
                raise ValueError(f"a conversion from {values.dtype} to {dtype} needs a copy")
            return np.array(values, dtype=dtype)
        view = values.view()
        view.flags.writeable = False
        return view

    def __float__(self) -> float:
        self._leave("float()", ", or tapegrad's function for one of math, as tapegrad.sqrt(x) for math.sqrt(x)")
        return float(self._only("float(x)"))

    def __int__(self) -> int:
        self._leave("int()")
        return int(self._only("int(x)"))

    def __complex__(self) -> complex:
        self._leave("complex()")
        return complex(self._only("complex(x)"))

    def __round__(self, digits: int | None = None) -> Any:
        return round(self._number("round"), digits)

    def __trunc__(self) -> Any:
        return math.trunc(self._number("trunc"))

    def __floor__(self) -> Any:
        return math.floor(self._number("floor"))

    def __ceil__(self) -> Any:
        return math.ceil(self._number("ceil"))

    def _number(self, function: str) -> Any:
        self._leave(f"Python's {function}()", f", or tapegrad.{function}(x)")
        return self._only(f"{function}(x)")

    def __index__(self) -> int:
        if not isdtype(self.dtype, "integral"):
            raise TypeError(f"only a Tensor of integers can be an index, not one of {self.dtype.name}")
        return int(self._only("an integer, as an axis or a shape", "", TypeError))

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        if api_version is not None and api_version not in _PUBLISHED:
            version = bound.namespace.__array_api_version__
            raise ValueError(f"tapegrad follows the array API {version}, not {api_version}")
        return bound.namespace

    if not TYPE_CHECKING:  # a type checker would accept any name

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):  # a slot that is not set; a frequent case
                raise AttributeError(name)
            if callable(getattr(bound.namespace, name, None)):
                raise AttributeError(
                    f"a Tensor has no method {name!r}: the array API has it as a function, tapegrad.{name}(x)"
                )
            raise AttributeError(f"a Tensor has no attribute {name!r}{bound.hint(name)}")

    if TYPE_CHECKING:  # bound in _protocols
        T: Tensor
        mT: Tensor

        def backward(
            self,
            gradient: Any = None,
            retain_graph: bool = False,
            create_graph: bool = False,
        ) -> None: ...
        def to_device(self, device: str, /, *, stream: Any = None) -> Tensor: ...
        def __dlpack__(
            self,
            /,
            *,
            stream: Any = None,
            max_version: tuple[int, int] | None = None,
            dl_device: tuple[Any, int] | None = None,
            copy: bool | None = None,
        ) -> Any: ...
        def __dlpack_device__(self, /) -> tuple[Any, int]: ...
        def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any: ...
        def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any: ...
        def __iter__(self) -> Any: ...
        def __getitem__(self, key: Any) -> Tensor: ...
        def __setitem__(self, key: Any, value: Any) -> None: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __iadd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __isub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __imul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __itruediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __rfloordiv__(self, other: Any) -> Tensor: ...
        def __ifloordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __rmod__(self, other: Any) -> Tensor: ...
        def __imod__(self, other: Any) -> Tensor: ...
        def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]: ...
        def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __ipow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __imatmul__(self, other: Any) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __rand__(self, other: Any) -> Tensor: ...
        def __iand__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __ror__(self, other: Any) -> Tensor: ...
        def __ior__(self, other: Any) -> Tensor: ...
        def __xor__(self, other: Any) -> Tensor: ...
        def __rxor__(self, other: Any) -> Tensor: ...
        def __ixor__(self, other: Any) -> Tensor: ...
        def __lshift__(self, other: Any) -> Tensor: ...
        def __rlshift__(self, other: Any) -> Tensor: ...
        def __ilshift__(self, other: Any) -> Tensor: ...
        def __rshift__(self, other: Any) -> Tensor: ...
        def __rrshift__(self, other: Any) -> Tensor: ...
        def __irshift__(self, other: Any) -> Tensor: ...
        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __pos__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...


class Hooks:
    """The hooks of a Tensor; its record holds them in place of the weak reference to the Tensor."""

    __slots__ = ("functions", "tensor")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.functions: list[Callable[[Tensor], Tensor | None]] = []

    def __call__(self) -> Tensor | None:
        return None if self.tensor is None else self.tensor()

    def run(self, t: Any, create_graph: bool) -> Any:
        """Run the hooks on a cotangent, a Tensor or a raw array, and return the result."""
        g = shallow_copy(t) if create_graph else wrap(backend_of[type(t)].as_array(t))
        with mode_set(recording=create_graph):
            for hook in tuple(self.functions):
                new_gradient = hook(g)
                if new_gradient is not None:
                    check_like("register_hook: the result of the hook", new_gradient, g.shape, g._array)
                    g = new_gradient
        return g if create_graph else g._array


class Hook:
    """A hook that was registered.

    Parameters
    ----------
    functions : list[Callable[[Tensor], Tensor or None]]
        The hooks of a Tensor.
    hook : callable
        The hook.
    """

    def __init__(self, functions: list[Callable[[Tensor], Tensor | None]], hook: Callable[[Tensor], Any]) -> None:
        self._functions, self._hook = functions, hook

    def remove(self) -> None:
        """Take the hook off; once is enough.

        Examples
        --------
        >>> import tapegrad as tg
        >>> x = tg.tensor(3.0, requires_grad=True)
        >>> handle = x.register_hook(lambda g: g * 10.0)
        >>> handle.remove()
        >>> (x * x).backward()
        >>> x.grad
        Tensor(6.)
        """
        self._functions[:] = [f for f in self._functions if f is not self._hook]


def wrap(array: Array, record: Record | None = None) -> Tensor:
    """Return a Tensor with a raw array, which nobody will write to."""
    x: Tensor = new(Tensor)
    x._array = array
    x._record = record
    return x


def shallow_copy(x: Tensor) -> Tensor:
    """Return another Tensor of the same value and record; an in-place update of one does not change the other."""
    return wrap(x._array, x._record)


def loses_gradient(x: Tensor) -> bool:
    """Return whether an unrecorded use of a Tensor would lose a gradient.

    Nothing is lost while nothing is recorded. Nothing is lost either behind a released record, as another backward pass
    would raise there. Inside an open transform a gradient would be lost silently, so that True is returned.
    """
    record = x._record
    if record is None or not mode().recording:
        return False
    return cuts.get() is not None or not _is_released(record)


def _is_released(record: Record) -> bool:
    """Return whether a backward pass from a record meets a released one."""
    seen, stack = {record}, [record]
    while stack:
        r = stack.pop()
        if r.saved is RELEASED:
            return True
        new = {p for p in r.parents if p is not None} - seen
        seen |= new
        stack += new
    return False


def host(x: Tensor) -> np.ndarray[Any, Any]:
    """Return the values as a NumPy array, for reading."""
    return backend_of[type(x._array)].to_host(x._array)


def make_leaf(x: Tensor) -> None:
    """Make a Tensor a leaf that collects gradients; raise TypeError unless its dtype is floating."""
    dtype = dtype_of(x._array)
    if not isdtype(dtype, ("real floating", "complex floating")):
        raise TypeError(
            f"requires_grad needs a floating dtype, not {dtype.name}: "
            "convert with tapegrad.astype(x, tapegrad.float32) first"
        )
    level = mapping.get()
    if level is not None:
        x._array = level.lift(x)
    r = x._record = new(Record)
    r.seq = next_seq()
    r.op = LEAF
    r.parents = r.saved = ()
    r.shape = x._array.shape
    r.dtype = x._array.dtype
    r.tensor = ref(x)


def check_like(what: str, value: object, shape: tuple[int, ...], like: Array) -> None:
    """Raise unless a value is a Tensor of this shape, and of the dtype and device of a raw array."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{what} must be a Tensor, not {type(value).__name__}")
    if value.shape != tuple(shape):
        raise ValueError(f"{what} has shape {value.shape}, but the Tensor it belongs to has {tuple(shape)}")
    if value.device != device_of(like):
        raise ValueError(
            f"{what} is on {value.device}, but the Tensor it belongs to is on {device_of(like)}: move it with to_device"
        )
    if value.dtype != dtype_of(like):
        raise TypeError(
            f"{what} has dtype {value.dtype.name}, but the Tensor it belongs to has "
            f"{dtype_of(like).name}: convert it with tapegrad.astype"
        )
