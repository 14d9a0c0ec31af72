"""Reverse-mode transforms: `grad`, `value_and_grad` and `vjp`, freely nested.

Four rules make any nesting right, with no levels or tags:

1. Each input of a transform gets a fresh record whose parent is the input's own record.
2. Only records that reach a fresh record are walked.
3. Rules run on Tensors if and only if recording was on at entry and a record outside of the transform can be reached.
4. A transform records inside itself. If recording was off at entry, its result is cut from the tape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any
from weakref import ref

from tapegrad._engine.backward import collect, pulled
from tapegrad._engine.coercion import lift_to_level, placed
from tapegrad._engine.dispatch import (
    backend_of,
    detached_array,
    device_of,
    find_backend,
    namespace_of,
    native_device,
    outer_record,
    untrace,
)
from tapegrad._engine.dtypes import is_complex, isdtype
from tapegrad._engine.graph_breaks import MOST, Cuts, cuts
from tapegrad._engine.host_constants import HOST
from tapegrad._engine.mode import mode, mode_set, notify_use
from tapegrad._engine.record import LEAF, Operation, Record
from tapegrad._engine.rules import bind_rule, identity, record
from tapegrad._engine.tensor import Tensor, check_like, shallow_copy, wrap
from tapegrad._engine.tree import Rebuild, flatten
from tapegrad._transforms.derived import derived
from tapegrad._transforms.linear_map import LinearMap
from tapegrad._transforms.typed import P, Transformed
from tapegrad.ops.conversion import astype, transfer
from tapegrad.ops.creation import asarray, on_device

LINK = Operation("link", (bind_rule(identity, ()),))
Compute = Callable[[bool], list[Tensor]]  # computes derivatives, recorded or not
_later: list[Any] = []  # the function that later.py, on a higher floor, installs


def install_later(function: Callable[[TransformCall, Compute], list[Tensor]]) -> None:
    """Set the function that computes derivatives which can be differentiated again."""
    _later[:] = [function]


class TransformCall:
    """A call of a function with fresh records for the arguments to differentiate by.

    The function gets shallow copies of the inputs, so that it may update its arguments in place. Other arguments are
    passed as they are: the caller sees an in-place update of these, as a constant unless there is an outer tape.

    Attributes
    ----------
    what : str
        The transform and the function, for messages.
    inputs : list of Tensor
        The leaves of the arguments to differentiate by, with records of their own.
    raw : list of bool
        Whether each input came as a raw array or number.
    host : list of bool
        Whether each input came as a NumPy array or number.
    trees : list of (int, callable)
        For each argument the number of its leaves and the function that rebuilds it.
    outputs : list of Tensor
        The leaves of the result.
    rebuild : callable
        The function that rebuilds the result's structure.
    aux : object
        The auxiliary output of the function.
    path : list of Record
        The records between inputs and outputs, latest first.
    has_outer_tape : bool
        Whether a record outside of the call can be reached, so that the result may be differentiated again.
    create_graph : bool
        Whether the derivatives are to be recorded: there is an outer tape, and recording was on at entry.
    """

    def __init__(
        self,
        transform: str,
        f: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        argnums: tuple[int, ...] | None = None,
        has_aux: bool = False,
        may_be_constant: bool = False,
    ) -> None:
        self.what = f"{transform} of {getattr(f, '__name__', 'the function')}"
        self.code = getattr(f, "__code__", None)
        self.may_be_constant = may_be_constant  # whether a result that was cut from the arguments is no fault
        self.was_recording = mode().recording
        self.inputs: list[Tensor] = []
        self.raw: list[bool] = []
        self.host: list[bool] = []
        self.trees: list[tuple[int, Rebuild]] = []
        inputs = list(args)
        chosen = range(len(args)) if argnums is None else argnums
        flat = []
        for i in chosen:
            if not -len(args) <= i < len(args):
                raise TypeError(f"{self.what}: argnums={i} but {len(args)} positional arguments were given")
            if args[i] is None:
                raise TypeError(f"{self.what}: argument {i} is None, which holds nothing to differentiate by")
            flat.append(flatten(args[i]))
        named = {i % len(args) for i in chosen}
        if len(named) < len(chosen):
            raise ValueError(f"{self.what}: argnums={argnums} names an argument twice: name each once")
        others = [*[x for i, x in enumerate(args) if i not in named], *kwargs.values()]
        device = device_for_host([x for leaves, _ in flat for x in leaves], others)
        for i, (leaves, rebuild) in zip(chosen, flat, strict=True):
            new = [self._input(x, device, argnums) for x in leaves]
            self.raw += [type(x) is not Tensor for x in leaves]
            self.host += [is_of_host(x) for x in leaves]
            self.inputs += new
            inputs[i] = rebuild([shallow_copy(x) for x in new])  # an in-place update is to leave ours as they are
            self.trees.append((len(leaves), rebuild))
        self.leaves = {x._record for x in self.inputs if x._record is not None}
        first = max((x._record.seq for x in self.inputs if x._record is not None), default=0)
        given = [(x, x._record) for x in flatten(others)[0] if type(x) is Tensor] if others else []
        noted = Cuts(first, cuts.get())
        token = cuts.set(noted)
        try:
            with mode_set(recording=True):
                y = f(*inputs, **kwargs)
        finally:
            cuts.reset(token)
        self.aux = None
        if has_aux:
            if not isinstance(y, tuple) or len(y) != 2:
                raise TypeError(f"{self.what}: with has_aux=True it must return a pair (result, aux)")
            y, self.aux = y
        ys, self.rebuild = flatten(y)
        self.outputs = [self._output(y) for y in ys]
        self.path, self.has_outer_tape = between([y._record for y in self.outputs], self.leaves)
        if noted.found and (not self.path or noted.outer is not None):
            self._look_at(noted)
        updated = [x for x, r in given if x._record is not r and not x.is_leaf]
        more = [*[x for x in flatten(self.aux)[0] if type(x) is Tensor], *updated]
        self.has_outer_tape = (
            self.has_outer_tape
            or any([outer_record(y._array) is not None for y in self.outputs])
            or self._reaches_out(more, first)
        )
        self.create_graph = self.was_recording and self.has_outer_tape
        for x in updated if not self.create_graph else ():
            x._array, x._record = detached_array(x._array), None

    def _look_at(self, noted: Cuts) -> None:
        """Raise if graph breaks cut the result from all arguments; pass breaks of outer records to the outer transform.

        Breaks of this transform's own records are not passed on: its gradient may be constant, as that of a linear
        function.
        """
        mine = []
        for text, records in noted.found.items():
            if any(between([r], self.leaves)[0] for r in records):
                mine.append(text)
            elif noted.outer is not None:
                for r in records:
                    noted.outer.add(text, r)
        if mine and not self.path and self.outputs and not self.may_be_constant:
            raise RuntimeError(
                f"{self.what}: the result does not depend on the arguments, because the chain was cut by "
                f"{', '.join(mine[:MOST])}: compute with the Tensors themselves, or, if a gradient of zero is meant, "
                "with tapegrad.stop_gradient(x)"
            )

    def _reaches_out(self, tensors: list[Tensor], first: int) -> bool:
        """Return whether other Tensors that the function made may be differentiated outside."""
        records = [x._record for x in tensors if x._record is not None]
        if any([r.seq > first for r in records]) or between(records, self.leaves)[1]:
            return True
        return any([outer_record(x._array) is not None for x in tensors])

    def _input(self, x: Any, device: str | None, argnums: tuple[int, ...] | None) -> Tensor:
        """Return an input as a Tensor with a record of its own, whose parent is the input's record.

        device: for a number, or an array of the host; argnums: as given, None if all arguments are differentiated by.
        """
        out = "leave it out of the differentiated arguments: close over it"
        if argnums is not None:
            out += ", or pass it in an argument outside of argnums"
        if not isinstance(x, Tensor):
            if find_backend(x) is None and not isinstance(x, (float, complex)):
                number = "write it as a float, or " if isinstance(x, int) and not isinstance(x, bool) else ""
                raise TypeError(
                    f"{self.what}: an argument to differentiate by must hold arrays, Tensors or floats, not "
                    f"{type(x).__name__}: {number}{out}"
                )
            x = on_device(x, device)
        if not isdtype(x.dtype, ("real floating", "complex floating")):
            raise TypeError(
                f"{self.what}: an argument to differentiate by has dtype {x.dtype.name}, which is not floating: "
                f"convert it with tapegrad.astype(x, tapegrad.float32), or {out}"
            )
        notify_use(x)
        x = lift_to_level(x)
        return linked(x._array, x._record if self.was_recording else None)

    def _output(self, y: Any) -> Tensor:
        if isinstance(y, Tensor):
            return shallow_copy(y)
        if find_backend(y) is None and not isinstance(y, (int, float, complex)):
            raise TypeError(f"{self.what}: it must return a Tensor or a container of them, not {type(y).__name__}")
        return placed(self.what, y, self.inputs[0]._array) if self.inputs else asarray(y)

    def pull(
        self, cotangents: Sequence[Tensor | None], create_graph: bool, batch_ndim: int = 0, retain: bool = True
    ) -> list[Tensor]:
        """Return the cotangents of the inputs for those of the outputs, which may have extra leading axes."""
        with mode_set(recording=create_graph):
            found = pulled(self.outputs, cotangents, create_graph, retain=retain, path=set(self.path))
        shape = next((t.shape[:batch_ndim] for t in cotangents if t is not None), ())
        return [self._gradient(x, found, create_graph, shape) for x in self.inputs]

    def _gradient(
        self, x: Tensor, found: dict[Record, Any], create_graph: bool, batch_shape: tuple[int, ...]
    ) -> Tensor:
        assert x._record is not None
        g = found.get(x._record)
        if g is None:
            a = x._array
            xp = namespace_of[type(a)]
            if not batch_shape:
                return wrap(xp.zeros_like(a))
            return wrap(xp.zeros((*batch_shape, *a.shape), dtype=a.dtype, device=native_device(a)))
        return shallow_copy(g) if create_graph else wrap(detached_array(backend_of[type(g)].as_array(g)))

    def derivatives(self, compute: Compute, create_graph: bool) -> list[Tensor]:
        """Return derivatives that `compute` gives, recorded if `create_graph` is set."""
        return _later[0](self, compute) if create_graph else compute(False)

    def arguments(self, values: Sequence[Tensor], create_graph: bool) -> list[Any]:
        """Return one Tensor for each input, in the arguments' structure; raw or on the host as the input was."""
        kinds = zip(values, self.raw, self.host, strict=True)
        results = [raw_result(g, is_host) if is_raw and not create_graph else g for g, is_raw, is_host in kinds]
        trees = []
        for n, rebuild in self.trees:
            trees.append(rebuild(results[:n]))
            results = results[n:]
        return trees

    def result(self, values: Sequence[Tensor], create_graph: bool) -> Any:
        """Return one Tensor for each output, in the result's structure; raw if all inputs were raw."""
        cut = [shallow_copy(y) if create_graph else wrap(detached_array(y._array)) for y in values]
        return self.rebuild(
            [raw_result(y, all(self.host)) for y in cut] if all(self.raw) and not create_graph else list(cut)
        )

    def scalar(self) -> Tensor:
        """Return the single output; raise unless it is one real number."""
        if len(self.outputs) != 1:
            found = (
                f"{len(self.outputs)} Tensors" if self.outputs else "None or an empty container: is a `return` missing?"
            )
            raise TypeError(f"{self.what}: it must return one number, not {found}")
        (y,) = self.outputs
        if y.size != 1:
            raise ValueError(
                f"{self.what}: it must return one number, not a Tensor of shape {y.shape}: "
                "reduce it first, as in tapegrad.sum(y)"
            )
        if is_complex(y._array.dtype):
            raise TypeError(f"{self.what}: it must return a real number, as tapegrad.real(y), not a complex one")
        return y

    def auxiliary(self) -> Any:
        """Return the auxiliary output, cut from the tape unless an outer tape may need it."""
        leaves, rebuild = flatten(self.aux)
        cut = [wrap(detached_array(x._array)) if type(x) is Tensor and not self.create_graph else x for x in leaves]
        return rebuild(cut)


