"""Convolution and windows on JAX arrays: XLA's own convolution, and other functions compiled as one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
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
    return made


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
