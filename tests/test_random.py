"""Random numbers: their bits, their distributions, their state, under every transform."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import backends
from tapegrad.random import Generator, bits
from tapegrad.testing import gradcheck, gradgradcheck

# Random123's kat_vectors for philox4x64 with 10 rounds: counter, key and block.
ONES = 2**64 - 1
KNOWN = [
    ([0] * 4, [0] * 2, ["16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b"]),
    ([ONES] * 4, [ONES] * 2, ["87b092c3013fe90b", "438c3c67be8d0224", "9cc7d7c69cd777b6", "a09caebf594f0ba0"]),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        ["a528f45403e61d95", "38c72dbd566e9788", "a5a1610e72fd18b5", "57bd43b5e52b7fe6"],
    ),
]


def as_words(numbers: list[int]) -> np.ndarray[Any, Any]:
    """Return numbers of 64 bits as words of 32, the lowest first."""
    return np.asarray([(x >> s) & 0xFFFFFFFF for x in numbers for s in (0, 32)], np.uint32)


def before(counter: list[int]) -> list[int]:
    """Return the counter before one: a draw begins with the block after its counter."""
    n = (sum(x << 64 * i for i, x in enumerate(counter)) - 1) % 2**256
    return [(n >> 64 * i) & ONES for i in range(4)]


@pytest.mark.parametrize("case", range(3))
def test_known_answers(xp: Any, case: int) -> None:
    counter, key, block = KNOWN[case]
    words = [tg.asarray(as_words(x), device=xp.device) for x in (key, before(counter))]
    found = bits(words[0], words[1], 8)
    assert found.dtype is tg.uint32
    assert np.asarray(found.tolist(), np.uint32).tolist() == as_words([int(x, 16) for x in block]).tolist()


def test_first_numbers_are_those_of_numpy(xp: Any) -> None:
    theirs = np.random.Generator(np.random.Philox(2026)).random(11, dtype=np.float32)
    assert Generator(2026, device=xp.device).uniform((11,), dtype="float32").tolist() == theirs.tolist()


@pytest.fixture
def not_jax(xp: Any) -> Any:
    """Give each place but JAX, where each call is compiled for each shape."""
    if xp.device.startswith("jax"):
        pytest.skip("JAX compiles each call for each shape: other tests draw there")
    return xp


# -- the same everywhere ------------------------------------------------------------------------------------


def draws(rng: Generator) -> dict[str, tg.Tensor]:
    """Return draws of each kind that are equal to the bit."""
    return {
        "uniform": rng.uniform((3, 5), dtype="float32"),
        "bounds": rng.uniform(4, -2.0, 6.0, dtype="float32"),
        "integers": rng.integers((7,), -5, 1000),
        "all of 32 bits": rng.integers(5, -(2**31), 2**31, dtype="int32"),
        "bytes": rng.integers(5, 0, 256, dtype="uint8"),
        "bounds as Tensors": rng.integers((2, 3), tg.asarray([-3, 0, 9], device=rng.device), 10),
        "bernoulli": rng.bernoulli(0.3, 20),
        "permutation": rng.permutation(23),
        "choice": rng.choice(9, 4),
        "replaced": rng.choice(9, 11, replace=True),
        "children": tg.stack([child.uniform(2, dtype="float32") for child in rng.split(2)]),
    }


def test_the_bits_are_the_same_everywhere(xp: Any) -> None:
    found, expected = draws(Generator(8, device=xp.device)), draws(Generator(8, device="cpu"))
    for name, x in found.items():
        assert x.tolist() == expected[name].tolist(), name
        assert x.device == tg.zeros(0, device=xp.device).device


def test_the_other_numbers_are_the_same_up_to_rounding(xp: Any) -> None:
    def numbers(device: str) -> list[tg.Tensor]:
        rng = Generator(9, device=device)
        return [
            rng.normal(201, dtype="float32"),
            rng.exponential(50, dtype="float32"),
            rng.gumbel(50, dtype="float32"),
            rng.truncated_normal(50, dtype="float32"),
            rng.gamma((2, 20), 0.7, 3.0, dtype="float32"),
        ]

    for x, y in zip(numbers(xp.device), numbers("cpu"), strict=True):
        np.testing.assert_allclose(np.asarray(x.tolist()), np.asarray(y.tolist()), rtol=3e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_numbers_keep_their_digits(dtype: Any) -> None:
    mpmath = pytest.importorskip("mpmath")
    rng = Generator(4, device="cpu")
    words = [int(w) for w in bits(rng.key, rng.count, 800 if dtype == "float64" else 400).tolist()]
    found = rng.normal(400, dtype=dtype).tolist()
    eps = float(np.finfo(dtype).eps)
    with mpmath.workdps(40):
        for i in range(200):
            if dtype == "float64":
                r, o = words[2 * i] | words[2 * i + 1] << 32, words[400 + 2 * i] | words[400 + 2 * i + 1] << 32
                u, part = (mpmath.mpf(r >> 11) + 0.5) / 2**53, (mpmath.mpf(o >> 11) + 0.5) / 2**53
            else:
                r, o = words[i], words[200 + i]
                u, part = (mpmath.mpf(r) + 0.5) / 2**32, (mpmath.mpf(o >> 3) + 0.5) / 2**29
            radius = mpmath.sqrt(-2 * mpmath.log(u))
            pair = [radius * f(part * mpmath.pi / 4) for f in (mpmath.cos, mpmath.sin)]
            x, y = pair[::-1] if o & 1 else pair
            for got, exact in zip((found[i], found[200 + i]), (-x if o & 2 else x, -y if o & 4 else y), strict=True):
                # u is rounded to the dtype, which moves the logarithm of a u near 1.
                assert abs(got - exact) <= 4 * eps * abs(exact) + eps / radius * abs(exact) / radius


def test_composed_operations_give_the_bits_of_numpy() -> None:
    """The form for devices without a kernel: words of 64 bits, with a sign as on PyTorch, and halves of 16 bits."""
    from tapegrad.backends import _philox

    strict = pytest.importorskip("tapegrad.backends._strict").Adapter()
    numpy = backends.load("cpu")
    rng = np.random.default_rng(0)
    for name in ("uint64", "int64", "uint32"):
        for of in (strict, numpy):
            for lead in ((), (3,), (2, 1)):
                key, count = rng.integers(0, 2**32, 4, np.uint32), rng.integers(0, 2**32, (*lead, 8), np.uint32)
                count[..., :5] = 0xFFFFFFFF  # so that carries go on
                a = _philox.Words(of.xp, of.native_dtype, name)
                device = of.native_device("")
                given = [of.from_host(x, device) for x in (key, count)]
                found = of.to_host(a.cast(_philox.words(a, given[0], given[1], 21), "uint32"))
                assert found.tolist() == numpy.xp.draw(key, count, "bits", (21,), "uint32").tolist()
    longs = np.random.Philox(key=key.view(np.uint64), counter=count[0, 0].view(np.uint64)).random_raw(11)
    assert found[0, 0].tolist() == longs.view(np.uint32)[:21].tolist()
    several = _philox.skip(strict, strict.from_host(count, strict.native_device("")), (2, 3), 2**63 + 1, 2**40)
    assert strict.to_host(several).tolist() == numpy.xp.skip(count, (2, 3), 2**63 + 1, 2**40).tolist()


def test_counters_are_of_256_bits() -> None:
    from tapegrad.backends import _host_philox as host

    for start, step in ((0, 1), (5, 2**40), (2**64 - 1, 2**33)):
        for first in (0, 2**64 - 1, 2**128 - 2, 2**256 - 1, 2**200 + 2**64 - 3):
            count = np.asarray([(first >> 32 * i) & 0xFFFFFFFF for i in range(8)], np.uint32)
            for shape in ((), (3,), (2, 2)):
                found = host.skip(count, shape, start, step).reshape(-1, 8)
                numbers = [sum(int(w) << 32 * i for i, w in enumerate(row)) for row in found]
                more = [(start + step * i) % 2**64 for i in range(len(found))]
                assert numbers == [(first + m) % 2**256 for m in more]


def test_draws_of_several_counters_are_draws_of_each() -> None:
    key = tg.asarray(np.arange(8, dtype=np.uint32).reshape(2, 4))
    count = tg.asarray(np.arange(24, dtype=np.uint32).reshape(3, 1, 8))
    found = bits(key, count, 9)
    assert found.shape == (3, 2, 9)
    for i in range(3):
        for j in range(2):
            assert found[i, j].tolist() == bits(key[j], count[i, 0], 9).tolist()


# -- distributions ------------------------------------------------------------------------------------------

N = 20_000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("draw", "name", "arguments"),
    [
        (lambda rng, d: rng.uniform(N, -1.0, 3.0, dtype=d), "uniform", (-1, 4)),
        (lambda rng, d: rng.normal(N, 2.0, 0.5, dtype=d), "norm", (2, 0.5)),
        (lambda rng, d: rng.exponential(N, 4.0, dtype=d), "expon", (0, 0.25)),
        (lambda rng, d: rng.gumbel(N, 1.0, 2.0, dtype=d), "gumbel_r", (1, 2)),
        (lambda rng, d: rng.truncated_normal(N, dtype=d), "truncnorm", (-2, 2)),
        (lambda rng, d: rng.truncated_normal(N, low=3.0, high=4.5, dtype=d), "truncnorm", (3, 4.5)),
        (lambda rng, d: rng.truncated_normal(N, low=-6.0, high=-5.0, dtype=d), "truncnorm", (-6, -5)),
        (lambda rng, d: rng.gamma(N, 0.2, dtype=d), "gamma", (0.2,)),
        (lambda rng, d: rng.gamma(N, 1.0, 0.5, dtype=d), "gamma", (1, 0, 2)),
        (lambda rng, d: rng.gamma(N, 40.0, dtype=d), "gamma", (40,)),
    ],
)
def test_distributions(draw: Any, name: str, arguments: Any, dtype: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    x = draw(Generator(12, device="cpu"), dtype)
    assert x.dtype.name == dtype
    assert stats.kstest(np.asarray(x), name, arguments).pvalue > 1e-3


def test_discrete_distributions() -> None:
    chisquare = pytest.importorskip("scipy.stats").chisquare
    rng = Generator(13, device="cpu")
    p = np.asarray([0.1, 0.2, 0.3, 0.4])
    drawn: dict[str, tuple[tg.Tensor, Any]] = {
        "integers": (rng.integers(N, 0, 4), [0.25] * 4),
        "of 128 bits": (rng.integers(N, 0, 4 * 2**40) // 2**40, [0.25] * 4),
        "bernoulli": (tg.astype(rng.bernoulli(0.2, N), "int64"), [0.8, 0.2]),
        "choice": (rng.choice(4, N, replace=True, p=p), p),
        "categorical": (rng.categorical(tg.broadcast_to(tg.log(tg.asarray(p)), (N, 4))), p),
        "first of a permutation": (tg.stack([rng.permutation(4)[0] for _ in range(2000)]), [0.25] * 4),
        "first of a choice": (tg.stack([rng.choice(4, 2, p=p)[0] for _ in range(2000)]), p),
    }
    for name, (x, chances) in drawn.items():
        counts = np.bincount(np.asarray(x), minlength=len(chances))
        assert chisquare(counts, np.asarray(chances) * counts.sum()).pvalue > 1e-3, name
    assert sorted(rng.permutation(50).tolist()) == list(range(50))
    assert len(set(rng.choice(30, 12, p=np.full(30, 1 / 30)).tolist())) == 12
    never = rng.categorical(tg.broadcast_to(tg.asarray([0.0, -np.inf]), (N, 2)))
    assert not tg.any(never == 1)


def test_neighbouring_numbers_are_independent() -> None:
    stats = pytest.importorskip("scipy.stats")
    x = np.asarray(Generator(14, device="cpu").normal(2 * N))
    for lag in (1, 2, 8, N):
        assert stats.pearsonr(x[:-lag], x[lag:]).pvalue > 1e-3
    children = [np.asarray(c.uniform(N)) for c in Generator(15, device="cpu").split(2)]
    assert stats.pearsonr(*children).pvalue > 1e-3


@pytest.mark.parametrize("low", [-4.0, -1.0, 0.0, 2.0, 7.0])
def test_quantiles_of_the_normal_distribution(low: float) -> None:
    special = pytest.importorskip("scipy.special")
    from tapegrad.random.continuous import lower_quantile

    p = np.concat([np.geomspace(1e-30, 0.5, 200), [0.5]])
    np.testing.assert_allclose(np.asarray(lower_quantile(tg.asarray(p))), special.ndtri(p), rtol=1e-13, atol=1e-15)
    x = np.asarray(Generator(1, device="cpu").truncated_normal(1000, low=low, high=low + 0.5))
    assert x.min() >= low
    assert x.max() <= low + 0.5


# -- gradients ----------------------------------------------------------------------------------------------


def test_gradients_flow_to_the_parameters(not_jax: Any) -> None:
    def f(low: tg.Tensor, width: tg.Tensor, rate: tg.Tensor) -> tg.Tensor:
        rng = Generator(3, device=not_jax.device)
        u = rng.uniform((2, 3), low, low + width)
        z = rng.normal((2, 3), low, width)
        return tg.sum(tg.sin(u) + z * z + rng.exponential((2, 3), rate) * rng.truncated_normal((2, 3), width, rate))

    args = [not_jax.tensor(np.asarray(v)) for v in ([0.1, 0.2, -0.3], [1.0, 2.0, 0.5], 1.5)]
    if not_jax.double:
        gradcheck(f, args)
        gradgradcheck(f, args)
    else:
        assert all(bool(tg.all(tg.isfinite(g))) for g in tg.grad(f, (0, 1, 2))(*args))


def test_gradients_of_gamma_numbers(not_jax: Any) -> None:
    """By differences at one quantile, and to second order."""
    a = np.asarray([0.05, 0.4, 1.0, 1.7, 12.0, 300.0])
    x, pull = tg.vjp(lambda a: Generator(6, device=not_jax.device).gamma(6, a), not_jax.tensor(a))
    found = not_jax.values(pull(tg.ones(6, dtype=x.dtype))[0])
    gammaincinv = pytest.importorskip("scipy.special")
    x = not_jax.values(x).astype("float64")
    q, h = gammaincinv.gammainc(a, x), 1e-5 * a
    expected = (gammaincinv.gammaincinv(a + h, q) - gammaincinv.gammaincinv(a - h, q)) / (2 * h)
    np.testing.assert_allclose(found, expected, rtol=1e-6 if not_jax.double else 2e-3)


def test_slopes_of_gamma_numbers_are_right_everywhere() -> None:
    mpmath = pytest.importorskip("mpmath")
    special = pytest.importorskip("scipy.special")
    from tapegrad.ops.draws import gamma_slope

    xp = backends.load("cpu").xp
    a = np.asarray([1e-3, 0.1, 0.9, 1.0, 1.1, 3.0, 30.0, 1e4])[:, None]
    x = special.gammaincinv(a, np.asarray([0.01, 0.4, 0.7, 0.99, 1 - 1e-6]))
    a = np.broadcast_to(a, x.shape)[x > 0]
    x = x[x > 0]
    found = gamma_slope(xp, a, x)
    with mpmath.workdps(30):
        for i in range(len(x)):
            ends = (mpmath.mpf(x[i]), mpmath.inf) if x[i] > a[i] else (0, mpmath.mpf(x[i]))
            slope = mpmath.diff(lambda a, e=ends: mpmath.gammainc(a, *e, regularized=True), mpmath.mpf(a[i]))
            density = mpmath.exp((mpmath.mpf(a[i]) - 1) * mpmath.log(x[i]) - x[i] - mpmath.loggamma(a[i]))
            exact = (slope if x[i] > a[i] else -slope) / density
            assert abs(found[i] / exact - 1) < 3e-8, (a[i], x[i])
    single = gamma_slope(xp, a.astype("float32"), x.astype("float32"))
    np.testing.assert_allclose(single[x > 1e-30], found[x > 1e-30], rtol=2e-5)
    assert gamma_slope(xp, np.asarray(0.5), np.asarray(0.0)) == 0


def test_second_derivatives_of_gamma_numbers() -> None:
    def f(a: tg.Tensor, rate: tg.Tensor) -> tg.Tensor:
        return tg.sum(tg.sin(Generator(2).gamma((3, 2), a, rate)))

    with tg.default_device("cpu"):
        args = [tg.asarray([0.6, 3.0]), tg.asarray(1.5)]
        point = Generator(2).gamma((3, 2), args[0].detach(), 1.0)

        def smooth(a: tg.Tensor, rate: tg.Tensor) -> tg.Tensor:
            from tapegrad.ops.draws import gamma_sample

            return tg.sum(tg.sin(gamma_sample(a, point) / rate))

        # The rule of a number is differentiated by differences of itself at the same quantile.
        h = 1e-4
        slope = tg.grad(f, 0)
        second = tg.jvp(lambda a: slope(a, args[1]), (args[0],), (tg.ones(2),))[1]
        special = pytest.importorskip("scipy.special")
        q = special.gammainc(np.asarray(args[0]), np.asarray(point))

        def exact(a: Any) -> Any:
            return np.sin(special.gammaincinv(a, q) / 1.5).sum(axis=0)

        a = np.asarray(args[0])
        expected = (exact(a + h) - 2 * exact(a) + exact(a - h)) / h**2
        np.testing.assert_allclose(np.asarray(second), expected, rtol=1e-4, atol=1e-6)
        assert float(smooth(*args)) == float(f(*args))


# -- under transforms ---------------------------------------------------------------------------------------


class Noisy:
    """A generator as an attribute."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng

    def __call__(self, x: tg.Tensor) -> tg.Tensor:
        return x + self.rng.uniform((3,))


