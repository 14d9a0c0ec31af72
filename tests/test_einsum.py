"""Einstein sums: random subscripts against NumPy and PyTorch, paths, lists of axes, messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.ops import contraction

LENGTHS = dict(zip("abcdef", (1, 2, 3, 4, 2, 3), strict=True))


def random_sums(count: int, seed: int, with_dots: bool = True) -> Iterator[tuple[str, list[Any]]]:
    """Go through random subscripts with arrays that fit: diagonals, sums, `...`, no output, complex numbers."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n = int(rng.integers(1, 5))
        terms = ["".join(rng.choice(list(LENGTHS), rng.integers(0, 5 if n < 3 else 4))) for _ in range(n)]
        shapes = [tuple(LENGTHS[label] for label in term) for term in terms]
        letters = sorted(set("".join(terms)))
        output = "".join(rng.permutation(letters)[: rng.integers(0, len(letters) + 1)])
        if with_dots and rng.random() < 0.4:
            where = [int(rng.integers(0, len(term) + 1)) for term in terms]
            wide = [(2, 1, 3)[int(rng.integers(0, 4)) :] for _ in terms]
            terms = [f"{term[:i]}...{term[i:]}" for term, i in zip(terms, where, strict=True)]
            shapes = [(*s[:i], *w, *s[i:]) for s, i, w in zip(shapes, where, wide, strict=True)]
            i = int(rng.integers(0, len(output) + 1))
            output = f"{output[:i]}...{output[i:]}"
        subscripts = ",".join(terms) + (f"->{output}" if rng.random() < 0.8 else "")
        arrays = [rng.normal(size=shape) for shape in shapes]
        if rng.random() < 0.3:
            arrays[0] = arrays[0] + 1j * rng.normal(size=shapes[0])
        yield subscripts, arrays


def test_random_subscripts_against_numpy() -> None:
    for i, (subscripts, arrays) in enumerate(random_sums(300, 5)):
        y = tg.einsum(subscripts, *map(tg.asarray, arrays), optimize=(True, False, "greedy", "optimal")[i % 4])
        expected = np.einsum(subscripts, *arrays)
        assert y.shape == expected.shape, subscripts
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12, err_msg=subscripts)


def test_random_subscripts_against_pytorch() -> None:
    """Gradients, and gradients of a function of these, as PyTorch's."""
    torch = pytest.importorskip("torch")
    for subscripts, arrays in random_sums(200, 7):
        if not all(arr.size for arr in arrays):
            continue
        xs = [tg.tensor(a, requires_grad=True) for a in arrays]
        zs = [torch.tensor(a, requires_grad=True) for a in arrays]
        try:
            z = torch.einsum(subscripts, *zs)
        except RuntimeError:
            continue  # it wants `...` in the output in cases where NumPy does not
        second: list[Any] = []
        for square_sum, y, leaves, module in (
            (lambda v: tg.sum(tg.abs(v) ** 2 + tg.real(v)), tg.einsum(subscripts, *xs), xs, tg),
            (lambda v: (v.abs() ** 2 + v.real).sum(), z, zs, torch),
        ):
            number = square_sum(y)
            if module is tg:
                f = lambda *args: square_sum(tg.einsum(subscripts, *args))  # noqa: B023, E731
                first = tg.grad(f, tuple(range(len(leaves))))
                number = sum(square_sum(g) for g in first(*leaves))
                found = tg.grad(lambda *args: sum(square_sum(g) for g in first(*args)), tuple(range(len(leaves))))  # noqa: B023
                second.append([np.asarray(g.detach()) for g in (*first(*leaves), *found(*leaves))])
            else:
                gs = torch.autograd.grad(number, leaves, create_graph=True)
                hs = torch.autograd.grad(sum(square_sum(g) for g in gs), leaves, allow_unused=True)
                hs = [torch.zeros_like(leaf) if h is None else h for h, leaf in zip(hs, leaves, strict=True)]
                second.append([g.detach().resolve_conj().numpy() for g in (*gs, *hs)])
        for got, expected in zip(*second, strict=True):
            scale = np.abs(expected).max(initial=1)
            np.testing.assert_allclose(got / scale, expected / scale, atol=1e-10, err_msg=subscripts)


