"""The reverse walk: from the latest record to the oldest, each passes its cotangent to its parents.

One loop serves two purposes. On raw arrays it is the fast first-order pass. On Tensors the same rules are recorded, and
that tape gives the higher-order derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from heapq import heappop, heappush, heappushpop
from operator import attrgetter
from threading import RLock
from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.coercion import as_tensors, lift_to_level
from tapegrad._engine.dispatch import as_array, backend_of, holds, namespace_of, native_device, outer_record
from tapegrad._engine.dtypes import is_complex
from tapegrad._engine.fusing import fused
from tapegrad._engine.graph_breaks import cut, cuts
from tapegrad._engine.mode import mode, mode_set
from tapegrad._engine.once import once
from tapegrad._engine.primitive import pick
from tapegrad._engine.record import CACHE, LEAF, MARK, OUT, OUTS, RELEASED, STATIC, Operation, Record
from tapegrad._engine.structural_zeros import (
    Marks,
    Support,
    intersection,
    mapped_support,
    masked,
    row_support,
    safe_values,
    summed_support,
    union,
)
from tapegrad._engine.tensor import Hooks, Tensor, check_like, shallow_copy, wrap
from tapegrad.backends import remedy
from tapegrad.typing import ArrayLike

_by_seq = attrgetter("seq")


def collect(roots: Iterable[Record], oldest: int) -> list[Record]:
    """Return records and their ancestors, latest first, without those older than the sequence number `oldest`."""
    seen = {r for r in roots if r.seq <= oldest}
    stack = list(seen)
    order = []
    while stack:
        r = stack.pop()
        order.append(r)
        for p in r.parents:
            if p is not None and p not in seen and p.seq <= oldest:
                seen.add(p)
                stack.append(p)
    order.sort(key=_by_seq)
    return order


class Walk:
    """One reverse pass, with the state that `pull` functions of operations may use.

    Attributes
    ----------
    cotangents : dict of Record to array or Tensor
        The cotangents of the records still to come; at first the seeds.
    queue : list of (int, Record)
        A heap of these records, the latest first.
    owned : set of Record
        The records whose cotangent is a buffer of this walk alone, which may be written to.
    path : collection of Record or None
        The records that get a cotangent; None for all.
    create_graph : bool
        Whether the walk is recorded: cotangents are Tensors then, else raw arrays.
    xp : namespace
        The namespace to compute in.
    fuses : bool
        Whether the library runs the rules of a record as one kernel.
    debug : bool
        Whether cotangents are checked for NaN.
    supports : dict of Record to Support
        The entries of a cotangent that a gradient reaches, unless it reaches all.
    support : Support or None
        The support of the cotangent that a `pull` function is given.
    parts : dict of Record to dict of int to Support
        For records of several results, the supports of some of their cotangents, by number.
    """

    __slots__ = (
        "cotangents",
        "create_graph",
        "debug",
        "fuses",
        "owned",
        "parts",
        "path",
        "queue",
        "support",
        "supports",
        "xp",
    )

    def __init__(
        self,
        seeds: dict[Record, Any],
        path: Collection[Record] | None,
        create_graph: bool,
        supports: dict[Record, Support] | None = None,
    ) -> None:
        self.cotangents = seeds
        self.queue = sorted([(r.seq, r) for r in seeds])  # a heap: the latest record first
        self.owned: set[Record] = set()
        self.supports = supports or {}
        self.support: Support | None = None
        self.parts: dict[Record, dict[int, Support]] = {}
        self.path = path
        self.create_graph = create_graph
        self.debug = mode().debug
        self.xp: Any = bound.tensor_namespace if create_graph else namespace_of[type(next(iter(seeds.values())))]
        self.fuses = not create_graph and backend_of[type(next(iter(seeds.values())))].fuses
        if self.xp.elsewhere is not None:
            self.cotangents = self.xp.by_record(seeds)

    def run(self, retain: bool, stops: Collection[Record] = ()) -> list[tuple[Record, Any]]:
        """Walk the records, latest first; return (record, cotangent) of leaves, retained gradients and stops.

        retain: whether records keep their saved values; stops: records at which the walk ends.

        Where a cotangent is added to one that is there, the loop holds inlined copies of `accumulate`: a call for each
        record would cost more than the addition of small arrays.
        """
        cotangents, owned, path, create_graph, queue = (
            self.cotangents,
            self.owned,
            self.path,
            self.create_graph,
            self.queue,
        )
        supports = self.supports
        pop, get, own = cotangents.pop, cotangents.get, owned.add
        xp, debug = self.xp, self.debug
        kind = type(cotangents[queue[0][1]])
        last: Any = None  # the dtype of the record before
        apart = False  # whether rules that read arrays go through `apply`
        unlinks = cuts.get() is None  # an open transform still needs the parents of a released record
        found = []
        later: Any = None  # the newest entry, kept out of the heap: most often it is the next record
        try:
            while queue or later is not None:
                if later is None:
                    r = heappop(queue)[1]
                else:
                    r = heappushpop(queue, later)[1]
                    later = None
                t = pop(r)
                if r.tensor is not None:
                    owned.discard(r)  # it is somebody's .grad now
                    if isinstance(r.tensor, Hooks):
                        t = r.tensor.run(t, create_graph)
                    found.append((r, t))
                    if r.op is LEAF:
                        continue
                if stops and r in stops:
                    if r.tensor is None:
                        found.append((r, t))
                    continue
                parents = r.parents  # read first: another thread that releases the tape clears the parents last
                raw = r.saved
                saved: Sequence[Any] = raw
                if raw is RELEASED:
                    raise second_backward(r)
                if type(t) is not kind and type(t) is not list:
                    kind = type(t)  # the other side of a to_device
                    xp = self.xp = namespace_of[kind]
                    self.fuses = not create_graph and backend_of[kind].fuses
                    last = None
                if create_graph:
                    saved = as_tensors_of(r)
                op = r.op
                if r.dtype is not last:
                    last = r.dtype
                    apart = self.fuses or is_complex(last)
                support = supports.pop(r, None) if supports else None
                if support is not None or (apart and op.reads):
                    self.apply(r, parents, t, saved, raw, support)
                elif op.unary:
                    p: Any = parents[0]
                    vjp = op.vjps[0]
                    rule, n, where = vjp
                    s = rule(xp, t, saved[where]) if n == 1 else call(vjp, xp, t, saved)
                    old = get(p)
                    if old is None:
                        cotangents[p] = s
                        if later is not None:
                            heappush(queue, later)
                        later = (p.seq, p)
                    else:
                        self.accumulate(p, s)
                elif op.plain:
                    shape = r.shape
                    dtype = r.dtype
                    for p, vjp in zip(parents, op.vjps):  # noqa: B905 (same length, and this is the hot loop)
                        if p is None or (path is not None and p not in path):
                            continue
                        rule, n, where = vjp
                        if n == 1:
                            s = rule(xp, t, saved[where])
                        elif n == -1:
                            s = t
                        else:
                            s = call(vjp, xp, t, saved)
                        if p.shape != shape or p.dtype is not dtype:
                            s = self.fit(s, p, r, t)
                        old = get(p)
                        if old is None:
                            cotangents[p] = s
                            if later is not None:
                                heappush(queue, later)
                            later = (p.seq, p)
                        elif p in supports:
                            self.accumulate(p, s)
                        elif p in owned:
                            old += s
                            cotangents[p] = old
                        else:
                            cotangents[p] = old + s
                            own(p)
                elif op.pull is not None:
                    op.pull(self, r, t, saved)
                elif op.joint or (op.leaves_out and _any_carries(parents)):
                    self.apply(r, parents, t, saved, raw, None)
                else:
                    for p, vjp in zip(parents, op.vjps):  # noqa: B905 (as above)
                        if p is None or (path is not None and p not in path):
                            continue
                        rule, n, where = vjp
                        read = (saved[where],) if n == 1 else where(saved) if n > 1 else ()
                        s = rule(xp, t, *read)
                        if create_graph or s.shape != p.shape or s.dtype != p.dtype:
                            s = self.fit(s, p, r, t)
                        if get(p) is None:
                            cotangents[p] = s
                            heappush(queue, (p.seq, p))
                        else:
                            self.accumulate(p, s)
                if debug:
                    self.check(r, t)
                if not retain:
                    r.saved = RELEASED
                    if unlinks:
                        r.parents = ()
        except Exception as error:
            error.add_note(f"in the gradient of {origin(r)}")
            raise
        return found

    def apply(
        self, r: Record, parents: tuple[Record | None, ...], t: Any, saved: Any, raw: Any, support: Support | None
    ) -> None:
        """Pass a cotangent and its support to the parents; the general case, which the loop does not inline.

        raw: the saved values as raw arrays; saved: the same values, as Tensors if cotangents are.

        The adjoint of multiplication by a holomorphic derivative is multiplication by its conjugate. So the rules run
        on the conjugate of the cotangent, and the result is conjugated.
        """
        op, xp = r.op, self.xp
        if type(support) is Marks:
            support.growing = False
        if op.pull is not None:
            self.support = support
            op.pull(self, r, t, saved)
            self.support = None
            return
        path = self.path
        wanted = tuple([p is not None and (path is None or p in path) for p in parents])
        conjugated = op.holomorphic and op.reads and is_complex(r.dtype)
        read = saved
        if support is not None and op.elementwise and op.reads and op.selects is None:
            read = safe_values(xp, support, saved, op.safe)
        if op.joint:
            found = op.vjps[0][0](xp, t, *read)
        elif self.fuses and op.reads and not conjugated:
            found = fused_rules(op, wanted)(xp, t, *read)
        else:
            found = _rules(op, wanted, xp, xp.conj(t) if conjugated else t, read)
        for i, (p, s) in enumerate(zip(parents, found, strict=True)):
            if s is None or not wanted[i]:
                continue
            assert p is not None
            inside = self.operand_support(r, i, p, t, raw, support) if p.op.carries or op.rows is not None else None
            if conjugated:
                s = xp.conj(s)
            if self.create_graph or s.shape != p.shape or s.dtype != p.dtype:
                s = self.fit(s, p, r, t)
            if op.rows is not None and inside is not None:
                entries = inside.array()
                s = s if entries is None else masked(xp, entries, s, 0)
            self.accumulate(p, s, support=inside)

    def operand_support(
        self, r: Record, i: int, p: Record, t: Any, saved: Any, support: Support | None
    ) -> Support | None:
        """Return the support of operand i's cotangent, given that of the record's own cotangent."""
        op = r.op
        if support is None and op.selects is None and op.moves != "some":
            return None
        xp = self.raw_namespace(t)
        if op.selects is not None:
            select = op.selects[i]
            if select is not None:
                support = intersection(xp, support, Support(lambda: call(select, xp, None, saved)))
        elif op.moves:
            return self._moved(xp, r, i, p, t, saved, support)
        elif op.rows is not None:
            assert support is not None
            operands, result = call(op.rows, None, None, saved)
            return row_support(xp, support, result, r.shape, operands, p.shape)
        elif not op.elementwise:
            return None
        return summed_support(xp, support, r.shape, p.shape)

    def _moved(
        self, xp: Any, r: Record, i: int, p: Record, t: Any, saved: Any, support: Support | None
    ) -> Support | None:
        """Return the support through an operation that moves entries: its rule is applied to ones."""
        op = r.op
        if type(t) is not list:

            def of_one(ones: Any) -> Any:
                return op.vjps[0][0](xp, ones, *saved)[i] if op.joint else call(op.vjps[i], xp, ones, saved)

            return mapped_support(xp, self.device(t), of_one, support, r.shape, p.shape)
        insides = self.parts.pop(r, None) or {}  # an operation with several results
        if not insides and all(part is not None for part in t):
            return None
        raw = [part if part is None else _raw_cotangent(part) for part in t]

        def of_list(ones: Any) -> Any:
            parts = [None if part is None else xp.ones_like(part) for part in raw]
            for i, inside in insides.items():
                entries = inside.array()
                if entries is not None:
                    parts[i] = masked(xp, entries, parts[i], 0)
            return call(op.vjps[0], xp, parts, saved)

        return mapped_support(xp, self.device(t), of_list, None, (), p.shape)

    def raw_namespace(self, t: Any) -> Any:
        """Return the namespace of the raw arrays of cotangents."""
        return namespace_of[type(_raw_cotangent(t))] if self.create_graph else self.xp

    def device(self, t: Any) -> Any:
        """Return the native device of a cotangent."""
        return native_device(_raw_cotangent(t))

    def check(self, r: Record, t: Any) -> None:
        """Raise FloatingPointError if a parent's cotangent holds a NaN and the record's own does not."""
        if not has_nan(t):
            for p in r.parents:
                if p is not None:
                    refuse_nan(r, t, self.cotangents.get(p), "gradient")

    def wants(self, p: Record | None) -> bool:
        """Return whether a parent needs a cotangent."""
        return p is not None and (self.path is None or p in self.path)

    def set_cotangent(self, p: Record, t: Any) -> None:
        """Set a parent's cotangent."""
        if p not in self.cotangents:
            heappush(self.queue, (p.seq, p))
        self.cotangents[p] = t

    def accumulate(self, p: Record, s: Any, owned: bool = False, support: Support | None = None) -> None:
        """Add a fitted cotangent to a parent's; owned: whether nobody else holds its buffer."""
        old = self.cotangents.get(p)
        if old is None:
            self.set_cotangent(p, s)
            if owned:
                self.owned.add(p)
            if support is not None and p.op.carries:
                self.supports[p] = support
            return
        if p in self.supports:
            self._join(p, support)
        if p in self.owned:
            old += s
            self.cotangents[p] = old
        else:
            self.cotangents[p] = old + s
            self.owned.add(p)

    def _join(self, p: Record, support: Support | None) -> None:
        """Unite the support of an added cotangent with that of the parent's cotangent."""
        known = union(self.raw_namespace(self.cotangents[p]), self.supports.pop(p), support)
        if known is not None:
            self.supports[p] = known

    def accumulator(self, p: Record, like: Any, batch_ndim: int, key: Any = None) -> Any:
        """Return a parent's cotangent as a buffer that may be written to; zeros if there is none yet.

        like: a cotangent on the same device; batch_ndim: the number of its batch axes; key: the index to write at,
        without these axes.
        """
        t = self.cotangents.get(p)
        if key is not None and p.op.carries:
            known = self.supports.get(p)
            if type(known) is Marks and known.growing and self.support is None:
                known.keys.append(key)
            elif t is None or known is not None:
                self._note_read(p, key, like, batch_ndim)
        elif self.supports:
            self.supports.pop(p, None)
        if t is None:
            shape = tuple(like.shape[:batch_ndim]) + tuple(p.shape)
            t = self.xp.zeros(shape, dtype=like.dtype, device=native_device(like))
        elif p not in self.owned:
            t = self.copy(t)
        elif not self.create_graph and p.shape == ():
            t = as_array(t)
        self.owned.add(p)
        return t

    def _note_read(self, p: Record, key: Any, t: Any, batch_ndim: int) -> None:
        """Record in the support that a cotangent is added to a parent's at a key; batch_ndim: its batch axes."""
        xp, device = self.raw_namespace(t), self.device(t)
        here: Support = Marks(xp, device, p.shape, key, True)
        if self.support is not None:

            def placed(ones: Any) -> Any:
                return xp.index_add(xp.zeros(tuple(p.shape), dtype=xp.float32, device=device), key, ones)

            here = mapped_support(xp, device, placed, self.support, tuple(t.shape[batch_ndim:]), p.shape)
        known = self.supports.get(p)
        support = here if known is None else union(xp, known, here)
        assert support is not None
        self.supports[p] = support

    def support_outside(self, r: Record, key: Any, t: Any) -> Support:
        """Return the support of a record's cotangent without the entries at a key."""
        if type(self.support) is Marks and not self.support.inside:
            return self.support.add(key)
        here = Marks(self.raw_namespace(t), self.device(t), r.shape, key, False)
        support = intersection(self.raw_namespace(t), self.support, here)
        assert support is not None
        return support

    def support_at(self, r: Record, key: Any, t: Any) -> Support | None:
        """Return the support of the entries at a key of a record's cotangent."""
        support, xp = self.support, self.raw_namespace(t)
        if support is None:
            return None

        def make() -> Any:
            entries = support.array()
            return entries if entries is None else xp.index_get(xp.broadcast_to(entries, tuple(r.shape)), key)

        return Support(make, support)

    def copy(self, t: Any) -> Any:
        """Return a copy of a cotangent in a buffer of its own."""
        return self.xp.positive(t) if self.create_graph else backend_of[type(t)].copy(t)

    def fit(self, s: Any, p: Record, r: Record, t: Any) -> Any:
        """Fit a rule's result to the parent: sum over broadcast axes, then cast to the parent's dtype.

        s: the result of a rule of record `r` on its cotangent `t`, for parent `p`.
        """
        xp, shape = self.xp, tuple(p.shape)
        batch_ndim = len(t.shape) - len(r.shape) if type(t) is not list else len(s.shape) - len(shape)
        got = tuple(s.shape)
        if got[batch_ndim:] != shape:
            extra = len(got) - batch_ndim - len(shape)
            if extra > 0:
                s = xp.sum(s, axis=tuple(range(batch_ndim, batch_ndim + extra)))
                got = got[:batch_ndim] + got[batch_ndim + extra :]
            if got[batch_ndim:] != shape:
                axes = tuple([batch_ndim + i for i, n in enumerate(shape) if n == 1 and got[batch_ndim + i] != 1])
                if axes:
                    s = xp.sum(s, axis=axes, keepdims=True)
            if not r.op.broadcasts or tuple(s.shape)[batch_ndim:] != shape:
                raise AssertionError(f"the rule of {r.op.name} gave shape {got} for an operand of {shape}")
        dtype = s._array.dtype if self.create_graph else s.dtype
        if dtype != p.dtype:
            if is_complex(dtype) and not is_complex(p.dtype):
                s = xp.real(s)  # a real operand gets the real part of a complex cotangent
                if (s._array.dtype if self.create_graph else s.dtype) == p.dtype:
                    return s
            s = xp.astype(s, p.dtype)
        return s