_everywhere: Any = None


def found_in(where: str, rng: Generator) -> Any:
    """Return a function that draws from a generator, which it has as a global, an attribute, a closure, an item."""
    global _everywhere
    if where == "global":
        _everywhere = rng
        return lambda x: (x * _everywhere.normal((2, 3)), tg.dropout(x, 0.5, _everywhere), _everywhere.permutation(4))
    if where == "attribute":
        return Noisy(rng)
    if where == "item":
        items = {"rng": [rng]}
        return lambda x: x * items["rng"][0].gamma((3,), 0.8)
    return lambda x: x * tg.astype(rng.integers((3,), 0, 10), x.dtype)


@pytest.mark.parametrize("where", ["global", "attribute", "item", "closure"])
def test_compiled_calls_draw_anew(xp: Any, where: str) -> None:
    rng, other = Generator(1, device=xp.device), Generator(1, device=xp.device)
    if xp.device.startswith("jax") and where in ("attribute", "item"):
        pytest.skip("JAX compiles each call for each shape: two ways are enough")
    compiled = tg.compile(found_in(where, rng))
    drawn = []
    for n in range(5):
        if n == 3:
            state = rng.state()
            rng.restore(Generator(77).state())  # between calls
        drawn.append(compiled(tg.ones(3)))
        if n == 3:
            rng.restore(state)
    eager = found_in(where, other)
    for n in (0, 1, 2, 4):
        expected = eager(tg.ones(3))
        pairs = zip(drawn[n], expected, strict=True) if isinstance(expected, tuple) else [(drawn[n], expected)]
        for x, y in pairs:
            np.testing.assert_allclose(xp.values(x), xp.values(y), rtol=1e-5)
    assert rng.count.tolist() == other.count.tolist()


