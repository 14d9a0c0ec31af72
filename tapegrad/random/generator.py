"""Generator: a stream of random numbers, whose key and counter are Tensors."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from operator import index
from threading import RLock
from typing import Any

import numpy as np

from tapegrad._engine.dispatch import backend_of, native_device, on_level
from tapegrad._engine.dtypes import DType, as_dtype, isdtype
from tapegrad._engine.levels import mapping
from tapegrad._engine.mode import notify_use
from tapegrad._engine.settings import float_dtype_on
from tapegrad._engine.tensor import Tensor, host, wrap
from tapegrad.ops.binary import add, multiply, subtract
from tapegrad.ops.conversion import dtype_name
from tapegrad.ops.creation import asarray
from tapegrad.ops.draws import blocks_of, draw, skip
from tapegrad.ops.shaping import _sizes, broadcast_shapes
from tapegrad.ops.sorting import argsort
from tapegrad.random.bounded import between
from tapegrad.typing import ArrayLike, DTypeLike, Shape

KIND = "philox4x64-10"


class Generator:
    def __init__(self, seed: int, *, device: str | None = None) -> None:
        self.key = asarray(_key_of(seed), device=device)
        self.count = asarray(np.zeros(8, np.uint32), device=device)
        self._lock = RLock()

    @property
    def device(self) -> str:
        return self.key.device

    def __repr__(self) -> str:
        return f"<Generator on {self.device}>"

    # -- numbers -------------------------------------------------------------------------------------

    def uniform(
        self, shape: Shape, low: ArrayLike = 0.0, high: ArrayLike = 1.0, *, dtype: DTypeLike | None = None
    ) -> Tensor:
        to = self._dtype("uniform", dtype, low, high)
        sizes = _shape("uniform", shape, low, high)
        x = self._draw("uniform", sizes, to)
        if _is(low, 0.0) and _is(high, 1.0):
            return x
        return add(low, multiply(subtract(high, low), x))

    def normal(
        self, shape: Shape, mean: ArrayLike = 0.0, std: ArrayLike = 1.0, *, dtype: DTypeLike | None = None
    ) -> Tensor:
        to = self._dtype("normal", dtype, mean, std)
        sizes = _shape("normal", shape, mean, std)
        x = self._draw("normal", sizes, to)
        x = x if _is(std, 1.0) else multiply(std, x)
        return x if _is(mean, 0.0) else add(mean, x)

    def integers(self, shape: Shape, low: Any, high: Any, *, dtype: DTypeLike | None = None) -> Tensor:
        return between(self, _shape("integers", shape, low, high), low, high, dtype)

    def permutation(self, n: int) -> Tensor:
        length = index(n)
        if backend_of[type(self.key._array)].has_dtype("float64", native_device(self.key._array)):
            return argsort(self._draw("uniform", (length,), "float64"))
        words = self._draw("bits", (length, 2), "uint32")
        order = argsort(words[:, 0] >> 11)
        return order[argsort(words[:, 1][order])]

    # -- the counter ---------------------------------------------------------------------------------

    def _draw(self, form: str, shape: tuple[int, ...], dtype: str, least: int = 0) -> Tensor:
        key, count = self._taken(blocks_of(form, prod(shape), dtype))
        return draw(key, count, form, shape, dtype, least)

    def _taken(self, blocks: int) -> tuple[Tensor, Tensor]:
        """Return the key and the counter for a draw, and advance the counter by a number of blocks.

        Inside vmap each example gets a counter of its own, so many blocks after that of the example before.
        """
        with self._lock:
            notify_use(self.count)
            start = wrap(self.count._array)
            levels: list[Any] = []
            level = mapping.get()
            while level is not None and level.depth > backend_of[type(start._array)].depth:
                levels.insert(0, level)
                level = level.outer
            sizes = tuple([inner.size for inner in levels])
            with on_level(level):
                self.count[...] = skip(start, (), blocks * prod(sizes), 0)
                if levels:
                    start = skip(start, sizes, 0, blocks)
        for inner in levels:
            start = wrap(inner.array(start, mapped=True))
        return self.key, start

    # -- state ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        with self._lock:
            return {"kind": KIND, "key": np.array(host(self.key)), "count": np.array(host(self.count))}

    def restore(self, state: Mapping[str, Any]) -> None:
        found = {"key": _words("key", state, 4), "count": _words("count", state, 8)}
        with self._lock:
            for name, words in found.items():
                getattr(self, name)[...] = words

    # -- helpers -------------------------------------------------------------------------------------

    def _dtype(self, name: str, dtype: DTypeLike | None, *parameters: Any) -> str:
        """Return the dtype of floating numbers: as given, else that of the parameters, else the default one."""
        like = self.key._array
        backend = backend_of[type(like)]
        if dtype is not None:
            found: DType = as_dtype(dtype)
            if not isdtype(found, "real floating"):
                raise TypeError(f"{name}: dtype is a real floating one, not {found.name}")
            return found.name
        return dtype_name(backend, float_dtype_on(getattr(backend.root, "base", backend.root), native_device(like)))


def bits(key: Tensor, count: Tensor, n: int) -> Tensor:
    return draw(key, count, "bits", (index(n),), "uint32", 0)


def _key_of(seed: int) -> np.ndarray[Any, Any]:
    """Return the key of a seed, spread over 128 bits as by numpy.random.Philox."""
    return np.random.SeedSequence(index(seed)).generate_state(4, np.uint32)


def _is(x: Any, value: float) -> bool:
    return type(x) in (int, float) and x == value


def _shape(name: str, shape: Shape, *parameters: Any) -> tuple[int, ...]:
    """Return a shape as a tuple; raise ValueError unless parameters broadcast to it."""
    sizes = _sizes(name, shape)
    if any(n < 0 for n in sizes):
        raise ValueError(f"{name}: a shape has no negative lengths, but {shape} has")
    shapes = [tuple(p.shape) for p in parameters if hasattr(p, "shape")]
    if shapes:
        try:
            fits = broadcast_shapes(sizes, *shapes) == sizes
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"{name}: parameters of shape {', '.join(map(str, shapes))} do not broadcast to {sizes}")
    return sizes


def _words(name: str, state: Mapping[str, Any], n: int) -> np.ndarray[Any, Any]:
    """Return an entry of a state as words."""
    words = np.asarray(state[name])
    if words.shape != (n,) or words.dtype != np.uint32:
        raise ValueError(f"restore: {name} has shape {words.shape} and dtype {words.dtype}, not ({n},) and uint32")
    return words
