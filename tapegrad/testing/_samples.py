"""One table of samples: each operation with arguments inside its domain and away from its kinks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing import (
    _samples_arrays,
    _samples_attention,
    _samples_complex,
    _samples_constant,
    _samples_fft,
    _samples_linalg,
    _samples_normalisation,
    _samples_random,
    _samples_signal,
    _samples_special,
    _samples_training,
    _samples_windows,
)
from tapegrad.testing._sample import Arrays, Sample, apart, between, integers, normal


def _same(name: str, np_name: str = "") -> tuple[Callable[..., Any], Callable[..., Any]]:
    return getattr(tg, name), getattr(np, np_name or name)


def _unary() -> list[Sample]:
    domains = {
        "abs": apart(3, 4),
        "acos": between(-0.9, 0.9, 3, 4),
        "acosh": between(1.2, 3, 3, 4),
        "asin": between(-0.9, 0.9, 3, 4),
        "atanh": between(-0.8, 0.8, 3, 4),
        "log": between(0.5, 3, 3, 4),
        "log10": between(0.5, 3, 3, 4),
        "log1p": between(-0.5, 3, 3, 4),
        "log2": between(0.5, 3, 3, 4),
        "reciprocal": between(0.5, 3, 3, 4),
        "sqrt": between(0.5, 3, 3, 4),
        "tan": between(-1, 1, 3, 4),
    }
    names = (
        "abs acos acosh asin asinh atan atanh conj cos cosh exp expm1 log log10 log1p log2 negative positive real "
        "reciprocal sin sinh sqrt square tan tanh"
    )
    samples = [Sample(n, *_same(n), (domains.get(n, normal(3, 4)),)) for n in names.split()]
    samples += [Sample(f"{n} 0-d", *_same(n), (between(0.5, 0.8),)) for n in ("exp", "sqrt", "tanh")]
    samples += [Sample(f"{n} size-0", *_same(n), (normal(0, 3),)) for n in ("exp", "sqrt", "tanh")]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    gelu = lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))  # noqa: E731
    return [
        *samples,
        Sample("sigmoid", tg.sigmoid, sigmoid, (normal(3, 4),)),
        Sample("relu", tg.relu, lambda x: np.maximum(x, 0), (apart(3, 4),)),
        Sample("silu", tg.silu, lambda x: x * sigmoid(x), (normal(3, 4),)),
        Sample("gelu tanh", lambda x: tg.gelu(x, approximate="tanh"), gelu, (normal(3, 4),)),
    ]


def _binary() -> list[Sample]:
    positive = between(0.5, 2, 3, 4)
    domains: dict[str, Arrays] = {
        "atan2": (normal(3, 4), positive),
        "divide": (normal(3, 4), positive),
        "hypot": (positive, normal(3, 4)),
        "pow": (positive, normal(3, 4)),
        "remainder": (between(2.2, 2.8, 3, 4), between(0.95, 1.05, 3, 4)),
        "maximum": (apart(3, 4), apart(3, 4) + 0.1),
        "minimum": (apart(3, 4), apart(3, 4) + 0.1),
    }
    names = "add atan2 divide hypot logaddexp maximum minimum multiply pow remainder subtract"
    samples = [Sample(n, *_same(n), domains.get(n, (normal(3, 4), normal(3, 4)))) for n in names.split()]
    for n in ("add", "multiply", "divide", "maximum", "pow"):
        f, reference = _same(n)
        samples += [
            Sample(f"{n} broadcast", f, reference, (between(0.5, 1, 3, 1), between(1.2, 2, 4))),
            Sample(f"{n} 0-d", f, reference, (between(0.5, 1, 3, 4), between(1.2, 2))),
            Sample(f"{n} size-0", f, reference, (normal(0, 3), normal(3))),
            Sample(f"{n} scalar", lambda x, f=f: f(x, 1.5), lambda x, r=reference: r(x, 1.5), (between(2, 3, 3),)),
            Sample(
                f"{n} reflected",
                lambda x, f=f: f(1.5, x),
                lambda x, r=reference: r(1.5, x),
                (between(2, 3, 3),),
            ),
            Sample(f"{n} itself", lambda x, f=f: f(x, x * 1.1), lambda x, r=reference: r(x, x * 1.1), (positive,)),
        ]
    cond = np.asarray([[True, False, True, False]] * 3)
    samples += [Sample(f"pow {y}", lambda x, y=y: x**y, lambda x, y=y: x**y, (apart(3, 4),)) for y in (0, 1, 2, 3, 4.0)]
    samples += [Sample(f"pow {y}", lambda x, y=y: x**y, lambda x, y=y: x**y, (positive,)) for y in (-1, -2.0, 0.5, 2.5)]
    own = np.random.default_rng(21)
    return [
        *samples,
        Sample("copysign", tg.copysign, np.copysign, (apart(3, 4), apart(3, 4))),
        Sample("where", tg.where, np.where, (cond, normal(3, 4), normal(4))),
        Sample(
            "where scalar",
            lambda c, x: tg.where(c, x, 2.0),
            lambda c, x: np.where(c, x, 2.0),
            (cond, normal(3, 4)),
        ),
        Sample("clip", lambda x: tg.clip(x, -1.0, 1.0), lambda x: np.clip(x, -1, 1), (apart(3, 4),)),
        Sample(
            "clip arrays",
            lambda x, a, b: tg.clip(x, a, b),
            np.clip,
            (apart(3, 4), between(-0.95, -0.85, 4), between(1.05, 1.15, 3, 1)),
        ),
        Sample(
            "clip arrays of one shape",
            lambda x, a, b: tg.clip(x, a, b),
            np.clip,
            tuple(own.permuted(np.linspace(-2, 2, 12) + c).reshape(3, 4) for c in (0.0, -0.04, 0.04)),
        ),
    ]


def _of_numbers() -> list[Sample]:
    def where(v: Any) -> dict[str, Any]:
        return {"dtype": v.dtype, "device": v.device}

    v, w = between(0.5, 0.8), between(1.5, 1.8)
    return [
        Sample("full", lambda v: tg.full((2, 3), v, **where(v)), lambda v: np.full((2, 3), v), (v,)),
        Sample("full_like", lambda v: tg.full_like(tg.zeros(4, **where(v)), v), lambda v: np.full(4, v), (v,)),
        Sample(
            "linspace",
            lambda v, w: tg.linspace(v, w, 5, **where(v)),
            lambda v, w: np.linspace(v.item(), w.item(), 5),
            (v, w),
        ),
        Sample(
            "linspace endpoint",
            lambda v: tg.linspace(v, 2.0, 5, endpoint=False, **where(v)),
            lambda v: np.linspace(v.item(), 2.0, 5, endpoint=False),
            (v,),
        ),
    ]


def _reductions() -> list[Sample]:
    x = normal(2, 3, 4)
    samples = []
    for n in ("sum", "mean", "prod", "min", "max", "var", "std"):
        f, reference = _same(n)
        data = apart(2, 3, 4) if n in ("min", "max") else x
        for axis, keepdims in ((None, False), (1, False), ((0, 2), False), (-1, True), (None, True)):
            samples.append(
                Sample(
                    f"{n} axis={axis} keepdims={keepdims}",
                    lambda x, f=f, a=axis, k=keepdims: f(x, axis=a, keepdims=k),
                    lambda x, r=reference, a=axis, k=keepdims: r(x, axis=a, keepdims=k),
                    (data,),
                )
            )
        if n in ("sum", "prod"):
            samples.append(Sample(f"{n} size-0", f, reference, (normal(0, 3),)))
        samples.append(Sample(f"{n} 0-d", f, reference, (normal(),), order=0 if n in ("var", "std") else 2))
    zeros = np.asarray([[1.5, 0.0, 2.0], [0.0, 3.0, 0.0], [1.0, 2.0, 3.0]])
    for n in ("cumulative_sum", "cumulative_prod"):
        f, reference = _same(n)
        samples += [
            Sample(n, lambda x, f=f: f(x, axis=1), lambda x, r=reference: r(x, axis=1), (x,)),
            Sample(
                f"{n} initial",
                lambda x, f=f: f(x, axis=0, include_initial=True),
                lambda x, r=reference: r(x, axis=0, include_initial=True),
                (x,),
            ),
            Sample(f"{n} 1-d", f, reference, (normal(7),)),
            Sample(f"{n} zeros", lambda x, f=f: f(x, axis=1), lambda x, r=reference: r(x, axis=1), (zeros,)),
        ]
    softmax = lambda x, axis: np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)  # noqa: E731
    labels, logits = integers(4, 5), normal(5, 4)
    rows = np.arange(5)
    return [
        *samples,
        Sample("prod zeros", lambda x: tg.prod(x, axis=1), lambda x: np.prod(x, axis=1), (zeros,)),
        Sample("sum size-0", tg.sum, np.sum, (normal(0, 3),)),
        Sample("var correction", lambda x: tg.var(x, correction=1), lambda x: np.var(x, ddof=1), (x,)),
        Sample(
            "std correction",
            lambda x: tg.std(x, axis=0, correction=1),
            lambda x: np.std(x, axis=0, ddof=1),
            (x,),
        ),
        Sample("softmax", lambda x: tg.softmax(x, axis=1), lambda x: softmax(x, 1), (x,)),
        Sample("log_softmax", lambda x: tg.log_softmax(x, axis=1), lambda x: np.log(softmax(x, 1)), (x,)),
        Sample("logsumexp", tg.logsumexp, lambda x: np.log(np.exp(x).sum()), (x,)),
        Sample(
            "logsumexp axis",
            lambda x: tg.logsumexp(x, axis=(0, 2), keepdims=True),
            lambda x: np.log(np.exp(x).sum(axis=(0, 2), keepdims=True)),
            (x,),
        ),
        Sample(
            "cross_entropy",
            lambda x, y: tg.cross_entropy(x, y),
            lambda x, y: -np.log(softmax(x, -1))[rows, y].mean(),
            (logits, labels),
        ),
        Sample(
            "cross_entropy probabilities",
            tg.cross_entropy,
            lambda x, p: -(p * np.log(softmax(x, -1))).sum(-1).mean(),
            (logits, softmax(normal(5, 4), -1)),
        ),
    ]


def _products() -> list[Sample]:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((2, 3), (3, 4)),
        ((3,), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((5, 2, 3), (5, 3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (6, 3, 4)),
        ((3,), (5, 3, 4)),
        ((5, 2, 3), (3,)),
        ((0, 3), (3, 4)),
    ]
    two = lambda s1, s2: (normal(*s1), normal(*s2))  # noqa: E731
    return [
        *[Sample(f"matmul {s1}x{s2}", tg.matmul, np.matmul, two(s1, s2)) for s1, s2 in shapes],
        Sample("matmul operator", lambda a, b: a @ b, np.matmul, two((2, 3), (3, 4))),
        Sample("matrix_transpose", tg.matrix_transpose, np.matrix_transpose, (normal(2, 3, 4),)),
        Sample("vecdot", tg.vecdot, np.vecdot, two((2, 3), (2, 3))),
        Sample("vecdot broadcast", tg.vecdot, np.vecdot, two((2, 1, 3), (4, 3))),
        Sample(
            "vecdot axis",
            lambda a, b: tg.vecdot(a, b, axis=-2),
            lambda a, b: np.sum(a * b, axis=-2),
            two((3, 4), (3, 4)),
        ),
        Sample("tensordot", tg.tensordot, np.tensordot, two((2, 3, 4), (3, 4, 5))),
        Sample(
            "tensordot 0",
            lambda a, b: tg.tensordot(a, b, axes=0),
            lambda a, b: np.tensordot(a, b, 0),
            two((2,), (3,)),
        ),
        Sample(
            "tensordot axes",
            lambda a, b: tg.tensordot(a, b, axes=((0, 2), (1, 0))),
            lambda a, b: np.tensordot(a, b, ((0, 2), (1, 0))),
            two((2, 3, 4), (4, 2, 5)),
        ),
    ]


def _shaping() -> list[Sample]:
    x = normal(2, 3, 4)
    both = [
        ("reshape", lambda m, x: m.reshape(x, (4, 6))),
        ("reshape minus-one", lambda m, x: m.reshape(x, (3, -1))),
        ("permute_dims", lambda m, x: m.permute_dims(x, (2, 0, 1))),
        ("flip", lambda m, x: m.flip(x)),
        ("flip axis", lambda m, x: m.flip(x, axis=(0, 2))),
        ("roll", lambda m, x: m.roll(x, 5)),
        ("roll axis", lambda m, x: m.roll(x, (1, -1), axis=(0, 2))),
        ("expand_dims", lambda m, x: m.expand_dims(x, axis=-2)),
        ("expand_dims several", lambda m, x: m.expand_dims(x, axis=(0, -2))),
        ("squeeze", lambda m, x: m.squeeze(x[:, :1], axis=1)),
        ("moveaxis", lambda m, x: m.moveaxis(x, (0, 1), (-1, 0))),
        ("repeat", lambda m, x: m.repeat(x, 3, axis=1)),
        ("repeat flat", lambda m, x: m.repeat(x, 2)),
        ("tile", lambda m, x: m.tile(x, (2, 1, 3, 2))),
        ("broadcast_to", lambda m, x: m.broadcast_to(x[:, :1], (5, 2, 3, 4))),
        ("diff", lambda m, x: m.diff(x)),
        ("diff twice", lambda m, x: m.diff(x, axis=1, n=2)),
        ("diff prepend and append", lambda m, x: m.diff(x, axis=0, prepend=x[1:], append=x[:1] * 2.0)),
        ("tril", lambda m, x: m.tril(x, k=1)),
        ("triu", lambda m, x: m.triu(x, k=-1)),
        ("unstack", lambda m, x: m.unstack(x, axis=1)[1] * m.unstack(x, axis=1)[0]),
        ("meshgrid", lambda m, x: m.meshgrid(x[0, 0], x[1, :, 0])[1]),
        ("broadcast_arrays", lambda m, x: m.broadcast_arrays(x[0], x)[0]),
    ]
    several = [
        ("concat", lambda m, a, b: m.concat([a, b, a], axis=1)),
        ("concat flat", lambda m, a, b: m.concat([a, b], axis=None)),
        ("stack", lambda m, a, b: m.stack([a, b], axis=1)),
        ("stack last", lambda m, a, b: m.stack([a, b], axis=-1)),
    ]
    make = lambda g: (lambda *xs: g(tg, *xs), lambda *xs: g(np, *xs))  # noqa: E731
    return [
        *[Sample(n, *make(g), (x,)) for n, g in both],
        *[Sample(n, *make(g), (normal(2, 3), normal(2, 3))) for n, g in several],
        Sample(
            "repeat counts",
            lambda x, n: tg.repeat(x, n, axis=1),
            lambda x, n: np.repeat(x, n, axis=1),
            (x, np.asarray([1, 0, 2])),
        ),
        Sample("astype", lambda x: tg.astype(x, x.dtype) * 2.0, lambda x: x * 2, (x,)),
    ]


def _indexing() -> list[Sample]:
    x = normal(4, 5, 3)
    keys: list[tuple[str, Any]] = [
        ("int", 2),
        ("negative", -1),
        ("ints", (1, 2, 0)),
        ("slice", slice(1, 3)),
        ("step", (slice(None, None, 2), slice(4, 0, -2))),
        ("reversed", (slice(None, None, -1),)),
        ("empty", slice(2, 2)),
        ("ellipsis", (..., 1)),
        ("newaxis", (1, None, ..., slice(0, 2))),
        ("all", ...),
        ("list", [0, 2, 2]),
        ("arrays", ([0, 1, 1], [2, 2, 0], [1, 1, 1])),
        ("grid", ([[0], [1]], [[2, 2, 3]])),
        ("int and list", (1, [0, 3, 3])),
        ("apart", ([0, 1], slice(None), [2, 2])),
        ("slice and list", (slice(1, 3), [0, 0, 4])),
        ("reversed and list", (slice(3, 0, -2), [0, 0, 4])),
        ("newaxis and list", (None, [0, -1, 0])),
    ]
    mask = x[:, :, 0] > 0
    samples = [Sample(f"getitem {n}", lambda x, k=k: x[k], lambda x, k=k: x[k], (x,)) for n, k in keys]

    def written(x: Any, v: Any, k: Any) -> Any:
        y = x * 1.0
        y[k] = v * 2.0
        return y

    for n, k in keys:
        shape = x[k].shape
        unique = n in ("apart", "all") or not any(isinstance(i, list) for i in (k if isinstance(k, tuple) else (k,)))
        call = lambda x, v, k=k: written(x, v, k)  # noqa: E731
        if unique:
            samples.append(Sample(f"setitem {n}", call, call, (x, normal(*shape))))
        samples.append(Sample(f"setitem {n} scalar", call, call, (x, normal())))
    whole = x > 0
    indices = integers(5, 4, 2, 3)
    return [
        *samples,
        Sample("getitem mask", lambda x, m: x[m], lambda x, m: x[m], (x, whole)),
        Sample("getitem mask of rows", lambda x, m: x[m], lambda x, m: x[m], (x, mask)),
        Sample(
            "setitem mask",
            lambda x, v, m: written(x, v, m),
            lambda x, v, m: written(x, v, m),
            (x, normal(), whole),
        ),
        Sample(
            "take",
            lambda x, i: tg.take(x, i, axis=1),
            lambda x, i: np.take(x, i, axis=1),
            (x, np.asarray([0, 4, 4])),
        ),
        Sample(
            "take_along_axis",
            lambda x, i: tg.take_along_axis(x, i, axis=1),
            lambda x, i: np.take_along_axis(x, i, axis=1),
            (x, indices),
        ),
        Sample("sort", lambda x: tg.sort(x, axis=1), lambda x: np.sort(x, axis=1), (apart(4, 5, 3),)),
        Sample(
            "sort descending",
            lambda x: tg.sort(x, axis=0, descending=True),
            lambda x: -np.sort(-x, axis=0),
            (apart(4, 5),),
        ),
        *[
            Sample(f"{n} {field}".strip(), g, lambda x: np.sort(x, axis=None), (apart(3, 4),))
            for n, field, g in (
                ("unique_values", "", tg.unique_values),
                ("unique_all", "values", lambda x: tg.unique_all(x).values),
                ("unique_counts", "values", lambda x: tg.unique_counts(x).values),
                ("unique_inverse", "values", lambda x: tg.unique_inverse(x).values),
            )
        ],
        Sample("iteration", lambda x: sum(r * r for r in x), lambda x: sum(r * r for r in x), (x,)),
    ]


SAMPLES: tuple[Sample, ...] = (
    *_unary(),
    *_binary(),
    *_of_numbers(),
    *_reductions(),
    *_products(),
    *_shaping(),
    *_indexing(),
    *_samples_complex.samples(),
    *_samples_arrays.samples(),
    *_samples_linalg.samples(),
    *_samples_fft.samples(),
    *_samples_signal.samples(),
    *_samples_special.samples(),
    *_samples_windows.samples(),
    *_samples_constant.samples(),
    *_samples_normalisation.samples(),
    *_samples_random.samples(),
    *_samples_attention.samples(),
    *_samples_training.samples(),
)
