"""Random programs over arrays of all kinds, each differentiated, compiled and mapped in several ways that must agree.

    PYTHONPATH=tests:. python -m random_programs 100000 [first seed]

A program is a list of lines over a growing list of variables: indexing, writing, linear algebra, Fourier transforms,
complex and mixed dtypes, arrays of no axes and of no elements. It is made by trial: lines that are refused, or give
what is not finite or large, are left out. Kinks, jumps and cuts lie at numbers of their own: see `apart`. Random points
lie apart from them. Where a difference and a derivative disagree, the step is made finer, then the point is moved. Only
what disagrees by each step at each of several points counts. Other programs meet kinks on purpose: their arguments are
round numbers, of which many are 0 or equal. There is no derivative to compare with there, but the modes agree on it:
see `check_kinks`.

The command does all checks for each program. The tests take some of them in turn: see `in_turn`. A program that fails
is reduced by `python -m reduced_programs`.
"""

from __future__ import annotations

import random
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import tapegrad as tg

Random = random.Random
Line = Callable[[Random, Any, Any], Any]
Array = np.ndarray[Any, Any]
REFUSALS = (TypeError, ValueError, IndexError, NotImplementedError)
SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (3,),
    (3,),
    (2, 3),
    (3, 3),
    (3, 3),
    (1, 3),
    (2, 3, 3),
    (0,),
    (2, 0),
    (0, 3),
)
DTYPES = ("float64", "float64", "float32", "complex128", "complex64")
WIDE = {"float32": "float64", "complex64": "complex128"}
LARGE = 30.0
ROUND = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 2.0)
STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))  # of fourth order
STEPS = (1e-3, 1e-4, 1e-5)  # finer ones for points with a pole or a kink nearby
POINTWISE = (
    *("sin", "cos", "tanh", "exp", "square", "negative", "positive", "expm1"),
    *("sinh", "atan", "asinh", "reciprocal", "log", "sqrt", "conj", "sigmoid"),
)


# -- lines ---------------------------------------------------------------------------------------------------------


def is_complex(x: Any) -> bool:
    return "complex" in x.dtype.name


def _any(r: Random, *some: Any) -> Any:
    return r.choice(some)


def real(x: Any) -> Any:
    return tg.real(x) if is_complex(x) else x


def apart(r: Random) -> float:
    """Return a number that no line computes, to put a kink, a jump or a cut there.

    At 0 it would be met: by a difference of equals, exactly, or by the rounding of one, which has no derivative. So
    would an order of numbers be that are equal but for rounding.
    """
    return r.uniform(0.01, 0.03)


def jump(r: Random, x: Any) -> float:
    """Return a number to put a jump at: as `apart`, and never 0 for a complex x.

    The real part of (0.5 + 0.5i)^2 is 0 with two roundings, and 2e-17 where a library adds with one. So vmap, which
    calls another function of it, would choose another side.
    """
    at = apart(r)
    return 0.02 if at == 0 and is_complex(x) else at


class AtKinks(Random):
    """Random choices that put all kinks where numbers are."""

    def uniform(self, a: float, b: float) -> float:
        super().uniform(a, b)
        return 0.0


def axis_of(r: Random, x: Any) -> Any:
    return r.randrange(-x.ndim, x.ndim)


def axes_of(r: Random, x: Any) -> Any:
    some = tuple(i - r.choice((0, x.ndim)) for i in range(x.ndim) if r.random() < 0.5)
    return r.choice([None, axis_of(r, x), some]) if x.ndim else None


def indices(r: Random, n: int, shape: tuple[int, ...]) -> Array:
    return np.asarray([r.randrange(-n, n) for _ in range(int(np.prod(shape)))], dtype=np.int64).reshape(shape)


def part(r: Random, n: int) -> slice:
    ends = [None, 0, 1, n - 1, n, -1, n + 2]
    return slice(r.choice(ends), r.choice(ends), r.choice([None, 1, 2, -1, -2]))


