"""Python's operators on Tensors, bound to the class from here, as the class is on a lower floor."""

from __future__ import annotations

import operator as python
import sys
from collections.abc import Callable
from typing import Any

from tapegrad._engine.backward import backward
from tapegrad._engine.coercion import coerce, from_outside, tensor_of_list
from tapegrad._engine.coercion import operand as as_operand
from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.dtypes import KIND_RANKS
from tapegrad._engine.host_constants import is_host
from tapegrad._engine.mode import DEFAULT, mode, scopes
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad._engine.views import updated
from tapegrad._protocols.pickling import copied, deep_copied, reduced
from tapegrad.ops import binary, conversion, elementwise, indexing, interchange, products

Binary = Callable[[Any, Any], Any]


def _reflected(operator: Binary) -> Binary:
    return lambda self, other: operator(other, self)


def _in_place(symbol: str, operator: Binary, write: Binary) -> Binary:
    """Return the operator `x op= y`; it writes into the buffer of x if no one else holds that."""
    what = f"x {symbol}= y"

    def update(self: Tensor, other: Any) -> Any:
        shape = self._array.shape
        operand = other
        m = mode() if scopes else DEFAULT
        if self._record is not None or not m.recording:
            indexing.check_writable(self, what)
        if m.watch is None and not (m.recording and _tracked(self, other)):
            if type(other) is Tensor:
                b = other._array
                fits = (b.shape == shape or b.shape == ()) and b.dtype == self._array.dtype
            else:
                b = coerce(what, other, self._array, keep=False)
                if b is NotImplemented:
                    made = tensor_of_list(what, other, self._array)
                    if made is None:
                        return b
                    if made._record is not None and m.recording:
                        return update(self, made)
                    operand, b = made, made._array
                elif hasattr(b, "shape") and is_host(other, self._array):
                    operand = wrap(b)  # saves a second copy to the device
                fits = not hasattr(b, "shape") or (b.dtype == self._array.dtype and b.shape in ((), shape))
            backend = backend_of[type(self._array)]
            if fits and backend.is_private(self):
                try:
                    self._array = backend.in_place.get(symbol, write)(self._array, b)
                except TypeError:  # the result is of another kind than x, as explained below
                    pass
                else:
                    return self
        if self._record is None or self._record.op.view:
            held = sys.getrefcount(self)
            updated(self, what, sys._getframe(1), held)
        out = operator(self, operand)
        if out is NotImplemented:
            return out
        if out.shape != tuple(shape) or out.dtype is not self.dtype:
            raise _unfit(symbol, self, other, out)
        if backend_of[type(out._array)].depth > backend_of[type(self._array)].depth:
            raise from_outside(what)
        self._array, self._record = indexing.parts(out, self)
        return self

    return update


def _unfit(symbol: str, x: Tensor, y: Any, out: Tensor) -> ValueError:
    """Return the error for a result that x cannot hold, with the fix.

    For another dtype of the same kind the fix is a cast. `x = x - y` would train nothing, as the parameter itself stays
    as it was.
    """
    fix = f"write x = x {symbol} y"
    if out.shape != x.shape:
        fix += ", which makes another Tensor and leaves a parameter as it was, or sum y to the shape of x"
    elif KIND_RANKS[out.dtype.kind] > KIND_RANKS[x.dtype.kind]:
        fix += f", or make x of {out.dtype.name} from the start"
    else:
        cast = "tapegrad.astype(y, x.dtype)" if type(y) is Tensor else "y.astype(x.dtype)"
        fix = f"cast y, as in x {symbol}= {cast}"
    return ValueError(
        f"x {symbol}= y: the result has shape {out.shape} and dtype {out.dtype.name}, which do not fit x with "
        f"{x.shape} and {x.dtype.name}: {fix}"
    )


def _tracked(self: Tensor, other: Any) -> bool:
    return self._record is not None or (type(other) is Tensor and other._record is not None)


def _bind(name: str, symbol: str, operator: Binary, write: Binary) -> None:
    setattr(Tensor, f"__{name}__", operator)
    setattr(Tensor, f"__r{name}__", _reflected(operator))
    setattr(Tensor, f"__i{name}__", _in_place(symbol, operator, write))


def _operator_matmul(x1: Any, x2: Any) -> Any:
    if type(x2) is not Tensor:
        x2 = as_operand("matmul", x2, x1._array)
        if x2 is NotImplemented:
            return x2
    return products.matmul(x1, x2)


def _reflected_matmul(x2: Any, x1: Any) -> Any:
    x1 = as_operand("matmul", x1, x2._array)
    return x1 if x1 is NotImplemented else products.matmul(x1, x2)


def install() -> None:
    """Give Tensor its operators and methods; done once, when tapegrad is imported."""
    e: Any = elementwise
    b: Any = binary
    _bind("add", "+", b.operator_add, python.iadd)
    _bind("sub", "-", b.operator_subtract, python.isub)
    _bind("mul", "*", b.operator_multiply, python.imul)
    _bind("truediv", "/", b.operator_divide, python.itruediv)
    _bind("floordiv", "//", b.operator_floor_divide, python.ifloordiv)
    _bind("mod", "%", b.operator_remainder, python.imod)
    _bind("pow", "**", b.operator_pow, python.ipow)
    _bind("and", "&", b.operator_bitwise_and, python.iand)
    _bind("or", "|", b.operator_bitwise_or, python.ior)
    _bind("xor", "^", b.operator_bitwise_xor, python.ixor)
    _bind("lshift", "<<", b.operator_bitwise_left_shift, python.ilshift)
    _bind("rshift", ">>", b.operator_bitwise_right_shift, python.irshift)
    methods: dict[str, Any] = {
        "__divmod__": lambda x, y: (x // y, x % y),
        "__rdivmod__": lambda x, y: (y // x, y % x),
        "__matmul__": _operator_matmul,
        "__rmatmul__": _reflected_matmul,
        "__imatmul__": _in_place("@", _operator_matmul, lambda a, b: a @ b),
        "__eq__": b.operator_equal,
        "__ne__": b.operator_not_equal,
        "__lt__": b.operator_less,
        "__le__": b.operator_less_equal,
        "__gt__": b.operator_greater,
        "__ge__": b.operator_greater_equal,
        "__neg__": e.negative,
        "__pos__": e.positive,
        "__abs__": e.abs,
        "__invert__": e.bitwise_invert,
        "__getitem__": indexing.getitem,
        "__setitem__": indexing.setitem,
        "__iter__": indexing.iterate,
        "__copy__": copied,
        "__deepcopy__": deep_copied,
        "__reduce__": reduced,
        "__dlpack__": interchange.export,
        "__dlpack_device__": interchange.device_of_memory,
        "to_device": conversion.to_device,
        "backward": backward,
        "T": property(_transposed, doc="The transpose of a Tensor of two axes."),
        "mT": property(products.matrix_transpose, doc="The Tensor with its last two axes swapped."),
    }
    for name, method in methods.items():
        setattr(Tensor, name, method)


def _transposed(x: Tensor) -> Tensor:
    if x.ndim != 2:
        raise ValueError(
            f"x.T is for Tensors of two axes, not of shape {x.shape}: "
            + ("x.mT swaps the last two" if x.ndim > 2 else "x[:, None] makes a column of one axis, x[None, :] a row")
        )
    return products.matrix_transpose(x)
