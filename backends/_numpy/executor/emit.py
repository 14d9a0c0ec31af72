"""From the items of a compiled program to calls on NumPy arrays: where each value lies, and what is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tapegrad._program.interpreter import LOOKING
from tapegrad._program.ir import Node, Run, Value, put_in
from tapegrad._program.queries import axes_of
from tapegrad.backends._array import Array
from tapegrad.backends._numpy.executor import blas
from tapegrad.backends._numpy.executor import kernels as calls
from tapegrad.backends._numpy.executor.axpy import update
from tapegrad.backends._numpy.executor.buffers import Pool, Ref, alike, reshaping, roots_of
from tapegrad.backends._numpy.executor.stacked import EMIT
from tapegrad.backends._numpy.executor.threads import Code, run_all
from tapegrad.backends._numpy.executor.tiles import Blocks
from tapegrad.backends._numpy.functions import add_at, add_rows, numbers_of, picks_rows

WORTH_THREADS = 5e7  # floating-point operations of a product from which it is split: waking a thread takes 0.1 ms
WAKES_BLAS = 1e6  # floating-point operations of products that BLAS shares among its threads
WORTH_COPYING = 200_000  # elements of a copy from which it is split
SMALL_PART = 4096  # elements of a part that is read where it lies; what is larger is better laid out in order


class Planner:
    """Turns the items of a program into code, deciding where each value lies."""

    def __init__(self, program: Any, threads: int) -> None:
        self.program, self.threads = program, threads
        self.place: dict[Any, Any] = {}  # value -> array or Ref
        self.threaded = False  # whether there is code for several threads
        # BLAS shares a large product among its own threads, but not the many small ones of a batch. Where these matter,
        # all products are shared here; else they are left to BLAS, as its threads and ours do not go together.
        products = [n for n in program.nodes if getattr(n, "kind", "") == "matmul"]
        batched = sum(_flops(n) for n in products if len(n.outs[0].shape) > 2 and _flops(n) >= WORTH_THREADS)
        flops = sum(map(_flops, products))
        self.splits = blas.can_hold() and 0 < flops <= 20 * batched
        self.shares = threads > 1 and not self.splits and flops >= WAKES_BLAS  # whether BLAS has threads that are awake
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
        self._find_alike()
        for v in program.inputs:
            self._dynamic(v)
        self._donate()
        for v in program.outputs:
            root = self.root_of(v)
            if root not in self.refs and root.constant is None:
                self._dynamic(root)
                self.fresh.append(root)
        self.ending: dict[int, list[Any]] = {}  # item number -> the values read there for the last time
        for v, i in self.last.items():
            self.ending.setdefault(i, []).append(v)
        effects = [i for i, item in enumerate(program.nodes) if _refuses(item)]
        fresh = set(self.fresh)
        outs = [i for i, item in enumerate(program.nodes) if not fresh.isdisjoint(map(self.root_of, item.outs))]
        # Whether all that may be refused is so before an output is written; and whether that is done, in a run.
        self.effects = bool(effects)
        self.refuses_first = not effects or not outs or effects[-1] < outs[0]
        self.accepted = True
        for i, item in enumerate(program.nodes):
            self.now = i
            self._emit_item(item)
            self._release(i, item)
            if effects and i == effects[-1]:
                self.emit(self.code, self._accept, ())
        for refs in self.refs.values():
            for ref in refs:
                ref.array = None

    def _accept(self) -> None:
        self.accepted = True

    # -- where values lie ----------------------------------------------------------------------------

    def root_of(self, v: Any) -> Any:
        """Return the value whose array a value is, or is a view of."""
        return self.root.get(v, v)

    def _find_last_uses(self) -> None:
        self.last: dict[Any, int] = {}
        self.readers: dict[Any, list[tuple[int, Any]]] = {}  # root -> (item number, item)
        shown: dict[Any, Array] = {}  # arrays laid out as values will be: they show what is a view, not a copy
        for i, item in enumerate(self.program.nodes):
            if getattr(item, "kind", "") == "view":
                x, v = item.args[0], item.outs[0]
                array = shown[x] if x in shown else np.empty(x.shape, x.dtype)
                view = item.function(array, *item.args[1:], **item.kwargs)
                if type(view) is np.ndarray and (v.size == 0 or np.may_share_memory(view, array)):
                    self.root[v] = self.root_of(x)
                    shown[v] = view
            if getattr(item, "op", "") == "unstack" and item.outs[0].size <= SMALL_PART:
                x = item.args[0]
                array = shown[x] if x in shown else np.empty(x.shape, x.dtype)
                self.root.update(dict.fromkeys(item.outs, self.root_of(x)))
                shown.update((v, array[part]) for v, part in zip(item.outs, _parts(item), strict=True))
            for v in item.values():
                root = self.root.get(v, v)
                self.last[root] = i
                self.readers.setdefault(root, []).append((i, item))
        for v in self.program.outputs:
            self.last[self.root_of(v)] = len(self.program.nodes)

    def _dynamic(self, v: Any) -> None:
        ref = Ref(v, None, None, v.shape, v.dtype)
        ref.array = np.empty(v.shape, v.dtype)  # while planning: shows what is a view
        self.refs[v] = [ref]
        self.place[v] = ref

    def _donate(self) -> None:
        """Find the outputs that may be written into the array of the input they replace, once nothing raises."""
        where = {v: i for i, item in enumerate(self.program.nodes) for v in item.outs}
        outputs = self.program.outputs
        times, roots = Counter(outputs), Counter(map(self.root_of, outputs))
        raising = max([i for i, item in enumerate(self.program.nodes) if _may_raise(item)], default=-1)
        for v, k in zip(outputs, self.program.replaces, strict=True):
            if k is None or v not in where or v in self.root or times[v] > 1:
                continue
            x, at = self.program.inputs[k], where[v]
            if x.shape != v.shape or x.dtype != v.dtype or roots[x] or roots[v] > 1:
                continue
            reads = self.readers.get(x, [])
            if any(i > at for i, _ in reads) or at < raising:
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

    def _release(self, i: int, item: Any) -> None:
        for v in self.ending.get(i, ()):
            self.release(v)
        for v in item.outs:
            if v not in self.last:
                self.release(v)

    def release(self, v: Any) -> None:
        """Let others have the buffer of a value, if it has one."""
        if v in self.buffer:
            self.pool.give(self.buffer.pop(v))

    def view(self, x: Any, function: Callable[[Any], Any], shape: tuple[int, ...]) -> Any:
        """Return a view of where something lies, None if the function gives a copy."""
        source = x.array if isinstance(x, Ref) else x
        array = function(source)
        if array.size and not np.may_share_memory(array, source):
            return None
        if not isinstance(x, Ref):
            return array
        ref = Ref(x.root, x, function, shape, x.dtype)
        ref.array = array
        self.refs[x.root].append(ref)
        return ref

    # -- code ----------------------------------------------------------------------------------------

    def emit(self, code: Code, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Append a call, to be made anew when one of the arrays in it changes."""
        roots = dict.fromkeys(roots_of(args))
        for root in roots:
            self.uses.setdefault(root, []).append((code, len(code), function, args))
        code.append((function, args))

    def emit_all(self, code: Code, made: list[calls.Call]) -> None:
        """Append calls."""
        for function, args in made:
            self.emit(code, function, args)

    def share(self, code: Code, codes: list[Code]) -> None:
        """Append codes that are run at once, each on a thread."""
        self.emit(code, run_all, (codes,))
        self.threaded = True

    def _emit_item(self, item: Any) -> None:
        if update(self, item):
            return
        if isinstance(item, Run):
            Blocks(self, item).emit()
        elif not isinstance(item, Node):
            EMIT[item.form](self, item)
        else:
            self.emit_node(item, self.code)

    def emit_node(self, node: Any, code: Code) -> None:
        """Append the calls for a node."""
        if node.effect:
            self.emit(code, node.function, put_in(node.args, self.array))
            return
        if node.kind == "view" and self._as_view(node):
            return
        if node.op == "unstack" and node.outs[0] in self.root:
            self._as_parts(node)
            return
        if node.kind == "rows" and self._as_rows(node):
            return
        if node.kind == "elementwise" and self._elementwise(node, code):
            return
        if node.kind == "reduction":
            self._reduction(node, code)
        elif node.kind == "matmul" and all(len(v.shape) > 1 for v in node.args):
            self._product(node, code)
        elif node.op in ("index_set", "index_add"):
            self._write(node, code)
        elif node.kind == "view" and node.op == "reshape":
            x = node.args[0]
            self._copy(self.view(self.target(node.outs[0]), reshaping(x.shape), x.shape), self.array(x), x.shape, code)
        elif node.op == "unstack":
            for v, part in zip(node.outs, _parts(node), strict=True):
                self._copy(self.target(v), self.view(self.array(node.args[0]), _taking(part), v.shape), v.shape, code)
        elif node.op == "stack" and all(x.dtype == node.outs[0].dtype for x in node.args[0]):
            self._stacked(node, code)
        elif node.op == "concat":
            arrays = put_in(node.args[0], self.array)
            axis = node.kwargs.get("axis", 0)
            out = self.target(node.outs[0])
            self.emit(code, _concatenate, (arrays, axis, out))
        elif node.many:
            outs = tuple([self.target(v) for v in node.outs])
            self.emit(code, calls.store_all, (outs, node.function, *self._arguments(node)))
        else:
            self.emit(code, calls.store, (self.target(node.outs[0]), node.function, *self._arguments(node)))

    def _product(self, node: Any, code: Code) -> None:
        """Append a product of matrices, its rows or the matrices of a batch shared among the threads."""
        v = node.outs[0]
        a, b = map(self.array, node.args)
        out = self.target(v)
        threads = min(self.threads, v.shape[0]) if self.splits else 1
        if threads == 1 or _flops(node) < WORTH_THREADS:
            self.emit(code, np.matmul, (a, b, out))
            return
        codes: list[Code] = []
        ndim = len(v.shape)
        for t in range(threads):
            part = slice(t * v.shape[0] // threads, (t + 1) * v.shape[0] // threads)
            operands = [a, b, out]
            for i, x in enumerate((*node.args, v)):
                if len(x.shape) == ndim and x.shape[0] == v.shape[0] and (i != 1 or ndim > 2):
                    operands[i] = self.view(operands[i], _taking(part), ())
            codes.append([])
            self.emit(codes[-1], np.matmul, tuple(operands))
        self.share(code, codes)

    def _stacked(self, node: Any, code: Code) -> None:
        v = node.outs[0]
        out, before = self.target(v), (slice(None),) * (node.kwargs.get("axis", 0) % len(v.shape))
        for i, x in enumerate(node.args[0]):
            self._copy(self.view(out, _taking((*before, i, ...)), x.shape), self.array(x), x.shape, code)

    def _copy(self, out: Any, x: Any, shape: tuple[int, ...], code: Code) -> None:
        """Append a copy, shared among the threads if it is worth it."""
        threads = min(self.threads, shape[0]) if self.splits and prod(shape) >= WORTH_COPYING else 1
        if threads == 1:
            self.emit(code, np.copyto, (out, x))
            return
        codes: list[Code] = []
        for t in range(threads):
            part = _taking(slice(t * shape[0] // threads, (t + 1) * shape[0] // threads))
            codes.append([])
            self.emit(codes[-1], np.copyto, (self.view(out, part, ()), self.view(x, part, ())))
        self.share(code, codes)

    def _arguments(self, node: Any) -> tuple[Any, dict[str, Any]]:
        return put_in(node.args, self.array), {k: put_in(v, self.array) for k, v in node.kwargs.items()}

    def _as_view(self, node: Any) -> bool:
        v, x = node.outs[0], node.args[0]
        if v not in self.root or self.root[v] is v:
            return False  # a copy: of values that do not lie in order
        source = self.array(x)
        rest, kwargs, function = node.args[1:], node.kwargs, node.function
        found = self.view(source, lambda a: function(a, *rest, **kwargs), v.shape)
        assert found is not None
        self.place[v] = found
        return True

    def _as_parts(self, node: Any) -> None:
        for v, part in zip(node.outs, _parts(node), strict=True):
            self.place[v] = self.view(self.array(node.args[0]), _taking(part), v.shape)

    def _as_rows(self, node: Any) -> bool:
        values, v = node.args[0], node.outs[0]
        if v in self.place or any(x.row is None for x in values):
            return False
        rows, start = values[0].row
        if [x.row for x in values] != [(rows, start + i) for i in range(len(values))]:
            return False
        array = self.rows[rows][1 + start : 1 + start + len(values)]
        self.place[v] = array.reshape(v.shape)
        return True

    def _elementwise(self, node: Any, code: Code) -> bool:
        v = node.outs[0]
        reuse = None
        if v not in self.place:
            for x in calls.overwritable(node):
                if isinstance(x, Value) and self.dies(x) and alike(x, v) and self._sole(x, node):
                    reuse = x
                    break
        operands = [self.array(x) if isinstance(x, Value) else x for x in node.args]
        out = self.target(v, reuse)
        made = calls.of_node(node, operands, out)
        if made is None:
            self.emit(code, calls.store, (out, node.function, *self._arguments(node)))
            return True
        self.emit_all(code, made)
        return True

    def _sole(self, x: Any, node: Any) -> bool:
        """Say whether no other operand is a view of the same buffer."""
        root = self.root_of(x)
        return all([y is x or self.root_of(y) is not root for y in node.values()])

    def _reduction(self, node: Any, code: Code) -> None:
        x, v = node.args[0], node.outs[0]
        keepdims = bool(node.kwargs.get("keepdims", False))
        small = x.dtype.itemsize < 4 and node.op == "mean"  # NumPy sums float16 in float32 for a mean
        if x.size == 0 or small or "dtype" in node.kwargs or v.dtype.kind in "mMO":
            self.emit(code, calls.store, (self.target(v), node.function, *self._arguments(node)))
            return
        source = self.array(x)
        count = x.size // max(v.size, 1)
        self.emit_all(code, calls.reduction(node.op, source, axes_of(node), keepdims, self.target(v), count, v.dtype))

    def _write(self, node: Any, code: Code) -> None:
        x, key, value = node.args
        v = node.outs[0]
        takes = v not in self.place and isinstance(x, Value) and self.dies(x)
        source = self.array(x)
        out = self.target(v, x if takes else None)
        if out is not source:
            self.emit(code, np.copyto, (out, source))
        part = self.array(value) if isinstance(value, Value) else value
        if all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in key):
            spot = self.view(out, lambda a: a[(*key, ...)], ())
            if node.op == "index_add":
                self.emit(code, np.add, (spot, part, spot))
            else:
                self.emit(code, np.copyto, (spot, part))
        elif node in self.alike:
            numbers = self.numbers.get(self.alike[node])
            if numbers is None:
                numbers = self.numbers[self.alike[node]] = np.empty((*key[0].shape, prod(x.shape[1:])), np.intp)
                self.pool.nbytes += numbers.nbytes
                self.emit(code, calls.store, (numbers, numbers_of, (self.array(key[0]), x.shape), {}))
            self.emit(code, add_rows, (out, numbers, part))
        else:
            write = _add_at if node.op == "index_add" else _set_at
            self.emit(code, write, (out, put_in(key, self.array), part))

    def _find_alike(self) -> None:
        """Find the nodes that add to the same rows as others: which numbers these have is looked up once."""
        seen: dict[Any, list[Any]] = {}
        for node in self.program.nodes:
            if getattr(node, "op", "") != "index_add":
                continue
            x, key, value = node.args
            rows: Any = key[0] if key else None
            if not isinstance(rows, Value) or not isinstance(value, Value) or rows.dtype.kind not in "iu":
                continue
            if picks_rows(key, rows.shape, x.shape, value.shape):
                seen.setdefault((rows, x.shape), []).append(node)
        self.alike = {node: where for where, nodes in seen.items() if len(nodes) > 1 for node in nodes}
        self.numbers: dict[Any, Array] = {}


def _aligned(item: Any, x: Any, v: Any, root: dict[Any, Any]) -> bool:
    """Say whether an item may write `v` over `x`, which it reads: element by element, nothing else of it."""
    if isinstance(item, Run):
        nodes = item.nodes
        made = next(i for i, n in enumerate(nodes) if v in n.outs)
        if any(y is not x and root.get(y) is x for n in nodes for y in n.values()):
            return False
        if any(x in n.values() for n in nodes[made + 1 :]):
            return False
        if any(x in n.values() and len(n.outs[0].shape) != len(x.shape) for n in nodes):
            return False  # read as a whole, while its rows are written
        return nodes[made].kind == "elementwise" and (nodes[made].op != "where" or x not in nodes[made].args[2:])
    if not isinstance(item, Node):
        return False
    if item.op in ("index_set", "index_add"):
        return item.args[0] is x and item.args[2] is not x and root.get(item.args[2]) is not x
    if item.kind != "elementwise" or any(root.get(y) is x for y in item.values()):
        return False
    return item.op != "where" or item.args[2] is not x


def _refuses(item: Any) -> bool:
    """Say whether an item is there to raise an error for some values, or may do so in its own code."""
    return item.effect or getattr(item, "op", "") in LOOKING


def _may_raise(item: Any) -> bool:
    return _refuses(item) or getattr(item, "op", "").startswith("linalg.")


def _flops(product: Any) -> float:
    return 2.0 * float(product.outs[0].size * product.args[0].shape[-1])


def _parts(unstack: Any) -> list[tuple[Any, ...]]:
    """Return the key of each part of an array that is unstacked; the dots keep a part of no axes an array."""
    before = (slice(None),) * (unstack.kwargs.get("axis", 0) % len(unstack.args[0].shape))
    return [(*before, i, ...) for i in range(len(unstack.outs))]


def _taking(part: Any) -> Callable[[Any], Any]:
    return lambda x: x[part]


def _concatenate(arrays: Any, axis: Any, out: Array) -> None:
    np.concatenate(arrays, axis, out)


def _set_at(out: Array, key: Any, value: Any) -> None:
    out[key] = value


def _add_at(out: Array, key: Any, value: Any) -> None:
    if any(type(i) is np.ndarray and i.dtype != np.bool for i in key):
        add_at(out, key, value)
    else:
        out[key] += value
