"""Every way for values to leave the tape, in every transform: it raises with the line, or keeps the gradient."""

from __future__ import annotations

import array
import copy
import io
import json
import math
import pickle
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

Function = Callable[[Any], Any]
X = np.asarray([1.5, 2.5])
W = tg.tensor([0.5, 2.0], requires_grad=True)

# -- the ways: each a function of two numbers whose result is, without a word, a constant -------------------------


def numbers(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"\d+\.\d*", text)]


def printed(x: Any) -> Any:
    out = io.StringIO()
    print(x, file=out)
    return tg.asarray(numbers(out.getvalue())[:2])


def written(x: Any) -> Any:
    y = tg.zeros(2)
    y[0] = x[0].item()
    y[1] = x[1].item()
    return y


def written_to_numpy(x: Any) -> Any:
    y = np.zeros(2)
    for i, v in enumerate(x.tolist()):
        y[i] = v
    return tg.asarray(y)


def in_numpy(x: Any) -> Any:
    y = np.zeros(2)
    y[...] = x
    return tg.asarray(y)


def in_no_grad(f: Function) -> Function:
    def call(x: Any) -> Any:
        with tg.no_grad():
            return f(x)

    return call


# They raise where it happens.
REFUSED: dict[str, Function] = {
    "tensor": lambda x: tg.tensor(x),
    "tensor of a result": lambda x: tg.tensor(x * 2.0),
    "tensor as a leaf": lambda x: tg.tensor(x, requires_grad=True),
    "tensor in a dtype": lambda x: tg.tensor(x, dtype=tg.float32),
    "tensor in a list": lambda x: tg.tensor([x[0], x[1]]),
    "tensor in vmap": lambda x: tg.vmap(lambda v: tg.tensor(v))(x),
    "float": lambda x: tg.asarray(float(x[0])),
    "int": lambda x: tg.asarray(int(x[0])) * 1.0,
    "complex": lambda x: tg.real(tg.asarray(complex(x[0]))),
    "round": lambda x: tg.asarray(round(x[0])) * 1.0,
    "trunc": lambda x: tg.asarray(math.trunc(x[0])) * 1.0,
    "floor": lambda x: tg.asarray(math.floor(x[0])) * 1.0,
    "ceil": lambda x: tg.asarray(math.ceil(x[0])) * 1.0,
    "math.sqrt": lambda x: tg.asarray(math.sqrt(x[0])),
    "math.fsum": lambda x: tg.asarray(math.fsum(x)),
    "array.array": lambda x: tg.asarray(list(array.array("d", x))),
    "%": lambda x: tg.asarray(float("%.17g" % x[0])),  # noqa: UP031
    "array": lambda x: tg.asarray(x.array),
    "np.asarray": lambda x: tg.asarray(np.asarray(x)),
    "np.array": lambda x: tg.asarray(np.array([x[0], x[1]])),
    "np.median": lambda x: tg.asarray(np.median(x)),
    "np.fromiter": lambda x: tg.asarray(np.fromiter(x, dtype=float)),
    "ndarray[...] =": in_numpy,
    "np.copyto": lambda x: np.copyto(np.zeros(2), x),
    "DLPack": lambda x: tg.asarray(np.from_dlpack(x)),
    "pickle": lambda x: pickle.loads(pickle.dumps(x * 1.0)),
    "arange": lambda x: tg.arange(x[1]),
    "requires_grad": lambda x: setattr(x * 1.0, "requires_grad", False),
}


def after_backward(f: Function, no_grad: bool = False) -> Function:
    """Let a backward pass of the function's own have released the values that leave the tape."""

    def call(x: Any) -> Any:
        y = x * W
        z = y * 2.0
        tg.sum(z * z).backward()
        with tg.no_grad() if no_grad else nullcontext():
            return f(z)

    return call


def of_a_gradient(x: Any) -> Any:
    v = tg.tensor([3.0, 4.0], requires_grad=True)
    tg.sum(x * v * v).backward()
    return v.grad