def test_a_generator_as_an_argument_of_a_compiled_function() -> None:
    step = tg.compile(lambda rng, x: x + rng.uniform(3))
    rng, other = Generator(5), Generator(5)
    for _ in range(4):
        assert step(rng, tg.ones(3)).tolist() == (tg.ones(3) + other.uniform(3)).tolist()


def test_each_example_has_its_own_numbers(xp: Any) -> None:
    rng = Generator(2, device=xp.device)
    begin = rng.count.tolist()
    x = tg.vmap(lambda x: x + rng.uniform((5,)))(tg.zeros((3, 5)))
    for i in range(3):  # each goes on one block of 4 numbers or 8 after the other
        blocks = 2 if x.dtype.name == "float64" else 1
        count = tg.asarray([blocks * i, *begin[1:]], dtype="uint32")
        again = Generator.from_key(rng.key, count).uniform((5,))
        assert x[i].tolist() == again.tolist()
    rng.restore(Generator(2).state())
    compiled = tg.compile(lambda x: tg.vmap(lambda x: x + rng.uniform((5,)))(x))
    first = [compiled(tg.zeros((3, 5))).tolist() for _ in range(3)]
    assert first[0] == x.tolist()
    assert len({str(y) for y in first}) == 3


def test_numbers_inside_nested_maps_and_gradients() -> None:
    rng = Generator(3)
    x = tg.vmap(lambda x: tg.vmap(lambda y: y + rng.normal(()))(x))(tg.zeros((4, 6)))
    assert len(set(np.asarray(x).ravel().tolist())) == 24
    w = tg.asarray([1.0, 2.0])
    state = rng.state()
    each = tg.vmap(tg.grad(lambda w, x: tg.sum(w * x * rng.uniform(2))), in_axes=(None, 0))(w, tg.ones((3, 2)))
    rng.restore(state)
    assert each.tolist() == tg.vmap(lambda x: rng.uniform(2))(tg.ones((3, 2))).tolist()
    children = tg.vmap(lambda x: x + rng.split(2)[1].uniform(2))(tg.zeros((3, 2)))
    assert len(set(np.asarray(children).ravel().tolist())) == 6
    gammas = tg.vmap(lambda a: rng.gamma((2,), a))(tg.asarray([0.5, 3.0]))
    assert len(set(np.asarray(gammas).ravel().tolist())) == 4
    keys = tg.asarray(np.arange(12, dtype=np.uint32).reshape(3, 4))
    pure = tg.vmap(lambda key: bits(key, tg.zeros(8, dtype="uint32"), 5))(keys)
    assert pure[2].tolist() == bits(keys[2], tg.zeros(8, dtype="uint32"), 5).tolist()
    same = tg.vmap(lambda x: x + Generator(1).uniform(2))(tg.zeros((3, 2)))  # made inside: the same for all
    assert same[0].tolist() == same[2].tolist()


