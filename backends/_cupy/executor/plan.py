"""Steps of a program on one device: kernels, products and copies over buffers that are planned once.

Every value has one place for good, since a CUDA graph has pointers baked in:
- an argument is copied into a buffer of the plan, as a batch is another array at each call;
- state that the program only reads is read where it is, as long as it stays there;
- state that it updates stays in a buffer of the plan, which its Tensor then holds (see `donation`);
- a result lies in a buffer that is used again when the result is dead (see `liveness`);
- an output is copied to an array of its own after the graph, except a gradient, which is handed out as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import cupy

from tapegrad._program.ir import Value, put_in
from tapegrad._program.queries import is_put_where
from tapegrad.backends._cupy.codegen import copy_kernels as copies
from tapegrad.backends._cupy.codegen import final_reductions as finishing
from tapegrad.backends._cupy.codegen import flat_kernels as kernels
from tapegrad.backends._cupy.codegen import row_kernels as rows
from tapegrad.backends._cupy.codegen.cuda_types import HELPERS, OPTIONS
from tapegrad.backends._cupy.codegen.final_reductions import Finish
from tapegrad.backends._cupy.codegen.flat_kernels import Kernel, Numbers
from tapegrad.backends._cupy.codegen.memory_access import Layout, alignment_of
from tapegrad.backends._cupy.cublas import matrix_of, product_of, readable
from tapegrad.backends._cupy.executor import refusals
from tapegrad.backends._cupy.executor.buffers import Pool, shaped
from tapegrad.backends._cupy.executor.donation import donations
from tapegrad.backends._cupy.executor.kernel_groups import (
    Batch,
    Call,
    Flat,
    gathered,
    is_concatenation,
    is_constant,
    is_product,
    is_view,
    is_write,
    jobs_of,
)
from tapegrad.backends._cupy.executor.liveness import Liveness
from tapegrad.backends._setting import DETERMINISTIC

HELD = 32 << 20  # bytes of partial results that wait to be completed together
# Functions of CuPy that read no value on the host, beside those with a `kind`.
_NAMES = """
argmax argmin count_nonzero cumulative_prod cumulative_sum index_get index_set index_add linalg.diagonal
linalg.vector_norm ones_like repeat roll searchsorted std take take_along_axis tile tril triu var vecdot zeros_like
"""
_CAPTURED = frozenset(_NAMES.split())


class Step(NamedTuple):
    """Something to do; name: the operations it does; captured: whether it may be part of a CUDA graph."""

    name: str
    function: Callable[..., None]
    args: tuple[Any, ...]
    captured: bool = True


class Analysis:
    """A program in jobs, with the lives of its values: what does not change when it is planned anew."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.number = Numbers()
        self._counts: dict[Any, bool] = {}
        self.jobs = jobs_of(program, self.number)
        refused = [n for job in self.jobs for n in job.all() if n.effect]
        self.errors = [n.args[1] for n in refused]

    def counts(self, v: Any) -> bool:
        """Say whether a value is the constant 0, 1, 2 and so on."""
        if v.constant is None or len(v.shape) != 1 or v.dtype.kind not in "iu":
            return False
        if v not in self._counts:
            self._counts[v] = bool((v.constant == cupy.arange(v.size)).all())
        return self._counts[v]