def walked(walk: Walk, retain: bool, stops: Collection[Record] = ()) -> list[tuple[Record, Any]]:
    """Run a walk whose rules compute on the device of each cotangent; the current device stays as it is."""
    elsewhere = walk.xp.elsewhere
    try:
        return walk.run(retain, stops) if elsewhere is None else elsewhere(walk.run, retain, stops)
    except Exception as error:
        advice = remedy(error)
        if advice:
            error.add_note(advice)
        raise


def pulled(
    ys: Sequence[Any],
    cotangents: Iterable[Any],
    create_graph: bool,
    *,
    retain: bool,
    path: Collection[Record] | None = None,
    stops: Collection[Record] = (),
    supports: dict[int, Support] | None = None,
) -> dict[Record, Any]:
    """Walk from some Tensors and return the cotangents of the records that the walk reports.

    cotangents: the cotangents of the Tensors, as Tensors, or None; create_graph: whether the walk is recorded; path,
    retain and stops: see `Walk` and its `run`; supports: the supports of some cotangents, by number.
    """
    seeds = seeds_of(ys, [t if create_graph or t is None else t._array for t in cotangents], path)
    if not seeds:
        return {}
    return dict(walked(Walk(seeds, path, create_graph, supports_of(ys, supports) if supports else None), retain, stops))


