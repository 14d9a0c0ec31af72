"""Sparse Jacobians: against dense ones, and with as few colours as can be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._transforms import sparse_jacobian
from tapegrad._transforms.reverse import TransformCall

sparse = pytest.importorskip("scipy.sparse")

RNG = np.random.default_rng(7)


def tridiagonal(x: Any) -> Any:
    y = tg.sin(x) * x
    return tg.concat([y[:1], y[1:-1] * x[2:] + x[:-2], x[-1:] * x[-2:-1]])


def bundle(x: Any, points: int = 8, cameras: int = 3) -> Any:
    """Two residuals of each of 24 observations, of the 9 parameters of a camera, the 3 of a point and 3 shared."""
    camera = tg.reshape(x[: cameras * 9], (cameras, 1, 9))
    point = tg.reshape(x[cameras * 9 : -3], (1, points, 3))
    # Rotated by the small angles camera[:3], moved, projected and distorted.
    moved = point + tg.linalg.cross(camera[..., :3] + 0.0 * point, point + 0.0 * camera[..., :3]) + camera[..., 3:6]
    flat = moved[..., :2] / (moved[..., 2:] + 5.0)
    r2 = tg.sum(flat * flat, axis=-1, keepdims=True)
    return flat * (camera[..., 6:7] + r2 * camera[..., 7:8] + r2**2 * camera[..., 8:9]) * x[-3:-2] + x[-2:]


def cameras_of_batches(x: Any) -> Any:
    """Stacks of products of matrices and sums, with a softmax and a maximum within each."""
    m = tg.reshape(x[:36], (4, 3, 3))
    v = tg.reshape(x[36:], (4, 3, 1))
    y = tg.softmax((m @ v)[..., 0], axis=1)
    return tg.stack([tg.max(y, axis=1), tg.sum(v, axis=(1, 2)), tg.prod(m[:, 0, :], axis=-1)], axis=1)


def arrow(x: Any) -> Any:
    return tg.concat([tg.sum(x * x, keepdims=True), x[1:] ** 2])


with_a_rule = tg.custom_vjp(lambda x: [x[:1] ** 2, x * x[1]])
with_a_rule.defvjp(
    lambda x: (with_a_rule.function(x), x),
    lambda x, ts: (tg.concat([ts[0] * 2.0 * x[:1], 0.0 * x[1:]]) + ts[1] * x[1] + tg.sum(ts[1] * x) * tg.eye(3)[1, :],),
)
with_a_tangent = tg.custom_jvp(lambda x: [x[:1] ** 2, x * x[1]])
with_a_tangent.defjvp(
    lambda xs, ts: (
        with_a_tangent.function(*xs),
        [2.0 * xs[0][:1] * ts[0][:1], ts[0] * xs[0][1] + xs[0] * ts[0][1]],
    )
)

FUNCTIONS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "tridiagonal": (tridiagonal, (9,)),
    "bundle adjustment": (bundle, (54,)),
    "batches": (cameras_of_batches, (48,)),
    "arrow": (arrow, (7,)),
    "not flat": (lambda x: tg.sum(x**3, axis=0) * x[1, :], (3, 4)),
    "repeated": (lambda x: x[[0, 0, 2]] * tg.repeat(x[1], 3) + tg.tile(x[:1], (3,)), (4,)),
    "cumulative": (lambda x: tg.cumulative_sum(x) * tg.flip(x), (5,)),
    "sorted": (lambda x: tg.sort(x) * 2.0, (6,)),
    "several results": (lambda x: tg.stack(tg.unstack(tg.reshape(x, (2, 3)))[::-1]) ** 2, (6,)),
    "singular values": (lambda x: tg.linalg.svdvals(x[:, None] * tg.eye(3) + 0.1), (3,)),
    "svd": (lambda x: tg.concat([tg.reshape(p, (-1,)) ** 2 for p in tg.linalg.svd(x, full_matrices=False)]), (2, 3)),
    "slogdet": (lambda x: tg.linalg.slogdet(x[:, None] * tg.eye(3) + 0.1).logabsdet * x, (3,)),
    "eigenvalues": (lambda x: tg.real(tg.linalg.eigvals(x[:, None] * tg.eye(3) + 0.1)), (3,)),
    "eigh": (lambda x: tg.linalg.eigh(x + x.mT).eigenvectors ** 2, (3, 3)),
    "qr": (lambda x: tg.concat([tg.reshape(p, (-1,)) for p in tg.linalg.qr(x)]), (3, 2)),
    "checkpoint": (tg.checkpoint(lambda x: x * tg.flip(x)), (4,)),
    "checkpoint of a list": (lambda x: tg.concat(tg.checkpoint(lambda x: [x[:1] * x[1:2], x**2])(x)), (3,)),
    "own rule": (lambda x: tg.concat(with_a_rule(x)), (3,)),
    "own tangent": (lambda x: tg.concat(with_a_tangent(x)), (3,)),
    "root": (lambda x: tg.root(lambda y, x: y**3 - x**2 - 1.0, tg.ones(3), x), (3,)),
    "solved": (lambda x: tg.linalg.solve(tg.eye(3) * 2.0, x), (3,)),
    "of a gradient": (tg.grad(lambda x: tg.sum((x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)), (8,)),
    "constant": (lambda x: tg.ones(3), (2,)),
    "partly constant": (lambda x: tg.concat([tg.ones(2), x[:1]]), (3,)),
    "no outputs": (lambda x: x[:0], (3,)),
    "no inputs": (lambda x: tg.ones(3) * tg.sum(x), (0,)),
    "a number": (lambda x: x * x, ()),
}


def test_detection_through_complex_values() -> None:
    """Each of the real and the imaginary part is looked through."""

    def f(x: Any) -> tg.Tensor:
        z = tg.fft.fft(x[:4])
        return tg.concat([tg.real(z)[1:2], tg.imag(z)[1:3], x[4:] * 2.0])

    x = np.arange(1.0, 7.0)
    np.testing.assert_allclose(tg.jacobian(f, sparsity="detect")(x).toarray(), tg.jacobian(f)(x), atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_against_the_dense_matrix(name: str, mode: str) -> None:
    f, shape = FUNCTIONS[name]
    x = np.asarray(RNG.standard_normal(shape))
    dense = np.asarray(tg.jacobian(f)(x))
    dense = np.reshape(dense, (dense.size // x.size if x.size else np.asarray(f(tg.asarray(x))).size, x.size))
    found = tg.jacobian(f, sparsity="detect", mode=mode)(x)
    assert type(found) is sparse.csr_array
    np.testing.assert_allclose(found.toarray(), dense, rtol=1e-12, atol=1e-14)
    for given in (dense != 0, sparse.coo_array(dense), found):  # as an array, a matrix, an earlier result
        j = tg.jacobian(f, sparsity=given, mode=mode)(tg.asarray(x))
        np.testing.assert_allclose(j.toarray(), dense, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["tridiagonal", "bundle adjustment", "batches", "repeated", "sorted", "of a gradient"])
def test_detection_is_exact(name: str) -> None:
    f, shape = FUNCTIONS[name]
    x = RNG.standard_normal(shape)
    pattern = sparse_jacobian.detected(TransformCall("test", f, (x,), {})).toarray()
    dense = np.reshape(tg.jacobian(f)(x), pattern.shape)
    np.testing.assert_array_equal(pattern, dense != 0)


def test_detection_everywhere(xp: Place) -> None:
    for name in ("tridiagonal", "sorted") if xp.device == "jax:cpu" else ("tridiagonal", "batches", "sorted"):
        f, shape = FUNCTIONS[name]
        x = xp.tensor(np.random.default_rng(3).standard_normal(shape))
        dense = xp.values(tg.jacobian(f)(x))
        j = tg.jacobian(f, sparsity="detect")(x)
        assert j.dtype == dense.dtype
        bound = 1e-12 if xp.double else 2e-4
        np.testing.assert_allclose(j.toarray(), dense.reshape(j.shape), rtol=bound, atol=bound)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_chunks(chunk: int, mode: str) -> None:
    x = RNG.standard_normal(9)
    whole = tg.jacobian(tridiagonal)(x)
    j = tg.jacobian(tridiagonal, sparsity="detect", mode=mode, chunk_size=chunk)(x)
    np.testing.assert_allclose(j.toarray(), whole, rtol=1e-13)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("n", [8, 9, 30])
def test_as_few_colours_as_a_band_is_wide(n: int, width: int) -> None:
    for below in range(width):
        band = sum(sparse.diags_array(np.ones(n - abs(k)), offsets=k) for k in range(-below, width - below))
        for lines in (sparse.csc_array(band), sparse.csr_array(band)):
            got = sparse_jacobian.colours(lines)
            assert got.max() + 1 == width
            for c in range(width):  # none of a colour share a place
                together = np.concatenate(
                    [lines.indices[lines.indptr[i] : lines.indptr[i + 1]] for i in np.flatnonzero(got == c)]
                )
                assert len(set(together.tolist())) == len(together)


def test_a_pattern_is_coloured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, greedy = [], sparse_jacobian._greedy

    def spy(*args: Any) -> Any:
        coloured.append(args)
        return greedy(*args)

    monkeypatch.setattr(sparse_jacobian, "_greedy", spy)
    monkeypatch.setattr(sparse_jacobian, "_coloured", {})
    x = RNG.standard_normal(9)
    dense = tg.jacobian(tridiagonal)(x)
    given = sparse.csr_array(dense)
    jacobian = tg.jacobian(tridiagonal, sparsity=given)
    for j in (jacobian(x), jacobian(x), tg.jacobian(tridiagonal, sparsity=dense != 0)(x)):
        np.testing.assert_allclose(j.toarray(), dense, rtol=1e-13)
    detect = tg.jacobian(tridiagonal, sparsity="detect")
    for _ in range(2):
        np.testing.assert_allclose(detect(x).toarray(), dense, rtol=1e-13)
    assert len(coloured) == 2  # the columns and the rows
    given.indices[0], given.indices[1] = 1, 2  # the same array holds another pattern
    with pytest.raises(ValueError, match="outside the pattern"):
        jacobian(x)
    assert len(coloured) == 4


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_pattern_that_is_given_stays_as_it_is(mode: str) -> None:
    given = sparse.csr_array((np.asarray([1.0, 2.0, 3.0]), np.asarray([2, 0, 1]), np.asarray([0, 2, 3])), shape=(2, 3))
    before = given.toarray()  # its indices are not sorted
    f = lambda x: tg.stack([x[0] * 2.0 + x[2], x[1] * 3.0])  # noqa: E731
    j = tg.jacobian(f, sparsity=given, mode=mode)(np.ones(3))
    np.testing.assert_array_equal(j.toarray(), before)
    np.testing.assert_array_equal(given.toarray(), before)


def test_few_colourings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_jacobian, "_coloured", {})
    for n in range(1, 40):
        out = sparse_jacobian.colours(sparse.csr_array(np.eye(n)))
        assert len(out) == n
        assert not out.flags.writeable
    assert len(sparse_jacobian._coloured) == sparse_jacobian.KEPT


def test_the_cheaper_direction_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An arrow's head is a full row, so that columns take a colour each, but rows two colours."""
    pulled, pull = [], TransformCall.pull

    def spy(self: TransformCall, cotangents: Any, *rest: Any, **options: Any) -> Any:
        pulled.append(cotangents[0].shape[0])
        return pull(self, cotangents, *rest, **options)

    monkeypatch.setattr(TransformCall, "pull", spy)
    x = RNG.standard_normal(50)
    j = tg.jacobian(arrow, sparsity="detect")(x)
    assert pulled == [2]
    np.testing.assert_allclose(j.toarray(), tg.jacobian(arrow, mode="forward")(x), rtol=1e-13)
    tg.jacobian(tridiagonal, sparsity="detect")(x)
    assert pulled == [2]


