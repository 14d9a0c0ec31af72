"""Layers: dataclasses of Tensors and other layers, with fields that are no arrays."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from inspect import get_annotations
from typing import Any, TypeVar, dataclass_transform

from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import LAYER, is_layer
from tapegrad.nn._walk import parts

C = TypeVar("C", bound=type)
_WIDTH = 100


def static(default: Any = MISSING, *, factory: Any = MISSING) -> Any:
    """Declare a field of a dataclass that no transform differentiates by.

    In a layer, integers, floats, text, functions and containers of these are static without it. Use it for other
    objects, and for Tensors that are state but no parameters, as running means are. A plain dataclass needs it for a
    float that is a constant.

    Parameters
    ----------
    default : object
        The value where none is given; the field must be given if it is left out.
    factory : callable
        A function that makes the default.

    Returns
    -------
    dataclasses.Field
        The value to assign to the field in the class.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import tapegrad as tg
    >>> @dataclass
    ... class Scaled:
    ...     weight: tg.Tensor
    ...     factor: float = tg.nn.static(2.0)
    >>> tg.grad(lambda model: model.weight * model.factor)(Scaled(tg.asarray(1.0)))
    Scaled(weight=Tensor(2.), factor=2.0)
    """
    options = {} if default is MISSING else {"default": default}
    options |= {} if factory is MISSING else {"default_factory": factory}
    return field(metadata={"static": True}, **options)


@dataclass_transform(eq_default=False, field_specifiers=(static, field))
def layer(kind: C) -> C:
    """Make a class one of layers: a dataclass whose objects are trees of their attributes.

    Objects have a short repr, and are equal if they are the same. `tapegrad.grad` and the like differentiate by all
    attributes that hold Tensors, fields or not, those of layers inside too. Integers, floats, text and functions are
    static. A class may have an `__init__` of its own.

    Parameters
    ----------
    kind : type
        The class.

    Returns
    -------
    type
        The class itself.

    Raises
    ------
    TypeError
        It is no class, or one with `__slots__`.

    Examples
    --------
    >>> import tapegrad as tg
    >>> @tg.nn.layer
    ... class Scaled:
    ...     weight: tg.Tensor
    ...     factor: float = 2.0
    ...     def __call__(self, x):
    ...         return self.weight * self.factor * x
    >>> model = Scaled(tg.ones(2))
    >>> model
    Scaled(weight=float64[2])
    >>> tg.grad(lambda model: tg.sum(model(3.0)))(model).weight
    Tensor([6., 6.])
    """
    if not isinstance(kind, type):
        raise TypeError(f"layer: it is a decorator of a class, not of {type(kind).__name__}")
    if any(vars(base).get("__slots__") for base in kind.__mro__):
        raise TypeError(f"layer: {kind.__name__} has __slots__: leave them out, as attributes are the parts of a layer")
    own_repr = "__repr__" in vars(kind)
    # A subclass without fields of its own keeps the __init__ that it inherits.
    made: Any = dataclass(eq=False, repr=False, init=bool(get_annotations(kind)))(kind)
    setattr(made, LAYER, True)
    if not own_repr:
        made.__repr__ = shown
    return made  # type: ignore[no-any-return]


def shown(x: Any) -> str:
    """Return a layer as text: Tensors by dtype and shape, on one line if it fits, else a line for each part."""
    return _text(x, "", (), _WIDTH)


def _text(x: Any, indent: str, above: tuple[int, ...], width: int) -> str:
    if type(x) is Tensor:
        return f"{x.dtype.name}{list(x.shape)}"
    if id(x) in above:
        return "..."
    above = (*above, id(x))
    if is_layer(type(x)):
        items = [(f"{name}=", value) for name, value in parts(x) if not _is_default(x, name, value)]
        name = type(x).__name__
        if all(label[:-1].isdigit() for label, _ in items):
            items = [("", value) for _, value in items]
        start, end = f"{name}(", ")"
    elif isinstance(x, (list, tuple)) and any(type(v) is Tensor or is_layer(type(v)) for v in x):
        items, start, end = [("", v) for v in x], "[", "]"
    elif isinstance(x, dict) and any(type(v) is Tensor or is_layer(type(v)) for v in x.values()):
        items, start, end = [(f"{k!r}: ", v) for k, v in x.items()], "{", "}"
    else:
        return getattr(x, "__name__", None) or repr(x) if callable(x) else repr(x)
    inner = indent + "  "
    texts: list[tuple[str, int]] = []  # each with the number of times that it stands there in a row
    for label, value in items:
        text = label + _text(value, inner, above, width)
        if texts and texts[-1][0] == text:
            texts[-1] = (text, texts[-1][1] + 1)
        else:
            texts.append((text, 1))
    lines = [f"{n} x {text}" if n > 1 else text for text, n in texts]
    line = start + ", ".join(lines) + end
    if len(indent) + len(line) <= width and "\n" not in line:
        return line
    return start + "\n" + "".join(f"{inner}{text},\n" for text in lines) + indent + end


def _is_default(x: Any, name: str, value: Any) -> bool:
    """Return whether an attribute is a static one with its default value, which needs no mention."""
    if value is None:
        return True
    for f in fields(x):
        if f.name == name and f.default is not MISSING and type(value) is type(f.default):
            return (isinstance(value, (int, float, str, tuple)) and bool(value == f.default)) or value is f.default
    return False