def test_checkpoints_draw_the_same_again(not_jax: Any) -> None:
    rng = Generator(4, device=not_jax.device)

    def layer(x: tg.Tensor) -> tg.Tensor:
        return tg.dropout(tg.sin(x), 0.5, rng) * rng.normal((6,)) + rng.gamma((6,), tg.exp(x[0]))

    def gradient(f: Any) -> Any:
        rng.restore(Generator(4).state())
        out = tg.grad(lambda x: tg.sum(f(f(x))))(not_jax.tensor(np.linspace(0.1, 1, 6)))
        return not_jax.values(out), rng.count.tolist()

    expected, count = gradient(layer)
    for f in (tg.checkpoint(layer), tg.checkpoint(lambda x: tg.checkpoint(layer)(x))):
        found, after = gradient(f)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert after == count


def test_checkpoints_draw_again_under_other_transforms() -> None:
    rng = Generator(4)

    def layer(x: tg.Tensor) -> tg.Tensor:
        return tg.sin(x) ** 3 * rng.normal((3,))

    def run(f: Any, transform: Any) -> Any:
        rng.restore(Generator(4).state())
        return np.asarray(transform(f)), rng.count.tolist()

    x = tg.asarray([0.1, 0.2, 0.3])
    for transform in (
        lambda f: tg.hessian(lambda x: tg.sum(f(x)))(x),
        lambda f: tg.jvp(f, (x,), (x,))[1],
        lambda f: tg.vmap(tg.grad(lambda x: tg.sum(f(x))))(tg.stack([x, x])),
        lambda f: tg.grad(lambda x: tg.sum(tg.vmap(f)(x)))(tg.stack([x, x])),
    ):
        expected, count = run(layer, transform)
        found, after = run(tg.checkpoint(layer), transform)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert after == count
    step = tg.compile(lambda x: tg.grad(lambda x: tg.sum(tg.checkpoint(layer)(x)))(x))
    rng.restore(Generator(4).state())
    found = [step(x).tolist() for _ in range(4)]
    rng.restore(Generator(4).state())
    assert found == [tg.grad(lambda x: tg.sum(layer(x)))(x).tolist() for _ in range(4)]


