"""The elementwise step of an eager program: an ElementwiseKernel of CuPy, which broadcasts and takes any strides."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import cupy
import numpy as np

from tapegrad._program.ir import Value
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen.cuda_types import HELPERS, OPTIONS, c_type
from tapegrad.backends._cupy.eager.groups import Group
from tapegrad.backends._cupy.eager.kernel_text import KernelText, Rename, Run, kernel_name, wide


class ElementwiseStep(KernelText):
    """A step of elementwise nodes, as an ElementwiseKernel."""

    def __init__(self, group: Group, outs: list[Value], number: Callable[[Value], Any]) -> None:
        super().__init__(group, outs, number)
        self.reads: list[Value] = []
        self.names: dict[object, str] = {}
        # One line for each node; operands become parameters a0, a1 and so on when a node first reads them.
        body = []
        for node in self.group.nodes:
            v = node.outs[0]
            if node.kind == "view":
                self.names[v] = self.name(node.args[0])
                continue
            value = self.computed(node, self.name)
            self.names[v] = f"v{len(self.names)}"
            body.append(f"const {c_type(v.dtype).value} {self.names[v]} = {value};")
        # Half precision is converted by CuPy's types, with one rounding.
        for i, v in enumerate(self.outs):
            value = self.names[v]
            body.append(f"r{i} = {value if wide(v.dtype) is v.dtype else f'{v.dtype.name}({value})'};")
        # CuPy's declarations: types and names of operands and results.
        ins = [f"{v.dtype.name} a{i}" for i, v in enumerate(self.reads)]
        results = ", ".join(f"{v.dtype.name} r{i}" for i, v in enumerate(self.outs))
        code = "\n".join(body)

        def make(declared: str, parameters: list[str]) -> Any:
            return cupy.ElementwiseKernel(
                ", ".join([*ins, *parameters]),
                results,
                f"{declared}\n{code}",
                kernel_name(self.group.name),
                preamble=HELPERS,
                options=OPTIONS,
            )

        self.key = (self.group.name, *ins, results, code)
        self.function, self.arguments = self.kernel(self.key, make)
        # True if the operands broadcast to the shape of the results, so that CuPy finds it.
        self.covered = np.broadcast_shapes(*[tuple(v.shape) for v in self.reads]) == self.group.shape

    def name(self, v: Value) -> str:
        """Return the text that reads a value."""
        if v not in self.names:
            self.reads.append(v)
            text = f"a{len(self.reads) - 1}"
            self.names[v] = f"(float){text}" if wide(v.dtype) is not v.dtype else text
        return self.names[v]

    def alone(self, place: dict[Value, int]) -> Callable[[Sequence[Array]], Sequence[Array]] | None:
        """Return a function from a program's inputs to its outputs, if this step is all of it; None if not."""
        kernel, scalars, reads = self.function, self.arguments, [place[v] for v in self.reads]
        if not self.covered or len(self.outs) > 1:
            return None
        # The usual call: all inputs in order, no numbers. Nothing is built around it.
        if not scalars and reads == list(range(len(reads))):
            return lambda arrays: (kernel(*arrays[: len(reads)]),)
        return lambda arrays: (kernel(*[arrays[i] for i in reads], *scalars),)

    def size_key(self, rename: Rename, place: dict[Value, int]) -> Hashable:
        """Return a key that is equal for programs that differ in sizes alone."""
        places = tuple([place[v] for v in (*self.reads, *self.outs)])
        return self.key, repr(self.numbers), places, rename(self.group.shape)

    def suits(self, rename: Rename) -> bool:
        """Say that it takes any size."""
        return True

    def run(self, place: dict[Value, int], rename: Rename) -> Run:
        """Return the function that runs the step, for arrays of other sizes; place: of values in the list of all."""
        kernel, scalars, covered = self.function, self.arguments, self.covered
        reads, writes = [place[v] for v in self.reads], [place[v] for v in self.outs]
        full, dtypes = rename(self.group.shape), [v.dtype for v in self.outs]

        # CuPy allocates the results, except where the operands alone do not have their shape.
        def run(values: list[Array]) -> None:
            outs = () if covered else [cupy.empty(full, d) for d in dtypes]
            results = kernel(*[values[i] for i in reads], *scalars, *outs)
            if len(writes) == 1:
                values[writes[0]] = results
            else:
                for i, out in zip(writes, results, strict=True):
                    values[i] = out

        return run
