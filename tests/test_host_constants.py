"""Host arrays, lists and indices beside Tensors elsewhere: constants, which go where the Tensor is."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._tree import flatten
from tapegrad.testing import SAMPLES, Sample

FIRST = {(s.operation, any(a.dtype.kind == "c" for a in s.args)): s.name for s in reversed(SAMPLES)}.values()
SEVERAL = [s for s in SAMPLES if len(s.args) > 1]
SUBJECT = ("getitem", "setitem", "linspace")  # whose samples use the first argument as a Tensor: it has the method
AN_ARRAY = ("setitem", "pinv")  # whose samples index another argument, which lists do in a way of their own
OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "truediv", "//": "floordiv", "%": "mod", "**": "pow"}
OPERATORS |= {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
NO_ARRAYS = ("dtype", "device", "f", "fun", "in_axes", "out_axes", "function")


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
        if a is None or b is None:
            assert a is b
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


# -- what has no sample of several arrays, and all other places where a value of the host meets a Tensor -------------

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


def test_every_function_of_several_arrays_is_tried() -> None:
    tried = {s.operation for s in SEVERAL} | {name.partition(" ")[0] for name in FUNCTIONS}
    shapes_and_dtypes = {"arange", "broadcast_shapes", "broadcast_to", "can_cast", "full", "reshape"}
    for module in (tg, tg.linalg, tg.fft, tg.special):
        for name in module.__all__:
            f = getattr(module, name)
            if isinstance(f, type) or not callable(f):
                continue
            parameters = inspect.signature(f).parameters.values()
            arrays = [p for p in parameters if p.annotation in ("Any", "Sequence[Any]") and p.name not in NO_ARRAYS]
            if len(arrays) > 1 or any(p.kind is p.VAR_POSITIONAL for p in arrays):
                assert name in tried | shapes_and_dtypes, name
