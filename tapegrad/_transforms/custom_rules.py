"""Custom rules: calls that are one record, whose rule replaces the records inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from tapegrad._engine.backward import pulled
from tapegrad._engine.coercion import as_tensor, lift_to_level, placed
from tapegrad._engine.dispatch import detached_array, namespace_of, on_level, outer_record
from tapegrad._engine.levels import mapping
from tapegrad._engine.mode import mode, mode_set, notify_use
from tapegrad._engine.once import once
from tapegrad._engine.primitive import pick, record_several
from tapegrad._engine.record import STATIC, Operation, Record
from tapegrad._engine.structural_zeros import Support
from tapegrad._engine.tensor import Tensor, shallow_copy, wrap
from tapegrad._engine.tree import Rebuild, flatten
from tapegrad._transforms.derived import Derived
from tapegrad._transforms.reverse import between, check_function, like, linked
from tapegrad._vmap.transform import vmap
from tapegrad.ops.reductions import sum
from tapegrad.ops.shaping import broadcast_to, stack

Axes = tuple[int | None, ...]


class SavedCall:
    """The saved value of a call's record.

    Attributes
    ----------
    inputs, outs : sequence of array
        The raw inputs and results.
    parents : tuple of Record or None
        The records of the inputs, then those of other Tensors that get a cotangent.
    rule : callable
        `rule(inputs, outs, cotangents, supports)` on Tensors, which returns a cotangent or None for each parent.
        `supports` maps the numbers of some cotangents to their supports.
    push : callable or None
        `push(inputs, tangents)`, which returns the tangents of the results; None if the rule is to be transposed.
    whole : Record or None
        The call's record, if the rule runs for a stand-in of it.
    """

    __slots__ = ("inputs", "outs", "parents", "push", "rule", "whole")

    def __init__(
        self,
        inputs: Sequence[Any],
        outs: Sequence[Any],
        parents: tuple[Record | None, ...],
        rule: Callable[..., Sequence[Any]],
        push: Callable[..., Sequence[Any]] | None = None,
        whole: Record | None = None,
    ) -> None:
        self.whole = whole
        self.inputs, self.outs, self.parents, self.rule, self.push = inputs, outs, parents, rule, push

    def of(self, whole: Record) -> SavedCall:
        """Return a copy for a record that stands in for `whole`."""
        return SavedCall(self.inputs, self.outs, self.parents, self.rule, self.push, whole)

    def tied(self, create_graph: bool) -> list[Tensor]:
        """Return the inputs as Tensors, linked to the tape or constant."""
        return [wrap(a, p if create_graph else None) for a, p in zip(self.inputs, self.parents, strict=False)]


def _pull(walk: Any, r: Record, ts: Any, saved: tuple[SavedCall]) -> None:
    (call,) = saved
    create_graph = walk.create_graph
    batch_ndim = next(len(t.shape) - len(a.shape) for t, a in zip(ts, call.outs, strict=True) if t is not None)
    with mode_set(recording=create_graph):
        whole = call.whole or r
        outs = [wrap(a, pick(whole, i, a) if create_graph else None) for i, a in enumerate(call.outs)]
        cotangents = [None if t is None else t if create_graph else wrap(t) for t in ts]
        results = _one_by_one(call, call.tied(create_graph), outs, cotangents, walk.parts.pop(r, {}), batch_ndim)
    for p, s in zip(r.parents, results, strict=True):
        if p is not None and s is not None and walk.wants(p):
            walk.accumulate(p, walk.fit(s if create_graph else s._array, p, r, ts))


def _one_by_one(
    call: SavedCall,
    tied: list[Tensor],
    outs: list[Tensor],
    ts: list[Any],
    supports: dict[int, Support],
    batch_ndim: int,
) -> list[Any]:
    """Apply the rule to cotangents; it runs once for each index of the batch axes."""
    if batch_ndim == 0:
        full = [_cotangent(t, a, True) for t, a in zip(ts, call.outs, strict=True)]
        return list(call.rule(tied, outs, full, supports))
    n = next(t.shape[0] for t in ts if t is not None)
    parts = [
        _one_by_one(call, tied, outs, [None if t is None else t[i, ...] for t in ts], supports, batch_ndim - 1)
        for i in range(n)
    ]
    if n == 0:
        return [None] * len(call.parents)
    columns = [[s for s in column if s is not None] for column in zip(*parts, strict=True)]
    return [stack(column) if len(column) == n > 0 else None for column in columns]


def _cotangent(t: Any, a: Any, create_graph: bool) -> Tensor:
    if t is None:
        return wrap(namespace_of[type(a)].zeros_like(a))
    return t if create_graph else wrap(t)


def _push(r: Record, tangents: dict[Record, Any], create_graph: bool) -> Any:
    """Return the list of the results' tangents, or None if the rule is to be transposed."""
    call: SavedCall = r.saved[0]
    if call.push is None:
        return None
    with mode_set(recording=create_graph):
        given = [None if p is None else tangents.get(p) for p in r.parents]
        if all(t is None for t in given):
            return None
        batch_ndim = next(len(t.shape) - len(a.shape) for t, a in zip(given, call.inputs, strict=True) if t is not None)
        outs = _pushed(
            call, call.tied(create_graph), [t if create_graph or t is None else wrap(t) for t in given], batch_ndim
        )
    return [t if create_graph else t._array for t in outs]


