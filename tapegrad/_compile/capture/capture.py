"""Capture of a call: it runs eagerly while Tensors hold tracers, and so becomes a program.

The first call is tentative: nothing in it raises, or comes out otherwise, than in an eager call, and it need not give a
program. The following ones refuse all that a program cannot do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any, NamedTuple
from weakref import ref

from tapegrad._compile.capture.bytecode import refuse_asking
from tapegrad._compile.capture.captured_call import Capture
from tapegrad._compile.capture.effects import check_output, effects_of
from tapegrad._compile.capture.graph import Graph, active
from tapegrad._compile.capture.guard_sources import Places
from tapegrad._compile.capture.guards import Guards
from tapegrad._compile.capture.install_tracers import Tracers
from tapegrad._compile.capture.leaks import check_survivors
from tapegrad._compile.capture.locks import tracing
from tapegrad._compile.capture.observer import Observer, TentativeObserver
from tapegrad._compile.capture.raw_array_tracers import RawArrayTracers
from tapegrad._compile.capture.remove_tracers import remove_all_tracers
from tapegrad._compile.capture.rng_guard import GENERATORS
from tapegrad._compile.capture.state_discovery import reachable
from tapegrad._engine.dispatch import CaptureError, backend_of
from tapegrad._engine.mode import mode_set
from tapegrad._engine.record import Record
from tapegrad._engine.source_line import inside
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import flatten


class Known(NamedTuple):
    """The Tensors that a first call used, held weakly; lasting: those that are neither given nor left by it.

    generators: of random numbers, which it can reach; fresh: whether it used arrays that a library made inside, of
    those that cannot be written to; found: guards of all that it found outside.
    """

    tensors: list[ref[Tensor]]
    lasting: list[ref[Tensor]]
    generators: list[Any]
    fresh: bool
    found: Guards

    def stale(self, leaves: list[Any]) -> bool:
        """Say whether the user has put another Tensor in the place of one, or has changed something else."""
        return any(r() is None for r in self.lasting) or type(self.found.function([], {})(leaves)) is not tuple


def captured(
    function: Callable[..., Any],
    args: Any,
    kwargs: Any,
    known: Iterable[Tensor],
    debug: bool = False,
    fresh: bool = False,
) -> tuple[Any, Capture]:
    """Run a call with tracers in the Tensors that it is known to use; return its result and the capture.

    There are tracers in the places of raw ones, too, that a search finds; fresh: see `RawArrayTracers`.
    """
    lifted = Tracers(Graph(debug=debug))
    used = Observer(lifted.graph)
    tracing.running.append(lifted)
    try:
        # 1. State discovery, and tracers in the Tensors and raw arrays that it finds.
        leaves, rebuild = flatten((args, kwargs))
        places = Places(function, leaves)
        stand_ins = RawArrayTracers(lifted.graph, places, fresh)
        try:
            given = lifted.arguments(leaves)
            for x in known:
                lifted.add(x)
            lifted.reached(p.value for p in places.all if p.kind == "tensor")
            records = _records(lifted)
            types = stand_ins.types | {type(leaves[i]) for i in lifted.raw}
            if types:
                refuse_asking(places.codes, *places.names_of_types(types))
            if lifted.raw:  # without any, containers are passed as they are
                args, kwargs = rebuild(list(given))
            # 2. The call: its array operations are recorded in the graph.
            try:
                result = _run_function(lifted.graph, used, function, args, kwargs)
            finally:
                stand_ins.put_back()
            _check_arguments(given, args, kwargs)
            del given, args, kwargs
            _check_records(lifted, records)
        finally:
            stand_ins.put_back()
            lifted.remove()
        # 3. Guards, effects and the leak check, once no Tensor holds a tracer any more.
        found = Guards(places, leaves, lifted.graph.held.values(), stand_ins.pinned())
        del places, leaves, stand_ins
        left = effects_of(lifted, result, used, found)
        del result
        check_survivors(lifted.graph)
    except BaseException as error:
        remove_all_tracers(lifted.graph)
        other = _explained(error, bool(lifted.graph.found or lifted.raw))
        if other is error:
            raise
        raise other from error
    finally:
        lifted.slots.clear()  # which an error's traceback would hold
        tracing.running.clear()
    return left


def captured_tentatively(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Known, Capture | None]:
    """Run a call tentatively; return its result, the Tensors that it used, and the capture if there is one.

    Only a result that is recorded raises CaptureError.
    """
    graph = Graph(tentative=True)
    lifted = Tracers(graph)
    used = TentativeObserver(graph)
    leaves = flatten((args, kwargs))[0]
    capture = None
    tracing.running.append(lifted)
    Graph.everywhere = graph
    try:
        try:
            lifted.arguments(leaves)
            places = Places(function, leaves)
            RawArrayTracers(graph, places)
            tensors, generators = reachable((function, *leaves), GENERATORS)
            lifted.reached(tensors)
            del tensors
            records = _records(lifted)
            result = _run_function(graph, used, function, args, kwargs)
            with _or_void(graph):
                _check_arguments(leaves, args, kwargs)
                _check_records(lifted, records)
        finally:
            Graph.everywhere = None
            lifted.remove()
        found = Guards(places, leaves, graph.held.values(), set())
        del places
        known = _known(lifted, used, leaves, result, generators, found)
        if not graph.void:
            with _or_void(graph):
                capture = effects_of(lifted, result, used, found)[1]
                check_survivors(graph)
        if graph.void:
            remove_all_tracers(graph, used.alive())
    except BaseException:
        remove_all_tracers(graph, used.alive())
        raise
    finally:
        lifted.slots.clear()
        graph.apart.clear()
        tracing.running.clear()
    return result[0], known, None if graph.void else capture


@contextmanager
def _or_void(graph: Graph) -> Iterator[None]:
    """Take it that a tentative call gives no program where CaptureError is raised."""
    try:
        yield
    except CaptureError:
        graph.void = True


def _run_function(graph: Graph, used: Observer, function: Callable[..., Any], args: Any, kwargs: Any) -> list[Any]:
    """Return the result of a call that is recorded, in a list so that no name holds it."""
    token = active.set(graph)
    try:
        with mode_set(watch=used):
            return [function(*args, **kwargs)]
    finally:
        active.reset(token)
        graph.ended = True


def _check_arguments(given: list[Any], args: Any, kwargs: Any) -> None:
    now = flatten((args, kwargs))[0]
    if len(now) != len(given) or not all(map(is_, now, given)):
        raise CaptureError(
            "the function puts something else into a container that it is given, which replay does not: return it, "
            "or update the Tensors in it in place"
        )


def _records(lifted: Tracers) -> list[tuple[Tensor, Record | None]]:
    return [(x, x._record) for x, _ in lifted.slots.values()]


def _check_records(lifted: Tracers, records: list[tuple[Tensor, Record | None]]) -> None:
    """Raise CaptureError if the function leaves state, or a new gradient, that is recorded."""
    for x, r in records:
        if x._record is not r:
            raise CaptureError(
                f"the function leaves a Tensor from outside recorded{lifted.line_of(x)}, or makes one require a "
                "gradient: update state under tapegrad.no_grad(), and set requires_grad outside"
            )
    for x, _ in lifted.slots.values():
        if x.grad is not None and id(x.grad) not in lifted.slots:
            check_output(x.grad, (), "the function leaves a gradient, the result")


def _known(
    lifted: Tracers, used: TentativeObserver, leaves: list[Any], result: Any, generators: list[Any], found: Guards
) -> Known:
    """Return the Tensors that a call used, and those it made that are still there: these may be state."""
    outputs = [y for y in flatten(result)[0] if isinstance(y, Tensor)]
    for y in outputs:
        try:
            check_output(y, {id(x) for x in leaves} | lifted.slots.keys() | set(used.unknown_tensors))
        except CaptureError as error:
            raise lifted.graph.why or error from None  # the first reason led there
    those = {id(x): x for x in [*used.alive(), *outputs]}
    passing = {id(x) for x in (*leaves, *outputs)}
    passing |= {id(x._grad) for x in those.values() if hasattr(x, "_grad")}
    lasting = [ref(x) for i, x in those.items() if i not in passing]
    fresh = any(h.place is None and not backend_of[type(h.array)].mutable for h in lifted.graph.held.values())
    return Known([ref(x) for x in those.values()], lasting, generators, fresh, found)


def _explained(error: BaseException, raw: bool) -> BaseException:
    """Return the error to raise for one that came of NumPy's attempt at an array from outside; others as they are.

    raw: whether there are any.
    """
    text = str(error)
    written = raw and isinstance(error, ValueError) and ("read-only" in text or "writable" in text)
    if not written and (not isinstance(error, TypeError) or "Tracer_" not in text):
        return error
    tb, line = error.__traceback__, ""
    while tb is not None:
        file = tb.tb_frame.f_code.co_filename
        if not inside(tb.tb_frame) and "site-packages" not in file and not file.endswith(".pyx"):
            line = f"{os.path.basename(file)}:{tb.tb_lineno}"
        tb = tb.tb_next
    if written:
        return CaptureError(
            f"at {line} a raw array from outside is updated in place, which replay cannot do: keep changing values in "
            "a Tensor, or write to the array outside"
        )
    return CaptureError(
        f"at {line} the values of a raw array are needed, which a compiled function does not know: use the function of "
        "the same name in tapegrad, on tapegrad.asarray(x), or compute it outside"
    )