# -- dropout ------------------------------------------------------------------------------------------------


def test_dropout_keeps_no_mask(xp: Any) -> None:
    x = xp.tensor(np.ones(10_000), requires_grad=True)
    rng = Generator(1, device=xp.device)
    with tg.Tape() as tape:
        y = tg.dropout(x, 0.25, rng)
    assert tape[-1].saved == 48
    y.backward(tg.ones_like(y))
    assert x.grad is not None
    assert x.grad.tolist() == y.tolist()
    kept = np.asarray(y.tolist())
    np.testing.assert_allclose(kept[kept != 0], 4 / 3, rtol=1e-6)
    assert abs((kept == 0).mean() - 0.25) < 0.02


def test_rates_of_dropout() -> None:
    rng = Generator(1)
    x = tg.tensor([1.0, np.inf, -2.0], requires_grad=True)
    before = rng.count.tolist()
    assert tg.dropout(x, 0, rng).tolist() == x.tolist()
    assert rng.count.tolist() == before
    none = tg.dropout(x, 1, rng)
    assert none.tolist() == [0, 0, 0]
    none.backward(tg.ones(3))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 0]
    assert tg.dropout(tg.asarray([1, 2]), 0.5, rng).dtype is tg.float64
    assert tg.dropout(tg.zeros((0, 3)), 0.5, rng).shape == (0, 3)
    assert tg.dropout(tg.asarray(1j), 0.5, rng).dtype is tg.complex128