def key_of(r: Random, x: Any) -> Any:
    """Return a key of any kind for an array; masks are few, since compiled functions refuse them."""
    if not x.ndim:
        return r.choice([(), ..., (..., None), None])
    kind = r.randrange(8)
    if kind == 0 and r.random() < 0.3:
        return np.asarray([r.random() < 0.6 for _ in range(x.size)], dtype=bool).reshape(x.shape)
    if kind == 1 and r.random() < 0.3:
        return np.asarray([r.random() < 0.6 for _ in range(x.shape[0])], dtype=bool)
    if kind == 2 and x.shape[0]:
        made: Any = r.choice([list, np.asarray, tg.asarray])
        return made(indices(r, x.shape[0], (r.choice((2, 4)),)).tolist())
    shape = r.choice([(2,), (2, 1), ()])
    key: list[Any] = []
    for n in x.shape:
        how = r.randrange(5)
        if how == 0 and n:
            key.append(r.randrange(-n, n))
        elif how == 1 and n and kind == 3:
            key.append(indices(r, n, shape if shape else (2,)))
        elif how == 2:
            key.append(slice(None))
        else:
            key.append(part(r, n))
    if r.random() < 0.2:
        key.insert(r.randrange(len(key) + 1), None)
    if r.random() < 0.3:
        i = r.randrange(len(key) + 1)
        key[i : i + r.randrange(2)] = [...]
    return tuple(key) if len(key) > 1 or r.random() < 0.5 else key[0]


def indexed(r: Random, x: Any, y: Any) -> Any:
    return x[key_of(r, x)]


def written(r: Random, x: Any, y: Any) -> Any:
    """Write to a copy: numbers, a part of another array, or its own elements, changed."""
    z = tg.asarray(x, copy=True)
    for _ in range(r.randint(1, 2)):
        key = key_of(r, z)
        how = r.randrange(6)
        if how == 0:
            z[key] = r.choice([2, 0.5, np.float64(1.5)])
        elif how == 1:
            z[key] = tg.sin(z[key]) + 0.5
        elif how == 2:
            z[key] = y
        elif how == 3:
            z[key] *= 0.5
        elif how == 4:
            z[key] += y[r.choice([0, -1])] if y.ndim and y.shape[0] else y
        else:
            z += r.choice([1.5, y, z])
    return z


def square(x: Any) -> Any:
    """Return a stack of square matrices that holds an array's numbers, and no eigenvalue near 0 or another."""
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        v = tg.reshape(x, (-1,))[:2]
        x = tg.concat([v, tg.full((4 - v.shape[0],), 0.3, dtype=v.dtype)])
        x = tg.reshape(x, (2, 2))
    n = x.shape[-1]
    return 0.2 * x + tg.asarray(np.diag(1.0 + np.arange(n)), dtype=x.dtype)


def hermitian(x: Any) -> Any:
    m = square(x)
    return (m + (tg.conj(m.mT) if is_complex(m) else m.mT)) * 0.5


def right_side(m: Any, y: Any) -> Any:
    n = m.shape[-1]
    v = tg.reshape(y, (-1,))[:n]
    return tg.concat([v, tg.ones((n - v.shape[0],), dtype=v.dtype)])


def linear_algebra(r: Random, x: Any, y: Any) -> Any:
    la = tg.linalg
    m = square(x)
    how = r.randrange(16)
    if how == 0:
        return la.solve(m, right_side(m, y))
    if how == 1:
        return la.inv(m)
    if how == 2:
        return la.det(m) * 0.1
    if how == 3:
        sign, logarithm = la.slogdet(m)
        return sign * logarithm
    if how == 4:
        return la.cholesky(hermitian(x), upper=r.random() < 0.5)
    if how == 5:
        values, vectors = la.eigh(hermitian(x))
        return real(vectors * tg.conj(vectors)) @ values[..., None]
    if how == 6:
        return r.choice([la.eigvalsh, la.svdvals])(hermitian(x))
    if how == 7:
        q, s = la.qr(m + apart(r) * 1j if is_complex(m) else m)  # LAPACK's signs jump at matrices that are real
        return q @ s * 0.5 + tg.abs(s + apart(r))
    if how == 8:
        u, s, vh = la.svd(m, full_matrices=r.random() < 0.3)
        return (u * s[..., None, :]) @ vh + real(u * tg.conj(u))
    if how == 9:
        return la.matrix_power(m, r.choice([-2, -1, 0, 1, 2, 3])) * 0.2
    if how == 10:
        return la.pinv(m[..., :, :1] if r.random() < 0.5 else m)
    if how == 11:
        return la.matrix_norm(m + apart(r), ord=_any(r, "fro", "nuc", 2, 1, -1, np.inf), keepdims=r.random() < 0.5)
    if how == 12:
        return r.choice([la.trace, la.diagonal])(m, offset=r.choice([0, 1, -1]))
    if how == 13:
        return la.vector_norm(x + (2.0 + apart(r)), axis=axes_of(r, x) or None, ord=r.choice([1, 2, 3, np.inf, 0.5]))
    if how == 14:
        return la.outer(tg.reshape(x, (-1,))[:3], tg.reshape(y, (-1,))[:2])
    return la.cross(right_side(hermitian(tg.ones((3, 3))), x), right_side(hermitian(tg.ones((3, 3))), y))


