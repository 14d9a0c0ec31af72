"""The CUDA text of a row kernel: softmax, layer norm or cross-entropy, and their neighbours, in one kernel.

A group of threads (up to a block) computes a row, see `row_schedule`. A reduction within the row goes through shuffles
and shared memory, always in the same order. Sums over the rows are added up by each thread for its columns, and the
blocks' partial results by a second kernel.

The kernel of `p = x / sum(x, axis=1)`, of 64 rows of 128 elements, in short:

    for (int first = blockIdx.x * 4; first < 64; first += 64) {      four rows a block, a warp a row
      float c0 = 0;                                                  once a row, before pass 0
      x0[4] = a0[row * 128 + j];                                     pass 0: the loads
      TG_EACH(w, 4) c0 = c0 + x0[w];                                 and the reduction
      for (int o = 16; o > 0; o >>= 1) c0 = c0 + tg_shfl(c0, o);     its end: the sum, in every lane
      const float v2 = c0;                                           once a row, before pass 1
      TG_EACH(w, 4) v3[w] = x0[w] / v2;                              pass 1: x0 is still in registers
      r0[row * 128 + j] = v3[4];                                     the stores
    }
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from tapegrad._program.ir import Node, Value
from tapegrad.backends._cupy.codegen import flat_kernels as k
from tapegrad.backends._cupy.codegen import memory_access as memory
from tapegrad.backends._cupy.codegen import reductions
from tapegrad.backends._cupy.codegen.cuda_types import c_type, converted, literal
from tapegrad.backends._cupy.codegen.final_reductions import Finish
from tapegrad.backends._cupy.codegen.memory_access import Layout, Shape
from tapegrad.backends._cupy.codegen.reductions import WARP, Partial, accumulator, combine, finished, neutral
from tapegrad.backends._cupy.codegen.row_schedule import Form, Grid, RowSchedule, is_column

__all__ = ["RowSchedule", "kernel"]


def kernel(name: str, run: RowSchedule, places: k.Places, early: Collection[Value]) -> k.Kernel:
    """Return the kernel of a run; early: values that it may write over, to be read before anything is written."""
    return _Writer(name, run, places).kernel(early)


class _Pass:
    """The lines of one pass over a row: loads, arithmetic and stores of each element, and the end of the pass."""

    def __init__(self, grid: Grid, length: int) -> None:
        self.grid, self.length = grid, length
        self.names: dict[object, str] = {}  # values in registers -> their text
        self.declared: list[str] = []
        self.loads: list[str] = []
        self.lines: list[str] = []
        self.second: list[str] = []  # arithmetic that waits for `between`, which follows `lines`
        self.between: list[str] = []
        self.stores: list[str] = []

    def text(self, first: str, guard: str) -> list[str]:
        """Return the statements; first: the text of the first element; guard: the condition that an element exists."""
        g = self.grid
        place = f"{first}(lane + e * {g.lanes}) * {g.width}" if g.width > 1 else f"{first}lane + e * {g.lanes}"
        head = f"TG_EACH(e, {g.each}) {{ const int j = {place}; " + (f"if ({guard}) {{" if guard else "{")
        inner = f"{head} TG_EACH(w, {g.width}) {{"
        parts = [(head, self.loads, "} }"), (inner, self.lines, "} } }")]
        found = [*self.declared]
        for start, lines, end in parts:
            found += [start, *lines, end] if lines else []
        found += self.between
        for start, lines, end in ((inner, self.second, "} } }"), (head, self.stores, "} }")):
            found += [start, *lines, end] if lines else []
        return found


class _Writer:
    """Writes one kernel: for each pass the statements done once a row, then those for each of its elements."""

    def __init__(self, name: str, run: RowSchedule, places: k.Places) -> None:
        self.name, self.run, self.places = name, run, places
        self.text = k.Text(places)
        self.grid = run.grid
        self.slot = "w" if self.grid.each == 1 else f"e * {self.grid.width} + w" if self.grid.width > 1 else "e"
        self.count = self.grid.each * self.grid.width
        passes = run.passes.turns
        self.once: list[list[str]] = [[] for _ in range(passes)]
        self.elements = [_Pass(self.grid, run.length) for _ in range(passes)]
        self.unfinished: list[Finish] = []
        # With sums over rows a block takes several turns, so that there are few partial results.
        needed = -(-run.rows // self.grid.groups)
        most = max(1, k.RESIDENT // (self.grid.block * self.grid.tiles))
        self.blocks = min(-(-needed // k.TURNS), most) if run.totals else needed
        self.whole = run.rows % self.grid.groups == 0  # whether all groups of threads always have a row
        self.in_range = "" if self.whole else "in_range"
        self.leader = " && ".join(
            filter(None, (self.in_range, "lane == 0", "tile == 0" if self.grid.tiles > 1 else ""))
        )
        self.start: list[str] = []
        self.end: list[str] = []
        self.sums: list[Partial] = []  # totals of everything

    def kernel(self, early: Collection[Value]) -> k.Kernel:
        run, level = self.run, self.run.passes.level
        # Loads of state that results are written over come first: all threads of a row have read before one writes.
        for n in run.nodes if self.grid.form is not Form.STREAM else ():
            for v in n.values():
                if v in early and v not in run.made:
                    self.element(v, self.elements[0], run.inner(n.outs[0] if n.kind == "elementwise" else v))
        # Pass by pass: combine the reductions of the one before, then values of a row, then values of its elements.
        for at in range(run.passes.turns):
            if at:
                self._combined(at)
            for n in run.nodes:
                if level[n.outs[0]] == at and not run.crosses(n):
                    self._once(n, at)
            for reduction, v in run.sinks(run.passes, at):
                self._sink(reduction, v, at)
        for n in run.totals:
            if not run.wide(n.args[0]):
                self._total(n, level[n.outs[0]])
        return self._assembled(early)

    # -- operands ----------------------------------------------------------------------------------------

    def strides(self, v: Value, inner: Shape) -> tuple[Layout, tuple[int, ...], tuple[int, ...]]:
        """Return the layout of a value in memory, and its strides from row to row and within a row."""
        layout = self.places.layout(v)
        strides = memory.aligned(layout, (*self.run.lead, *inner))
        depth = len(self.run.lead)
        return layout, strides[:depth], strides[depth:]

    def row_of(self, strides: tuple[int, ...]) -> str:
        """Return the text of the place where a row begins."""
        return memory.offset(self.run.lead, strides, "row")

    def scalar(self, v: Value, inner: Shape, number: str = "0", level: int = 0) -> str:
        """Return the name of one element of a row of an operand, loaded once a row before a pass."""
        _, rowwise, within = self.strides(v, inner)
        row, place = self.row_of(rowwise), memory.offset(inner, within, number)
        # By place: the same operand may be read along several paths.
        key = v, row, place
        if key not in self.text.names:
            kind = c_type(v.dtype)
            self.text.names[key] = name = f"x{len(self.text.names)}"
            spot = " + ".join(x for x in (row, place) if x != "0") or "0"
            value = kind.load.format(f"{self.text.pointer(v)}[{spot}]")
            value = value if self.whole else f"in_range ? {value} : ({kind.value})0"
            self.once[level].append(f"const {kind.value} {name} = {value};")
        return self.text.names[key]

    def element(self, v: Value, into: _Pass, inner: Shape) -> str:
        """Return the text of a row's element of an operand of a wide node, computed or loaded before it is needed."""
        run = self.run
        if v in run.made:
            return self.computed(v, into) if run.wide(v) else self.text.names[v]
        # From outside: an index that counts is the element's number; an operand that is the same all along the row is
        # loaded once a row; any other is loaded at its place.
        layout, rowwise, within = self.strides(v, inner)
        if self.places.counts(v) and inner == v.shape:
            return f"({c_type(v.dtype).value})(j + w)"
        row = self.row_of(rowwise)
        g = self.grid
        at = memory.access(layout, inner, within, "j", g.width, v.dtype.itemsize, rowwise)
        if at.at == "0":
            return self.scalar(v, inner)
        key = v, row, at
        if key not in into.names:
            kind = c_type(v.dtype)
            name = f"x{len(self.text.names)}"
            self.text.names[key, id(into)] = name
            into.declared.append(f"{kind.value} {name}[{self.count}];")
            into.loads.append(memory.load(name, self.slot, kind, self.text.pointer(v), at, row, g.width))
            self._keep(into, key, f"{name}[{self.slot}]")
        return into.names[key]

    def computed(self, v: Value, into: _Pass) -> str:
        """Return the text of a row's element of a wide value, computed where it is first needed."""
        if v not in into.names:
            node = self.run.made[v]
            if node.kind == "view":
                self._keep(into, v, self.computed(node.args[0], into))
            else:
                kind = c_type(v.dtype)
                value = self.text.expression(node, partial(self.element, into=into, inner=self.run.inner(v)))
                name = f"v{len(self.text.names)}"
                self.text.names[name] = name
                into.declared.append(f"{kind.value} {name}[{self.count}];")
                into.lines.append(f"{name}[{self.slot}] = {value};")
                self._keep(into, v, f"{name}[{self.slot}]")
        return into.names[v]

    def _keep(self, into: _Pass, key: object, name: str) -> None:
        """Note a value in registers: for this pass and, if a row stays in them, for those that follow."""
        # A stream computes its values again in each pass; threads that keep a row have them for good.
        later = self.elements[self.elements.index(into) :] if self.grid.form is Form.REGISTERS else [into]
        for p in later:
            p.names[key] = name

    # -- nodes -------------------------------------------------------------------------------------------

    def _once(self, n: Node, at: int) -> None:
        """Write the computation of a value with one element a row."""
        v = n.outs[0]
        if v in self.run.ends or self.run.wide(v):
            return
        if n.kind == "view":
            self.text.names[v] = self.text.names[n.args[0]]
        else:
            kind = c_type(v.dtype)
            value = self._value(n, at)
            self.text.names[v] = name = f"v{len(self.text.names)}"
            self.once[at].append(f"const {kind.value} {name} = {value};")
        self._store_once(v, at)

    def _value(self, n: Node, at: int) -> str:
        if n.kind == "pick":
            return self._picked(n, at)
        if n.kind == "reduction":  # of one element
            x = n.args[0]
            dtype, kind = accumulator(n.op, n.outs[0].dtype)
            source = self._operand(x, self.run.inner(x))
            return finished(n.op, n.outs[0].dtype, f"({kind.value})({converted(source, x.dtype, dtype)})", 1)
        return self.text.expression(n, lambda x: self._operand(x, self.run.inner(n.outs[0])))

    def _operand(self, x: Value, inner: Shape) -> str:
        """Return the text of an operand that has one element a row."""
        number = self.places.number(x)
        if number is not None:
            return literal(number, x.dtype)
        return self.text.names[x] if x in self.run.made else self.scalar(x, inner)

    def _picked(self, n: Node, at: int) -> str:
        """Return the element of a row that an index picks, computed from the operands at its place.

        Indices out of range wrap, as in CuPy's own function.
        """
        x, index = n.args
        # The index modulo the length, as a wrong one must not read elsewhere: a check of its own refuses it.
        name = f"l{len(self.text.names)}"
        self.text.names[name] = name
        source = self._operand(index, self.run.inner(index))
        self.once[at].append(f"const long long {name} = tg_imod<long long>({source}, {self.run.length});")
        return self._at(x, self.run.inner(x), name, at)

    def _at(self, v: Value, inner: Shape, place: str, at: int) -> str:
        run = self.run
        if v not in run.made:
            return self.scalar(v, inner, place, at)
        if not run.wide(v):
            return self.text.names[v]
        # The operands of one element, recomputed: the row's other elements are in other threads.
        if (v, place) not in self.text.names:
            node = run.made[v]
            if node.kind == "view":
                return self._at(node.args[0], run.inner(node.args[0]), place, at)
            kind = c_type(v.dtype)
            value = self.text.expression(node, lambda x: self._at(x, run.inner(v), place, at))
            name = f"v{len(self.text.names)}"
            self.once[at].append(f"const {kind.value} {name} = {value};")
            self.text.names[v, place] = name
        return self.text.names[v, place]

    def _store_once(self, v: Value, at: int) -> None:
        if v in self.run.outs:
            kind = c_type(v.dtype)
            value = kind.store.format(self.text.names[v])
            self.once[at].append(f"if ({self.leader}) r{len(self.text.writes)}[row] = {value};")
            self.text.writes.append(v)

    def _sink(self, n: Node | None, v: Value, at: int) -> None:
        """Write the use of a value of a pass: a reduction of it, or its store."""
        into = self.elements[at]
        # No reduction: the value itself is a result.
        if n is None:
            name = self.computed(v, into).split("[")[0]
            place = f"row * {self.run.length} + j"
            into.stores.append(self.text.write(v, name, self.slot, place, self.grid.width))
        elif n in self.run.totals:
            self._total(n, at)
        else:
            self._reduction(n, at)

    def _source(self, n: Node, into: _Pass) -> str:
        """Return the text of the operand of a reduction, in the accumulator's dtype."""
        x = n.args[0]
        dtype = accumulator(n.op, n.outs[0].dtype)[0]
        number = self.places.number(x)
        text = literal(number, x.dtype) if number is not None else self.element(x, into, self.run.inner(x))
        return converted(text, x.dtype, dtype)

    def _reduction(self, n: Node, at: int) -> None:
        run, into = self.run, self.elements[at]
        dtype, kind = accumulator(n.op, n.outs[0].dtype)
        name = f"c{len(self.text.names)}"
        source = self._source(n, into)
        self.text.names[n.outs[0], "part"] = name
        self.once[at].append(f"{kind.value} {name} = {neutral(n.op, dtype)};")
        total = next((total for total, top in run.passes.online.items() if top is n), None)
        if total is None:
            into.lines.append(f"{name} = {combine(n.op, dtype, name, source)};")
            return
        # Online softmax: the maximum over a thread's elements first, then the sum so far is rescaled to it.
        top, sums = f"m_{name}", f"s_{name}"
        self.text.names[total.outs[0], "part"] = sums
        self.once[at].append(f"{kind.value} {sums} = 0;")
        into.declared.append(f"{kind.value} {top} = {name};")
        into.lines.append(f"{top} = tg_max<{kind.value}>({top}, {source});")
        into.between.append(f"{sums} *= tg_rescale<{kind.value}>({name}, {top}); {name} = {top};")
        into.second.append(f"{sums} += tg_rescale<{kind.value}>({source}, {name});")

    def _combined(self, at: int) -> None:
        """Write how the partial results of a pass become those of the row."""
        run, grid = self.run, self.grid
        # An online sum is combined with its maximum, as a pair.
        nodes = [n for n in run.nodes if run.crosses(n) and run.passes.level[n.outs[0]] == at]
        online = {top: total for total, top in run.passes.online.items()}
        partials = []
        for n in nodes:
            if n not in run.passes.online:
                sums = self.text.names[online[n].outs[0], "part"] if n in online else ""
                dtype = accumulator(n.op, n.outs[0].dtype)[0]
                partials.append(Partial(self.text.names[n.outs[0], "part"], n.op, dtype, sums))
        # Within a warp by shuffles, then over the warps of the row by shared memory.
        lines = self.once[at]
        lines += [line for p in partials if (line := reductions.over_warp(p, min(grid.lanes, WARP)))]
        if grid.lanes > WARP:
            warps = grid.lanes // WARP
            slots = f"(warps + {at % 2} * {warps * self._most()})" if run.passes.turns > 2 else "warps"
            lines += reductions.over_warps(partials, warps, slots, "lane")
        for n in nodes:
            v = n.outs[0]
            part = self.text.names[v, "part"]
            if n in run.passes.online:
                top = self.text.names[run.passes.online[n].outs[0], "part"]
                part = f"({part} + ({top} - {top}))"  # NaN where the maximum is infinite
            name = f"v{len(self.text.names)}"
            self.text.names[v] = name
            out = c_type(v.dtype)
            lines.append(f"const {out.value} {name} = {finished(n.op, v.dtype, part, run.size(n.args[0]))};")
            self._store_once(v, at)

    def _most(self) -> int:
        """Return how many variables are combined after a pass, at most."""
        level = self.run.passes.level
        found = [level[n.outs[0]] for n in self.run.nodes if self.run.crosses(n)]
        return max(map(found.count, found))

    def _total(self, n: Node, at: int) -> None:
        run, into = self.run, self.elements[at]
        dtype, kind = accumulator(n.op, n.outs[0].dtype)
        number = len(self.unfinished)
        name = f"t{number}"
        columns = run.length if is_column(n) else 1
        # Columns: a register for each of the thread's, over all its rows. Else one for everything.
        if columns > 1:
            self.start.append(f"{kind.value} {name}[{self.count}];")
            self.start.append(f"TG_EACH(i, {self.count}) {name}[i] = {neutral(n.op, dtype)};")
            slot = f"{name}[{self.slot}]"
            into.lines.append(f"{slot} = {combine(n.op, dtype, slot, self._source(n, into))};")
            self._columns(name, number, n.op, dtype)
        else:
            self.start.append(f"{kind.value} {name} = {neutral(n.op, dtype)};")
            if run.wide(n.args[0]):
                into.lines.append(f"{name} = {combine(n.op, dtype, name, self._source(n, into))};")
            else:
                x = n.args[0]
                source = converted(self._operand(x, run.inner(x)), x.dtype, dtype)
                self.once[at].append(f"if ({self.leader}) {name} = {combine(n.op, dtype, name, source)};")
            self.sums.append(Partial(name, n.op, dtype))
            self.end.append(f"if (threadIdx.x == 0) p{number}[blockIdx.x] = {kind.store.format(name)};")
        rows = self.blocks if columns > 1 else self.blocks * self.grid.tiles
        self.unfinished.append(Finish(n, rows, columns))

    def _columns(self, name: str, number: int, op: str, dtype: Any) -> None:
        """Write a block's sums of columns, those of its groups of threads added in order."""
        length, g = self.run.length, self.grid
        kind = accumulator(op, dtype)[1]
        put = _Pass(g, length)
        first, guard = self._range()
        if g.groups == 1:
            row = f"blockIdx.x / {g.tiles} * {length} + j" if g.tiles > 1 else f"blockIdx.x * {length} + j"
            put.stores.append(memory.store(name, self.slot, kind, f"p{number}", row, g.width, True))
            self.end += put.text(first, guard)
            return
        # Several rows a block: the groups' sums go through shared memory, and are added in order.
        put.lines.append(f"sums[member * {length} + j + w] = {name}[{self.slot}];")
        self.end += [
            f"{{ {kind.value}* sums = ({kind.value}*)columns; __syncthreads();",
            *put.text(first, guard),
            "__syncthreads();",
            f"for (int j = threadIdx.x; j < {length}; j += {g.block}) {{",
            f"{kind.value} c = sums[j];",
            f"for (int g = 1; g < {g.groups}; ++g) c = {combine(op, dtype, 'c', f'sums[g * {length} + j]')};",
            f"p{number}[blockIdx.x * {length} + j] = {kind.store.format('c')}; }} }}",
        ]

    # -- the whole ---------------------------------------------------------------------------------------

    def _range(self) -> tuple[str, str]:
        """Return the text of a thread's first element, and the condition under which an element is in the row."""
        g, length = self.grid, self.run.length
        first = f"tile * {g.span} + " if g.tiles > 1 else ""
        return first, "" if g.span * g.tiles == length else f"j < {length}"

    def _over_row(self, p: _Pass) -> list[str]:
        """Return the statements of a pass."""
        g, length = self.grid, self.run.length
        first, guard = self._range()
        if g.form is not Form.STREAM:
            return p.text(first, " && ".join(filter(None, (self.in_range, guard))))
        if not (p.loads or p.lines or p.stores):
            return []
        # Full spans without a bound check, then the rest of the row with one.
        whole = length - length % g.span
        found = (
            [f"for (int part = 0; part < {whole}; part += {g.span}) {{", *p.text("part + ", ""), "}"] if whole else []
        )
        if whole < length:
            found += ["{", *p.text(f"{whole} + ", f"j < {length}"), "}"]
        return found

    def _assembled(self, early: Collection[Value]) -> k.Kernel:
        run, g = self.run, self.grid
        layouts = [self.places.layout(v) for v in self.text.reads]
        index = memory.index_type(layouts, run.rows * max(run.length, 1))
        body = [f"const int lane = threadIdx.x % {g.lanes}, member = threadIdx.x / {g.lanes};"]
        if g.tiles > 1:
            body.append(f"const int tile = blockIdx.x % {g.tiles};")
        # Two buffers in turn where there are several reductions: a warp may be ahead of the others by one.
        if run.crossing and g.lanes > WARP:
            turns = 2 if run.passes.turns > 2 else 1
            body.append(f"__shared__ unsigned long long warps[{turns * self._most() * g.lanes // WARP}];")
        if run.columns and g.groups > 1:
            size = max(f.dtype.itemsize for f in self.unfinished if f.shape[1] > 1)
            body.append(f"__shared__ unsigned long long columns[{-(-g.groups * run.length * size // 8)}];")
        body += self.start
        # The loop over the rows of a block: for each pass the row's statements, then its elements'.
        inside = [f"const {index} row = first + member;"]
        inside += [] if self.whole else [f"const bool in_range = row < {run.rows};"]
        for once, elements in zip(self.once, self.elements, strict=True):
            inside += once + self._over_row(elements)
        if g.lanes > WARP and run.crossing and self.blocks < run.rows:
            inside.append("__syncthreads();")
        block = f"blockIdx.x / {g.tiles}" if g.tiles > 1 else "blockIdx.x"
        start = f"{index} first = ({index})({block}) * {g.groups}"
        body.append(f"for ({start}; first < {run.rows}; first += {self.blocks * g.groups}) {{")
        body += ["  " + line for line in inside] + ["}"]
        # Sums over everything end with the block; `end` writes its partial results.
        if self.sums:
            body += ["{", *reductions.over_block(self.sums, g.block), "}"]
        body += self.end
        head = self.text.signature(self.name, [f.dtype for f in self.unfinished], g.block, early)
        text = "".join(f"  {line}\n" for line in body)
        return k.Kernel(self.name, f"{head} {{\n{text}}}\n", self.blocks * g.tiles, g.block, self.text.reads,
                        self.text.writes, self.unfinished)  # fmt: skip
