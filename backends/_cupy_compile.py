"""Running a compiled program on CuPy: generated kernels over planned buffers, replayed as CUDA graphs.

The first calls launch the steps one by one, on a stream and from a memory pool of their own, which loads kernels and
fills caches. Then what can be captured is captured, in as few graphs as the calls in between leave. Inputs are copied
into buffers of the plan: a graph has pointers baked in, a batch is another array at each call, and a copy at memory
bandwidth costs far less than capturing anew. Updated state stays in the plan's buffer, which the Tensor then holds, so
long as nobody else can see it.

None of this has ever run on a CUDA device. The tests run kernels, plans and the order of things on stand-ins for CuPy
and cuBLAS (kernels compiled by g++), and compile the text with NVRTC where it is installed. What they cannot show:
that CuPy's functions in `_cupy_plan` can be captured, that cuBLAS takes the calls of `_cupy_gemm`, reference counts of
CuPy's arrays, and speed.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from functools import cache
from typing import Any

from tapegrad.backends._base import Array
from tapegrad.backends._cupy_faults import remedy
from tapegrad.backends._cupy_plan import Plan, Step

WARM_UPS = 2  # calls before the one that captures


class Executor:
    """Runs a program; called with the arrays of its inputs. cp, gemm: stand-ins for cupy and cuBLAS."""

    def __init__(self, program: Any, cp: Any = None, gemm: Any = None) -> None:
        if cp is None:
            import cupy

            cp = cupy
        self.program = program
        self.cp: Any = cp
        self._gemm = cache(gemm or (lambda: _cublas(cp)))  # a workspace of its own: graphs may run side by side
        self._last: Any = None  # the stream of the call before
        self._shared: frozenset[int] = frozenset()
        self._plan: Plan | None = None
        self._graphs: list[Any] = []
        self._captures = True

    @property
    def how(self) -> str:
        """How the program is run, in words."""
        graphs = sum(hasattr(g, "launch") for g in self._graphs)
        return f"{graphs} CUDA graphs" if graphs else "generated kernels, launched one by one"

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers for results, once planned."""
        return 0 if self._plan is None else self._plan.nbytes

    def run(self, arrays: list[Array]) -> list[Array]:
        """Return the outputs for these inputs; updated state is written where it is, if nobody else can see it."""
        device = arrays[0].device if arrays else None
        with self.cp.cuda.Device(getattr(device, "id", None)):
            try:
                return self._run(arrays)
            except Exception as error:
                advice = remedy(error)
                if advice:
                    error.add_note(advice)
                raise

    def _run(self, arrays: list[Array]) -> list[Array]:
        plan = self._plan
        if plan is not None:
            seen = [k for k in plan.donated if not self._private(k, arrays)]
            if seen:
                self._shared |= set(seen)
                plan = None
        if plan is None:
            plan = self._planned()
        stream = self.cp.cuda.get_current_stream()
        if self._last is not None and stream.ptr != self._last.ptr:
            self._last.synchronize()  # the buffers are still in use there
        self._last = stream
        for mine, given in zip(plan.inputs, arrays, strict=True):
            if given is not mine:
                self.cp.copyto(mine, given)
        owned = {place: k for k, place in plan.donated.items()}
        # Memory that runs out does so before state is updated.
        new = {i: self.cp.empty(a.shape, a.dtype) for i, a in enumerate(plan.outputs) if i not in owned}
        self._compute(plan, stream)
        if plan.flags is not None:
            for wrong, (_, error) in zip(self.cp.asnumpy(plan.flags), plan.refusals, strict=True):
                if wrong:
                    raise error()
        for i, out in new.items():
            self.cp.copyto(out, plan.outputs[i])
        return [plan.inputs[owned[i]] if i in owned else new[i] for i in range(len(plan.outputs))]

    def _planned(self) -> Plan:
        """Plan the program, anew if state turned out to be seen by others."""
        cp = self.cp
        self._graphs, self._calls, self._last = [], 0, None
        self._stream = cp.cuda.Stream(non_blocking=True)
        self._pool = cp.cuda.MemoryPool()
        with cp.cuda.using_allocator(self._pool.malloc):
            self._plan = plan = Plan(self.program, cp, self._gemm, self._shared)
        self._segments = segments(plan.steps)
        self._counts = {k: sys.getrefcount(plan.inputs[k]) for k in plan.donated}
        return plan

    def _private(self, k: int, arrays: list[Array]) -> bool:
        """Say whether nobody but this executor, and the Tensor that it is the state of, can see a buffer."""
        assert self._plan is not None
        holders = 2 if arrays[k] is self._plan.inputs[k] else 0  # the Tensor and the list
        return sys.getrefcount(self._plan.inputs[k]) == self._counts[k] + holders

    def _compute(self, plan: Plan, stream: Any) -> None:
        self._calls += 1
        if self._calls <= WARM_UPS or not self._captures:
            self._aside(stream)
            return
        if not self._graphs:
            self._capture()
            if not self._captures:
                self._aside(stream)
                return
        for segment, graph in zip(self._segments, self._graphs, strict=True):
            if graph is not None:
                graph.launch(stream)
            else:
                _run(segment)

    def _aside(self, stream: Any) -> None:
        """Launch all steps one by one on the stream that is captured later."""
        cp = self.cp
        self._stream.wait_event(stream.record())
        with self._stream, cp.cuda.using_allocator(self._pool.malloc):
            for segment in self._segments:
                _run(segment)
        stream.wait_event(self._stream.record())

    def _capture(self) -> None:
        cp, plan = self.cp, self._plan
        assert plan is not None
        before = {k: sys.getrefcount(plan.inputs[k]) for k in plan.donated}
        try:
            with self._stream, cp.cuda.using_allocator(self._pool.malloc):
                self._graphs = [self._captured(s) if s[0].captured else None for s in self._segments]
            for k, count in before.items():  # should a graph hold what it uses
                self._counts[k] += sys.getrefcount(plan.inputs[k]) - count
        except Exception as error:
            self._graphs, self._captures = [], False
            warnings.warn(
                f"compile: a step on CUDA could not be captured as a graph and is launched call by call ({error})",
                RuntimeWarning,
                stacklevel=2,
            )

    def _captured(self, segment: list[Step]) -> Any:
        self._stream.begin_capture()
        try:
            _run(segment)
        except BaseException:
            with suppress(Exception):
                self._stream.end_capture()  # the stream must be left as it was
            raise
        return self._stream.end_capture()


def segments(steps: list[Step]) -> list[list[Step]]:
    """Return steps in pieces that are captured, or not, as a whole."""
    pieces: list[list[Step]] = []
    for step in steps:
        if pieces and pieces[-1][0].captured is step.captured:
            pieces[-1].append(step)
        else:
            pieces.append([step])
    return pieces


def _run(segment: list[Step]) -> None:
    for function, args, _ in segment:
        function(*args)


def _cublas(cp: Any) -> Any:
    from tapegrad.backends._cupy_gemm import Cublas

    return Cublas(cp)