# -- state --------------------------------------------------------------------------------------------------


def test_state_is_put_back_in_place(xp: Any) -> None:
    rng = Generator(1, device=xp.device)
    key, count = rng.key, rng.count
    rng.normal(100)
    state = rng.state()
    first = rng.uniform(3).tolist()
    rng.restore(state)
    assert rng.uniform(3).tolist() == first
    rng.restore({**state, "key": tg.asarray(state["key"])})
    assert rng.uniform(3).tolist() == first
    assert rng.key is key
    assert rng.count is count


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_go_on_by_themselves(copied: Any) -> None:
    rng = Generator(1)
    rng.normal(5)
    other = copied(rng)
    first = other.uniform(4).tolist()
    assert rng.uniform(4).tolist() == first
    assert rng.key is not other.key
    other.uniform(4)
    assert rng.count.tolist() != other.count.tolist()


def test_threads_get_different_numbers() -> None:
    rng = Generator(1)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: tuple(rng.integers(2, 0, 2**60).tolist()), range(200)))
    assert len(set(rows)) == 200
    alone = Generator(1)
    assert set(rows) == {tuple(alone.integers(2, 0, 2**60).tolist()) for _ in range(200)}


def test_inside_a_function_that_jax_compiles() -> None:
    jax = pytest.importorskip("jax")
    rng = Generator(5, device="jax:cpu")

    def inside(key: Any, count: Any) -> Any:
        inner = Generator.from_key(key, count)
        return inner.uniform(3, dtype="float32").array, inner.count.array

    drawn = jax.jit(inside)
    first, count = drawn(rng.key.array, rng.count.array)
    second, _ = drawn(rng.key.array, count)
    assert [first.tolist(), second.tolist()] == [rng.uniform(3, dtype="float32").tolist() for _ in range(2)]
    before = rng.count.tolist()
    with pytest.raises(RuntimeError, match="pass its key and count as arguments"):
        jax.jit(lambda x: x + rng.uniform(3).array)(np.ones(3, np.float32))
    assert rng.count.tolist() == before