# They are allowed, and their results are constants.
ALLOWED: dict[str, Function] = {
    "detach()": lambda x: x.detach(),
    "item()": lambda x: tg.asarray([v.item() for v in x]),
    "item() of a result": lambda x: (x[0] * x[1]).item(),
    "item() in NumPy": lambda x: np.float64(x[0].item()),
    "item() in a write": written,
    "item() in tensor": lambda x: tg.tensor([x[0].item(), 1.0]),
    "item() in a gradient": lambda x: tg.grad(lambda y: x[0].item() * y)(2.0),
    "item() in a checkpoint": lambda x: tg.checkpoint(lambda v: tg.asarray(v[0].item()))(x),
    "item() in a fixed point": lambda x: tg.fixed_point(lambda y, a: 0.5 * y + a.item(), tg.asarray(0.0), x[0]),
    "item() in a root": lambda x: tg.root(lambda y, a: y - a.item(), tg.asarray(0.0), x[0]),
    "item() in a compiled function": lambda x: tg.compile(lambda v: tg.asarray(v[0].item()))(x),
    "tolist()": lambda x: tg.asarray(x.tolist()),
    "tolist() of a part": lambda x: sum(x[1:].tolist()),
    "tolist() element by element": lambda x: tg.stack([tg.asarray(v * 2.0) for v in x.tolist()]),
    "tolist() in NumPy": written_to_numpy,
    "tolist() in JSON": lambda x: tg.asarray(json.loads(json.dumps(x.tolist()))),
    "repr()": lambda x: tg.asarray(numbers(repr(x))[:2]),
    "repr() of str": lambda x: tg.asarray(numbers(str(x))[:2]),
    "repr() of print": printed,
    "repr() of an f-string": lambda x: tg.asarray(numbers(f"{x}")[:2]),
    "format()": lambda x: tg.asarray(float(f"{x[0]:.17g}")),
    "numpy.array2string()": lambda x: tg.asarray(numbers(np.array2string(x))),
    "numpy.array_str()": lambda x: tg.asarray(numbers(np.array_str(x))),
    "numpy.array_repr()": lambda x: tg.asarray(numbers(np.array_repr(x))),
    "astype(int64)": lambda x: tg.astype(tg.astype(x, tg.int64), x.dtype),
    "full()": lambda x: tg.full(2, x[0], dtype=tg.int64) * 1.0,
    "linspace()": lambda x: tg.linspace(x[0], x[1], 3, dtype=tg.int64) * 1.0,
    "no_grad()": in_no_grad(lambda x: x * x),
    "no_grad() and tensor": in_no_grad(lambda x: tg.tensor(x)),
    "no_grad() and asarray": in_no_grad(lambda x: tg.asarray(x, copy=True)),
    "no_grad() and float": in_no_grad(lambda x: tg.asarray(float(x[0]))),
    "no_grad() and array": in_no_grad(lambda x: tg.asarray(x.array)),
    "no_grad() and np.asarray": in_no_grad(lambda x: tg.asarray(np.asarray(x))),
    "no_grad() and np.median": in_no_grad(lambda x: tg.asarray(np.median(x))),
    "no_grad() and DLPack": in_no_grad(lambda x: tg.asarray(np.from_dlpack(x))),
    "no_grad() and pickle": in_no_grad(lambda x: pickle.loads(pickle.dumps(x))),
    "no_grad() and deepcopy": in_no_grad(lambda x: copy.deepcopy(x)),
    "no_grad() and a gradient": in_no_grad(lambda x: tg.grad(lambda y: tg.sum(y * y))(x)),
}
# They need the value of an example: vmap refuses them for that, with the line or the name of the function.
IN_VMAP = (TypeError, ValueError, RuntimeError, tg.CaptureError)
# They keep the gradient, which is that of x itself.
KEPT: dict[str, Function] = {
    "asarray": lambda x: tg.asarray(x, copy=True),
    "asarray of a list": lambda x: tg.asarray([x[0], x[1]]),
    "copy": lambda x: copy.copy(x),
    "deepcopy": lambda x: copy.deepcopy(x),
    "from_dlpack": lambda x: tg.from_dlpack(x),
    "iteration": lambda x: tg.stack(list(x)),
    "to_device": lambda x: x.to_device(x.device),
    "NumPy's function": lambda x: np.multiply(x, 1.0),
    "linspace": lambda x: tg.linspace(x[0], x[1], 2),
    "full": lambda x: tg.concat([tg.full(1, x[0]), tg.full(1, x[1])]),
}


def summed(f: Function) -> Function:
    def total(x: Any) -> Any:
        y = f(x)
        return tg.sum(y**2) if isinstance(y, tg.Tensor) else y

    return total


