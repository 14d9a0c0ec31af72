"""Every sample of the table, on every backend: values, derivatives, dtypes, devices, layouts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._engine import rules
from tapegrad._engine.backward import Walk
from tapegrad.testing import SAMPLES, Sample, gradcheck, gradgradcheck, table

# The first sample of each operation, and the first complex one.
FIRST = set({(s.operation, any(a.dtype.kind == "c" for a in s.args)): s.name for s in reversed(SAMPLES)}.values())
ENOUGH_FOR_JAX = "JAX compiles each call for each shape: one sample of an operation, real and complex, is enough"
samples = pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
differentiable = pytest.mark.parametrize("sample", [s for s in SAMPLES if s.order], ids=lambda s: s.name)


def is_elementwise(sample: Sample) -> bool:
    """Say whether a sample's operation works element by element."""
    operation = rules.OPERATIONS.get(sample.operation)
    return operation is not None and operation.elementwise


def leaves(xp: Place, sample: Sample) -> list[tg.Tensor]:
    """Return the sample's arguments, floating ones as leaves."""
    return [xp.tensor(a, requires_grad=a.dtype.kind in "fc") for a in sample.args]


def random_like(xp: Place, xs: list[tg.Tensor]) -> list[tg.Tensor]:
    """Return random operands that are the same for equal shapes and kinds anywhere."""
    rng = np.random.default_rng(0)
    drawn = []
    for x in xs:
        v = np.asarray(rng.standard_normal(x.shape))
        is_complex = tg.isdtype(x.dtype, "complex floating")
        drawn.append(xp.tensor(v + 1j * rng.standard_normal(x.shape) if is_complex else v))
    return drawn


def inner(a: tg.Tensor, b: tg.Tensor) -> tg.Tensor:
    """Return the real inner product."""
    product = tg.conj(a) * b if tg.isdtype(a.dtype, "complex floating") else a * b
    return tg.sum(tg.real(product) if tg.isdtype(product.dtype, "complex floating") else product)


def floating(sample: Sample) -> tuple[int, ...]:
    """Return which arguments are differentiated by."""
    return tuple(i for i, a in enumerate(sample.args) if a.dtype.kind in "fc" and a.size)


def with_floating(sample: Sample, f: Any, xs: list[tg.Tensor]) -> Any:
    """Return a function of all arguments as one of those that are differentiated by."""
    where = floating(sample)
    return lambda *given: f(*[given[where.index(i)] if i in where else x for i, x in enumerate(xs)])


def first_derivatives(xp: Place, sample: Sample) -> list[tg.Tensor]:
    """Return the gradients of a random projection of the result, and a random tangent of it."""
    xs = [xp.tensor(a) for a in sample.args]
    f, given = with_floating(sample, sample.f, xs), [xs[i] for i in floating(sample)]
    y, pull = tg.vjp(f, *given)
    _, tangent = tg.jvp(f, given, random_like(xp, given))
    return [*pull(*random_like(xp, [y])), tangent]


def second_derivatives(xp: Place, sample: Sample) -> list[tg.Tensor]:
    """Return products of the Hessian of a number with a random direction: reverse and forward over reverse.

    The number is a projection and half the sum of the squares: linear functions have second derivatives to check too.
    """
    xs = [xp.tensor(a) for a in sample.args]
    given = [xs[i] for i in floating(sample)]
    (w,) = random_like(xp, [sample.f(*xs)])
    along = random_like(xp, given)

    def number(*args: tg.Tensor) -> tg.Tensor:
        y = sample.f(*args)
        return inner(w, y) + 0.5 * inner(y - w, y - w)

    gradients = tg.grad(with_floating(sample, number, xs), tuple(range(len(given))))

    def slope(*given: tg.Tensor) -> Any:
        return sum(inner(d, g) for d, g in zip(along, gradients(*given), strict=True))

    return [*tg.grad(slope, tuple(range(len(given))))(*given), *tg.jvp(gradients, given, along)[1]]


