"""The CUDA text that combines partial results of blocks into reductions: one launch completes several of them."""

from __future__ import annotations

from tapegrad._program.ir import Node
from tapegrad.backends._cupy.codegen.cuda_types import c_type
from tapegrad.backends._cupy.codegen.memory_access import Shape
from tapegrad.backends._cupy.codegen.reductions import accumulator, combine, finished, neutral

MOST = 48  # reductions of one launch
ROWS = 256  # partial results of a column up to which a block has as many threads, else LARGE
LARGE = 1024


class Finish:
    """A reduction to complete, from an array of partial results: one row a block of the kernel that wrote them.

    out: the result; dtype, shape: of the partial results; block: its number of threads; grid: blocks that it takes.
    """

    def __init__(self, node: Node, rows: int, columns: int) -> None:
        self.node = node
        self.out = node.outs[0]
        self.dtype, self.kind = accumulator(node.op, self.out.dtype)
        self.shape: Shape = (rows, columns)
        # Neighbouring threads read neighbouring columns, so that loads of a warp are contiguous.
        self.width = 1  # columns of a block
        while self.width < min(32, columns):
            self.width *= 2
        self.block = ROWS if rows <= ROWS else LARGE
        self.grid = -(-columns // self.width)

    def parameters(self, i: int) -> str:
        """Return the parameters of number `i` of a kernel: the result, the partial results."""
        return f"{c_type(self.out.dtype).memory}* __restrict__ r{i}, const {self.kind.memory}* __restrict__ p{i}"

    def statements(self, i: int) -> str:
        """Return the statements of number `i` in its block number `block`; shared: memory of 8 bytes a thread."""
        (rows, columns), wide, op, dtype = self.shape, self.width, self.node.op, self.dtype
        high = self.block // wide
        count = self.node.args[0].size // self.out.size
        both = combine(op, dtype, "c", self.kind.load.format(f"p{i}[(long long)r * {columns} + column]"))
        tree = combine(op, dtype, "s[threadIdx.x]", f"s[threadIdx.x + o * {wide}]")
        result = c_type(self.out.dtype).store.format(finished(op, self.out.dtype, "s[threadIdx.x]", count))
        return f"""\
    const int y = threadIdx.x / {wide}, column = block * {wide} + threadIdx.x % {wide};
    {self.kind.value} c = {neutral(op, dtype)};
    #pragma unroll 8
    for (int r = y; r < {rows}; r += {high}) if (column < {columns}) c = {both};
    {self.kind.value}* const s = ({self.kind.value}*)shared;
    s[threadIdx.x] = c; __syncthreads();
    for (int o = {high // 2}; o > 0; o >>= 1) {{
      if (y < o) s[threadIdx.x] = {tree};
      __syncthreads();
    }}
    if (y == 0 && column < {columns}) r{i}[column] = {result};
"""


def kernel(name: str, finishes: list[Finish]) -> tuple[str, int]:
    """Return the text and the grid of the kernel of reductions with one size of blocks.

    It takes the arrays of each in turn, and gives each as many blocks as it would take alone.
    """
    # A block finds its reduction by counting down the blocks of those before it.
    threads, grid = finishes[0].block, 0
    parts = []
    for i, f in enumerate(finishes):
        parts.append(f"  if (block < {f.grid}) {{\n{f.statements(i)}    return;\n  }}\n  block -= {f.grid};\n")
        grid += f.grid
    parameters = ", ".join(f.parameters(i) for i, f in enumerate(finishes))
    head = f'extern "C" __global__ void __launch_bounds__({threads}, 1) {name}({parameters})'
    start = f"  __shared__ double shared[{threads}];\n  unsigned int block = blockIdx.x;\n"
    return f"{head} {{\n{start}{''.join(parts)}}}\n", grid
