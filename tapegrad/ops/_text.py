"""The sections of a docstring that follow from a signature or a family, in NumPy's style.

A function's own docstring holds its summary, the formula of its derivative and its examples. `documented` puts
Parameters, Returns and Raises before the examples; functions that are declared, not written, get theirs from `of_one`
and `of_two`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# -- dtypes of elementwise functions ---------------------------------------------------------------------


class Kind(NamedTuple):
    """The dtypes of an elementwise function's operands, and that of its result."""

    operands: str
    result: str


FLOATING = Kind(
    "Real or complex floating; integers and booleans as far as the library converts them.",
    "The dtype is that of a floating operand, else the floating one that the library gives for integers.",
)
REAL_FLOATING = Kind(
    "Real floating; integers and booleans as far as the library converts them.",
    "The dtype is that of a floating operand, else the floating one that the library gives for integers.",
)
RECIPROCAL = Kind(
    "Real or complex floating; integers as far as the library takes them.",
    "The dtype is that of a floating operand; for integers the library decides.",
)
SPECIAL = Kind(
    "Real floating; integers and booleans as far as the library converts them.",
    "The dtype is that of a float32 or float64 operand, else the floating one that the library gives.",
)
NUMERIC = Kind("Of any numeric dtype.", "The dtype is that of the operands, promoted.")
REAL = Kind("Of any real dtype.", "The dtype is that of the operands, promoted.")
PARTS = Kind("Of any numeric dtype.", "The dtype is real: that of the parts for complex values, else that of `x`.")
INTEGERS = Kind("Of an integer or boolean dtype.", "The dtype is that of the operands, promoted.")
SHIFTED = Kind("Of an integer dtype.", "The dtype is that of the operands, promoted.")
PREDICATE = Kind("Of any numeric dtype.", "The dtype is boolean.")
COMPARED = Kind("Of any dtype.", "The dtype is boolean.")
ORDERED = Kind("Of any real dtype.", "The dtype is boolean.")
LOGICAL = Kind("Boolean; other dtypes as far as the library has a truth for them.", "The dtype is boolean.")

# The dtype of other results, beside that of `x`.
SAME = "The dtype is that of `x`."
PROMOTED = "The dtype is that of the operands, promoted."
FLOATED = "The dtype is that of `x`; for integers and booleans the default floating one."
SUMMED = (
    "The dtype is that of `x`; for smaller integers and booleans the default integer one, unsigned for unsigned ones."
)
ABSOLUTE = (
    "The dtype is real: that of the parts for complex values, of `x` for real ones, the default one for integers."
)
RTOL = "Singular values below this times the largest count as zero; the library's own bound for None."
SQUARE = "ValueError: The matrices are not square."
MATRICES = "ValueError: `x` has fewer than two axes."
SINGULAR = "ValueError: A matrix is singular; CuPy and JAX say so under `tapegrad.debug` only, and else return numbers."
COMPLEX = "The dtype is complex, of the precision of `x`; for integers of the default one."
BOOLEAN = "The dtype is boolean."
INDICES = "The dtype is int64, or int32 where the device has no int64."

_names_t, _names_out = (re.compile(rf"\b{name}\b").search for name in ("t", "out"))

# -- words that families share ---------------------------------------------------------------------------

