"""Sparse Jacobians: pattern detection on the tape, colouring, and one seed for each colour.

Columns that share no row are pushed as one tangent: each row of the sum holds the single entry there. Likewise, rows
that share no column are pulled as one cotangent. Colouring numbers these groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from tapegrad._engine.backward import Walk, walked
from tapegrad._engine.dispatch import backend_of, device_of
from tapegrad._engine.dtypes import DTYPES, is_complex
from tapegrad._engine.mode import mode_set
from tapegrad._engine.primitive import PICK
from tapegrad._engine.record import STATIC, Record
from tapegrad._engine.rules import record
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad._transforms.forward import pushed, stand_in, tangents_of
from tapegrad._transforms.reverse import TransformCall
from tapegrad.ops.creation import asarray

AT_ONCE = 1 << 22  # limit of elements in the result of a rule on many seeds, in the detection of a pattern
KEPT = 16  # colourings that are cached; each is of the rows or of the columns of a pattern
_coloured: dict[bytes, Any] = {}
_lock = Lock()


def sparse_jacobian(traced: TransformCall, sparsity: Any, direction: str, chunk_size: int | None) -> Any:
    """Return the Jacobian of a function of one array, which returns one, as a scipy.sparse.csr_array."""
    what = traced.what
    sparse = _scipy_sparse()
    if len(traced.inputs) != 1 or len(traced.outputs) != 1:
        raise TypeError(
            f"{what}: with sparsity= the function takes one array and returns one, not {len(traced.inputs)} and "
            f"{len(traced.outputs)}: join them first, as in tapegrad.concat"
        )
    if traced.create_graph:
        raise RuntimeError(
            f"{what}: a sparse matrix cannot stay on the tape, and something outside requires a gradient: call it "
            "under tapegrad.no_grad(), or leave sparsity= out"
        )
    (x,), (y,) = traced.inputs, traced.outputs
    pattern = detected(traced) if isinstance(sparsity, str) else _given(what, sparsity, (y.size, x.size))
    if isinstance(sparsity, str) and sparsity != "detect":
        raise ValueError(f"{what}: sparsity is a matrix or 'detect', not {sparsity!r}")
    pattern.sum_duplicates()
    columns = colours(pattern.tocsc()) if direction != "reverse" else None
    rows = colours(pattern) if direction != "forward" else None
    forward = rows is None or (columns is not None and columns.max(initial=-1) <= rows.max(initial=-1))
    groups = columns if forward else rows
    assert groups is not None
    entries = pattern.tocoo()
    colour_of, place = (groups[entries.col], entries.row) if forward else (groups[entries.row], entries.col)
    values = np.zeros(entries.nnz, dtype=_host(y).dtype if forward else _host(x).dtype)
    for first, seeds in _seeds(groups, x if forward else y, chunk_size):
        out = tangents_of(traced, [seeds], False)[0] if forward else traced.pull([seeds], False, batch_ndim=1)[0]
        table = np.reshape(_host(out), (seeds.shape[0], -1))
        here = (colour_of >= first) & (colour_of < first + seeds.shape[0])
        values[here] = table[colour_of[here] - first, place[here]]
    j = sparse.csr_array((values, (entries.row, entries.col)), shape=pattern.shape)
    _probe(traced, j)
    return j


def _scipy_sparse() -> Any:
    try:
        import scipy.sparse
    except ImportError as error:
        raise ImportError("jacobian: sparsity= needs SciPy, which is absent: pip install 'tapegrad[scipy]'") from error
    return scipy.sparse


def _given(what: str, sparsity: Any, shape: tuple[int, int]) -> Any:
    """Return a user's pattern as a csr_array of True; all stored entries of a sparse matrix belong to it."""
    sparse = _scipy_sparse()
    pattern = sparse.csr_array(sparsity if sparse.issparse(sparsity) else np.asarray(sparsity) != 0)
    if pattern.shape != shape:
        raise ValueError(
            f"{what}: sparsity has shape {pattern.shape}, but there are {shape[0]} outputs and {shape[1]} inputs"
        )
    ones = np.ones(pattern.nnz, dtype=bool)
    return sparse.csr_array((ones, pattern.indices, pattern.indptr), shape=shape, copy=True)  # it will be sorted


def colours(lines: Any) -> Any:
    """Return a colour for each row of a csr_array or column of a csc_array; lines of one colour share no place.

    Recent colourings are cached by the content of the pattern: a pattern may be written to, or detected again.
    """
    starts, places = lines.indptr, lines.indices
    content = blake2b(repr((len(starts), lines.shape)).encode(), digest_size=16)
    for part in (starts, places):
        content.update(part.astype(np.int64).tobytes())
    key = content.digest()
    with _lock:
        out = _coloured.pop(key, None)
    if out is None:
        out = _greedy(starts, places, max(lines.shape))
        out.flags.writeable = False
    with _lock:
        _coloured[key] = out  # the latest comes last
        while len(_coloured) > KEPT:
            del _coloured[next(iter(_coloured))]
    return out


