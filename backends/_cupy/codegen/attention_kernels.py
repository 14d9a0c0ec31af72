"""The CUDA text of attention that never stores its scores, forward and backward.

The forward kernel goes over the keys tile by tile with the running maximum and sum of each query's row (FlashAttention,
Dao et al., arXiv:2205.14135 and 2307.08691) and keeps the logarithm of that sum. The backward kernels compute the
probabilities again from it: one goes over the keys for each tile of queries, the other over the queries for each tile
of keys; no sum depends on the order of blocks.

All is added up in float32. A warp computes 16 rows of a product in the layout of `mma.m16n8k16`: of the 8 columns of
a tile, lane 4 g + t has 2 t and 2 t + 1 of rows g and g + 8. Half precision goes through tensor cores.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tapegrad._program.ir import Node, Value
from tapegrad.backends._cupy.codegen.cuda_types import TYPES, literal
from tapegrad.backends._cupy.codegen.expressions import Number, Operand, expression
from tapegrad.backends._cupy.codegen.memory_access import PACK, Layout, Shape, aligned, index_type, offset

ROWS = 16  # of a warp
LARGEST = 128  # elements of a query, key or value
SHARED = 46 << 10  # bytes of a block
TILES = (
    (4, 32),
    (4, 16),
    (2, 32),
    (2, 16),
    (1, 16),
)  # warps of a block, and rows of the tiles that it goes over; best first
DTYPES = ("float16", "bfloat16", "float32")

# Products of a warp's 16 rows, in registers: `tg_rows` with the rows of b, c += a b^T; `tg_columns` with its columns,
# c += a b. Each has three forms:
# - float32: a thread has 2 x 2 elements of each 16 x 8 tile and goes over k, in packs where rows are contiguous. fmaf
#   rounds once, as the fused multiply-add of a GEMM does.
# - half precision on a GPU: `mma.m16n8k16` on tensor cores. `tg_left` loads the left factor in the instruction's
# layout,
#   two neighbouring halves in one register, and `tg_pair` two of the right one.
# - half precision elsewhere: plain sums in the same layout, for the stand-in, which knows no PTX.
HELPERS = r"""
TG_FN float tg_float(float x) { return x; }
template <int K, int N>
TG_FN void tg_rows(float (*c)[4], const float* a, int lda, const float* b, int ldb, int lane) {
  const int g = lane / 4, t = lane % 4 * 2;
  for (int k = 0; k < K; k += 4) {
    const tg_pack<float, 4> x = *(const tg_pack<float, 4>*)&a[g * lda + k];
    const tg_pack<float, 4> y = *(const tg_pack<float, 4>*)&a[(g + 8) * lda + k];
    TG_EACH(n, N) {
      const tg_pack<float, 4> u = *(const tg_pack<float, 4>*)&b[(n * 8 + t) * ldb + k];
      const tg_pack<float, 4> v = *(const tg_pack<float, 4>*)&b[(n * 8 + t + 1) * ldb + k];
      TG_EACH(i, 4) {
        c[n][0] = fmaf(x.v[i], u.v[i], c[n][0]); c[n][1] = fmaf(x.v[i], v.v[i], c[n][1]);
        c[n][2] = fmaf(y.v[i], u.v[i], c[n][2]); c[n][3] = fmaf(y.v[i], v.v[i], c[n][3]);
      }
    }
  }
}
template <int K, int N>
TG_FN void tg_columns(float (*c)[4], const float* a, int lda, const float* b, int ldb, int lane) {
  const int g = lane / 4, t = lane % 4 * 2;
  for (int k = 0; k < K; ++k) {
    const float x = a[g * lda + k], y = a[(g + 8) * lda + k];
    TG_EACH(n, N) {
      const tg_pack<float, 2> u = *(const tg_pack<float, 2>*)&b[k * ldb + n * 8 + t];
      c[n][0] = fmaf(x, u.v[0], c[n][0]); c[n][1] = fmaf(x, u.v[1], c[n][1]);
      c[n][2] = fmaf(y, u.v[0], c[n][2]); c[n][3] = fmaf(y, u.v[1], c[n][3]);
    }
  }
}
struct tg_half { unsigned short bits; };
struct tg_bfloat { unsigned short bits; };
TG_FN float tg_float(tg_half x) { return tg_h2f(x.bits); }
TG_FN float tg_float(tg_bfloat x) { return tg_b2f(x.bits); }
#ifdef __CUDA_ARCH__
TG_FN void tg_mma(float* c, const unsigned* a, unsigned b0, unsigned b1, tg_half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
TG_FN void tg_mma(float* c, const unsigned* a, unsigned b0, unsigned b1, tg_bfloat) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <class T> TG_FN unsigned tg_pair(const T* p) { return *(const unsigned*)p; }
template <class T> TG_FN unsigned tg_pair(const T* p, int ld) { return p[0].bits | (unsigned)p[ld].bits << 16; }
template <class T> TG_FN void tg_left(unsigned* x, const T* a, int lda, int k, int lane) {
  const int g = lane / 4, t = lane % 4 * 2;
  x[0] = tg_pair(&a[g * lda + k + t]); x[1] = tg_pair(&a[(g + 8) * lda + k + t]);
  x[2] = tg_pair(&a[g * lda + k + t + 8]); x[3] = tg_pair(&a[(g + 8) * lda + k + t + 8]);
}
template <int K, int N, class T>
TG_FN void tg_rows(float (*c)[4], const T* a, int lda, const T* b, int ldb, int lane) {
  const int g = lane / 4, t = lane % 4 * 2;
  for (int k = 0; k < K; k += 16) {
    unsigned x[4];
    tg_left(x, a, lda, k, lane);
    TG_EACH(n, N) {
      const T* y = &b[(n * 8 + g) * ldb + k + t];
      tg_mma(c[n], x, tg_pair(y), tg_pair(y + 8), T());
    }
  }
}
template <int K, int N, class T>
TG_FN void tg_columns(float (*c)[4], const T* a, int lda, const T* b, int ldb, int lane) {
  const int g = lane / 4, t = lane % 4 * 2;
  for (int k = 0; k < K; k += 16) {
    unsigned x[4];
    tg_left(x, a, lda, k, lane);
    TG_EACH(n, N) {
      const T* y = &b[(k + t) * ldb + n * 8 + g];
      tg_mma(c[n], x, tg_pair(y, ldb), tg_pair(y + 8 * ldb, ldb), T());
    }
  }
}
#else
template <int K, int N, class T>
TG_FN void tg_rows(float (*c)[4], const T* a, int lda, const T* b, int ldb, int lane) {
  const int g = lane / 4, t = lane % 4 * 2;
  for (int k = 0; k < K; ++k) for (int n = 0; n < N; ++n) for (int i = 0; i < 4; ++i)
    c[n][i] += tg_float(a[(g + i / 2 * 8) * lda + k]) * tg_float(b[(n * 8 + t + i % 2) * ldb + k]);
}
template <int K, int N, class T>
TG_FN void tg_columns(float (*c)[4], const T* a, int lda, const T* b, int ldb, int lane) {
  const int g = lane / 4, t = lane % 4 * 2;
  for (int k = 0; k < K; ++k) for (int n = 0; n < N; ++n) for (int i = 0; i < 4; ++i)
    c[n][i] += tg_float(a[(g + i / 2 * 8) * lda + k]) * tg_float(b[k * ldb + n * 8 + t + i % 2]);
}
#endif
"""


class Scores(NamedTuple):
    """The elementwise operations from the scores to the operand of softmax, and from its gradient back to theirs.

    product: the value of queries times keys; nodes: elementwise, from it to `masked`; gradient: of `masked`; back:
    nodes from it to `end`, the gradient of `product`. The last three are for the backward kernels.
    """

    product: Value
    nodes: list[Node]
    masked: Value
    gradient: Value | None = None
    back: list[Node] = []  # noqa: RUF012
    end: Value | None = None

    def operands(self, back: bool = False) -> list[Value]:
        """Return the values that are read from elsewhere."""
        nodes = [*self.nodes, *self.back] if back else self.nodes
        # Inside the chain: the product, the gradient that is computed, and the results of nodes.
        made = {self.product, self.gradient, *[v for n in nodes for v in n.outs]}
        return list(dict.fromkeys(v for n in nodes for v in n.values() if v not in made))


class Sizes(NamedTuple):
    """Sizes of the problem: lead: leading axes; then queries, keys, elements of a query and of a value."""

    lead: Shape
    queries: int
    keys: int
    size: int
    depth: int


class Launch(NamedTuple):
    """A kernel and its launch."""

    source: str
    grid: tuple[int]
    block: tuple[int]


class Text:
    """The text of kernels of one problem.

    layouts: of q (..., queries, size), k (..., size, keys), v (..., keys, depth), gradient of the result and others
    by name; number: the number that a value is everywhere, or None.
    """

    def __init__(
        self,
        sizes: Sizes,
        dtype: Any,
        scores: Scores,
        layouts: dict[str | Value, Layout],
        number: Callable[[Value], Any],
    ) -> None:
        self.sizes, self.dtype, self.scores, self.layouts, self.number = sizes, np.dtype(dtype), scores, layouts, number
        self.operands = [v for v in scores.operands(True) if number(v) is None]
        self.kind = TYPES[self.dtype.name]
        self.element = {"float16": "tg_half", "bfloat16": "tg_bfloat", "float32": "float"}[self.dtype.name]
        # Rows are padded with zeros to multiples of 16, the depth of one `mma`.
        self.d, self.e = (-(-n // 16) * 16 for n in (sizes.size, sizes.depth))
        self.pad = 16 // self.dtype.itemsize  # keeps rows aligned, and neighbouring ones in other banks
        whole = prod((*sizes.lead, max(sizes.queries, sizes.keys), max(sizes.size, sizes.depth)))
        self.index = index_type(list(layouts.values()), whole)

    # -- parts -------------------------------------------------------------------------------------------

    def tiles(self, rows: list[int], others: list[int], squares: int) -> tuple[int, int]:
        """Return warps, and rows of the tiles that a block goes over: so that shared memory is enough.

        rows, others: lengths of the rows of tiles of the block's own and of those; squares: how many there are of both.
        """
        # The first shape of tiles for which a block's own rows, the others and the squares of scores fit.
        for warps, step in TILES:
            own = ROWS * warps
            count = sum(own * (n + self.pad) for n in rows) + sum(step * (n + self.pad) for n in others)
            count += squares * own * (step + self.pad)
            if count * self.dtype.itemsize <= SHARED:
                return warps, step
        raise AssertionError("a tile of 128 elements fits")

    def shared(self, name: str, rows: int, columns: int) -> str:
        """Return the declaration of a tile in shared memory."""
        return f"alignas(16) __shared__ {self.element} {name}[{rows * (columns + self.pad)}];"

    def place(self, name: str, row: str, column: str) -> str:
        """Return the text of the place of an element of a matrix, row and column from `z`, a number of the lead."""
        layout = self.layouts[name]
        strides = aligned(layout, (*self.sizes.lead, *layout.shape[-2:]))
        first = offset(self.sizes.lead, strides[:-2], "z")
        down, across = layout.strides[-2:]
        return f"{first} + ({self.index})({row}) * {down} + ({self.index})({column}) * {across}"

    def fill(self, tile: str, name: str, rows: int, columns: int, first: str, turned: bool = False) -> str:
        """Return the loop that reads a tile of rows from `first` on, zeros where there are none.

        turned: whether the matrix in memory has its rows as columns.
        """
        # Packs where the rows of the tile are contiguous and aligned in memory; else elements, neighbouring threads
        # along the axis with the smaller stride.
        layout = self.layouts[name]
        shape, strides = layout.shape[-2:], layout.strides[-2:]
        (count, length), (down, across) = (shape[::-1], strides[::-1]) if turned else (shape, strides)
        at = self.place(name, "c", f"{first} + r") if turned else self.place(name, f"{first} + r", "c")
        width = PACK // self.dtype.itemsize
        outer = (*aligned(layout, (*self.sizes.lead, *shape))[:-2], down)
        if across == 1 and length == columns and layout.alignment % PACK == 0 and all(n % width == 0 for n in outer):
            pack, parts = f"tg_pack<{self.element}, {width}>", columns // width
            spot = f"const int r = i / {parts}, c = i % {parts} * {width};"
            value = f"{first} + r < {count} ? *(const {pack}*)&{name}[{at}] : {pack}()"
            step = f"*({pack}*)&{tile}[r * {columns + self.pad} + c] = {value};"
            return f"for (int i = threadIdx.x; i < {rows * parts}; i += blockDim.x) {{ {spot} {step} }}"
        row, column = (f"i / {columns}", f"i % {columns}") if across <= down else (f"i % {rows}", f"i / {rows}")
        inside = f"{first} + r < {count}" + (f" && c < {length}" if length != columns else "")
        value = f"{self.element}{{ {name}[{at}] }}"
        return (
            f"for (int i = threadIdx.x; i < {rows * columns}; i += blockDim.x) {{ const int r = {row}, c = {column}; "
            f"{tile}[r * {columns + self.pad} + c] = {inside} ? {value} : {self.element}(); }}"
        )

    def put(self, tile: str, columns: int, values: str, count: int) -> str:
        """Return the loop that writes a warp's rows of a product to a tile."""
        # The layout of a product in registers: element i of tile n is in row g + i / 2 * 8, column 2 t + i % 2.
        value = "{}" if self.element == "float" else self.element + "{{ " + self.kind.store + " }}"
        spot = f"{tile}[(warp * {ROWS} + lane / 4 + i / 2 * 8) * {columns + self.pad} + n * 8 + lane % 4 * 2 + i % 2]"
        return f"TG_EACH(n, {count}) TG_EACH(i, 4) {spot} = {value.format(f'{values}[n][i]')};"

    def chain(self, nodes: list[Node], names: dict[Value, str]) -> list[str]:
        """Return the statements that compute elementwise nodes at (i, j) in float32; names: of values there are."""
        # Half precision is computed in float32 here, without roundings in between: scores are never stored.
        lines: list[str] = []
        for n in nodes:
            out = _wide(n.outs[0].dtype)
            args = n.args[:1] if n.op == "astype" else n.args
            text = expression(n.op, [self.operand(x, names, lines) for x in args], out)
            assert text is not None, n.op
            names[n.outs[0]] = name = f"v{len(names)}"
            lines.append(f"const {TYPES[out.name].value} {name} = {text};")
        return lines

    def operand(self, x: Value | Number, names: dict[Value, str], lines: list[str]) -> Operand:
        """Return an operand as `expression` wants it."""
        if not isinstance(x, Value):
            return x
        return self.element_of(x, names, lines), _wide(x.dtype)

    def element_of(self, x: Value, names: dict[Value, str], lines: list[str]) -> str:
        """Return the text of a value's element at (i, j); lines: gets the statement that loads it."""
        number = self.number(x)
        if number is not None:
            return literal(number, _wide(x.dtype))
        # Strides of zero broadcast, as those of a mask of keys along the queries.
        if x not in names:
            kind = TYPES[x.dtype.name]
            array = f"x{self.operands.index(x)}"
            strides = aligned(self.layouts[x], (*self.sizes.lead, self.sizes.queries, self.sizes.keys))
            first = offset(self.sizes.lead, strides[:-2], "z")
            at = " + ".join(
                [first, *[f"({self.index}){v} * {s}" for v, s in zip("ij", strides[-2:], strict=True) if s]]
            )
            names[x] = name = f"v{len(names)}"
            lines.append(f"const {kind.value} {name} = {kind.load.format(f'{array}[{at}]')};")
        return names[x]

    def signature(
        self, name: str, warps: int, reads: list[tuple[str, str]], back: bool, writes: list[tuple[str, str]]
    ) -> str:
        """Return the head of a kernel; reads, writes: (type, name)."""
        arguments = [f"const {t}* __restrict__ {n}" for t, n in reads]
        used = self.scores.operands(back)
        arguments += [
            f"const {TYPES[v.dtype.name].memory}* __restrict__ x{i}" for i, v in enumerate(self.operands) if v in used
        ]
        arguments += [f"{t}* __restrict__ {n}" for t, n in writes]
        return (
            f'extern "C" __global__ void __launch_bounds__({32 * warps}) {name}({", ".join(arguments)}) {{\n'
            "  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;\n"
        )

    def spread(self, count: int, rows: int) -> str:
        """Return the statement that gives a block its matrix `z` and its first row; those of one matrix are near."""
        # Blocks of one matrix are neighbours: they share the other factor in the L2 cache.
        tiles = -(-count // rows)
        return f"const {self.index} z = blockIdx.x / {tiles}; const int first = blockIdx.x % {tiles} * {rows};"

    def blocks(self, count: int, rows: int) -> int:
        """Return the number of blocks."""
        return -(-count // rows) * prod(self.sizes.lead)

    def matrix(self, name: str) -> tuple[str, str]:
        """Return type and name of a matrix argument."""
        return self.kind.memory, name

    # -- tiles -------------------------------------------------------------------------------------------

    def over_tiles(self, count: int, step: int, skipped: list[str], loads: list[str], body: list[str]) -> list[str]:
        """Return the loop over the tiles of `step` rows that all warps of a block share, from row `next` on.

        skipped: the statements that pass over a tile; loads: those that fill shared memory; body: the work on a tile.
        """
        # A barrier before the loads, as other warps may still read the tile before, and one behind them.
        return [
            f"for (int next = 0; next < {count}; next += {step}) {{",
            *skipped,
            "  __syncthreads();",
            *[f"  {line}" for line in loads],
            "  __syncthreads();",
            *[f"  {line}" for line in body],
            "}",
        ]

    def each(self, step: int, spot: str, body: list[str]) -> list[str]:
        """Return the loop over a thread's elements (n, c) of a tile of scores; spot: the statement for i and j."""
        return [f"TG_EACH(n, {step // 8}) TG_EACH(c, 4) {{", f"  {spot}", *[f"  {line}" for line in body], "}"]

    def inner(self, out: str, own: str, other: str, length: int, step: int) -> str:
        """Return the call for products of a warp's rows with the rows of a tile: out (16, step) += own other^T."""
        width = length + self.pad
        return f"tg_rows<{length}, {step // 8}>({out}, &{own}[warp * {ROWS * width}], {width}, {other}, {width}, lane);"

    def outer(self, out: str, weights: str, other: str, step: int, length: int) -> str:
        """Return the call that adds a tile's rows by weights to a warp's rows: out (16, length) += weights other."""
        own, width = step + self.pad, length + self.pad
        return (
            f"tg_columns<{step}, {length // 8}>({out}, &{weights}[warp * {ROWS * own}], {own}, {other}, {width}, lane);"
        )

    # -- kernels -----------------------------------------------------------------------------------------

    def forward(self, name: str) -> Launch:
        """Return the kernel (q, k, v, operands, result, logarithms of the sums)."""
        # For each tile of keys: scores s = q k; the new maximum of each row; sum and result so far rescaled to it;
        # p = exp(s - top); result += p v. The result is divided by the sum at the end.
        s, d, e = self.sizes, self.d, self.e
        warps, step = self.tiles([d], [d, e], 1)
        rows = ROWS * warps
        names = {self.scores.product: "s[n][c]"}
        chain = self.chain(self.scores.nodes, names)
        masked = names[self.scores.masked]
        spot = self.spot("first", "next")
        loads = [self.fill("ks", "k", step, d, "next", turned=True), self.fill("vs", "v", step, e, "next")]
        body = [
            # 1. Scores of the tile, and the maximum of each row so far. A thread has elements of two rows.
            f"float s[{step // 8}][4] = {{}}, high[2] = {{ top[0], top[1] }};",
            self.inner("s", "qs", "ks", d, step),
            *self.each(step, spot, [
                f"if ({self.inside()}) {{",
                *[f"  {line}" for line in chain],
                f"  s[n][c] = {masked}; high[c / 2] = tg_max<float>(high[c / 2], {masked});",
                "}",
            ]),
            # 2. The four threads of a row agree on the maximum. Sum and result are rescaled to it.
            "TG_EACH(h, 2) {",
            "  for (int o = 1; o < 4; o *= 2) {",
            "    const float t = tg_shfl(high[h], o, 4); high[h] = tg_max<float>(high[h], t);",
            "  }",
            "  const float scale = tg_rescale<float>(top[h], high[h]);",
            "  top[h] = high[h]; sum[h] *= scale;",
            f"  TG_EACH(n, {e // 8}) {{ acc[n][2 * h] *= scale; acc[n][2 * h + 1] *= scale; }}",
            "}",
            # 3. Probabilities, through shared memory into the layout of a left factor, times the values.
            *self.each(step, spot, [
                f"s[n][c] = {self.inside()} ? tg_rescale<float>(s[n][c], top[c / 2]) : 0.0f; sum[c / 2] += s[n][c];",
            ]),
            self.put("ps", step, "s", step // 8),
            "__syncwarp();",
            self.outer("acc", "ps", "vs", step, e),
        ]  # fmt: skip
        lines = [
            self.signature(name, warps, list(map(self.matrix, "qkv")), False, [self.matrix("out"), ("float", "logs")]),
            self.shared("qs", rows, d), self.shared("ks", step, d),
            self.shared("vs", step, e), self.shared("ps", rows, step),
            self.spread(s.queries, rows),
            self.fill("qs", "q", rows, d, "first"),
            f"float acc[{e // 8}][4] = {{}}, top[2] = {{ -TG_INF_f, -TG_INF_f }}, sum[2] = {{}};",
            *self.over_tiles(s.keys, step, self.skipped("first", "next", step), loads, body),
            "TG_EACH(h, 2) {",
            "  for (int o = 1; o < 4; o *= 2) { const float t = tg_shfl(sum[h], o, 4); sum[h] += t; }",
            "  sum[h] += top[h] - top[h];",  # NaN where the maximum is infinite
            f"  const int i = first + warp * {ROWS} + lane / 4 + h * 8;",
            f"  if (lane % 4 == 0 && i < {s.queries}) logs[z * {s.queries} + i] = top[h] + logf(sum[h]);",
            "}",
            self.result("out", "acc", e // 8, s.queries, s.depth, "/ sum[c / 2]"),
        ]  # fmt: skip
        return Launch(_text(lines), (self.blocks(s.queries, rows),), (32 * warps,))

    def dots(self, name: str) -> Launch:
        """Return the kernel (result, its gradient, sums): of their products over each row."""
        # A warp a row. These are the sums of dp * p over the keys, as out = p v.
        s = self.sizes
        warps = 4
        at, other = self.place("out", "i", "c"), self.place("grad", "i", "c")
        product = f"{self.kind.load.format(f'out[{at}]')} * {self.kind.load.format(f'grad[{other}]')}"
        memory = self.kind.memory
        head = f"const {memory}* __restrict__ out, const {memory}* __restrict__ grad, float* __restrict__ sums"
        lines = [
            f'extern "C" __global__ void __launch_bounds__({32 * warps}) {name}({head}) {{',
            self.spread(s.queries, warps),
            "const int i = first + threadIdx.x / 32;",
            "float sum = 0;",
            f"if (i < {s.queries}) for (int c = threadIdx.x % 32; c < {s.depth}; c += 32) sum += {product};",
            "for (int o = 16; o > 0; o >>= 1) { const float t = tg_shfl(sum, o, 32); sum += t; }",
            f"if (threadIdx.x % 32 == 0 && i < {s.queries}) sums[z * {s.queries} + i] = sum;",
        ]
        return Launch(_text(lines), (self.blocks(s.queries, warps),), (32 * warps,))

    def for_queries(self, name: str) -> Launch:
        """Return the kernel (q, k, v, gradient, logarithms, sums, operands, dq)."""
        # For each tile of keys: p again from s = q k; dp = gradient v; ds = p * (dp - sum); dq += ds k.
        s, d, e = self.sizes, self.d, self.e
        warps, step = self.tiles([d, e], [d, e], 1)
        rows = ROWS * warps
        loads = [self.fill("ks", "k", step, d, "next", turned=True), self.fill("vs", "v", step, e, "next")]
        body = [
            *self.products_again(("qs", "gs"), ("ks", "vs"), step, self.spot("first", "next")),
            self.put("ds", step, "dp", step // 8),
            "__syncwarp();",
            self.outer("acc", "ds", "ks", step, d),
        ]
        lines = [
            self.signature(name, warps, self.saved(), True, [self.matrix("dq")]),
            self.shared("qs", rows, d), self.shared("gs", rows, e),
            self.shared("ks", step, d), self.shared("vs", step, e), self.shared("ds", rows, step),
            # The own rows are loaded once; those of the other factor pass through shared memory.
            self.spread(s.queries, rows),
            self.fill("qs", "q", rows, d, "first"), self.fill("gs", "grad", rows, e, "first"),
            f"float acc[{d // 8}][4] = {{}};",
            *self.over_tiles(s.keys, step, self.skipped("first", "next", step, back=True), loads, body),
            self.result("dq", "acc", d // 8, s.queries, s.size),
        ]  # fmt: skip
        return Launch(_text(lines), (self.blocks(s.queries, rows),), (32 * warps,))

    def for_keys(self, name: str, turned: bool) -> Launch:
        """Return the kernel (q, k, v, gradient, logarithms, sums, operands, dk, dv).

        turned: whether dk is (..., keys, size), and not (..., size, keys).
        """
        # The same with queries and keys exchanged: dv += p gradient and dk += ds q, over tiles of queries.
        s, d, e = self.sizes, self.d, self.e
        warps, step = self.tiles([d, e], [d, e], 2)
        rows = ROWS * warps
        skipped = self.skipped("next", "first", step, turned=True, back=True)
        loads = [self.fill("qs", "q", step, d, "next"), self.fill("gs", "grad", step, e, "next")]
        body = [
            *self.products_again(("ks", "vs"), ("qs", "gs"), step, self.spot("next", "first", turned=True)),
            self.put("ps", step, "s", step // 8),
            self.put("ds", step, "dp", step // 8),
            "__syncwarp();",
            self.outer("values", "ps", "gs", step, e),
            self.outer("keys", "ds", "qs", step, d),
        ]
        lines = [
            self.signature(name, warps, self.saved(), True, [self.matrix("dk"), self.matrix("dv")]),
            self.shared("ks", rows, d), self.shared("vs", rows, e),
            self.shared("qs", step, d), self.shared("gs", step, e),
            self.shared("ps", rows, step), self.shared("ds", rows, step),
            self.spread(s.keys, rows),
            self.fill("ks", "k", rows, d, "first", turned=True), self.fill("vs", "v", rows, e, "first"),
            f"float keys[{d // 8}][4] = {{}}, values[{e // 8}][4] = {{}};",
            *self.over_tiles(s.queries, step, skipped, loads, body),
            self.result("dk", "keys", d // 8, s.keys, s.size, turned=not turned),
            self.result("dv", "values", e // 8, s.keys, s.depth),
        ]  # fmt: skip
        return Launch(_text(lines), (self.blocks(s.keys, rows),), (32 * warps,))

    def skipped(self, rows: str, columns: str, step: int, turned: bool = False, back: bool = False) -> list[str]:
        """Return the statements that pass over a tile of scores that is all masked by minus infinity.

        Such a mask is added last, or chosen by a condition. A row without a finite sum is NaN in the gradients, too.
        """
        node = next((n for n in self.scores.nodes if n.outs[0] is self.scores.masked), None)
        made = {self.scores.product, *[v for n in self.scores.nodes for v in n.outs]}
        lines: list[str] = []
        names: dict[Value, str] = {}
        # The conditions under which a score is visible: an added mask is finite, or `where` chooses the score.
        if node is not None and node.op == "add":
            masks = [x for x in node.args if isinstance(x, Value) and x not in made and self.number(x) is None]
            seen = [f"{self.element_of(x, names, lines)} != -TG_INF_f" for x in masks]
        elif node is not None and node.op == "where" and node.args[0] in self.operands:
            condition = self.element_of(node.args[0], names, lines)
            seen = [
                f"{sign}{condition}" for sign, x in zip(("", "!"), node.args[:0:-1], strict=True) if self.is_minus(x)
            ]
        else:
            return []
        if not seen:
            return []
        # In the gradients, rows without a finite sum must be computed: they give NaN.
        if back:
            sums = f"logs[z * {self.sizes.queries} + i]"
            seen.append(f"{sums} - {sums} != 0")
        # One thread that sees a score keeps the tile for the whole block.
        return [
            "__shared__ bool visible; bool seen = false;",
            "if (threadIdx.x == 0) visible = false;",
            "__syncthreads();",
            f"TG_EACH(n, {step // 8}) TG_EACH(c, 4) {{",
            f"  {self.spot(rows, columns, turned)}",
            f"  if ({self.inside()}) {{ {' '.join(lines)} seen = seen || {' || '.join(seen)}; }}",
            "}",
            "if (seen) visible = true;",
            "__syncthreads();",
            "if (!visible) continue;",
        ]

    def is_minus(self, x: Value | Number) -> bool:
        """Say whether an operand is minus infinity."""
        return bool((self.number(x) if isinstance(x, Value) else x) == -np.inf)

    def saved(self) -> list[tuple[str, str]]:
        """Return types and names of the arrays that the backward kernels read."""
        return [*[self.matrix(x) for x in ("q", "k", "v", "grad")], ("float", "logs"), ("float", "sums")]

    def spot(self, rows: str, columns: str, turned: bool = False) -> str:
        """Return the statement that gives query i and key j of element (n, c) of a tile of scores."""
        # The layout of a product in registers, as in `put`.
        own = f"+ warp * {ROWS} + lane / 4 + c / 2 * 8"
        other = "+ n * 8 + lane % 4 * 2 + c % 2"
        i, j = (other, own) if turned else (own, other)
        return f"const int i = {rows} {i}, j = {columns} {j};"

    def inside(self) -> str:
        """Return the condition that there are a query i and a key j."""
        return f"i < {self.sizes.queries} && j < {self.sizes.keys}"

    def products_again(self, own: tuple[str, str], other: tuple[str, str], step: int, spot: str) -> list[str]:
        """Return the statements that compute probabilities and gradients of scores again, in registers.

        own, other: tiles of the warp's rows and of the other ones, those of the scores and those of their gradients.
        """
        return [
            f"float s[{step // 8}][4] = {{}}, dp[{step // 8}][4] = {{}};",
            self.inner("s", own[0], other[0], self.d, step),
            self.inner("dp", own[1], other[1], self.e, step),
            *self.each(step, spot, self.pulled_back()),
        ]

    def pulled_back(self) -> list[str]:
        """Return the statements that put probabilities in the place of scores, and gradients of scores in `dp`."""
        # Probabilities from the saved logarithm of the sum: no second pass over the keys is needed.
        names = {self.scores.product: "s[n][c]"}
        chain = self.chain(self.scores.nodes, names)
        assert self.scores.gradient is not None
        assert self.scores.end is not None
        names[self.scores.gradient] = "g"
        back = self.chain(self.scores.back, names)
        return [
            f"if ({self.inside()}) {{",
            *[f"  {line}" for line in chain],
            f"  const float p = expf({names[self.scores.masked]} - logs[z * {self.sizes.queries} + i]);",
            f"  const float g = p * (dp[n][c] - sums[z * {self.sizes.queries} + i]);",
            *[f"  {line}" for line in back],
            f"  dp[n][c] = {names[self.scores.end]}; s[n][c] = p;",
            "} else s[n][c] = dp[n][c] = 0.0f;",
        ]

    def result(
        self, name: str, values: str, tiles: int, rows: int, columns: int, scale: str = "", turned: bool = False
    ) -> str:
        """Return the loop that writes the rows of a warp; turned: whether the matrix has its rows as columns."""
        at = self.place(name, "j", "i") if turned else self.place(name, "i", "j")
        value = self.kind.store.format(f"({values}[n][c] {scale})")
        spot = f"const int i = first + warp * {ROWS} + lane / 4 + c / 2 * 8, j = n * 8 + lane % 4 * 2 + c % 2;"
        return (
            f"TG_EACH(n, {tiles}) TG_EACH(c, 4) {{ {spot} if (i < {rows} && j < {columns}) {name}[{at}] = {value}; }}"
        )


def _wide(dtype: Any) -> Any:
    """Return the dtype that scores of a dtype are computed in."""
    return np.dtype(np.float32) if np.dtype(dtype).name in DTYPES else np.dtype(dtype)


def _text(lines: list[str]) -> str:
    head, *rest = lines
    return head + "\n" + "".join(f"  {line}\n" for line in rest) + "}\n"


def can_compute(nodes: list[Node]) -> bool:
    """Say whether elementwise nodes can be computed in the kernels."""
    # The same conditions as for other kernels, in the wide dtypes that scores are computed in.
    for n in nodes:
        args = n.args[:1] if n.op == "astype" else n.args
        if n.many or (n.kwargs and n.op != "astype") or n.outs[0].dtype.name not in TYPES:
            return False
        operands = [("x", _wide(x.dtype)) if isinstance(x, Value) else x for x in args]
        if any(isinstance(x, Value) and x.dtype.name not in TYPES for x in args):
            return False
        if expression(n.op, operands, _wide(n.outs[0].dtype)) is None:
            return False
    return True