def seeds_of(ys: Iterable[Any], cotangents: Iterable[Any], path: Collection[Record] | None = None) -> dict[Record, Any]:
    """Return the cotangents of Tensors by record, summed where two Tensors have the same record.

    Tensors that have no record, no cotangent, or a record outside of `path` (None for all) are left out.
    """
    seeds: dict[Record, Any] = {}
    for y, t in zip(ys, cotangents, strict=True):
        r = y._record if isinstance(y, Tensor) else None
        if r is not None and t is not None and (path is None or r in path):
            seeds[r] = _total(seeds[r], t) if r in seeds else t
    return seeds


def _any_carries(parents: Sequence[Record | None]) -> bool:
    """Return whether a support is of use to any of these records."""
    return any([p is not None and p.op.carries for p in parents])


def supports_of(ys: Sequence[Any], insides: dict[int, Support]) -> dict[Record, Support]:
    """Return the supports of the cotangents of Tensors by record, given some by number; see `seeds_of`."""
    records = [y._record if isinstance(y, Tensor) else None for y in ys]
    named = {i: r for i in insides if (r := records[i]) is not None and records.count(r) == 1 and r.op.carries}
    return {r: insides[i] for i, r in named.items()}


def _total(a: Any, b: Any) -> Any:
    """Return the sum of two cotangents outside of a walk, where an operator may run on the wrong device."""
    return a + b if type(a) is Tensor else namespace_of[type(a)].add(a, b)


