"""Capture of steps as CUDA graphs: as few as the steps that cannot be captured leave between them.

    steps       a  b  c       d (waits for the device)  e  f
    segments    [a, b, c]     [d]                       [e, f]
    replayed    graph.launch  d()                       graph.launch

A captured step is recorded with its pointers, so that the steps' arrays must stay where they are. The stream that is
captured, and the memory that functions of the library take, are the graphs' own.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, suppress
from typing import Any

import cupy

from tapegrad.backends._cupy.executor.steps import Step


class Graphs:
    """The steps of a plan in segments that are captured, or not, as a whole.

    graphs: of each segment its graph, None where it is launched step by step; empty before the capture.
    """

    def __init__(self) -> None:
        self.segments: list[list[Step]] = []
        self.graphs: list[Any] = []
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pool = cupy.cuda.MemoryPool()

    def allocator(self) -> AbstractContextManager[None]:
        """Return a context in which CuPy takes memory from the graphs' own pool."""
        return cupy.cuda.using_allocator(self._pool.malloc)  # type: ignore[no-any-return]

    def set_steps(self, steps: list[Step]) -> None:
        """Have steps be launched, and later captured."""
        self.segments = segments(steps)

    def launch(self, stream: Any) -> None:
        """Launch the graphs, and the steps between them, on the current stream."""
        # Graphs go to the caller's stream, so that its other work stays in order with them.
        for segment, graph in zip(self.segments, self.graphs, strict=True):
            if graph is not None:
                graph.launch(stream)
            else:
                _launch(segment)

    def launch_apart(self, stream: Any) -> None:
        """Launch all steps one by one on the stream that is captured later, which loads kernels and fills caches."""
        # Events order this stream behind the caller's, and the caller's behind it: the host waits for neither.
        self._stream.wait_event(stream.record())
        with self._stream, self.allocator():
            for segment in self.segments:
                _launch(segment)
        stream.wait_event(self._stream.record())

    def capture(self) -> None:
        """Capture the segments; a step that cannot be captured is launched between the graphs from then on."""
        with self._stream, self.allocator():
            # Each failure takes a step out, so that this ends.
            while True:
                try:
                    self.graphs = [self._captured(s) if s[0].captured else None for s in self.segments]
                    break
                except _NotCaptured as error:
                    warnings.warn(
                        f"compile: {error.name} could not be captured in a CUDA graph and is launched by itself "
                        f"({error.__cause__})",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    self.segments = segments(error.without(self.segments))

    def _captured(self, segment: list[Step]) -> Any:
        """Return the graph of a segment."""
        self._stream.begin_capture()
        step = segment[0]
        try:
            for step in segment:
                step.function(*step.args)
        except BaseException as error:
            with suppress(Exception):
                self._stream.end_capture()  # the stream must be left as it was
            if isinstance(error, cupy.cuda.memory.OutOfMemoryError) or not isinstance(error, Exception):
                raise  # nothing has been computed: the next call captures
            raise _NotCaptured(segment, step) from error
        try:
            return self._stream.end_capture()
        except Exception as error:  # CUDA noticed at the end, and does not say which step it was
            raise _NotCaptured(segment, None) from error


class _NotCaptured(Exception):
    """A step of a segment cannot be captured; step: None where CUDA does not say which."""

    def __init__(self, segment: list[Step], step: Step | None) -> None:
        self.segment, self.step = segment, step
        self.name = "a step" if step is None else step.name

    def without(self, pieces: list[list[Step]]) -> list[Step]:
        """Return all steps, with those that failed marked as not to be captured."""
        failed = self.segment if self.step is None else [self.step]
        marked = {id(step) for step in failed}
        return [step._replace(captured=False) if id(step) in marked else step for piece in pieces for step in piece]


def segments(steps: list[Step]) -> list[list[Step]]:
    """Return steps in pieces that are captured, or not, as a whole."""
    pieces: list[list[Step]] = []
    for step in steps:
        if pieces and pieces[-1][0].captured is step.captured:
            pieces[-1].append(step)
        else:
            pieces.append([step])
    return pieces


def _launch(segment: list[Step]) -> None:
    for step in segment:
        step.function(*step.args)
