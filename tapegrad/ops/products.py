"""Products of matrices and vectors: the linear algebra in the standard's main namespace."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.elementwise import binary
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import axis_of, integer
from tapegrad.ops._text import PROMOTED, SAME, UNFIT, documented
from tapegrad.ops.binary import multiply
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import zeros
from tapegrad.ops.dtypes import result_type
from tapegrad.ops.shaping import broadcast_shapes, broadcast_to, concat, permute_dims, reshape
from tapegrad.typing import ArrayLike


def _transpose(xp: Any, x: Any) -> Any:
    return x.T if x.ndim == 2 else xp.matrix_transpose(x)


def _matmul_1(xp: Any, t: Any, x1_shape: tuple[int, ...], x2: Any) -> Any:
    if x2.ndim == 1:
        return t[..., None] * x2
    if len(x1_shape) == 1:
        return xp.matmul(x2, t[..., None])[..., 0]
    return xp.matmul(t, _transpose(xp, x2))


def _matmul_2(xp: Any, t: Any, x1: Any, x2_shape: tuple[int, ...]) -> Any:
    if x1.ndim == 1:
        return t[..., None] * x1 if len(x2_shape) == 1 else x1[:, None] * t[..., None, :]
    if len(x2_shape) == 1:
        return xp.matmul(_transpose(xp, x1), t[..., None])[..., 0]
    return xp.matmul(_transpose(xp, x1), t)


_matmul = primitive("matmul", lambda xp, x1, x2: xp.matmul(x1, x2), _matmul_1, _matmul_2, broadcasts=True)


_of_matrices, _ = binary(
    "matmul",
    lambda xp, t, x2: xp.matmul(t, _transpose(xp, x2)),
    lambda xp, t, x1: xp.matmul(_transpose(xp, x1), t),
    "The product of matrices.",
    elementwise=False,
)


def _by_one_matrix_2(xp: Any, t: Any, x1: Any) -> Any:
    (*lead, k), n = x1.shape, t.shape[-1]
    rows = prod(lead)
    extra = t.shape[: t.ndim - x1.ndim]
    return xp.matmul(_transpose(xp, xp.reshape(x1, (rows, k))), xp.reshape(t, (*extra, rows, n)))


_by_one_matrix, _ = binary(
    "matmul",
    lambda xp, t, x2: xp.matmul(t, _transpose(xp, x2)),
    _by_one_matrix_2,
    "The product of stacked matrices with one matrix, whose gradient is one product of all rows.",
    elementwise=False,
)


@documented(
    f"The products (..., n, m); without the axes that a vector lacks. {PROMOTED}",
    UNFIT,
    x1="Matrices (..., n, k), or a vector (k,).",
    x2="Matrices (..., k, m), or a vector (k,).",
)
def matmul(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """Product of matrices and vectors; leading axes broadcast.

    Derivatives: t x2^T; x1^T t.

    >>> import tapegrad as tg
    >>> tg.matmul(tg.asarray([[1.0, 2.0]]), tg.asarray([3.0, 4.0]))
    Tensor([11.])
    """
    if type(x1) is not Tensor or type(x2) is not Tensor:
        x1, x2 = as_tensors("matmul", x1, x2)
    ndim1, ndim2 = len(x1._array.shape), len(x2._array.shape)
    if ndim1 < 2 or ndim2 < 2:
        return _matmul(x1, x2)
    return _of_matrices(x1, x2) if ndim1 == 2 or ndim2 > 2 else _by_one_matrix(x1, x2)


_matrix_transpose = primitive(
    "matrix_transpose",
    lambda xp, x: xp.matrix_transpose(x),
    lambda xp, t: xp.matrix_transpose(t),
    view=True,
    moves="all",
)


@documented(f"The matrices (..., n, m). {SAME}", "ValueError: `x` has fewer than two axes.", x="Matrices (..., m, n).")
def matrix_transpose(x: ArrayLike, /) -> Tensor:
    """Swap the last two axes.

    Derivative: t, transposed.

    >>> import tapegrad as tg
    >>> tg.matrix_transpose(tg.zeros((2, 3))).shape
    (3, 2)
    """
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: a shape {x.shape} has fewer than two axes")
    return _matrix_transpose(x)


_vecdot = primitive(
    "vecdot",
    lambda xp, x1, x2, axis: xp.vecdot(x1, x2, axis=axis),
    lambda xp, t, x2, axis: xp.expand_dims(xp.conj(t), axis=axis) * x2,  # x1 is conjugated in the product
    lambda xp, t, x1, axis: xp.expand_dims(t, axis=axis) * x1,
    broadcasts=True,
    adjoint=True,
)


@documented(
    f"The products, in the shape that the operands broadcast to, without the axis. {PROMOTED}",
    UNFIT,
    x1="Vectors along the axis; complex ones are conjugated.",
    x2="Vectors of the same length along the axis; the other axes broadcast.",
    axis="The axis of the vectors, counted from the last.",
)
def vecdot(x1: ArrayLike, x2: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Dot product of vectors along an axis.

    Derivatives: conj(t) x2; t x1.

    >>> import tapegrad as tg
    >>> tg.vecdot(tg.asarray([1.0, 2.0]), tg.asarray([3.0, 4.0]))
    Tensor(11.)
    """
    x1, x2 = as_tensors("vecdot", x1, x2)
    place = axis_of("vecdot", min(x1.ndim, x2.ndim), axis)
    if x1.shape[place] != x2.shape[place]:
        raise ValueError(f"vecdot: shapes {x1.shape} and {x2.shape} differ in length along axis {axis}")
    return _vecdot(x1, x2, place)