@derived
def value_and_grad(
    f: Callable[P, Any], argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False
) -> Transformed[P, tuple[Any, Any]]:
    """Return a function that gives the value of `f` and its gradient.

    Arguments to differentiate by are arrays of any library, Tensors or Python floats, or dicts, lists, tuples and
    dataclasses of them (a field with metadata={"static": True} stays as it is). Tensors in give Tensors out, raw
    arrays and floats give raw arrays.

    Floats and arrays of NumPy are computed with on the device of the Tensors among the arguments; without any, on
    `default_device`, if it was set. They give arrays of NumPy wherever that was.

    `f` may update its arguments in place. Those to differentiate by reach it as Tensors of its own, so that the
    caller's stay as they are. It is given other arguments as they are, and the caller sees its writes to them.

    Parameters
    ----------
    f : callable
        A function that returns a Tensor, or array, of one element.
    argnums : int or tuple of int, default 0
        The argument to differentiate by, counted from 0, or a tuple of them.
    has_aux : bool, default False
        Whether `f` returns (value, anything); so does the value here, then.

    Returns
    -------
    callable
        A function of the arguments of `f`. It returns (value, gradient), where the gradient has the structure, shapes,
        dtypes and devices of the argument, or a tuple of those for a tuple of arguments. It is zero where `f` does
        not depend on.

    Raises
    ------
    TypeError
        `f` is no function. At a call: a leaf of such an argument is not floating, or the result is complex or no
        Tensor.
    ValueError
        At a call: the result has other than one element, or an argument is named twice.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.value_and_grad(lambda x: tg.sum(x * x))(tg.asarray([1.0, 2.0]))
    (Tensor(5.), Tensor([2., 4.]))
    """

    return value_and_grad_as("value_and_grad", f, argnums, has_aux)  # type: ignore[return-value]