def products(r: Random, x: Any, y: Any) -> Any:
    how = r.randrange(5)
    if how == 0:
        return 0.3 * (x @ y)
    if how == 1:
        return 0.3 * (x.mT @ y)
    if how == 2:
        return 0.3 * tg.tensordot(x, y, axes=_any(r, 0, 1, ((0,), (0,)), ((-1,), (-1,))))
    if how == 3:
        return tg.vecdot(x, y, axis=r.choice([-1, -1, -2]))
    return tg.linalg.outer(tg.reshape(x, (-1,)), tg.reshape(y, (-1,))[:2])


def transformed(r: Random, x: Any, y: Any) -> Any:
    """Transform by Fourier, along one axis or more."""
    z = tg.astype(x, "complex64" if x.dtype.name == "float32" else "complex128") if not is_complex(x) else x
    norm = r.choice(["backward", "ortho", "forward"])
    n = r.choice([None, None, 1, 2, 4, 5])
    axis = axis_of(r, x)
    how = r.randrange(7)
    if how == 0:
        return r.choice([tg.fft.fft, tg.fft.ifft])(z, n=n, axis=axis, norm=norm)
    if how == 1:
        return r.choice([tg.fft.rfft, tg.fft.ihfft])(real(x), n=n, axis=axis, norm=norm)
    if how == 2:
        return r.choice([tg.fft.irfft, tg.fft.hfft])(z, n=n, axis=axis, norm=norm)
    if how == 3:
        return r.choice([tg.fft.fftn, tg.fft.ifftn])(z, norm=norm)
    if how == 4:
        return tg.fft.rfftn(real(x), axes=(axis,), norm=norm)
    if how == 5:
        return tg.fft.irfftn(z, norm=norm)
    return r.choice([tg.fft.fftshift, tg.fft.ifftshift])(x, axes=r.choice([None, axis]))


def shaped(r: Random, x: Any, y: Any) -> Any:
    how = r.randrange(16)
    if how == 0:
        return tg.reshape(x, r.choice([(-1,), (x.size, 1), x.shape[::-1], (1, *x.shape)]))
    if how == 1:
        return tg.permute_dims(x, tuple(r.sample(range(x.ndim), x.ndim)))
    if how == 2:
        return tg.moveaxis(x, axis_of(r, x), axis_of(r, x))
    if how == 3:
        return tg.expand_dims(x, axis=r.randrange(-x.ndim - 1, x.ndim + 1))
    if how == 4:
        return tg.squeeze(x, axis=r.choice([i for i, n in enumerate(x.shape) if n == 1]))
    if how == 5:
        return tg.concat([x, y, x], axis=r.choice([None, 0, -1]))
    if how == 6:
        return tg.stack([x, y], axis=r.randrange(-x.ndim - 1, x.ndim + 1))
    if how == 7:
        return sum((v * (i + 0.5) for i, v in enumerate(tg.unstack(x, axis=axis_of(r, x)))), y)
    if how == 8:
        return tg.flip(x, axis=axes_of(r, x))
    if how == 9:
        return tg.roll(x, r.choice([1, -1, 2]), axis=r.choice([None, axis_of(r, x)]))
    if how == 10:
        counts: list[Any] = [2, tg.asarray([r.randrange(3) for _ in range(x.shape[-1])])]
        return tg.repeat(x, r.choice(counts), axis=-1)
    if how == 11:
        return tg.tile(x, r.choice([(2,), (1, 2), (2, 1)]))
    if how == 12:
        return tg.broadcast_to(x, (2, *x.shape))
    if how == 13:
        return r.choice([tg.tril, tg.triu])(x, k=r.choice([0, 1, -1]))
    if how == 14:
        a, b = tg.broadcast_arrays(x, y)
        return a - 0.5 * b
    return sum((v * 0.5 for v in tg.meshgrid(tg.reshape(x, (-1,))[:2], tg.reshape(y, (-1,))[:3])), 0.0)