def _greedy(starts: Any, places: Any, length: int) -> Any:
    """Return a colour for each line by greedy colouring, fullest lines first.

    The number of colours is at least the number of entries in the fullest crossing line.
    """
    out = np.zeros(len(starts) - 1, dtype=np.int64)
    taken = [0] * length  # for each place the colours that are there, as bits
    for i in np.argsort(-np.diff(starts), kind="stable").tolist():
        mine = places[starts[i] : starts[i + 1]].tolist()
        used = 0
        for p in mine:
            used |= taken[p]
        bit = ~used & (used + 1)  # the lowest that is not used
        out[i] = bit.bit_length() - 1
        for p in mine:
            taken[p] |= bit
    return out


def _seeds(groups: Any, x: Tensor, chunk_size: int | None) -> Iterator[tuple[int, Tensor]]:
    """Yield chunks of seeds as (first colour, seeds); a seed is the sum of the unit vectors of a colour."""
    n = int(groups.max(initial=-1)) + 1
    step = chunk_size or max(n, 1)
    for first in range(0, n, step):
        ones = groups == np.arange(first, min(first + step, n))[:, None]
        yield first, _tensor_like(x, np.reshape(ones.astype(np.float64), (len(ones), *x.shape)))


def _tensor_like(x: Tensor, values: Any) -> Tensor:
    """Return values as a Tensor of the dtype and device of `x`."""
    return asarray(values, dtype=x.dtype, device=x.device)


def _host(x: Tensor) -> Any:
    return np.asarray(x.detach().to_device("cpu"))


def _probe(traced: TransformCall, j: Any) -> None:
    """Check the pattern: raise ValueError unless J v is the derivative along v, for a random vector v."""
    (x,), (y,) = traced.inputs, traced.outputs
    v = np.random.default_rng(0).standard_normal(x.size).astype(_host(x).dtype)
    direct = np.ravel(_host(tangents_of(traced, [_tensor_like(x, np.reshape(v, x.shape))], False)[0]))
    scale = abs(j) @ np.abs(v) + np.abs(direct)
    eps = np.finfo(j.dtype).eps
    with np.errstate(invalid="ignore"):  # derivatives that are not finite are not compared
        error = np.abs(j @ v - direct)
        wrong = np.flatnonzero(error > np.sqrt(eps) * scale)
        if wrong.size:  # terms may cancel there and leave rounding errors
            noise = np.fmax(1000 * _rounding(traced, v, direct), 100 * eps * np.max(scale))
            wrong = wrong[error[wrong] > noise[wrong]]
    if wrong.size:
        raise ValueError(
            f"{traced.what}: there are derivatives that are not zero outside the pattern given as sparsity: for a "
            f"random vector v, J v is wrong in {wrong.size} of {y.size} outputs, first in output {wrong[0]}: add the "
            "missing entries to the pattern, or pass sparsity='detect'"
        )


def _rounding(traced: TransformCall, v: Any, direct: Any) -> Any:
    """Estimate the rounding errors of derivatives along a vector: the deviation of those along its multiples."""
    (x,) = traced.inputs
    factors = np.linspace(1.1, 1.9, 16)
    seeds = _tensor_like(x, np.reshape(np.multiply.outer(factors, v), (len(factors), *x.shape)))
    out = np.reshape(_host(tangents_of(traced, [seeds], False)[0]), (len(factors), -1))
    return np.max(np.abs(out / factors[:, None] - direct), axis=0)


# -- detection ---------------------------------------------------------------------------------------------


def detected(traced: TransformCall) -> Any:
    """Return the pattern of the Jacobian at these inputs, as a csr_array of True.

    For each record on the tape, the pattern tells the inputs that each element depends on. It is propagated through
    elementwise operations and stacks of products of matrices by shapes alone, through other operations by the nonzero
    entries of their derivatives here. So the pattern is complete at these inputs, and may be larger than needed.
    """
    sparse = _scipy_sparse()
    (x,), (y,) = traced.inputs, traced.outputs
    known: dict[Record, Any] = {x._record: sparse.eye_array(x.size, dtype=bool, format="csr")}  # type: ignore[dict-item]
    for r in reversed(traced.path):
        if r in known or type(r.shape) is int:  # an operation with several results: its picks follow
            continue
        source: Record = r.parents[0] if r.op is PICK else r  # type: ignore[assignment]
        total = sparse.csr_array((prod(r.shape), x.size), dtype=bool)
        for i, p in enumerate(source.parents):
            if p is not None and p in known:
                total = total + _through(r, source, i, p, known[p], x)
        known[r] = total
    if y._record in known:
        return known[y._record]
    return sparse.csr_array((y.size, x.size), dtype=bool)