@composed
@documented(
    f"The sums: the axes of `x1` that are left, and then those of `x2`. {PROMOTED}",
    "ValueError: An axis is not there, or the lengths along the axes differ.",
    "TypeError: An axis is no integer.",
    axes=(
        "Which axes to sum over: a number n for the last n of `x1` and the first n of `x2`, or "
        "the axes of either, in two tuples."
    ),
)
def tensordot(x1: ArrayLike, x2: ArrayLike, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    """Sum of products over several axes.

    Composed of `permute_dims`, `reshape` and `matmul`.

    >>> import tapegrad as tg
    >>> tg.tensordot(tg.ones((2, 3)), tg.ones((3, 4)), axes=1).shape
    (2, 4)
    """
    x1, x2 = as_tensors("tensordot", x1, x2)
    if not isinstance(axes, (tuple, list)):
        axes = integer("tensordot", "axes, unless two tuples,", axes)
        if not 0 <= axes <= min(x1.ndim, x2.ndim):
            raise ValueError(f"tensordot: axes={axes} of shapes {x1.shape} and {x2.shape}")
        first, second = list(range(x1.ndim - axes, x1.ndim)), list(range(axes))
    else:
        first = [axis_of("tensordot", x1.ndim, i) + x1.ndim for i in axes[0]]
        second = [axis_of("tensordot", x2.ndim, i) + x2.ndim for i in axes[1]]
    if [x1.shape[i] for i in first] != [x2.shape[i] for i in second]:
        raise ValueError(f"tensordot: shapes {x1.shape} and {x2.shape} do not fit along axes {axes}")
    kept1 = [i for i in range(x1.ndim) if i not in first]
    kept2 = [i for i in range(x2.ndim) if i not in second]
    n = 1
    for i in first:
        n *= x1.shape[i]
    shape1, shape2 = [x1.shape[i] for i in kept1], [x2.shape[i] for i in kept2]
    rows, columns = 1, 1
    for length in shape1:
        rows *= length
    for length in shape2:
        columns *= length
    left = reshape(permute_dims(x1, (*kept1, *first)), (rows, n))
    right = reshape(permute_dims(x2, (*second, *kept2)), (n, columns))
    return reshape(matmul(left, right), (*shape1, *shape2))


@composed
@documented(
    f"The products; axis by axis, the length is that of `x1` times that of `x2`. {PROMOTED}",
    x1="The operand whose elements are replaced by multiples of `x2`.",
    x2="The other operand. If one has fewer axes than the other, axes of length 1 are put before its own.",
)
def kron(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """Kronecker product: `x1` with each element replaced by that element times `x2`.

    Composed of `reshape` and `multiply`.

    >>> import tapegrad as tg
    >>> tg.kron(tg.asarray([1.0, 10.0]), tg.asarray([1.0, 2.0]))
    Tensor([ 1.,  2., 10., 20.])
    """
    x1, x2 = as_tensors("kron", x1, x2)
    ndim = max(x1.ndim, x2.ndim)
    m, n = [(1,) * (ndim - x.ndim) + x.shape for x in (x1, x2)]
    left = reshape(x1, tuple(k for length in m for k in (length, 1)))
    right = reshape(x2, tuple(k for length in n for k in (1, length)))
    return reshape(multiply(left, right), tuple(i * j for i, j in zip(m, n, strict=True)))


@composed
@documented(
    "The matrices (..., sum of rows, sum of columns), zero outside of the blocks. The dtype is that of the operands, "
    "promoted.",
    "ValueError: There is no block, or leading axes do not fit.",
    arrays="Matrices (..., m, n), whose leading axes broadcast; a vector (n,) is one row, a number one element.",
)
def block_diag(*arrays: ArrayLike) -> Tensor:
    """Matrix with given blocks along its diagonal.

    Composed of `concat` with zeros.

    >>> import tapegrad as tg
    >>> tg.linalg.block_diag(tg.asarray([[1.0, 2.0]]), tg.asarray([[3.0], [4.0]]))
    Tensor([[1., 2., 0.],
            [0., 0., 3.],
            [0., 0., 4.]])
    """
    if not arrays:
        raise ValueError("block_diag: there is no block")
    xs = [reshape(x, (1,) * (2 - x.ndim) + x.shape) if x.ndim < 2 else x for x in as_tensors("block_diag", *arrays)]
    dtype, lead = result_type(*xs), broadcast_shapes(*[x.shape[:-2] for x in xs])
    columns = sum([x.shape[-1] for x in xs])
    rows, before = [], 0
    for x in xs:
        m, n = x.shape[-2:]
        x = broadcast_to(astype(x, dtype, copy=False), (*lead, m, n))
        left = zeros((*lead, m, before), dtype=dtype, device=x.device)
        right = zeros((*lead, m, columns - before - n), dtype=dtype, device=x.device)
        rows.append(concat([left, x, right], axis=-1))
        before += n
    return concat(rows, axis=-2)
