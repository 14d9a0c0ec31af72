"""Bytecode analysis: code whose questions have another answer while a call is captured, or replayed."""

from __future__ import annotations

import dis
from collections.abc import Collection, Iterable
from itertools import pairwise
from types import CodeType

from tapegrad._compile.capture.errors import type_asked

_COMPARING = ("IS_OP", "COMPARE_OP", "CONTAINS_OP")
_LOADING = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_BUILTIN")
_NAMES = ("__name__", "__qualname__", "__module__")  # which are the same
_NEAR = 12  # instructions
_GETTING = ("get", "pop", "setdefault")  # methods that return an item
_LOOKING = ("GET_ITER", "POP_JUMP", "TO_BOOL", "UNARY_NOT", "CONTAINS_OP", "COMPARE_OP")
_READERS = frozenset(("all", "any", "enumerate", "list", "max", "min", "reversed", "sorted", "sum", "tuple", "zip"))
_READING = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF")


def refuse_asking(codes: Collection[CodeType], names: Collection[str], tables: Collection[str]) -> None:
    """Raise CaptureError for code that compares a type with an array type, which a tracer is not of.

    names: of array types, and of variables that hold some; tables: of dicts that have them for keys. `isinstance`,
    `match` and `functools.singledispatch` ask for `x.__class__`, which it answers as the array does.
    """
    if not any(_asks(code) for code in codes):
        return
    for code in codes:
        instructions = _instructions(code)
        for n, i in enumerate(instructions):
            if not i.opname.startswith("LOAD_") or i.opname == "LOAD_CONST" or type(i.argval) is not str:
                continue
            if i.argval in tables or (i.argval in names and not _is_fine(instructions, n)):
                raise type_asked(code.co_filename, _line(i) or code.co_firstlineno, i.argval)


def _asks(code: CodeType) -> bool:
    """Say whether code uses `type`, but for `type(self)` and for the name of one."""
    if "type" not in code.co_names:
        return False
    instructions = _instructions(code)
    for n, i in enumerate(instructions):
        if i.argval == "type" and i.opname.startswith(_LOADING):
            called = next((m for m in range(n, len(instructions) - 1) if instructions[m].opname.startswith("CALL")), n)
            after = instructions[called + 1]
            named = after.argval in _NAMES or after.opname.startswith("FORMAT_")
            if not named and instructions[n + 1].argval not in ("self", "cls"):
                return True
    return False


def _is_fine(instructions: list[dis.Instruction], n: int) -> bool:
    """Say whether an array type that is loaded is for `isinstance`, `match`, a call or an attribute of its own."""
    line = _line(instructions[n])
    for before in reversed(instructions[max(n - 2 * _NEAR, 0) : n]):
        if _line(before) != line or before.opname in _COMPARING:
            break
        if before.argval == "isinstance":
            return True
    after = instructions[n + 1 : n + 4]
    return after[0].opname.startswith(("LOAD_ATTR", "LOAD_METHOD")) or any(i.opname == "MATCH_CLASS" for i in after)


def is_read(codes: Iterable[CodeType], name: str) -> bool:
    """Say whether a variable or attribute is read, but for lines that give it a new value, as `n += 1` does."""
    for code in codes:
        if name in code.co_names or name in code.co_freevars or name in code.co_cellvars:
            using = [i for i in _instructions(code) if i.argval == name and i.opname.startswith(("LOAD_", "STORE_"))]
            written = {_line(i) for i in using if i.opname.startswith("STORE_")}
            if any(i.opname in _READING and _line(i) not in written for i in using):
                return True
    return False


def item_is_read(codes: Iterable[CodeType], holder: str, key: object) -> bool:
    """Say whether the item of a container is read, but for lines that give one a new value, as `stats["n"] += 1` does.

    holder: the name of the container; a string for a key is looked for in any, as code may have other names for that.
    """
    for code in codes:
        instructions = _instructions(code)
        written = {_line(i) for i in instructions if i.opname == "STORE_SUBSCR"}
        for n, i in enumerate(instructions):
            if not i.opname.startswith("LOAD_") or type(i.argval) is not type(key) or i.argval != key:
                continue
            before, after = instructions[n - 1], instructions[n + 1]
            if (_is_subscript(after) and _line(after) not in written) or before.argval in _GETTING:
                at = n - 2 if before.argval in _GETTING else n - 1
                if type(key) is str or instructions[at].argval in _names_of(instructions, holder):
                    return True
    return False


def length_is_read(codes: Iterable[CodeType], holder: str, items: bool) -> bool:
    """Say whether code asks for the length of a container, or, if `items` says so, looks at its items."""
    for code in codes:
        instructions = _instructions(code)
        names = _names_of(instructions, holder)
        written = {_line(i) for i in instructions if i.opname in ("STORE_SUBSCR", "DELETE_SUBSCR")}
        for n, i in enumerate(instructions):
            if i.argval not in names or not i.opname.startswith("LOAD_"):
                continue
            asking = [before.argval for before in instructions[max(n - _NEAR, 0) : n] if _line(before) == _line(i)]
            if instructions[n + 1].opname.startswith(("CALL", "PRECALL")) and "len" in asking:
                return True
            after = instructions[n + 1 : n + 4]
            if items and (after[0].opname.startswith(_LOOKING) or not _READERS.isdisjoint(asking)):
                return True
            if items and _line(i) not in written and any(map(_is_subscript, after)):
                return True
    return False


def _is_subscript(i: dis.Instruction) -> bool:
    """Say whether an instruction reads an item."""
    return i.opname.startswith(("BINARY_SUBSCR", "BINARY_SLICE")) or (i.opname == "BINARY_OP" and i.argrepr == "[]")


def _names_of(instructions: list[dis.Instruction], holder: str) -> set[object]:
    """Return the names in code of an object with a name outside: that one, and the variables it is assigned to."""
    names: set[object] = {holder}
    for i, after in pairwise(instructions):
        if i.argval in names and i.opname.startswith("LOAD_") and after.opname.startswith("STORE_FAST"):
            names.add(after.argval)
    return names


def _instructions(code: CodeType) -> list[dis.Instruction]:
    return [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "EXTENDED_ARG", "NOP")]


def _line(instruction: dis.Instruction) -> int | None:
    return None if instruction.positions is None else instruction.positions.lineno
