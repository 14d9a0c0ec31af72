"""Convolution and windows on JAX arrays: XLA's own convolution, and other functions compiled as one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tapegrad.backends import _windows
from tapegrad.backends._array import Array
from tapegrad.backends._windows import Padding, Sizes, is_half, padded

# Functions in the words of the standard, and how many arrays each takes first; the rest is static.
_COMPILED = {
    "max_pool": 1,
    "pad_last": 1,
    "pool_gather": 2,
    "pool_scatter": 2,
    "windows": 1,
    "windows_sum": 1,
}


def functions(xp: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions of a namespace, by name."""
    made: dict[str, Callable[..., Any]] = {
        "convolution": convolution,
        "convolution_input": convolution_input,
        "convolution_weight": convolution_weight,
        "window_spread": window_spread,
        "window_sum": window_sum,
    }
    for name, arrays in _COMPILED.items():
        made[name] = _compiled(partial(getattr(_windows, name), xp), arrays)
    for name, arrays, of_many in (
        ("max_pool", 1, _max_pool),
        ("pool_gather", 2, _pool_gather),
        ("pool_scatter", 2, _pool_scatter),
    ):
        made[name] = _by_taps(made[name], _compiled(of_many, arrays), arrays + (name == "pool_scatter"))
    return made


def _by_taps(few: Callable[..., Any], many: Callable[..., Any], at: int) -> Callable[..., Any]:
    """Return a function that goes through few taps one by one, which XLA fuses, and looks many up by their places."""
    return lambda *args: (few if prod(args[at]) <= MANY else many)(*args)


MANY = 64  # taps, above which XLA would take long to compile a step for each


def _compiled(function: Callable[..., Any], arrays: int) -> Callable[..., Any]:
    """Return a function that XLA compiles for each set of static arguments."""

    def call(operands: tuple[Array, ...], static: tuple[Any, ...]) -> Any:
        return function(*operands, *static)

    made = jax.jit(call, static_argnums=1)
    return lambda *args: made(args[:arrays], args[arrays:])


def convolution(x: Array, w: Array, stride: Sizes, padding: Padding, dilation: Sizes, groups: int) -> Array:
    half = is_half(x)
    found = lax.conv_general_dilated(
        x,
        w,
        stride,
        padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        preferred_element_type=jnp.float32 if half else None,
    )
    return found.astype(x.dtype) if half else found


def convolution_input(
    t: Array, w: Array, space: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, groups: int
) -> Array:
    def of_input(x: Array) -> Array:
        return convolution(x, w.astype(x.dtype), stride, padding, dilation, groups)

    dtype = jnp.float32 if is_half(t) else t.dtype
    like = jax.ShapeDtypeStruct((t.shape[0], groups * w.shape[1], *space), dtype)
    return jax.linear_transpose(of_input, like)(t.astype(dtype))[0].astype(t.dtype)