def call(vjp: Any, xp: Any, t: Any, saved: Any) -> Any:
    """Apply a bound rule to a cotangent and the saved values of a record."""
    rule, n, where = vjp
    if n < 1:
        return rule(xp, t)
    return rule(xp, t, saved[where]) if n == 1 else rule(xp, t, *where(saved))


def _rules(op: Operation, wanted: tuple[bool, ...], xp: Any, t: Any, saved: Any) -> tuple[Any, ...]:
    """Apply the rules of an operation; return a cotangent for each operand that wants one, else None."""
    return tuple([call(vjp, xp, t, saved) if want else None for vjp, want in zip(op.vjps, wanted, strict=True)])


@once
def fused_rules(op: Operation, wanted: tuple[bool, ...]) -> Callable[..., tuple[Any, ...]]:
    """Return the rules of an operation as one fused function of namespace, cotangent and saved values."""
    return fused(f"{op.name}_vjp", lambda xp, t, *saved: _rules(op, wanted, xp, t, saved))


def as_tensors_of(r: Record) -> list[Any]:
    """Return the saved values of a record, with arrays as Tensors that are linked to the tape again.

    A saved Tensor would make a reference cycle (`out`). A Tensor without its record would lose derivatives.
    """
    return [_as_tensor(v, source, r) for v, source in zip(r.saved, r.op.sources, strict=True)]