TYPES = {
    "ArrayLike": "ArrayLike",
    "ArrayLike | None": "ArrayLike or None",
    "Axis": "int, tuple of int or None",
    "int | tuple[int, ...]": "int or tuple of int",
    "tuple[int, ...]": "tuple of int",
    "Shape": "int or sequence of int",
    "Sequence[int]": "sequence of int",
    "Sequence[int] | None": "sequence of int or None",
    "Sequence[ArrayLike]": "sequence of ArrayLike",
    "tuple[Tensor, ...]": "tuple of Tensor",
}
AN_AXIS_OF = "The axis; a negative one counts from the last."
COMMON = {
    "x": "The operand, of any dtype.",
    "x1": "The first operand.",
    "x2": "The second operand.",
    "axis": AN_AXIS_OF,
    "keepdims": "Whether to keep the reduced axes, with length 1.",
    "dtype": "The dtype of the result; the default floating one for None (see `tapegrad.default_dtype`).",
    "device": "The device of the result; the default one for None (see `tapegrad.default_device`).",
}
SCIPY = "ImportError: The library has no such function, and SciPy, which stands in, is not installed."
ONE = "TypeError: `{}` is no array, number or nested list of numbers."
SEVERAL = "TypeError: An operand is no array, number or nested list of numbers, or they are on different devices."
BROADCAST = "ValueError: The shapes do not broadcast."
OTHERWISE = "On PyTorch it is a RuntimeError, on JAX it may be a TypeError."
UNFIT = f"ValueError: The shapes do not fit. {OTHERWISE}"
_OF_OPTIONS: dict[str, tuple[str, ...]] = {
    "norm": (
        "ValueError: A length is below 1, or `norm` is another one.",
        "TypeError: A length to transform is no integer.",
    ),
    "shape": ("ValueError: A length is negative.", "TypeError: A length is no integer."),
    "dtype": ("TypeError: The dtype is none of the standard's, or the device lacks it.",),
    "device": (
        "TypeError: The device is no string.",
        "ValueError: The device is unknown.",
        "RuntimeError: The device is not there.",
    ),
}
AN_AXIS = ("ValueError: The axis is not there.", "TypeError: The axis is no integer.")
AXES = ("ValueError: An axis is not there, or is named twice.", "TypeError: An axis is no integer.")

# -- docstrings of declared functions ----------------------------------------------------------------------


def of_one(summary: str, derivative: str, call: str, result: str, kind: Kind = FLOATING, *raises: str) -> str:
    """Return the docstring of an elementwise function of one operand."""
    return _joined(
        summary,
        _defined(derivative, "the tangent of `x`"),
        [("x", "ArrayLike", kind.operands)],
        ("Tensor", f"The shape is that of `x`. {kind.result.replace('the operands, promoted', '`x`')}"),
        (ONE.format("x"), *raises, *[SCIPY] * (kind is SPECIAL)),
        f">>> import tapegrad as tg\n>>> {call}\n{result}",
    )


def of_two(summary: str, derivatives: str, call: str, result: str, kind: Kind = FLOATING, *raises: str) -> str:
    """Return the docstring of an elementwise function of two operands."""
    return _joined(
        summary,
        _defined(derivatives, "the tangent of `x1` or `x2`"),
        [("x1, x2", "ArrayLike", f"{kind.operands} The shapes broadcast.")],
        ("Tensor", f"The shape is the one that the operands broadcast to. {kind.result}"),
        (SEVERAL, BROADCAST, *raises, *[SCIPY] * (kind is SPECIAL)),
        f">>> import tapegrad as tg\n>>> {call}\n{result}",
    )


# -- docstrings of written functions -----------------------------------------------------------------------


def documented(
    returns: str, *raises: str, shared: Mapping[str, str] | None = None, **parameters: str
) -> Callable[[F], F]:
    """Put the sections Parameters, Returns and Raises into a docstring, before its examples.

    returns: the description of the result, whose type is that of the signature; raises: "Error: when." each;
    parameters: descriptions by name, for which `shared` and then COMMON stand in. Operands that are no arrays, and axes
    that are not there, need not be named. Raises KeyError for a parameter without description, TypeError for a
    description without parameter.
    """

    def add(function: F) -> F:
        doc = function.__doc__
        if doc is None:  # python -OO
            return function
        known = {**COMMON, **(shared or {}), **parameters}
        listed = _parameters(function, known)
        types = function.__annotations__
        names = {name.strip("*") for name, _, _ in listed}
        if not parameters.keys() <= names:
            raise TypeError(f"{function.__name__} has no parameter {', '.join(parameters.keys() - names)}")
        if "\n    >>> " in doc:  # from Python 3.13 on, it comes without the indentation
            doc = doc.replace("\n    ", "\n")
        head, _, examples = doc.partition(">>> ")
        summary, _, extended = head.strip().partition("\n\n")
        function.__doc__ = _joined(
            summary.replace("\n", " "),
            _defined(extended, "the cotangent of the result"),
            listed,
            (_type(types["return"]), returns),
            _of_operands(types, raises),
            f">>> {examples}",
        )
        return function

    return add


