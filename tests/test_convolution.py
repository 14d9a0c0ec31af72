"""Convolution and transposed convolution: against PyTorch, against themselves in other modes, and on bad arguments."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from places import Place
from windowed import Geometry, compare

import tapegrad as tg
from tapegrad.backends._numpy import convolution as strips
from tapegrad.testing import gradcheck, gradgradcheck


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


CASES = {1 << 19: 200, 300: 60}  # by the bytes of a strip


@pytest.fixture(params=[1 << 19, 300], ids=["one strip", "many strips"])
def strip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The bytes of a strip on NumPy, so few that small pictures have many of them."""
    monkeypatch.setattr(strips, "STRIP", request.param)
    strips.plan_of.cache_clear()
    yield request.param
    strips.plan_of.cache_clear()


def test_against_pytorch(strip: int) -> None:
    torch = pytest.importorskip("torch")
    theirs = [torch.conv1d, torch.conv2d, torch.conv3d]
    rng = np.random.default_rng(1)
    for case in range(CASES[strip]):
        at, groups = Geometry(rng), int(rng.choice([1, 1, 2, 3]))
        channels, outputs, batch = (int(n) for n in rng.integers((1, 1, 0), (4, 4, 4)))
        space = at.space(at.padding, at.dilation)
        options = {"stride": at.stride, "padding": at.padding, "dilation": at.dilation, "groups": groups}
        x = rng.standard_normal((batch, groups * channels, *space))
        w = rng.standard_normal((groups * outputs, channels, *at.size))
        b = rng.standard_normal(groups * outputs)
        compare(
            rng,
            lambda *xs, o=options: tg.conv(*xs, **o),
            lambda *xs, o=options, f=theirs[at.d - 1]: f(*xs, **o),
            [x, w, b],
            f"conv {x.shape} {w.shape} {options}",
            second=case % 10 == 0,
        )


