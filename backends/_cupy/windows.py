"""Windows over up to three axes of CuPy arrays: one kernel each, which reads all elements that a result needs.

Lengths are arguments of the kernels, so that each is compiled once for a number of axes and a dtype. Sums go through
the taps in order, in single precision for half precision, and no two threads write to one element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from typing import Any

import cupy

from tapegrad.backends import _windows
from tapegrad.backends._array import Array
from tapegrad.backends._windows import Padding, Sizes, padded, places

_ARGUMENTS = "nksgpm"  # along an axis: elements, taps, stride, dilation, padding before, places


def functions(xp: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions of a namespace, by name."""
    own = (max_pool, pad_last, pool_gather, pool_scatter, window_spread, window_sum, windows, windows_sum)
    return {function.__name__: partial(function, xp) for function in own}


def _decoded(d: int, letters: str, names: Sequence[str]) -> str:
    """Return text that takes an index of some axes apart, the last axis first; the rest is `r`."""
    lines = ["long long r = i;"]
    for letter, name in zip(letters, names, strict=True):
        lines += [f"long long {name}{a} = r % {letter}{a}; r /= {letter}{a};" for a in reversed(range(d))]
    return " ".join(lines)


def _loop(d: int, body: str) -> str:
    """Return text that goes through the taps in order, counted by `tap`."""
    heads = " ".join([f"for (long long k_{a} = 0; k_{a} < k{a}; ++k_{a})" for a in range(d)])
    return f"long long tap = 0; {heads} {{ {body} ++tap; }}"


def _flat(d: int, letter: str, name: str, lead: str = "r") -> str:
    """Return the flat index of a place along axes of some lengths."""
    text = lead
    for a in range(d):
        text = f"({text} * {letter}{a} + {name}{a})"
    return text


def _source(d: int) -> str:
    """Return text for the element of tap k_ of window o, and whether it is inside."""
    lines = [f"long long q{a} = o{a} * s{a} + k_{a} * g{a} - p{a};" for a in range(d)]
    inside = " && ".join([f"q{a} >= 0 && q{a} < n{a}" for a in range(d)])
    return " ".join([*lines, f"bool inside = {inside};"])


def _window(d: int) -> str:
    """Return text for the window whose tap k_ is element q, and whether there is one."""
    lines = [f"long long v{a} = q{a} + p{a} - k_{a} * g{a}; long long o{a} = v{a} / s{a};" for a in range(d)]
    there = " && ".join([f"v{a} >= 0 && v{a} % s{a} == 0 && o{a} < m{a}" for a in range(d)])
    return " ".join([*lines, f"bool there = {there};"])


@cache
def _kernel(name: str, d: int, half: bool) -> Any:
    """Return a kernel; half: whether sums and comparisons are in single precision."""
    wide = "float" if half else "T"
    by_element, by_place = _decoded(d, "n", "q"), _decoded(d, "m", "o")
    x, t = f"x[{_flat(d, 'n', 'q')}]", f"x[{_flat(d, 'm', 'o')}]"
    column = _flat(d, "m", "o", _flat(d, "k", "k_"))

    def summed(place: str, body: str) -> str:
        return f"{place} {wide} total = {wide}(0); {_loop(d, body)} y = T(total);"

    texts = {
        "windows": f"{_decoded(d, 'mk', ('o', 'k_'))} {_source(d)} y = inside ? {x} : T(0);",
        "windows_sum": summed(by_element, f"{_window(d)} if (there) total += ({wide})x[{column}];"),
        "window_sum": summed(by_place, f"{_source(d)} if (inside) total += ({wide}){x};"),
        "window_spread": summed(by_element, f"{_window(d)} if (there) total += ({wide}){t};"),
        "max_pool": f"{by_place} {wide} best = {wide}(0); bool any = false; w = 0; "
        + _loop(
            d,
            f"{_source(d)} if (inside) {{ {wide} v = ({wide}){x}; "
            "if (!any || v > best || v != v) { best = v; w = tap; any = true; } }",
        )
        + f" y = any ? T(best) : T(-({wide})CUDART_INF);",
        "pool_gather": f"{by_place} long long e = w; "
        + " ".join([f"long long k_{a} = e % k{a}; e /= k{a};" for a in reversed(range(d))])
        + f" {_source(d)} y = inside ? {x} : T(0);",
        "pool_scatter": summed(
            by_element, f"{_window(d)} if (there && w[{_flat(d, 'm', 'o')}] == tap) total += ({wide}){t};"
        ),
    }
    numbers = ", ".join([f"int64 {letter}{a}" for a in range(d) for letter in _ARGUMENTS])
    taps = {"pool_gather": ", W w", "pool_scatter": ", raw W w"}.get(name, "")
    outs = "T y, W w" if name == "max_pool" else "T y"
    return cupy.ElementwiseKernel(f"raw T x{taps}, {numbers}", outs, texts[name], f"tg_{name}_{d}")


