"""Fusion of eager calls: a function of raw arrays is traced once, to run as few kernels.

A trace holds for the shapes, dtypes and static arguments it was made with. Where two traces that differ in some sizes
give the same program but for these, it serves other such sizes as well, with no more tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from tapegrad._compile.capture.graph import Graph, Tracer
from tapegrad._compile.decompositions import FusingNamespace
from tapegrad._compile.plan.simplify import simplified
from tapegrad._engine.dispatch import CaptureError, backend_of
from tapegrad._engine.levels import capturing
from tapegrad._program.executor import FusedProgram
from tapegrad._program.ir import Program
from tapegrad.backends import Backend

MOST = 512  # traces of a function; further calls are not fused
TRIES = 8  # of them, after which a function of which none gave a kernel is not traced any more


class Fused:
    """A function `f(xp, *arrays_and_static_arguments)` whose calls are fused; the first argument is an array."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function
        self.entries: dict[Hashable, _Entry | None] = {}  # None: is called as it is
        self.alike: dict[Hashable, _Alike] = {}  # by which sizes are equal
        self.tries = TRIES

    def __call__(self, xp: Any, *args: Any) -> Any:
        if not self.tries:
            return self.function(xp, *args)
        kind = type(args[0])
        key = tuple([(x.shape, x.dtype) if type(x) is kind else _static(x) for x in args])
        try:
            entry = self.entries[key]
        except KeyError:
            return self.first(xp, args, key)
        except TypeError:  # a static argument without a hash
            entry = None
        if entry is None:
            return self.function(xp, *args)
        outs = entry.run(args if entry.plain else [x for x in args if type(x) is kind])
        if type(entry.form) is int:
            return outs[entry.form]
        return tuple([outs[i] if i >= 0 else None for i in entry.form])

    def first(self, xp: Any, args: tuple[Any, ...], key: Any) -> Any:
        """Run a call of new shapes, and keep how to run the next one like it."""
        if len(self.entries) >= MOST:
            return self.function(xp, *args)
        numbers: dict[int, int] = {0: 0, 1: 1}  # the number that stands for each size
        pattern = tuple([_pattern(x, numbers) for x in key])
        sizes = list(numbers)
        known = self.alike.get(pattern)
        if known is not None and known.covers(sizes):
            entry = known.resized(sizes)
            self.entries[key] = entry if entry is not None and entry.run.suited else None
            return self(xp, *args)
        try:
            result, entry, launches = traced(self.name, self.function, backend_of[type(args[0])], args)
        except CaptureError:  # it looks at values
            result, entry, launches = self.function(xp, *args), None, TRIES
        form = "called" if entry is None else entry.run.size_key(numbers)
        if form is not None and (known is None or not known.agrees(form, sizes)):
            self.alike[pattern] = _Alike(entry, sizes, form)
        if entry is not None:
            self.tries = TRIES
        elif not any(self.entries.values()):
            one = launches < 2 and all(x is None or (type(x) is type(args[0]) and x.size > 1) for x in args)
            self.tries = 0 if one else self.tries - 1  # one operation, whatever the arrays
        self.entries[key] = entry if entry is not None and entry.run.suited else None
        return result


class _Entry:
    """A compiled program, and the result of the function in which its outputs stand.

    form: places among the outputs, in a tuple or alone; negative ones stand for None. plain: whether all arguments are
    arrays.
    """

    __slots__ = ("form", "plain", "run")

    def __init__(self, run: FusedProgram, form: Any, plain: bool) -> None:
        self.run, self.form, self.plain = run, form, plain


class _Alike:
    """Knowledge of calls whose shapes have equal sizes in the same places.

    sizes: those of a trace; key: one that its program shares with that for other sizes; varied: the
    places among the sizes of those that have been seen not to matter.
    """

    def __init__(self, entry: _Entry | None, sizes: list[int], key: Any) -> None:
        self.entry, self.sizes, self.key = entry, sizes, key
        self.varied: set[int] = set()

    def covers(self, sizes: list[int]) -> bool:
        """Say whether there is a program for other sizes."""
        return self.different(sizes) <= self.varied

    def different(self, sizes: list[int]) -> set[int]:
        """Return the places of sizes that are not those of the trace."""
        return {i for i, (a, b) in enumerate(zip(self.sizes, sizes, strict=True)) if a != b}

    def agrees(self, key: Any, sizes: list[int]) -> bool:
        """Say whether another trace gave the same program, and note which sizes do not matter.

        They are seen not to where all that are different have grown, or all have shrunk: a number that the program has
        from them, which may be a product of any of them, would be another.
        """
        if key != self.key:
            return False
        different = self.different(sizes)
        if len({sizes[i] > self.sizes[i] for i in different}) == 1:
            self.varied |= different
        return True

    def resized(self, sizes: list[int]) -> _Entry | None:
        """Return an entry for other sizes."""
        if self.entry is None:
            return None
        run = self.entry.run.resized(dict(zip(self.sizes, sizes, strict=True)))
        return _Entry(run, self.entry.form, self.entry.plain)


def traced(
    name: str, function: Callable[..., Any], backend: Backend, args: tuple[Any, ...]
) -> tuple[Any, _Entry | None, int]:
    """Return the result of a call, an entry for others like it, and how many functions were called, views apart.

    The entry is None if nothing is gained by one. Raises CaptureError for a function that cannot be traced.
    """
    kind = type(args[0])
    graph = Graph()
    inputs = [graph.input(x) if type(x) is kind else x for x in args]
    token = capturing.set(graph)
    try:
        result = function(_namespace(backend), *inputs)
    finally:
        graph.ended = True
        capturing.reset(token)
    found = list(result) if type(result) is tuple else [result]
    raw = [x.raw if isinstance(x, Tracer) else x for x in found]
    outs = [x for x in found if isinstance(x, Tracer)]
    entry, launches = None, TRIES
    if all(isinstance(x, Tracer) or x is None for x in found) and outs:
        values = [x.value for x in inputs if isinstance(x, Tracer)]
        program = simplified(Program(values, graph.nodes, [x.value for x in outs]), backend)
        for node in program.nodes:
            if node.op in backend.elementwise:
                node.kind = "elementwise"
        launches = sum(node.kind != "view" for node in program.nodes)
        run = backend.fused_program(program, name)
        if run is not None:
            numbers = iter(range(len(outs)))
            form = tuple([next(numbers) if isinstance(x, Tracer) else -1 for x in found])
            entry = _Entry(run, form if type(result) is tuple else 0, all(type(x) is kind for x in args))
    return tuple(raw) if type(result) is tuple else raw[0], entry, launches


def _static(x: Any) -> Hashable:
    """Return a static argument as a key: 0.0 is not -0.0, nor is 1 True."""
    return (type(x), repr(x) if type(x) is float else x)


def _pattern(x: Any, numbers: dict[int, int]) -> Any:
    """Return a part of a key with numbers in the places of sizes: equal ones for equal sizes, 0 and 1 as they are."""
    return (tuple([numbers.setdefault(n, len(numbers)) for n in x[0]]), x[1]) if type(x[0]) is tuple else x


_namespaces: dict[Backend, Any] = {}


def _namespace(backend: Backend) -> Any:
    found = _namespaces.get(backend)
    return _namespaces.setdefault(backend, FusingNamespace(backend.xp)) if found is None else found