def test_transposed_against_pytorch(strip: int) -> None:
    torch = pytest.importorskip("torch")
    theirs = [torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d]
    rng = np.random.default_rng(2)
    for case in range(CASES[strip]):
        at, groups = Geometry(rng), int(rng.choice([1, 1, 2, 3]))
        channels, outputs, batch = (int(n) for n in rng.integers((1, 1, 1), (4, 4, 4)))
        more = tuple([int(rng.integers(0, max(s, g))) for s, g in zip(at.stride, at.dilation, strict=True)])
        axes = zip(at.padding, at.size, at.dilation, more, strict=True)
        options = {
            "stride": at.stride,
            "padding": tuple([min(p, (g * (k - 1) + extra) // 2) for p, k, g, extra in axes]),
            "output_padding": more,
            "dilation": at.dilation,
            "groups": groups,
        }
        x = rng.standard_normal((batch, groups * channels, *rng.integers(1, 5, at.d)))
        w = rng.standard_normal((groups * channels, outputs, *at.size))
        b = rng.standard_normal(groups * outputs)
        compare(
            rng,
            lambda *xs, o=options: tg.conv_transpose(*xs, **o),
            lambda *xs, o=options, f=theirs[at.d - 1]: f(*xs, **o),
            [x, w, b],
            f"conv_transpose {x.shape} {w.shape} {options}",
            second=case % 10 == 0,
        )


# Each way of the strips on NumPy: channels last and first, groups, single channels, strides, wide padding.
WAYS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "few channels": ((2, 1, 6, 5), (3, 1, 3, 2), {}),
    "channels last": ((2, 20, 5, 4), (3, 20, 2, 3), {"padding": 1}),
    "one tap": ((2, 17, 3, 3), (2, 17, 1, 1), {}),
    "groups": ((2, 6, 5, 4), (4, 3, 2, 2), {"groups": 2, "padding": (1, 0)}),
    "single channels": ((2, 4, 5, 6), (4, 1, 3, 3), {"groups": 4, "padding": "same"}),
    "stride": ((2, 3, 7, 6), (2, 3, 3, 2), {"stride": (2, 3), "dilation": (2, 1)}),
    "padding beyond the window": ((1, 2, 3, 3), (2, 2, 2, 2), {"padding": 3}),
    "same, even": ((1, 2, 5), (3, 2, 4), {"padding": "same", "dilation": 2}),
    "pairs": ((1, 2, 4, 3), (2, 2, 2, 3), {"padding": ((0, 2), (1, 0))}),
    "three axes": ((1, 2, 3, 4, 2), (2, 2, 2, 2, 1), {"stride": 2, "padding": (1, 0, 0)}),
}


@pytest.mark.parametrize("way", WAYS)
def test_finite_differences(way: str, strip: int) -> None:
    shape, weights, options = WAYS[way]
    args = [tg.asarray(normal(*shape)), tg.asarray(normal(*weights))]
    gradcheck(lambda x, w: tg.conv(x, w, **options), args)
    if strip == 300:
        gradgradcheck(lambda x, w: tg.conv(x, w, **options), args)


@pytest.mark.parametrize("way", WAYS)
def test_results_do_not_depend_on_threads(way: str, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "WORTH", 0)
    shape, weights, options = WAYS[way]
    x, w = tg.tensor(normal(*shape), requires_grad=True), tg.tensor(normal(*weights), requires_grad=True)

    def results(threads: int) -> list[bytes]:
        monkeypatch.setattr(strips, "thread_count", lambda asked: threads)
        y = tg.conv(x, w, **options)
        x.grad = w.grad = None
        y.backward(y.detach())
        return [np.asarray(a.detach()).tobytes() for a in (y, x.grad, w.grad) if a is not None]

    alone = results(1)
    assert results(2) == alone
    assert results(3) == alone


def test_threads_of_a_compiled_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of `compile` holds for convolutions, too."""
    seen: list[int | None] = []

    def count(asked: int | None) -> int:
        seen.append(asked)
        return 1

    monkeypatch.setattr(strips, "thread_count", count)
    monkeypatch.setattr(strips, "WORTH", 0)
    step = tg.compile(lambda x, w: tg.conv(x, w), threads=1)
    x, w = tg.asarray(normal(2, 3, 4)), tg.asarray(normal(2, 3, 2))
    for _ in range(3):
        step(x, w)
    assert seen[-1] == 1


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
def test_same_keeps_the_lengths_as_pytorch_does(xp: Place) -> None:
    torch = pytest.importorskip("torch")
    for k, g in product((1, 2, 3, 4), (1, 2)):
        x, w = normal(1, 2, 6, seed=k), normal(3, 2, k)
        y = tg.conv(xp.tensor(x), xp.tensor(w), padding="same", dilation=g)
        expected = torch.conv1d(torch.tensor(x), torch.tensor(w), padding="same", dilation=g)
        xp.check(y, expected.numpy(), rtol=1e-6)
    xp.check(tg.conv(xp.tensor(x), xp.tensor(w), padding="valid"), np.asarray(tg.conv(x, w)), rtol=1e-6)


def test_without_a_batch_axis() -> None:
    x, w, b = normal(3, 5, 4), normal(2, 3, 2, 2), normal(2)
    np.testing.assert_array_equal(np.asarray(tg.conv(x, w, b)), np.asarray(tg.conv(x[None], w, b))[0])
    v = normal(3, 2, 2, 2)
    np.testing.assert_array_equal(np.asarray(tg.conv_transpose(x, v)), np.asarray(tg.conv_transpose(x[None], v))[0])


@pytest.mark.parametrize("xp", ["numpy", "torch", "strict-device1"], indirect=True)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 2)])
@pytest.mark.parametrize("f", [tg.conv, tg.conv_transpose])
def test_vmap(xp: Place, f: Any, axes: Any, groups: int) -> None:
    """Examples along any operand, their gradients and those of these, as one by one."""
    rng = np.random.default_rng(3)
    shapes = [(2, 4, 5), (4, 4 // groups, 3)]
    args = []
    for shape, axis in zip(shapes, axes, strict=True):
        whole = list(shape)
        if axis is not None:
            whole.insert(axis, 3)
        args.append(rng.standard_normal(whole))

    def gradients(x: tg.Tensor, w: tg.Tensor) -> Any:
        return tg.grad(lambda x, w: tg.sum(f(x, w, stride=2, padding=1, groups=groups) ** 3), (0, 1))(x, w)

    def second(x: tg.Tensor, w: tg.Tensor) -> Any:
        return tg.grad(lambda x, w: sum(tg.sum(g * g) for g in gradients(x, w)), (0, 1))(x, w)

    for h in (gradients, second):
        found = tg.vmap(h, in_axes=axes)(*map(xp.tensor, args))
        each = [
            h(*[xp.tensor(a if axis is None else np.take(a, i, axis)) for a, axis in zip(args, axes, strict=True)])
            for i in range(3)
        ]
        for k in range(2):
            expected = np.stack([xp.values(one[k]) for one in each])
            np.testing.assert_allclose(xp.values(found[k]), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_jacobian_takes_many_cotangents_and_tangents() -> None:
    x, w = tg.asarray(normal(2, 2, 4)), tg.asarray(normal(4, 1, 2))

    def f(x: tg.Tensor, w: tg.Tensor) -> tg.Tensor:
        return tg.conv(x, w, groups=2, padding=1)

    for argnum in (0, 1):
        forward = tg.jacobian(f, argnum, mode="forward")(x, w)
        reverse = tg.jacobian(f, argnum, mode="reverse")(x, w)
        np.testing.assert_allclose(np.asarray(forward), np.asarray(reverse), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("xp", ["numpy", "torch", "jax"], indirect=True)
def test_compiled_as_eager(xp: Place) -> None:
    x = xp.tensor(normal(3, 2, 6, 5))
    w, b = xp.tensor(normal(4, 2, 3, 3), True), xp.tensor(normal(4), True)
    start = [xp.values(w), xp.values(b)]

    def step(x: tg.Tensor) -> tg.Tensor:
        h = tg.max_pool(tg.relu(tg.conv(x, w, b, padding=1)), 2)
        loss = tg.mean(tg.conv_transpose(h, w, stride=2) ** 2)
        loss.backward()
        with tg.no_grad():
            for p in (w, b):
                assert p.grad is not None
                p -= 0.01 * p.grad
                p.grad = None
        return loss

    eager = [step(x * k).item() for k in (1.0, 0.5, 2.0, 1.0)]
    after = [xp.values(w), xp.values(b)]
    with tg.no_grad():
        w[...], b[...] = xp.tensor(start[0]), xp.tensor(start[1])
    compiled = tg.compile(step)
    np.testing.assert_allclose([compiled(x * k).item() for k in (1.0, 0.5, 2.0, 1.0)], eager, rtol=1e-5)
    for p, expected in zip((w, b), after, strict=True):
        np.testing.assert_allclose(xp.values(p), expected, rtol=1e-4, atol=1e-6)


HALVES = [
    ("numpy", "float16"),
    ("torch", "float16"),
    ("torch", "bfloat16"),
    ("jax", "bfloat16"),
]


@pytest.mark.parametrize(("xp", "dtype"), HALVES, indirect=["xp"])
def test_half_precision_is_summed_in_single(xp: Place, dtype: str) -> None:
    """4,000 terms of a sum, of which half precision would lose most, and the gradient by x and w."""
    x = tg.astype(xp.tensor(np.ones((1, 4000, 3)), True), dtype)
    w = tg.astype(xp.tensor(np.full((1, 4000, 2), 0.125), True), dtype)
    y = tg.conv(x, w)
    assert y.dtype.name == dtype
    np.testing.assert_allclose(xp.values(tg.astype(y, "float32")), np.full((1, 1, 2), 1000.0), rtol=4e-3)
    ones = tg.astype(xp.tensor(np.ones((3000, 1, 2))), dtype)
    many = tg.astype(xp.tensor(np.ones((3000, 1, 3))), dtype)
    (found,) = tg.vjp(lambda v: tg.conv(many, v), tg.astype(xp.tensor(np.ones((1, 1, 2))), dtype))[1](ones)
    np.testing.assert_allclose(xp.values(tg.astype(found, "float32")), np.full((1, 1, 2), 6000.0), rtol=4e-3)


@pytest.mark.parametrize("xp", ["numpy", "torch", "strict-device1"], indirect=True)
def test_complex_numbers(xp: Place) -> None:
    """A convolution of complex numbers is that of their parts; its gradient, as everywhere, by conjugates."""
    x, y, w, v = (normal(2, 2, 4, seed=i)[:, :, : 4 - (i > 1)] for i in range(4))
    z = tg.conv(xp.tensor(x + 1j * y), xp.tensor(w + 1j * v), padding=1)

    def one(a: Any, b: Any) -> Any:
        return np.asarray(tg.conv(a, b, padding=1))

    xp.check(z, one(x, w) - one(y, v) + 1j * (one(x, v) + one(y, w)), rtol=1e-12)
    gradcheck(lambda a, b: tg.conv(a, b, stride=2), [xp.tensor(x + 1j * y), xp.tensor(w + 1j * v)])


def test_operands_of_two_dtypes_are_promoted() -> None:
    x, w = tg.asarray(normal(1, 2, 4), dtype="float32"), tg.tensor(normal(2, 2, 2), requires_grad=True)
    y = tg.conv(x, w)
    assert y.dtype is tg.float64
    y.backward(tg.ones_like(y))
    assert w.grad is not None
    assert w.grad.dtype is tg.float64


def test_the_layout_in_memory_does_not_matter() -> None:
    x, w = normal(2, 18, 5, 6), normal(3, 18, 3, 3)
    plain = np.asarray(tg.conv(x, w, padding=1))
    for axes in ((0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2)):
        other = x.transpose(axes).copy().transpose(np.argsort(axes))
        np.testing.assert_allclose(np.asarray(tg.conv(tg.asarray(other, copy=False), w, padding=1)), plain, rtol=1e-12)
    np.testing.assert_allclose(
        np.asarray(tg.conv(x[:, :, ::-1, ::2], w)), np.asarray(tg.conv(x[:, :, ::-1, ::2].copy(), w))
    )


def test_nothing_in_a_batch(xp: Place) -> None:
    x, w = xp.tensor(np.zeros((0, 2, 5)), True), xp.tensor(normal(3, 2, 2), True)
    y = tg.conv(x, w)
    assert y.shape == (0, 3, 4)
    y.backward(y.detach())
    assert x.grad is not None
    assert w.grad is not None
    assert (x.grad.shape, w.grad.shape) == (x.shape, w.shape)
    np.testing.assert_array_equal(xp.values(w.grad), np.zeros(w.shape))


def test_flops_of_a_compiled_convolution() -> None:
    from tapegrad._compile.costs import flops_of
    from tapegrad._program.ir import Node, Value

    x, w, t = (Value(shape, np.dtype(np.float32)) for shape in ((2, 4, 6, 6), (6, 2, 3, 3), (2, 6, 4, 4)))
    for op, args, out in (
        ("convolution", (x, w), t),
        ("convolution_input", (t, w), x),
        ("convolution_weight", (x, t), w),
    ):
        node = Node(op, np.add, args, {}, "", False, list(args))
        node.outs = (out,)
        assert flops_of(node) == 2 * t.size * 2 * 9


A_HALF: Any = 1.5
SAME: Any = "same"
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "channels": (
        lambda x, w: tg.conv(x, w[:, :1]),
        ValueError,
        r"x of shape \(2, 4, 5\) has 4 channels; .* take 1",
    ),
    "groups of channels": (
        lambda x, w: tg.conv(x, w, groups=3),
        ValueError,
        "12 channels, 4 for each of 3 groups",
    ),
    "groups of outputs": (
        lambda x, w: tg.conv(x, w[:, :2], groups=2),
        ValueError,
        r"the 3 outputs of weights of shape \(3, 2, 2\) do not divide into 2 groups",
    ),
    "a large window": (
        lambda x, w: tg.conv(x[..., :1], w),
        ValueError,
        r"windows of \(2,\), .* larger than .* \(1,\)",
    ),
    "a mode": (lambda x, w: tg.conv(x, w, padding="full"), ValueError, "'same' or 'valid', not 'full'"),
    "same with a stride": (
        lambda x, w: tg.conv(x, w, padding="same", stride=2),
        ValueError,
        r"padding 'same' is for stride 1, not \(2,\).* pass the padding as numbers, such as \(0,\)",
    ),
    "integers": (
        lambda x, w: tg.conv(tg.astype(x, "int64"), w),
        TypeError,
        r"int64 and shape \(2, 4, 5\) is not floating: convert it",
    ),
    "axes": (
        lambda x, w: tg.conv(x[0, 0], w),
        ValueError,
        r"x of shape \(5,\) and weights of shape \(3, 4, 2\)",
    ),
    "weights": (lambda x, w: tg.conv(x, w[0, 0]), ValueError, r"weights of shape \(2,\) have 1 axes"),
    "no taps": (lambda x, w: tg.conv(x, w[..., :0]), ValueError, "have a window without taps"),
    "bias": (
        lambda x, w: tg.conv(x, w, tg.zeros(2)),
        ValueError,
        r"b of shape \(2,\) beside .* its shape is \(3,\)",
    ),
    "stride": (lambda x, w: tg.conv(x, w, stride=0), ValueError, "stride is at least 1, not 0"),
    "negative padding": (lambda x, w: tg.conv(x, w, padding=-1), ValueError, "padding is at least 0, not -1"),
    "entries": (
        lambda x, w: tg.conv(x, w, stride=(1, 2)),
        ValueError,
        r"stride \(1, 2\) has 2 entries for 1 space",
    ),
    "pairs": (lambda x, w: tg.conv(x, w, padding=((1, 2, 3),)), ValueError, "is not a pair"),
    "half a stride": (lambda x, w: tg.conv(x, w, stride=A_HALF), TypeError, "stride is an integer, not 1.5"),
    "no groups": (lambda x, w: tg.conv(x, w, groups=0), ValueError, "groups is at least 1, not 0"),
    "transposed channels": (
        lambda x, w: tg.conv_transpose(x, w),
        ValueError,
        r"4 channels; .* take 3 channels",
    ),
    "transposed groups": (
        lambda x, w: tg.conv_transpose(x, tg.zeros((4, 1, 2)), groups=3),
        ValueError,
        "do not divide into 3 groups",
    ),
    "output padding": (
        lambda x, w: tg.conv_transpose(x, tg.zeros((4, 1, 2)), output_padding=1),
        ValueError,
        "output_padding 1 is to be below the stride 1 or the dilation 1",
    ),
    "much padding": (
        lambda x, w: tg.conv_transpose(x, tg.zeros((4, 1, 2)), padding=9),
        ValueError,
        r"padding \(\(9, 9\),\) leaves axes of lengths \(-12,\): pass a smaller padding",
    ),
    "transposed bias": (
        lambda x, w: tg.conv_transpose(x, tg.zeros((4, 1, 2)), tg.zeros(4)),
        ValueError,
        r"its shape is \(1,\)",
    ),
    "transposed same": (
        lambda x, w: tg.conv_transpose(x, tg.zeros((4, 1, 2)), padding=SAME),
        ValueError,
        "padding is an integer or one for each axis, not 'same'",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments(what: str) -> None:
    call, kind, message = WRONG[what]
    with pytest.raises(kind, match=message):
        call(tg.asarray(normal(2, 4, 5)), tg.asarray(normal(3, 4, 2)))
