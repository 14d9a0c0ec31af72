"""Docstrings of the public interface: complete, in NumPy's style, and true wherever a run can tell."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from places import why_not

import tapegrad as tg
from tapegrad import testing
from tapegrad.ops import _text

STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
SECTIONS = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Notes", "References", "Examples")
SPACES = ("linalg", "fft", "signal", "special", "random", "nn", "optim", "data", "metrics", "loggers", "backends")
HEADING = re.compile(r"^(\w+)\n(-+)$", re.MULTILINE)
ITEM = re.compile(r"^(\S.*?)(?: : (.+))?$", re.MULTILINE)


class Doc(NamedTuple):
    """A docstring in its parts: the text before the first heading, and the text below each heading."""

    summary: str
    extended: str
    sections: dict[str, str]

    def items(self, section: str) -> dict[str, str]:
        """Return name -> description of the items of a section; `x1, x2 : ...` is for both."""
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
    marks: list[re.Match[str]] = list(HEADING.finditer(doc))
    head = doc[: marks[0].start()] if marks else doc
    summary, _, extended = head.strip().partition("\n\n")
    sections = {
        m[1]: doc[m.end() : after.start() if after else len(doc)].strip("\n")
        for m, after in zip(marks, [*marks[1:], *[None] * bool(marks)], strict=True)
    }
    assert len(sections) == len(marks), "a section comes twice"
    return Doc(summary, extended, sections)


def public() -> Iterator[tuple[str, Any]]:
    """Go through all that users call: functions, classes, and the methods and properties of these."""
    spaces: dict[str, Any] = {
        **{f"tg.{name}": getattr(tg, name) for name in SPACES},
        "tg": tg,
        "tg.testing": testing,
    }
    classes: dict[str, type] = {
        "scipy_objective()": type(tg.scipy_objective(tg.sum, 1.0)),
        "compile()": type(tg.compile(tg.sin)),
        "__array_namespace_info__()": type(tg.__array_namespace_info__()),
        "register_hook()": type(tg.tensor(1.0, requires_grad=True).register_hook(tg.sin)),
    }
    for space, module in spaces.items():
        names = getattr(module, "__all__", None) or [
            name for name, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__
        ]
        for name in names:
            f = getattr(module, name)
            if isinstance(f, type):
                classes[f"{space}.{name}"] = f
            elif callable(f) and not name.startswith("_") and not isinstance(f, tg.DType):
                yield f"{space}.{name}", f
    yield "tg.__array_namespace_info__", tg.__array_namespace_info__
    for name, kind in classes.items():
        if not name.endswith("()"):
            yield name, kind
        for method, f in vars(kind).items():
            if not method.startswith("_") and (callable(f) or isinstance(f, (property, classmethod))):
                yield f"{name}.{method}", f if isinstance(f, property) else getattr(kind, method)


# Methods that the package calls itself, and those that adapters of libraries implement.
INTERNAL = (
    *("tg.backends.Array", "compile().recipe", "compile().forget"),
    *("custom_vjp.recipe", "custom_jvp.recipe"),
)
ADAPTER = ("tg.backends.Backend.", "tg.backends.Namespace.")
PUBLIC = {name: f for name, f in public() if not any(part in name for part in INTERNAL)}
# The functions of arrays.
FUNCTIONS: dict[str, Any] = {
    name: f
    for name, f in PUBLIC.items()
    if inspect.isfunction(f) and inspect.unwrap(f).__module__.startswith("tapegrad.ops.")
}


def complaints(name: str, f: Any) -> Iterator[str]:
    """List the faults of a docstring, beside the signature."""
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
    if any(len(line) > 120 for line in doc.splitlines()):
        yield "a line is too long"
    if isinstance(f, property):
        return
    if ">>> " not in d.sections.get("Examples", "") and not name.startswith(ADAPTER):
        yield "there is no example"
    if not isinstance(f, type):
        signature = inspect.signature(f)
        given = list(signature.parameters.values())
        if "." in inspect.unwrap(f).__qualname__ and not inspect.ismethod(f):
            given = given[1:]  # the object
        wanted = [STARS.get(p.kind, "") + p.name for p in given]
        found = list(d.items("Parameters"))
        if found != wanted:
            yield f"the parameters are {', '.join(wanted)}; described are {', '.join(found)}"
        if ("Returns" in d.sections or "Yields" in d.sections) is (signature.return_annotation in ("None", None)):
            yield "what it returns is not said, or is nothing"
    for section in ("Parameters", "Returns", "Raises"):
        for item, text in d.items(section).items():
            if not text.endswith((".", ":")) or text[:1] == text[:1].lower() != text[:1].upper():
                yield f"{section}, {item}: no sentence: {text!r}"


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_are_complete(name: str) -> None:
    assert list(complaints(name, PUBLIC[name])) == []


def test_the_sweep_is_of_all() -> None:
    assert len(PUBLIC) > 250
    assert len(FUNCTIONS) > 195
    assert {"tg.sum", "tg.linalg.svd", "tg.grad", "tg.Tensor.item", "tg.testing.gradcheck", "tg.backends.load"} <= {
        *PUBLIC
    }


# -- their statements are true-------------------------------------------------------------------------------

DTYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128")
FLOATS = {"complex64": "float32", "complex128": "float64"}
PRECISION = dict.fromkeys(("float64", "complex128"), ("float64", "complex128"))
PRECISION |= dict.fromkeys(("float16", "float32", "complex64"), ("float32", "complex64"))


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
    "The dtype is that of `logits`, if that is floating.": lambda a, out: out == a or not floating(a),
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
    "The dtype is complex, of the precision of `x`.": lambda a, out: out in PRECISION.get(a, out),
    "The dtype is complex, of the precision of `x`; for integers": lambda a, out: (
        out == ("complex64" if a in ("float32", "complex64") or not floating(a) else "complex128")
    ),
    "The dtype is real, of the precision of `x`.": lambda a, out: out in PRECISION.get(a, out),
    "The dtype is that of the operands, promoted; for integers": lambda a, out: (
        out == (a if floating(a) else "float32")
    ),
    "The dtype is int64, or int32": lambda a, out: out == "int64",
    "The dtype is boolean.": lambda a, out: out == "bool",
    "The dtype is that of `x`; for integers": lambda a, out: out == (a if floating(a) else "float32"),
}
INTEGERS = ("uint8", "int32", "int64")
REALS = ("float16", "float32", "float64")
# Kind of operands -> dtypes that must be taken on NumPy, and those that may be.
TAKEN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Real or complex floating; integers and booleans count": (DTYPES, ()),
    "Real or complex floating; integers as": ((*REALS, *FLOATS), INTEGERS),
    "Real or complex floating; integers and": ((*REALS, *FLOATS), ("bool", *INTEGERS)),
    "Real or complex floating; real values": ((*REALS[1:], *FLOATS), ()),
    "Real floating": (REALS[1:], ("bool", *INTEGERS, "float16")),
    "Of any numeric dtype": ((*INTEGERS, *REALS, *FLOATS), ()),
    "Of any real dtype": ((*INTEGERS, *REALS), ()),
    "Of any dtype": (DTYPES, ()),
    "Of an integer or boolean dtype": (("bool", *INTEGERS), ()),
    "Of an integer dtype": (INTEGERS, ()),
    "Boolean": (("bool",), DTYPES),
}
# Arguments that are no operands, by the name of the parameter, and those that a function needs by name to take a
# matrix.
OTHERS: dict[str, Any] = {
    "n": 1,
    "k": 1,
    "ids": [0, 0],
    "condition": True,
    "shape": (2, 2),
    "axes": (1, 0),
    "axis": 0,
    "shift": 1,
    "source": 0,
    "destination": 1,
    "repeats": 2,
    "repetitions": (2,),
    "dtype": "float64",
    "device": "cpu",
    "fill_value": 1.0,
    "num": 3,
    "n_rows": 2,
    "start": 1.0,
    "stop": 2.0,
    "num_classes": 2,
    "groups": 1,
    "rate": 0.5,
    "rng": tg.random.Generator(0),
    "size": (2,),
    "frame": 2,
    "space": (2,),
    "widths": 1,
}
OPTIONS: dict[str, dict[str, Any]] = {name: {"axis": 0} for name in ("cumulative_prod", "cumulative_sum", "take")}
OPTIONS |= {f"cumulative_{name}": {"axis": 0} for name in ("logsumexp", "max", "min")}
SHAPES = {"searchsorted": (2,), "squeeze": (1, 2), "outer": (2,), "cross": (3,)}
SHAPES |= {"conv": (2, 2, 2), "conv_transpose": (2, 2, 2), "fold": (2, 1)}
Given = Callable[[int], Any]


def parameters(f: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(f).parameters)


def operands(f: Any) -> list[str]:
    """Return the names of the operands that every call has; a list of arrays is two of them."""
    found = [
        name
        for name, p in parameters(f).items()
        if "ArrayLike" in str(p.annotation) and p.default is p.empty and name not in OTHERS
    ]
    return found * 2 if found == ["arrays"] else found


def call(f: Any, given: Given, **options: Any) -> Any:
    """Call a function with the operands that `given` makes, by their number, and with other arguments that it needs."""
    options = {**OPTIONS.get(f.__name__, {}), **options}
    args: list[Any] = []
    k = 0
    for name, p in parameters(f).items():
        if p.default is not p.empty or name in options:
            continue
        if name == "arrays":
            args += [given(0), given(1)] if p.kind is p.VAR_POSITIONAL else [[given(0), given(1)]]
        elif name in OTHERS:
            args.append(OTHERS[name])
        else:
            args.append(given(k))
            k += 1
    return f(*args, **options)


def operand(f: Any, k: int, *shape: int, **where: Any) -> tg.Tensor:
    """Return an operand of a dtype that the function takes."""
    name = f.__name__
    if operands(f)[k] == "indices" or name == "one_hot":
        return tg.zeros(shape, dtype="int64", **where)
    kind = "bool" if "logical" in name else "int64" if "bitwise" in name else "float64"
    return tg.ones(shape, dtype=kind, **where)


def first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def returned(name: str) -> str:
    return " ".join(parsed(FUNCTIONS[name].__doc__).sections["Returns"].split())


def raised(name: str, kind: str) -> str:
    return parsed(FUNCTIONS[name].__doc__).items("Raises").get(kind, "")


def that_say(pattern: str) -> list[str]:
    """Return the functions of operands whose section Returns has a pattern."""
    return [name for name, f in FUNCTIONS.items() if operands(f) and re.search(pattern, returned(name))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", that_say("The dtype is|The shape and dtype are"))
def test_the_dtype_of_the_result(name: str) -> None:
    f = FUNCTIONS[name]
    rule = CLAUSES[max((clause for clause in CLAUSES if clause in returned(name)), key=len)]
    listed = parsed(f.__doc__).items("Parameters")
    described = listed.get(operands(f)[0]) or listed[f"*{operands(f)[0]}"]
    must, may = next((taken for kind, taken in TAKEN.items() if kind in described), (("float64",), DTYPES))
    for dtype in dict.fromkeys((*must, *may)):
        x = tg.ones(SHAPES[f.__name__]) if f.__name__ in SHAPES else tg.asarray([[2.0, 1.0], [1.0, 2.0]])
        xs = [tg.asarray([[0]]) if name == "indices" else tg.astype(x, dtype) for name in operands(f)]
        try:
            with tg.default_dtype(tg.float32):
                out = first(call(f, xs.__getitem__))
        except (TypeError, ValueError):
            if dtype in must:
                raise
            continue
        assert rule(dtype, out.dtype.name), f"{name} of {dtype} gives {out.dtype.name}: {returned(name)}"


BROADCAST = "what the operands broadcast to"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", that_say("(?i)the shape is that of `x`|the shape and dtype are|in its shape"))
def test_the_shape_of_x(name: str) -> None:
    f = FUNCTIONS[name]
    assert call(f, lambda k: operand(f, k, 2, 3)).shape == (2, 3)


@pytest.mark.parametrize("name", that_say(BROADCAST))
def test_the_broadcast_shape(name: str) -> None:
    f = FUNCTIONS[name]
    if len(operands(f)) > 1:
        assert call(f, lambda k: operand(f, k, *[(2, 1), (1, 3)][k])).shape == (2, 3)


@pytest.mark.parametrize("name", that_say("for each place along the other axes"))
def test_the_shape_of_a_reduction(name: str) -> None:
    f, x = FUNCTIONS[name], tg.ones((2, 3, 4))
    assert f(x, axis=1).shape == (2, 4)
    assert f(x, axis=1, keepdims=True).shape == (2, 1, 4)
    assert f(x).shape == ()
    if parameters(f)["axis"].annotation == "Axis":
        assert f(x, axis=(0, -1)).shape == (3,)


# -- the errors they name are raised ------------------------------------------------------------------------

NO_OPERAND = "is no array, number or nested list"
OF_OPERANDS = [name for name, f in FUNCTIONS.items() if operands(f)]


@pytest.mark.parametrize("name", OF_OPERANDS)
def test_what_is_no_operand(name: str) -> None:
    f = FUNCTIONS[name]
    assert NO_OPERAND in raised(name, "TypeError") or "The object is none" in raised(name, "TypeError")
    with pytest.raises(TypeError):
        call(f, lambda k: object())


@pytest.mark.parametrize("name", OF_OPERANDS)
def test_operands_on_different_devices(name: str) -> None:
    """Whoever has several operands says so, and nobody else."""
    f = FUNCTIONS[name]
    kinds = [str(p.annotation) for p in parameters(f).values()]
    several = sum("ArrayLike" in kind for kind in kinds) > 1 or "arrays" in parameters(f)
    assert ("on different devices" in raised(name, "TypeError")) is several
    if len(operands(f)) > 1 and why_not("strict") is None:
        with pytest.raises(TypeError):
            call(f, lambda k: operand(f, k, 2, 2, device=("cpu", "strict")[k % 2]))


@pytest.mark.parametrize("name", [n for n in OF_OPERANDS if "do not broadcast" in raised(n, "ValueError")])
def test_shapes_that_do_not_broadcast(name: str) -> None:
    f = FUNCTIONS[name]
    if len(operands(f)) > 1:
        with pytest.raises(ValueError, match="broadcast"):
            call(f, lambda k: operand(f, k, (2, 3)[k], 1))


WRONG_OPTIONS: dict[str, tuple[str, type[Exception], Any]] = {
    "device that is unknown": ("The device is unknown.", ValueError, "nothing"),
    "device that is no string": ("The device is no string.", TypeError, 0),
    "dtype of nothing": ("The dtype is none of the standard's", TypeError, "nothing"),
    "shape with a negative length": ("A length is negative.", ValueError, (-2,)),
    "shape of floats": ("A length is no integer.", TypeError, (1.5,)),
}


@pytest.mark.parametrize("what", WRONG_OPTIONS)
def test_wrong_options(what: str) -> None:
    option, (words, kind, value) = what.partition(" ")[0], WRONG_OPTIONS[what]
    for name, f in FUNCTIONS.items():
        assert (words in raised(name, kind.__name__)) is (option in parameters(f)), name
        if option in parameters(f):
            with pytest.raises(kind):
                call_with(f, option, value)


def call_with(f: Any, option: str, value: Any) -> Any:
    """Call a function with one argument given, and right ones for all others that it needs."""
    needed = [name for name, p in parameters(f).items() if p.default is p.empty]
    args = [value if name == option else OTHERS.get(name, tg.ones((2, 2))) for name in needed]
    return f(*args) if option in needed else f(*args, **{option: value})


ONE_AXIS, AXES = ("int", "int | None"), ("tuple[int, ...]", "Sequence[int] | None")
MAY_REPEAT = ("roll", "tensordot", "fftshift", "ifftshift")


@pytest.mark.parametrize("name", [n for n in OF_OPERANDS if {"axis", "axes"} & {*parameters(FUNCTIONS[n])}])
def test_wrong_axes(name: str) -> None:
    f = FUNCTIONS[name]
    (option,) = {"axis", "axes"} & {*parameters(f)}
    wrong: dict[str, tuple[type[Exception], Any]] = {
        "is no integer": (TypeError, "a"),
        "is not there": (ValueError, 7),
        "is named twice": (ValueError, (0, 0)),
    }
    said = raised(name, "TypeError") + raised(name, "ValueError")
    one, several = (str(parameters(f)[option].annotation) in kinds for kinds in (ONE_AXIS, AXES))
    for words, (kind, axis) in wrong.items():
        assert (words in said) is not (words == "is named twice" and (one or f.__name__ in MAY_REPEAT))
        if words in said:
            with pytest.raises(kind):
                call(f, lambda k: operand(f, k, 2, 2), **{option: (axis, 0) if several and type(axis) is int else axis})


X, W = tg.ones(2), tg.tensor([1.0, 2.0], requires_grad=True)
WHAT: Any = 3  # no function, no device
# Other errors: a call, and the clause of its docstring.
RAISED: dict[str, list[tuple[Callable[[], Any], type[Exception]]]] = {
    "tg.grad": [
        (lambda: tg.grad(WHAT), TypeError),
        (lambda: tg.grad(tg.sum)(tg.arange(2)), TypeError),
        (lambda: tg.grad(tg.sin)(X), ValueError),
        (lambda: tg.grad(tg.sum, (0, 0))(X), ValueError),
    ],
    "tg.vjp": [
        (lambda: tg.vjp(tg.sin, X)[1](tg.ones(3)), ValueError),
        (lambda: tg.vjp(tg.sin, tg.arange(2)), TypeError),
    ],
    "tg.jvp": [
        (lambda: tg.jvp(tg.sin, (X,), (tg.ones(3),)), ValueError),
        (lambda: tg.jvp(tg.sin, (X,), (tg.ones(2, dtype="float32"),)), TypeError),
    ],
    "tg.linearize": [(lambda: tg.linearize(tg.sin, X)[1](tg.ones(3)), ValueError)],
    "tg.vmap": [(lambda: tg.vmap(WHAT), TypeError), (lambda: tg.vmap(tg.sin, 5)(X), ValueError)],
    "tg.jacobian": [(lambda: tg.jacobian(tg.sin, mode="both"), ValueError)],
    "tg.hessian": [(lambda: tg.hessian(tg.sin)(X), ValueError), (lambda: tg.hessian(tg.sum)(tg.arange(2)), TypeError)],
    "tg.hvp": [(lambda: tg.hvp(tg.sin, (X,), (X,)), ValueError), (lambda: tg.hvp(WHAT, (X,), (X,)), TypeError)],
    "tg.checkpoint": [(lambda: tg.checkpoint(WHAT), TypeError)],
    "tg.compile": [(lambda: tg.compile(WHAT), TypeError)],
    "tg.scipy_objective": [
        (lambda: tg.scipy_objective(WHAT, 1.0), TypeError),
        (lambda: tg.scipy_objective(tg.sum, []), ValueError),
    ],
    "tg.default_device": [(lambda: tg.default_device("x"), ValueError), (lambda: tg.default_device(WHAT), TypeError)],
    "tg.default_dtype": [(lambda: tg.default_dtype("int64"), TypeError)],
    "tg.deterministic": [(lambda: tg.deterministic(WHAT), TypeError)],
    "tg.tf32": [(lambda: tg.tf32(WHAT), TypeError)],
    "tg.isdtype": [(lambda: tg.isdtype("x", "numeric"), TypeError), (lambda: tg.isdtype("bool", "x"), ValueError)],
    "tg.numpy_dtype": [(lambda: tg.numpy_dtype("x"), TypeError)],
    "tg.Tensor.backward": [
        (lambda: X.backward(), RuntimeError),
        (lambda: (W * 2).backward(), RuntimeError),
        (lambda: (W * 2).backward(tg.ones(3)), ValueError),
        (lambda: (W * 2).backward(tg.ones(2, dtype="float32")), TypeError),
    ],
    "tg.Tensor.item": [(lambda: X.item(), ValueError)],
    "tg.Tensor.retain_grad": [(lambda: X.retain_grad(), RuntimeError)],
    "tg.Tensor.register_hook": [(lambda: X.register_hook(tg.sin), RuntimeError)],
    "tg.backends.load": [(lambda: tg.backends.load("x"), ValueError)],
    "tg.backends.of_device": [(lambda: tg.backends.of_device("x"), ValueError)],
    "tg.backends.is_available": [(lambda: tg.backends.is_available(WHAT), TypeError)],
    "tg.testing.gradcheck": [
        (lambda: testing.gradcheck(lambda x: x * tg.stop_gradient(x), [X]), testing.GradcheckError)
    ],
    "tg.tensor": [(lambda: tg.tensor([1], requires_grad=True), TypeError)],
    "tg.asarray": [(lambda: tg.asarray([1.0], copy=False), ValueError)],
    "tg.squeeze": [(lambda: tg.squeeze(X, 0), ValueError)],
    "tg.matmul": [(lambda: tg.matmul(tg.ones((2, 3)), tg.ones((2, 3))), ValueError)],
    "tg.linalg.inv": [(lambda: tg.linalg.inv(tg.zeros((2, 2))), ValueError), (lambda: tg.linalg.inv(X), ValueError)],
    "tg.linalg.cholesky": [(lambda: tg.linalg.cholesky(-tg.eye(2)), ValueError)],
    "tg.fft.fft": [(lambda: tg.fft.fft(X, norm="x"), ValueError), (lambda: tg.fft.fft(X, n=0), ValueError)],
    "tg.cross_entropy": [(lambda: tg.cross_entropy(tg.ones((1, 2)), tg.asarray([5])), ValueError)],
    "tg.take": [(lambda: tg.take(X, tg.asarray([7])), IndexError), (lambda: tg.take(X, X), TypeError)],
}


@pytest.mark.parametrize("name", RAISED)
def test_the_listed_errors(name: str) -> None:
    listed = parsed(inspect.getdoc(PUBLIC[name]) or "").items("Raises")
    for call_it, kind in RAISED[name]:
        assert kind.__name__ in listed
        with pytest.raises(kind):
            call_it()


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