def _as_tensor(v: Any, source: int, r: Record) -> Any:
    if source == OUTS:
        return tuple([wrap(out, pick(r, i, out)) for i, out in enumerate(v)])
    if source == CACHE:
        return None
    if source == STATIC or not hasattr(v, "shape"):
        return v
    return wrap(v, r if source == OUT else r.parents[source])


def origin(r: Record) -> str:
    """Return the operation of a record and, if known, the user's line, for messages."""
    line = getattr(r, "line", None)
    return f"{r.op.name}, recorded at {line}" if line else f"{r.op.name} (use tapegrad.debug() to see its line)"


def _raw_cotangent(t: Any) -> Any:
    """Return a cotangent, or the first one of several results, as a raw array."""
    if type(t) is list:
        t = next(part for part in t if part is not None)
    return t._array if type(t) is Tensor else t


def has_nan(t: Any) -> bool:
    """Return whether a cotangent or tangent holds a NaN; False for None and for the list of several results."""
    if t is None or type(t) is list:
        return False
    raw = _raw_cotangent(t)
    xp = namespace_of[type(raw)]
    return holds(xp.any(xp.isnan(raw)))


def refuse_nan(r: Record, t: Any, s: Any, what: str) -> None:
    """Raise FloatingPointError if `s`, the result of a record's rule on `t`, holds a NaN.

    what: "gradient" or "tangent".
    """
    if not has_nan(s):
        return
    message = f"a NaN came up in the {what} of {origin(r)}"
    t, s = [v if v is None or type(v) is list else as_array(_raw_cotangent(v)) for v in (t, s)]
    xp = namespace_of[type(s)]
    if type(t) is type(s) and t.shape == s.shape and holds(xp.any(xp.isnan(s) & ((t == 0) | xp.isinf(t)))):
        message += (
            ": 0 times infinity. If no gradient is to flow there, leave these elements out by tapegrad.where or an "
            "index; else write the function so that its slope is finite"
        )
    raise FloatingPointError(message)


