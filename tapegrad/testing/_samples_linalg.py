"""Samples of linear algebra: batches, wide, tall and square matrices, real and complex.

Factors that are unique up to signs and phases are sampled through functions that do not depend on these.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, apart, complexes, normal, reseed


def _h(m: Any, x: Any) -> Any:
    x = m.matrix_transpose(x)
    return m.conj(x)


def _positive(m: Any, x: Any) -> Any:
    """Return a positive definite Hermitian matrix, given any square one."""
    return m.matmul(x, _h(m, x)) + 0.5 * m.matmul(_h(m, x), x)


def _hermitian(m: Any, x: Any) -> Any:
    return x + _h(m, x)


def _projector(m: Any, q: Any) -> Any:
    """Return the projector on the span of a basis, which does not depend on signs and phases."""
    return m.matmul(q, _h(m, q))


def _of_columns(m: Any, v: Any) -> Any:
    """Return v[i, k] conj(v[j, k]), which does not depend on the phases of normalised columns."""
    return v[..., :, None, :] * m.conj(v)[..., None, :, :]


def _svd(m: Any, x: Any, full_matrices: bool) -> Any:
    u, s, vh = m.linalg.svd(x, full_matrices=full_matrices)
    k = s.shape[-1]
    pairs = u[..., :, None, :k] * m.matrix_transpose(vh[..., :k, :])[..., None, :, :]
    out = m.sum(pairs * m.sqrt(s)[..., None, None, :], axis=-1)
    if not full_matrices:
        return out
    return (
        out
        + m.sum(_projector(m, u[..., :, k:]), axis=-1, keepdims=True)
        + (m.sum(_projector(m, _h(m, vh[..., k:, :])), axis=-1)[..., None, :])
    )


def _qr(m: Any, x: Any, mode: str) -> Any:
    q, r = m.linalg.qr(x, mode=mode)
    k = min(x.shape[-2:])
    out = _projector(m, q[..., :, :k] * m.asarray([1.0, 2.0, 3.0, 4.0, 5.0], **_dtype_and_device(m, q))[:k]) @ x
    out = out + m.sum(m.abs(r[..., :k, :]) ** 2, axis=-2, keepdims=True)
    if mode == "complete":
        out = out + _projector(m, q[..., :, k:]) @ m.flip(x, axis=-2)
    return out


def _dtype_and_device(m: Any, q: Any) -> dict[str, Any]:
    return {"dtype": q.dtype} if m is np else {"dtype": q.dtype, "device": q.device}


def _twice(name: str, f: Any, *args: Any, **options: Any) -> Sample:
    """Return a sample whose call is written once for tapegrad and NumPy."""
    return Sample(name, lambda *xs: f(tg, *xs), lambda *xs: f(np, *xs), args, written=f, **options)


def _four_rows(make: Any) -> Any:
    """Return a matrix from a generator of its own: samples after it keep their values."""
    x = np.random.default_rng(4).standard_normal((4, 4)) + 4 * np.eye(4)
    return x if make is normal else x + 1j * x.T


def _linear() -> list[Sample]:
    rows = []
    for kind, make in (("", normal), (" complex", complexes)):
        x = make(3, 3) + 4 * np.eye(3)
        b = make(2, 3, 3) + 4 * np.eye(3)
        rows += [
            _twice(f"inv{kind}", lambda m, x: m.linalg.inv(x), x),
            _twice(f"inv batch{kind}", lambda m, x: m.linalg.inv(x), b),
            _twice(f"solve{kind}", lambda m, a, b: m.linalg.solve(a, b), x, make(3, 2)),
            _twice(f"solve vector{kind}", lambda m, a, b: m.linalg.solve(a, b), x, make(3)),
            _twice(f"solve batch{kind}", lambda m, a, b: m.linalg.solve(a, b), b, make(3, 2)),
            _twice(f"solve batch of vectors{kind}", lambda m, a, b: m.linalg.solve(a, b), b, make(3)),
            _twice(f"solve of one matrix{kind}", lambda m, a, b: m.linalg.solve(a, b), x, make(2, 3, 4)),
            _twice(f"det{kind}", lambda m, x: m.linalg.det(x), x),
            _twice(f"det batch{kind}", lambda m, x: m.linalg.det(x), b),
            _twice(f"det of four rows{kind}", lambda m, x: m.linalg.det(x), _four_rows(make)),
            _twice(f"slogdet{kind}", lambda m, x: m.linalg.slogdet(x)[0] * m.linalg.slogdet(x)[1], x),
            _twice(f"slogdet batch{kind}", lambda m, x: m.linalg.slogdet(x)[1], b),
            _twice(f"cholesky{kind}", lambda m, x: m.linalg.cholesky(_positive(m, x)), x),
            _twice(f"cholesky upper{kind}", lambda m, x: m.linalg.cholesky(_positive(m, x), upper=True), b),
            _twice(f"matrix_power{kind}", lambda m, x: m.linalg.matrix_power(x, 5), x),
            _twice(f"matrix_power -2{kind}", lambda m, x: m.linalg.matrix_power(x, -2), b),
            _twice(f"pinv tall{kind}", lambda m, x: m.linalg.pinv(x), make(4, 3), loose=True),
            _twice(f"pinv wide{kind}", lambda m, x: m.linalg.pinv(x), make(2, 2, 4)),
            _twice(f"pinv square{kind}", lambda m, x: m.linalg.pinv(x), x),
        ]
    singular = np.asarray([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])
    four = np.pad(singular, (1, 0)) + np.diag([2.0, 0.0, 0.0, 0.0])
    return [
        *rows,
        _twice("det singular", lambda m, x: m.linalg.det(x), singular, loose=True),
        _twice("det singular of four rows", lambda m, x: m.linalg.det(x), four, loose=True),
        _twice("pinv rank-1", lambda m, x, y: m.linalg.pinv(x[:, None] * y), normal(4), normal(3), loose=True),
        _twice("matrix_power 0", lambda m, x: m.linalg.matrix_power(x, 0) * x, normal(3, 3)),
    ]


def _factors() -> list[Sample]:
    rows = []
    for kind, make in (("", normal), (" complex", complexes)):
        apart_ = np.diag([0.0, 3.0, 6.0])  # eigenvalues apart
        x, b = make(3, 3) + apart_, make(2, 3, 3) + apart_
        rows += [
            _twice(f"eigvalsh{kind}", lambda m, x: m.linalg.eigvalsh(_hermitian(m, x)), x),
            _twice(f"eigvalsh batch{kind}", lambda m, x: m.linalg.eigvalsh(_hermitian(m, x)), b),
            _twice(f"eigh{kind}", lambda m, x: _of_columns(m, m.linalg.eigh(_hermitian(m, x))[1]), x),
            _twice(
                f"eigh both{kind}",
                lambda m, x: (
                    _of_columns(m, m.linalg.eigh(_hermitian(m, x))[1])
                    * m.linalg.eigh(_hermitian(m, x))[0][..., None, None, :]
                ),
                b,
            ),
            _twice(f"eigvals{kind}", lambda m, x: m.linalg.eigvals(x), x),
            _twice(f"eig{kind}", lambda m, x: _of_columns(m, m.linalg.eig(x)[1]), x),
        ]
        for shape in ((3, 3), (4, 2), (2, 4), (2, 4, 3)):
            y = make(*shape)
            rows += [
                _twice(f"svdvals {shape}{kind}", lambda m, x: m.linalg.svdvals(x), y),
                _twice(f"svd {shape}{kind}", lambda m, x: _svd(m, x, False), y),
                _twice(f"svd full {shape}{kind}", lambda m, x: _svd(m, x, True), y),
                _twice(f"qr {shape}{kind}", lambda m, x: _qr(m, x, "reduced"), y),
                _twice(f"qr complete {shape}{kind}", lambda m, x: _qr(m, x, "complete"), y),
            ]
    return rows


def _norms() -> list[Sample]:
    inf = float("inf")
    rows = []
    for kind, x in (("", apart(2, 3, 4)), (" complex", complexes(2, 3, 4))):
        # Far from zero, and no two rows or columns of one norm.
        far = (x + 0.6 * np.sign(x)) * np.asarray([[1.0], [2.5], [4.5]]) * np.asarray([1.0, 1.7, 2.9, 4.1])
        for ord in (2, 1, inf, -inf, 3, 0.5, -1):
            rows += [
                _twice(
                    f"vector_norm {ord}{kind}",
                    lambda m, x, p=ord: m.linalg.vector_norm(x, axis=1, ord=p),
                    x,
                    loose=True,
                ),
                _twice(
                    f"vector_norm {ord} all{kind}",
                    lambda m, x, p=ord: m.linalg.vector_norm(x, axis=(0, 2), ord=p, keepdims=True),
                    x,
                    loose=True,
                ),
            ]
        rows += [
            _twice(f"matrix_norm {ord}{kind}", lambda m, x, p=ord: m.linalg.matrix_norm(x, ord=p), far, loose=True)
            for ord in ("fro", "nuc", 1, -1, 2, -2, inf, -inf)
        ]
        rows += [
            _twice(f"diagonal{kind}", lambda m, x: m.linalg.diagonal(x), x),
            _twice(f"diagonal above{kind}", lambda m, x: m.linalg.diagonal(x, offset=2), x),
            _twice(f"diagonal below{kind}", lambda m, x: m.linalg.diagonal(x, offset=-1), x),
            _twice(f"trace{kind}", lambda m, x: m.linalg.trace(x, offset=1), x),
            _twice(f"outer{kind}", lambda m, a, b: m.linalg.outer(a, b), x[0, 0], x[1, :, 0]),
            _twice(f"cross{kind}", lambda m, a, b: m.linalg.cross(a, b), x[0, :, :3], x[1, 0, 1:]),
            _twice(f"cross axis{kind}", lambda m, a, b: m.linalg.cross(a, b, axis=-2), x[:, :, :2], x[:, :, 2:]),
        ]
    return rows


def _triangular() -> list[Sample]:
    """Return samples of systems that factors make; NumPy solves them whole."""
    rng = np.random.default_rng(42)

    def matrices(*shape: int, kind: str = "") -> Any:
        x = rng.standard_normal(shape) + 3 * np.eye(shape[-2], shape[-1])
        return x + 1j * rng.standard_normal(shape) if kind else x

    def system(note: str, upper: bool, trans: str, unit: bool, *args: Any) -> Sample:
        def reference(a: Any, b: Any) -> Any:
            a = np.triu(a) if upper else np.tril(a)
            a = np.where(np.eye(a.shape[-1], dtype=bool), 1, a) if unit else a
            a = a if trans == "N" else a.mT if trans == "T" else np.conj(a.mT)
            return np.linalg.solve(a, b)

        return Sample(
            f"solve_triangular{note}",
            lambda a, b: tg.linalg.solve_triangular(a, b, upper=upper, trans=trans, unit_diagonal=unit),
            reference,
            args,
        )

    def positive(m: Any, x: Any) -> Any:
        return m.linalg.cholesky(_positive(m, x))

    rows = []
    for kind in ("", " complex"):
        x, b = matrices(3, 3, kind=kind), matrices(2, 3, 3, kind=kind)
        y = matrices(3, 2, kind=kind)
        rows += [
            system(kind, False, "N", False, x, y),
            system(f" upper adjoint batch{kind}", True, "C", False, b, y),
            system(f" unit transposed vector{kind}", False, "T", True, x, y[:, 0]),
            Sample(
                f"cho_solve{kind}",
                lambda a, b: tg.linalg.cho_solve(positive(tg, a), b),
                lambda a, b: np.linalg.solve(_positive(np, a), b),
                (x, y),
            ),
            Sample(
                f"lstsq tall{kind}",
                tg.linalg.lstsq,
                lambda a, b: np.linalg.pinv(a) @ b,
                (matrices(2, 4, 2, kind=kind), matrices(4, 3, kind=kind)),
            ),
            Sample(
                f"lstsq wide{kind}",
                tg.linalg.lstsq,
                lambda a, b: np.linalg.pinv(a) @ b,
                (matrices(2, 4, kind=kind), matrices(2, 1, kind=kind)[:, 0]),
            ),
            Sample(
                f"expm{kind}",
                tg.linalg.expm,
                lambda x: np.stack([_series(v) for v in x.reshape(-1, *x.shape[-2:])]).reshape(x.shape),
                (0.5 * b,),
            ),
        ]
    blocks = (rng.standard_normal((2, 1)), rng.standard_normal((2, 1, 2)), rng.standard_normal(3))
    return [
        *rows,
        Sample("block_diag", tg.linalg.block_diag, lambda *xs: _blocks(*xs), blocks),
    ]


def _series(x: Any) -> Any:
    """Return the exponential of one matrix by its series, of which the terms fall fast here."""
    term, total = np.eye(len(x)) + 0 * x, np.eye(len(x)) + 0 * x
    for k in range(1, 60):
        term = term @ x / k
        total = total + term
    return total


def _blocks(a: Any, b: Any, c: Any) -> Any:
    out = np.zeros((*b.shape[:-2], len(a) + b.shape[-2] + 1, a.shape[-1] + b.shape[-1] + c.shape[-1]))
    m, n = a.shape
    p, q = b.shape[-2:]
    out[..., :m, :n], out[..., m : m + p, n : n + q], out[..., m + p, n + q :] = a, b, c
    return out


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(1)
    return [*_linear(), *_factors(), *_norms(), *_triangular()]
