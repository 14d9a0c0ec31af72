"""Reductions in generated kernels: accumulators, how they start and combine, within a block and over blocks.

The order of a sum is fixed by the text alone, whatever the device: a thread adds its elements in order, the threads of
a warp are combined by a butterfly of shuffles, warps in order, and the partial results of blocks by a second kernel:
each of its threads adds every so many rows in order, then a tree combines the threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.backends._cupy.codegen.cuda_types import CType, c_type, ctype

WARP = 32

# The value to start from, and the combination of two partial results; "" where it depends on the dtype.
_REDUCTIONS = {
    "sum": ("({T})0", "({0} + {1})"),
    "mean": ("({T})0", "({0} + {1})"),
    "prod": ("({T})1", "({0} * {1})"),
    "max": ("", "tg_max<{T}>({0}, {1})"),
    "min": ("", "tg_min<{T}>({0}, {1})"),
    "any": ("false", "({0} || {1})"),
    "all": ("true", "({0} && {1})"),
}
_LIMITS = {"signed char": 7, "short": 15, "int": 31, "long long": 63}


def accumulator(op: str, out: Any) -> tuple[Any, CType]:
    """Return the dtype, and C type, that a reduction to a dtype is summed up in."""
    # Half precision is added up in single, and rounded once.
    dtype = np.dtype(np.float32) if np.dtype(out).name in ("float16", "bfloat16") else np.dtype(out)
    return dtype, c_type(dtype)


def neutral(op: str, out: Any) -> str:
    """Return the value that a reduction starts from."""
    kind = accumulator(op, out)[1]
    if op not in ("max", "min"):
        return _REDUCTIONS[op][0].format(T=kind.value)
    low = op == "max"
    if kind.kind in "fd":
        return f"(-TG_INF_{kind.kind})" if low else f"TG_INF_{kind.kind}"
    if kind.kind == "b":
        return "false" if low else "true"
    if kind.kind == "u":
        return "0" if low else f"(({kind.value})-1)"
    # The smallest or largest signed integer: one shifted to the sign bit, or all others set.
    edge = f"(({kind.value})(1ull << {_LIMITS[kind.value]}))"
    return edge if low else f"(({kind.value})~(1ull << {_LIMITS[kind.value]}))"


def combine(op: str, out: Any, a: str, b: str) -> str:
    """Return the C text of two partial results as one."""
    return _REDUCTIONS[op][1].format(a, b, T=accumulator(op, out)[1].value)


def finished(op: str, out: Any, text: str, count: int | str) -> str:
    """Return the text of a reduction's result from that of its accumulator; count: of elements, a number or a name."""
    kind = accumulator(op, out)[1]
    if op == "mean":
        text = f"({text} / ({kind.value}){count})"
    return c_type(out).rounded.format(text)


def can_reduce(op: str, source: Any, out: Any) -> bool:
    """Say whether generated code reduces one dtype to another."""
    a, b = ctype(source), ctype(out)
    if op not in _REDUCTIONS or a is None or b is None or (op == "mean" and b.kind not in "fd"):
        return False
    # Sums and products of booleans are integers; a boolean result is one of any, all and the extrema.
    return b.kind != "b" or op in ("any", "all", "max", "min")


class Partial:
    """A variable of each thread that is combined over the lanes of a row, or over a block; shared: its array of warps.

    sums: the variable that goes with a maximum where both are found online, see `tg_online`.
    """

    def __init__(self, name: str, op: str, dtype: Any, sums: str = "") -> None:
        self.name, self.op, self.dtype, self.sums = name, op, dtype, sums
        self.kind = accumulator(op, dtype)[1]

    @property
    def names(self) -> list[str]:
        """The variables."""
        return [self.name, self.sums] if self.sums else [self.name]

    def both(self, *others: str) -> str:
        """Return the statement that takes in the partial result of others."""
        if self.sums:
            return f"tg_online({self.name}, {self.sums}, {', '.join(others)});"
        return f"{self.name} = {combine(self.op, self.dtype, self.name, others[0])};"


def over_warp(partial: Partial, width: int) -> str:
    """Return the butterfly that leaves in every lane the result of the `width` lanes around it."""
    if width == 1:
        return ""
    # Each step adds the value of the lane at distance o: after log2(width) steps every lane has all of them.
    others = [f"o_{n}" for n in partial.names]
    fetched = " ".join(
        f"const {partial.kind.value} {o} = tg_shfl({n}, o, {width});"
        for o, n in zip(others, partial.names, strict=True)
    )
    return f"for (int o = {width // 2}; o > 0; o >>= 1) {{ {fetched} {partial.both(*others)} }}"


def over_warps(partials: list[Partial], warps: int, buffer: str, lane: str) -> list[str]:
    """Return statements that combine, in every thread, the results of warps, in order; one barrier for all of them.

    buffer: the text of a shared array of 8-byte slots, `warps` for each variable; lane: the number of the thread.
    """
    # The first lane of each warp writes its variables; after one barrier every thread reads all of them, in order.
    slots: list[tuple[Partial, list[str]]] = []
    count = 0
    for p in partials:
        slots.append((p, [f"(({p.kind.value}*)({buffer} + {(count + i) * warps}))" for i in range(len(p.names))]))
        count += len(p.names)
    puts = " ".join(
        f"{at}[{lane} / {WARP}] = {n};" for p, places in slots for n, at in zip(p.names, places, strict=True)
    )
    lines = [f"if ({lane} % {WARP} == 0) {{ {puts} }}", "__syncthreads();"]
    for p, places in slots:
        lines += [f"{n} = {at}[0];" for n, at in zip(p.names, places, strict=True)]
        lines.append(f"for (int w = 1; w < {warps}; ++w) {p.both(*[f'{at}[w]' for at in places])}")
    return lines


def over_block(partials: list[Partial], threads: int) -> list[str]:
    """Return statements after which every thread of a block has its results, over all its threads."""
    warps = threads // WARP
    slots = sum(len(p.names) for p in partials) * warps
    # Eight bytes hold any accumulator.
    lines = [f"__shared__ unsigned long long warps[{slots}];"]
    lines += [over_warp(p, WARP) for p in partials]
    return lines + over_warps(partials, warps, "warps", "threadIdx.x")
