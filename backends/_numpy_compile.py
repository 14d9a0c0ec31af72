"""Running a compiled program on NumPy: a list of calls into buffers that are planned once.

Arrays that stay the same objects are in the calls from the start; for those that may change from call to call (inputs,
outputs, which are fresh each time) the calls that read them are made anew when they do. A state array that the program
updates is written in place, in a buffer that this executor owns and nobody else can see.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import numpy as np

from tapegrad.backends import _numpy_calls as calls
from tapegrad.backends._base import Array
from tapegrad.backends._numpy_threads import pool, thread_count

Code = list[tuple[Callable[..., Any], tuple[Any, ...]]]
BLOCK = 65536  # elements of a block of a run: its arrays fit in a core's cache
ALIGN = 64
PARALLEL = 8 * BLOCK  # elements times operations from which a run is worth two threads


class Ref:
    """An array that is another one at some calls: an input or output, or a view of one."""

    __slots__ = ("array", "dtype", "function", "parent", "root", "shape")

    def __init__(self, root: Any, parent: Ref | None, function: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.root, self.parent, self.function = root, parent, function
        self.shape, self.dtype = shape, dtype
        self.array: Any = None


class Pool:
    """Buffers that values use one after the other."""

    def __init__(self) -> None:
        self.free: list[Array] = []
        self.nbytes = 0
        self._arrays: dict[Any, Array] = {}

    def take(self, nbytes: int) -> Array:
        """Return a buffer of so many bytes or a little more."""
        fitting = [b for b in self.free if nbytes <= b.nbytes <= 2 * nbytes + 4096]
        if fitting:
            best = min(fitting, key=lambda b: b.nbytes)
            self.free = [b for b in self.free if b is not best]
            return best
        raw = np.empty(nbytes + ALIGN, np.uint8)
        start = -raw.ctypes.data % ALIGN
        self.nbytes += nbytes
        return raw[start : start + nbytes]

    def array(self, buffer: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return a buffer as an array, the same object each time: thousands of them would not stay in the cache."""
        key = id(buffer), shape, dtype
        found = self._arrays.get(key)
        if found is None:
            n = _product(shape) * dtype.itemsize
            found = self._arrays[key] = buffer[:n].view(dtype).reshape(shape)
        return found

    def give(self, buffer: Array) -> None:
        """Take a buffer back."""
        self.free.append(buffer)