def reduced(r: Random, x: Any, y: Any) -> Any:
    how, axis, keepdims = r.randrange(12), axes_of(r, x), r.random() < 0.5
    if how < 2:
        return r.choice([tg.sum, tg.mean])(x, axis=axis, keepdims=keepdims)
    if how == 2:
        return tg.prod(1.0 + 0.2 * x, axis=axis, keepdims=keepdims)
    if how == 3:
        return r.choice([tg.max, tg.min])(real(x), axis=axis, keepdims=keepdims)
    if how == 4:
        return tg.var(real(x), axis=axis, correction=r.choice([0.0, 0.5]), keepdims=keepdims)
    if how == 5:
        if x.shape[-1] < 2:
            raise ValueError("a kink: the deviation of one number")
        return tg.std(real(x) + tg.asarray(np.arange(x.shape[-1]), dtype=real(x).dtype), axis=-1)
    if how == 6:
        return tg.logsumexp(real(x), axis=axis, keepdims=keepdims)
    if how == 7:
        return tg.cumulative_sum(x, axis=axis_of(r, x), include_initial=r.random() < 0.5)
    if how == 8:
        return tg.cumulative_prod(1.0 + 0.2 * x, axis=axis_of(r, x), include_initial=r.random() < 0.5)
    if how == 9:
        return r.choice([tg.softmax, tg.log_softmax])(real(x), axis=axis_of(r, x))
    if how == 10:
        return tg.sort(real(x), axis=axis_of(r, x), descending=r.random() < 0.5)
    return tg.diff(x, axis=axis_of(r, x), n=r.choice([1, 2]))


def chosen(r: Random, x: Any, y: Any) -> Any:
    how = r.randrange(8)
    if how == 0:
        return tg.where(real(x) > jump(r, x), x, y)
    if how == 1:
        return tg.where(tg.asarray([True, False, True]), x, r.choice([y, 1.5]))
    if how == 2:
        return r.choice([tg.maximum, tg.minimum])(real(x) + apart(r), real(y))
    if how == 3:
        return tg.clip(real(x) + apart(r), r.choice([None, -0.6]), r.choice([None, 0.7]))
    axis = axis_of(r, x)
    if how == 4:
        return tg.take(x, tg.asarray(indices(r, x.shape[axis], (3,)) % max(x.shape[axis], 1)), axis=axis)
    if how == 5:
        ramp = jump(r, x) * np.moveaxis(np.arange(x.shape[axis]).reshape(-1, *[1] * (x.ndim - 1)), 0, axis)
        order = tg.argsort(real(x) + ramp, axis=axis)  # the real parts of a spectrum are equal in pairs
        return tg.take_along_axis(x, order, axis=axis)
    if how == 6:
        return x[tg.argmax(real(x[..., 0]) + jump(r, x) * np.arange(x.shape[0])) if x.ndim == 2 else 0]
    y = real(y) + jump(r, y)
    return tg.copysign(real(x) + apart(r), y) + tg.sign(y)


def pointwise(r: Random, x: Any, y: Any) -> Any:
    name = r.choice(POINTWISE)
    if name in ("log", "sqrt", "reciprocal"):
        x = x * (tg.conj(x) if is_complex(x) else x) + 0.7
    elif name in ("tanh", "atan", "asinh", "sinh", "expm1", "exp"):
        x = 0.3 * x + apart(r)  # not on a cut, the imaginary axis
    elif name == "sigmoid":
        x = real(x)
    return getattr(tg, name)(x)


def of_complex(r: Random, x: Any, y: Any) -> Any:
    how = r.randrange(7)
    if how == 0:
        return tg.real(x)
    if how == 1:
        return tg.imag(x)
    if how == 2:
        return tg.abs(x + (1.5 + apart(r)))
    if how == 3:
        return x * 1j + y
    if how == 4:
        return tg.exp(0.5j * x)
    if how == 5:
        return tg.conj(x) * y
    return real(x) + 1j * real(y)


def mixed(r: Random, x: Any, y: Any) -> Any:
    how = r.randrange(6)
    if how == 0:
        return tg.astype(x, "complex64" if is_complex(x) else "float32")
    if how == 1:
        return tg.astype(x, r.choice(["complex128"] if is_complex(x) else ["float64", "complex64"]))
    if how == 2:
        return x * tg.asarray(indices(r, 4, (x.shape[-1],)))
    if how == 3:
        return x + tg.astype(real(y) > jump(r, y), x.dtype)
    if how == 4:
        return x * np.asarray(indices(r, 4, x.shape), dtype=x.dtype.name)
    return tg.where(real(x) > jump(r, x), x, tg.asarray(1, dtype=x.dtype)) * r.choice([2, 0.5, True])