def second_backward(r: Record) -> RuntimeError:
    """Return the error for a record that an earlier backward pass released."""
    return RuntimeError(
        f"backward: the tape was released by an earlier backward pass (at operation {r.op.name}): pass "
        "retain_graph=True to the earlier one, or run the forward pass again"
    )


def backward(
    x: Tensor, gradient: ArrayLike | None = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add the gradient of this Tensor to `.grad` of every leaf it was computed from.

    No `.grad` is touched unless the whole walk succeeds.

    Parameters
    ----------
    x : Tensor
        The Tensor.
    gradient : ArrayLike or None, default None
        The cotangent to start from, of this Tensor's shape, dtype and device; 1 for None, if the Tensor has one
        element.
    retain_graph : bool, default False
        Whether to keep the tape, so that it can be walked again.
    create_graph : bool, default False
        Whether to record the walk itself, for higher derivatives; it keeps the tape too.

    Raises
    ------
    RuntimeError
        The Tensor is not recorded, its tape was released, or it needs a gradient to start from: it has several
        elements or is complex.
    ValueError
        The gradient has another shape.
    TypeError
        The gradient has another dtype or device.

    Examples
    --------
    >>> import tapegrad as tg
    >>> x = tg.tensor([1.0, 2.0], requires_grad=True)
    >>> tg.sum(x * x).backward()
    >>> x.grad
    Tensor([2., 4.])
    """
    root = x._record
    if root is None:
        raise RuntimeError(
            "backward: this Tensor has no record. Either nothing it was computed from has requires_grad=True, or "
            "the chain was cut by detach(), no_grad(), item(), a conversion, or an operation without a derivative"
        )
    if gradient is None:
        a = x._array
        if a.shape != () and x.size != 1:
            raise RuntimeError(
                f"backward: a Tensor of shape {x.shape} is not a scalar: reduce it first, as in tapegrad.sum(x), "
                "or pass gradient="
            )
        if is_complex(a.dtype):
            raise RuntimeError(
                "backward: a complex Tensor has no one gradient: take its real part first, as in tapegrad.real(x), or "
                "pass gradient="
            )
        gradient = wrap(namespace_of[type(a)].ones(a.shape, dtype=a.dtype, device=native_device(a)))
    else:
        gradient = lift_to_level(gradient if isinstance(gradient, Tensor) else as_tensors("backward", x, gradient)[1])
        check_like("backward: the gradient", gradient, x.shape, x._array)
    if outer_record(x._array) is not None:
        raise RuntimeError(
            "backward: inside vmap, this Tensor is recorded outside as well, where .grad is not filled: call backward "
            "on the result of vmap, or use tapegrad.grad inside"
        )
    watch = mode().watch
    if watch is not None:
        watch(MARK, (x, gradient), (retain_graph, create_graph), ())
    if not create_graph:
        cut("backward() without create_graph=True", root)  # whoever computes with `.grad` gets constants
        _accumulate(walked(Walk({root: gradient._array}, None, False), retain_graph), _raw_total)
        return
    with mode_set(recording=True):
        _accumulate(walked(Walk({root: gradient}, None, True), True), _recorded_total)


_setting = RLock()


def _accumulate(found: list[tuple[Record, Any]], total: Callable[[Tensor | None, Any], Tensor]) -> None:
    """Add cotangents to the `.grad` of their Tensors; no `.grad` changes unless all can.

    Other threads may do the same. The sums are computed without the lock. If a `.grad` has changed meanwhile, they are
    computed again with the lock held.
    """
    if not _added(found, total):
        with _setting:
            while not _added(found, total):
                pass


def _added(found: list[tuple[Record, Any]], total: Callable[[Tensor | None, Any], Tensor]) -> bool:
    """Try to add as `_accumulate` does; return False if another thread has set a `.grad` meanwhile."""
    sums = []
    for r, t in found:
        leaf = r.tensor()  # type: ignore[misc]
        if leaf is not None:
            old = leaf.grad
            sums.append((leaf, old, total(old, t)))
    with _setting:
        for leaf, old, _ in sums:
            if old is not (leaf._grad if old is not None else leaf.grad):
                return False
        for leaf, _, new in sums:
            leaf._grad = new
    return True


def _raw_total(old: Tensor | None, t: Any) -> Tensor:
    return wrap(as_array(t if old is None else _total(old._array, t)))


def _recorded_total(old: Tensor | None, t: Tensor) -> Tensor:
    return shallow_copy(t) if old is None else old + t