def _pushed(call: SavedCall, tied: list[Tensor], ts: list[Any], batch_ndim: int) -> list[Tensor]:
    """Return the tangents of the results; `push` runs once for each index of the batch axes."""
    assert call.push is not None
    if batch_ndim == 0:
        return list(call.push(tied, [_cotangent(t, a, True) for t, a in zip(ts, call.inputs, strict=True)]))
    n = next(t.shape[0] for t in ts if t is not None)
    parts = [_pushed(call, tied, [None if t is None else t[i, ...] for t in ts], batch_ndim - 1) for i in range(n)]
    if n == 0:
        shape = next(t.shape[:batch_ndim] for t in ts if t is not None)
        return [broadcast_to(wrap(namespace_of[type(a)].zeros_like(a)), (*shape, *a.shape)) for a in call.outs]
    return [stack(list(column)) for column in zip(*parts, strict=True)]


@once
def _operation(name: str) -> Operation:
    return Operation(name, (), ("call",), (STATIC,), pull=_pull, push=_push)


def recorded(name: str, call: SavedCall) -> list[Tensor]:
    """Return the results of a call as Tensors, recorded as one operation if there is a parent and recording is on."""
    ys = [wrap(a) for a in call.outs]
    m = mode()
    if m.recording and any(p is not None for p in call.parents):
        record_several(_operation(name), call.parents, (call,), call.outs[0], ys)
    if m.watch is not None:
        m.watch(_operation(name), tuple(wrap(a, p) for a, p in zip(call.inputs, call.parents, strict=False)), (), ys[0])
    return ys


def constant_of(x: Tensor) -> Tensor:
    """Return a constant Tensor of the same value."""
    return wrap(detached_array(x._array))