def value_and_grad_as(
    transform: str, f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """Return the result of `value_and_grad`; messages name `transform`."""
    check_function(transform, f, argnums)

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        traced = TransformCall(transform, f, args, kwargs, chosen, has_aux)
        y = traced.scalar()
        one = wrap(namespace_of[type(y._array)].ones_like(y._array))
        retain = create_graph = traced.create_graph
        found = traced.derivatives(lambda record: traced.pull([one], record, retain=retain), create_graph)
        gradients = traced.arguments(found, create_graph)
        value = traced.result([y], create_graph)
        return (value, traced.auxiliary()) if has_aux else value, (
            gradients[0] if isinstance(argnums, int) else tuple(gradients)
        )

    return run


@derived
def grad(f: Callable[P, Any], argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False) -> Transformed[P, Any]:
    """Return a function that gives the gradient of `f`.

    Arguments, structures, devices and updates in place are as for `value_and_grad`. It nests in any order with itself
    and other transforms.

    Parameters
    ----------
    f : callable
        A function that returns a Tensor, or array, of one element.
    argnums : int or tuple of int, default 0
        The argument to differentiate by, counted from 0, or a tuple of them.
    has_aux : bool, default False
        Whether `f` returns (number, anything); the result is (gradient, anything), then.

    Returns
    -------
    callable
        A function of the arguments of `f`, which returns the gradient.

    Raises
    ------
    TypeError
        `f` is no function. At a call: a leaf of such an argument is not floating, or the result is complex or no
        Tensor.
    ValueError
        At a call: the result has other than one element, or an argument is named twice.

    Examples
    --------
    >>> import tapegrad as tg
    >>> cube = lambda x: x * x * x
    >>> float(tg.grad(cube)(2.0)), float(tg.grad(tg.grad(cube))(2.0))
    (12.0, 12.0)
    """
    return grad_as("grad", f, argnums, has_aux)  # type: ignore[return-value]


def grad_as(
    transform: str, f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return the result of `grad`; messages name `transform`."""
    both = value_and_grad_as(transform, f, argnums, has_aux)

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return run


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """Return the value of `f` at the primals, and a function that pulls cotangents back.

    That function gives t^T J for a cotangent t, where J is the Jacobian of `f` at the primals. `f` may update the
    primals in place: the caller's stay as they are.

    Parameters
    ----------
    f : callable
        A function that returns a Tensor, or a container of Tensors.
    *primals : ArrayLike or tree
        The arguments: arrays, Tensors, floats, or nested containers of them.
    has_aux : bool, default False
        Whether `f` returns (result, anything); the latter is then a third item of the result here.

    Returns
    -------
    tuple
        The value, and a function from a cotangent, of the structure, shapes and dtypes of the value, to a tuple with
        one cotangent for each primal, of its structure. It may be called any number of times.

    Raises
    ------
    TypeError
        `f` is no function, or a leaf of the primals is not floating. At a call of the pullback: the cotangent has
        another structure or dtype.
    ValueError
        At a call of the pullback: the cotangent has other shapes.

    Examples
    --------
    >>> import tapegrad as tg
    >>> y, pull = tg.vjp(lambda x: x * x, tg.asarray([1.0, 2.0]))
    >>> pull(tg.asarray([1.0, 10.0]))
    (Tensor([ 2., 40.]),)
    """
    check_function("vjp", f, form="(f, x)")
    value, pull, *aux = vjp_as("vjp", f, primals, has_aux=has_aux)
    return (value, LinearMap(vjp, f, pull, has_aux=has_aux), *aux)


def vjp_as(
    transform: str,
    f: Callable[..., Any],
    primals: Sequence[Any],
    has_aux: bool = False,
    may_be_constant: bool = False,
) -> tuple[Any, ...]:
    """Return the result of `vjp`; messages name `transform`."""
    traced = TransformCall(transform, f, primals, {}, None, has_aux, may_be_constant)
    pull = partial(_pulled, traced)
    value = traced.result(traced.outputs, traced.create_graph)
    return (value, pull, traced.auxiliary()) if has_aux else (value, pull)


def _pulled(traced: TransformCall, cotangent: Any) -> tuple[Any, ...]:
    """Return the cotangents of the inputs, as trees, for those of the outputs."""
    seeds = like(f"{traced.what}: the cotangent", cotangent, traced.outputs)
    create_graph = mode().recording and (traced.create_graph or any(is_recorded(t) for t in seeds))
    if any([is_recorded(t) for t in seeds]):
        found = traced.pull(seeds, create_graph)
    else:
        found = traced.derivatives(lambda record: traced.pull(seeds, record), create_graph)
    return tuple(traced.arguments(found, create_graph))


def is_recorded(x: Tensor) -> bool:
    """Return whether a Tensor is recorded, itself or outside of a vmap."""
    return (x._record or outer_record(x._array)) is not None


def like(what: str, tree: Any, models: Sequence[Tensor]) -> list[Tensor]:
    """Return the leaves of a tree as Tensors; raise unless they match the models in number, shape, dtype and device."""
    leaves, _ = flatten(tree)
    if len(leaves) != len(models):
        raise ValueError(f"{what} has {len(leaves)} leaves, but there are {len(models)} to match")
    out = []
    for leaf, model in zip(leaves, models, strict=True):
        x = lift_to_level(leaf if isinstance(leaf, Tensor) else constant_like(leaf, model))
        check_like(what, x, model.shape, model._array)
        out.append(x)
    return out


def between(roots: Sequence[Record | None], leaves: set[Record]) -> tuple[list[Record], bool]:
    """Return the records between roots and leaves, latest first, and whether there is an outer tape.

    There is one if a record outside of the transform can be reached from a root or through the leaves. The result may
    be differentiated again then.
    """
    starts = {r for r in roots if r is not None}
    if not starts or not leaves:
        return [], False
    # Records older than the leaves cannot depend on them. They are outside.
    oldest = max(r.seq for r in leaves)
    order = collect(starts, oldest)
    on: set[Record] = set()
    out: set[Record] = set()  # the records that reach a record outside
    for r in reversed(order):
        if any([p in on for p in r.parents]) or r in leaves:
            on.add(r)
        if r.op is LEAF or any([p is not None and (p.seq > oldest or p in out) for p in r.parents]):
            out.add(r)
    return [r for r in order if r in on], not out.isdisjoint(starts)


def raw_result(x: Tensor, to_host: bool) -> Any:
    """Return the value as a raw array that nobody else holds; a NumPy array if it is for the host."""
    backend = backend_of[type(x._array)]
    if backend.depth:
        return x  # inside vmap there is no raw array for one example
    if to_host and backend.prefix != HOST:
        return untrace(transfer(x._array, HOST))
    return untrace(x._array if backend.is_private(x) else backend.copy(x._array))


def constant_like(x: Any, model: Tensor) -> Tensor:
    """Return an array or number as a constant on the model's device; a number gets the model's dtype."""
    found = placed("asarray", x, model._array)
    backend = find_backend(x)
    number = backend is None or backend.as_scalar(x) is not None
    return astype(found, model.dtype, copy=False) if number else found


def is_of_host(x: Any) -> bool:
    """Return whether a leaf is a number or a NumPy array."""
    backend = None if isinstance(x, Tensor) else find_backend(x)
    return not isinstance(x, Tensor) and (backend is None or backend.prefix == HOST)


def device_for_host(leaves: Sequence[Any], others: Sequence[Any] = ()) -> str | None:
    """Return the device for numbers and NumPy arrays among leaves: that of the Tensors and other arrays beside them.

    others: arguments that decide if the leaves hold none. Return None if there are several devices, or none.
    """
    if not any([is_of_host(x) for x in leaves]):
        return None
    devices = {x.device if isinstance(x, Tensor) else device_of(x) for x in leaves if not is_of_host(x)}
    if not devices and others:
        return device_for_host([*[x for x in flatten(others)[0] if not is_of_host(x)], 0.0])
    return devices.pop() if len(devices) == 1 else None


def check_function(transform: str, f: Any, argnums: Any = 0, form: str = "(f)(x)") -> None:
    """Raise TypeError for an invalid function or argnums of a transform, with the right call in the message.

    form: the call after the transform's name.
    """
    how = f"as in tapegrad.{transform}{form}"
    if isinstance(f, Tensor):
        raise TypeError(
            f"{transform}: it takes a function, not a Tensor: write its computation as a function, {how}, or call "
            "backward() on the Tensor and read .grad of the leaves"
        )
    if not callable(f):
        raise TypeError(f"{transform}: it takes a function, not {type(f).__name__}: {how}")
    numbers = argnums if isinstance(argnums, (tuple, list)) else (argnums,)
    if not all([isinstance(i, int) for i in numbers]):
        raise TypeError(
            f"{transform}: argnums is an integer or a tuple of them, not {type(argnums).__name__}: arguments go to the "
            f"function that it returns, {how}"
        )


def linked(array: Any, parent: Record | None) -> Tensor:
    """Return a Tensor with a fresh record that the walk reports."""
    y = wrap(array)
    y._record = record(LINK, (parent,), (), array)
    y._record.tensor = ref(y)
    return y