def same_as_numpy(xp: Place, sample: Sample, derivatives: Any) -> None:
    """Assert that derivatives are NumPy's, which are checked against finite differences."""
    if not floating(sample):
        return
    found = derivatives(xp, sample)
    with tg.default_device("cpu"):
        checked = [np.asarray(x) for x in derivatives(Place("cpu"), sample)]
    for got, expected in zip(found, checked, strict=True):
        like = xp.tensor(expected)
        assert (got.shape, got.dtype) == (like.shape, like.dtype)
        scale, tolerance = np.abs(expected).max(initial=1), 1e-9 if xp.double else 2e-4
        np.testing.assert_allclose(xp.values(got) / scale, expected / scale, rtol=tolerance, atol=tolerance)


@samples
def test_value(xp: Place, sample: Sample) -> None:
    out = sample.f(*[xp.tensor(a) for a in sample.args])
    xp.check(out, sample.reference(*sample.args), rtol=1e-10)


@differentiable
def test_first_derivative(xp: Place, sample: Sample) -> None:
    if sample.loose and not xp.double:
        pytest.skip("too close to a kink, or too badly conditioned, for float32")
    if xp.device == "cpu":
        gradcheck(sample.f, [xp.tensor(a) for a in sample.args], name=sample.name)
    else:
        same_as_numpy(xp, sample, first_derivatives)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.order > 1], ids=lambda s: s.name)
def test_second_derivative(xp: Place, sample: Sample) -> None:
    if not xp.double:
        pytest.skip("second derivatives are compared in float64")
    if xp.device.startswith("jax") and sample.name not in FIRST:
        pytest.skip(ENOUGH_FOR_JAX)
    if xp.device == "cpu":
        gradgradcheck(sample.f, [xp.tensor(a) for a in sample.args], name=sample.name)
    else:
        same_as_numpy(xp, sample, second_derivatives)


@pytest.mark.parametrize("name", ["exp", "multiply broadcast", "multiply complex", "qr (4, 2)"])
def test_finite_differences_everywhere(xp: Place, name: str) -> None:
    (sample,) = (s for s in SAMPLES if s.name == name)
    args = [xp.tensor(a) for a in sample.args]
    gradcheck(sample.f, args)
    if xp.double:
        gradgradcheck(sample.f, args)


@differentiable
def test_gradient_dtype_and_device(xp: Place, sample: Sample) -> None:
    if xp.device.startswith("jax") and sample.name not in FIRST:
        pytest.skip(ENOUGH_FOR_JAX)
    xs = leaves(xp, sample)
    single = {"float64": tg.float32, "complex128": tg.complex64}
    narrow = [
        tg.tensor(x.detach(), dtype=single.get(x.dtype.name), requires_grad=True) if x.requires_grad else x for x in xs
    ]
    mixed = [[narrow[0], *xs[1:]], [xs[0], *narrow[1:]]] if len(xs) > 1 else []  # in both orders
    for args in (xs, narrow, *mixed):
        for x in args:
            x.grad = None
        y = sample.f(*args)
        y.backward(tg.ones_like(y))
        for x in args:
            if x.requires_grad and x.grad is not None:
                assert (x.grad.dtype, x.grad.device, x.grad.shape) == (x.dtype, x.device, x.shape)


@differentiable
def test_extra_leading_axis(sample: Sample) -> None:
    """Two cotangents at once give the same as each alone."""
    place = Place("cpu")
    xs = leaves(place, sample)
    y = sample.f(*xs)
    rng = np.random.default_rng(0)
    seeds = np.asarray(rng.standard_normal((2, *y.shape))).astype(y.dtype.name)
    assert y._record is not None

    def walk(seed: np.ndarray[Any, Any]) -> list[Any]:
        assert y._record is not None
        found = dict(Walk({y._record: seed}, None, False).run(retain=True))
        return [found.get(x._record) for x in xs if x._record is not None]

    for both, *alone in zip(walk(seeds), walk(seeds[0]), walk(seeds[1]), strict=True):
        if both is not None:
            np.testing.assert_allclose(both, np.stack(alone), rtol=1e-10, atol=1e-12)


