"""Code that compares the type of something with an array type, which a traced array cannot pass for.

`isinstance`, `match` and `functools.singledispatch` ask for `x.__class__`, which it answers as the array does.
"""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from itertools import islice
from types import CodeType

from tapegrad._compile._refusals import type_asked
from tapegrad._namespace import CaptureError

_COMPARING = ("IS_OP", "COMPARE_OP", "CONTAINS_OP")
_ENDING = ("CALL", "PRECALL", "POP_", "STORE_", "RETURN_", "JUMP_")  # what begins the names of other uses
_NEAR = 12  # instructions


def refuse_asking(codes: Iterable[CodeType], names: Iterable[str]) -> None:
    """Raise CaptureError for the first comparison of a type with one of some names."""
    for code in codes:
        if "type" in code.co_names:
            for name in names:
                if name in code.co_names:
                    for error in _comparisons(code, name):
                        raise error


def _comparisons(code: CodeType, name: str) -> Iterator[CaptureError]:
    """Look for instructions that load a name, and then compare before they do anything else with it."""
    instructions = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "EXTENDED_ARG", "NOP")]
    for n, instruction in enumerate(instructions):
        if instruction.argval != name or not instruction.opname.startswith("LOAD_"):
            continue
        for after in islice(instructions, n + 1, n + _NEAR):
            if after.opname in _COMPARING:
                line = instruction.positions.lineno if instruction.positions is not None else None
                yield type_asked(code.co_filename, line or code.co_firstlineno, name)
            if after.opname.startswith(_ENDING):
                break
