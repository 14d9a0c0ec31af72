"""Einstein sums, contracted pair by pair along a path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._text import PROMOTED, documented
from tapegrad.ops.binary import multiply
from tapegrad.ops.norms import diagonal
from tapegrad.ops.products import matmul
from tapegrad.ops.reductions import sum
from tapegrad.ops.shaping import moveaxis, permute_dims, reshape, squeeze

Labels = tuple[str, ...]
Path = tuple[tuple[int, ...], ...]
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # NumPy plans for as many labels as this


@composed
@documented(
    f"The sums, with the axes that the output names, in its order. {PROMOTED}",
    "ValueError: The subscripts do not fit the operands, or an output or a path is not one.",
    "TypeError: The subscripts are neither a text nor lists of integers, or `optimize` is no known option.",
    spec=(
        "The labels of the axes: a letter for each, as in 'ij,jk->ik'. `...` stands for further axes, which broadcast. "
        "Without '->' the output has the axes of `...`, and then those whose letter comes once, in alphabetical order. "
        "Or the first operand, if each operand is followed by a list of integers for its axes, as in `einsum(x, [0, "
        "1], y, [1, 2], [0, 2])`; the last list is the output, and may be left out."
    ),
    xs="The operands. Axes of one label have one length, or length 1, which broadcasts.",
    optimize=(
        "The order of contraction of three or more operands. True looks for one with few multiplications, by "
        "opt_einsum if it is installed, else by NumPy's `einsum_path`. 'greedy' and 'optimal' name the search. "
        "False goes from left to right. A path as of `numpy.einsum_path` is taken as it is."
    ),
)
def einsum(spec: Any, /, *xs: Any, optimize: bool | str | Sequence[Any] = True) -> Tensor:
    """Sum of products over the axes that the output does not name.

    A label that comes twice in an operand takes its diagonal. Composed of `matmul`, `multiply`, `sum` and
    `permute_dims`, one matmul or product for each pair of operands.

    >>> import tapegrad as tg
    >>> x, w = tg.ones((2, 3)), tg.ones((4, 3))
    >>> tg.einsum("bi,oi->bo", x, w).shape, tg.einsum("ii", tg.eye(3))
    ((2, 4), Tensor(3.))
    """
    if isinstance(spec, str):
        xs = as_tensors("einsum", *xs)
        shown = spec
        inputs, output = _parsed(spec, [x.ndim for x in xs])
    else:
        arrays, lists = _of_lists((spec, *xs))
        xs = as_tensors("einsum", *arrays)
        shown = str(lists)[1:-1]
        inputs, output = _named(lists, [x.ndim for x in xs])
    lengths: dict[str, int] = {}
    for x, labels in zip(xs, inputs, strict=True):
        for label, n in zip(labels, x.shape, strict=True):
            if lengths.setdefault(label, n) != n and n != 1 != lengths[label]:
                shapes = ", ".join(str(x.shape) for x in xs)
                raise ValueError(f"einsum: {label!r} has lengths {lengths[label]} and {n} in {shown!r} of {shapes}")
            lengths[label] = n if n != 1 else lengths[label]
    terms = [_distinct(x, labels, lengths) for x, labels in zip(xs, inputs, strict=True)]
    path = _path([labels for _, labels in terms], output, lengths, optimize)
    for places in path:
        taken = [terms[i] for i in places]
        terms = [term for i, term in enumerate(terms) if i not in places]
        x, labels = taken[0]
        for i, (y, others) in enumerate(taken[1:], 2):
            kept = {*output, *(label for _, later in (*taken[i:], *terms) for label in later)}
            x, labels = _contracted(x, labels, y, others, kept)
        terms.append((x, labels))
    x, labels = _summed(*terms[0], set(output))
    x = reshape(x, x.shape + (1,) * (len(output) - len(labels)))  # of length 1 everywhere
    labels += tuple(label for label in output if label not in labels)
    return _ordered(x, labels, output)


# -- subscripts ------------------------------------------------------------------------------------------


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


def _of_lists(args: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the operands and the lists of their axes, of which there is one more if the output is named."""
    arrays, lists = list(args[0 : len(args) - 1 : 2]), list(args[1::2])
    if len(args) % 2:
        lists.append(args[-1])
    if len(args) < 2 or not all(isinstance(labels, (list, tuple)) for labels in lists):
        raise TypeError(
            f"einsum: subscripts such as 'ij,jk->ik' come first, not {type(args[0]).__name__}; or each operand is "
            "followed by the list of its axes, as in einsum(x, [0, 1], y, [1, 2], [0, 2])"
        )
    return arrays, lists


