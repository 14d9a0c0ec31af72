"""Systems of factors and the exponential of matrices: random shapes against SciPy and PyTorch, bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg


def random_matrices(rng: Any, *shape: int, is_complex: bool = False) -> Any:
    x = rng.normal(size=shape)
    return x + 1j * rng.normal(size=shape) if is_complex else x


def compared(f: Callable[..., Any], g: Callable[..., Any], args: list[Any], rtol: float = 1e-9) -> None:
    """Assert that first and second derivatives of a function are PyTorch's of another."""
    torch = pytest.importorskip("torch")

    def number(y: Any) -> Any:
        return tg.sum(tg.abs(y) ** 2) if isinstance(y, tg.Tensor) else (y.abs() ** 2).sum()

    zs = [torch.tensor(a, requires_grad=True) for a in args]
    first = torch.autograd.grad(number(g(*zs)), zs, create_graph=True)
    second = torch.autograd.grad(sum(number(d) for d in first), zs)
    which = tuple(range(len(args)))
    slope = tg.grad(lambda *xs: number(f(*xs)), which)
    bend = tg.grad(lambda *xs: sum(number(d) for d in slope(*xs)), which)
    xs = [tg.asarray(a) for a in args]
    for ours, theirs in zip((*slope(*xs), *bend(*xs)), (*first, *second), strict=True):
        values = theirs.detach().resolve_conj().numpy()
        scale = np.abs(values).max(initial=1)
        np.testing.assert_allclose(np.asarray(ours.detach()) / scale, values / scale, atol=rtol)


def with_diagonal(x: Any, value: float) -> Any:
    return x + value * np.eye(x.shape[-2], x.shape[-1])


