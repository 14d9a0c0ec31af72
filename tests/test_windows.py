"""Pooling, unfold and fold, pad and resize: against PyTorch and NumPy, in other modes, and on bad arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import Place
from windowed import Geometry, compare

import tapegrad as tg
from tapegrad.testing import gradcheck

CASES = 200


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def values(rng: np.random.Generator, *shape: int) -> Any:
    """Return random values, in some cases with many equal ones."""
    x = rng.standard_normal(shape)
    return np.round(x) if rng.random() < 0.3 else x


def pairs(rng: np.random.Generator) -> tuple[int, int]:
    batch, channels = (int(n) for n in rng.integers((1, 1), (4, 4)))
    return batch, channels


def test_max_pool_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    rng, taken = np.random.default_rng(1), 0
    for case in range(CASES):
        at, ceil = Geometry(rng), bool(rng.random() < 0.4)
        x = values(rng, *pairs(rng), *at.space(at.half, at.dilation))
        options: dict[str, Any] = {"stride": at.stride, "padding": at.half, "dilation": at.dilation, "ceil_mode": ceil}
        theirs = (f.max_pool1d, f.max_pool2d, f.max_pool3d)[at.d - 1]
        taken += compare(
            rng,
            lambda x, at=at, o=options: tg.max_pool(x, at.size, **o),
            lambda x, at=at, o=options, f=theirs: f(x, at.size, **o),
            [x],
            f"max_pool {x.shape} {at.size} {options}",
            second=case % 10 == 0,
        )
    assert taken > CASES // 2


def test_mean_pool_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    rng, taken = np.random.default_rng(2), 0
    for case in range(CASES):
        at, counts = Geometry(rng), bool(rng.random() < 0.5)
        x = rng.standard_normal((*pairs(rng), *at.space(at.half, (1,) * at.d)))
        options: dict[str, Any] = {"stride": at.stride, "padding": at.half, "count_include_pad": counts}
        theirs = (f.avg_pool1d, f.avg_pool2d, f.avg_pool3d)[at.d - 1]
        taken += compare(
            rng,
            lambda x, at=at, o=options: tg.mean_pool(x, at.size, **o),
            lambda x, at=at, o=options, f=theirs: f(x, at.size, **o),
            [x],
            f"mean_pool {x.shape} {at.size} {options}",
            second=case % 10 == 0,
        )
    assert taken > CASES // 2


def test_adaptive_pools_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    rng = np.random.default_rng(3)
    for _ in range(CASES):
        d = int(rng.integers(1, 4))
        size = tuple(rng.integers(1, 6, d).tolist())
        x = values(rng, *pairs(rng), *rng.integers(1, 9, d))
        for ours, theirs in (
            (tg.adaptive_mean_pool, (f.adaptive_avg_pool1d, f.adaptive_avg_pool2d, f.adaptive_avg_pool3d)),
            (tg.adaptive_max_pool, (f.adaptive_max_pool1d, f.adaptive_max_pool2d, f.adaptive_max_pool3d)),
        ):
            assert compare(
                rng,
                lambda x, f=ours, size=size: f(x, size),
                lambda x, f=theirs[d - 1], size=size: f(x, size),
                [x],
                f"{ours.__name__} {x.shape} {size}",
            )


def test_unfold_and_fold_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    rng = np.random.default_rng(4)
    for case in range(CASES):
        at = Geometry(rng)
        while at.d != 2:
            at = Geometry(rng)
        space = at.space(at.padding, at.dilation)
        x = rng.standard_normal((*pairs(rng), *space))
        options: dict[str, Any] = {"stride": at.stride, "padding": at.padding, "dilation": at.dilation}
        what = f"{x.shape} {at.size} {options}"
        second = case % 10 == 0
        assert compare(
            rng,
            lambda x, at=at, o=options: tg.unfold(x, at.size, **o),
            lambda x, at=at, o=options: f.unfold(x, at.size, **o),
            [x],
            f"unfold {what}",
            second,
        )
        columns = rng.standard_normal(tuple(f.unfold(torch.tensor(x), at.size, **options).shape))
        assert compare(
            rng,
            lambda x, at=at, o=options, space=space: tg.fold(x, space, at.size, **o),
            lambda x, at=at, o=options, space=space: f.fold(x, space, at.size, **o),
            [columns],
            f"fold {what}",
            second,
        )


def test_resize_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    resize = torch.nn.functional.interpolate
    rng = np.random.default_rng(5)
    for _ in range(CASES):
        d, corners = int(rng.integers(1, 4)), bool(rng.random() < 0.5)
        size = tuple(rng.integers(1, 14, d).tolist())
        x = rng.standard_normal((*pairs(rng), *rng.integers(1, 12, d)))
        modes: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {"mode": "nearest"})]
        aligned = {"align_corners": corners}
        linear = ("linear", "bilinear", "trilinear")[d - 1]
        modes.append(({"mode": "linear", **aligned}, {"mode": linear, **aligned}))
        if d == 2:
            modes.append(({"mode": "cubic", **aligned}, {"mode": "bicubic", **aligned}))
            if min(*x.shape[2:], *size) > 1:  # of one place PyTorch's has other results than of two equal ones
                for mode in ("linear", "cubic"):
                    options = {**aligned, "antialias": True}
                    modes.append(({"mode": mode, **options}, {"mode": f"bi{mode}", **options}))
        for ours, theirs in modes:
            assert compare(
                rng,
                lambda x, size=size, o=ours: tg.resize(x, size, **o),
                lambda x, size=size, o=theirs: resize(x, size, **o),
                [x],
                f"resize {x.shape} {size} {ours}",
            )


def test_pad_against_numpy_and_pytorch() -> None:
    """Values are NumPy's, also of widths in all its forms; gradients are PyTorch's."""
    rng = np.random.default_rng(6)
    for _ in range(CASES // 4):
        shape = rng.integers(2, 6, int(rng.integers(1, 4)))
        x = rng.standard_normal(shape)
        each = tuple([tuple(rng.integers(0, n, 2).tolist()) for n in shape])
        forms: list[Any] = [1, (1,), (1, 0), [[1, 0]], ((1,),) * x.ndim, each]
        for mode in ("constant", "reflect", "edge", "wrap"):
            for widths in forms:
                found, expected = tg.pad(x, widths, mode=mode), np.pad(x, widths, mode=mode)
                np.testing.assert_array_equal(np.asarray(found), expected, err_msg=f"{mode} {widths} {shape}")
    for mode, widths in (("edge", (7, 0)), ("wrap", (7, 11)), ("constant", (7, 11))):
        np.testing.assert_array_equal(np.asarray(tg.pad(x, widths, mode=mode)), np.pad(x, widths, mode=mode))  # type: ignore[call-overload]
    torch = pytest.importorskip("torch")
    for _ in range(CASES):
        d = int(rng.integers(1, 4))
        x = rng.standard_normal((*pairs(rng), *rng.integers(2, 6, d)))
        each = tuple([tuple(rng.integers(0, n, 2).tolist()) for n in x.shape[2:]])
        flat = [n for pair in reversed(each) for n in pair]
        for mode, theirs in (
            ("constant", "constant"),
            ("reflect", "reflect"),
            ("edge", "replicate"),
            ("wrap", "circular"),
        ):
            assert compare(
                rng,
                lambda x, w=each, m=mode: tg.pad(x, ((0, 0), (0, 0), *w), mode=m),
                lambda x, w=flat, m=theirs: torch.nn.functional.pad(x, w, mode=m),
                [x],
                f"pad {mode} {x.shape} {each}",
            )


def test_pad_with_a_value(xp: Place) -> None:
    x = xp.tensor(normal(2, 3))
    xp.check(tg.pad(x, 1, value=2.5), np.pad(normal(2, 3), 1, constant_values=2.5))
    v = xp.tensor(np.asarray(2.5), True)
    y = tg.pad(x, (1, 0), value=v)
    xp.check(y, np.pad(normal(2, 3), (1, 0), constant_values=2.5))
    tg.sum(y).backward()
    assert v.grad is not None
    xp.check(v.grad, np.asarray(6.0))
    integers = tg.pad(tg.asarray([1, 2], device=xp.device), 1, value=7)
    assert "integer" in integers.dtype.kind
    xp.check(integers, np.asarray([7, 1, 2, 7]))
    assert tg.pad(tg.asarray([True]), 1).dtype is tg.bool


def test_numpy_pad_of_a_tensor_is_recorded() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    tg.sum(np.pad(x, (1, 2), mode="edge")).backward()
    assert x.grad is not None
    np.testing.assert_array_equal(np.asarray(x.grad), [2.0, 3.0])
    y: Any = np.pad(x, 1, constant_values=3.0)
    np.testing.assert_array_equal(np.asarray(y.detach()), [3.0, 1.0, 2.0, 3.0])


def test_the_gradient_goes_to_the_first_maximum(xp: Place) -> None:
    x = xp.tensor(np.asarray([[[2.0, 3.0, 3.0, 3.0]]]), True)
    tg.max_pool(x, 4).backward(tg.ones((1, 1, 1), device=xp.device, dtype=x.dtype))
    assert x.grad is not None
    xp.check(x.grad, np.asarray([[[0.0, 1.0, 0.0, 0.0]]]))
    (slope,) = tg.vjp(lambda x: tg.max_pool(x, (2, 2)), xp.tensor(np.zeros((2, 2))))[1](xp.tensor(np.ones((1, 1))))
    xp.check(slope, np.asarray([[1.0, 0.0], [0.0, 0.0]]))


def test_nan_is_the_maximum(xp: Place) -> None:
    """As on PyTorch, where the gradient goes to the last one."""
    x = xp.tensor(np.asarray([[[1.0, np.nan, 5.0, np.nan, 2.0, 1.0]]]), True)
    y = tg.max_pool(x, 3)
    np.testing.assert_array_equal(xp.values(y), [[[np.nan, np.nan]]])
    y.backward(xp.tensor(np.asarray([[[1.0, 2.0]]])))
    assert x.grad is not None
    xp.check(x.grad, np.asarray([[[0.0, 1.0, 0.0, 2.0, 0.0, 0.0]]]))


def test_padding_is_never_the_maximum(xp: Place) -> None:
    """Not even of values that are all -inf: the gradient goes to the first of them."""
    x = xp.tensor(np.full((1, 1, 3), -np.inf), True)
    y = tg.max_pool(x, 3, padding=1, stride=2)
    np.testing.assert_array_equal(xp.values(y), np.full((1, 1, 2), -np.inf))
    y.backward(xp.tensor(np.asarray([[[1.0, 2.0]]])))
    assert x.grad is not None
    xp.check(x.grad, np.asarray([[[1.0, 2.0, 0.0]]]))


POOLS: dict[str, Any] = {
    "max_pool": lambda x: tg.max_pool(x, (2, 2), stride=1, padding=1),
    "mean_pool": lambda x: tg.mean_pool(x, (2, 2), stride=1, padding=1, count_include_pad=False),
    "adaptive_max_pool": lambda x: tg.adaptive_max_pool(x, (2, 3)),
    "adaptive_mean_pool": lambda x: tg.adaptive_mean_pool(x, (2, 3)),
    "unfold": lambda x: tg.unfold(x, (2, 2), dilation=2),
    "fold": lambda x: tg.fold(x, (3,), 2, padding=1),
    "pad": lambda x: tg.pad(x, ((1, 2), (0, 1))),
    "pad reflect": lambda x: tg.pad(x, 2, mode="reflect"),
    "resize": lambda x: tg.resize(x, (5, 3), mode="cubic"),
    "resize nearest": lambda x: tg.resize(x, (5, 3)),
}


@pytest.mark.parametrize("xp", ["numpy", "torch", "strict-device1"], indirect=True)
@pytest.mark.parametrize("name", POOLS)
def test_vmap(xp: Place, name: str) -> None:
    """Examples, their gradients and those of these, as one by one; in nested calls, too."""
    f, x = POOLS[name], normal(2, 3, 4, 4)

    def second(x: tg.Tensor) -> Any:
        slope = tg.grad(lambda x: tg.sum(f(x) ** 3))
        return tg.grad(lambda x: tg.sum(slope(x) ** 2))(x)

    for h in (f, second):
        found = tg.vmap(tg.vmap(h))(xp.tensor(x))
        each = [[xp.values(h(xp.tensor(one))) for one in row] for row in x]
        np.testing.assert_allclose(xp.values(found), np.asarray(each), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_compiled_as_eager(name: str) -> None:
    f = POOLS[name]
    step = tg.compile(lambda x: tg.value_and_grad(lambda x: tg.sum(f(x) ** 2))(x))
    for k in range(4):
        x = tg.asarray(normal(4, 4, seed=k))
        eager = tg.value_and_grad(lambda x: tg.sum(f(x) ** 2))(x)
        for found, expected in zip(step(x), eager, strict=True):
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("name", [n for n in POOLS if "max" not in n])
def test_complex_numbers(name: str) -> None:
    x, y = normal(4, 4), normal(4, 4, seed=1)
    found = np.asarray(POOLS[name](tg.asarray(x + 1j * y)))
    np.testing.assert_allclose(found, np.asarray(POOLS[name](x)) + 1j * np.asarray(POOLS[name](y)), rtol=1e-12)
    gradcheck(POOLS[name], [tg.asarray(x + 1j * y)])


@pytest.mark.parametrize("xp", ["numpy", "torch", "jax"], indirect=True)
def test_half_precision_is_summed_in_single(xp: Place) -> None:
    """A window of 4,900 ones, and a gradient of many windows at one element."""
    x = tg.astype(xp.tensor(np.ones((1, 1, 70, 70))), "float16")
    np.testing.assert_allclose(xp.values(tg.mean_pool(x, 70)), np.ones((1, 1, 1, 1)), rtol=1e-3)
    peak = np.zeros((1, 1, 81, 81))
    peak[0, 0, 40, 40] = 1.0
    y, pull = tg.vjp(lambda x: tg.max_pool(x, 50, stride=1), tg.astype(xp.tensor(peak), "float16"))
    (slope,) = pull(tg.full(y.shape, 3.0, dtype=y.dtype, device=xp.device))
    np.testing.assert_allclose(xp.values(slope)[0, 0, 40, 40], 3 * 32 * 32, rtol=1e-3)


def test_channels_last_in_memory_stay_there() -> None:
    """The layout that convolution leaves on NumPy is found by the next one, with the same values."""
    x = tg.tensor(normal(2, 5, 6, 3).transpose(0, 3, 1, 2), requires_grad=True)
    y = tg.max_pool(tg.asarray(np.asarray(x.detach()), copy=False), 2)
    assert y.shape == (2, 3, 2, 3)
    for f in (POOLS["max_pool"], POOLS["mean_pool"]):
        np.testing.assert_array_equal(
            np.asarray(f(tg.asarray(normal(2, 5, 6, 3).transpose(0, 3, 1, 2), copy=False))),
            np.asarray(f(tg.asarray(normal(2, 5, 6, 3).transpose(0, 3, 1, 2).copy()))),
        )


def test_integers_are_moved() -> None:
    x = tg.asarray([[[1, 2, 3, 4]]])
    assert np.asarray(tg.resize(x, 2)).tolist() == [[[1, 3]]]
    assert np.asarray(tg.resize(x, 3)).tolist() == [[[1, 2, 3]]]
    assert np.asarray(tg.unfold(x, 2)).tolist() == [[[1, 2, 3], [2, 3, 4]]]


A_HALF: Any = 1.5
SIX: Any = 6
INTEGERS = "int64 and shape .* is not (real )?floating: convert it, as in tapegrad.astype"
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "max_pool of integers": (lambda x: tg.max_pool(tg.astype(x, "int64"), 2), TypeError, INTEGERS),
    "max_pool of complex numbers": (lambda x: tg.max_pool(x + 1j, 2), TypeError, "complex.* is not real floating"),
    "mean_pool of integers": (lambda x: tg.mean_pool(tg.astype(x, "int64"), 2), TypeError, INTEGERS),
    "fold of integers": (lambda x: tg.fold(tg.astype(x, "int64"), (5,), 2), TypeError, INTEGERS),
    "resize of integers": (
        lambda x: tg.resize(tg.astype(x, "int64"), 2, mode="linear"),
        TypeError,
        "is not floating: convert it, .* or pass mode='nearest'",
    ),
    "a large window": (
        lambda x: tg.max_pool(x, 6),
        ValueError,
        r"windows of \(6,\), .* larger than .*\(2, 4, 5\)",
    ),
    "much padding": (
        lambda x: tg.max_pool(x, 2, padding=2),
        ValueError,
        r"more than half of a window of \(2,\): pass",
    ),
    "no space axes": (
        lambda x: tg.max_pool(x[0], 2),
        ValueError,
        r"shape \(4, 5\) has no axes behind .* a tuple",
    ),
    "many entries": (
        lambda x: tg.mean_pool(x, (1, 2, 3, 4)),
        ValueError,
        r"for 4 axes, x of shape \(2, 4, 5\) has 3",
    ),
    "few steps": (lambda x: tg.mean_pool(x, (2, 2), stride=(1,)), ValueError, "has 1 entries for 2 space axes"),
    "an empty axis": (
        lambda x: tg.adaptive_mean_pool(x[..., :0], 2),
        ValueError,
        r"shape \(2, 4, 0\) has a space",
    ),
    "nothing to resample": (lambda x: tg.resize(x[..., :0], 2), ValueError, r"shape \(2, 4, 0\) has a space"),
    "columns": (lambda x: tg.fold(x, (9,), 2), ValueError, r"x of shape \(2, 4, 5\): .* columns of shape .*\* 2, 8\)"),
    "space": (lambda x: tg.fold(x, SIX, 2), TypeError, "the space is a tuple"),
    "a mode": (lambda x: tg.resize(x, 2, mode="area"), ValueError, "'nearest', 'linear' or 'cubic', not 'area'"),
    "antialias": (lambda x: tg.resize(x, 2, antialias=True), ValueError, "are for mode 'linear' and 'cubic'"),
    "a size of 0": (lambda x: tg.resize(x, 0), ValueError, "size is at least 1, not 0"),
    "sizes": (lambda x: tg.resize(x, (1, 2, 3, 4)), ValueError, "has 4 entries, and x of shape"),
    "no axes": (lambda x: tg.resize(x[0], 2), ValueError, "no axes behind batch and channels"),
    "reflect": (
        lambda x: tg.pad(x, 4, mode="reflect"),
        ValueError,
        r"axis 0 of shape \(2, 4, 5\) is too short for mode 'reflect' with widths \(4, 4\): at most 1",
    ),
    "nothing to wrap": (
        lambda x: tg.pad(x[:0], 1, mode="wrap"),
        ValueError,
        "too short for mode 'wrap' .* none can",
    ),
    "a mode of pad": (lambda x: tg.pad(x, 1, mode="mean"), ValueError, "'reflect', 'edge', 'wrap', not 'mean'"),
    "widths": (
        lambda x: tg.pad(x, ((1, 1), (1, 1))),
        ValueError,
        r"not a pair .* of a shape \(2, 4, 5\)",
    ),
    "three widths": (lambda x: tg.pad(x, (1, 2, 3)), ValueError, "pass a pair"),
    "negative widths": (lambda x: tg.pad(x, -1), ValueError, "widths are not negative"),
    "half a width": (lambda x: tg.pad(x, A_HALF), TypeError, "a width is an integer, not 1.5"),
    "a value that does not fit": (
        lambda x: tg.pad(tg.astype(x, "int64"), 1, value=0.5),
        TypeError,
        "the value 0.5 does not fit in an array of int64",
    ),
    "a value with axes": (lambda x: tg.pad(x, 1, value=x), ValueError, "value is a number, or a Tensor without axes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments(what: str) -> None:
    call, kind, message = WRONG[what]
    with pytest.raises(kind, match=message):
        call(tg.asarray(normal(2, 4, 5)))
