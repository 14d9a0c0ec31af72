"""Declaration of the functions of a module that the suite may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import tapegrad as tg
from benchmarks._arrays import raw, wait
from tapegrad import backends

Compiling = Callable[[Callable[[Any], Any], Any], Callable[[Any], Any]]


def to_json(tree: Any) -> Any:
    """Return nested dicts, lists and tuples with every Tensor as a number or nested lists."""
    if isinstance(tree, tg.Tensor):
        array = raw(tree)
        backend = backends.of_type(type(array))
        return (array if backend is None else backend.to_host(array)).tolist()
    if isinstance(tree, dict):
        return {key: to_json(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [to_json(value) for value in tree]
    return tree


@dataclass(frozen=True)
class Function:
    """A function of a module, in the three parts of which only the middle one is timed.

    prepare: from the message's input and a device to the arguments of `compute`; compute: the work, from Tensors to a
    container of Tensors; finish: from that to the suite's result as JSON.
    """

    prepare: Callable[[Any, str], Any]
    compute: Callable[[Any], Any]
    finish: Callable[[Any], Any] = to_json

    def evaluate(self, given: Any, device: str, compiled: Compiling | None = None) -> tuple[Any, list[dict[str, Any]]]:
        """Return the output and the timings for an input, which may ask for several runs.

        compiled: from `compute` and a task to the function that is timed instead, once it is ready.
        """
        runs = given if isinstance(given, dict) else {}
        min_runs, min_seconds = runs.get("min_runs", 1), runs.get("min_seconds", 0)
        start = perf_counter_ns()
        task = self.prepare(given, device)
        timings = [{"name": "prepare", "nanoseconds": perf_counter_ns() - start}]
        compute = self.compute
        if compiled is not None:
            start = perf_counter_ns()
            compute = compiled(compute, task)
            timings.append({"name": "compile", "nanoseconds": perf_counter_ns() - start})
        spent, done = 0, 0
        result = None
        while done < max(min_runs, 1) or spent < min_seconds * 1e9:
            result = None  # the memory of the run before
            start = perf_counter_ns()
            result = compute(task)
            _wait(result)
            took = perf_counter_ns() - start
            timings.append({"name": "evaluate", "nanoseconds": took})
            spent, done = spent + took, done + 1
        return self.finish(result), timings


def floats(values: Any, device: str) -> tg.Tensor:
    """Return numbers in nested lists as a float64 Tensor."""
    return tg.asarray(values, dtype=tg.float64, device=device)


def integers(values: Any, device: str) -> tg.Tensor:
    """Return integers in nested lists as an int64 Tensor."""
    return tg.asarray(values, dtype=tg.int64, device=device)


def _wait(tree: Any) -> None:
    if isinstance(tree, tg.Tensor):
        wait([tree])
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            _wait(value)
    elif isinstance(tree, dict):
        for value in tree.values():
            _wait(value)