def _through(r: Record, source: Record, i: int, p: Record, depends: Any, x: Tensor) -> Any:
    """Return the pattern of a record's result through one operand; depends: the operand's pattern."""
    if source.op.elementwise:
        where = np.reshape(np.arange(prod(p.shape)), p.shape)
        return depends[np.ravel(np.broadcast_to(where, r.shape))]
    local = None
    if source.op.name == "matmul" and "x1_shape" not in source.op.saves and len(r.shape) > 2:  # of two matrices
        local = _of_matmul(r, i, p)
    elif all(s == STATIC for s in source.op.sources) and not (is_complex(p.dtype) or is_complex(r.dtype)):
        local = _of_selection(r, source, i, p, x)
    return (_of_rule(r, source, i, p, x) if local is None else local) @ depends


def _matrix(rows: Any, columns: Any, r: Record, p: Record) -> Any:
    shape = (prod(r.shape), prod(p.shape))
    return _scipy_sparse().csr_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=shape)


def _of_matmul(r: Record, i: int, p: Record) -> Any:
    """Return the pattern of a stack of products of matrices: an element depends on a row, or on a column."""
    out = np.reshape(np.arange(prod(r.shape)), r.shape)
    mine = np.reshape(np.arange(prod(p.shape)), p.shape)
    lines = mine[..., :, None, :] if i == 0 else np.swapaxes(mine, -1, -2)[..., None, :, :]
    rows, columns = np.broadcast_arrays(out[..., None], lines)
    return _matrix(np.ravel(rows), np.ravel(columns), r, p)


def _of_selection(r: Record, source: Record, i: int, p: Record, x: Tensor) -> Any:
    """Return the pattern of an operation that copies elements, or adds up disjoint ones; None for any other.

    Three random tags for each element are sent through it. Their ratios tell the place of the element.
    """
    for back in (False, True):
        n = prod(r.shape if back else p.shape)
        rng = np.random.default_rng(0)
        tags = 1 + rng.random((3, n))
        tags[1] = tags[0] * np.arange(1, n + 1)
        a, b, c = _applied(r, source, i, p, x, tags, back)
        found = np.flatnonzero(a)
        place = b[found] / a[found] - 1
        near = np.rint(place).astype(np.int64)
        if np.any(np.abs(place - near) > 1e-3) or np.any((near < 0) | (near >= n)):
            continue
        exact = np.abs(c[found] * tags[0][near] - a[found] * tags[2][near]) <= 1e-5 * np.abs(a[found])
        if np.all(exact) and not np.any(c[a == 0]):
            return _matrix(near, found, r, p) if back else _matrix(found, near, r, p)
    return None


def _of_rule(r: Record, source: Record, i: int, p: Record, x: Tensor) -> Any:
    """Return the pattern of any operation: the nonzero entries of its derivatives here."""
    m, n = prod(r.shape), prod(p.shape)
    step = max(1, AT_ONCE // max(m, n, 1))
    back = m < n
    rows, columns = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for first in range(0, min(m, n), step):
        seeds = np.eye(min(step, min(m, n) - first), m if back else n, first)
        some = _applied(r, source, i, p, x, seeds, back) != 0
        if is_complex((r if back else p).dtype):  # a real and an imaginary direction
            some = some | (_applied(r, source, i, p, x, seeds * 1j, back) != 0)
        seed, other = np.nonzero(some)
        rows.append(seed + first if back else other)
        columns.append(other if back else seed + first)
    return _matrix(np.concatenate(rows), np.concatenate(columns), r, p)


def _applied(r: Record, source: Record, i: int, p: Record, x: Tensor, seeds: Any, back: bool) -> Any:
    """Push tangents of one operand through a record, or pull cotangents of its result back."""
    like = next((v for v in source.saved if type(v) in backend_of), x._array)
    name = backend_of[type(like)].dtype_names.get((r if back else p).dtype, x.dtype.name)
    values = np.reshape(seeds, (len(seeds), *(r if back else p).shape))
    raw: Any = asarray(values, dtype=DTYPES[name], device=device_of(like))._array
    with mode_set(recording=False, unwatched=True):
        if back:
            alone = stand_in(source, [p if k == i else None for k in range(len(source.parents))])
            start = alone if source is r else record(PICK, (alone,), r.saved, r)
            found: Any = walked(Walk({start: raw}, None, False), True)
            out = found[0][1] if found else None
        else:
            out = pushed([r] if source is r else [r, source], {p: raw}, False).get(r)
    size = prod(p.shape if back else r.shape)
    return np.zeros((len(seeds), size)) if out is None else np.reshape(_host(wrap(out)), (len(seeds), size))