def to_leaf(f: Function, x: Any) -> Any:
    leaf = tg.tensor(x, requires_grad=True)
    y = summed(f)(leaf)
    if not isinstance(y, tg.Tensor):
        pytest.skip("a number has no backward")
    y.backward()
    return leaf.grad


def pulled(f: Function, x: Any) -> Any:
    y, pull = tg.vjp(summed(f), x)
    return pull(y * 0.0 + 1.0)[0]


def jvp(f: Function, x: Any) -> Any:
    return tg.jvp(summed(f), (x,), (x,))[1]


TRANSFORMS: dict[str, Callable[[Function, Any], Any]] = {
    "grad": lambda f, x: tg.grad(summed(f))(x),
    "value_and_grad": lambda f, x: tg.value_and_grad(summed(f))(x)[1],
    "vjp": pulled,
    "jvp": jvp,
    "linearize": lambda f, x: tg.linearize(summed(f), x)[1](x),
    "jacobian": lambda f, x: tg.jacobian(summed(f))(x),
    "jacobian of a vector": lambda f, x: tg.jacobian(f)(x),
    "hessian": lambda f, x: tg.hessian(summed(f))(x),
    "hvp": lambda f, x: tg.hvp(summed(f), (x,), (x,)),
    "grad of grad": lambda f, x: tg.grad(lambda y: tg.sum(tg.grad(summed(f))(y)))(x),
    "has_aux": lambda f, x: tg.grad(lambda x: (summed(f)(x), 1), has_aux=True)(x)[0],
    "compile of grad": lambda f, x: tg.compile(tg.grad(summed(f)))(x),
    "vmap of grad": lambda f, x: tg.vmap(tg.grad(summed(f)))(tg.stack([tg.asarray(x)] * 2)),
    "checkpoint": lambda f, x: tg.grad(tg.checkpoint(summed(f)))(x),
}
AT_LINE = r" at test_off_the_tape\.py:\d+"


@pytest.mark.parametrize("way", REFUSED)
def test_what_would_lose_the_gradient_is_refused(way: str) -> None:
    for transform in (*TRANSFORMS.values(), to_leaf):
        with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
            transform(REFUSED[way], X)
        causes = [error.value, error.value.__cause__, error.value.__context__]
        assert any(isinstance(e, (TypeError, RuntimeError)) and "NumPy array is not" not in str(e) for e in causes)


@pytest.mark.parametrize("way", ALLOWED)
def test_a_result_that_was_computed_off_the_tape_is_no_zero(way: str) -> None:
    how = re.escape(way.partition(" ")[0])
    for name, transform in TRANSFORMS.items():
        if name == "vmap of grad":
            with pytest.raises(IN_VMAP):
                transform(ALLOWED[way], X)
        else:
            with pytest.raises(RuntimeError, match=f"cut by .*{how}{AT_LINE}.*compute with the Tensors.*stop_gradient"):
                transform(ALLOWED[way], X)
    if way.endswith((" pickle", " deepcopy")):
        return  # copies of a leaf are leaves, which get the gradient
    with pytest.raises(RuntimeError, match=r"has no record.*item\(\)|does not depend on the arguments"):
        to_leaf(ALLOWED[way], X)


@pytest.mark.parametrize("no_grad", [False, True])
def test_what_a_backward_pass_inside_has_released_is_no_zero(no_grad: bool) -> None:
    cut, released = rf"cut by .*{AT_LINE}.*compute with the Tensors", "released by an earlier backward pass"
    refused = {} if no_grad else REFUSED
    kept = {**KEPT, "itself": lambda x: x, "product": lambda x: x * 2.0}
    for way, f in {**refused, **ALLOWED, **kept}.items():
        expected = None if way in REFUSED else released if way in kept and not no_grad else f"{cut}|{released}"
        for name in ("grad", "vjp", "jvp", "jacobian of a vector", "hessian", "grad of grad", "checkpoint"):
            with pytest.raises((TypeError, ValueError, RuntimeError), match=expected):
                TRANSFORMS[name](after_backward(f, no_grad), X)


def test_a_gradient_without_a_graph_is_no_zero() -> None:
    for transform in TRANSFORMS.values():
        with pytest.raises(RuntimeError, match=rf"cut by backward\(\) without create_graph=True{AT_LINE}|inside vmap"):
            transform(of_a_gradient, X)