class Plan:
    """The steps of a program.

    gemm: gives cuBLAS; refused: its refusals, if it has any; shared: numbers of inputs that may not be updated in
    place; kept: places of gradients that somebody keeps; bound: inputs that are read where they are.
    """

    def __init__(
        self,
        analysis: Analysis,
        gemm: Callable[[], Any],
        refused: refusals.Refusals | None,
        shared: frozenset[int],
        kept: frozenset[int],
        bound: dict[int, Any],
    ) -> None:
        self.program = program = analysis.program
        self.jobs, self.number = analysis.jobs, analysis.number
        self._gemm, self._refused = gemm, refused
        self.steps: list[Step] = []
        self.sources: list[str] = []
        self._names: dict[str, str] = {}  # text of a kernel -> its name in the module
        self._pool = Pool(cupy.empty)
        self._buffer: dict[Any, Any] = {}
        self._conditions: list[Any] = []
        self._unfinished: list[tuple[Finish, Any, Any]] = []  # reductions: (finish, result, partial results)
        self._partial: list[Any] = []  # buffers of these
        self._constants: dict[Any, Any] = {}  # the same at each call, and made where something reads the array
        self._liveness = Liveness(program, self.jobs)
        self.place = {v: bound[k] if k in bound else cupy.empty(v.shape, v.dtype) for k, v in enumerate(program.inputs)}
        self.inputs = [self.place[v] for v in program.inputs]
        in_place, committed = donations(program, self.jobs, self._liveness, shared)
        self.donated = {**in_place, **committed}  # number of an input -> place of the output that replaces it
        self._old = {program.outputs[place]: program.inputs[k] for k, place in in_place.items()}  # what is written over
        self._places = kernels.Places(self.layout, self.number, analysis.counts)
        self.place.update((program.outputs[place], self.inputs[k]) for k, place in in_place.items())
        last = self._liveness.last
        for i, job in enumerate(self.jobs):
            if self._reads_unfinished(job):
                self._finish()
            self._job(job)
            if any(last.get(self._liveness.root(f.out), i) <= i for f, *_ in self._unfinished):
                self._finish()
            for v in [v for v in self._buffer if last.get(v, i) <= i]:
                self._pool.give(self._buffer.pop(v))
        self._finish()
        outputs = [self._in_order(v) for v in program.outputs]
        self._copy([(self.inputs[k], outputs[place]) for k, place in committed.items()])
        self._sort_outputs(outputs, kept)
        self._load()

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers for results."""
        return self._pool.nbytes

    # -- values --------------------------------------------------------------------------------------

    def array(self, v: Any) -> Any:
        """Return the array of a value."""
        if v.constant is not None:
            return v.constant
        if v not in self.place and v in self._constants:
            node = self._constants[v]
            self.place[v] = node.function(*node.args, **node.kwargs)
        return self.place[v]

    def layout(self, v: Any) -> Layout:
        """Return how the array of a value lies in memory."""
        a = self.array(v)
        return Layout(*matrix_of(a), alignment_of(a.data.ptr))

    def target(self, v: Any) -> Any:
        """Return the array that a result is to be written into."""
        if v not in self.place:
            if v in self._liveness.part:
                whole, part_of = self._liveness.part[v]
                self.place[v] = part_of(self.target(whole))
            else:
                self._buffer[v] = buffer = self._pool.take(v.size * v.dtype.itemsize)
                self.place[v] = shaped(buffer, v.shape, v.dtype)
        return self.place[v]

    def scratch(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array that is free again after this job."""
        self._buffer[object()] = buffer = self._pool.take(prod(shape) * dtype.itemsize)
        return shaped(buffer, shape, dtype)

    # -- jobs ----------------------------------------------------------------------------------------

    def _step(self, name: str, function: Callable[..., None], *args: Any) -> None:
        self.steps.append(Step(name, function, args))

    def _job(self, job: Any) -> None:
        if isinstance(job, Call):
            self._call(job.node)
            return
        for v in job.outs:
            self.target(v)  # the text of a kernel depends on where its results lie
        if isinstance(job, Flat):
            self._flat(job)
        elif isinstance(job, Batch):
            self._batch(job)
        else:
            self._emit(_operations(job), rows.kernel("@", job.rows, self._places, self._early(job.outs)))

    def _early(self, outs: list[Any]) -> set[Any]:
        """Return the state that results are written over."""
        return {self._old[v] for v in outs if v in self._old}

    def _flat(self, job: Flat) -> None:
        ends = {n.outs[0] for n in job.totals}
        outs = [v for v in job.outs if v not in ends]
        early = self._early(outs)
        self._emit(_operations(job), kernels.flat("@", job.shape, job.nodes, outs, self._places, job.totals, early))

    def _batch(self, job: Batch) -> None:
        """Launch one kernel for all jobs of one form, whatever their sizes."""
        forms: dict[str, list[Flat]] = {}
        for flat in job.flats:
            form = kernels.form(_group(flat), self._places)
            if form is None:
                self._flat(flat)
            else:
                forms.setdefault(form, []).append(flat)
        for flats in forms.values():
            if len(flats) == 1:
                self._flat(flats[0])
                continue
            many = kernels.multi("@", [_group(flat) for flat in flats], self._places)
            table = cupy.asarray(many.table(lambda v: self.array(v).data.ptr))
            kernel = many.kernel
            name = f"{len(flats)} times {_operations(flats[0])}"
            self._launch(name, kernel.source, (kernel.grid,), kernel.block, (table,), True)

    def _emit(self, name: str, kernel: Kernel) -> None:
        unfinished = kernel.unfinished
        buffers = [self._pool.take(prod(f.shape) * f.dtype.itemsize) for f in unfinished]
        partials = [shaped(b, f.shape, f.dtype) for b, f in zip(buffers, unfinished, strict=True)]
        reads, writes = [self.array(v) for v in kernel.reads], [self.target(v) for v in kernel.writes]
        guarded = not self._old.keys().isdisjoint(kernel.writes)
        self._launch(name, kernel.source, (kernel.grid,), kernel.block, (*reads, *writes, *partials), guarded)
        self._partial += buffers
        self._unfinished += [(f, self.target(f.out), p) for f, p in zip(unfinished, partials, strict=True)]
        if sum(b.nbytes for b in self._partial) > HELD:
            self._finish()

    def _finish(self) -> None:
        """Complete the reductions of the kernels so far, by one launch for each size of blocks."""
        unfinished, self._unfinished = self._unfinished, []
        for block in dict.fromkeys(f.block for f, *_ in unfinished):
            alike = [x for x in unfinished if x[0].block == block]
            for n in range(0, len(alike), finishing.MOST):
                part = alike[n : n + finishing.MOST]
                args = tuple(a for _, *arrays in part for a in arrays)
                guarded = any(f.out in self._old for f, *_ in part)
                text, grid = finishing.kernel("@", [f for f, *_ in part])
                self._launch("partial results", text, (grid,), block, args, guarded)
        for buffer in self._partial:
            self._pool.give(buffer)
        self._partial = []

    def _reads_unfinished(self, job: Any) -> bool:
        root = self._liveness.root
        waited = {root(f.out) for f, *_ in self._unfinished}
        return bool(waited) and any(root(v) in waited for n in job.all() for v in n.values())

    def _launch(
        self, name: str, text: str, grid: tuple[int, ...], block: int, args: tuple[Any, ...], guarded: bool = False
    ) -> None:
        """Launch a kernel; guarded: which is to write nothing once the call has been refused."""
        if guarded and self._refused is not None:
            text, args = refusals.guarded(text), (*args, self._refused.stop)
        self._step(name, _Launch(self, self._function(text)), grid, (block,), args)

    def _function(self, text: str) -> str:
        """Return the name in the module of a kernel that is called "@" in its text: one for all of the same text."""
        if text not in self._names:
            self._names[text] = f"tg_{len(self._names)}"
            self.sources.append(text.replace(" @(", f" {self._names[text]}(", 1))
        return self._names[text]

    def _captured(self, node: Any) -> bool:
        """Say whether a function of the library may be part of a graph."""
        if node.kind in ("elementwise", "reduction"):
            return True
        if node.op not in _CAPTURED:
            return bool(node.op.startswith("special."))  # of cupyx, or composed of functions of the standard
        if node.op in ("index_set", "index_add") and any(
            isinstance(i, Value) and i.dtype == bool for i in node.args[1]
        ):
            return node.op == "index_set" and is_put_where(*node.args)
        keys = node.op.startswith("index_") and any(isinstance(i, Value) for i in node.args[1])
        return not (keys and node.op != "index_get" and DETERMINISTIC.get())

    def _call(self, node: Any) -> None:
        if node.effect:
            self._refuse(node)
        elif is_view(node):
            if node.outs[0] not in self.place:  # as the transpose of a product is
                self._view(node)
        elif is_constant(node) and not node.many:
            self._constants[node.outs[0]] = node
        elif is_product(node):
            self._multiply(node)
        elif is_concatenation(node):
            self._concatenate(node)
        elif is_write(node):
            self._write(node)
        elif (gather := gathered(node)) is not None:
            x, indices, axis = gather
            self._step(node.op, cupy.take, self.array(x), self.array(indices), axis, self.target(node.outs[0]))
        else:
            self._library(node)

    def _library(self, node: Any) -> None:
        """Call a function of the library, which may write to its results; else they are copied."""
        outs = [self.target(v) for v in node.outs]
        name = f"{node.op} at {node.line}" if node.line else str(node.op)
        if hasattr(node.function, "in_place"):
            x, *rest = node.args
            self._begin(outs[0], x)
            args = node.function.in_place, outs[0], *put_in(rest, self.array)
            self.steps.append(Step(name, _written, args, self._captured(node)))
            return
        args, kwargs = put_in(node.args, self.array), {k: put_in(x, self.array) for k, x in node.kwargs.items()}
        if hasattr(node.function, "into"):
            self.steps.append(Step(name, node.function.into, (outs, *args)))
        else:
            args = outs, node.function, args, kwargs, node.many
            self.steps.append(Step(name, _stored, args, self._captured(node)))

    def _refuse(self, node: Any) -> None:
        """Evaluate all conditions by one kernel, when the last one has been computed."""
        assert self._refused is not None
        self._conditions.append(self.array(node.args[0]))
        if len(self._conditions) == len(self._refused.errors):
            source = refusals.kernel("@", len(self._conditions))
            self._launch("refuse", source, (1,), 1, self._refused.arguments(self._conditions))

    def _view(self, node: Any) -> None:
        """Place results that are views; a reshape that is a copy has a place of its own."""
        x = self.array(node.args[0])
        results = node.function(x, *node.args[1:], **node.kwargs)
        for v, array in zip(node.outs, results if node.many else (results,), strict=True):
            if array.size and not cupy.may_share_memory(array, x):
                self._liveness.separate(v, len(self.jobs))
                self._step("copy", cupy.copyto, self.target(v).reshape(x.shape), x)
            else:
                self.place[v] = array

    def _multiply(self, node: Any) -> None:
        arrays, v = [self.array(x) for x in node.args], node.outs[0]
        if v in self._liveness.transpose:  # (a @ b).mT is b.mT @ a.mT
            v, arrays = self._liveness.transpose[v], [a.swapaxes(-1, -2) for a in reversed(arrays)]
        out = self.target(v)
        for i, a in enumerate(arrays):
            if readable(matrix_of(a)) is None:
                arrays[i] = self.scratch(tuple(a.shape), a.dtype)
                self._step("copy", cupy.copyto, arrays[i], a)
        plan = product_of(matrix_of(arrays[0]), matrix_of(arrays[1]), tuple(out.shape))
        self._step("matmul", self._gemm().multiply, plan, *arrays, out)

    def _concatenate(self, node: Any) -> None:
        """Copy the operands into the result, except those that were computed there."""
        out = self.target(node.outs[0])
        axis = node.kwargs.get("axis", 0) % len(out.shape)
        pieces: list[tuple[Any, Any]] = []
        start = 0
        for x in node.args[0]:
            stop = start + (1 if node.op == "stack" else x.shape[axis])
            spot = out[(slice(None),) * axis + (start if node.op == "stack" else slice(start, stop),)]
            if spot.size and not self._liveness.is_in(x, node.outs[0]):
                pieces.append((spot, self.array(x)))
            start = stop
        whole = _is_contiguous(out)
        alike = [(to, a) for to, a in pieces if whole and _is_contiguous(a) and a.dtype == to.dtype]
        others = [(to, a) for to, a in pieces if not (whole and _is_contiguous(a) and a.dtype == to.dtype)]
        inner = prod(out.shape[axis + 1 :]) * out.itemsize
        forms = []
        for to, a in alike:
            row, pitch = a.nbytes // prod(out.shape[:axis]), out.shape[axis] * inner
            forms.append(copies.Copy(a.nbytes, copies.word(row, pitch, a.data.ptr, to.data.ptr), False, row, pitch))
        for n in range(0, len(alike), copies.WIDEST):
            source, grid = copies.kernel("@", forms[n : n + copies.WIDEST], False)
            args = tuple(array for pair in alike[n : n + copies.WIDEST] for array in pair)
            self._launch("join", source, grid, copies.THREADS, args)
        for to, a in others:
            self._step("copy", cupy.copyto, to, a)

    def _write(self, node: Any) -> None:
        x, key, value = node.args
        out = self.target(node.outs[0])
        self._begin(out, x)
        spot = out[(*key, ...)]
        part = self.array(value) if isinstance(value, Value) else value
        if node.op == "index_add":
            self._step("add", cupy.add, spot, part, spot)
        else:
            self._step("copy", cupy.copyto, spot, part)

    def _begin(self, out: Any, x: Any) -> None:
        """Give an array the values of another, to be written to."""
        if self.number(x) == 0:
            self._step("zeros", out.fill, 0)
        else:
            self._step("copy", cupy.copyto, out, self.array(x))

    # -- outputs -------------------------------------------------------------------------------------

    def _in_order(self, v: Any) -> Any:
        """Return the array of an output, with its elements in row-major order."""
        a = self.array(v)
        if _is_contiguous(a):
            return a
        copy = cupy.empty(a.shape, a.dtype)
        self._step("copy", cupy.copyto, copy, a)
        return copy

    def _copy(self, pairs: list[tuple[Any, Any]]) -> None:
        """Copy arrays (to, from) at the end of the graph, unless the call has been refused."""
        for n in range(0, len(pairs), copies.WIDEST):
            part = pairs[n : n + copies.WIDEST]
            forms = [copies.Copy(a.nbytes, copies.word(a.nbytes, a.data.ptr, b.data.ptr)) for a, b in part]
            source, grid = copies.kernel("@", forms, False)
            self._launch("commit", source, grid, copies.THREADS, tuple(a for pair in part for a in pair), True)

    def _sort_outputs(self, outputs: list[Any], kept: frozenset[int]) -> None:
        """Part outputs in state, gradients that are handed out as they are, and those that are copied at each call.

        lent: place -> array; fresh: (place, array); hand_out: kernels that copy fresh arrays, with their parts of them.
        """
        program = self.program
        roots = [self._liveness.root(v) for v in program.outputs]
        state = set(self.donated.values())
        alone = {p for p, v in enumerate(program.outputs) if roots.count(roots[p]) == 1 and roots[p] in self._buffer}
        if any(not step.captured for step in self.steps):  # which may raise when earlier gradients are written over
            alone = set()
        self.lent = {p: outputs[p] for p in sorted(program.gradients & alone - kept - state)}
        self.fresh = [(p, a) for p, a in enumerate(outputs) if p not in self.lent and p not in state]
        self.hand_out: list[tuple[str, tuple[int, ...], list[int], list[Any]]] = []
        old = {p: self.inputs[k] for p, k in enumerate(program.replaces) if k is not None}
        filled = [(p, a) for p, a in self.fresh if a.size]
        for n in range(0, len(filled), copies.WIDEST):
            part = filled[n : n + copies.WIDEST]
            forms, arrays = [], []
            for p, a in part:
                guarded = self._refused is not None and p in old
                sources = [a, old[p]] if guarded else [a]
                forms.append(copies.Copy(a.nbytes, copies.word(a.nbytes, *(s.data.ptr for s in sources)), guarded))
                arrays.append(sources)
            refused = any(form.guarded for form in forms)
            source, grid = copies.kernel("@", forms, refused)
            self.hand_out.append((self._function(source), grid, [p for p, _ in part], arrays))

    def new_outputs(self) -> dict[int, Any]:
        """Return arrays for the outputs that belong to who called, by place; made before anything is computed."""
        return {p: cupy.empty(a.shape, a.dtype) for p, a in self.fresh}

    def copy_outputs(self, new: dict[int, Any]) -> None:
        """Copy the outputs to the arrays of `new_outputs`."""
        for name, grid, places, arrays in self.hand_out:
            args = [a for p, sources in zip(places, arrays, strict=True) for a in (new[p], *sources)]
            if any(len(sources) > 1 for sources in arrays):
                assert self._refused is not None
                args.append(self._refused.stop)
            self.functions[name](grid, (copies.THREADS,), tuple(args))

    def _load(self) -> None:
        """Compile all kernels as one module."""
        self.source = HELPERS + "".join(self.sources)
        self.functions: dict[str, Any] = {}
        if self.sources:
            module = cupy.RawModule(code=self.source, options=OPTIONS)
            self.functions = {name: module.get_function(name) for name in self._names.values()}


class _Launch:
    """A launch of a kernel of the module, which is loaded once all kernels are known."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name = plan, name

    def __call__(self, *args: Any) -> None:
        self.plan.functions[self.name](*args)


def _stored(outs: list[Any], function: Any, args: Any, kwargs: Any, many: bool) -> None:
    results = function(*args, **kwargs)
    for out, result in zip(outs, results if many else (results,), strict=True):
        cupy.copyto(out, result)


def _operations(job: Any) -> str:
    return " ".join(n.op for n in job.all() if n.kind != "view")


def _group(flat: Flat) -> kernels.Group:
    return kernels.Group(flat.shape, flat.nodes, flat.outs)


def _written(write: Callable[..., Any], out: Any, key: Any, value: Any) -> None:
    result = write(out, key, value)
    if result is not out:  # in a fixed order, see `tapegrad.deterministic`
        cupy.copyto(out, result)


def _is_contiguous(a: Any) -> bool:
    return bool(a.flags.c_contiguous)


def _is_mask(i: Any) -> bool:
    """Say whether an entry of an index is a mask."""
    return isinstance(i, Value) and bool(i.dtype == bool)
