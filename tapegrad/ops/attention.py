"""Attention whose backward pass computes the scores again, so that they are never kept.

A library may have it block by block, as `attend` and `attend_gradient` of its namespace. Elsewhere, and on Tensors, it
is composed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.dispatch import namespace_of, native_device
from tapegrad._engine.dtypes import as_dtype
from tapegrad._engine.fusing import Forwards
from tapegrad._engine.mode import mode
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import with_operators
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.ops._axes import integer
from tapegrad.ops._text import documented
from tapegrad.ops.conversion import as_floats, astype
from tapegrad.ops.dropout import Generator
from tapegrad.ops.dropout import dropout as drop
from tapegrad.ops.dtypes import result_type
from tapegrad.ops.products import matmul, matrix_transpose
from tapegrad.ops.shaping import broadcast_shapes, broadcast_to, expand_dims, reshape
from tapegrad.typing import ArrayLike

LOWEST = {2: -1e30, 4: -1e30, 8: -1e300}  # by the size of a dtype: a score whose exponential is 0 beside any other


# -- composed ----------------------------------------------------------------------------------------------


def _hidden(xp: Any, q: Any, k: Any, mask: Any, causal: bool, window: int | None) -> Any:
    """Return which keys a query does not see, in a shape that broadcasts to that of the scores; None if it sees all."""
    found = []
    if causal or window is not None:
        device = native_device(q)
        rows = xp.arange(q.shape[-2], device=device)[:, None]
        columns = xp.arange(k.shape[-2], device=device)
        if causal:
            found.append(columns > rows)
        if window is not None:
            found.append(xp.abs(rows - columns) >= window)
    if mask is not None:
        found.append(xp.logical_not(mask) if as_dtype(mask.dtype).kind == "bool" else mask == -xp.inf)
    if not found:
        return None
    out = found[0]
    for other in found[1:]:
        out = out | other
    return out


def _probabilities(
    xp: Any, q: Any, k: Any, mask: Any, causal: bool, window: int | None, scale: float
) -> tuple[Any, Any, Any, Any]:
    """Return probabilities, queries times scale, which keys are hidden, and which queries see none; None for none."""
    hidden = _hidden(xp, q, k, mask, causal, window)
    q = q * scale
    s = xp.matmul(q, xp.matrix_transpose(k))
    if mask is not None and as_dtype(mask.dtype).kind != "bool":
        s = s + mask
    blind = None
    if hidden is not None:
        s = xp.where(hidden, LOWEST[as_dtype(s.dtype).itemsize], s)
        if mask is not None or window is not None:
            blind = xp.all(hidden, axis=-1, keepdims=True)
    e = xp.exp(s - xp.max(s, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True), q, hidden, blind


def _single(xp: Any, *arrays: Any) -> tuple[Any, ...]:
    """Return arrays in single precision, if the first one has 16 bits."""
    if as_dtype(arrays[0].dtype).itemsize > 2:
        return arrays
    return tuple([a if a is None or as_dtype(a.dtype).kind == "bool" else xp.astype(a, xp.float32) for a in arrays])


@with_operators
def _composed(
    xp: Any,
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    causal: bool,
    window: int | None,
    scale: float,
    drop: Callable[[Any], Any] | None = None,
) -> tuple[Any, Any]:
    """Return attention, and None for the values that a library keeps for its gradient; drop: of probabilities."""
    dtype = q.dtype
    q, k, v, mask = _single(xp, q, k, v, mask)
    p, _, _, blind = _probabilities(xp, q, k, mask, causal, window, scale)
    out = xp.matmul(p if drop is None else drop(p), v)
    out = out if blind is None else xp.where(blind, 0, out)
    return (out if out.dtype == dtype else xp.astype(out, dtype)), None


@with_operators
def _composed_gradient(
    xp: Any,
    t: Any,
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    causal: bool,
    window: int | None,
    scale: float,
    wanted: tuple[bool, ...],
) -> tuple[Any, ...]:
    """Return the cotangents that are wanted, of q, k, v and mask.

    With probabilities p: those of v are p^T t; those of scores are d = p (t v^T - sum(p t v^T)), and d k, d^T q follow.
    """
    q, k, v, mask, t = _single(xp, q, k, v, mask, t)
    p, q, hidden, blind = _probabilities(xp, q, k, mask, causal, window, scale)
    if blind is not None:
        t = xp.where(blind, 0, t)
    found = []
    if wanted[0] or wanted[1] or wanted[3]:
        d = xp.matmul(t, xp.matrix_transpose(v))
        d = p * (d - xp.sum(d * p, axis=-1, keepdims=True))
        d = d if hidden is None else xp.where(hidden, 0, d)
        if wanted[0]:
            found.append(xp.matmul(d, k) * scale)
        if wanted[1]:
            found.append(xp.matrix_transpose(xp.matmul(xp.matrix_transpose(q), d)))
    if wanted[2]:
        found.append(xp.matmul(xp.matrix_transpose(p), t))
    if wanted[3]:
        found.append(d)
    return tuple(found)


# -- the operation -----------------------------------------------------------------------------------------


def _forward(
    xp: Any, q: Any, k: Any, v: Any, mask: Any, causal: bool, window: int | None, scale: float
) -> tuple[Any, Any]:
    own = getattr(xp, "attend", None)
    if own is None:
        return _composed(xp, q, k, v, mask, causal, window, scale)  # type: ignore[no-any-return]
    out = own(q, k, v, mask, causal, window, scale)
    return out if isinstance(out, tuple) else (out, None)


_gradients = Forwards("attention_vjp", _composed_gradient, True)


def _pull(walk: Any, r: Any, t: Any, saved: tuple[Any, ...]) -> None:
    q, k, v, mask, causal, window, scale, out, cache = saved
    wanted = tuple([walk.wants(p) for p in r.parents])
    if walk.create_graph:
        found = attend_gradient(t, q, k, v, mask, out, cache, causal, window, scale, wanted)
    else:
        found = _raw_gradient(walk.xp, t, q, k, v, mask, out, cache, causal, window, scale, wanted)
    parts = iter(found)
    for p, want in zip(r.parents, wanted, strict=True):
        if want:
            walk.accumulate(p, walk.fit(next(parts), p, r, t))


def _raw_gradient(
    xp: Any, t: Any, q: Any, k: Any, v: Any, mask: Any, out: Any, cache: Any, *static: Any
) -> tuple[Any, ...]:
    own = getattr(xp, "attend_gradient", None)
    if own is None:
        return _gradients[type(t)](t, q, k, v, mask, *static)  # type: ignore[no-any-return]
    return own(t, q, k, v, mask, out, cache, *static)  # type: ignore[no-any-return]


_attention = primitive(
    "attention",
    _forward,
    None,
    None,
    None,
    None,
    saves=("q", "k", "v", "mask", "causal", "window", "scale", "out", "cache"),
    pull=_pull,
    broadcasts=True,
    cached=True,
    fuses=True,
)


# Inside vmap, these are the library's own: calls on all examples.


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, window: int | None, scale: float
) -> Tensor:
    """Return attention of Tensors whose shapes broadcast."""
    return _attention(q, k, v, mask, causal, window, scale)


def attend_gradient(
    t: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    out: Tensor,
    cache: Any,
    causal: bool,
    window: int | None,
    scale: float,
    wanted: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    """Return the cotangents that are wanted; composed if they are to be recorded."""
    static = (causal, window, scale, wanted)
    xs = (t, q, k, v, mask)
    if mode().recording and any(x is not None and x._record is not None for x in xs):
        return _composed_gradient(bound.tensor_namespace, *xs, *static)  # type: ignore[no-any-return]
    # Each example has a cotangent of its own, even of an operand that all share: written out, no axis is summed over.
    lead = broadcast_shapes(*[x.shape[:-2] for x in (*xs, out) if x is not None])
    t, out = (broadcast_to(x, (*lead, *x.shape[-2:])) for x in (t, out))
    if mask is not None and wanted[3]:
        mask = broadcast_to(mask, (*lead, q.shape[-2], k.shape[-2]))
    raw = [None if x is None else x._array for x in (t, q, k, v, mask, out)]
    found = _raw_gradient(namespace_of[type(t._array)], *raw, None, *static)
    return tuple([wrap(a) for a in found])


# -- the public function -----------------------------------------------------------------------------------


def _sizes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless queries, keys and values fit."""
    shapes = f"q {q.shape}, k {k.shape}, v {v.shape}"
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise ValueError(f"attention: q, k and v have shape (..., heads, T, width), not {shapes}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"attention: queries and keys need the same width, the last axis: {shapes}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"attention: there must be as many values as keys, along the axis before the last: {shapes}")