def test_lists_of_axes() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 3))
    for args in (
        (a, [0, 1, 2], b, [2, 1], [0]),
        (a, [0, 5, 2], b, [2, 7]),
        (a, [..., 0], b, [0, 1], [1, ...]),
        (a, (30, 1, 0), (1, 30)),
        (b @ b.T, [3, 3]),
    ):
        given: list[Any] = [tg.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
        np.testing.assert_allclose(tg.einsum(*given), np.einsum(*args), rtol=1e-12)
        np.testing.assert_allclose(np.einsum(*given), np.einsum(*args), rtol=1e-12)  # by NumPy's protocol


@pytest.mark.parametrize("library", [True, False], ids=["opt_einsum", "numpy"])
def test_a_chain_is_contracted_from_its_short_end(library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices times a vector: no product of two matrices."""
    if library:
        pytest.importorskip("opt_einsum")
    else:
        monkeypatch.setitem(__import__("sys").modules, "opt_einsum", None)
    contraction._searched.cache_clear()
    xs = [tg.ones((30, 30)), tg.ones((30, 30)), tg.ones((30, 30)), tg.ones(30)]
    for optimize, most in ((True, 30), (False, 900), ("optimal", 30), ([(2, 3), (1, 2), (0, 1)], 30)):
        leaf = tg.tensor(xs[0], requires_grad=True)
        with tg.Tape() as tape:
            out = tg.einsum("ij,jk,kl,l->i", leaf, *xs[1:], optimize=optimize)
        assert max(entry.results[0].size for entry in tape if entry.operation.name == "matmul") == most
        assert out.shape == (30,)
    contraction._searched.cache_clear()


def test_paths_as_numpy_gives_them() -> None:
    xs = [np.ones((2, 3)), np.ones((3, 4)), np.ones((4, 5))]
    path, _ = np.einsum_path("ij,jk,kl->il", *xs, optimize="optimal")
    np.testing.assert_array_equal(tg.einsum("ij,jk,kl->il", *xs, optimize=path), np.full((2, 5), 12.0))


def test_compiled_and_mapped() -> None:
    rng = np.random.default_rng(3)
    a, b, c = rng.normal(size=(5, 3, 3)), rng.normal(size=(3, 2)), rng.normal(size=(5, 2))
    f = lambda x, y, z: tg.einsum("iji,jk,k->", x[..., None, :] * y[0, 0] + x[None], y, z)  # noqa: E731
    g = lambda x, y, z: tg.einsum("ii,ij,j->j", x, y, z)  # noqa: E731
    functions: tuple[Any, ...] = (f, g)
    for h in functions:
        mapped = tg.vmap(h, (0, None, 0))(tg.asarray(a), tg.asarray(b), tg.asarray(c))
        alone = [h(tg.asarray(x), tg.asarray(b), tg.asarray(z)) for x, z in zip(a, c, strict=True)]
        np.testing.assert_allclose(mapped, np.stack([np.asarray(y) for y in alone]), rtol=1e-12)
        compiled: Any = tg.compile(tg.grad(lambda x, y, z: tg.sum(h(x, y, z)), (0, 1, 2)))  # noqa: B023
        eager: Any = tg.grad(lambda x, y, z: tg.sum(h(x, y, z)), (0, 1, 2))  # noqa: B023
        args = [tg.asarray(v) for v in (a[0], b, c[0])]
        for _ in range(3):
            for got, expected in zip(compiled(*args), eager(*args), strict=True):
                np.testing.assert_array_equal(got, expected)


def test_messages() -> None:
    x = tg.ones((2, 3))
    calls: list[tuple[tuple[Any, ...], str]] = [
        (("ij,jk->ik", x), "is for 2 operands, not 1"),
        (("ijk->i", x), "'ijk' in 'ijk->i' does not fit an operand of 2 axes"),
        (("......->", x), "does not fit"),
        (("ij->k", x), "names an axis twice, or one that no operand has"),
        (("ij->ii", x), "names an axis twice"),
        (("i1->i", x), "not made of letters"),
        (("ij,ij->", x, tg.ones((2, 4))), r"'j' has lengths 3 and 4 in 'ij,ij->' of \(2, 3\), \(2, 4\)"),
        ((x, [0, 1], [2]), "names an axis twice, or one that no operand has"),
        ((x, list(range(53))), "53 labels are more than the 52"),
    ]
    for args, message in calls:
        with pytest.raises(ValueError, match=f"^einsum: .*{message}"):
            tg.einsum(*args)
    for wrong, message in (
        ((x, x), "einsum: subscripts such as 'ij,jk->ik' come first, not Tensor; or each operand is followed"),
        ((x,), "einsum: subscripts such as"),
        ((x, [0, "b"]), "a list of axes holds integers from 0 on and `...`, not 'b'"),
        ((x, [0, -1]), "not -1"),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            tg.einsum(*wrong)


def test_messages_of_paths() -> None:
    x = tg.ones((2, 2))
    wrong: list[tuple[Any, type[Exception], str]] = [
        ("best", ValueError, "optimize is True, False, 'greedy', 'optimal' or a path, not 'best'"),
        (3, TypeError, "optimize is True, False, 'greedy', 'optimal' or a path, not 3"),
        ([1, 2], TypeError, "or a path, not"),
        ([(0, 1)], ValueError, r"leaves 2 of 3 operands, not one"),
        ([(0, 3), (0, 1)], ValueError, r"takes \(0, 3\) of 3 operands that are left"),
        ([(0, 0), (0, 1)], ValueError, r"takes \(0, 0\)"),
    ]
    for optimize, error, message in wrong:
        with pytest.raises(error, match=message):
            tg.einsum("ij,jk,kl->il", x, x, x, optimize=optimize)
