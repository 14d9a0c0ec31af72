"""einops, opt_einsum, autoray and libraries above them: Tensors are known to them as soon as they are imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._protocols import known_libraries
from tapegrad.ops.contraction import einsum


@pytest.fixture(autouse=True)
def _fast(request: pytest.FixtureRequest) -> None:
    """Leave JAX out: it takes seconds to compile compositions of functions that are tried there elsewhere."""
    if "xp" in request.fixturenames and request.getfixturevalue("xp").device.startswith("jax"):
        pytest.skip("functions of the standard")


X = np.arange(1.0, 25.0).reshape(2, 3, 4) ** 0.5


def check(xp: Place, f: Callable[[Any], Any], x: np.ndarray[Any, Any] = X) -> None:
    """Compare a function's value with that of NumPy's arrays, and its gradient with differences."""
    expected = np.asarray(f(x))
    weights = np.cos(np.arange(expected.size)).reshape(expected.shape)
    y = f(xp.tensor(x))
    assert isinstance(y, tg.Tensor)
    rtol = 1e-7 if xp.double else 1e-4
    np.testing.assert_allclose(xp.values(y), expected, rtol=rtol, atol=rtol)
    g = tg.grad(lambda x: tg.sum(f(x) * xp.tensor(weights)))(xp.tensor(x))
    direction, h = np.sin(np.arange(x.size)).reshape(x.shape), 1e-6
    change = np.sum((f(x + h * direction) - f(x - h * direction)) * weights) / (2 * h)
    np.testing.assert_allclose(np.sum(xp.values(g) * direction), change, rtol=1e-6 if xp.double else 1e-3, atol=1e-6)


# -- Einstein sums ------------------------------------------------------------------------------------------

SUMS = [
    *("ijk->kji", "ijk->", "ijk->j", "ijk", "ijk,ijk->ijk", "ijk,ijk->", "ijk,ijl->kl", "ijk,ijl->jkl", "ijk,lmn->nki"),
    *("ijk,lmk->jl", "...k,...k->...", "i...,i...->...", "ij...,kj...->ik...", "ijk,ijk", "kij,kij,kil->jl"),
    *("ijk , ijl -> k l", "i...->...i"),
]


@pytest.mark.parametrize("subscripts", SUMS)
def test_einsum(xp: Place, subscripts: str) -> None:
    n = subscripts.count(",") + 1
    check(xp, lambda x: _sum(subscripts, *[x] * n))


def _sum(subscripts: str, *xs: Any) -> Any:
    return np.einsum(subscripts, *xs) if isinstance(xs[0], np.ndarray) else einsum(subscripts, *xs)


def test_einsum_takes_diagonals_and_broadcasts_ones(xp: Place) -> None:
    square = X.reshape(-1)[:9].reshape(3, 3)
    cube = np.stack([square, square + 1.0, square * 2.0])
    cases: list[tuple[str, Any]] = [
        ("ii->i", square),
        ("ii", square),
        ("iij->j", cube),
        ("iii->i", cube),
        ("iji->ij", cube),
    ]
    for subscripts, x in cases:
        check(xp, partial(_sum, subscripts), x)
    one = np.ones((1, 3))
    check(
        xp,
        lambda x: (
            np.einsum("ij,ij->ij", x, one) if isinstance(x, np.ndarray) else einsum("ij,ij->ij", x, xp.tensor(one))
        ),
        square,
    )
    assert einsum("ij->ji", xp.tensor(one)).shape == (3, 1)


# -- the libraries ------------------------------------------------------------------------------------------


def test_einops(xp: Place) -> None:
    einops: Any = pytest.importorskip("einops")
    check(xp, lambda x: einops.rearrange(x, "a (b c) d -> (d a) c b", b=3))
    check(xp, lambda x: einops.rearrange([x[0], x[1]], "a b c -> c a b"))
    for operation in ("sum", "mean", "max", "min", "prod"):
        check(xp, partial(einops.reduce, pattern="a b (c d) -> b d", reduction=operation, c=2))
    check(xp, lambda x: einops.repeat(x, "a b c -> a (b e) c d", d=2, e=3))
    check(xp, lambda x: einops.einsum(x, x, "a b c, a d c -> b d"))
    check(xp, lambda x: einops.pack([x, x[:, 0, :]], "a * c")[0])
    check(xp, lambda x: einops.unpack(x, [[2], []], "a * c")[1])
    assert einops.parse_shape(xp.tensor(X), "a b _") == {"a": 2, "b": 3}
    mask = xp.tensor(X > 2.0)
    xp.check(einops.reduce(mask, "a b c -> a", "any"), [True, True])
    xp.check(einops.reduce(mask, "a b c -> a", "all"), [False, True])
    layers: Any = pytest.importorskip("einops.layers")
    check(xp, lambda x: layers.RearrangeMixin("a b c -> (a b) c")._apply_recipe(x))
    check(xp, lambda x: layers.ReduceMixin("a b c -> b", "mean")._apply_recipe(x))


def _contract(library: Any, subscripts: str, x: Any) -> Any:
    return library.contract(subscripts, *[x] * (subscripts.count(",") + 1))


def test_opt_einsum(xp: Place) -> None:
    library: Any = pytest.importorskip("opt_einsum")
    for subscripts in ("ijk,ijl,njm->m", "ijk,ijk->ijk", "ijk,ilk->jl", "ijk->ki", "ijk,ijk,ijk->"):
        check(xp, partial(_contract, library, subscripts))
    expression = library.contract_expression("ij,jk,kl->il", (2, 3), xp.tensor(np.ones((3, 3))), (3, 2), constants=[1])
    xp.check(expression(xp.tensor(np.ones((2, 3))), xp.tensor(np.ones((3, 2)))), np.full((2, 2), 9.0))


AUTORAY: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("transpose", lambda do, x: do("transpose", x)),
    ("transpose axes", lambda do, x: do("transpose", x, (1, 0, 2))),
    ("tensordot", lambda do, x: do("tensordot", x, x, ((0, 1), (0, 1)))),
    ("einsum", lambda do, x: do("einsum", "ijk,ijl->kl", x, x)),
    ("concatenate", lambda do, x: do("concatenate", (x, x), axis=1)),
    ("stack", lambda do, x: do("stack", (x, x))),
    ("squeeze", lambda do, x: do("squeeze", x[:, None])),
    ("ravel", lambda do, x: do("ravel", x)),
    ("swapaxes", lambda do, x: do("swapaxes", x, 0, -1)),
    ("power", lambda do, x: do("power", x, 2)),
    ("absolute", lambda do, x: do("absolute", x)),
    ("arctan2", lambda do, x: do("arctan2", x, x + 1.0)),
    ("cumsum", lambda do, x: do("cumsum", x, 1)),
    ("diag", lambda do, x: do("diag", x[0, 0])),
    ("kron", lambda do, x: do("kron", x[0], x[1])),
    ("outer", lambda do, x: do("outer", x[0, 0], x[1, 1])),
    ("trace", lambda do, x: do("trace", x[0, :3, :3])),
    ("split", lambda do, x: do("split", x, 2, axis=2)[1]),
    ("norm", lambda do, x: do("linalg.norm", x)),
    ("singular values", lambda do, x: do("linalg.svd", x[0])[1]),
    ("svd is reduced", lambda do, x: do("abs", do("linalg.svd", x[0])[2])),
    ("eigh", lambda do, x: do("linalg.eigh", x[0] @ do("transpose", x[0]))[0][1:]),
    ("copy", lambda do, x: do("copy", x)),
    ("reshape", lambda do, x: do("reshape", x, (6, 4))),
    ("complex", lambda do, x: do("real", do("complex", x, x) ** 2 * 1j)),
]


@pytest.mark.parametrize(("name", "f"), AUTORAY, ids=[name for name, _ in AUTORAY])
def test_autoray(xp: Place, name: str, f: Callable[[Any, Any], Any]) -> None:
    autoray: Any = pytest.importorskip("autoray")
    if name == "eigh" and not xp.double:
        pytest.skip("small eigenvalues in single precision")
    check(xp, lambda x: f(autoray.do, x))


def test_autoray_makes_tensors() -> None:
    autoray: Any = pytest.importorskip("autoray")
    x = tg.ones(2)
    assert autoray.infer_backend(x) == "tapegrad"
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        *(
            ("array", ([1.0, 2.0],), {}),
            ("zeros", ((2, 2),), {"dtype": "float32"}),
            ("eye", (2,), {}),
            ("ones", (2,), {}),
        ),
        *(("identity", (2,), {}), ("full", ((2,), 3.0), {}), ("arange", (3,), {}), ("linspace", (0.0, 1.0, 3), {})),
        *(("empty", ((2,),), {}), ("random.normal", (), {"size": (2,)}), ("random.uniform", (), {"dtype": "float32"})),
    ]
    for name, args, options in made:
        y = autoray.do(name, *args, like=x, **options)
        assert isinstance(y, tg.Tensor), name
        assert y.dtype.name == options.get("dtype", "int64" if name == "arange" else "float64")
    assert autoray.astype(x, "complex64").dtype is tg.complex64
    assert autoray.do("relu", x - 2.0).tolist() == [0.0, 0.0]
    assert type(autoray.to_numpy(x)) is np.ndarray
    with pytest.raises(TypeError, match=r"off the tape.*x.detach\(\)"):
        autoray.to_numpy(tg.tensor([1.0], requires_grad=True))


def test_tensor_networks() -> None:
    cotengra: Any = pytest.importorskip("cotengra")
    arrays = [np.ones((2, 3)), np.ones((3, 4)), np.ones((4, 2))]
    out = cotengra.einsum("ij,jk,ki->", *[tg.asarray(a) for a in arrays])
    assert out.item() == 24.0
    g = tg.grad(lambda x: cotengra.einsum("ij,jk,ki->", x, *map(tg.asarray, arrays[1:])))(tg.asarray(arrays[0]))
    assert g.tolist() == [[4.0] * 3] * 2


LIBRARIES = ("einops", "opt_einsum", "autoray")
TRY = {
    "einops": "library.rearrange(x, 'a b -> b a')",
    "opt_einsum": "library.contract('ij,ij->j', x, x)",
    "autoray": "library.do('concatenate', (x, x))",
}


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("order", ["before", "after"])
def test_none_is_imported_and_all_are_noticed(name: str, order: str) -> None:
    pytest.importorskip(name)
    imports = [f"import {name} as library", "import tapegrad as tg"]
    if order == "after":
        imports.reverse()
        imports.insert(1, f"import sys; assert not {set(LIBRARIES)!r} & set(sys.modules)")
    code = "; ".join([*imports, "x = tg.ones((2, 3))", f"y = {TRY[name]}", "assert type(y) is tg.Tensor"])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ".", "PATH": ""}, timeout=600)


def test_an_import_succeeds_though_registering_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_library.py").write_text("x = 1")
    (tmp_path / "broken_library.py").write_text("raise ValueError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [known_libraries._Finder(), *sys.meta_path])
    monkeypatch.setattr(
        known_libraries, "_REGISTER", dict.fromkeys(("strange_library", "broken_library"), lambda m: m.no_such)
    )
    with pytest.warns(RuntimeWarning, match="tapegrad: strange_library will not know Tensors: AttributeError.*no_such"):
        library = import_module("strange_library")
    assert library.x == 1
    with pytest.raises(ValueError, match="broken"):
        import_module("broken_library")
    assert list(known_libraries._REGISTER) == ["broken_library"]