def isolated(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `f` with copies of its Tensors, so that in-place updates stay inside."""

    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, rebuild = flatten([args, kwargs])
        if any(isinstance(x, Tensor) for x in leaves):
            args, kwargs = rebuild([shallow_copy(x) if isinstance(x, Tensor) else x for x in leaves])
        return f(*args, **kwargs)

    call.__name__ = getattr(f, "__name__", "the function")
    return call


def inputs_of(args: Sequence[Any]) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], list[Any]]]:
    """Return the Tensors among the leaves of arguments, and a function that puts others in their places."""
    leaves, rebuild = flatten(list(args))
    where = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
    for i in where:
        notify_use(leaves[i])
        leaves[i] = lift_to_level(leaves[i])

    def put(new: Sequence[Tensor]) -> list[Any]:
        out = list(leaves)
        for i, x in zip(where, new, strict=True):
            out[i] = x
        return rebuild(out)  # type: ignore[no-any-return]

    return [leaves[i] for i in where], put


def outputs_of(what: str, y: Any, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Rebuild]:
    """Return the leaves of a result as Tensors on the inputs' device; raise TypeError if one cannot be a Tensor."""
    leaves, rebuild = flatten(y)
    if not leaves:
        raise TypeError(f"{what}: it must return at least one Tensor")
    if not inputs:
        return [as_tensor(x) for x in leaves], rebuild
    return [placed(what, x, inputs[0]._array) for x in leaves], rebuild


def no_captures(what: str, *trees: Any) -> None:
    """Raise if a value computed from detached inputs is recorded: it depends on a Tensor from outside."""
    if any(isinstance(x, Tensor) and (x._record or outer_record(x._array)) is not None for x in flatten(trees)[0]):
        raise TypeError(
            f"{what} uses a Tensor from outside that requires a gradient, which its rule would lose: pass it as an "
            "argument, or x.detach()"
        )


def call_outside(
    f: Callable[..., Any], inputs: Sequence[Tensor], put: Callable[..., list[Any]], mapped: Callable[[Axes], Any]
) -> tuple[list[Tensor], Rebuild]:
    """Call a function with a custom rule outside of the running vmap, where its inputs are recorded, on all examples.

    mapped: returns the function with its rule, both mapped over axes of the inputs.
    """
    level = mapping.get()
    assert level is not None
    axes = tuple([0 if x._array.mapped else None for x in inputs])
    with on_level(level.outer):
        wholes = [x._array.whole for x in inputs]
        ys, rebuild = flatten(mapped(axes)(*wholes) if 0 in axes else f(*put(wholes)))
    return [wrap(level.array(y, 0 in axes)) for y in ys], rebuild


def only_positional(what: str, kwargs: dict[str, Any]) -> None:
    """Raise TypeError for keyword arguments, which rules do not take."""
    if kwargs:
        given = ", ".join(f"{name}=" for name in kwargs)
        raise TypeError(f"{what}: its arguments are positional, as its rule's are: call it without {given}")


class OpenCall(NamedTuple):
    """A call of a function with a rule that is to be recorded.

    Attributes
    ----------
    what : str
        The name of the call, for messages.
    function : callable
        The function, which cannot write to its arguments.
    rules : list of callable
        The parts of its rule, which cannot either.
    inputs, put : list of Tensor, callable
        The Tensors among the arguments, and the arguments with others in their places.
    parents : tuple of Record or None
        The records of the inputs.
    outside : bool
        Whether an input is recorded outside of the vmap that is running.
    """

    what: str
    function: Callable[..., Any]
    rules: list[Callable[..., Any]]
    inputs: list[Tensor]
    put: Callable[..., list[Any]]
    parents: tuple[Record | None, ...]
    outside: bool


class Ruled(Derived):
    """A function with a rule of the user's own: the part that `custom_vjp` and `custom_jvp` share.

    A call that nothing is recorded of calls the function. Any other is one record, which `_one_record` makes.
    """

    how: ClassVar[str]  # the call that gives the rule

    def __init__(self, function: Callable[..., Any]) -> None:
        check_function(type(self).__name__, function)
        self.wrap(function)
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        what = f"{type(self).__name__} of {getattr(self.function, '__name__', 'the function')}"
        only_positional(what, kwargs)
        function, *rules = self.recipe()
        if None in rules:
            raise TypeError(f"{what}: give its rule first, with {self.how}")
        function, *rules = map(isolated, (function, *rules))
        inputs, put = inputs_of(args)
        parents = tuple(x._record for x in inputs)
        recording = mode().recording
        outside = recording and any(outer_record(x._array) is not None for x in inputs)
        if not outside and not (recording and any(p is not None for p in parents)):
            return function(*args)
        return self._one_record(OpenCall(what, function, rules, inputs, put, parents, outside), args)

    def _one_record(self, call: OpenCall, args: tuple[Any, ...]) -> Any:
        """Return the result of a call, recorded as one operation."""
        raise NotImplementedError


class custom_vjp(Ruled):
    """A function with a rule of the user's own for reverse mode, in place of the derivatives of the operations inside.

    Decorate the function, then give the rule with `defvjp`. Arguments are positional. It is differentiated again
    through the operations of the rule, and pushed forward by transposing `backward`. Check a rule with
    `tapegrad.testing.gradcheck`. A call raises TypeError if the function uses a Tensor from outside that requires a
    gradient, or if no rule was given; ValueError if the rule gives another number of cotangents, or of other shapes.

    Parameters
    ----------
    function : callable
        The function.
    *rule : callable or None
        The two functions of `defvjp`, where they are given at once.

    Examples
    --------
    >>> import tapegrad as tg
    >>> @tg.custom_vjp
    ... def log1pexp(x):
    ...     return tg.log(1.0 + tg.exp(x))
    >>> log1pexp.defvjp(
    ...     lambda x: (log1pexp.function(x), x),
    ...     lambda x, t: (t * (1.0 - 1.0 / (1.0 + tg.exp(x))),),
    ... )
    >>> float(tg.grad(log1pexp)(100.0))
    1.0
    """

    how = "defvjp(forward, backward)"

    def __init__(self, function: Callable[..., Any], *rule: Callable[..., Any] | None) -> None:
        super().__init__(function)
        self.forward, self.backward = rule or (None, None)

    def recipe(self) -> tuple[Any, ...]:
        """Return the function and its rule, as `copy` and `pickle` keep them."""
        return self.function, self.forward, self.backward

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Give the rule.

        Parameters
        ----------
        forward : callable
            `forward(*args)` returns (result, residuals).
        backward : callable
            `backward(residuals, cotangent)` returns a tuple with a cotangent for each argument: None for one that gets
            none, containers for containers. A method's first argument is its object, which gets None.

        Examples
        --------
        >>> import tapegrad as tg
        >>> @tg.custom_vjp
        ... def doubled(x):
        ...     return x * 2.0
        >>> doubled.defvjp(lambda x: (x * 2.0, None), lambda residuals, t: (t * 10.0,))
        >>> float(tg.grad(doubled)(3.0))
        10.0
        """
        self.forward, self.backward = forward, backward

    def _one_record(self, call: OpenCall, args: tuple[Any, ...]) -> Any:
        """Return the result of a call, recorded as one operation."""
        what, function, (forward, backward), inputs, put, parents, outside = call

        def cotangents_of(kept: Any, t: Any) -> list[Any]:
            given = backward(kept, t)
            if not isinstance(given, tuple) or len(given) != len(args):
                raise ValueError(f"{what}: its rule must return a tuple of {len(args)} cotangents, one an argument")
            cotangents: list[Any] = []
            for s, a in zip(given, args, strict=True):
                models = [x for x in flatten(a)[0] if isinstance(x, Tensor)]
                cotangents += [None] * len(models) if s is None else like(f"{what}: a cotangent", s, models)
            return cotangents

        def mapped(axes: Axes) -> custom_vjp:
            """Return the function with its rule, both mapped over examples."""

            def pull(t: Any, *xs: Tensor) -> list[Tensor]:
                found = cotangents_of(forward(*put(xs))[1], t)
                return [_cotangent(s, x._array, True) for s, x in zip(found, xs, strict=True)]

            def of_all(xs: tuple[Tensor, ...], t: Any) -> tuple[Tensor, ...]:
                found = vmap(pull, (0, *axes))(t, *xs)
                return tuple([sum(s, axis=0) if axis is None else s for s, axis in zip(found, axes, strict=True)])

            whole = custom_vjp(vmap(lambda *xs: function(*put(xs)), axes))
            whole.defvjp(lambda *xs: (whole.function(*xs), xs), of_all)
            return whole

        residuals = None  # not known if the call is recorded outside of a vmap
        if outside:
            outs, rebuild = call_outside(self, inputs, put, mapped)
        else:
            y, residuals = forward(*put([constant_of(x) for x in inputs]))
            no_captures(what, y, residuals)
            outs, rebuild = outputs_of(what, y, inputs)

        def rule(tied: list[Tensor], _: list[Tensor], ts: list[Tensor], __: Any) -> list[Any]:
            anew = outside or mode().recording
            return cotangents_of(forward(*put(tied))[1] if anew else residuals, rebuild(list(ts)))

        ys = recorded("custom_vjp", SavedCall([x._array for x in inputs], [y._array for y in outs], parents, rule))
        return rebuild(list(ys))


class custom_jvp(Ruled):
    """A function with a rule of the user's own for forward mode, which reverse mode transposes.

    Decorate the function, then give the rule with `defjvp`. Arguments are positional. A call raises TypeError if no
    rule was given, or the function uses a Tensor from outside that requires a gradient.

    Parameters
    ----------
    function : callable
        The function.
    rule : callable or None, default None
        The function of `defjvp`, where it is given at once.

    Examples
    --------
    >>> import tapegrad as tg
    >>> @tg.custom_jvp
    ... def sign_like(x):
    ...     return tg.sign(x)
    >>> sign_like.defjvp(lambda primals, tangents: (tg.sign(primals[0]), 2.0 * tangents[0]))
    >>> float(tg.grad(sign_like)(3.0))
    2.0
    """

    how = "defjvp(rule)"

    def __init__(self, function: Callable[..., Any], rule: Callable[..., Any] | None = None) -> None:
        super().__init__(function)
        self.rule = rule

    def recipe(self) -> tuple[Any, ...]:
        """Return the function and its rule, as `copy` and `pickle` keep them."""
        return self.function, self.rule

    def defjvp(self, rule: Callable[..., Any]) -> None:
        """Give the rule.

        Parameters
        ----------
        rule : callable
            `rule(primals, tangents)`, of two tuples of the arguments' structure, returns (result, tangent of the
            result), and is linear in the tangents. A method's first argument is its object, in both tuples.

        Examples
        --------
        >>> import tapegrad as tg
        >>> @tg.custom_jvp
        ... def doubled(x):
        ...     return x * 2.0
        >>> doubled.defjvp(lambda primals, tangents: (primals[0] * 2.0, tangents[0] * 10.0))
        >>> float(tg.grad(doubled)(3.0))
        10.0
        """
        self.rule = rule

    def _one_record(self, call: OpenCall, args: tuple[Any, ...]) -> Any:
        """Return the result of a call, recorded as one operation."""
        what, function, (user,), inputs, put, parents, outside = call

        def mapped(axes: Axes) -> custom_jvp:
            """Return the function with its rule, both mapped over examples."""

            def both(*xs: Tensor) -> Any:
                return user(tuple(put(xs[: len(axes)])), tuple(put(xs[len(axes) :])))

            whole = custom_jvp(vmap(lambda *xs: function(*put(xs)), axes))
            whole.defjvp(lambda primals, tangents: vmap(both, (*axes, *axes))(*primals, *tangents))
            return whole

        if outside:
            outs, rebuild = call_outside(self, inputs, put, mapped)
        else:
            y = function(*put([constant_of(x) for x in inputs]))
            no_captures(what, y)
            outs, rebuild = outputs_of(what, y, inputs)

        def push(tied: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
            pair = user(tuple(put(tied)), tuple(put(tangents)))
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise ValueError(f"{what}: its rule must return a pair (result, tangent)")
            return like(f"{what}: the tangent", pair[1], outs)

        def transposed(tied: list[Tensor], _: list[Tensor], ts: list[Tensor], supports: Any) -> list[Any]:
            return transpose(lambda *u: push(tied, list(u)), tied, ts, mode().recording, supports)

        saved = SavedCall([x._array for x in inputs], [y._array for y in outs], parents, transposed, push)
        return rebuild(list(recorded("custom_jvp", saved)))


def transpose(
    f: Callable[..., list[Tensor]],
    models: Sequence[Tensor],
    ts: Sequence[Tensor],
    create_graph: bool,
    supports: dict[int, Support],
) -> list[Tensor | None]:
    """Apply the transpose of a linear function to cotangents of its results.

    f: a function of Tensors like the models; create_graph: whether the result is to be recorded; supports: the
    supports of some cotangents, by number.
    """
    with mode_set(recording=True):
        us = [linked(namespace_of[type(x._array)].ones_like(x._array), None) for x in map(lift_to_level, models)]
        outs = f(*us)
    leaves = {u._record for u in us if u._record is not None}
    path, _ = between([y._record for y in outs], leaves)
    found = pulled(outs, ts, create_graph, retain=create_graph, path=set(path), supports=supports)
    return as_tensors([found.get(u._record) for u in us if u._record is not None], create_graph)


def as_tensors(cotangents: Sequence[Any], create_graph: bool) -> list[Tensor | None]:
    """Return cotangents of a walk as Tensors; None stays None."""
    return [None if s is None else s if create_graph else wrap(s) for s in cotangents]


def stop_gradient(x: Any) -> Any:
    """Return Tensors as constants: the gradient through them is zero, as meant.

    Parameters
    ----------
    x : ArrayLike or tree
        A Tensor, or a container of Tensors.

    Returns
    -------
    Tensor or tree
        The same values, in the same structure.

    Examples
    --------
    >>> import tapegrad as tg
    >>> float(tg.grad(lambda x: x * tg.stop_gradient(x))(3.0))
    3.0
    """
    leaves, rebuild = flatten(x)
    for v in leaves:
        if isinstance(v, Tensor):
            notify_use(v)
    return rebuild([constant_of(v) if isinstance(v, Tensor) else v for v in leaves])
