"""Checkpointing: recomputation of a function's records in place of saving them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from tapegrad._engine.backward import collect, pulled
from tapegrad._engine.counters import counts_put_back, noted_counts
from tapegrad._engine.dispatch import backend_of, detached_array, on_level
from tapegrad._engine.graph_breaks import unnoticed
from tapegrad._engine.levels import capturing, mapping
from tapegrad._engine.mode import mode, mode_set
from tapegrad._engine.record import Record, next_seq
from tapegrad._engine.settings import modes_of_layers, modes_put_back
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import flatten
from tapegrad._transforms.custom_rules import SavedCall, as_tensors, inputs_of, isolated, outputs_of, recorded
from tapegrad._transforms.derived import derived
from tapegrad._transforms.linear_map import differ
from tapegrad._transforms.reverse import check_function, linked
from tapegrad._transforms.typed import P, R, Transformed


@derived
def checkpoint(f: Callable[P, R]) -> Transformed[P, R]:
    """Return `f` so that its records are dropped after the call, and made again when they are needed.

    Between the forward and the backward pass only its arguments and results are kept; in exchange it is computed
    twice. `f` must compute the same again: it has no side effects, and things it uses from outside (parameters, which
    get their gradients) are not changed in between. What it draws from a `tapegrad.random.Generator` is drawn again as
    it was; random numbers of others are drawn outside, and passed in. It may update Tensors that it is given in place:
    the caller's stay as they are. It can be differentiated to any order.

    Parameters
    ----------
    f : callable
        A function of Tensors.

    Returns
    -------
    callable
        A function of the same arguments, which returns the same.

    Raises
    ------
    TypeError
        `f` is no function.
    RuntimeError
        In the backward pass: the second computation gives other values than the first, or reaches other Tensors.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor(2.0, requires_grad=True)
    >>> layer = tg.checkpoint(lambda x: tg.sin(w * x))
    >>> tg.grad(layer)(tg.asarray(0.0)).item()
    2.0
    """
    check_function("checkpoint", f)
    name = getattr(f, "__name__", "the function")
    compute = isolated(f)

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not mode().recording:
            return compute(*args, **kwargs)
        inputs, put = inputs_of(args)
        first, level, modes = next_seq(), mapping.get(), modes_of_layers()
        links = [linked(x._array, x._record) for x in inputs]
        with noted_counts() as counts:
            outs, rebuild = outputs_of(f"checkpoint of {name}", compute(*put(links), **kwargs), inputs)
        if level is not None and any(backend_of[type(y._array)].depth < level.depth for y in outs):
            # A result from outside of the vmap may be differentiated after the vmap ends.
            with counts_put_back(counts), modes_put_back(modes):  # they have gone on already
                return compute(*args, **kwargs)
        outside, inside = _reached(outs, links, first)
        # An input that the results do not depend on is no parent, so that a transform sees the missing dependence.
        parents = (
            *(x._record if link._record in inside else None for x, link in zip(inputs, links, strict=True)),
            *outside,
        )

        def rule(tied: list[Tensor], results: list[Tensor], ts: list[Tensor], supports: Any) -> list[Any]:
            create_graph = mode().recording
            first = next_seq()
            with mode_set(recording=True), on_level(level), unnoticed(), counts_put_back(counts), modes_put_back(modes):
                again = [linked(x._array, x._record) for x in tied]
                ys = flatten(compute(*put(again), **kwargs))[0]
            reached = _reached(ys, again, first)[0]
            if reached != outside:
                raise RuntimeError(f"checkpoint of {name}: computed again, it used other Tensors than the first time")
            _refuse_others(name, results, ys)
            wanted = [x._record for x in again if x._record is not None] + outside
            found = pulled(ys, ts, create_graph, retain=create_graph, stops=set(wanted), supports=supports)
            return list(as_tensors([found.get(r) for r in wanted], create_graph))

        call = SavedCall([x._array for x in inputs], [y._array for y in outs], parents, rule)
        return rebuild(list(recorded("checkpoint", call)))

    return run  # type: ignore[return-value]


def _refuse_others(name: str, results: list[Tensor], again: list[Any]) -> None:
    """Raise RuntimeError unless recomputed results equal those of the first run; a GPU raises at its next wait.

    Rounding may differ, as a GPU may add in any order. A compiled program draws no random numbers and needs no check.
    """
    if capturing.get() is not None:
        return
    pairs = [(x._array, y._array) for x, y in zip(results, again, strict=False) if isinstance(y, Tensor)]
    if len(results) != len(again) or any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in pairs):
        raise _other(name)
    for a, b in pairs:
        if 0 not in a.shape:
            a, b = detached_array(a), detached_array(b)
            backend = backend_of[type(a)]
            backend.refuse(differ(backend.xp, a, b), partial(_other, name))


def _other(name: str) -> RuntimeError:
    return RuntimeError(
        f"checkpoint of {name}: computed again for the gradient, it gave other values than the first time. If it draws "
        "random numbers, draw them from a tapegrad.random.Generator, which is put back for it, or draw them outside; "
        "and do not change values that it uses from outside before the gradient is taken"
    )


def _reached(outs: list[Any], links: list[Tensor], first: int) -> tuple[list[Record], set[Record]]:
    """Return the ancestors of results: the records outside, latest first, and the set of links that are reached.

    outside: recorded before the sequence number `first`, and not reached through a link.
    """
    roots = [y._record for y in outs if isinstance(y, Tensor) and y._record is not None]
    mine = {x._record for x in links if x._record is not None}
    on_the_way = collect(roots, first)
    found = {p for r in on_the_way if r not in mine for p in r.parents if p is not None and p.seq > first}
    found |= {r for r in roots if r.seq > first}
    return sorted(found, key=lambda r: r.seq), mine.intersection(on_the_way)
