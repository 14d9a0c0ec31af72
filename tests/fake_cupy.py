"""A stand-in for cupy over NumPy: streams that order nothing, graphs that record, kernels that g++ compiled.

What is recorded is not done, as on a device; what a device refuses while recording raises. New memory holds garbage.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda_on_host import HostKernel


class Graph:
    """What was recorded between begin and end."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.launches = 0

    def launch(self, stream: Any = None) -> None:
        self.launches += 1
        for function, args in self.calls:
            function(*args)


class Stream:
    """A stream; calls while one is captured are recorded."""

    def __init__(self, cupy: FakeCupy, ptr: int) -> None:
        self.cupy, self.ptr, self.synchronized = cupy, ptr, 0

    def __enter__(self) -> Stream:
        self.cupy.streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.cupy.streams.pop()

    def begin_capture(self) -> None:
        assert self.cupy.graph is None
        assert self.ptr != 0, "the default stream cannot be captured"
        self.cupy.graph = Graph()

    def end_capture(self) -> Graph:
        graph, self.cupy.graph = self.cupy.graph, None
        assert graph is not None
        return graph

    def record(self) -> Any:
        return self

    def wait_event(self, event: Any) -> None:
        pass

    def synchronize(self) -> None:
        self.synchronized += 1


class FakeCupy:
    """The part of cupy that the executor uses."""

    def __init__(self) -> None:
        self.graph: Graph | None = None
        self.streams: list[Stream] = [Stream(self, 0)]
        self.allocated = 0
        self.modules: list[str] = []
        self.graphs = 0
        self.cuda = SimpleNamespace(
            Stream=lambda non_blocking: Stream(self, len(self.modules) + 1),
            MemoryPool=lambda: SimpleNamespace(malloc=None),
            using_allocator=self._using,
            get_current_stream=lambda: self.streams[-1],
            Device=lambda number: self._using(number),
        )
        self.may_share_memory = np.may_share_memory

    @contextmanager
    def _using(self, _: Any) -> Any:
        yield

    def do(self, function: Callable[..., Any], *args: Any) -> None:
        """Do something on the device, or record it."""
        if self.graph is not None:
            self.graph.calls.append((function, args))
        else:
            function(*args)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        array = np.empty(shape, dtype)
        array.view(np.uint8).fill(0xA5) if array.shape else array.reshape(1).view(np.uint8).fill(0xA5)
        self.allocated += array.nbytes
        return array

    def copyto(self, to: Any, source: Any) -> None:
        self.do(np.copyto, to, source)

    def add(self, a: Any, b: Any, out: Any) -> None:
        self.do(np.add, a, b, out)

    def asnumpy(self, array: Any) -> Any:
        assert self.graph is None, "a host copy while capturing"
        return array.copy()

    def RawModule(self, code: str, options: tuple[str, ...]) -> Any:
        self.modules.append(code)

        def get_function(name: str) -> Any:
            kernel = HostKernel(code, name)
            return lambda *args: self.do(kernel, *args)

        return SimpleNamespace(get_function=get_function)

    def recorded(self, function: Callable[..., Any], captured: bool = True) -> Callable[..., Any]:
        """Return one of NumPy's functions as CuPy's: while capturing it gives an array to be filled at launch."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.graph is None:
                return function(*args, **kwargs)
            if not captured:
                raise NotImplementedError("calling this API during stream capture is currently unsupported")
            shaped = function(*args, **kwargs)  # for shape and dtype only
            outs = shaped if isinstance(shaped, (tuple, list)) else (shaped,)
            if any(np.may_share_memory(o, a) for o in outs for a in args if isinstance(a, np.ndarray)):
                return shaped
            made = [self.empty(np.shape(o), np.asarray(o).dtype) for o in outs]

            def fill() -> None:
                now = function(*args, **kwargs)
                for m, n in zip(made, now if isinstance(shaped, (tuple, list)) else (now,), strict=True):
                    np.copyto(m, n)

            self.graph.calls.append((fill, ()))
            return type(shaped)(made) if isinstance(shaped, (tuple, list)) else made[0]

        return call


class FakeGemm:
    """cuBLAS as its documentation has it: column-major, by leading dimension and stride."""

    def __init__(self, cupy: FakeCupy) -> None:
        self.cupy, self.calls = cupy, 0

    def multiply(self, plan: Any, a: Any, b: Any, out: Any) -> None:
        self.calls += 1
        self.cupy.do(gemm, plan, a, b, out)


def gemm(plan: Any, a: Any, b: Any, out: Any) -> None:
    """Do what the planned calls do, in column-major terms."""
    for place in plan.places:
        for i in range(plan.batch):
            starts = [p + i * s for p, s in zip(place, (*plan.stride, plan.stride_c), strict=True)]
            x = _columns(b, starts[0], plan.m, plan.k, plan.ld[0], plan.transposed[0])
            y = _columns(a, starts[1], plan.k, plan.n, plan.ld[1], plan.transposed[1])
            z = _columns(out, starts[2], plan.m, plan.n, plan.ldc, False)
            z[...] = x @ y


def _columns(array: Any, start: int, rows: int, columns: int, ld: int, transposed: bool) -> Any:
    if transposed:
        return _columns(array, start, columns, rows, ld, False).T
    assert ld >= max(1, rows)
    flat = np.lib.stride_tricks.as_strided(array, (start + ld * max(columns - 1, 0) + rows,), (array.itemsize,))
    return np.lib.stride_tricks.as_strided(flat[start:], (rows, columns), (array.itemsize, ld * array.itemsize))
