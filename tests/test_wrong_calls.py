"""Wrong calls of every public function: an error that names it, and where one can tell, the right call."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad._engine.dispatch import backend_of

X: Any = tg.asarray([[1.0, 2.0], [3.0, 4.0]])
INTEGERS: Any = tg.asarray([1, 2])
WRONG: dict[str, Any] = {
    "None": None,
    "a string": "a",
    "an object": object(),
    "an integer Tensor": tg.asarray(1),
    "integer Tensors": tg.asarray([1, 2]),
    "a matrix": X,
    "a list": [1, 2],
    "a tuple too few": (),
    "a dict": {},
    "a function": lambda x: x,
    "a type": int,
}
MODULES = {"tapegrad": tg, "tapegrad.linalg": tg.linalg, "tapegrad.fft": tg.fft, "tapegrad.special": tg.special}
# Runners of a user's function let its errors through; contexts and classes are no functions of arrays.
OTHERS = {
    "vjp",
    "jvp",
    "linearize",
    "Tape",
    "debug",
    "no_grad",
    "enable_grad",
    "CaptureError",
    "Tensor",
    "fixed_point",
    "root",
    "Loop",
    "Run",
    "associative_scan",
    "scan",
}
FUNCTIONS = {
    f"{module}.{name}": getattr(space, name)
    for module, space in MODULES.items()
    for name in space.__all__
    if callable(getattr(space, name)) and name not in OTHERS
}
PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def wrong_calls(f: Callable[..., Any]) -> Iterator[tuple[str, list[Any], dict[str, Any]]]:
    """Give calls with one argument of a wrong kind, the other ones right, if a matrix is right."""
    parameters = list(inspect.signature(f).parameters.values())
    required = [p for p in parameters if p.kind in PLACES and p.default is p.empty]
    for what, value in WRONG.items():
        for i, p in enumerate(required):
            yield f"{p.name}: {what}", [value if k == i else X for k in range(len(required))], {}
        for p in parameters:
            if p.kind is p.KEYWORD_ONLY or (p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty):
                yield f"{p.name}: {what}", [X] * len(required), {p.name: value}


def error_of(f: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Exception | None:
    try:
        f(*args, **kwargs)
    except Exception as error:
        return error
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_error_names_the_function(name: str) -> None:
    f, short = FUNCTIONS[name], FUNCTIONS[name].__name__
    more = [("too many", [X] * 9, {}), ("unknown", [X], {"nothing": 1}), ("none", [], {})]
    for what, args, kwargs in (*wrong_calls(f), *more):
        error = error_of(f, args, kwargs)
        if error is not None:
            # The standard names the errors of from_dlpack.
            other = {"from_dlpack": AttributeError, "load": OSError, "save": OSError}.get(short, TypeError)
            assert isinstance(error, (TypeError, ValueError, other))
            assert short in str(error) or isinstance(error, OSError), (what, error)
            assert "tapegrad._" not in str(error), (what, error)


def test_a_tensor_in_the_place_of_a_number_is_not_taken_for_an_array_of_a_library() -> None:
    """It was, from the first such call on, and no function that looks for Tensors found one any more."""
    assert tg.backends.of_array(X) is None
    with pytest.raises((TypeError, ValueError), match="tril"):
        tg.tril(X, k=tg.asarray([1, 2]))  # type: ignore[arg-type]
    assert type(X) not in backend_of
    assert list(tg.nn.named([X])) == ["0"]


CALLS = {
    "sum(x, 0)": "tapegrad.sum(x, axis=0)",
    "sum(x, dim=0)": "tapegrad.sum(x, axis=0)",
    "mean(x, dim=0, keepdim=True)": "tapegrad.mean(x, axis=0, keepdims=True)",
    "var(x, ddof=1)": "tapegrad.var(x, correction=1)",
    "std(x, 0, 1)": "tapegrad.std(x, axis=0, correction=1)",
    "max(x, y)": "tapegrad.maximum(x1, x2)",
    "argmax(x, 1, True)": "tapegrad.argmax(x, axis=1, keepdims=True)",
    "zeros(2, 3)": "tapegrad.zeros((2, 3))",
    "ones(2, 3, 4)": "tapegrad.ones((2, 3, 4))",
    "ones((2, 2), 'float32')": "tapegrad.ones((2, 2), dtype='float32')",
    "empty(2, 3)": "tapegrad.empty((2, 3))",
    "full(2, 3, 1.0)": "tapegrad.full((2, 3), 1.0)",
    "full(size=(2, 3), value=1.0)": "tapegrad.full(shape=(2, 3), fill_value=1.0)",
    "eye(2, 3, 1)": "tapegrad.eye(2, 3, k=1)",
    "linspace(0, 1, steps=3)": "tapegrad.linspace(0, 1, num=3)",
    "zeros(2, requires_grad=True)": "tapegrad.tensor(tapegrad.zeros(2), requires_grad=True)",
    "asarray([1], 'float32')": "tapegrad.asarray([1], dtype='float32')",
    "zeros_like(x, 'float32')": "tapegrad.zeros_like(x, dtype='float32')",
    "reshape(x, 4, 1)": "tapegrad.reshape(x, (4, 1))",
    "broadcast_to(x, 3, 2, 2)": "tapegrad.broadcast_to(x, (3, 2, 2))",
    "permute_dims(x, 1, 0)": "tapegrad.permute_dims(x, (1, 0))",
    "permute_dims(x, dims=(1, 0))": "tapegrad.permute_dims(x, axes=(1, 0))",
    "expand_dims(x, 0, 1)": "tapegrad.expand_dims(x, (0, 1))",
    "concat(x, x)": "tapegrad.concat([x, x])",
    "stack((1, 2), dim=1)": "tapegrad.stack((1, 2), axis=1)",
    "stack([x, x], dim=1)": "tapegrad.stack([x, x], axis=1)",
    "roll(x, 1, 0)": "tapegrad.roll(x, 1, axis=0)",
    "tile(x, 2, 2)": "tapegrad.tile(x, (2, 2))",
    "take(x, [0], 0)": "tapegrad.take(x, [0], axis=0)",
    "softmax(x, 1)": "tapegrad.softmax(x, axis=1)",
    "sort(x, reverse=True)": "tapegrad.sort(x, axis=-1, descending=False, stable=True)",
    "sum()": "tapegrad.sum(x, axis=None, dtype=None, keepdims=False)",
    "linalg.svd(x, False)": "tapegrad.linalg.svd(x, full_matrices=False)",
    "linalg.vector_norm(x, dim=0)": "tapegrad.linalg.vector_norm(x, axis=0)",
    "fft.fft(x, 2, 0)": "tapegrad.fft.fft(x, n=2, axis=0)",
    "fft.fftn(x, dim=(0, 1))": "tapegrad.fft.fftn(x, axes=(0, 1))",
}


@pytest.mark.parametrize("call", CALLS)
def test_the_right_call_is_shown(call: str) -> None:
    with pytest.raises(TypeError, match=re.escape(f": call it as in {CALLS[call]}") + "$") as caught:
        eval(f"tg.{call}", {"tg": tg, "x": X, "y": X[0]})
    assert re.match(r"\w+\(\) ", str(caught.value))  # Python's message


def test_every_option_by_position_gets_the_right_call() -> None:
    """Of all functions with options: the first one, given by its place."""
    seen = 0
    for name, f in FUNCTIONS.items():
        parameters = list(inspect.signature(f).parameters.values())
        options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        places = [p for p in parameters if p.kind in PLACES]
        if options and name != "tapegrad.where" and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            if f.__module__ not in MODULES:
                continue
            with pytest.raises(TypeError, match=f"call it as in {name}\\(.*{options[0]}='auto'\\)"):
                f(*[X] * len(places), "auto")
            seen += 1
    assert seen > 50


def test_functions_stay_what_they_were() -> None:
    for f in FUNCTIONS.values():
        if hasattr(f, "__wrapped__") and f.__module__ in MODULES:
            assert pickle.loads(pickle.dumps(f)) is f
            assert (f.__doc__, f.__name__) == (f.__wrapped__.__doc__, f.__wrapped__.__name__)
    with pytest.raises(TypeError, match="^sum: NoneType gives an array of object"):
        tg.sum(None)  # type: ignore[arg-type]
    assert tg.sin.__code__.co_filename.endswith("elementwise.py")  # with nothing in front


MESSAGES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "roll by a Tensor": (
        lambda: tg.roll(X, INTEGERS),
        TypeError,
        r"^roll: .*shape \(2,\) has 2 elements, not",
    ),
    "shape of a Tensor": (lambda: tg.reshape(X, tg.asarray([2, 2])), TypeError, r"^reshape: .*Tensor of shape \(2,\)"),
    "shape of a string": (
        lambda: tg.zeros("a"),  # type: ignore[arg-type]
        TypeError,
        "^zeros: a shape is an integer or a tuple of them, not 'a'",
    ),
    "axis of None in a tuple": (
        lambda: tg.sum(X, axis=(WRONG["None"],)),
        TypeError,
        "^sum: an axis is an integer, not None",
    ),
    "no return": (lambda: tg.grad(lambda x: None)(X), TypeError, "^grad of <lambda>: .* not None .*`return` missing"),
    "grad of None": (lambda: tg.grad(lambda x: x)(None), TypeError, "^grad of <lambda>: argument 0 is None"),
    "jvp of None": (lambda: tg.jvp(lambda x: x, (None,), (None,)), TypeError, "^jvp of <lambda>: argument 0 is None"),
    "if x": (
        lambda: bool(X),
        ValueError,
        r"^bool\(x\), as in `if x:`: .* 4 elements.*tapegrad.any\(x\) or tapegrad.all",
    ),
    "if nothing": (lambda: bool(X[:0]), ValueError, r"`if x:`: .* \(0, 2\) has 0 elements"),
    "format": (
        lambda: f"{X:.2f}",
        TypeError,
        "^the format '.2f': .* 4 elements, not one: format the items of x.tolist",
    ),
    "float": (lambda: float(X), ValueError, r"^float\(x\): a Tensor of shape \(2, 2\) has 4 elements"),
    "int": (lambda: int(X), ValueError, r"^int\(x\): a Tensor"),
    "complex": (lambda: complex(X), ValueError, r"^complex\(x\): a Tensor"),
    "round": (lambda: round(X), ValueError, r"^round\(x\): a Tensor"),
    "item": (lambda: X.item(), ValueError, "^item: a Tensor"),
    ".T of one axis": (lambda: X[0].T, ValueError, r"^x.T is for .*not of shape \(2,\): x\[:, None\] makes a column"),
    ".T of three": (lambda: X[None].T, ValueError, r"^x.T is for .*\(1, 2, 2\): x.mT swaps the last two"),
    "root of no function": (lambda: tg.root(X, X), TypeError, "^root: it takes a function, not a Tensor"),
    "fixed_point of None": (lambda: tg.fixed_point(tg.cos, None), TypeError, "^fixed_point: NoneType"),  # type: ignore[arg-type]
    "DType": (lambda: tg.DType("float80"), TypeError, "^DType: 'float80' is not the name of a dtype"),
    "elementwise": (lambda: tg.exp(None), TypeError, "^exp: NoneType gives an array of object"),  # type: ignore[arg-type]
    "elementwise of two": (lambda: tg.add("a", "b"), TypeError, "^add: "),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    call, kind, match = MESSAGES[name]
    with pytest.raises(kind, match=match):
        call()


def test_a_shift_may_be_a_tensor_of_one_integer() -> None:
    np.testing.assert_array_equal(tg.roll(X, INTEGERS[0], axis=0), np.roll(np.asarray(X), 1, axis=0))


def test_an_objective_of_one_element() -> None:
    pytest.importorskip("scipy")
    for shape in ((1,), (1, 1)):
        value, gradient = tg.scipy_objective(lambda x, s=shape: tg.reshape(x[0] ** 2, s), [3.0, 1.0]).fun([3.0, 1.0])
        assert (value, gradient.tolist()) == (9.0, [6.0, 0.0])
    assert tg.scipy_objective(lambda x: x[:1] ** 2, np.asarray([3.0])).fun([3.0])[0] == 9.0