def test_random_triangular_systems() -> None:
    """All options, batches on either side, vectors, real and complex, sizes below and above one block."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    for i in range(200):
        n, k, is_complex = int(rng.integers(1, 7)), int(rng.integers(1, 4)), bool(i % 2)
        lead = [(), (2,), (1, 3), (2, 1)][int(rng.integers(4))], [(), (2,), (3,)][int(rng.integers(3))]
        try:
            np.broadcast_shapes(*lead)
        except ValueError:
            continue
        upper, unit, trans = bool(rng.integers(2)), bool(rng.integers(2)), "NTC"[int(rng.integers(3))]
        a = with_diagonal(random_matrices(rng, *lead[0], n, n, is_complex=is_complex), 3.0)
        b = random_matrices(rng, *lead[1], n, k, is_complex=is_complex)

        def theirs(x: Any, y: Any) -> Any:
            x = x.mT if trans == "T" else x.mH if trans == "C" else x  # noqa: B023
            return torch.linalg.solve_triangular(x, y, upper=upper != (trans != "N"), unitriangular=unit)  # noqa: B023

        def ours(x: Any, y: Any) -> Any:
            return tg.linalg.solve_triangular(x, y, upper=upper, trans=trans, unit_diagonal=unit)  # noqa: B023

        expected = theirs(torch.tensor(a), torch.tensor(b)).resolve_conj().numpy()
        np.testing.assert_allclose(ours(a, b), expected, rtol=1e-10, atol=1e-12)
        if i < 100:
            compared(ours, theirs, [a, b])


@pytest.mark.parametrize("n", [1, 33, 65, 150])
@pytest.mark.parametrize("trans", ["N", "T", "C"])
@pytest.mark.parametrize("upper", [False, True])
def test_large_triangular_systems(xp: Place, n: int, trans: str, upper: bool) -> None:
    """Of several blocks; the other triangle is not read; in C and Fortran order."""
    if xp.device.startswith("jax") and (n > 1 or upper):
        pytest.skip("JAX compiles each")
    rng = np.random.default_rng(2)
    for is_complex in (False, True):
        a = with_diagonal(random_matrices(rng, n, n, is_complex=is_complex) / n, 2.0)
        x = random_matrices(rng, 2, n, 2, is_complex=is_complex)
        tri = np.triu(a) if upper else np.tril(a)
        b = (tri if trans == "N" else tri.T if trans == "T" else np.conj(tri.T)) @ x
        dirty = np.where(np.tri(n, dtype=bool).T if not upper else np.tri(n, dtype=bool), np.nan, a)
        dirty = np.where(np.eye(n, dtype=bool), a, dirty)
        for values in (a, dirty, np.asfortranarray(a)):
            out = tg.linalg.solve_triangular(xp.tensor(values), xp.tensor(b), upper=upper, trans=trans)
            xp.check(out, x, rtol=1e-9)
            xp.check(
                tg.linalg.solve_triangular(xp.tensor(values), xp.tensor(b[0, :, 0]), upper=upper, trans=trans),
                x[0, :, 0],
                rtol=1e-9,
            )


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    from tapegrad.backends._numpy import triangular

    monkeypatch.setattr(triangular, "_lapack", lambda: None)
    a = with_diagonal(np.random.default_rng(3).normal(size=(100, 100)) / 100, 1.0)
    out = tg.linalg.solve_triangular(a, np.ones(100))
    np.testing.assert_allclose(np.tril(a) @ np.asarray(out), np.ones(100), rtol=1e-12)
    assert tg.linalg.solve_triangular(np.eye(3, dtype=np.float32), np.ones(3)).dtype is tg.float64


def test_random_least_squares() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    for i in range(100):
        m, n, k = (int(v) for v in rng.integers(1, 6, 3))
        lead = [(), (2,), (2, 3)][int(rng.integers(3))]
        a = with_diagonal(random_matrices(rng, *lead, m, n, is_complex=bool(i % 2)), 2.0)
        b = random_matrices(rng, m, k, is_complex=bool(i % 2))
        out = tg.linalg.lstsq(a, b)
        np.testing.assert_allclose(out, np.linalg.pinv(a) @ b, rtol=1e-8, atol=1e-9)
        if i < 60:
            compared(tg.linalg.lstsq, lambda x, y: torch.linalg.pinv(x) @ y, [a, b], rtol=1e-7)


def test_random_cholesky_systems() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    for i in range(60):
        n, upper, is_complex = int(rng.integers(1, 6)), bool(rng.integers(2)), bool(i % 2)
        a = with_diagonal(random_matrices(rng, 2, n, n, is_complex=is_complex), 3.0)
        b = random_matrices(rng, n, 2, is_complex=is_complex)

        def theirs(x: Any, y: Any) -> Any:
            x = torch.triu(x) if upper else torch.tril(x)  # noqa: B023
            y = y.expand(2, n, 2).contiguous()  # noqa: B023 (PyTorch 2.13 errs in complex systems that broadcast)
            return torch.linalg.solve(x.mH @ x if upper else x @ x.mH, y)  # noqa: B023

        compared(lambda x, y: tg.linalg.cho_solve(x, y, upper=upper), theirs, [a, b], rtol=1e-8)  # noqa: B023


def test_random_exponentials() -> None:
    """Of all sizes of norms, several in one batch, against SciPy; derivatives against PyTorch's."""
    torch = pytest.importorskip("torch")
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(6)
    for i in range(60):
        n, is_complex = int(rng.integers(1, 6)), bool(i % 2)
        scales = 10.0 ** rng.uniform(-8, 1.3, size=(3, 1, 1))
        x = random_matrices(rng, 3, n, n, is_complex=is_complex) * scales
        x = x - np.conj(np.swapaxes(x, -1, -2)) if i % 3 else x
        expected = linalg.expm(x)
        size = np.abs(expected).max((-2, -1), keepdims=True)
        np.testing.assert_allclose(np.asarray(tg.linalg.expm(x)) / size, expected / size, atol=1e-11)
        if i < 40:
            compared(tg.linalg.expm, torch.linalg.matrix_exp, [x / np.maximum(scales, 1.0)], rtol=1e-9)


def test_exponentials_of_large_norm(xp: Place) -> None:
    """Rotations by large angles, a nilpotent matrix, and infinities."""
    angle = 1e4
    generator = xp.tensor([[0.0, -angle], [angle, 0.0]])
    c, s = np.cos(angle), np.sin(angle)
    np.testing.assert_allclose(
        xp.values(tg.linalg.expm(generator)), [[c, -s], [s, c]], atol=1e-10 if xp.double else 0.05
    )
    nilpotent = xp.tensor([[0.0, 1e6], [0.0, 0.0]])
    xp.check(tg.linalg.expm(nilpotent), [[1.0, 1e6], [0.0, 1.0]], rtol=1e-9)
    assert tg.linalg.expm(xp.tensor(np.zeros((2, 0, 0)))).shape == (2, 0, 0)
    assert tg.linalg.expm(xp.tensor(np.zeros((0, 2, 2)))).shape == (0, 2, 2)


