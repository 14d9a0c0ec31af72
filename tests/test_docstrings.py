"""Docstrings of the public interface: complete, in NumPy's style, and true wherever a run can tell."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from places import why_not

import tapegrad as tg
from tapegrad.ops import _text

SECTIONS = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Notes", "References", "Examples")
HEADING = re.compile(r"^(\w+)\n(-+)$", re.MULTILINE)
ITEM = re.compile(r"^(\S.*?)(?: : (.+))?$", re.MULTILINE)


class Doc(NamedTuple):
    """A docstring in its parts: the text before the first heading, and the text below each heading."""

    summary: str
    extended: str
    sections: dict[str, str]

    def items(self, section: str) -> dict[str, str]:
        """Return name -> description of what a section lists; `x1, x2 : ...` is for both."""
        text = self.sections.get(section, "")
        found: dict[str, str] = {}
        matches = list(ITEM.finditer(text)) if text else []
        if not matches:
            return {}
        for m, after in zip(matches, [*matches[1:], None], strict=True):
            body = text[m.end() : after.start() if after else len(text)]
            for name in m[1].split(", ") if section in ("Parameters", "Attributes") else [m[1]]:
                found[name] = " ".join(body.split())
        return found


def parsed(doc: str) -> Doc:
    marks = list(HEADING.finditer(doc))
    head = doc[: marks[0].start()] if marks else doc
    summary, _, extended = head.strip().partition("\n\n")
    sections = {
        m[1]: doc[m.end() : after.start() if after else len(doc)].strip("\n")
        for m, after in zip(marks, [*marks[1:], None], strict=True)
    }
    assert len(sections) == len(marks), "a section comes twice"
    return Doc(summary, extended, sections)


def functions_of(module: Any) -> dict[str, Any]:
    prefix = module.__name__
    return {
        f"{prefix}.{name}": f
        for name in module.__all__
        if callable(f := getattr(module, name)) and not isinstance(f, (type, tg.DType))
    }


DONE = {f"tapegrad.ops.{name}" for name in ("elementwise", "binary", "special", "special_gamma", "reductions")}
FUNCTIONS: dict[str, Any] = {
    name: f
    for module in (tg, tg.linalg, tg.fft, tg.special)
    for name, f in functions_of(module).items()
    if inspect.unwrap(f).__module__ in DONE
}


def complaints(name: str, f: Any) -> Iterator[str]:
    """Say what a docstring lacks, or has too much, beside the signature."""
    doc = inspect.getdoc(f) or ""
    d = parsed(doc)
    if "\n" in d.summary or not d.summary.endswith(".") or d.summary[:1] != d.summary[:1].upper():
        yield f"the summary is no line from a capital letter to a full stop: {d.summary!r}"
    places = [SECTIONS.index(s) if s in SECTIONS else -1 for s in d.sections]
    if places != sorted(places) or -1 in places:
        yield f"the sections are {', '.join(d.sections)}"
    for m in HEADING.finditer(doc):
        if len(m[1]) != len(m[2]):
            yield f"the line below {m[1]} has another length"
    if ">>> " not in d.sections.get("Examples", ""):
        yield "there is no example"
    if any(len(line) > 120 for line in doc.splitlines()):
        yield "a line is too long"
    if callable(f) and not isinstance(f, type):
        given = inspect.signature(f).parameters.values()
        wanted = [("*" * (p.kind is p.VAR_POSITIONAL) or "**" * (p.kind is p.VAR_KEYWORD)) + p.name for p in given]
        found = list(d.items("Parameters"))
        if found != [w for w in wanted if w != "self"]:
            yield f"the parameters are {', '.join(wanted)}; described are {', '.join(found)}"
        if "Returns" not in d.sections and "Yields" not in d.sections:
            yield "what it returns is not said"
    for section in ("Parameters", "Returns", "Raises"):
        for item, text in d.items(section).items():
            if not text.endswith((".", ":")) or text[:1] == text[:1].lower() != text[:1].upper():
                yield f"{section}, {item}: no sentence: {text!r}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_are_complete(name: str) -> None:
    assert list(complaints(name, FUNCTIONS[name])) == []


# -- what they say is so ------------------------------------------------------------------------------------

DTYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128")
FLOATS = {"complex64": "float32", "complex128": "float64"}
Result = Callable[[str, Any], bool]


def floating(dtype: str) -> bool:
    return dtype.startswith(("float", "complex"))


# Clause of a docstring -> whether a result's dtype may be that, for operands of one dtype.
CLAUSES: dict[str, Callable[[str, str], bool]] = {
    "The dtype is that of a floating operand, else": lambda a, out: out == a if floating(a) else floating(out),
    "The dtype is that of a floating operand; for integers": lambda a, out: out == a or not floating(a),
    "The dtype is that of a float32 or float64 operand, else": lambda a, out: (
        out == a if a in ("float32", "float64") else floating(out)
    ),
    "The dtype is that of the operands, promoted.": lambda a, out: out == a,
    "The dtype is that of `x1` and `x2`, promoted.": lambda a, out: out == a,
    "The dtype is that of `x`.": lambda a, out: out == a,
    "The shape and dtype are those of `x`.": lambda a, out: out == a,
    "The dtype is real: that of the parts for complex values, else": lambda a, out: out == FLOATS.get(a, a),
    "The dtype is real: that of the parts for complex values, that of `x`": lambda a, out: (
        out == FLOATS.get(a, a) or not floating(a)
    ),
    "The dtype is real: that of the parts for complex values, of `x` for real ones, the default": lambda a, out: (
        out == (FLOATS.get(a, a) if floating(a) else "float32")
    ),
    "The dtype is that of `x`; for smaller integers": lambda a, out: (
        out == (a if floating(a) else "uint64" if a[0] == "u" else "int64")
    ),
    "The dtype is int64, or int32": lambda a, out: out == "int64",
    "The dtype is boolean.": lambda a, out: out == "bool",
    "The dtype is that of `x`; for integers": lambda a, out: out == (a if floating(a) else "float32"),
}
INTEGERS = ("uint8", "int32", "int64")
REALS = ("float16", "float32", "float64")
# Kind of operands -> dtypes that must be taken on NumPy, and those that may be.
TAKEN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Real or complex floating; integers as": ((*REALS, *FLOATS), INTEGERS),
    "Real or complex floating; integers and": ((*REALS, *FLOATS), ("bool", *INTEGERS)),
    "Real floating": (REALS[1:], ("bool", *INTEGERS, "float16")),
    "Of any numeric dtype": ((*INTEGERS, *REALS, *FLOATS), ()),
    "Of any real dtype": ((*INTEGERS, *REALS), ()),
    "Of any dtype": (DTYPES, ()),
    "Of an integer or boolean dtype": (("bool", *INTEGERS), ()),
    "Of an integer dtype": (INTEGERS, ()),
    "Boolean": (("bool",), DTYPES),
}
# Arguments that are no operands, and operands of another kind, by the name of the parameter.
OTHERS: dict[str, Any] = {"n": 1, "condition": True}

# What a function needs by name to take a matrix.
OPTIONS: dict[str, dict[str, Any]] = {"cumulative_prod": {"axis": 0}, "cumulative_sum": {"axis": 0}}


def operands(f: Any) -> list[str]:
    """Return the names of the operands that every call has."""
    ps = inspect.signature(f).parameters.values()
    return [p.name for p in ps if p.annotation == "ArrayLike" and p.default is p.empty and p.name not in OTHERS]


def several_axes(f: Any) -> bool:
    return str(inspect.signature(f).parameters["axis"].annotation) == "Axis"


def of_several(f: Any) -> bool:
    """Say whether a function may have several operands, whose devices may differ."""
    kinds = [str(p.annotation) for p in inspect.signature(f).parameters.values()]
    return sum("ArrayLike" in k for k in kinds) > 1 or any(k.startswith("Sequence[ArrayLike") for k in kinds)


def call(f: Any, given: Callable[[int], Any], **options: Any) -> Any:
    """Call a function with the operands that `given` makes, by their place, and with OTHERS for what else it needs."""
    args, k = [], 0
    for p in inspect.signature(f).parameters.values():
        if p.name in OTHERS and p.default is p.empty:
            args.append(OTHERS[p.name])
        elif p.annotation == "ArrayLike" and p.default is p.empty:
            args.append(given(k))
            k += 1
    return f(*args, **{**OPTIONS.get(f.__name__, {}), **options})


def first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def returned(name: str) -> str:
    return " ".join(parsed(FUNCTIONS[name].__doc__).sections["Returns"].split())


def raised(name: str) -> dict[str, str]:
    return parsed(FUNCTIONS[name].__doc__).items("Raises")


def clause_of(name: str) -> Callable[[str, str], bool]:
    return CLAUSES[max((clause for clause in CLAUSES if clause in returned(name)), key=len)]


ELEMENTWISE = [name for name in FUNCTIONS if "The dtype is " in returned(name)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_dtype_of_the_result(name: str) -> None:
    f, rule = FUNCTIONS[name], clause_of(name)
    kinds = parsed(f.__doc__).items("Parameters")[operands(f)[0]]
    must, may = next((taken for kind, taken in TAKEN.items() if kind in kinds), (("float64",), DTYPES))
    for dtype in dict.fromkeys((*must, *may)):
        x = tg.ones((2, 2), dtype=dtype)
        try:
            with tg.default_dtype(tg.float32):
                out = call(f, [x, x].__getitem__)
        except (TypeError, ValueError):
            if dtype in must:
                raise
            continue
        out = first(out)
        assert rule(dtype, out.dtype.name), f"{name} of {dtype} gives {out.dtype.name}: {returned(name)}"


def shapes(name: str) -> list[tuple[int, ...]]:
    return [(2, 1), (1, 3)] if "broadcast" in returned(name) else [(2, 3)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in FUNCTIONS if re.search(r"The shape (and dtype are|is)", returned(n))])
def test_the_shape_of_the_result(name: str) -> None:
    f = FUNCTIONS[name]
    of = shapes(name)
    dtype = "bool" if "bitwise" in name and "shift" not in name else "int64" if "bitwise" in name else "float64"
    if len(of) > 1 and len(operands(f)) < 2:
        of = [(2, 3)]
    out = call(f, lambda k: tg.ones(of[k], dtype=dtype))
    assert out.shape == np.broadcast_shapes(*of)


REDUCTIONS = [name for name in FUNCTIONS if "for each place along the other axes" in returned(name)]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_the_shape_of_a_reduction(name: str) -> None:
    f, x = FUNCTIONS[name], tg.ones((2, 3, 4))
    assert f(x, axis=1).shape == (2, 4)
    assert f(x, axis=1, keepdims=True).shape == (2, 1, 4)
    assert f(x).shape == ()
    assert (f(x, axis=(0, -1)).shape == (3,)) if several_axes(f) else True


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_errors_are_raised(name: str) -> None:
    f, errors, many = FUNCTIONS[name], raised(name), len(operands(FUNCTIONS[name])) > 1
    dtype = "int64" if "bitwise" in name else "float64"
    types = errors.get("TypeError", "")
    with pytest.raises(TypeError):
        call(f, lambda k: object())
    assert "is no array, number or nested list" in types
    assert ("on different devices" in types) is (of_several(f)), types
    if many and why_not("strict") is None:
        with pytest.raises(TypeError):
            call(f, lambda k: tg.ones(2, dtype=dtype, device=("cpu", "strict")[k]))
    wrong_axes: dict[str, tuple[type[Exception], Any]] = {
        "no integer": (TypeError, "a"),
        "is not there": (ValueError, 7),
        "named twice": (ValueError, (0, 0)),
    }
    said = " ".join(errors.values())
    for words, (kind, axis) in wrong_axes.items():
        assert (words in said) is (
            "axis" in inspect.signature(f).parameters and (words != "named twice" or several_axes(f))
        )
        if words in said:
            with pytest.raises(kind):
                call(f, lambda k: tg.ones((2, 2)), axis=axis)
    if many and "do not broadcast" in errors.get("ValueError", ""):
        with pytest.raises(ValueError, match="broadcast"):
            call(f, lambda k: tg.ones((2, 3)[k], dtype=dtype))


# -- the checks themselves can fail ------------------------------------------------------------------------


def right(x: Any, /, *, axis: int = 0) -> int:
    """Number of things.

    Parameters
    ----------
    x : int
        A thing.
    axis : int, default 0
        The axis.

    Returns
    -------
    int
        The number.

    Examples
    --------
    >>> 1
    1
    """
    return 1


WRONG = {
    "no full stop": ("Number of things.", "Number of things", "summary"),
    "a small letter": ("Number of things.", "number of things.", "summary"),
    "two lines": ("Number of things.", "Number of\nthings.", "summary"),
    "no parameter": ("axis : int, default 0\n    The axis.\n", "", "described are x"),
    "a parameter invented": ("axis :", "axes :", "described are x, axes"),
    "no returns": ("Returns\n-------\nint\n    The number.\n\n", "", "returns"),
    "order": ("Parameters\n----------", "Examples\n--------", "sections|twice"),
    "no example": (">>> 1", "1", "example"),
    "an unknown section": ("Returns\n-------", "Gives\n-----", "sections"),
    "a short line": ("Returns\n-------", "Returns\n------", "length"),
    "no sentence": ("The axis.", "the axis", "no sentence"),
}


def test_a_right_docstring() -> None:
    assert list(complaints("right", right)) == []


@pytest.mark.parametrize("name", WRONG)
def test_each_fault_is_seen(name: str) -> None:
    before, after, match = WRONG[name]

    def wrong(x: Any, /, *, axis: int = 0) -> int:
        return 1

    doc = inspect.getdoc(right) or ""
    assert before in doc
    wrong.__doc__ = doc.replace(before, after)
    try:
        found = "; ".join(complaints("wrong", wrong))
    except AssertionError as error:
        found = str(error)
    assert re.search(match, found), found


def test_descriptions_fit_the_signature() -> None:
    def f(x: Any, axis: int = 0) -> int:
        """Sum."""
        return 1

    with pytest.raises(TypeError, match="f has no parameter n"):
        _text.documented("The sum.", n="The number.")(f)
    with pytest.raises(KeyError, match="nothing"):

        @_text.documented("The sum.")
        def g(nothing: int) -> int:
            """Sum."""
            return 1
