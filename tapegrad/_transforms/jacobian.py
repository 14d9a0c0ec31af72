"""Jacobians and Hessians: all seeds at once, along a batch axis of one walk or push."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from math import prod
from typing import Any

from tapegrad._engine.dispatch import namespace_of, native_device
from tapegrad._engine.dtypes import is_complex
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad._transforms.derived import derived
from tapegrad._transforms.forward import jvp_as, tangents_of
from tapegrad._transforms.reverse import TransformCall, check_function, grad_as
from tapegrad._transforms.sparse_jacobian import sparse_jacobian
from tapegrad._transforms.typed import P, Transformed
from tapegrad.ops.shaping import concat, moveaxis, reshape


@derived
def jacobian(
    f: Callable[P, Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    mode: str = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    sparsity: Any = None,
) -> Transformed[P, Any]:
    """Return a function that gives the Jacobian of `f`: the derivative of each output by each input.

    The Jacobian of an output of shape S by an input of shape T has shape S + T. It stands where the input stands in a
    tree of the arguments' structure, and that where the output stands in a tree of the result's.

    With `sparsity`, `f` is a function of one array, which returns one. The result is a scipy.sparse.csr_array of the
    pattern, off the tape. It takes one tangent, or cotangent, for each colour: a group of columns that share no row,
    or rows that share no column. The colours of the last patterns are kept. One random direction more is pushed, to
    check the pattern to half the digits of the dtype.

    Parameters
    ----------
    f : callable
        A function that returns a Tensor, or a container of Tensors.
    argnums : int or tuple of int, default 0
        The argument to differentiate by, counted from 0, or a tuple of them.
    mode : {'auto', 'forward', 'reverse'}, default 'auto'
        'forward' pushes one tangent for each element of the inputs, 'reverse' pulls one cotangent for each element of
        the outputs, 'auto' takes the fewer.
    chunk_size : int or None, default None
        How many tangents or cotangents go at once; all of them for None, which takes as many times the memory of one.
    has_aux : bool, default False
        Whether `f` returns (result, anything); the result is (Jacobian, anything), then.
    sparsity : sparse matrix, array of bool, 'detect' or None, default None
        Where the Jacobian may be other than zero, in shape (outputs, inputs), both in C order: a scipy.sparse matrix
        (all it stores, zeros too) or booleans. 'detect' finds that on the tape at each call, lacking nothing at those
        inputs.

    Returns
    -------
    callable
        A function of the arguments of `f`, which returns the Jacobian.

    Raises
    ------
    TypeError
        `f` is no function. At a call: a value is complex, which has no such matrix (use `jvp` or `vjp`), or several
        arrays come in or go out though `sparsity` is given.
    ValueError
        `mode` is another one. At a call: the pattern does not fit, or lacks something.
    RuntimeError
        At a call: something outside would differentiate a sparse Jacobian.
    ImportError
        A sparse Jacobian is asked for, and SciPy is not installed.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.jacobian(lambda x: x * x)(tg.asarray([1.0, 2.0]))
    Tensor([[2., 0.],
            [0., 4.]])
    >>> tg.jacobian(lambda x: x[1:] - x[:-1], sparsity="detect")(tg.asarray([1.0, 2.0, 4.0])).nnz
    4
    """
    if mode not in ("auto", "forward", "reverse"):
        raise ValueError(f"jacobian: mode is 'auto', 'forward' or 'reverse', not {mode!r}")
    return jacobian_as("jacobian", f, argnums, mode, chunk_size, has_aux, sparsity)  # type: ignore[return-value]


def jacobian_as(
    transform: str,
    f: Callable[..., Any],
    argnums: int | tuple[int, ...],
    mode: str,
    chunk_size: int | None,
    has_aux: bool = False,
    sparsity: Any = None,
) -> Callable[..., Any]:
    """Return the result of `jacobian`; messages name `transform`."""
    check_function(transform, f, argnums)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{transform}: chunk_size is a number of seeds from 1 up, not {chunk_size}")

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> Any:
        chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        traced = TransformCall(transform, f, args, kwargs, chosen, has_aux)
        for x in (*traced.inputs, *traced.outputs):
            if is_complex(x._array.dtype):
                raise TypeError(f"{traced.what}: complex values have no matrix of derivatives: use jvp or vjp")
        if sparsity is not None:
            j = sparse_jacobian(traced, sparsity, mode, chunk_size)
            return (j, traced.auxiliary()) if has_aux else j
        n, m = (sum(x.size for x in xs) for xs in (traced.inputs, traced.outputs))
        forward = mode == "forward" or (mode == "auto" and n <= m)
        blocks = _forward if forward else _reverse
        found = traced.derivatives(lambda record: blocks(traced, chunk_size, record), traced.create_graph)
        rows = []
        for i in range(len(traced.outputs)):
            row = found[i * len(traced.inputs) : (i + 1) * len(traced.inputs)]
            trees = traced.arguments(row, traced.create_graph)
            rows.append(trees[0] if isinstance(argnums, int) else tuple(trees))
        out = traced.rebuild(rows)
        return (out, traced.auxiliary()) if has_aux else out

    return run


def _reverse(traced: TransformCall, chunk_size: int | None, create_graph: bool) -> list[Tensor]:
    """Return for each output the blocks by each input, from one cotangent for each element of the output."""
    rows = []
    for i, y in enumerate(traced.outputs):
        parts = []
        for seeds in _basis(y, chunk_size):
            cotangents = [seeds if j == i else None for j in range(len(traced.outputs))]
            parts.append(traced.pull(cotangents, create_graph, batch_ndim=1))
        rows += [reshape(_joined(column), (*y.shape, *x.shape)) for column, x in _columns(parts, traced.inputs)]
    return rows


def _forward(traced: TransformCall, chunk_size: int | None, create_graph: bool) -> list[Tensor]:
    """Return for each output the blocks by each input, from one tangent for each element of the input."""
    columns = []
    for i, x in enumerate(traced.inputs):
        parts = []
        for seeds in _basis(x, chunk_size):
            tangents = [
                seeds if j == i else _zeros(other, (seeds.shape[0], *other.shape))
                for j, other in enumerate(traced.inputs)
            ]
            parts.append(tangents_of(traced, tangents, create_graph))
        column = []
        for part, y in _columns(parts, traced.outputs):
            last = moveaxis(_joined(part), 0, -1)
            column.append(reshape(last, (*y.shape, *x.shape)))
        columns.append(column)
    return [column[i] for i in range(len(traced.outputs)) for column in columns]


def _columns(parts: list[list[Tensor]], models: Sequence[Tensor]) -> Any:
    return zip([list(column) for column in zip(*parts, strict=True)], models, strict=True)


def _basis(x: Tensor, chunk_size: int | None) -> list[Tensor]:
    """Return the unit vectors of the space of `x`, stacked along a leading axis, in chunks."""
    a = x._array
    n = prod(a.shape)
    xp = namespace_of[type(a)]
    eye = xp.reshape(xp.eye(n, dtype=a.dtype, device=native_device(a)), (n, *a.shape))
    step = chunk_size or max(n, 1)
    return [wrap(eye[k : min(k + step, n), ...]) for k in range(0, max(n, 1), step)]


def _zeros(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    a = x._array
    return wrap(namespace_of[type(a)].zeros(shape, dtype=a.dtype, device=native_device(a)))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else concat(parts, axis=0)


@derived
def hessian(
    f: Callable[P, Any], argnums: int | tuple[int, ...] = 0, *, chunk_size: int | None = None
) -> Transformed[P, Any]:
    """Return a function that gives the Hessian of `f`, which returns one number: forward over reverse.

    The block of the second derivatives by inputs of shapes S and T has shape S + T. It stands in a tree of the
    arguments' structure at the second input, and that in such a tree at the first.

    Parameters
    ----------
    f : callable
        A function that returns a Tensor, or array, of one element.
    argnums : int or tuple of int, default 0
        The argument to differentiate by, counted from 0, or a tuple of them.
    chunk_size : int or None, default None
        How many tangents or cotangents go at once; all of them for None, which takes as many times the memory of one.

    Returns
    -------
    callable
        A function of the arguments of `f`, which returns the Hessian.

    Raises
    ------
    TypeError
        `f` is no function. At a call: an argument is complex or not floating.
    ValueError
        At a call: the result has other than one element.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.hessian(lambda x: tg.sum(x**3))(tg.asarray([1.0, 2.0]))
    Tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    gradient = grad_as("hessian", f, argnums)
    return jacobian_as("hessian", gradient, argnums, "forward", chunk_size)  # type: ignore[return-value]


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Return the Hessian of `f`, which returns one number, times the tangents.

    Forward over reverse, without making that matrix.

    Parameters
    ----------
    f : callable
        A function that returns a Tensor, or array, of one element.
    primals : tuple or list
        The arguments, as for `jvp`.
    tangents : tuple or list
        A direction for each primal, of its structure, shapes and dtypes.

    Returns
    -------
    tree
        The product, of the structure of the primals: a tuple, or its only item if there is one argument.

    Raises
    ------
    TypeError
        `f` is no function, or a tangent has another structure or dtype.
    ValueError
        A tangent has another shape, or the result has other than one element.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.hvp(lambda x: tg.sum(x**3), (tg.asarray([1.0, 2.0]),), (tg.asarray([1.0, 1.0]),))
    Tensor([ 6., 12.])
    """
    if not isinstance(primals, (tuple, list)):
        raise TypeError(f"hvp: primals and tangents are tuples or lists of arguments, not {type(primals).__name__}")
    argnums: int | tuple[int, ...] = 0 if len(primals) == 1 else tuple(range(len(primals)))
    check_function("hvp", f, form="(f, (x,), (t,))")
    return jvp_as("hvp", grad_as("hvp", f, argnums), primals, tangents)[1]
