"""Einstein sums, for libraries that call them by NumPy's name: opt_einsum, autoray, einops."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.tensor import Tensor
from tapegrad.ops.binary import multiply
from tapegrad.ops.norms import diagonal
from tapegrad.ops.products import matmul
from tapegrad.ops.reductions import sum
from tapegrad.ops.shaping import moveaxis, permute_dims, reshape, squeeze

Labels = tuple[str, ...]


def einsum(subscripts: str, *operands: Any) -> Tensor:
    """Sum of products over the axes that an output does not name, as `numpy.einsum` with subscripts as text.

    subscripts: a letter for each axis, as in "ij,jk->ik"; `...` for axes that broadcast. Operands are contracted from
    left to right, each pair by one matmul or product. Raises ValueError for subscripts that do not fit the operands.
    """
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: subscripts such as 'ij,jk->ik' come first, not {type(subscripts).__name__}")
    xs = as_tensors("einsum", *operands)
    inputs, output = _parsed(subscripts, [x.ndim for x in xs])
    lengths: dict[str, int] = {}
    for x, labels in zip(xs, inputs, strict=True):
        for label, n in zip(labels, x.shape, strict=True):
            if lengths.setdefault(label, n) != n and n != 1 != lengths[label]:
                shapes = ", ".join(str(x.shape) for x in xs)
                raise ValueError(
                    f"einsum: {label!r} has lengths {lengths[label]} and {n} in {subscripts!r} of {shapes}"
                )
            lengths[label] = n if n != 1 else lengths[label]
    terms = [_distinct(x, labels, lengths) for x, labels in zip(xs, inputs, strict=True)]
    x, labels = terms[0]
    for i, (y, others) in enumerate(terms[1:], 2):
        kept = {*output, *(label for _, later in terms[i:] for label in later)}
        x, labels = _contracted(x, labels, y, others, kept)
    x, labels = _summed(x, labels, set(output))
    x = reshape(x, x.shape + (1,) * (len(output) - len(labels)))  # of length 1 everywhere
    labels += tuple(label for label in output if label not in labels)
    return permute_dims(x, tuple(labels.index(label) for label in output))


def _parsed(subscripts: str, ndims: list[int]) -> tuple[list[Labels], Labels]:
    """Return the labels of the axes of each operand and of the output, those that `...` stands for spelled out."""
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ndims):
        raise ValueError(f"einsum: {subscripts!r} is for {len(parts)} operands, not {len(ndims)}")
    named = [len(part.replace("...", "")) for part in parts]
    for part, n, ndim in zip(parts, named, ndims, strict=True):
        if part.count("...") > 1 or n > ndim or ("..." not in part and n != ndim):
            raise ValueError(f"einsum: {part!r} in {subscripts!r} does not fit an operand of {ndim} axes")
    most = max(ndim - n for ndim, n in zip(ndims, named, strict=True))
    rest = tuple(f"...{i}" for i in range(most))
    inputs = [_spelled(part, rest[most - (ndim - n) :]) for part, n, ndim in zip(parts, named, ndims, strict=True)]
    letters = [label for labels in inputs for label in labels if label not in rest]
    if any(not letter.isalpha() for letter in letters):
        raise ValueError(f"einsum: {subscripts!r} is not made of letters, commas, '...' and '->'")
    if not arrow:
        return inputs, (*rest, *sorted(label for label in set(letters) if letters.count(label) == 1))
    output = _spelled(right, rest)
    if len(set(output)) != len(output) or not set(output) <= {*letters, *rest}:
        raise ValueError(f"einsum: the output of {subscripts!r} names an axis twice, or one that no operand has")
    return inputs, output


def _spelled(part: str, rest: Labels) -> Labels:
    before, dots, after = part.partition("...")
    return (*before, *(rest if dots else ()), *after)


def _distinct(x: Tensor, labels: Labels, lengths: dict[str, int]) -> tuple[Tensor, Labels]:
    """Return an operand with its diagonal where a label comes twice, and without axes of length 1 that broadcast."""
    while len(set(labels)) != len(labels):
        i = next(i for i, label in enumerate(labels) if label in labels[:i])
        j = labels.index(labels[i])
        x = diagonal(moveaxis(x, (j, i), (-2, -1)))
        labels = (*labels[:j], *labels[j + 1 : i], *labels[i + 1 :], labels[i])
    single = tuple(i for i, label in enumerate(labels) if x.shape[i] == 1)
    kept = tuple(label for i, label in enumerate(labels) if i not in single)
    return (squeeze(x, single) if single else x), kept


def _summed(x: Tensor, labels: Labels, kept: set[str]) -> tuple[Tensor, Labels]:
    """Return an operand summed over the axes that are not kept."""
    axes = tuple(i for i, label in enumerate(labels) if label not in kept)
    return (sum(x, axis=axes) if axes else x), tuple(label for label in labels if label in kept)


def _contracted(x: Tensor, first: Labels, y: Tensor, second: Labels, kept: set[str]) -> tuple[Tensor, Labels]:
    """Return the sum of products of two operands over the axes that both have and that are not kept."""
    x, first = _summed(x, first, kept | set(second))
    y, second = _summed(y, second, kept | set(first))
    batch = tuple(label for label in first if label in second and label in kept)
    inner = tuple(label for label in first if label in second and label not in kept)
    rows = tuple(label for label in first if label not in second)
    columns = tuple(label for label in second if label not in first)
    x = _ordered(x, first, batch + rows + inner)
    y = _ordered(y, second, batch + inner + columns)
    k, m = len(batch), len(batch + rows)
    shape = (*x.shape[:m], *y.shape[len(batch + inner) :])
    if not inner:
        out = multiply(
            reshape(x, x.shape + (1,) * len(columns)), reshape(y, y.shape[:k] + (1,) * len(rows) + y.shape[k:])
        )
    else:
        n = prod(x.shape[m:])
        x = reshape(x, (*x.shape[:k], prod(x.shape[k:m]), n))
        y = reshape(y, (*y.shape[:k], n, prod(y.shape[k + len(inner) :])))
        out = reshape(matmul(x, y), shape)
    return out, batch + rows + columns


def _ordered(x: Tensor, labels: Sequence[str], order: Sequence[str]) -> Tensor:
    return x if labels == order else permute_dims(x, tuple(labels.index(label) for label in order))