def _numbers(
    space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, out: Sizes
) -> tuple[int, ...]:
    axes = zip(space, size, stride, dilation, padding, out, strict=True)
    return tuple([number for n, k, s, g, (lo, _), m in axes for number in (n, k, s, g, lo, m)])


def _half(x: Array) -> bool:
    return bool(x.dtype.itemsize == 2)


def _composed(x: Array, size: Sizes) -> bool:
    """Say whether the functions in the words of the standard stand in: for booleans, and for more than three axes."""
    return len(size) > 3 or x.dtype.kind == "b"


def _run(name: str, x: Array, taps: Any, numbers: Any, out: Array) -> Array:
    kernel = _kernel(name, len(numbers) // len(_ARGUMENTS), _half(x))
    kernel(cupy.ascontiguousarray(x), *taps, *numbers, out)
    return out


def pad_last(xp: Any, x: Array, widths: Padding, value: Any) -> Array:
    d = len(widths)
    if not any(map(any, widths)):
        return x
    space = x.shape[x.ndim - d :]
    out = cupy.full((*x.shape[: x.ndim - d], *padded(space, widths)), value, x.dtype)
    inside = [slice(lo, lo + n) for n, (lo, _) in zip(space, widths, strict=True)]
    out[(..., *inside)] = x
    return out


def windows(xp: Any, x: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Array:
    d = len(size)
    if _composed(x, size):
        return _windows.windows(xp, x, size, stride, padding, dilation)
    lead, space = x.shape[: x.ndim - d], x.shape[x.ndim - d :]
    out = places(space, size, stride, padding, dilation)
    made = cupy.empty((*lead, *size, *out), x.dtype)
    return _run("windows", x, (), _numbers(space, size, stride, padding, dilation, out), made)


def windows_sum(
    xp: Any, c: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes
) -> Array:
    d = len(size)
    if _composed(c, size):
        return _windows.windows_sum(xp, c, space, size, stride, padding, dilation)
    lead, out = c.shape[: c.ndim - 2 * d], c.shape[c.ndim - d :]
    made = cupy.empty((*lead, *space), c.dtype)
    return _run("windows_sum", c, (), _numbers(space, size, stride, padding, dilation, out), made)


def window_sum(xp: Any, x: Array, size: Sizes, stride: Sizes, padding: Padding) -> Array:
    d, ones = len(size), (1,) * len(size)
    if _composed(x, size):
        return _windows.window_sum(xp, x, size, stride, padding)
    lead, space = x.shape[: x.ndim - d], x.shape[x.ndim - d :]
    out = places(space, size, stride, padding, ones)
    made = cupy.empty((*lead, *out), x.dtype)
    return _run("window_sum", x, (), _numbers(space, size, stride, padding, ones, out), made)


def window_spread(xp: Any, t: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding) -> Array:
    d, ones = len(size), (1,) * len(size)
    if _composed(t, size):
        return _windows.window_spread(xp, t, space, size, stride, padding)
    lead, out = t.shape[: t.ndim - d], t.shape[t.ndim - d :]
    made = cupy.empty((*lead, *space), t.dtype)
    return _run("window_spread", t, (), _numbers(space, size, stride, padding, ones, out), made)


def max_pool(xp: Any, x: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> tuple[Array, Array]:
    d = len(size)
    if _composed(x, size):
        return _windows.max_pool(xp, x, size, stride, padding, dilation)
    lead, space = x.shape[: x.ndim - d], x.shape[x.ndim - d :]
    out = places(space, size, stride, padding, dilation)
    values = cupy.empty((*lead, *out), x.dtype)
    taps = cupy.empty(values.shape, "uint8" if prod(size) <= 256 else "int32")
    numbers = _numbers(space, size, stride, padding, dilation, out)
    _kernel("max_pool", d, _half(x))(cupy.ascontiguousarray(x), *numbers, values, taps)
    return values, taps


def pool_gather(xp: Any, x: Array, taps: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Array:
    d = len(size)
    if _composed(x, size):
        return _windows.pool_gather(xp, x, taps, size, stride, padding, dilation)
    space, out = x.shape[x.ndim - d :], taps.shape[taps.ndim - d :]
    made = cupy.empty(taps.shape, x.dtype)
    numbers = _numbers(space, size, stride, padding, dilation, out)
    return _run("pool_gather", x, (taps,), numbers, made)


def pool_scatter(
    xp: Any,
    t: Array,
    taps: Array,
    space: Sizes,
    size: Sizes,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
) -> Array:
    d = len(size)
    if _composed(t, size):
        return _windows.pool_scatter(xp, t, taps, space, size, stride, padding, dilation)
    lead, out = t.shape[: t.ndim - d], t.shape[t.ndim - d :]
    made = cupy.empty((*lead, *space), t.dtype)
    numbers = _numbers(space, size, stride, padding, dilation, out)
    return _run("pool_scatter", t, (cupy.ascontiguousarray(taps),), numbers, made)
