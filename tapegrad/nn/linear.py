"""Linear layers, look-up of rows, and layers one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from tapegrad._engine.dtypes import isdtype
from tapegrad._engine.tensor import Tensor
from tapegrad.nn.init import Init, lecun, parameter, zeros
from tapegrad.nn.layer import layer
from tapegrad.nn.modes import check_axis, in_precision
from tapegrad.ops.indexing import getitem
from tapegrad.ops.products import matmul, matrix_transpose
from tapegrad.ops.shaping import reshape
from tapegrad.random import Generator
from tapegrad.typing import DTypeLike


def checked_size(what: str, name: str, value: Any) -> int:
    """Return a number of units as an integer of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{what}: {name} must be a positive integer, not {value!r}")
    return int(value)


@layer
class Linear:
    """A linear map of the last axis: x W^T + b.

    Parameters
    ----------
    n_in : int
        The length of the last axis of inputs.
    n_out : int
        That of results.
    bias : bool, default True
        Whether to add a vector, which begins as zeros.
    rng : Generator
        The generator of the weight, which says the device too.
    init : callable, default lecun
        A function (rng, shape, dtype) that draws it.
    dtype : DTypeLike or None, default None
        The dtype of parameters; the default one for None.

    Attributes
    ----------
    weight : Tensor
        W, of shape (n_out, n_in).
    bias : Tensor or None
        b, of shape (n_out,).

    Raises
    ------
    ValueError
        A number is not positive; at a call, the last axis of the input has another length.

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = tg.nn.Linear(3, 2, rng=tg.random.Generator(0))
    >>> model, model(tg.ones((5, 3))).shape
    (Linear(weight=float64[2, 3], bias=float64[2]), (5, 2))
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bias: bool = True,
        rng: Generator,
        init: Init = lecun,
        dtype: DTypeLike | None = None,
    ) -> None:
        n_in, n_out = checked_size("Linear", "n_in", n_in), checked_size("Linear", "n_out", n_out)
        self.weight = parameter(init(rng, (n_out, n_in), dtype))
        self.bias = parameter(zeros(rng, n_out, dtype)) if bias else None

    def __call__(self, x: Any) -> Tensor:
        check_axis("Linear", x, -1, self.weight.shape[1])
        return linear_map(*in_precision(x, self.weight, self.bias))


def linear_map(x: Any, w: Tensor, b: Tensor | None) -> Tensor:
    """Return x W^T + b, a map of the last axis."""
    # One product of matrices: a batch of products with the same one on the right takes longer in most libraries.
    lead = x.shape[:-1]
    rows = x if len(lead) < 2 else reshape(x, (prod(lead), x.shape[-1]))
    y = matmul(rows, matrix_transpose(w))
    y = y if b is None else y + b
    return y if len(lead) < 2 else reshape(y, (*lead, y.shape[-1]))


@layer
class Embedding:
    """A row of a table for each integer.

    Parameters
    ----------
    n : int
        The number of rows.
    width : int
        The length of a row.
    rng : Generator
        The generator of the table, which says the device too.
    std : float, default 1.0
        The standard deviation of its entries.
    dtype : DTypeLike or None, default None
        The dtype; the default one for None.

    Attributes
    ----------
    weight : Tensor
        The table, of shape (n, width).

    Raises
    ------
    ValueError
        A number is not positive.
    TypeError
        At a call: the input does not hold integers.
    IndexError
        At a call: an integer is out of range; see `tapegrad.take`.

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = tg.nn.Embedding(10, 4, rng=tg.random.Generator(0))
    >>> model(tg.asarray([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    weight: Tensor

    def __init__(self, n: int, width: int, *, rng: Generator, std: float = 1.0, dtype: DTypeLike | None = None) -> None:
        shape = checked_size("Embedding", "n", n), checked_size("Embedding", "width", width)
        self.weight = parameter(rng.normal(shape, 0.0, std, dtype=dtype))

    def __call__(self, ids: Any) -> Tensor:
        if type(ids) is not Tensor or not isdtype(ids.dtype, "integral"):
            what = ids.dtype.name if type(ids) is Tensor else type(ids).__name__
            raise TypeError(
                f"Embedding: the input is a Tensor of integers, not {what}: use tapegrad.asarray(ids), or "
                "tapegrad.astype(ids, tapegrad.int64)"
            )
        return getitem(self.weight, (ids,))


@layer
class Sequential:
    """Layers and functions that are called one after the other.

    Parameters
    ----------
    *layers : callable
        Layers, or functions of a Tensor.

    Raises
    ------
    TypeError
        One is not callable.

    Examples
    --------
    >>> import tapegrad as tg
    >>> rng = tg.random.Generator(0)
    >>> model = tg.nn.Sequential(tg.nn.Linear(3, 4, rng=rng), tg.relu, tg.nn.Linear(4, 2, rng=rng))
    >>> list(tg.nn.named(model))
    ['0.weight', '0.bias', '2.weight', '2.bias']
    >>> model(tg.ones(3)).shape, len(model), model[1].__name__
    ((2,), 3, 'relu')
    """

    def __init__(self, *layers: Callable[..., Any]) -> None:
        for i, f in enumerate(layers):
            if not callable(f):
                advice = ": write Sequential(*layers)" if isinstance(f, (list, tuple)) else ""
                raise TypeError(f"Sequential: layer {i} is not callable, but a {type(f).__name__}{advice}")
            setattr(self, str(i), f)  # so that names are those of PyTorch

    def __call__(self, x: Any) -> Any:
        for f in self:
            x = f(x)
        return x

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, str(i)) for i in range(len(self))])

    def __len__(self) -> int:
        return len(vars(self))

    def __getitem__(self, i: int) -> Any:
        return list(self)[i]