@pytest.mark.parametrize("way", ALLOWED)
def test_the_same_beside_a_result_that_is_on_the_tape_is_no_fault(way: str) -> None:
    def logged(x: Any) -> Any:
        if x.shape == (2,) and "vmap" not in str(type(x._array)).lower():
            ALLOWED[way](x)
        return x * 3.0

    plain = lambda x: x * 3.0  # noqa: E731
    for name, transform in TRANSFORMS.items():
        if name not in ("compile of grad", "vmap of grad"):
            np.testing.assert_array_equal(values(transform(logged, X)), values(transform(plain, X)))
    np.testing.assert_array_equal(values(to_leaf(logged, X)), values(to_leaf(plain, X)))


def values(x: Any) -> Any:
    return np.asarray(x.detach() if isinstance(x, tg.Tensor) else x)


@pytest.mark.parametrize("way", KEPT)
def test_what_keeps_the_gradient(way: str) -> None:
    for transform in TRANSFORMS.values():
        np.testing.assert_allclose(values(transform(KEPT[way], X)), values(transform(lambda x: x * 1.0, X)))


CONSTANTS: dict[str, Function] = {
    "a number": lambda x: 3.0,
    "a Tensor": lambda x: tg.asarray(3.0),
    "the shape": lambda x: len(x) * 1.0,
    "a comparison": lambda x: 1.0 if x[0] > 0 else 2.0,
    "truth": lambda x: 1.0 if x[0] else 2.0,
    "stop_gradient": lambda x: tg.stop_gradient(x),
    "stop_gradient and item": lambda x: tg.stop_gradient(x)[0].item(),
    "of another": lambda x: W.detach() * 2.0,
    "item of what was computed from another": lambda x: (W * 2.0)[0].item(),
    "no_grad and another": in_no_grad(lambda x: W * W),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_has_a_gradient_of_zero(name: str) -> None:
    for key, transform in TRANSFORMS.items():
        if key == "vmap of grad" and name in ("a comparison", "truth", "stop_gradient and item"):
            continue
        assert not np.any(values(transform(CONSTANTS[name], X))), key


def test_a_gradient_that_is_constant_may_be_logged() -> None:
    def linear(x: Any) -> Any:
        numbers(f"{x} {x[0]:.3f}")
        return x[0] * 3.0 + x[1].item() * 0.0

    assert not np.any(values(tg.hessian(linear)(X)))
    assert not np.any(values(tg.grad(lambda x: tg.sum(tg.grad(linear)(x)))(X)))

    assert not np.any(values(tg.hessian(tg.checkpoint(linear))(X)))

    def solved(x: Any) -> Any:
        return tg.fixed_point(lambda y, a: a * 2.0 + y.item() * 0.0, tg.asarray(0.0), x[0])

    np.testing.assert_array_equal(values(tg.grad(solved)(X)), [2.0, 0.0])
    assert not np.any(values(tg.hessian(solved)(X)))


def test_a_helper_that_looks_at_others_too() -> None:
    def look(x: Any) -> float:
        return x.item()  # type: ignore[no-any-return]

    for order in (1, -1):
        with pytest.raises(RuntimeError, match=r"cut by item\(\)"):
            tg.grad(lambda x, order=order: max([look(v) for v in (x[0], (W * 2.0)[0])[::order]]))(X)


@pytest.mark.parametrize("way", ["tensor", "item()", "tolist()", "repr()", "format()", "detach()", "astype(int64)"])
def test_every_place(xp: Place, way: str) -> None:
    f = REFUSED[way] if way in REFUSED else ALLOWED[way]
    match = "use tapegrad.asarray" if way in REFUSED else f"cut by {re.escape(way)}{AT_LINE}"
    with pytest.raises((TypeError, RuntimeError), match=match):
        tg.grad(summed(f))(xp.tensor(X))


def test_tensor_of_what_is_recorded_names_asarray() -> None:
    for x in (W, W * 2.0):
        with pytest.raises(TypeError, match=r"tensor: .*tapegrad.asarray\(x\).*tapegrad.tensor\(x.detach\(\)\)"):
            tg.tensor(x)
        assert not tg.tensor(x.detach()).requires_grad
        with tg.no_grad():
            assert not tg.tensor(x).requires_grad
    x = tg.tensor(tg.asarray([1.0]), requires_grad=True)
    assert x.is_leaf
    assert x.requires_grad
