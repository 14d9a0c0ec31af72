"""Where the values of a program lie on the device, and the steps that compute them.

Every value has one place for good, since a CUDA graph has pointers baked in: inputs are copied into buffers of the
plan, results lie in buffers that are used one after the other, outputs are copied out. A state array that the program
updates is computed in the buffer that it is read from, where nothing else needs its old value.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

from tapegrad.backends import _cupy_kernels as kernels
from tapegrad.backends import _cupy_rows as rows
from tapegrad.backends._cupy_access import Layout, alignment_of
from tapegrad.backends._cupy_gemm import can_multiply, matrix_of, product_of, readable
from tapegrad.backends._cupy_jobs import Call, Flat, InRows, jobs_of
from tapegrad.backends._cupy_kernels import Kernel
from tapegrad.backends._cupy_types import HELPERS, TYPES
from tapegrad.backends._items import is_value, put_in
from tapegrad.backends._setting import DETERMINISTIC

OPTIONS = ("-std=c++17", "--fmad=false")  # no contraction: a fused kernel rounds as its operations one by one
# Functions of CuPy that read no value on the host, beside those with a `kind`.
_NAMES = """
argmax argmin concat cumulative_sum index_get index_set index_add repeat roll searchsorted stack take take_along_axis
tile tril triu
"""
_CAPTURED = frozenset(_NAMES.split())


class Step(NamedTuple):
    """Something to do; captured: whether it may be part of a CUDA graph."""

    function: Callable[..., None]
    args: tuple[Any, ...]
    captured: bool


class Plan:
    """The steps of a program on one device; `cp` is the cupy module."""

    def __init__(self, program: Any, cp: Any, gemm: Callable[[], Any], shared: frozenset[int]) -> None:
        self.program, self.cp, self._gemm = program, cp, gemm
        self.shared = shared  # numbers of inputs that may not be updated in place
        self.place: dict[Any, Any] = {}
        self.steps: list[Step] = []
        self.refusals: list[tuple[Any, Callable[[], Exception]]] = []
        self.nbytes = 0
        self.sources: list[str] = []
        self._kernels: dict[str, str] = {}  # text without name -> name
        self._names: list[str] = []
        self._free: list[Any] = []
        self._buffer: dict[Any, Any] = {}
        self._numbers: dict[Any, Any] = {}
        self._root: dict[Any, Any] = {}
        self.jobs = jobs_of(program, self.number)
        self._find_last_uses()
        for v in program.inputs:
            self.place[v] = cp.empty(v.shape, v.dtype)
        self.inputs = [self.place[v] for v in program.inputs]
        self.donated = self._donations() if self._all_captured() else {}
        for i, job in enumerate(self.jobs):
            self.now = i
            self._job(job)
            for v in [v for v in self._buffer if self._last.get(v, i) <= i]:
                self._free.append(self._buffer.pop(v))
        self.flags: Any = None
        if self.refusals:
            self.flags = cp.empty((len(self.refusals),), "bool")
        for i, (condition, _) in enumerate(self.refusals):
            self._step(cp.copyto, (self.flags[i : i + 1].reshape(condition.shape), condition))
        self.outputs = [self.array(v) for v in program.outputs]
        self._load()

    # -- values --------------------------------------------------------------------------------------

    def number(self, v: Any) -> Any:
        """Return the Python number that a value is everywhere, None if it is not known to be one."""
        scalar = v if v.uniform is None else v.uniform
        if scalar.constant is None or scalar.shape != () or getattr(v.dtype, "name", "") not in TYPES:
            return None
        if scalar not in self._numbers:
            self._numbers[scalar] = scalar.constant.item()
        return self._numbers[scalar]

    def array(self, v: Any) -> Any:
        """Return the array of a value."""
        return v.constant if v.constant is not None else self.place[v]

    def layout(self, v: Any) -> Layout:
        """Return how the array of a value lies in memory."""
        a = self.array(v)
        alignment = alignment_of(getattr(a.data, "ptr", 1))
        return Layout(tuple(a.shape), tuple(s // a.itemsize for s in a.strides), alignment)

    def root(self, v: Any) -> Any:
        """Return the value whose memory a value is in."""
        return self._root.get(v, v)

    def _find_last_uses(self) -> None:
        self._last: dict[Any, int] = {}
        self._readers: dict[Any, list[int]] = {}
        for i, job in enumerate(self.jobs):
            for n in job.all():
                if isinstance(job, Call) and n.kind == "view":
                    self._root[n.outs[0]] = self.root(n.args[0])
                for v in n.values():
                    self._last[self.root(v)] = i
                    self._readers.setdefault(self.root(v), []).append(i)
                if n.effect:
                    self._last[self.root(n.args[0])] = len(self.jobs)
        for v in self.program.outputs:
            self._last[self.root(v)] = len(self.jobs)

    def _all_captured(self) -> bool:
        """Say whether nothing can raise once state is being updated."""
        nodes = [job.node for job in self.jobs if isinstance(job, Call)]
        return not any(n.effect or not self._captured(n) for n in nodes)

    def _donations(self) -> dict[int, int]:
        """Return which outputs are written over the inputs that they replace: number of the input -> of the output."""
        found = {}
        outputs, at = self.program.outputs, {v: i for i, job in enumerate(self.jobs) for v in job.outs}
        roots = [self.root(v) for v in outputs]
        for place, (v, number) in enumerate(zip(outputs, self.program.replaces, strict=True)):
            if number is None or number in self.shared or v not in at or roots.count(v) != 1 or v in self._root:
                continue
            x = self.program.inputs[number]
            i = at[v]
            reads = self._readers.get(x, [])
            if x.shape != v.shape or x.dtype != v.dtype or x in roots or any(r > i for r in reads):
                continue
            if i not in reads or self._overwrites(self.jobs[i], x, v):
                found[number] = place
                self.place[v] = self.place[x]
        return found

    def _overwrites(self, job: Any, x: Any, v: Any) -> bool:
        """Say whether a job that reads `x` may write `v` over it: each thread reads what it will write."""
        views = any(self.root(y) is x and y is not x for n in job.all() for y in n.values())
        if isinstance(job, Call) or views:
            return False
        if isinstance(job, Flat):
            return v not in {n.outs[0] for n in job.totals} and prod(x.shape) == job.size
        return bool(job.rows.overwrites(x, v))

    def take(self, nbytes: int) -> Any:
        """Return a buffer of the plan."""
        fitting = [b for b in self._free if nbytes <= b.nbytes <= 2 * nbytes + 4096]
        if fitting:
            best = min(fitting, key=lambda b: b.nbytes)
            self._free = [b for b in self._free if b is not best]
            return best
        self.nbytes += nbytes
        return self.cp.empty((max(nbytes, 1),), "uint8")

    def target(self, v: Any) -> Any:
        """Return the array that a result is to be written into."""
        if v not in self.place:
            self._buffer[v] = buffer = self.take(v.size * v.dtype.itemsize)
            self.place[v] = self._shaped(buffer, v.shape, v.dtype)
        return self.place[v]

    def scratch(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array that is free again after this job."""
        buffer = self.take(prod(shape) * dtype.itemsize)
        self._buffer[object()] = buffer
        return self._shaped(buffer, shape, dtype)

    def _shaped(self, buffer: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        return buffer[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    # -- steps ---------------------------------------------------------------------------------------

    def _step(self, function: Callable[..., None], args: tuple[Any, ...], captured: bool = True) -> None:
        self.steps.append(Step(function, args, captured))

    def _job(self, job: Any) -> None:
        places = kernels.Places(self.layout, self.number)
        pairs = ((self.program.inputs[k], self.program.outputs[place]) for k, place in self.donated.items())
        early = {x for x, v in pairs if v in job.outs}
        if isinstance(job, Flat):
            self._emit(kernels.flat("@", job.shape, job.nodes, self._written(job), places, job.totals, early))
        elif isinstance(job, InRows):
            self._emit(rows.kernel("@", job.rows, places, early))
        else:
            self._call(job.node)

    def _written(self, job: Flat) -> list[Any]:
        ends = {n.outs[0] for n in job.totals}
        return [v for v in job.outs if v not in ends]

    def _emit(self, kernel: Kernel) -> None:
        partials = [self.scratch(shape, dtype) for dtype, shape in kernel.partials]
        reads, writes = [self.array(v) for v in kernel.reads], [self.target(v) for v in kernel.writes]
        self._launch(kernel, (*reads, *writes, *partials))
        for i, then in kernel.then:
            self._launch(then, (self.target(then.writes[0]), partials[i]))

    def _launch(self, kernel: Kernel, arrays: tuple[Any, ...]) -> None:
        text = kernel.source.replace(f" {kernel.name}(", " @(", 1)
        name = self._kernels.get(text)
        if name is None:
            name = self._kernels[text] = f"tg_{len(self._kernels)}"
            self.sources.append(text.replace(" @(", f" {name}(", 1))
        self._step(self._named(name), ((kernel.grid,), (kernel.block,), arrays))

    def _named(self, name: str) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            self.functions[name](*args)

        return launch

    def _load(self) -> None:
        """Compile all kernels as one module."""
        self.source = HELPERS + "".join(self.sources)
        self.functions: dict[str, Any] = {}
        if self.sources:
            module = self.cp.RawModule(code=self.source, options=OPTIONS)
            self.functions = {name: module.get_function(name) for name in self._kernels.values()}

    def _captured(self, node: Any) -> bool:
        """Say whether a node may be part of a graph."""
        if node.op == "matmul":
            return self._is_gemm(node)
        if node.kind or not any(True for _ in node.values()):
            return True
        if node.op not in _CAPTURED:
            return False
        keys = node.op.startswith("index_") and any(is_value(i) for i in node.args[1])
        return not (keys and node.op != "index_get" and DETERMINISTIC.get())

    def _is_gemm(self, node: Any) -> bool:
        a, b = node.args
        return bool(can_multiply(node.outs[0].dtype) and a.dtype == b.dtype == node.outs[0].dtype and a.size and b.size)

    def _call(self, node: Any) -> None:
        if node.effect:
            self.refusals.append((self.array(node.args[0]), node.args[1]))
        elif node.kind == "view" and self._view(node):
            pass
        elif not any(True for _ in node.values()) and not node.many:
            self.place[node.outs[0]] = node.function(*node.args, **node.kwargs)  # the same at each call
        elif node.op == "matmul" and self._is_gemm(node):
            self._multiply(node)
        elif node.op == "concat" and node.kwargs.get("axis", 0) is not None and node.outs[0].size:
            self._concat(node)
        elif node.op in ("index_set", "index_add") and all(_is_plain(i) for i in node.args[1]):
            self._write(node)
        else:
            outs = [self.target(v) for v in node.outs]
            args, kwargs = put_in(node.args, self.array), {k: put_in(x, self.array) for k, x in node.kwargs.items()}
            self._step(self._stored, (outs, node.function, args, kwargs, node.many), self._captured(node))

    def _stored(self, outs: list[Any], function: Any, args: Any, kwargs: Any, many: bool) -> None:
        results = function(*args, **kwargs)
        for out, result in zip(outs, results if many else (results,), strict=True):
            self.cp.copyto(out, result)

    def _view(self, node: Any) -> bool:
        v, x = node.outs[0], self.array(node.args[0])
        if v in self.place:
            return False
        array = node.function(x, *node.args[1:], **node.kwargs)
        if array.size and not self.cp.may_share_memory(array, x):
            self._root.pop(v, None)  # a copy: to be made at each call
            self._last.setdefault(v, len(self.jobs))
            return False
        self.place[v] = array
        return True

    def _multiply(self, node: Any) -> None:
        arrays = [self.array(x) for x in node.args]
        out = self.target(node.outs[0])
        for i, a in enumerate(arrays):
            if readable(matrix_of(a)) is None:
                arrays[i] = self.scratch(tuple(a.shape), a.dtype)
                self._step(self.cp.copyto, (arrays[i], a))
        plan = product_of(matrix_of(arrays[0]), matrix_of(arrays[1]), tuple(out.shape))
        self._step(self._gemm().multiply, (plan, *arrays, out))

    def _concat(self, node: Any) -> None:
        out = self.target(node.outs[0])
        axis = node.kwargs.get("axis", 0) % len(out.shape)
        start = 0
        for x in node.args[0]:
            stop = start + x.shape[axis]
            if stop > start:
                self._step(self.cp.copyto, (out[(slice(None),) * axis + (slice(start, stop),)], self.array(x)))
            start = stop

    def _write(self, node: Any) -> None:
        x, key, value = node.args
        out = self.target(node.outs[0])
        self._step(self.cp.copyto, (out, self.array(x)))
        spot = out[(*key, ...)]
        part = self.array(value) if is_value(value) else value
        if node.op == "index_add":
            self._step(self.cp.add, (spot, part, spot))
        else:
            self._step(self.cp.copyto, (spot, part))


def _is_plain(i: Any) -> bool:
    return i is None or i is Ellipsis or isinstance(i, (int, slice))
