"""Parts of the texts of eager kernels: expressions of nodes, numbers as literals or parameters, kernels by text."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from tapegrad._program.ir import Node, Value
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen.cuda_types import c_type, converted, literal
from tapegrad.backends._cupy.codegen.expressions import Operand, computed_in, expression
from tapegrad.backends._cupy.codegen.memory_access import Shape
from tapegrad.backends._cupy.eager.groups import Group

Rename = Callable[[Shape], Shape]  # a shape with other sizes
Run = Callable[[list[Array]], None]  # runs a step: reads and writes the list of all values


def kernel_name(operation: str) -> str:
    """Return the name of the kernel of an operation, whose own may have spaces."""
    return "tg_" + operation.replace(" ", "_")


def wide(dtype: Any) -> Any:
    """Return the dtype that values of a dtype are computed in."""
    return np.dtype(np.float32) if dtype.name in ("float16", "bfloat16") else dtype


class KernelText:
    """The text of one step: its nodes, and the numbers in it.

    group: the nodes that the kernel computes; outs: the results that are written; number: the number that a constant is
    everywhere, or None.
    """

    def __init__(self, group: Group, outs: list[Value], number: Callable[[Value], Any]) -> None:
        self.group, self.outs, self.number = group, outs, number
        self.made = {v: n for n in group.nodes for v in n.outs}
        self.numbers: list[tuple[Any, Any]] = []  # value, dtype it is computed in

    def constant(self, value: Any, dtype: Any) -> str:
        """Return the name of a number."""
        self.numbers.append((value, np.dtype(dtype)))
        return f"c{len(self.numbers) - 1}"

    def computed(self, node: Node, name: Callable[[Value], str]) -> str:
        """Return the expression of an elementwise node; name: of an operand that is an array."""
        out = node.outs[0].dtype
        args = node.args[:1] if node.op == "astype" else node.args
        arrays = [x.dtype for x in args if isinstance(x, Value)]
        plain = [x for x in args if not isinstance(x, Value)]
        dtype = out if node.op == "where" or not arrays else computed_in(node.op, arrays, plain, out)
        operands: list[Operand] = []
        for i, x in enumerate(args):
            known = self.number(x) if isinstance(x, Value) else None
            if known is not None:
                operands.append((self.constant(known, x.dtype), x.dtype))
            elif isinstance(x, Value):
                operands.append((name(x), x.dtype))
            elif node.op == "pow" and i == 1:
                operands.append(x)  # some exponents have texts of their own
            else:
                operands.append((self.constant(x, dtype), dtype))
        if node.op == "astype":
            assert isinstance(operands[0], tuple)
            return converted(*operands[0], out)
        text = expression(node.op, operands, out)
        assert text is not None, node.op
        return text

    def kernel(self, key: Hashable, make: Callable[[str, list[str]], Any]) -> tuple[Any, list[Any]]:
        """Return the kernel of a text, and the numbers to call it with.

        make: compiles it, with declarations of the numbers before the text, or with parameters for them.
        """
        kinds = [c_type(dtype).value for _, dtype in self.numbers]
        mine = repr([value for value, _ in self.numbers])
        found = _kernels.get(key)
        if found is None:
            literals = [literal(value, dtype) for value, dtype in self.numbers]
            declared = "".join(
                f"const {kind} c{i} = {text}; " for i, (kind, text) in enumerate(zip(kinds, literals, strict=True))
            )
            found = _kernels[key] = [mine, make(declared, []), None]
        # Literals are faster; other numbers take them as arguments.
        if found[0] == mine:
            return found[1], []
        if found[2] is None:
            found[2] = make("", [f"{wide(dtype).name} c{i}" for i, (_, dtype) in enumerate(self.numbers)])
        return found[2], [wide(dtype).type(np.asarray(value, dtype)) for value, dtype in self.numbers]


# text with numbers as parameters -> the numbers of the first program with it, its kernel, the kernel of any numbers
_kernels: dict[Hashable, list[Any]] = {}