def _named(lists: list[Any], ndims: list[int]) -> tuple[list[Labels], Labels]:
    """Return the labels of the axes of each operand and of the output, for lists of integers and `...`."""
    numbers = sorted({_number(i) for labels in lists for i in labels if i is not Ellipsis})
    if len(numbers) > len(_LETTERS):
        raise ValueError(f"einsum: {len(numbers)} labels are more than the {len(_LETTERS)} that there are letters for")
    letters = dict(zip(numbers, sorted(_LETTERS), strict=False))  # in the order of an output that is not named
    texts = ["".join("..." if i is Ellipsis else letters[_number(i)] for i in labels) for labels in lists]
    inputs = ",".join(texts[: len(ndims)])
    return _parsed(f"{inputs}->{texts[-1]}" if len(texts) > len(ndims) else inputs, ndims)


def _number(label: Any) -> int:
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool) and label >= 0:
        return int(label)
    raise TypeError(f"einsum: a list of axes holds integers from 0 on and `...`, not {label!r}")


# -- paths -----------------------------------------------------------------------------------------------


def _path(terms: list[Labels], output: Labels, lengths: dict[str, int], optimize: Any) -> Path:
    """Return which of the operands that are left to contract at each step; the result goes to the end."""
    n = len(terms)
    if not isinstance(optimize, (bool, str)):
        return _given_path(optimize, n)
    if isinstance(optimize, str) and optimize not in ("greedy", "optimal", "auto"):
        raise ValueError(f"einsum: optimize is True, False, 'greedy', 'optimal' or a path, not {optimize!r}")
    labels = dict.fromkeys(label for term in (*terms, output) for label in term)
    if n < 3 or optimize is False or len(labels) > len(_LETTERS):
        return ((0, 1), *[(n - 2 - i, 0) for i in range(n - 2)]) if n > 1 else ()
    letters = dict(zip(labels, _LETTERS, strict=False))
    texts = [*terms, tuple(label for label in output if any(label in term for term in terms))]
    inputs = ",".join("".join(letters[label] for label in term) for term in texts[:-1])
    shapes = tuple(tuple(lengths[label] for label in term) for term in terms)
    how = "auto" if optimize is True else optimize
    return _searched(f"{inputs}->{''.join(letters[label] for label in texts[-1])}", shapes, how)


def _given_path(path: Any, n: int) -> Path:
    """Return a path of the user's, checked; a list as NumPy's begins with a word."""
    steps = list(path) if isinstance(path, (list, tuple)) else None
    if steps and isinstance(steps[0], str):
        steps = steps[1:]
    if steps is None or not all(isinstance(step, (list, tuple)) for step in steps):
        raise TypeError(f"einsum: optimize is True, False, 'greedy', 'optimal' or a path, not {path!r}")
    left = n
    for step in steps:
        if not step or len(set(step)) < len(step) or not all(0 <= i < left for i in step):
            raise ValueError(f"einsum: the path {path!r} takes {tuple(step)} of {left} operands that are left")
        left += 1 - len(step)
    if left != 1:
        raise ValueError(f"einsum: the path {path!r} leaves {left} of {n} operands, not one")
    return tuple(tuple(step) for step in steps)


@lru_cache(maxsize=4096)
def _searched(subscripts: str, shapes: tuple[tuple[int, ...], ...], how: str) -> Path:
    """Return a path of few multiplications, by opt_einsum if it is installed, else by NumPy."""
    try:
        from opt_einsum import contract_path
    except ImportError:
        views = [np.broadcast_to(0.0, shape) for shape in shapes]
        found = np.einsum_path(subscripts, *views, optimize="greedy" if how == "auto" else how)[0][1:]
    else:
        found = contract_path(subscripts, *shapes, shapes=True, optimize=how)[0]
    return tuple(tuple(step) for step in found)


# -- contraction -----------------------------------------------------------------------------------------


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