def test_a_hundred_thousand_inputs() -> None:
    n = 100_000
    j = tg.jacobian(tridiagonal, sparsity="detect")(RNG.standard_normal(n))
    assert (j.shape, j.nnz) == ((n, n), 3 * n - 3)


def test_auxiliary_results_and_other_arguments() -> None:
    j, aux = tg.jacobian(lambda a, x: (a * x, "kept"), 1, sparsity=np.eye(3), has_aux=True)(2.0, np.ones(3))
    np.testing.assert_array_equal(j.toarray(), 2 * np.eye(3))
    assert aux == "kept"


def test_what_is_not_finite_stays_where_it_is() -> None:
    with np.errstate(all="ignore"):
        j = tg.jacobian(lambda x: tg.log(x), sparsity="detect")(np.asarray([0.0, 2.0]))
    np.testing.assert_array_equal(j.toarray(), [[np.inf, 0.0], [0.0, 0.5]])


def test_under_no_grad_an_outer_leaf_is_a_constant() -> None:
    w = tg.tensor([2.0, 3.0], requires_grad=True)
    with tg.no_grad():
        j = tg.jacobian(lambda x: w * x, sparsity="detect")(np.ones(2))
    np.testing.assert_array_equal(j.toarray(), [[2.0, 0.0], [0.0, 3.0]])
    with pytest.raises(RuntimeError, match="sparse matrix cannot stay on the tape.*no_grad"):
        tg.jacobian(lambda x: w * x, sparsity="detect")(np.ones(2))


