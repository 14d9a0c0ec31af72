"""The CUDA text of a batch: elementwise jobs of one structure over arrays of any sizes, such as a step of AdamW.

The arrays are cut into chunks, one a block. A table holds for each job the addresses of its arrays and their size, a
list for each block the job and the chunk; operands of one element that all jobs share are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tapegrad.backends import _cupy_kernels as k
from tapegrad.backends._cupy_jobs import Batch, structure
from tapegrad.backends._cupy_types import CType, ctype

CHUNK = 4096  # elements that a block computes


class BatchKernel(NamedTuple):
    """A kernel that takes the table, the chunks and `shared` arrays; arrays: for each job those in the table."""

    name: str
    source: str
    chunks: np.ndarray[Any, Any]
    block: int
    shared: list[Any]
    arrays: list[list[Any]]
    sizes: list[int]


def kernel(name: str, batch: Batch, places: k.Places) -> BatchKernel:
    """Return the kernel of a batch."""
    flats = batch.flats
    reads = [structure(flat, places.number)[1] for flat in flats]
    first, columns = flats[0], list(zip(*reads, strict=True))
    each = [column for column in columns if column[0].size == first.size]
    shared = [column[0] for column in columns if column[0].size != first.size]
    made = [v for n in first.nodes for v in n.outs]
    wanted = [made.index(v) for v in first.outs]
    all_made = [[v for n in flat.nodes for v in n.outs] for flat in flats]
    writes = [[own[i] for i in wanted] for own in all_made]
    arrays = [[*(column[j] for column in each), *writes[j]] for j in range(len(flats))]
    source = _source(name, first, [column[0] for column in each], shared, places)
    sizes = [flat.size for flat in flats]
    chunks = [(j, c) for j, size in enumerate(sizes) for c in range(-(-size // CHUNK))]
    return BatchKernel(name, source, np.asarray(chunks, np.int32), k.THREADS, shared, arrays, sizes)


def _source(name: str, flat: Any, each: list[Any], shared: list[Any], places: k.Places) -> str:
    text = k.Text(places)
    variables: dict[Any, str] = {v: f"s{i}" for i, v in enumerate(shared)}
    variables.update((v, f"x{i}[u]") for i, v in enumerate(each))
    body = []
    for n in flat.nodes:
        if n.kind == "view":  # the same elements in the same order
            variables[n.outs[0]] = variables[n.args[0]]
            continue
        read: Callable[[Any], str] = variables.__getitem__
        body.append(f"const {_type(n.outs[0]).value} v{len(variables)} = {text.expression(n, read)};")
        variables[n.outs[0]] = f"v{len(variables)}"
    width = len(each) + len(flat.outs) + 1
    head = "".join(f", const {_type(v).memory}* a{i}" for i, v in enumerate(shared))
    lines = [
        f"const unsigned long long* row = table + (long long)chunks[2 * blockIdx.x] * {width};",
        f"const long long start = (long long)chunks[2 * blockIdx.x + 1] * {CHUNK};",
        f"const long long size = (long long)row[{width - 1}];",
        f"const int n = size - start < {CHUNK} ? (int)(size - start) : {CHUNK};",
    ]
    for i, v in enumerate(shared):
        lines.append(f"const {_type(v).value} s{i} = {_type(v).load.format(f'a{i}[0]')};")
    for i, v in enumerate(each):
        lines.append(f"const {_type(v).memory}* p{i} = (const {_type(v).memory}*)row[{i}] + start;")
    stores = []
    for i, v in enumerate(flat.outs):
        lines.append(f"{_type(v).memory}* r{i} = ({_type(v).memory}*)row[{len(each) + i}] + start;")
        stores.append(f"r{i}[i] = {_type(v).store.format(variables[v])};")
    loads = [f"x{i}[u] = {_type(v).load.format(f'p{i}[i]')};" for i, v in enumerate(each)]
    declared = [f"{_type(v).value} x{i}[{k.UNROLL}];" for i, v in enumerate(each)]
    loop = (
        f"#pragma unroll\n    for (int u = 0; u < {k.UNROLL}; ++u) "
        f"{{ const int i = first + u * {k.THREADS}; if (i < n) {{\n      "
    )
    return (
        f'extern "C" __global__ void __launch_bounds__({k.THREADS}) {name}'
        f"(const unsigned long long* table, const int* chunks{head}) {{\n  " + "\n  ".join(lines) + "\n  "
        f"for (int first = threadIdx.x; first < n; first += {k.THREADS * k.UNROLL}) {{\n    "
        + " ".join(declared) + "\n    " + loop + "\n      ".join(loads) + "\n    } }\n    "
        + loop + "\n      ".join([*body, *stores]) + "\n    } }\n  }\n}\n"
    )  # fmt: skip


def _type(v: Any) -> CType:
    kind = ctype(v.dtype)
    assert kind is not None
    return kind