class Planner:
    """Turns the items of a program into code, deciding where each value lies."""

    def __init__(self, program: Any, threads: int) -> None:
        self.program, self.threads = program, threads
        self.place: dict[Any, Any] = {}  # value -> array or Ref
        self.rows: dict[Any, Array] = {}  # Rows -> the array that holds them
        self.buffer: dict[Any, Array] = {}  # root value -> the buffer of the pool that it has now
        self.pool = Pool()
        self.code: Code = []
        self.refs: dict[Any, list[Ref]] = {}  # root value -> refs, parents first
        self.uses: dict[Any, list[tuple[Code, int, Any, tuple[Any, ...]]]] = {}
        self.root: dict[Any, Any] = {}
        self.donated: dict[Any, Any] = {}  # input value -> output value that is written into its array
        self.fresh: list[Any] = []  # output roots that get a new array at each call
        self._find_last_uses()
        for v in program.inputs:
            self._dynamic(v)
        self._donate()
        for v in program.outputs:
            root = self.root_of(v)
            if root not in self.refs and root.constant is None:
                self._dynamic(root)
                self.fresh.append(root)
        for i, item in enumerate(program.nodes):
            self.now = i
            if hasattr(item, "lead"):
                Blocks(self, item).emit()
            elif hasattr(item, "nodes"):
                self._stack(item) if len(item.outs) > 1 else self._fold(item)
            else:
                self._node(item, self.code)
            self._release(i)

    # -- where values lie ----------------------------------------------------------------------------

    def root_of(self, v: Any) -> Any:
        """Return the value whose array a value is, or is a view of."""
        return self.root.get(v, v)

    def _find_last_uses(self) -> None:
        self.last: dict[Any, int] = {}
        self.readers: dict[Any, list[tuple[int, Any]]] = {}  # root -> (item number, item)
        for i, item in enumerate(self.program.nodes):
            if getattr(item, "kind", "") == "view":
                self.root[item.outs[0]] = self.root_of(item.args[0])
            for v in item.values():
                self.last[self.root_of(v)] = i
                self.readers.setdefault(self.root_of(v), []).append((i, item))
        for v in self.program.outputs:
            self.last[self.root_of(v)] = len(self.program.nodes)

    def _dynamic(self, v: Any) -> None:
        ref = Ref(v, None, None, v.shape, v.dtype)
        self.refs[v] = [ref]
        self.place[v] = ref

    def _donate(self) -> None:
        """Find the outputs that may be written into the array of the input they replace."""
        where = {v: i for i, item in enumerate(self.program.nodes) for v in item.outs}
        outputs = self.program.outputs
        for v, k in zip(outputs, self.program.replaces, strict=True):
            if k is None or v not in where or v in self.root or outputs.count(v) > 1:
                continue
            x, at = self.program.inputs[k], where[v]
            if x.shape != v.shape or x.dtype != v.dtype or any(self.root_of(o) is x for o in outputs):
                continue
            if any(self.root_of(o) is v for o in outputs if o is not v):
                continue
            reads = self.readers.get(x, [])
            if any(i > at for i, _ in reads):
                continue
            item = self.program.nodes[at]
            if any(i == at for i, _ in reads) and not _aligned(item, x, v, self.root):
                continue
            self.donated[x] = v
            self.place[v] = self.place[x]
            self.root[v] = x
            self.last[x] = len(self.program.nodes)

    def array(self, v: Any) -> Any:
        """Return where a value lies."""
        return v.constant if v.constant is not None else self.place[v]

    def target(self, v: Any, reuse: Any = None) -> Any:
        """Return where a result is to be written; reuse: a value whose buffer it takes over."""
        if v in self.place:
            return self.place[v]
        if v.row is not None:
            rows, i = v.row
            if rows not in self.rows:
                self.rows[rows] = np.empty((rows.count + 1, *v.shape), v.dtype)
                self.pool.nbytes += self.rows[rows].nbytes
            array = self.place[v] = self.rows[rows][i + 1, ...]
            return array
        if reuse is not None:
            buffer = self.buffer.pop(self.root_of(reuse))
        else:
            buffer = self.pool.take(max(v.size, 1) * v.dtype.itemsize)
        self.buffer[v] = buffer
        array = self.place[v] = self.pool.array(buffer, tuple(v.shape), v.dtype)
        return array

    def dies(self, v: Any) -> bool:
        """Say whether a value lies in a planned buffer, all of it, that nobody reads after this item."""
        return v in self.buffer and self.last[v] == self.now

    def _release(self, i: int) -> None:
        for v in [v for v in self.buffer if self.last.get(v, i) <= i]:
            self.pool.give(self.buffer.pop(v))

    def view(self, x: Any, function: Callable[[Any], Any], shape: tuple[int, ...]) -> Any:
        """Return a view of where something lies, None if the function gives a copy of a planned array."""
        if isinstance(x, Ref):
            ref = Ref(x.root, x, function, shape, x.dtype)
            self.refs[x.root].append(ref)
            return ref
        array = function(x)
        return array if array.size == 0 or np.may_share_memory(array, x) else None

    # -- code ----------------------------------------------------------------------------------------

    def emit(self, code: Code, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Append a call, to be made anew when one of the arrays in it changes."""
        roots = dict.fromkeys(_roots(args))
        for root in roots:
            self.uses.setdefault(root, []).append((code, len(code), function, args))
        code.append((function, args))

    def _node(self, node: Any, code: Code) -> None:
        if node.effect:
            self.emit(code, node.function, _put(node.args, self.array))
            return
        if node.kind == "view" and self._as_view(node):
            return
        if node.kind == "elementwise" and self._elementwise(node, code):
            return
        if node.kind == "reduction":
            self._reduction(node, code)
        elif node.kind == "matmul" and all(len(v.shape) > 1 for v in node.args):
            a, b = map(self.array, node.args)
            self.emit(code, np.matmul, (a, b, self.target(node.outs[0])))
        elif node.op in ("index_set", "index_add"):
            self._write(node, code)
        elif node.op == "concat":
            arrays = _put(node.args[0], self.array)
            axis = node.kwargs.get("axis", 0)
            out = self.target(node.outs[0])
            self.emit(code, _concatenate, (arrays, axis, out))
        elif node.many:
            outs = tuple([self.target(v) for v in node.outs])
            self.emit(code, calls.store_all, (outs, node.function, *self._arguments(node)))
        else:
            self.emit(code, calls.store, (self.target(node.outs[0]), node.function, *self._arguments(node)))

    def _arguments(self, node: Any) -> tuple[Any, dict[str, Any]]:
        return _put(node.args, self.array), {k: _put(v, self.array) for k, v in node.kwargs.items()}

    def _as_view(self, node: Any) -> bool:
        v, x = node.outs[0], node.args[0]
        if v in self.place:
            return False  # it has an array of its own
        source = self.array(x)
        rest, kwargs, function = node.args[1:], node.kwargs, node.function
        found = self.view(source, lambda a: function(a, *rest, **kwargs), v.shape)
        if found is None:
            self.root.pop(v, None)
            return False
        self.place[v] = found
        return True

    def _elementwise(self, node: Any, code: Code) -> bool:
        v = node.outs[0]
        reuse = None
        if v not in self.place:
            able = node.args if node.op != "where" else node.args[1:2]
            reuse = next((x for x in able if _is_value(x) and self.dies(x) and _alike(x, v)), None)
        operands = [self.array(x) if _is_value(x) else x for x in node.args]
        out = self.target(v, reuse)
        made = elementwise_calls(node, operands, out)
        if made is None:
            self.emit(code, calls.store, (out, node.function, *self._arguments(node)))
            return True
        for function, args in made:
            self.emit(code, function, args)
        return True

    def _reduction(self, node: Any, code: Code) -> None:
        x, v = node.args[0], node.outs[0]
        axis, keepdims = node.kwargs.get("axis"), bool(node.kwargs.get("keepdims", False))
        axes = tuple(range(len(x.shape))) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        small = x.dtype.itemsize < 4 and node.op == "mean"  # NumPy sums float16 in float32 for a mean
        if x.size == 0 or small or "dtype" in node.kwargs or v.dtype.kind in "mMO":
            self.emit(code, calls.store, (self.target(v), node.function, *self._arguments(node)))
            return
        source = self.array(x)
        count = x.size // max(v.size, 1)
        for function, args in calls.reduction(node.op, source, axes, keepdims, self.target(v), count, v.dtype):
            self.emit(code, function, args)

    def _stack(self, stack: Any) -> None:
        """Append the one call that does a stack's operation on rows."""
        first, n = stack.nodes[0], len(stack.nodes)
        ndim = len(first.outs[0].shape)
        operands = []
        for i, x in enumerate(first.args):
            if not _is_value(x):
                operands.append(x)
            elif stack.nodes[1].args[i] is x:
                operands.append(self.array(x))
            else:
                rows = self._rows_of([node.args[i] for node in stack.nodes])
                operands.append(rows.reshape((n, *(1,) * (ndim - len(x.shape)), *x.shape)))
        for v in stack.outs:
            self.target(v)
        made = elementwise_calls(first, operands, self._rows_of(stack.outs))
        if made is None:
            for node in stack.nodes:
                self._node(node, self.code)
        else:
            for function, args in made:
                self.emit(self.code, function, args)

    def _rows_of(self, values: Any) -> Array:
        """Return the rows of one array that values are, in their order."""
        (rows, start), (_, second) = values[0].row, values[1].row
        array = self.rows[rows][1:]
        if second > start:
            return array[start : start + len(values)]
        return array[start - len(values) + 1 : start + 1][::-1]

    def _fold(self, fold: Any) -> None:
        """Append a sum over rows, which adds them one after the other, as the chain of additions would."""
        x, row = fold.nodes[0].args
        rows, at = row.row
        array = self.rows[rows][at : at + len(fold.nodes) + 1]  # from the row before the first
        if x.row != (rows, at - 1):
            self.emit(self.code, np.copyto, (array[0, ...], self.array(x)))  # the one to spare
        self.emit(self.code, np.add.reduce, (array, 0, None, self.target(fold.outs[0])))

    def _write(self, node: Any, code: Code) -> None:
        x, key, value = node.args
        v = node.outs[0]
        takes = v not in self.place and _is_value(x) and self.dies(x)
        source = self.array(x)
        out = self.target(v, x if takes else None)
        if out is not source:
            self.emit(code, np.copyto, (out, source))
        part = self.array(value) if _is_value(value) else value
        if all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in key):
            spot = self.view(out, lambda a: a[(*key, ...)], ())
            if node.op == "index_add":
                self.emit(code, np.add, (spot, part, spot))
            else:
                self.emit(code, np.copyto, (spot, part))
        else:
            write = _add_at if node.op == "index_add" else _set_at
            self.emit(code, write, (out, _put(key, self.array), part))