CANCELLING: dict[str, Callable[[Any], Any]] = {
    "a sum that is one": lambda x: tg.stack([tg.sum(tg.softmax(x)), x[0]]),
    "a sum that is nought": lambda x: tg.cumulative_sum(x - tg.mean(x)),
    "nothing else": lambda x: tg.sum(tg.softmax(x)),
    "there and back": lambda x: tg.real(
        tg.fft.ifft(tg.fft.fft(tg.astype(tg.where(x > 1.0, x * tg.flip(x), 0.0), tg.complex128)))
    ),
    "small beside large": lambda x: tg.concat([1e6 * x + tg.sum(x) - 1e6 * x, 1e-6 * x[:1]]),
    "results of one operation": lambda x: tg.sum(tg.linalg.qr(tg.stack([x, x**2, tg.sin(x)]).mT).Q ** 2, axis=0),
    "a checkpoint": tg.checkpoint(lambda x: tg.cumulative_sum(x - tg.mean(x))),
}


@pytest.mark.parametrize("name", CANCELLING)
@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_zero_but_for_rounding(name: str, device: str, dtype: str) -> None:
    """A remainder of terms that cancel is no derivative outside the pattern; a true one is still found."""
    if device != "cpu":
        pytest.importorskip("torch")
    f = CANCELLING[name]
    x = tg.asarray(np.random.default_rng(8).standard_normal(6) + 1.5, dtype=dtype, device=device)
    dense = np.asarray(tg.jacobian(f)(x).to_device("cpu")).reshape(-1, 6)
    bound = 1e-6 if dtype == "float32" else 1e-12
    if name == "small beside large":
        bound *= 1e6
    for sparsity in ("detect", np.ones(dense.shape)):
        for mode in ("forward", "reverse"):
            found = tg.jacobian(f, sparsity=sparsity, mode=mode)(x).toarray()
            np.testing.assert_allclose(found, dense, atol=bound)
    row, column = np.unravel_index(np.argmax(np.abs(dense)), dense.shape)
    if abs(dense[row, column]) > 10 * bound:
        lacking = np.ones(dense.shape)
        lacking[row, column] = 0.0
        with pytest.raises(ValueError, match="outside the pattern"):
            tg.jacobian(f, sparsity=lacking)(x)