def test_arrays_of_dask() -> None:
    dask = pytest.importorskip("dask.array")
    tg.asarray(dask.ones(3))  # makes the library known
    found = Generator(5, device="dask:cpu").uniform((3, 3), dtype="float32")
    assert found.tolist() == Generator(5, device="cpu").uniform((3, 3), dtype="float32").tolist()


# -- what is refused ----------------------------------------------------------------------------------------

WRONG: list[tuple[type[Exception], str, Any]] = [
    (TypeError, "the seed is an integer from 0 on, as in Generator", lambda r: Generator(1.5)),  # type: ignore[arg-type]
    (TypeError, "the seed is an integer from 0 on", lambda r: Generator(None)),  # type: ignore[arg-type]
    (TypeError, "the seed is an integer from 0 on", lambda r: Generator(True)),
    (ValueError, "the seed is an integer from 0 on, not -1", lambda r: Generator(-1)),
    (ValueError, "unknown device", lambda r: Generator(1, device="tpu")),
    (TypeError, "a device is a string", lambda r: Generator(1, device=0)),  # type: ignore[arg-type]
    (ValueError, "no negative lengths", lambda r: r.uniform((2, -1))),
    (TypeError, "shape", lambda r: r.normal(2.5)),
    (ValueError, "low is less than high, not 1.0 and 1.0", lambda r: r.uniform(3, 1.0, 1.0)),
    (ValueError, "low is less than high", lambda r: r.uniform(3, 0.0, float("nan"))),
    (ValueError, "do not broadcast to the shape of the numbers", lambda r: r.normal(3, tg.zeros(4))),
    (ValueError, "do not broadcast to the shape of the numbers", lambda r: r.normal((), tg.zeros(4))),
    (TypeError, "parameters are real", lambda r: r.normal(3, 1j)),
    (TypeError, "dtype is a real floating one, not int64", lambda r: r.uniform(3, dtype="int64")),
    (ValueError, "std is 0 or more, not -1.0", lambda r: r.normal(3, 0.0, -1.0)),
    (ValueError, "rate is positive, not 0", lambda r: r.exponential(3, 0)),
    (ValueError, "rate is positive, which the Tensor", lambda r: r.exponential(3, tg.asarray(-1.0))),
    (ValueError, "concentration is positive", lambda r: r.gamma(3, 0.0)),
    (ValueError, "concentration is positive", lambda r: r.gamma(2, tg.asarray([1.0, -1.0]))),
    (ValueError, "scale is 0 or more", lambda r: r.gumbel(3, 0.0, -1.0)),
    (TypeError, "low and high are numbers", lambda r: r.truncated_normal(3, low=tg.asarray(0.0))),
    (ValueError, "low is less than high", lambda r: r.truncated_normal(3, low=2.0, high=-2.0)),
    (ValueError, "low is less than high, not 3 and 3", lambda r: r.integers(3, 3, 3)),
    (ValueError, "low is less than high, which", lambda r: r.integers(2, tg.asarray([1, 5]), 3)),
    (TypeError, "low and high are integers, not float", lambda r: r.integers(3, 0.0, 2)),
    (TypeError, "dtype is an integer one", lambda r: r.integers(3, 0, 2, dtype="float32")),
    (ValueError, "do not fit in int8", lambda r: r.integers(3, 0, 1000, dtype="int8")),
    (ValueError, "probabilities are from 0 to 1, not 1.5", lambda r: r.bernoulli(1.5)),
    (ValueError, "probabilities are from 0 to 1", lambda r: r.bernoulli(tg.asarray([0.5, -0.1]))),
    (ValueError, "probabilities are from 0 to 1", lambda r: r.bernoulli(float("nan"))),
    (TypeError, "a number of items is an integer", lambda r: r.permutation(2.5)),
    (ValueError, "a number of items is not negative", lambda r: r.permutation(-1)),
    (TypeError, "an axis to permute", lambda r: r.permutation(tg.asarray(0.5))),
    (ValueError, "5 of 3 items without replacement: pass replace=True", lambda r: r.choice(3, 5)),
    (ValueError, "no items", lambda r: r.choice(0, 1, replace=True)),
    (ValueError, r"p has shape \(2,\), and there are 3 items", lambda r: r.choice(3, 1, p=[0.5, 0.5])),
    (ValueError, "add up to 1", lambda r: r.choice(2, 1, replace=True, p=[0.5, 0.4])),
    (ValueError, "at least 2 probabilities are positive", lambda r: r.choice(2, 2, p=[1.0, 0.0])),
    (ValueError, "no categories", lambda r: r.categorical(tg.zeros((3, 0)))),
    (ValueError, "a number of items is not negative", lambda r: r.split(-1)),
    (ValueError, "a state is a dict", lambda r: r.restore({"key": 1})),
    (ValueError, "a state of 'pcg64'", lambda r: r.restore({**r.state(), "kind": "pcg64"})),
    (ValueError, r"'count' has shape \(3,\)", lambda r: r.restore({**r.state(), "count": np.zeros(3, np.uint32)})),
    (ValueError, "dtype float64", lambda r: r.restore({**r.state(), "key": np.zeros(4)})),
    (TypeError, "words are of uint32", lambda r: Generator.from_key(tg.zeros(4))),
    (ValueError, "key: 4 words", lambda r: bits(tg.zeros(3, dtype="uint32"), tg.zeros(8, dtype="uint32"), 1)),
    (TypeError, "rng is a generator", lambda r: tg.dropout(tg.ones(2), 0.5, np.random.default_rng(0))),  # type: ignore[arg-type]
    (TypeError, "rate is a number", lambda r: tg.dropout(tg.ones(2), tg.asarray(0.5), r)),  # type: ignore[arg-type]
    (ValueError, "rate is from 0 to 1, not 1.5", lambda r: tg.dropout(tg.ones(2), 1.5, r)),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_bad_input_is_refused(case: int) -> None:
    kind, message, call = WRONG[case]
    rng = Generator(1, device="cpu")
    state = rng.state()
    with pytest.raises(kind, match=message):
        call(rng)
    if "restore" in message or "state" in message or "has shape" in message:
        assert all(np.array_equal(state[k], v) for k, v in rng.state().items())


def _drawn_by(backend: Any, form: str, dtype: str, key: Any, count: Any) -> Any:
    return backend.xp.draw(key, count, form, (3, 3), dtype, 2**31)


def test_the_form_of_pytorch_on_other_devices_and_in_its_programs() -> None:
    torch = pytest.importorskip("torch")
    from torch.fx.experimental.proxy_tensor import make_fx

    from tapegrad.backends import _philox
    from tapegrad.backends._torch_functions import tracing

    numpy, backend = backends.load("cpu"), backends.load("torch")
    key, count = np.arange(4, dtype=np.uint32), np.full((2, 8), 0xFFFFFFFF, np.uint32)
    given = torch.from_numpy(key), torch.from_numpy(count)
    for form, dtype in (("bits", "uint32"), ("uniform", "float64"), ("uniform", "float16"), ("at least", "bool")):
        expected = numpy.xp.draw(key, count, form, (3, 3), dtype, 2**31)
        found = _philox.draw(backend, *given, form, (3, 3), dtype, 2**31)  # in integers with a sign, as on a GPU
        assert found.numpy().tolist() == expected.tolist()
        with tracing:
            graph = make_fx(partial(_drawn_by, backend, form, dtype))(*given)
        assert [str(node.target) for node in graph.graph.nodes if node.op == "call_function"] == [
            "tapegrad.draw.default"
        ]
        out = graph(*given)
        assert out.is_contiguous()
        assert out.numpy().tolist() == expected.tolist()
    normal = _philox.draw(backend, *given, "normal", (9,), "float64").numpy()
    np.testing.assert_allclose(normal, numpy.xp.draw(key, count, "normal", (9,), "float64"), rtol=1e-15)
    skipped = _philox.skip(backend, given[1], (2,), 2**63 + 1, 2**63).numpy()
    assert skipped.tolist() == numpy.xp.skip(count, (2,), 2**63 + 1, 2**63).tolist()


def test_half_precision() -> None:
    rng = Generator(1, device="cpu")
    for x in (
        rng.uniform(2000, dtype="float16"),
        rng.normal(2000, dtype="float16"),
        rng.gamma(50, 2.0, dtype="float16"),
    ):
        assert x.dtype is tg.float16
        assert bool(tg.all(tg.isfinite(x)))
    u = np.asarray(Generator(1, device="cpu").uniform(2000, dtype="float16"), np.float64)
    assert u.max() < 1
    assert (u * 2**11 == np.round(u * 2**11)).all()
    torch = pytest.importorskip("torch")
    y = Generator(1, device="torch:cpu").uniform(2000, dtype="bfloat16")
    assert y.array.dtype is torch.bfloat16
    expected = Generator(1, device="cpu").numbers("bits", (2000,), "uint32")
    assert np.asarray(y.array.float()).tolist() == (np.asarray(expected >> 24) / 256).tolist()