class Blocks:
    """Code of a run: for each block of rows, calls into scratch that stays in the cache."""

    def __init__(self, planner: Planner, run: Any) -> None:
        self.planner, self.run = planner, run
        self.k = len(run.lead)
        self.rows = _product(run.lead)
        inner = max(_product(v.shape[self.k :]) for n in run.nodes for v in n.outs)
        self.block = max(1, BLOCK // max(inner, 1))
        count = -(-self.rows // self.block)
        self.block = -(-self.rows // count)  # of about equal length
        self.starts = list(range(0, self.rows, self.block))
        self.last = {v: i for i, n in enumerate(run.nodes) for v in n.values()}
        self.uses = {v: sum(x is v for n in run.nodes for x in n.values()) for n in run.nodes for v in n.outs}
        work = self.rows * inner * len(run.nodes)
        self.threads = min(planner.threads, len(self.starts)) if work >= PARALLEL else 1

    def emit(self) -> None:
        """Append the run to the program's code."""
        planner, run = self.planner, self.run
        totals = [n for n in run.nodes if n.kind == "reduction" and self._is_total(n)]
        self.outs = {v: planner.target(v) for v in run.outs if v not in {n.outs[0] for n in totals}}
        self.totals = {n.outs[0]: np.empty((len(self.starts), *self._kept(n)), n.outs[0].dtype) for n in totals}
        self.dots = {n.args[0] for n in totals if self._is_dot(n)}
        for v in run.ins:
            if v.constant is None and self._by_rows(v):
                planner.array(v)
        codes: list[Code] = []
        share = -(-len(self.starts) // self.threads)
        self.scratch: list[Pool] = []
        for t in range(self.threads):
            code: Code = []
            pool = Pool()
            for b in range(t * share, min((t + 1) * share, len(self.starts))):
                self._block(b, code, pool)
            planner.pool.nbytes += pool.nbytes
            codes.append(code)
        if self.threads == 1:
            planner.emit(planner.code, _run, (codes[0],))
        else:
            planner.emit(planner.code, _run_all, (codes,))
        for n in totals:
            self._finish(n)

    def _is_total(self, node: Any) -> bool:
        x = node.args[0]
        axis = node.kwargs.get("axis")
        axes = range(len(x.shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        return any(i % len(x.shape) == 0 for i in axes)

    def _axes(self, node: Any) -> tuple[int, ...]:
        """Return the axes of a block that a reduction reduces: the rows are one axis."""
        x = node.args[0]
        ndim = len(x.shape)
        axis = node.kwargs.get("axis")
        axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        inner = tuple(i % ndim - self.k + 1 for i in axes if i % ndim >= self.k)
        return (0, *inner) if self._is_total(node) else inner

    def _kept(self, node: Any) -> tuple[int, ...]:
        shape = self._inner(node.args[0])
        axes = self._axes(node)
        return tuple(n for i, n in enumerate(shape, 1) if i not in axes)

    def _inner(self, v: Any) -> tuple[int, ...]:
        return tuple(v.shape[self.k :])

    def _is_dot(self, node: Any) -> bool:
        """Say whether a total is of a product that nobody else reads: one pass of BLAS."""
        x = node.args[0]
        made = x.node
        return (
            node.op == "sum"
            and made in self.run.nodes
            and made.op == "multiply"
            and x not in self.run.outs
            and self.uses[x] == 1
            and self.k == len(x.shape)
            and x.dtype.kind == "f"
            and x.dtype.itemsize >= 4
            and all(_is_value(a) and a.dtype == x.dtype and a.shape == x.shape for a in made.args)
        )

    def _by_rows(self, v: Any) -> bool:
        return bool(tuple(v.shape[: self.k]) == self.run.lead)

    def _rows(self, array: Any, v: Any, b: int) -> Any:
        """Return a block of rows of an array that has them all."""
        start = self.starts[b]
        stop = min(start + self.block, self.rows)
        shape = (self.rows, *self._inner(v))
        spot = self.planner.view(array, lambda a: _by_rows(a, shape)[start:stop], ())
        assert spot is not None
        return spot

    def _block(self, b: int, code: Code, pool: Pool) -> None:
        planner = self.planner
        n = min(self.starts[b] + self.block, self.rows) - self.starts[b]
        place: dict[Any, Any] = {}
        held: dict[Any, Array] = {}

        def at(v: Any, out: Any) -> Any:
            if v.constant is not None:
                return v.constant if not v.shape else self._fixed(v.constant, out, b, v)
            if v in place:
                return place[v]
            array = planner.array(v)
            if out is None or (len(v.shape) == len(out.shape) and self._by_rows(v)):
                place[v] = self._rows(array, v, b)
                return place[v]
            keep = len(out.shape) - self.k
            if len(v.shape) > keep:
                shape = tuple(v.shape[len(v.shape) - keep :])
                return planner.view(array, lambda a: a.reshape(shape), shape)
            return array

        for i, node in enumerate(self.run.nodes):
            v = node.outs[0]
            if v in self.dots:
                continue
            if node.kind == "view":
                place[v] = planner.view(at(node.args[0], None), _reshaped((n, *self._inner(v))), ())
                if node.args[0] in held:
                    held[v] = held.pop(node.args[0])
                continue
            if v in self.totals:
                self._partial(node, b, code, at)
                continue
            out = None
            if v in self.outs:
                out = self._rows(self.outs[v], v, b)
            else:
                able = node.args if node.op != "where" else node.args[1:2]
                for x in able if node.kind == "elementwise" else ():
                    if _is_value(x) and x in held and self.last[x] == i and _alike(x, v):
                        buffer = held.pop(x)
                        break
                else:
                    buffer = pool.take(max(1, _product((self.block, *self._inner(v)))) * v.dtype.itemsize)
                held[v] = buffer
                out = pool.array(buffer, (n, *self._inner(v)), v.dtype)
            if node.kind == "reduction":
                keepdims = bool(node.kwargs.get("keepdims", False))
                x = node.args[0]
                count = x.size // max(v.size, 1)
                made = calls.reduction(node.op, at(x, None), self._axes(node), keepdims, out, count, v.dtype)
            else:
                operands = [at(x, v) if _is_value(x) else x for x in node.args]
                made = elementwise_calls(node, operands, out)
            place[v] = out
            if made is None:
                args = tuple(operands)
                planner.emit(code, calls.store, (out, node.function, args, node.kwargs))
            else:
                for function, args in made:
                    planner.emit(code, function, args)
            for x in [x for x in held if self.last.get(x, -1) <= i and x is not v]:
                pool.give(held.pop(x))
        for buffer in held.values():
            pool.give(buffer)

    def _fixed(self, array: Array, out: Any, b: int, v: Any) -> Any:
        if len(v.shape) == len(out.shape) and self._by_rows(v):
            return self._rows(array, v, b)
        keep = len(out.shape) - self.k
        return array.reshape(array.shape[array.ndim - keep :]) if array.ndim > keep else array

    def _partial(self, node: Any, b: int, code: Code, at: Any) -> None:
        x, v = node.args[0], node.outs[0]
        spot = self.totals[v][b]
        into = self.totals[v][b : b + 1].reshape(spot.shape) if spot.shape == () else spot
        if x in self.dots:
            a, c = (at(y, x) for y in x.node.args)
            self.planner.emit(code, _dot, (a, c, into))
            return
        reduce = calls.REDUCES[node.op]
        kind = v.dtype if node.op == "sum" else None
        self.planner.emit(code, reduce, (at(x, None), self._axes(node), kind, into, False))

    def _finish(self, node: Any) -> None:
        v = node.outs[0]
        out = self.planner.target(v)
        kept = self._kept(node)
        spot = self.planner.view(out, lambda a: a.reshape(kept), kept)
        self.planner.emit(self.planner.code, calls.REDUCES[node.op], (self.totals[v], 0, None, spot, False))


class Executor:
    """Runs a program; called with the arrays of its inputs."""

    how = "calls into planned buffers"

    def __init__(self, program: Any, threads: int | None = None) -> None:
        self.program = program
        self.plan = plan = Planner(program, thread_count(threads))
        self.code = plan.code
        self.inputs = program.inputs
        self.bound: list[Any] = [None] * len(self.inputs)
        self.owned: dict[int, int] = {k: -1 for k, v in enumerate(self.inputs) if v in plan.donated}
        self.volatile: set[int] = set()
        self.outputs = [plan.array(v) for v in program.outputs]
        self.nbytes = plan.pool.nbytes

    def run(self, arrays: list[Array]) -> list[Array]:
        """Return the outputs for these inputs; updated state is written where it is, if nobody else can see it."""
        bound = self.bound
        for k, count in self.owned.items():
            if arrays[k] is not bound[k] or sys.getrefcount(arrays[k]) != count:
                arrays[k] = self._own(k, arrays[k])
        for k, a in enumerate(arrays):
            if a is not bound[k] or k in self.volatile:
                self._bind(self.inputs[k], a, k)
                bound[k] = a
        for v in self.plan.fresh:
            self._bind(v, np.empty(v.shape, v.dtype))
        for function, args in self.code:
            function(*args)
        return [out.array if type(out) is Ref else out for out in self.outputs]

    def _own(self, k: int, array: Array) -> Array:
        """Return a copy of a state array that only this executor and the Tensor will hold."""
        copy = np.array(array, order="C")
        holder = [copy]
        self._bind(self.inputs[k], copy, k)
        self.bound[k] = copy
        del copy
        self.owned[k] = sys.getrefcount(holder[0]) + 1  # the Tensor's
        return holder[0]

    def _bind(self, root: Any, array: Array, k: int = -1) -> None:
        plan = self.plan
        for ref in plan.refs[root]:
            if ref.parent is None:
                ref.array = array
            else:
                ref.array = ref.function(ref.parent.array)
                if k >= 0 and ref.array.size and not np.may_share_memory(ref.array, array):
                    self.volatile.add(k)  # a copy, not a view: stale when the array is written
        for code, i, function, args in plan.uses.get(root, ()):
            code[i] = function, _actual(args)


def _run(code: Code) -> None:
    for function, args in code:
        function(*args)


def _run_all(codes: list[Code]) -> None:
    """Run a code on this thread and the others on those of the pool, under the same np.errstate."""
    others = [pool().submit(copy_context().run, _run, code) for code in codes[1:]]
    try:
        _run(codes[0])
    finally:
        for other in others:
            other.result()


def elementwise_calls(node: Any, operands: list[Any], out: Any) -> Any:
    """Return the calls for an elementwise node, None if it has none with `out`."""
    if node.kwargs:
        return None
    dtypes = [a.dtype if _is_value(a) else None for a in node.args]
    return calls.elementwise(node.op, operands[:1] if node.op == "astype" else operands, out,
                             dtypes[:1] if node.op == "astype" else dtypes, node.outs[0].dtype)  # fmt: skip


def _is_value(x: Any) -> bool:
    return hasattr(x, "uniform")


def _alike(x: Any, v: Any) -> bool:
    return tuple(x.shape) == tuple(v.shape) and x.dtype.itemsize == v.dtype.itemsize


def _aligned(item: Any, x: Any, v: Any, root: dict[Any, Any]) -> bool:
    """Say whether an item may write `v` over `x`, which it reads: element by element, nothing else of it."""
    if hasattr(item, "lead"):
        nodes = item.nodes
        made = next(i for i, n in enumerate(nodes) if v in n.outs)
        if any(y is not x and root.get(y) is x for n in nodes for y in n.values()):
            return False
        if any(x in n.values() for n in nodes[made + 1 :]):
            return False
        return nodes[made].kind == "elementwise" and (nodes[made].op != "where" or x not in nodes[made].args[2:])
    if not hasattr(item, "op"):
        return False
    if item.op in ("index_set", "index_add"):
        return item.args[0] is x and item.args[2] is not x and root.get(item.args[2]) is not x
    if item.kind != "elementwise" or any(root.get(y) is x for y in item.values()):
        return False
    return item.op != "where" or item.args[2] is not x


def _product(shape: tuple[int, ...]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n


def _by_rows(a: Array, shape: tuple[int, ...]) -> Array:
    return a.reshape(shape)


def _reshaped(shape: tuple[int, ...]) -> Callable[[Any], Any]:
    return lambda a: a.reshape(shape)


def _dot(a: Array, b: Array, out: Array) -> None:
    np.dot(a, b, out)


def _concatenate(arrays: Any, axis: Any, out: Array) -> None:
    np.concatenate(arrays, axis, out)


def _set_at(out: Array, key: Any, value: Any) -> None:
    out[key] = value


def _add_at(out: Array, key: Any, value: Any) -> None:
    if any(type(i) is np.ndarray and i.dtype != np.bool for i in key):
        np.add.at(out, key, value)
    else:
        out[key] += value


def _put(tree: Any, put: Callable[[Any], Any]) -> Any:
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([_put(x, put) for x in tree])
    return put(tree) if _is_value(tree) else tree


def _roots(args: Any) -> Any:
    for x in args:
        kind = type(x)
        if kind is Ref:
            yield x.root
        elif kind is tuple or (kind is list and len(x) < 1000 and not (x and type(x[0]) is tuple)):
            yield from _roots(x)
        elif kind is dict:
            yield from _roots(x.values())


def _actual(args: Any) -> Any:
    kind = type(args)
    if kind is Ref:
        return args.array
    if kind is tuple:
        return tuple([_actual(x) for x in args])
    if kind is list:
        return [_actual(x) for x in args]
    if kind is dict:
        return {k: _actual(v) for k, v in args.items()}
    return args