X = np.ones(3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: tg.jacobian(lambda x: x + x[0], sparsity=np.eye(3))(X),
            ValueError,
            "outside the pattern.* wrong in 2 of 3 outputs, first in output 1: add .*sparsity='detect'",
        ),
        (
            lambda: tg.jacobian(lambda x: x + x[0], sparsity=np.eye(3), mode="reverse")(X),
            ValueError,
            "outside the pattern given as sparsity",
        ),
        (lambda: tg.jacobian(tg.sin, sparsity=np.eye(2))(X), ValueError, r"shape \(2, 2\).*3 outputs and 3 inputs"),
        (lambda: tg.jacobian(tg.sin, sparsity=np.ones(3))(X), ValueError, "sparsity has shape"),
        (lambda: tg.jacobian(tg.sin, sparsity="guess")(X), ValueError, "a matrix or 'detect', not 'guess'"),
        (lambda: tg.jacobian(lambda x: (x, x), sparsity="detect")(X), TypeError, "not 1 and 2: join them"),
        (lambda: tg.jacobian(lambda p: p[0], sparsity="detect")([X, X]), TypeError, "not 2 and 1: join them"),
    ],
)
def test_messages(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ImportError, match="needs SciPy.*pip install .tapegrad.scipy"):
        tg.jacobian(tg.sin, sparsity="detect")(X)
