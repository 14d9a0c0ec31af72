"""Attention that never stores its scores, called on CuPy arrays: see `attention_kernels` for the kernels.

Texts depend on the strides of arrays; each is generated and compiled where arrays are laid out that way first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import cupy
import numpy as np

from tapegrad._program.ir import Value
from tapegrad._program.queries import constant_of
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen.attention_kernels import DTYPES, LARGEST, Launch, Scores, Sizes, Text, can_compute
from tapegrad.backends._cupy.codegen.attention_kernels import HELPERS as PRODUCTS
from tapegrad.backends._cupy.codegen.cuda_types import HELPERS, OPTIONS
from tapegrad.backends._cupy.codegen.memory_access import Layout, alignment_of
from tapegrad.backends._settings import TF32

Arrays = dict[str | Value, Array]  # of matrices by name, and of operands of the scores

__all__ = ["LARGEST", "LOGS", "Attention", "AttentionGradient", "Scores", "Sizes", "can_compute", "takes"]

LOGS = np.dtype(np.float32)  # of the logarithms of sums
MOST_KEYS = 64  # for each query


def takes(dtype: str, queries: int, keys: int) -> bool:
    """Say whether attention is to be computed by these kernels.

    A block goes over all keys for its queries; many keys for few queries would leave a device idle. Where products may
    be in TF32, cuBLAS's are the faster ones.
    """
    return dtype in DTYPES and keys <= MOST_KEYS * queries and not (dtype == "float32" and TF32.get())


class _Call:
    """Kernels of one problem; operands: values that scores are combined with, in the order of the arrays."""

    def __init__(self, sizes: Sizes, scores: Scores) -> None:
        self.sizes, self.scores = sizes, scores
        self.operands = [v for v in scores.operands(True) if constant_of(v) is None]
        self._functions: dict[Hashable, list[tuple[Any, Launch]]] = {}

    def _text(self, arrays: Arrays) -> Text:
        layouts = {
            name: Layout(tuple(a.shape), tuple(s // a.itemsize for s in a.strides), alignment_of(a.data.ptr))
            for name, a in arrays.items()
        }
        return Text(self.sizes, arrays["q"].dtype, self.scores, layouts, constant_of)

    def _key(self, arrays: Arrays) -> Hashable:
        """Return a key of the arrays' layouts, on which the text depends."""
        return tuple((a.shape, a.strides, alignment_of(a.data.ptr)) for a in arrays.values())

    def _compiled(self, launches: list[Launch]) -> list[tuple[Any, Launch]]:
        module = cupy.RawModule(code=HELPERS + PRODUCTS + "".join(x.source for x in launches), options=OPTIONS)
        return [(module.get_function(f"tg_attention_{i}"), launch) for i, launch in enumerate(launches)]

    def _shape(self, *last: int) -> tuple[int, ...]:
        return (*self.sizes.lead, *last)


class Attention(_Call):
    """softmax(f(q k)) v and, for its gradient, the logarithms of the sums of exponentials of each row."""

    def __call__(self, q: Array, k: Array, v: Array, *operands: Array) -> tuple[Array, Array]:
        out = cupy.empty(self._shape(self.sizes.queries, self.sizes.depth), q.dtype)
        logs = cupy.empty(self._shape(self.sizes.queries), LOGS)
        self.into((out, logs), q, k, v, *operands)
        return out, logs

    def into(self, outs: Sequence[Array], q: Array, k: Array, v: Array, *operands: Array) -> None:
        """Compute into arrays."""
        arrays: Arrays = {"q": q, "k": k, "v": v, "out": outs[0], **dict(zip(self.operands, operands, strict=True))}
        key = self._key(arrays)
        if key not in self._functions:
            self._functions[key] = self._compiled([self._text(arrays).forward("tg_attention_0")])
        ((function, launch),) = self._functions[key]
        function(launch.grid, launch.block, (q, k, v, *operands, *outs))


class AttentionGradient(_Call):
    """The gradients of queries, keys and values of `Attention`.

    turned: whether the gradient of keys is (..., keys, size), as the keys are in memory, and not (..., size, keys).
    """

    def __init__(self, sizes: Sizes, scores: Scores, turned: bool) -> None:
        super().__init__(sizes, scores)
        self.turned = turned

    def __call__(
        self, q: Array, k: Array, v: Array, grad: Array, out: Array, logs: Array, *operands: Array
    ) -> tuple[Array, ...]:
        s = self.sizes
        keys = (s.keys, s.size) if self.turned else (s.size, s.keys)
        shapes = (self._shape(s.queries, s.size), self._shape(*keys), self._shape(s.keys, s.depth))
        outs = tuple(cupy.empty(shape, q.dtype) for shape in shapes)
        self.into(outs, q, k, v, grad, out, logs, *operands)
        return outs

    def into(
        self,
        outs: Sequence[Array],
        q: Array,
        k: Array,
        v: Array,
        grad: Array,
        out: Array,
        logs: Array,
        *operands: Array,
    ) -> None:
        """Compute into arrays."""
        arrays: Arrays = {
            "q": q,
            "k": k,
            "v": v,
            "grad": grad,
            "out": out,
            **dict(zip(self.operands, operands, strict=True)),
        }
        arrays |= dict(zip(("dq", "dk", "dv"), outs, strict=True))
        key = self._key(arrays)
        if key not in self._functions:
            text = self._text(arrays)
            launches = [text.dots("tg_attention_0"), text.for_queries("tg_attention_1")]
            self._functions[key] = self._compiled([*launches, text.for_keys("tg_attention_2", self.turned)])
        dots, for_queries, for_keys = self._functions[key]
        sums = cupy.empty(self._shape(self.sizes.queries), LOGS)
        saved = (q, k, v, grad, logs, sums, *operands)
        for (function, launch), args in (
            (dots, (out, grad, sums)),
            (for_queries, (*saved, outs[0])),
            (for_keys, (*saved, *outs[1:])),
        ):
            function(launch.grid, launch.block, args)
