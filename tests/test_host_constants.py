"""Host arrays, lists and indices beside Tensors elsewhere: constants, which go where the Tensor is."""

from __future__ import annotations

import inspect
import operator
import os
import re
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._engine import host_constants
from tapegrad._engine.tree import flatten
from tapegrad.testing import SAMPLES, Sample

FIRST = {s.operation: s.name for s in reversed(SAMPLES)}.values()
# Samples that compute with an operand before the operation sees it beside a Tensor.
BEFORE = ("cho_solve",)
SEVERAL = [s for s in SAMPLES if len(s.args) > 1 and s.operation not in BEFORE]
SUBJECT = ("getitem", "setitem", "linspace")  # whose samples use the first argument as a Tensor: it has the method
# Samples that index another argument, which lists do in a way of their own, or take lists for trees.
AN_ARRAY = ("associative_scan", "pinv", "scan", "setitem")
OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "truediv", "//": "floordiv", "%": "mod", "**": "pow"}
OPERATORS |= {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
NO_ARRAYS = (
    "dtype",
    "device",
    "f",
    "fun",
    "in_axes",
    "out_axes",
    "function",
    "padding",
    "widths",
    "value",
    "positions",
)


def outcome(xp: Place, f: Any, args: list[Any]) -> list[Any]:
    """Return the values of results, and the gradients of their sum by the Tensors among the arguments."""
    leaves = [x for x in args if isinstance(x, tg.Tensor) and x.requires_grad]
    with tg.default_device("cpu"):  # the Tensors say where, not the default
        ys = [y for y in flatten(f(*args))[0] if isinstance(y, tg.Tensor)]
    parts = [tg.sum(tg.real(y) if y.dtype.kind == "complex floating" else y) for y in ys if y.requires_grad]
    if parts:
        sum(parts[1:], parts[0]).backward()
    return [*map(xp.values, ys), *[None if x.grad is None else xp.values(x.grad) for x in leaves]]


def check(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        if a is None or b is None:  # no gradient, or one of zeros where the tape cannot know
            assert all(g is None or not np.any(g) for g in (a, b))
        else:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def tensors(xp: Place, sample: Sample) -> list[tg.Tensor]:
    return [xp.tensor(a, requires_grad=a.dtype.kind in "fc") for a in sample.args]


def in_host_form(x: tg.Tensor, lists: bool) -> list[Any]:
    """Return a Tensor's values as an array of NumPy and, if that says as much, as nested lists."""
    values = np.array(x.detach().to_device("cpu"))
    return [values, values.tolist()] if lists and values.size and values.ndim else [values]


@pytest.mark.parametrize("sample", SEVERAL, ids=lambda s: s.name)
def test_an_operand_of_the_host_goes_where_the_tensor_is(xp: Place, sample: Sample) -> None:
    slow = xp.device.startswith(("jax", "cuda"))
    if slow and sample.name not in FIRST:
        pytest.skip("one sample of an operation is enough where each call is compiled for each shape")
    for i in range(sample.operation in SUBJECT, len(sample.args)):
        for host in in_host_form(tensors(xp, sample)[i], not slow and sample.operation not in AN_ARRAY):
            constant, args = tensors(xp, sample), tensors(xp, sample)
            constant[i] = constant[i].detach()
            args[i] = host
            check(outcome(xp, sample.f, args), outcome(xp, sample.f, constant))


# -- operations without a sample of several arrays, and all other places where a value of the host meets a Tensor
# -------------

H = np.asarray([2.0, 0.5, 3.0])
M = np.asarray([[2.0, 0.5, 1.0], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0]])
PLACES = np.asarray([2, 0])
B = np.asarray([True, False, True])


def assigned(x: Any, key: Any, value: Any) -> Any:
    x = x * 1.0
    x[key] = value
    return x


def updated(operator: Any) -> Any:
    def f(x: Any, h: Any) -> Any:
        y = x * 1.0
        z = operator(y, h)
        assert z is y
        return z

    return f


def reflected(operator: Any) -> Any:
    return lambda x, h: operator(h, x)


@tg.custom_vjp
def doubled(x: Any, h: Any) -> Any:
    return x * h


doubled.defvjp(lambda x, h: (x * h, h), lambda h, t: (t * h * 2.0, None))

FUNCTIONS: dict[str, tuple[Any, Any]] = {  # f(x, h), where x is a Tensor of three numbers
    "broadcast_arrays": (lambda x, h: tg.broadcast_arrays(x, h), M),
    "broadcast_arrays 2": (lambda x, h: tg.broadcast_arrays(h, x), M),
    "clip": (lambda x, h: tg.clip(x, h, h + 1), H),
    "clip x": (lambda x, h: tg.clip(h, x, None), H),
    "cross_entropy labels": (lambda x, h: tg.cross_entropy(tg.stack([x, x + 1]), h), PLACES),
    "diff": (lambda x, h: tg.diff(x, prepend=h, append=h), H),
    "diff x": (lambda x, h: tg.diff(h, append=x), H),
    "full_like": (lambda x, h: tg.full_like(x, h) * x, H[0]),
    "isin": (lambda x, h: tg.isin(x, h), H),
    "isin 2": (lambda x, h: tg.isin(h, x), H),
    "matrix_rank": (lambda x, h: tg.linalg.matrix_rank(x * x[:, None], rtol=h), np.asarray(1e-3)),
    "meshgrid": (lambda x, h: tg.meshgrid(x, h), H),
    "meshgrid 2": (lambda x, h: tg.meshgrid(h, x), H),
    "pinv": (lambda x, h: tg.linalg.pinv(x[:, None], rtol=h), np.asarray(1e-3)),
    "polygamma": (lambda x, h: tg.special.polygamma(h, x), np.asarray([0, 1, 2])),
    "polygamma x": (lambda x, h: tg.special.polygamma(tg.astype(tg.floor(x), tg.int32), h), H),
    "repeat": (lambda x, h: tg.repeat(x, h), np.asarray([1, 0, 2])),
    "result_type": (lambda x, h: tg.zeros(1, dtype=tg.result_type(x, h), device=x.device), H),
    "searchsorted": (lambda x, h: tg.searchsorted(tg.sort(x), h), H),
    "searchsorted 1": (lambda x, h: tg.searchsorted(h, x), np.sort(H)),
    "searchsorted sorter": (lambda x, h: tg.searchsorted(x, x, sorter=h), np.asarray([0, 1, 2])),
    "where": (lambda x, h: tg.where(h, x, 0.0), B),
    "stack": (lambda x, h: tg.stack([h, x, [1.0, 2.0, 3.0]]), H),
    "asarray of a list": (lambda x, h: tg.asarray([h, x, [1.0, 2.0, 3.0]]), H),
    # indices
    "x[integers]": (lambda x, h: x[h], PLACES),
    "x[list]": (lambda x, h: x[h if isinstance(h, tg.Tensor) else h.tolist()], PLACES),
    "x[tuple,]": (lambda x, h: x[h if isinstance(h, tg.Tensor) else tuple(h.tolist()),], PLACES),
    "x[mask]": (lambda x, h: x[h], B),
    "x[integers, None]": (lambda x, h: x[h, None], PLACES),
    "x[apart]": (lambda x, h: (x * np.ones((2, 3, 1)) * x[:, None])[h - 1, :, h - 2], np.asarray([1, 2])),
    "x[number]": (lambda x, h: x[h], np.asarray(1)),
    "x[small integers]": (lambda x, h: x[h], PLACES.astype(np.uint8)),
    "x[integers] = v": (lambda x, h: assigned(x, h, 7.0), PLACES),
    "x[mask] = v": (lambda x, h: assigned(x, h, 7.0), B),
    "x[list] = v": (lambda x, h: assigned(x, [2, 0], h), H[:2]),
    "x[...] = h": (lambda x, h: assigned(x, ..., h), H),
    "x[1] = h": (lambda x, h: assigned(x, 1, h), np.asarray(4.0)),
    "take": (lambda x, h: tg.take(x, h), PLACES),
    # operators and NumPy's functions
    **{f"x {o} h": (getattr(operator, n), H) for o, n in OPERATORS.items()},
    **{f"h {o} x": (reflected(getattr(operator, n)), H) for o, n in OPERATORS.items()},
    **{f"x {o}= h": (updated(getattr(operator, f"i{n}")), H) for o, n in OPERATORS.items() if n not in COMPARISONS},
    "x @ h": (lambda x, h: x @ h, M),
    "h @ x": (lambda x, h: h @ x, M),
    "x @= h": (updated(operator.imatmul), M),
    "divmod": (lambda x, h: divmod(x, h), H),
    "divmod reflected": (lambda x, h: divmod(h, x), H),
    "np.multiply": (lambda x, h: np.multiply(h, x), H),
    "np.arctan2": (lambda x, h: np.arctan2(x, h), H),
    "np.concatenate": (lambda x, h: np.concatenate([h, x, [1.0]]), H),
    "np.stack": (lambda x, h: np.stack([h, x, [1.0, 2.0, 3.0]]), H),
    "np.einsum": (lambda x, h: np.einsum("ij,j,i->i", h, x, [1.0, 2.0, 3.0]), M),
    "np.kron": (lambda x, h: np.kron(h, x), H),
    "np.vdot": (lambda x, h: np.vdot(h, x), H),
    "np.where": (lambda x, h: np.where([True, False, True], x, h), H),
    "np.where condition": (lambda x, h: np.where(h, x, [1.0, 2.0, 3.0]), B),
    "np.clip": (lambda x, h: np.clip(x, h, [9.0, 9.0, 9.0]), H),
    "np.dot": (lambda x, h: np.dot(h, x), M),
    "np.outer": (lambda x, h: np.outer(h, x), H),
    "np.take": (lambda x, h: np.take(x, h), PLACES),
    "np.linalg.solve": (lambda x, h: np.linalg.solve(h, x), M),
    "np.add of a list": (lambda x, h: np.add([1.0, 2.0, 3.0], x) * h, H),
    # functions of functions
    "grad": (lambda x, h: tg.grad(lambda x, h: tg.sum(x * x * h))(x, h), H),
    "grad by both": (lambda x, h: tg.grad(lambda x, h: tg.sum(x * h * h), argnums=(0, 1))(x, h)[0], H),
    "vjp": (lambda x, h: tg.vjp(lambda x: x * x, x)[1](h), H),
    "jvp": (lambda x, h: tg.jvp(lambda x: x * x, (x,), (h,)), H),
    "linearize": (lambda x, h: tg.linearize(lambda x: x * x, x)[1](h), H),
    "hvp": (lambda x, h: tg.hvp(lambda x: tg.sum(x**3), (x,), (h,)), H),
    "jacobian": (lambda x, h: tg.jacobian(lambda x: h @ x)(x), M),
    "hessian": (lambda x, h: tg.hessian(lambda x: tg.sum(h * x**3))(x), H),
    "vmap": (lambda x, h: tg.vmap(lambda a, b: a * b)(x, h), H),
    "vmap of one for all": (lambda x, h: tg.vmap(lambda a, b: a * b, in_axes=(0, None))(x, h), H),
    "vmap closing over": (lambda x, h: tg.vmap(lambda a: tg.sin(a) * h + [1.0, 2.0, 3.0])(x), H),
    "vmap of an index": (lambda x, h: tg.vmap(lambda a: a[h])(x * np.ones((2, 3))), PLACES),
    "vmap of a gradient": (lambda x, h: tg.vmap(tg.grad(lambda a, b: a * a * b), in_axes=(0, 0))(x, h), H),
    "vmap of a constant": (lambda x, h: tg.vmap(lambda a: h)(x) * x, H),
    "custom_vjp": (lambda x, h: doubled(x, h), H),
    "checkpoint": (lambda x, h: tg.checkpoint(lambda x: tg.sin(x) * h)(x), H),
    "fixed_point": (lambda x, h: tg.fixed_point(lambda y, x: 0.1 * tg.sin(y) + x * h, h, x), H),
    "root": (lambda x, h: tg.root(lambda y, x: y * h - x, h, x), H),
    "hook": (lambda x, h: hooked(x * 1.0, lambda g: g * h), H),
}


def hooked(x: Any, hook: Any) -> Any:
    if x.requires_grad:
        x.register_hook(hook)
    return x


@pytest.mark.parametrize(("f", "h"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_value_of_the_host_goes_where_the_tensor_is(xp: Place, f: Any, h: Any) -> None:
    def results(constant: Any) -> list[Any]:
        return outcome(xp, f, [xp.tensor([0.75, 1.25, 2.5], requires_grad=True), constant])

    there = xp.tensor(h)
    check(results(np.array(there.to_device("cpu"))), results(there))


NUMBERS = {
    "integers": np.asarray([1, 2, 3]),
    "small integers": np.asarray([1, 2, 3], np.uint8),
    "booleans": np.asarray([True, False, True]),
    "wider floats": np.asarray([1.0, 2.0, 3.0]),
    "a wider float": np.asarray(2.0),
    "a number of NumPy": np.float64(2.0),
    "a list": [1, 2.5, 3],
    "a list of integers": [1, 2, 3],
    "a list of complex numbers": [1j, 2j, 3j],
}
MIXING = {
    "add": tg.add,
    "reflected": lambda x, h: h * x,
    "less": lambda x, h: tg.less(tg.real(x), h) if not np.iscomplexobj(h) else x,
    "concat": lambda x, h: tg.concat([x, h if np.ndim(h) else [h]]),
    "where": lambda x, h: tg.where(x > 1, x, h),
    "vecdot": lambda x, h: tg.vecdot(x, h) if np.ndim(h) else x,
    "np.stack": lambda x, h: np.stack([x, h]) if np.ndim(h) else x,
}


@pytest.mark.parametrize("f", MIXING.values(), ids=MIXING)
@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
def test_what_is_mixed_has_the_dtype_that_it_has_on_numpy(xp: Place, numbers: Any, f: Any) -> None:
    values = np.asarray([0.5, 1.5, 2.5], np.float32)
    expected: Any = f(tg.tensor(values, device="cpu"), numbers)
    found: Any = f(tg.tensor(values, device=xp.device), numbers)
    narrow = {"float64": tg.float32, "complex128": tg.complex64}
    assert found.dtype is (expected.dtype if xp.double else narrow.get(expected.dtype.name, expected.dtype))
    np.testing.assert_allclose(xp.values(found), np.asarray(expected), rtol=1e-6)


FLOATS = {
    "float64": np.asarray([1.5, 2.0, 3.0]),
    "float32": np.asarray([1.5, 2.0, 3.0], np.float32),
    "float16": np.asarray([1.5, 2.0, 3.0], np.float16),
    "complex64": np.asarray([1.5, 2.0, 3j], np.complex64),
}


@pytest.mark.parametrize("name", ["add", "reflected", "concat", "where"])
@pytest.mark.parametrize("floats", FLOATS.values(), ids=FLOATS)
@pytest.mark.parametrize("integers", ["int8", "int32", "int64", "uint8", "bool"])
def test_integers_beside_floats_of_the_host_have_the_dtype_that_they_have_on_numpy(
    xp: Place, integers: str, floats: Any, name: str
) -> None:
    x = np.asarray([0, 1, 1], integers)
    f: Any = MIXING[name]
    if xp.device.startswith("strict"):
        pytest.skip("it mixes no integers with floats")
    found, expected = (f(tg.asarray(x, device=device), floats) for device in (xp.device, "cpu"))
    narrow = {"float64": tg.float32, "complex128": tg.complex64}
    assert found.dtype is (expected.dtype if xp.double else narrow.get(expected.dtype.name, expected.dtype))
    np.testing.assert_allclose(xp.values(found), np.asarray(expected), rtol=1e-6)


def test_every_function_of_several_arrays_is_tried() -> None:
    tried = {s.operation for s in SEVERAL} | {*BEFORE} | {name.partition(" ")[0] for name in FUNCTIONS}
    shapes_and_dtypes = {"arange", "broadcast_shapes", "broadcast_to", "can_cast", "full", "reshape"}
    for module in (tg, tg.linalg, tg.fft, tg.special):
        for name in module.__all__:
            f = getattr(module, name)
            if isinstance(f, type) or not callable(f):
                continue
            parameters = inspect.signature(f).parameters.values()
            arrays = [
                p for p in parameters if re.search("Any|ArrayLike", str(p.annotation)) and p.name not in NO_ARRAYS
            ]
            if len(arrays) > 1 or any(p.kind is p.VAR_POSITIONAL for p in arrays):
                assert name in tried | shapes_and_dtypes, name


# -- the default device --------------------------------------------------------------------------------------------


def test_data_of_the_host_obeys_a_default_that_was_set(xp: Place) -> None:
    here = tg.zeros(()).device
    data = np.asarray([1.0, 2.0], np.float32)
    for x in (tg.asarray(data), tg.tensor(data), tg.asarray([1.0]), tg.asarray(np.float64(1.0)), tg.sin(data)):
        assert x.device == here
    assert tg.add(data, data).device == tg.stack([data, [1.0, 2.0]]).device == here
    assert tg.asarray(data, device="cpu").device == "cpu"
    assert tg.tensor(tg.asarray(data, device="cpu")).device == "cpu"  # a Tensor stays where it is
    copy = tg.asarray(data)
    data[0] = 9.0
    assert copy.tolist() == [1.0, 2.0]


def test_without_a_default_arrays_stay() -> None:
    code = (
        "import numpy as np, tapegrad as tg, array_api_strict as xp\n"
        "there = xp.ones(2, device=xp.Device('device1'))\n"
        "print(tg.default_device(), tg.asarray(np.ones(2)).device, tg.asarray(there).device, tg.tensor(there).device)\n"
        "tg.default_device('cpu')\n"
        "print(tg.asarray(there).device, tg.tensor(there).device)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TAPEGRAD_DEVICE"}
    for value in ({}, {"TAPEGRAD_DEVICE": ""}):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | value, capture_output=True, text=True, timeout=600
        )
        assert done.stdout.split() == ["cpu", "cpu", "strict:device1", "strict:device1", "strict:device1", "cpu"], (
            done.stderr
        )


def test_an_array_of_a_device_library_stays_but_in_tensor(xp: Place) -> None:
    strict = pytest.importorskip("array_api_strict")
    batch = strict.ones(2, dtype=strict.float32, device=strict.Device("device2"))
    assert tg.asarray(batch).device == tg.sin(batch).device == "strict:device2"
    assert tg.tensor(batch).device == tg.zeros(()).device
    assert tg.tensor(batch, device="strict:device2").device == "strict:device2"


def test_raw_arrays_in_give_raw_arrays_of_the_host_out(xp: Place) -> None:
    """Arrays of NumPy may be passed, whatever device computes."""
    here, seen = tg.zeros(()).device, set()
    dtype = np.float64 if xp.double else np.float32

    def f(x: Any, *more: Any) -> Any:
        seen.add(x.device)
        return tg.sum(tg.sin(x) * x)

    x = np.asarray([0.5, 1.0], dtype)
    gradient = np.cos(x) * x + np.sin(x)
    results = [
        tg.grad(f)(x),
        tg.value_and_grad(f)(x)[1],
        tg.vjp(f, x)[1](np.asarray(1.0, dtype))[0],
        tg.jacobian(f)(x),
        tg.vmap(tg.grad(f))(x[:, None])[:, 0],
        tg.linearize(f, x)[1](np.asarray([1.0, 0.0], dtype)) * np.asarray([1.0, 0.0]) + gradient * [0.0, 1.0],
        tg.grad(lambda d: f(d["x"]))({"x": x})["x"],
    ]
    for result in results:
        assert isinstance(result, np.ndarray)
        np.testing.assert_allclose(result, gradient, rtol=1e-5)
    value = tg.value_and_grad(f)(x)[0]
    assert isinstance(value, np.ndarray)
    assert isinstance(tg.grad(lambda v: v**3)(2.0), np.ndarray)
    assert isinstance(tg.grad(f)(tg.asarray(x)), tg.Tensor)
    assert seen == {here}


def test_raw_arrays_go_where_the_tensors_among_the_arguments_are(xp: Place) -> None:
    x, w = xp.tensor([1.0, 2.0]), np.asarray(xp.tensor([3.0, 4.0]).to_device("cpu"))
    with tg.default_device("cpu"):
        by_both = tg.grad(lambda w, x: tg.sum(w * x), argnums=(0, 1))(w, x)
        other = tg.grad(lambda w, x: tg.sum(w * x))(w, x)
        named = tg.grad(lambda w, x: tg.sum(w * x))(w, x=x)
        mapped = tg.vmap(lambda w, x: w * x)(w, x)
        solved = tg.fixed_point(lambda y, x: 0.5 * (y + x / y), w, x)
        zero = tg.root(lambda y, x: y**2 - x, w, x)
    for gradient in (by_both[0], other, named):
        assert isinstance(gradient, np.ndarray)
        np.testing.assert_array_equal(gradient, [1.0, 2.0])
    xp.check(by_both[1], [3.0, 4.0])
    xp.check(mapped, [3.0, 8.0])
    for found in (solved, zero):
        xp.check(found, np.sqrt([1.0, 2.0]), rtol=1e-6)


def test_scipy_gets_and_gives_arrays_of_the_host(xp: Place) -> None:
    dtype = np.float64 if xp.double else np.float32
    objective = tg.scipy_objective(lambda p: tg.sum((p["x"] - 1.0) ** 2) * p["c"], {"x": np.ones(2, dtype), "c": 2.0})
    value, gradient = objective.fun([2.0, 3.0, 0.5])
    assert (value, gradient.tolist()) == (2.5, [1.0, 2.0, 5.0])
    found = objective.unflatten([2.0, 3.0, 0.5])
    assert isinstance(found["x"], np.ndarray)
    assert (found["x"].dtype, found["x"].tolist(), found["c"]) == (dtype, [2.0, 3.0], 0.5)


def test_an_update_by_a_wider_float_advises_a_cast_that_works(xp: Place) -> None:
    """`x = x - y` would leave a parameter as it was."""
    x = tg.ones(2, dtype=tg.float32, device=xp.device)
    wider: list[tuple[Any, str]] = [(np.asarray(0.5), "y.astype(x.dtype)")]
    if xp.double:
        wider.append((xp.tensor(0.5), "tapegrad.astype(y, x.dtype)"))
        for y, cast in wider:
            with pytest.raises(
                ValueError, match=f"float64, which do not fit.* float32: cast .* x -= {re.escape(cast)}"
            ):
                x -= y
    with tg.default_device("cpu"):
        for y, cast in wider:
            x -= eval(cast, {"tapegrad": tg, "x": x, "y": y})
    assert (x.dtype, x.tolist()) == (tg.float32, [1.0 - 0.5 * len(wider)] * 2)


# -- copies --------------------------------------------------------------------------------------------------------

ONCE: dict[str, tuple[Any, Any]] = {
    "x * h": (lambda x, h: x * h, H),
    "h * x": (lambda x, h: h * x, H),
    "x += h": (updated(operator.iadd), H),
    "x @ h": (lambda x, h: x @ h, M),
    "h @ x": (lambda x, h: h @ x, M),
    "clip": (lambda x, h: tg.clip(x, h, None), H),
    "where": (lambda x, h: tg.where(h, x, 0.0), B),
    "x[h]": (lambda x, h: x[h], PLACES),
    "x[...] = h": (lambda x, h: assigned(x, ..., h), H),
    "x[h] = 1": (lambda x, h: assigned(x, h, 1.0), PLACES),
    "take": (lambda x, h: tg.take(x, h), PLACES),
    "solve": (lambda x, h: tg.linalg.solve(h, x), M),
    "concat": (lambda x, h: tg.concat([x, h]), H),
    "cross_entropy": (lambda x, h: tg.cross_entropy(tg.stack([x, x]), h), PLACES),
    "cotangent": (lambda x, h: tg.vjp(lambda x: x, x)[1](h), H),
    "vmap": (lambda x, h: tg.vmap(lambda a: a * h)(x), H),
}


@pytest.mark.parametrize(("f", "h"), ONCE.values(), ids=ONCE)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_constant_is_copied_once_a_call(xp: Place, f: Any, h: Any, recorded: bool) -> None:
    x = xp.tensor([0.75, 1.25, 2.5], requires_grad=recorded)
    h = np.asarray(xp.tensor(h).to_device("cpu"))
    with tg.HostCopies() as copies:
        f(x, h)
    assert (copies.count, copies.bytes) == ((0, 0) if xp.device == "cpu" else (1, h.nbytes))


def test_copies_are_counted_by_line() -> None:
    x = tg.ones(3, device="strict:device1")
    with tg.HostCopies() as copies:
        for _ in range(2):
            x = x * H
        with tg.HostCopies() as inner:
            x = x + M
    x = x + M
    assert (copies.count, copies.bytes) == (3, 2 * H.nbytes + M.nbytes)
    assert inner.count == 1
    (first, second), line = copies.lines, sys._getframe().f_lineno
    assert [line - int(name.partition(":")[2]) for name in (first, second)] == [6, 4]
    assert copies.lines[first] == (2, 2 * H.nbytes)
    assert str(copies).splitlines()[0].split() == ["copies", "bytes", "line"]
    assert str(copies).splitlines()[1].split() == ["1", str(M.nbytes), second]


LARGE_ARRAY = np.linspace(0.0, 1.0, 2**17)  # 1 MiB


def steps(x: tg.Tensor, constants: Any) -> list[str]:
    """Return the warnings of a loop that uses a constant at each step, on one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for constant in constants:
            x = x * constant
    assert all(w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught]


def test_a_large_constant_at_each_step_is_warned_of_once_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_constants, "_seen", {})
    x = tg.ones(LARGE_ARRAY.shape, device="strict:device1")
    (message,) = steps(x, [LARGE_ARRAY] * 6)
    assert re.search(r"1\.0 MiB on the host is copied to strict:device1 each time that this line runs", message)
    assert "x = tapegrad.asarray(x, device='strict:device1')" in message
    assert steps(x, [LARGE_ARRAY] * 6) == []


def test_a_large_constant_that_is_computed_anew_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_constants, "_seen", {})
    x = tg.ones(LARGE_ARRAY.shape, device="strict:device1")
    assert len(steps(x, (LARGE_ARRAY + 1.0 for _ in range(4)))) == 1


def test_batches_and_small_constants_are_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_constants, "_seen", {})
    x = tg.ones(LARGE_ARRAY.shape, device="strict:device1")
    batches = [LARGE_ARRAY + k for k in range(20)]
    assert steps(x, batches * 2) == []
    assert steps(tg.ones(3, device="strict:device1"), [H] * 6) == []
    assert steps(tg.ones(LARGE_ARRAY.shape, device="cpu"), [LARGE_ARRAY] * 6) == []


def test_a_constant_is_copied_out_of_the_callers_memory(xp: Place) -> None:
    x, h = xp.tensor([1.0, 2.0, 4.0], requires_grad=True), np.asarray(xp.tensor(H).to_device("cpu")).copy()
    y = tg.sum(x * h)
    h[...] = 0.0
    y.backward()
    xp.check(x.grad, H)


# -- things a device lacks ------------------------------------------------------------------------------------------


def test_a_constant_gets_the_dtypes_of_the_device() -> None:
    x = tg.tensor([1.0, 2.0], device="strict:no_x64")
    y = x * np.asarray([0.5, 0.25])
    assert (y.dtype, y.tolist()) == (tg.float32, [0.5, 0.5])
    assert x[np.asarray([1, 0])].tolist() == [2.0, 1.0]
    assert tg.take(x, np.asarray([1])).tolist() == [2.0]
    with tg.default_device("strict:no_x64"):
        assert tg.asarray(np.asarray([1, 2])).dtype is tg.int32
        assert tg.asarray(np.asarray([1.0])).dtype is tg.float32
        with pytest.raises(OverflowError, match="array of int64 do not fit in int32, the widest on the device"):
            tg.asarray(np.asarray([2**40]))
        with pytest.raises(TypeError, match=r"float64 is not available on strict device .*: pass dtype="):
            tg.asarray(np.asarray([1.0]), dtype=tg.float64)


@pytest.mark.parametrize("bad", [np.asarray(["a", "b"]), np.asarray([object(), None]), np.asarray(["2020"], "M8[D]")])
def test_an_array_of_no_numbers_is_no_constant(xp: Place, bad: Any) -> None:
    if xp.device == "cpu":
        return
    x = xp.tensor([1.0, 2.0])
    for f in (lambda: x * bad, lambda: tg.concat([x, bad]), lambda: x[bad], lambda: tg.where(bad, x, 0.0)):
        with pytest.raises((TypeError, IndexError)):
            f()


def test_bytes_in_the_other_order(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0, 4.0])
    h = np.asarray(H, dtype=">f8" if xp.double else ">f4")
    xp.check(x * h, H * [1.0, 2.0, 4.0])
    xp.check(x * np.asarray(h)[::-1], H[::-1] * [1.0, 2.0, 4.0])


def takes_device(f: Any) -> bool:
    return callable(f) and not isinstance(f, type) and "device" in inspect.signature(f).parameters


@pytest.mark.parametrize("bad", [0, 1, "", False, 1.5, "gpu"])
def test_what_is_no_device_raises(bad: Any) -> None:
    x, info = tg.ones(2), tg.__array_namespace_info__()
    calls: list[Any] = [
        lambda: tg.arange(2, device=bad),
        lambda: tg.asarray([1.0], device=bad),
        lambda: tg.asarray(np.ones(2), device=bad),
        lambda: tg.asarray(x, device=bad),
        lambda: tg.astype(x, tg.float32, device=bad),
        lambda: tg.astype(x, x.dtype, copy=False, device=bad),
        lambda: tg.default_device(bad),
        lambda: tg.empty(2, device=bad),
        lambda: tg.empty_like(x, device=bad),
        lambda: tg.eye(2, device=bad),
        lambda: tg.fft.fftfreq(2, device=bad),
        lambda: tg.fft.rfftfreq(2, device=bad),
        lambda: tg.from_dlpack(np.ones(2), device=bad),
        lambda: tg.full(2, 1.0, device=bad),
        lambda: tg.load(__file__, device=bad),
        lambda: tg.full_like(x, 1.0, device=bad),
        lambda: tg.full_like(np.ones(2), 1.0, device=bad),
        lambda: tg.linspace(0, 1, 2, device=bad),
        lambda: tg.linspace(tg.tensor(0.0, requires_grad=True), 1, 2, device=bad),
        lambda: tg.ones(2, device=bad),
        lambda: tg.ones_like(x, device=bad),
        lambda: tg.tensor([1.0], device=bad),
        lambda: tg.tensor(x, device=bad),
        lambda: tg.zeros(2, device=bad),
        lambda: tg.zeros_like(x, device=bad),
        lambda: x.to_device(bad),
        lambda: info.default_dtypes(device=bad),
        lambda: info.dtypes(device=bad),
        lambda: tg.backends.of_device(bad),
    ]
    named = {name for name in tg.__all__ if takes_device(getattr(tg, name))}
    before = tg.default_device()
    for call in calls:
        if isinstance(bad, str):
            with pytest.raises(ValueError, match=rf"unknown device '{bad}': it starts with one of cpu, cuda"):
                call()
        else:
            fix = "; write 'cuda:1' for a GPU by its number" if bad == 1 and bad is not True else ""
            with pytest.raises(TypeError, match=f"a device is a string.*, not {type(bad).__name__}{fix}"):
                call()
    assert tg.default_device() == before
    assert named <= {name for call in calls for name in call.__code__.co_names}


# -- compiled calls ------------------------------------------------------------------------------------------------


def test_constants_of_the_host_in_a_compiled_step(xp: Place) -> None:
    """Arguments and arrays from outside are read at each call, and the program stays one of the device's library."""
    dtype = np.float64 if xp.double else np.float32
    scale, places = np.array(H, dtype), PLACES.copy()
    wanted: Any = np.asarray([1.0, 0.0, 1.0], dtype)

    def step(w: Any, x: Any, offset: Any) -> Any:
        w.grad = None
        y = w * scale * x + offset
        loss = tg.sum(y[places] ** 2) + tg.sum(tg.where(wanted > 0.5, y, [0.0, 1.0, 2.0])) + tg.mean(tg.asarray(scale))
        loss.backward()
        with tg.no_grad():
            w -= 0.01 * w.grad
        return loss

    def losses(f: Any) -> list[float]:
        scale[...] = H
        w, x, found = xp.tensor([1.0, 2.0, 3.0], requires_grad=True), xp.tensor([1.0, 1.0, 2.0]), []
        for n in range(6):
            if n == 4:
                scale[1] = 7.0
            found.append(float(f(w, x, np.asarray([1.0, 1.0, n], dtype))))
        return [*found, *w.tolist()]

    compiled = tg.compile(step)
    np.testing.assert_allclose(losses(compiled), losses(step), rtol=1e-12 if xp.double else 1e-5)
    if not xp.device.startswith("cpu"):
        with tg.HostCopies() as copies:
            compiled(xp.tensor([1.0, 2.0, 3.0], requires_grad=True), xp.tensor([1.0, 1.0, 2.0]), np.asarray(H, dtype))
        assert copies.count >= 4
    if xp.device.startswith(("jax", "cuda")):
        assert not compiled._last.executor.how.startswith("replayed call by call")