def _parameters(function: Any, known: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (name, type with default, description) for each parameter of a function."""
    code, types = function.__code__, function.__annotations__
    by_place, by_name = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames
    last = function.__defaults__ or ()
    defaults = dict(zip(names[by_place - len(last) : by_place], last, strict=True))
    defaults |= function.__kwdefaults__ or {}
    found = [(name, name) for name in names[:by_place]]
    if code.co_flags & 4:  # *args
        found.append((f"*{names[by_place + by_name]}", names[by_place + by_name]))
    found += [(name, name) for name in names[by_place : by_place + by_name]]
    return [
        (shown, _type(types[name]) + (f", default {defaults[name]!r}" if name in defaults else ""), known[name])
        for shown, name in found
    ]


def _type(annotation: str) -> str:
    return TYPES.get(annotation) or annotation.replace(" | ", " or ")


def _of_operands(types: Mapping[str, str], raises: tuple[str, ...]) -> list[str]:
    """Return further clauses of Raises, for operands and axes of the wrong kind."""
    operands = [name for name, kind in types.items() if kind.startswith(("ArrayLike", "Sequence[ArrayLike]"))]
    found = []
    if operands:
        alone = len(operands) == 1 and operands[0] != "arrays"
        found.append(ONE.format(operands[0]) if alone else SEVERAL)
    for name, errors in _OF_OPTIONS.items():
        if name in types:
            found += errors
    kind = types.get("axis", types.get("axes", ""))
    if kind and not any(["axis is not there" in text for text in raises]):
        found += AN_AXIS if kind in ("int", "int | None") else AXES
    return [*found, *raises]


# -- putting together --------------------------------------------------------------------------------------


def _defined(text: str, what: str) -> str:
    """Return a text with a sentence that defines t and out, where it speaks of them."""
    if not _names_t(text):
        return text
    out = ", out the result" if _names_out(text) else ""
    return f"{text} Here t is {what}{out}."


def _joined(
    summary: str,
    extended: str,
    parameters: Iterable[tuple[str, str, str]],
    returns: tuple[str, str],
    raises: Iterable[str],
    examples: str,
) -> str:
    """Return a docstring, its sections in the order of NumPy's style; errors of one type are one item."""
    errors: dict[str, list[str]] = {}
    for text in raises:
        kind, _, when = text.partition(": ")
        errors.setdefault(kind, []).append(when)
    parts = [summary, *map(_filled, extended.split("\n\n") if extended else ())]
    listed = "\n".join([f"{name} : {kind}\n{_indented(text)}" for name, kind, text in parameters])
    if listed:
        parts.append(f"Parameters\n----------\n{listed}")
    parts.append(f"Returns\n-------\n{returns[0]}\n{_indented(returns[1])}")
    if errors:
        listed = "\n".join([f"{kind}\n{_indented(' '.join(when))}" for kind, when in errors.items()])
        parts.append(f"Raises\n------\n{listed}")
    return "\n\n".join([*parts, f"Examples\n--------\n{examples.rstrip()}\n"])


@cache
def _indented(text: str) -> str:
    return _filled(text, "    ")


def _filled(text: str, indent: str = "") -> str:
    """Return a paragraph in lines of at most 100 characters, each with an indentation."""
    lines, width = [], 100 - len(indent)
    text = text.replace("\n", " ")
    while len(text) > width:
        cut = text.rfind(" ", 0, width + 1)
        lines.append(indent + text[:cut])
        text = text[cut + 1 :]
    return "\n".join([*lines, indent + text])