def arithmetic(r: Random, x: Any, y: Any) -> Any:
    how = r.randrange(9)
    if how == 0:
        return x + y
    if how == 1:
        return x - y
    if how == 2:
        return x * y
    if how == 3:
        return x / (2.5 + y * (tg.conj(y) if is_complex(y) else y))
    if how == 4:
        return r.choice([2, -1.5, 0.5]) * x + r.choice([0, 1.5])
    if how == 5:
        return (real(x) ** 2 + 0.5) ** r.choice([2, 0.5, -1, 1.5, tg.sin(real(y))])
    if how == 6:
        return r.choice([tg.hypot, tg.atan2, tg.logaddexp])(real(x) + (2.0 + apart(r)), real(y))
    if how == 7:
        return x**2 - y
    return (x + apart(r)) % 1.7 if not is_complex(x) else x - y


KINDS: dict[str, Line] = {
    f.__name__: f
    for f in (
        *(indexed, written, linear_algebra, products, transformed, shaped),
        *(reduced, chosen, pointwise, of_complex, mixed, arithmetic),
    )
}


# -- programs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A line: its kind, the variables that it takes, and the seed of its choices."""

    kind: str
    first: int
    second: int
    seed: int

    def run(self, choices: type[Random], env: list[Any]) -> Any:
        return KINDS[self.kind](choices(self.seed), env[self.first], env[self.second])


@dataclass(frozen=True)
class Program:
    """Lines over variables, the first of which are the arguments."""

    seed: int
    choices: type[Random]
    args: tuple[Array, ...]
    steps: tuple[Step, ...]
    outs: tuple[int, ...]

    def __call__(self, *xs: Any) -> list[Any]:
        env = self.variables(*xs)
        return [env[i] for i in self.outs]

    def variables(self, *xs: Any) -> list[Any]:
        env = list(xs)
        for s in self.steps:
            env.append(s.run(self.choices, env))
        return env


def argument(r: Random, rng: np.random.Generator) -> Array:
    shape, dtype = r.choice(SHAPES), r.choice(DTYPES)
    if isinstance(r, AtKinks):
        x = rng.choice(ROUND, shape) + (1j * rng.choice(ROUND, shape) if "complex" in dtype else 0.0)
        return np.asarray(x).astype(dtype)
    x = np.asarray(rng.uniform(0.15, 1.2, shape) * rng.choice([-1.0, 1.0], shape))
    if "complex" in dtype:
        x = np.asarray(x + 1j * rng.uniform(-1.0, 1.0, shape))
    return x.astype(dtype)


def fine(x: Any) -> bool:
    """Say whether a result may go on: a floating Tensor that is not large."""
    if not isinstance(x, tg.Tensor) or "floating" not in x.dtype.kind or x.size > 200 or x.ndim > 4:
        return False
    values = np.abs(np.asarray(x))
    return bool(np.isfinite(values).all()) and float(values.max(initial=0.0)) < LARGE