def convolution_weight(
    x: Array, t: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, groups: int
) -> Array:
    def of_weights(w: Array) -> Array:
        return convolution(x.astype(w.dtype), w, stride, padding, dilation, groups)

    dtype = jnp.float32 if is_half(x) else x.dtype
    like = jax.ShapeDtypeStruct((t.shape[1], x.shape[1] // groups, *size), dtype)
    return jax.linear_transpose(of_weights, like)(t.astype(dtype))[0].astype(x.dtype)


def _sum(x: Array, size: Sizes, stride: Sizes, padding: Padding) -> Array:
    one = (1,) * (x.ndim - len(size))
    none = ((0, 0),) * len(one)
    return lax.reduce_window(x, jnp.zeros((), x.dtype), lax.add, (*one, *size), (*one, *stride), (*none, *padding))


def window_sum(x: Array, size: Sizes, stride: Sizes, padding: Padding) -> Array:
    half = is_half(x)
    return _sum(x.astype(jnp.float32) if half else x, size, stride, padding).astype(x.dtype)


def window_spread(t: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding) -> Array:
    # The padded space, of which the windows may leave out the end, by sums over t with zeros in between.
    whole, d = padded(space, padding), len(size)
    lead = t.ndim - d
    zeros = [(0, 0, 0)] * lead
    zeros += [
        (k - 1, n - (m - 1) * s - 1, s - 1) for k, n, m, s in zip(size, whole, t.shape[lead:], stride, strict=True)
    ]
    single = t.astype(jnp.float32) if is_half(t) else t
    wide = lax.pad(single, jnp.zeros((), single.dtype), zeros)
    found = _sum(wide, size, (1,) * d, ((0, 0),) * d).astype(t.dtype)
    inner = [slice(lo, lo + n) for n, (lo, _) in zip(space, padding, strict=True)]
    return found[(..., *inner)]


# -- maxima of many taps -----------------------------------------------------------------------------------


def _flat(space: Sizes, out: Sizes, size: Sizes, stride: Sizes, dilation: Sizes) -> Array:
    """Return the places (windows, taps) in a flat padded space, of the host."""
    flat = np.zeros((1,) * (2 * len(size)), np.int32)
    for i, (n, m, k, s, g) in enumerate(zip(space, out, size, stride, dilation, strict=True)):
        along = np.arange(m)[:, None] * s + np.arange(k) * g
        shape = [1] * (2 * len(size))
        shape[i], shape[len(size) + i] = m, k
        flat = flat * n + along.reshape(shape).astype(np.int32)
    return flat.reshape(prod(out), prod(size))


def _chosen(taps: Array, flat: Array) -> Array:
    """Return the flat places that taps (..., windows) stand for."""
    return jnp.take_along_axis(jnp.broadcast_to(flat, (*taps.shape, flat.shape[-1])), taps[..., None], -1)[..., 0]


def _max_pool(x: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> tuple[Array, Array]:
    d = len(size)
    space, lead = tuple(x.shape[-d:]), tuple(x.shape[:-d])
    out = _windows.places(space, size, stride, padding, dilation)
    whole = padded(space, padding)
    flat = _flat(whole, out, size, stride, dilation)
    wide = jnp.pad(x, ((0, 0),) * len(lead) + padding, constant_values=-inf).reshape(*lead, prod(whole))
    elements = wide[..., flat]
    first = _windows.first_taps(out, space, size, stride, padding, dilation)
    first = np.broadcast_to(first, out).reshape(-1)
    values = jnp.max(elements, -1)
    last_nan = flat.shape[-1] - 1 - jnp.argmax(jnp.isnan(elements)[..., ::-1], -1)
    taps = jnp.where(jnp.isnan(values), last_nan, jnp.where(values == -inf, first, jnp.argmax(elements, -1)))
    return values.reshape(*lead, *out), taps.astype(jnp.int32).reshape(*lead, *out)


def _pool_gather(x: Array, taps: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Array:
    d = len(size)
    lead, out, whole = tuple(x.shape[:-d]), tuple(taps.shape[-d:]), padded(tuple(x.shape[-d:]), padding)
    flat = _flat(whole, out, size, stride, dilation)
    wide = jnp.pad(x, ((0, 0),) * len(lead) + padding).reshape(*lead, prod(whole))
    at = _chosen(taps.reshape(*lead, prod(out)), flat)
    return jnp.take_along_axis(wide, at, -1).reshape(taps.shape)


def _pool_scatter(
    t: Array, taps: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes
) -> Array:
    d = len(size)
    lead, out, whole = tuple(t.shape[:-d]), tuple(t.shape[-d:]), padded(space, padding)
    at = _chosen(taps.reshape(prod(lead), prod(out)), _flat(whole, out, size, stride, dilation))
    single = (t.astype(jnp.float32) if is_half(t) else t).reshape(prod(lead), prod(out))
    total = jnp.zeros((prod(lead), prod(whole)), single.dtype).at[jnp.arange(prod(lead))[:, None], at].add(single)
    inner = [slice(lo, lo + n) for n, (lo, _) in zip(space, padding, strict=True)]
    return total.astype(t.dtype).reshape(*lead, *whole)[(..., *inner)]
