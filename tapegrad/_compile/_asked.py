"""Questions whose answer differs while a call is captured, or replayed, found in the instructions of code."""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from itertools import islice
from types import CodeType

from tapegrad._compile._refusals import type_asked
from tapegrad._engine.dispatch import CaptureError

_COMPARING = ("IS_OP", "COMPARE_OP", "CONTAINS_OP")
_ENDING = ("CALL", "PRECALL", "POP_", "STORE_", "RETURN_", "JUMP_")  # what begins the names of other uses
_NEAR = 12  # instructions
_READING = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF")


def refuse_asking(codes: Iterable[CodeType], names: Iterable[str]) -> None:
    """Raise CaptureError for the first comparison of a type with an array type, which a traced array is not of.

    `isinstance`, `match` and `functools.singledispatch` ask for `x.__class__`, which it answers as the array does.
    """
    for code in codes:
        if "type" in code.co_names:
            for name in names:
                if name in code.co_names:
                    for error in _comparisons(code, name):
                        raise error


def _comparisons(code: CodeType, name: str) -> Iterator[CaptureError]:
    """Look for instructions that load a name, and then compare before they do anything else with it."""
    instructions = _instructions(code)
    for n, instruction in enumerate(instructions):
        if instruction.argval != name or not instruction.opname.startswith("LOAD_"):
            continue
        for after in islice(instructions, n + 1, n + _NEAR):
            if after.opname in _COMPARING:
                yield type_asked(code.co_filename, _line(instruction) or code.co_firstlineno, name)
            if after.opname.startswith(_ENDING):
                break


def is_read(codes: Iterable[CodeType], name: str) -> bool:
    """Say whether a variable or attribute is read, but for lines that give it a new value, as `n += 1` does."""
    for code in codes:
        if name in code.co_names or name in code.co_freevars or name in code.co_cellvars:
            using = [i for i in _instructions(code) if i.argval == name and i.opname.startswith(("LOAD_", "STORE_"))]
            written = {_line(i) for i in using if i.opname.startswith("STORE_")}
            if any(i.opname in _READING and _line(i) not in written for i in using):
                return True
    return False


def _instructions(code: CodeType) -> list[dis.Instruction]:
    return [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "EXTENDED_ARG", "NOP")]


def _line(instruction: dis.Instruction) -> int | None:
    return None if instruction.positions is None else instruction.positions.lineno