@contextmanager
def quiet() -> Iterator[None]:
    """Let no warning of a library be an error: of a division by zero, say, in a line that is then left out."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@quiet()
def made(seed: int, choices: type[Random] = Random) -> Program:
    """Return a random program; the same for the same seed."""
    r, rng = choices(seed), np.random.default_rng(seed)
    args = tuple(argument(r, rng) for _ in range(r.randint(1, 3)))
    env: list[Any] = [tg.asarray(a) for a in args]
    twin: list[Any] = [tg.asarray(a) for a in wide(args)]  # in double precision, where other lines may be refused
    steps: list[Step] = []
    for _ in range(r.randint(3, 12)):
        recent = range(max(0, len(env) - 3), len(env))
        s = Step(
            r.choice(list(KINDS)),
            r.choice([*recent, *recent, r.randrange(len(env))]),
            r.randrange(len(env)),
            r.randrange(1 << 30),
        )
        try:
            y, z = (s.run(choices, e) for e in (env, twin))
        except REFUSALS:
            continue
        if fine(y) and fine(z):
            env.append(y)
            twin.append(z)
            steps.append(s)
    used = {i for s in steps for i in (s.first, s.second)}
    outs = tuple(i for i in range(len(args), len(env)) if i not in used or i == len(env) - 1)
    return Program(seed, choices, args, tuple(steps), outs or (0,))


# -- checks --------------------------------------------------------------------------------------------------------


class Disagreement(AssertionError):
    """Two ways to compute the same gave different numbers."""


def host(x: Any) -> Array:
    return np.asarray(x.detach() if isinstance(x, tg.Tensor) else x)


def close(what: str, got: Any, expected: Any, rtol: float) -> None:
    a, b = host(got), host(expected)
    if a.shape != b.shape:
        raise Disagreement(f"{what}: shapes {a.shape} and {b.shape}")
    scale = float(np.abs(b).max(initial=0.0)) + 1e-2
    worst = float(np.abs(a.astype(complex) - b).max(initial=0.0))
    if not worst <= rtol * scale:
        raise Disagreement(f"{what}: {a.tolist()} and {b.tolist()}")


def flat(xs: Iterable[Any]) -> Array:
    """Return all elements of some arrays as one complex vector."""
    return np.concatenate([np.zeros(0, dtype=complex), *[host(x).ravel() for x in xs]])


def weights(p: Program, outs: list[Any]) -> list[Any]:
    rng = np.random.default_rng(5)
    return [tg.asarray(rng.standard_normal(y.shape), dtype=real(y).dtype) for y in outs]


def loss_of(p: Program) -> Callable[..., Any]:
    def loss(*xs: Any) -> Any:
        total: Any = 0.0
        for w, y in zip(weights(p, outs := p(*xs)), outs, strict=True):
            total = total + tg.sum(w * real(y)) + 0.2 * tg.sum(real(y) ** 2)
            if is_complex(y):
                total = total + tg.sum(w * tg.imag(y)) - 0.3 * tg.sum(tg.imag(y) ** 2)
        return total

    return loss


def directions(xs: list[Array], seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    out = []
    for x in xs:
        v = np.asarray(rng.standard_normal(x.shape))
        out.append(v + 1j * rng.standard_normal(x.shape) if x.dtype.kind == "c" else v)
    return out


def inner(gs: Any, vs: list[Array]) -> tuple[float, float]:
    """Return the derivative along a direction, and the size of its terms."""
    terms = [np.real(np.conj(host(g)) * v) for g, v in zip(gs, vs, strict=True)]
    return float(sum(t.sum() for t in terms)), float(sum(np.abs(t).sum() for t in terms))


def wide(args: Iterable[Array]) -> list[Array]:
    return [np.asarray(a, dtype=WIDE.get(a.dtype.name, a.dtype.name)) for a in args]


def single(p: Program) -> bool:
    """Say whether a program computes anything in single precision, though its arguments are double."""
    return any(x.dtype.name in WIDE for x in p.variables(*map(tg.asarray, wide(p.args))))


def differences(f: Callable[..., Any], xs: list[Array], vs: list[Array]) -> Iterator[Any]:
    """Yield the derivative of a function of raw arrays along a direction, by differences of finer and finer steps.

    The error of a step h is of order (h / d)^4 where a pole is at a distance d. A wrong derivative differs from all.
    """
    for h in STEPS:
        yield sum(c * f(*[x + k * h * v for x, v in zip(xs, vs, strict=True)]) for k, c in STENCIL) / h


def moved(xs: list[Array], attempt: int) -> list[Array]:
    rng = np.random.default_rng(attempt)
    return [np.asarray(x + 0.05 * rng.standard_normal(x.shape)) for x in xs]


def check_differences(p: Program) -> None:
    """Compare reverse and forward mode with each other, and with differences where all is in double precision."""
    xs = wide(p.args)
    loss = loss_of(p)
    n = len(xs)
    exact = not single(p)
    found = []
    for attempt in range(4):
        vs = directions(xs, attempt)
        value, gs = tg.value_and_grad(loss, tuple(range(n)))(*xs)
        for g, x in zip(gs, xs, strict=True):
            if host(g).dtype != x.dtype or host(g).shape != x.shape:
                raise Disagreement(f"gradient of {host(g).dtype}{host(g).shape} for {x.dtype}{x.shape}")
        along, size = inner(gs, vs)
        pushed = float(host(tg.jvp(loss, tuple(xs), tuple(vs))[1]))
        if not abs(along - pushed) <= (1e-9 if exact else 1e-4) * (size + abs(float(host(value))) + 1.0):
            raise Disagreement(f"reverse {along} and forward {pushed}")
        if not exact:
            return
        with tg.no_grad():
            for finite in differences(lambda *xs: float(host(loss(*map(tg.asarray, xs)))), xs, vs):
                if abs(finite - along) <= 2e-6 * (size + abs(finite) + 1.0):
                    return
        found.append(f"derivative {along}, difference {finite}")
        xs = moved(xs, attempt)
    raise Disagreement("; ".join(found))


def second_of(p: Program, xs: list[Array], vs: list[Array]) -> tuple[Any, Any, Any]:
    """Return the gradient, and its derivative along a direction: reverse over reverse and forward over reverse."""
    argnums = tuple(range(len(xs)))
    slopes = tg.grad(loss_of(p), argnums)

    def along(*xs: Any) -> Any:
        pairs = zip(slopes(*xs), vs, strict=True)
        return sum((tg.sum(tg.real(tg.conj(g) * v) if is_complex(g) else g * v) for g, v in pairs), tg.asarray(0.0))

    reverse = tg.grad(along, argnums)(*xs)
    return *tg.jvp(lambda *xs: list(slopes(*xs)), tuple(xs), tuple(vs)), reverse


def check_second(p: Program) -> bool:
    """Compare second derivatives along a direction: forward over reverse, reverse over reverse, and differences.

    False in single precision.
    """
    if single(p):
        return False
    xs = wide(p.args)
    slopes = tg.grad(loss_of(p), tuple(range(len(xs))))
    found = []
    for attempt in range(4):
        vs = directions(xs, 9 + attempt)
        first, forward, reverse = second_of(p, xs, vs)
        for a, b in zip(reverse, forward, strict=True):
            close("second derivative, reverse and forward over reverse", a, b, 1e-7)
        for finite in differences(lambda *xs: flat(slopes(*xs)), xs, vs):
            size = float(np.abs(flat(first)).max(initial=0.0) + np.abs(finite).max(initial=0.0)) + 1.0
            if float(np.abs(flat(forward) - finite).max(initial=0.0)) <= 1e-7 * size:
                return True
        found.append(f"second derivative {flat(forward).tolist()}, difference {finite.tolist()}")
        xs = moved(xs, attempt)
    raise Disagreement("; ".join(found))


def at_kinks(p: Program) -> Program:
    """Return the program of the same seed that meets kinks."""
    return p if p.choices is AtKinks else made(p.seed, AtKinks)


def check_kinks(p: Program) -> bool:
    """Compare the modes with each other, element by element, in a program that meets kinks: finite where the other is.

    A first derivative is a subgradient, which both modes choose; a second one may be NaN, in both. False in single
    precision.
    """
    p = at_kinks(p)
    if single(p):
        return False
    xs = wide(p.args)
    loss = loss_of(p)
    gs = tg.grad(loss, tuple(range(len(xs))))(*xs)
    r = Random(p.seed)
    for i, x in enumerate(xs):
        for k in r.sample(range(x.size), min(x.size, 3)):
            vs = [np.zeros_like(x) for x in xs]
            vs[i].reshape(-1)[k] = one = r.choice([1.0, 1j]) if x.dtype.kind == "c" else 1.0
            pushed = tg.jvp(loss, tuple(xs), tuple(vs))[1]
            close("reverse and forward at a kink", np.real(np.conj(host(gs[i]).ravel()[k]) * one), pushed, 1e-7)
    _, forward, reverse = second_of(p, xs, directions(xs, 9))
    a, b = flat(reverse), flat(forward)
    there = np.isfinite(a) | np.isfinite(b)
    close("second derivative at a kink, reverse and forward over reverse", a[there], b[there], 1e-7)
    return True


def check_dtypes(p: Program) -> None:
    """Compare a program of mixed precision with itself in double precision."""
    argnums = tuple(range(len(p.args)))
    loss = loss_of(p)
    _, gs = tg.value_and_grad(loss, argnums)(*p.args)
    _, exact = tg.value_and_grad(loss, argnums)(*wide(p.args))
    size = max((float(np.abs(host(g)).max(initial=0.0)) for g in exact), default=0.0)
    for g, a, e in zip(gs, p.args, exact, strict=True):
        if host(g).dtype != a.dtype:
            raise Disagreement(f"gradient of {host(g).dtype} for {a.dtype}")
        if not float(np.abs(host(g) - host(e)).max(initial=0.0)) <= 5e-3 * (size + 1.0):
            raise Disagreement(f"gradient {host(g).tolist()}, in double precision {host(e).tolist()}")


def check_compiled(p: Program) -> bool:
    """Compare calls of a compiled gradient with eager ones, at several points; False if it is refused."""
    argnums = tuple(range(len(p.args)))
    slopes = tg.value_and_grad(loss_of(p), argnums)
    compiled = tg.compile(slopes)
    double = all(a.dtype.name not in WIDE for a in p.args) and not single(p)
    for call in range(4):  # two are captured, two replayed
        xs = [tg.asarray(np.asarray(a * (1.0 + 0.01 * call), dtype=a.dtype)) for a in p.args]
        try:
            expected, es = slopes(*xs)
        except np.linalg.LinAlgError:
            return False  # a matrix that is not positive definite at this point
        try:
            value, gs = compiled(*xs)
        except tg.CaptureError:
            return False
        rtol = 1e-9 if double else 2e-4
        close(f"value of compiled call {call + 1}", value, expected, rtol)
        size = max((float(np.abs(host(e)).max(initial=0.0)) for e in es), default=0.0)
        for g, e in zip(gs, es, strict=True):
            if host(g).dtype != host(e).dtype or not np.abs(host(g) - host(e)).max(initial=0.0) <= rtol * (size + 1.0):
                raise Disagreement(f"gradient of compiled call {call + 1}: {host(g).tolist()} and {host(e).tolist()}")
    return True


def check_mapped(p: Program) -> bool:
    """Compare vmap of a program and of its gradient with a loop; False if it is refused."""
    many = [np.stack([a, np.asarray(a * 1.03, dtype=a.dtype)]) for a in p.args]
    axes: tuple[int | None, ...] = tuple(0 if i == 0 or i % 2 else None for i in range(len(many)))
    given = [tg.asarray(m if axis == 0 else m[0]) for m, axis in zip(many, axes, strict=True)]
    slopes = tg.grad(loss_of(p), tuple(range(len(many))))
    rtol = 1e-9 if all(a.dtype.name not in WIDE for a in p.args) and not single(p) else 2e-4
    for what, f in (("values", p), ("gradients", slopes)):
        try:
            each = [f(*[x[i, ...] if axis == 0 else x for x, axis in zip(given, axes, strict=True)]) for i in range(2)]
        except np.linalg.LinAlgError:
            return False  # a matrix that is not positive definite at this point
        try:
            out = tg.vmap(f, axes)(*given)
        except REFUSALS as error:
            if "vmap" in str(error) or "each example" in str(error):
                return False
            raise
        size = max((float(np.abs(host(y)).max(initial=0.0)) for y in each[0]), default=0.0) + 1.0
        for k, y in enumerate(out):
            loop = np.stack([host(e[k]) for e in each])
            if host(y).shape != loop.shape or not np.abs(host(y) - loop).max(initial=0.0) <= rtol * size:
                raise Disagreement(f"{what} of vmap: {host(y).tolist()} and {loop.tolist()}")
    return True


CHECKS: dict[str, Callable[[Program], Any]] = {
    "differences": check_differences,
    "second": check_second,
    "kinks": check_kinks,
    "dtypes": check_dtypes,
    "compiled": check_compiled,
    "mapped": check_mapped,
    "compiled at kinks": lambda p: check_compiled(at_kinks(p)),
    "mapped at kinks": lambda p: check_mapped(at_kinks(p)),
}


def in_turn(seed: int) -> list[str]:
    """Return the checks of a program in the tests: the dear ones for each second, or fourth."""
    more: list[list[str]] = [["compiled"], [], ["kinks"], []]
    return ["differences", "dtypes", "mapped" if seed % 2 else "second", *more[seed % 4]]


def failures(seeds: range, checks: Callable[[int], Iterable[str]] = in_turn) -> Iterator[tuple[int, str, str]]:
    """Yield (seed, check, fault) for the programs of some seeds; count those that were right and those refused."""
    with quiet():
        for seed in seeds:
            p = made(seed)
            for name in checks(seed):
                try:
                    outcome = CHECKS[name](p)
                except Disagreement as error:
                    yield seed, name, str(error)
                except Exception as error:
                    line = traceback.extract_tb(error.__traceback__)[-1]
                    yield seed, name, f"{type(error).__name__} {error} at {line.filename}:{line.lineno}"
                else:
                    counts[f"{name} {'refused' if outcome is False else 'right'}"] += 1


counts: Counter[str] = Counter()


def main() -> None:
    number, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    wrong = 0
    for seed, name, text in failures(range(first, first + number), lambda seed: CHECKS):
        wrong += 1
        print(f"{seed} {name}: {text[:400]}", flush=True)
    print(f"{number} programs from {first}: {wrong} disagreements; {dict(sorted(counts.items()))}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