@differentiable
def test_layout_does_not_matter(sample: Sample) -> None:
    """Fortran order, negative strides, gaps between elements and read-only memory give the same gradients."""

    def gradients(args: list[Any]) -> list[Any]:
        xs = [tg.asarray(a, copy=False) for a in args]
        for x in xs:
            x.requires_grad = tg.isdtype(x.dtype, ("real floating", "complex floating"))
        y = sample.f(*xs)
        y.backward(tg.ones_like(y))
        return [np.asarray(x.grad) for x in xs if x.grad is not None]

    plain = gradients(list(sample.args))
    for layout in (
        lambda a: np.asfortranarray(a) if a.ndim else a,
        lambda a: a[::-1].copy()[::-1] if a.ndim else a,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
        lambda a: np.broadcast_to(a, a.shape),
    ):
        for got, expected in zip(gradients([layout(a) for a in sample.args]), plain, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


EXTENSIONS = {*tg.linalg.__all__, *tg.fft.__all__, *tg.signal.__all__, *tg.special.__all__} - {
    n for n in tg.__all__ if n != "fft"
}
EXTENSIONS |= {"ctc_loss"}  # which needs a class for the blank


@contextmanager
def what_libraries_lack(sample: Sample) -> Iterator[None]:
    """Skip where a library refuses empty or float16 operands in linear algebra, transforms and special functions."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        if sample.operation not in EXTENSIONS:
            raise
        pytest.skip(f"the library: {error}")


@pytest.mark.parametrize("xp", ["numpy", "strict-device1", "torch"], indirect=True)
@pytest.mark.parametrize("axis", [0, -1])
@differentiable
def test_length_zero(xp: Place, sample: Sample, axis: int) -> None:
    """With an axis cut to length zero, wherever NumPy takes that: the same shapes, and gradients of zeros."""
    if axis == -1 and sample.name == "getitem mask of rows":
        pytest.skip("the mask would not be of the rows")
    if sample.operation == "top_k" or (axis == -1 and sample.operation.startswith("segment")):
        pytest.skip("the count, or the numbers of segments, would not be those of the operand")
    args = [a[:0] if axis == 0 else a[..., :0] for a in map(np.atleast_1d, sample.args)]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a mean of nothing
        try:
            expected = np.asarray(sample.reference(*args))
        except (ValueError, IndexError, TypeError) as error:
            pytest.skip(f"NumPy: {error}")
        xs = [xp.tensor(a, requires_grad=a.dtype.kind in "fc") for a in args]
        with what_libraries_lack(sample):
            y = sample.f(*xs)
        if not isinstance(y, tg.Tensor):
            pytest.skip("Python's sum of no rows is 0")
        assert y.shape == expected.shape
        if y.requires_grad:
            y.backward(tg.ones_like(y))
    for x in xs:
        if x.grad is not None:
            assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if s.order and is_elementwise(s) and s.args[0].size], ids=lambda s: s.name
)
def test_no_axes(xp: Place, sample: Sample) -> None:
    """A Tensor of no axes has the value and gradient of one of one element."""
    one = [a.reshape(-1)[:1] for a in sample.args]
    results = []
    for args in (one, [a.reshape(()) for a in one]):
        xs = [xp.tensor(a, requires_grad=a.dtype.kind in "fc") for a in args]
        y = sample.f(*xs)
        y.backward(tg.ones_like(y))
        assert y.shape == args[0].shape
        assert all(x.grad is None or x.grad.shape == x.shape for x in xs)
        results.append([xp.values(x).reshape(-1) for x in (y, *[x.grad for x in xs]) if x is not None])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12 if xp.double else 1e-5)


@pytest.mark.parametrize("xp", ["numpy", "torch"], indirect=True)
@differentiable
def test_half_precision(xp: Place, sample: Sample) -> None:
    """float16 in gives float16 gradients, and the dtype that the library gives."""
    if any(a.dtype.kind == "c" for a in sample.args):
        pytest.skip("complex")
    half = [a.astype(np.float16) if a.dtype.kind == "f" else a for a in sample.args]
    xs = [tg.tensor(a, device=xp.device, requires_grad=a.dtype.kind == "f") for a in half]
    with what_libraries_lack(sample):
        y = sample.f(*xs)
        real = not tg.isdtype(y.dtype, "complex floating")
        if real and sample.operation not in EXTENSIONS:  # there libraries may widen
            assert y.dtype is tg.float16
        y.backward(tg.ones_like(y))
    full = [xp.tensor(a.astype(np.float64) if a.dtype == np.float16 else a, a.dtype.kind == "f") for a in half]
    z = sample.f(*full)
    z.backward(tg.ones_like(z))
    for x, exact in zip((y, *[x.grad for x in xs]), (z, *[x.grad for x in full]), strict=True):
        if x is not None:
            assert x.dtype is tg.float16 or x is y
            scale = np.abs(xp.values(exact)).max(initial=1)
            np.testing.assert_allclose(xp.values(x) / scale, xp.values(exact) / scale, atol=1e-2)


def test_every_function_is_accounted_for() -> None:
    """Each public function has a rule, is composed, or is declared nondifferentiable: exactly one of the three."""
    for shown, name, _ in table.functions():
        assert len(table.derivatives(name)) == 1, f"{shown}: {table.derivatives(name)}"


def test_every_function_has_a_sample() -> None:
    sampled = {s.operation for s in SAMPLES}
    inner = {"index_add", "to_device", "kink"}  # of the walk (tested with second derivatives); in test_backends
    # Of rules alone, and so tested with second derivatives:
    inner |= {"conv_weight", "gap", "pool_gather", "pool_scatter", "sigmoid_slope", "standardised", "tanh_slope"}
    inner |= {"window_spread", "window_sum"}
    inner |= {"gamma_sample"}  # of generators of random numbers, in test_random
    assert not {name.partition(" ")[0] for name in rules.OPERATIONS} - inner - sampled, "add a sample of each"
    assert not rules.COMPOSED - {"asarray"} - sampled, "add a sample of each"
    inner = {"constant_sign", "cumulative_place", "imag_of_real", "from_dlpack"}  # of sign, of imag; in test_values
    inner |= {"draw", "skip"}  # of generators of random numbers, in test_random
    inner |= {"can_cast", "fftfreq", "finfo", "iinfo", "isin", "result_type", "rfftfreq", "searchsorted", "matrix_rank"}
    assert not rules.NONDIFFERENTIABLE - inner - sampled, "add a sample of each"  # the second line: in test_standard


def test_what_each_operation_saves() -> None:
    """The table is checked in: a rule that starts to keep an array more is seen here."""
    arrays = {
        name: " ".join(n for n, source in zip(op.saves, op.sources, strict=True) if source != -2)
        for name, op in sorted(rules.OPERATIONS.items())
    }
    keep_x = (
        "abs acos acosh asin asinh atan atanh cos cosh expm1 log log10 log1p log2 sin sinh square "
        "cumulative_prod prod tan var "
        "digamma entr erf erfc gammaln i0 log_expit logit ndtr polygamma"
    )
    keep_out = "exp log_softmax relu sigmoid softmax sqrt tanh reciprocal"
    keep_nothing = (
        "add astype broadcast_to concat conj cumulative_sum fft flip getitem imag index_add irfft matrix_transpose "
        "mean negative permute_dims positive real reshape rfft roll setitem stack subtract sum to_device tril triu "
        "unstack"
    )
    expected = dict.fromkeys(keep_x.split(), "x") | dict.fromkeys(keep_out.split(), "out")
    expected |= dict.fromkeys(keep_nothing.split(), "")
    expected |= dict.fromkeys(("min", "max", "logsumexp", "cumulative_logsumexp", "std"), "x out")
    expected |= dict.fromkeys(("segment_max", "segment_min"), "x ids out")
    expected |= dict.fromkeys(("erfcx", "erfinv", "ndtri", "i0e", "i1", "i1e", "log_ndtr", "sinc"), "x out")
    expected |= dict.fromkeys(("matmul", "multiply", "vecdot"), "x1 x2")
    expected |= dict.fromkeys(
        ("atan2", "divide", "hypot", "logaddexp", "maximum", "minimum", "pow", "remainder"), "x1 x2 out"
    )
    expected |= dict.fromkeys(("betaln", "rel_entr", "xlog1py", "xlogy"), "x1 x2 out")
    expected |= dict.fromkeys(("gammainc", "gammaincc"), "x1 x2 out")
    expected |= {
        "clip": "x",
        "clip arrays": "x low high",
        "copysign": "x1 out",
        "cross_entropy": "logits labels cache",
        "cross_entropy probabilities": "logits labels cache",
        "dropout": "key count",
        "gamma_sample": "a out",
        "gelu": "x cache",
        "polygamma orders": "n x",
        "silu": "x cache",
        "where": "condition",
    }
    expected |= dict.fromkeys((name for name in arrays if name.endswith(" slope")), "x out")
    expected |= dict.fromkeys((f"{name} slope" for name in ("gelu", "log_expit", "logaddexp", "silu")), "x")
    expected |= {"kink": "at", "gap of reciprocals": "a b", "sigmoid_slope": "x out", "tanh_slope": "x out"}
    expected |= {"take": "", "take_along_axis": ""}
    expected |= {"inv": "out", "cholesky": "out", "det": "x out", "pinv": "x out", "solve": "x1 x2 out"}
    expected |= dict.fromkeys(("eigh", "eig", "svd", "qr", "standardised"), "outs")
    expected |= {"slogdet": "x outs"}
    expected |= dict.fromkeys(("fold", "max_pool", "pad", "pool_gather", "pool_scatter", "unfold"), "")
    expected |= {"conv": "x w", "conv_transpose": "x w", "conv_weight": "x1 x2", "window_spread": "", "window_sum": ""}
    expected |= {"solve_triangular": "a out", "expm": "x"}
    expected |= {"vector_norm": "x out", "diagonal": ""}
    expected |= {"attention": "q k v mask out cache", "ctc_loss": "x states lengths counts"}
    expected |= {"layer_norm": "x w cache"}
    pairs = {n: (set(a.split()), set(expected[n].split()) if n in expected else None) for n, a in arrays.items()}
    assert {n: pair for n, pair in pairs.items() if pair[0] != pair[1]} == {}, "name: (what it saves, what is listed)"
    assert not expected.keys() - arrays.keys(), "listed, and no operation"


@pytest.mark.parametrize(
    ("f", "kept"),
    [
        (lambda x, c: x * c, 80),
        (lambda x, c: x / c, 80),
        (lambda x, c: x + c, 0),
        (lambda x, c: x - 2.0 * c, 0),
        (lambda x, c: x**2, 80),
        (lambda x, c: tg.where(c > 0, x, 0.0), 10),
        (lambda x, c: tg.maximum(x, c), 160),
    ],
)
def test_only_what_a_tracked_operand_needs_is_saved(f: Any, kept: int) -> None:
    x = tg.tensor(np.ones(10), requires_grad=True)
    c = tg.tensor(np.arange(1.0, 11.0))
    with tg.Tape() as tape:
        f(x, c)
    assert tape[-1].saved == kept