def _groups(q: Tensor, k: Tensor, v: Tensor) -> int:
    """Return how many query heads share a head of keys; 1 if each has its own, or all share one."""
    heads = 1 if q.ndim < 3 else q.shape[-3]
    owners = {1 if x.ndim < 3 else x.shape[-3] for x in (k, v)} - {1, heads}
    if not owners or heads == 1:
        return 1
    (n, *more) = owners
    if more or n == 0 or heads % n:
        raise ValueError(
            "attention: the heads of k and v must be those of q, one, or a number that divides them: "
            f"q {q.shape}, k {k.shape}, v {v.shape}"
        )
    return heads // n


def _grouped(x: Tensor, groups: int, heads: int) -> Tensor:
    """Return an operand with its axis of heads in two, of which the second counts heads that share keys."""
    if x.ndim < 3:
        return x
    if x.shape[-3] == heads:
        return reshape(x, (*x.shape[:-3], heads // groups, groups, *x.shape[-2:]))
    return expand_dims(x, axis=-3)


def _grouped_mask(mask: Tensor, groups: int, heads: int) -> Tensor:
    """Return a mask beside operands whose heads are grouped; one that does not fit is refused later."""
    return _grouped(mask, groups, heads) if mask.ndim > 2 and mask.shape[-3] in (1, heads) else mask


def _checked_lead(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, ...]:
    """Return the leading axes of the scores."""
    lead = _broadcast(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    if lead is None:
        raise ValueError(f"attention: the axes before T do not broadcast: q {q.shape}, k {k.shape}, v {v.shape}")
    return lead


def _checked_mask(mask: Tensor, q: Tensor, k: Tensor, v: Tensor, dtype: Any) -> Tensor:
    """Return a mask in the dtype of scores, or a boolean one; raise unless it broadcasts to the scores."""
    kind = mask.dtype.kind
    if kind != "bool" and "real floating" not in kind:
        raise TypeError(
            "attention: mask is boolean, True where a query sees a key, or real floating, to be added to scores, not "
            f"{mask.dtype.name}: compare it, as in mask != 0"
        )
    lead = _checked_lead(q, k, v)
    scores = (*lead, q.shape[-2], k.shape[-2])
    if _broadcast(mask.shape, scores) != scores:
        raise ValueError(f"attention: mask of shape {mask.shape} must broadcast to the scores, of shape {scores}")
    return mask if kind == "bool" or mask.dtype == dtype else astype(mask, dtype)


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape that shapes broadcast to, None if they do not."""
    try:
        return broadcast_shapes(*shapes)
    except ValueError:
        return None


@documented(
    "Attention, of shape (..., heads, T_q, width of `v`), in the dtype of `q`, `k` and `v`, promoted; for "
    "integers and booleans in the default floating one.",
    "ValueError: The shapes do not fit, or `window` is below 1.",
    "TypeError: `q`, `k` or `v` is complex, the mask is neither boolean nor real floating, `window` is no integer, or "
    "there is dropout without a generator.",
    q="Queries, of shape (..., heads, T_q, width).",
    k="Keys, of shape (..., heads, T_k, width). They may have fewer heads than `q`, whose number these divide: each is "
    "for several neighbouring heads of `q`.",
    v="Values, of shape (..., heads, T_k, any width).",
    mask="An array that broadcasts to the scores, (..., heads, T_q, T_k): boolean, True where a query sees a key, or "
    "floating, to be added to scores.",
    causal="Whether query i sees keys 0 to i only.",
    scale="The factor of the scores; 1 / sqrt(width) for None.",
    window="Query i sees keys at a distance below this only; all for None.",
    dropout="The probability of each element of softmax to become 0, while the others are divided by 1 - `dropout`.",
    rng="The generator of dropout, a `tapegrad.random.Generator`; None without dropout.",
)
def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    /,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | Tensor | None = None,
    window: int | None = None,
    dropout: float = 0.0,
    rng: Generator | None = None,
) -> Tensor:
    """Scaled dot-product attention: softmax(scale q k^T + mask) v, with softmax over keys.

    Vaswani et al., arXiv:1706.03762. It keeps q, k, v, the result and one number for each query; the backward pass
    computes scores again (Rabe and Staats, arXiv:2112.05682; Dao et al., arXiv:2205.14135), except with dropout, where
    all scores are kept. A query that sees no key gets zeros, and no gradient. With p = softmax(...), the derivative in
    v is p^T t; that in scores is d = p (t v^T - sum(p t v^T)), and those in q and k are scale d k and scale d^T q.

    >>> import tapegrad as tg
    >>> q, v = tg.asarray([[0.0], [0.0]]), tg.asarray([[1.0], [3.0]])
    >>> tg.attention(q, q, v), tg.attention(q, q, v, causal=True)
    (Tensor([[2.],
            [2.]]), Tensor([[1.],
            [2.]]))
    """
    given = as_tensors("attention", q, k, v, *([] if mask is None else [mask]))
    queries, keys, values = [as_floats(x) for x in given[:3]]
    dtype = result_type(queries, keys, values)
    if "complex" in dtype.kind:
        raise TypeError(f"attention: q, k and v are real, not {dtype.name}")
    queries, keys, values = [x if x.dtype == dtype else astype(x, dtype) for x in (queries, keys, values)]
    _sizes(queries, keys, values)
    added = None if mask is None else given[3]
    groups, heads = _groups(queries, keys, values), queries.shape[-3] if queries.ndim > 2 else 1
    if groups > 1:
        queries, keys, values = [_grouped(x, groups, heads) for x in (queries, keys, values)]
        added = None if added is None else _grouped_mask(added, groups, heads)
    _checked_lead(queries, keys, values)
    added = None if added is None else _checked_mask(added, queries, keys, values, dtype)
    if window is not None:
        window = integer("attention", "window", window)
        if window < 1:
            raise ValueError(f"attention: window is at least 1, for the key at the query's own place, not {window}")
    width = queries.shape[-1]
    if isinstance(scale, Tensor):
        queries, scale = queries * scale, 1.0
    factor = 1 / sqrt(width or 1) if scale is None else float(scale)
    if keys.shape[-2] == 0:  # zeros, which depend on all operands
        out = matmul(matmul(queries, matrix_transpose(keys)), values)
    elif dropout != 0:
        if rng is None:
            raise TypeError(
                "attention: dropout needs a generator: write attention(q, k, v, dropout=0.1, rng=rng), "
                "with rng = tapegrad.random.Generator(0)"
            )
        chance = rng
        options = added, bool(causal), window, factor, lambda p: drop(p, dropout, chance)
        out, _ = _composed(bound.tensor_namespace, queries, keys, values, *options)
    else:
        out = _attention(queries, keys, values, added, bool(causal), window, factor)
    return out if groups == 1 else reshape(out, (*out.shape[:-4], heads, *out.shape[-2:]))