def test_the_scale_of_a_cotangent_does_not_matter() -> None:
    """The derivative is linear in it, though it is found by an exponential."""
    x = tg.asarray(np.random.default_rng(7).normal(size=(4, 4)))
    _, pull = tg.vjp(tg.linalg.expm, x)
    (small,), (large,) = pull(tg.ones((4, 4)) * 1e-200), pull(tg.ones((4, 4)) * 1e200)
    np.testing.assert_allclose(small * 1e200, large * 1e-200, rtol=1e-13)


def flat(g: Any) -> Any:
    """Return a function whose results are joined to one vector."""

    def call(x: Any, y: Any) -> Any:
        out = g(x, y)
        return tg.concat([tg.reshape(v, -1) for v in (out if isinstance(out, tuple) else (out,))])

    return call


def test_compiled_and_mapped() -> None:
    rng = np.random.default_rng(8)
    a, b = with_diagonal(rng.normal(size=(3, 4, 4)), 3.0), rng.normal(size=(3, 4))
    functions: dict[str, Any] = {
        "solve_triangular": lambda x, y: tg.linalg.solve_triangular(x, y, upper=True, trans="T"),
        "cho_solve": tg.linalg.cho_solve,
        "lstsq": lambda x, y: tg.linalg.lstsq(x[:, :3], y),
        "expm": lambda x, y: tg.linalg.expm(x) @ y,
        "block_diag": lambda x, y: tg.linalg.block_diag(x, y, 2.0),
    }
    for name, f in functions.items():
        for g in (f, tg.grad(lambda x, y: tg.sum(f(x, y) ** 2), (0, 1))):  # noqa: B023
            call = flat(g)
            alone = [np.asarray(call(tg.asarray(x), tg.asarray(y))) for x, y in zip(a, b, strict=True)]
            mapped = tg.vmap(call)(tg.asarray(a), tg.asarray(b))
            np.testing.assert_allclose(mapped, np.stack(alone), rtol=1e-9, atol=1e-11, err_msg=name)
            compiled: Any = tg.compile(call)
            for _ in range(2):
                for x, y, expected in zip(a, b, alone, strict=True):
                    found = compiled(tg.asarray(x), tg.asarray(y))
                    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13, err_msg=name)


def test_block_diag_as_scipy() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(9)
    for _ in range(30):
        blocks = [
            rng.normal(size=tuple(rng.integers(0, 4, int(rng.integers(1, 3))))) for _ in range(int(rng.integers(1, 5)))
        ]
        blocks = [x for x in blocks if x.ndim == 2 or x.size]
        if blocks:
            np.testing.assert_array_equal(tg.linalg.block_diag(*blocks), linalg.block_diag(*blocks))
    assert tg.linalg.block_diag(np.ones((1, 1), np.float32), np.ones(1, np.float64)).dtype is tg.float64


def test_messages() -> None:
    x, y = tg.ones((3, 3)), tg.ones((4, 2))
    wrong: list[tuple[Any, str]] = [
        (lambda: tg.linalg.solve_triangular(x, y), r"matrices \(3, 3\) do not fit a right-hand side of shape \(4, 2\)"),
        (lambda: tg.linalg.solve_triangular(y, y[:2]), "solve_triangular: square matrices .* are needed"),
        (lambda: tg.linalg.solve_triangular(x, x, trans="H"), "trans is 'N', 'T' or 'C', not 'H'"),
        (lambda: tg.linalg.solve_triangular(x[0], x), r"solve_triangular: matrices \(..., m, n\) are needed"),
        (lambda: tg.linalg.solve_triangular(x, 1.0), r"do not fit a right-hand side of shape \(\)"),
        (lambda: tg.linalg.solve_triangular(tg.zeros((3, 3)), x), "(?i)singular"),
        (lambda: tg.linalg.cho_solve(y, y[:2]), "cho_solve: square matrices"),
        (lambda: tg.linalg.lstsq(y, x), r"lstsq: matrices \(4, 2\) do not fit a right-hand side of shape \(3, 3\)"),
        (lambda: tg.linalg.expm(y), "expm: square matrices"),
        (lambda: tg.linalg.block_diag(), "block_diag: there is no block"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="no counterpart that keeps the gradient"):
        np.linalg.lstsq(tg.tensor(np.eye(2), requires_grad=True), np.ones(2))


def test_singular_systems_under_debug(xp: Place) -> None:
    with tg.debug(), pytest.raises(ValueError, match="(?i)singular"):
        tg.linalg.solve_triangular(xp.tensor([[1.0, 0.0], [1.0, 0.0]]), xp.tensor([1.0, 1.0]))
