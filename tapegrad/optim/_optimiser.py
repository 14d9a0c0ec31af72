"""The optimiser that all others are: parameters with their moments, the count of steps, and the rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tapegrad._engine.dispatch import backend_of, native_device
from tapegrad._engine.dtypes import DTYPES, DType, isdtype
from tapegrad._engine.mode import no_grad
from tapegrad._engine.tensor import Tensor
from tapegrad.nn._state import fitted, restored, same_names, write
from tapegrad.nn._walk import every_name, found, listed, matching, settled
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import asarray, full, zeros, zeros_like
from tapegrad.ops.elementwise import imag, real
from tapegrad.ops.shaping import stack

Schedule = Callable[[Tensor], Any]
Rate = float | Tensor | Schedule
Decay = str | Iterable[str] | Callable[[str, Tensor], bool] | None
Scalars = dict[str, Any]
_FLOATS = ("real floating", "complex floating")
_SMALL = ("float16", "bfloat16")


class Slot:
    """A parameter with the Tensors that an optimiser keeps of it.

    Attributes
    ----------
    name : str
        The name in the model.
    tensor : Tensor
        The parameter.
    master : Tensor
        The Tensor to update: the parameter itself; its copy in float32 where it has 16 bits; its real and imaginary
        parts, along a last axis, where it is complex.
    state : dict of str to Tensor
        The moments.
    decay : float
        The coefficient of weight decay.
    count : Tensor
        The steps that it took part in: the optimiser's own count unless it has missed some.
    empty : bool
        Whether it has no elements.
    """

    __slots__ = ("count", "decay", "empty", "master", "name", "state", "tensor")

    def __init__(self, name: str, tensor: Tensor, count: Tensor, decay: float, masters: bool) -> None:
        self.name, self.tensor, self.count, self.decay = name, tensor, count, decay
        small = masters and tensor.dtype.name in _SMALL
        self.master = widened(tensor.detach()) if small or _is_complex(tensor) else tensor
        self.state: dict[str, Tensor] = {}
        self.empty = 0 in tensor.shape

    @property
    def has_copy(self) -> bool:
        """True if the master is a Tensor of its own."""
        return self.master is not self.tensor

    def gradient(self, g: Tensor) -> Tensor:
        """Return a gradient in the form of the master."""
        return widened(g) if self.has_copy else g

    def publish(self) -> None:
        """Write the master to the parameter."""
        if self.has_copy:
            x = self.master
            if _is_complex(self.tensor):
                x = x[..., 0] + 1j * x[..., 1]
            self.tensor[...] = astype(x, self.tensor.dtype, copy=False)


def _is_complex(x: Tensor) -> bool:
    return x.dtype.kind == "complex floating"


def widened(x: Tensor) -> Tensor:
    """Return a Tensor of 16 bits in float32, and a complex one as its parts along a last axis."""
    return stack([real(x), imag(x)], axis=-1) if _is_complex(x) else astype(x, DTYPES["float32"])


def counter(like: Tensor) -> Tensor:
    """Return a count that starts at 0 on the device of a Tensor, in the widest float dtype there."""
    a = like._array
    wide = backend_of[type(a)].has_dtype("float64", native_device(a))
    return zeros((), dtype=DTYPES["float64" if wide else "float32"], device=like.device)


class Optimiser:
    """An optimiser of the parameters of a model; a subclass says how one of them is updated.

    Subclasses set `moments`, and write `_scalars` and `_update`.
    """

    moments: tuple[str, ...] = ()
    _unguarded = ("slots", "_names", "count")  # others may be changed between calls of a compiled step

    def __init__(
        self,
        model: Any,
        rate: Rate,
        *,
        weight_decay: float = 0.0,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        what = type(self).__name__
        model = settled(model)
        trained = _trained(what, model)
        first = next(iter(trained.values()))
        for name, x in trained.items():
            if x.device != first.device:
                raise ValueError(
                    f"{what}: {name!r} is on {x.device}, others are on {first.device}: move it with to_device, or give "
                    "each device its optimiser by Split"
                )
            if not x.is_leaf:
                raise ValueError(
                    f"{what}: {name!r} is the result of a recorded operation, so no gradient arrives there: make it "
                    "under tapegrad.no_grad(), then set its requires_grad"
                )
            if not masters and x.dtype.name in _SMALL:
                raise ValueError(
                    f"{what}: {name!r} has 16 bits, in which small steps are lost to rounding: leave masters=True, "
                    "which keeps a copy in float32"
                )
        number(what, "weight_decay", weight_decay)
        self.rate: Rate = checked_rate(what, rate, first)
        self.count = counter(first)
        self._late: tuple[str, ...] = ()  # parameters with counts of their own: a compiled step is for these
        decayed = _decayed(what, decay, trained)
        self.slots = [
            Slot(name, x, self.count, weight_decay if name in decayed else 0.0, masters) for name, x in trained.items()
        ]
        for slot in self.slots:
            self._prepare(slot)
        self._know(model)

    def _know(self, model: Any) -> None:
        """Learn all names of Tensors in a model: gradients of parameters are found by them, in trees like it."""
        by_tensor = {id(slot.tensor): slot for slot in self.slots}
        self._names = {f.name: by_tensor.get(id(f.tensor)) for f in (*every_name(model), *found(model))}

    # -- methods of a subclass ---------------------------------------------------------------------------

    def _prepare(self, slot: Slot) -> None:
        """Make the moments of a parameter."""
        with no_grad():
            slot.state = {name: zeros_like(slot.master) for name in self.moments}

    def _scalars(self, count: Tensor, rate: Any) -> Scalars:
        """Return the numbers of this step that all parameters share; count: of steps, this one included."""
        return {"rate": rate}

    def _update(self, slot: Slot, x: Tensor, g: Tensor, s: Scalars) -> None:
        """Update a parameter x and its moments in place; g: its gradient, not to be written to; s: the scalars."""
        raise NotImplementedError

    # -- steps -------------------------------------------------------------------------------------------

    def step(self, grads: Any = None, *, idle: bool = False) -> None:
        """Update all parameters that have a gradient, in place.

        Without an argument it uses `.grad` of the parameters, and sets it to None. A parameter without a gradient
        stays as it is.

        Parameters
        ----------
        grads : tree of Tensor or None, default None
            The gradients, as `tapegrad.grad` gives them: a tree of the same structure as the model.
        idle : bool, default False
            Whether to do nothing if no parameter has a gradient, instead of raising.

        Raises
        ------
        RuntimeError
            No parameter has a gradient.
        ValueError
            The tree does not fit: its names, or a shape or kind of dtype, are not those of the model.

        Examples
        --------
        >>> import tapegrad as tg
        >>> w = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> opt = tg.optim.SGD([w], 0.5)
        >>> tg.sum(w * w).backward()
        >>> opt.step()
        >>> w, w.grad
        (Tensor([0., 0.], requires_grad=True), None)
        """
        with no_grad():
            gradients = self._collected(idle) if grads is None else self._picked(grads)
            if gradients:
                self._advance(gradients)

    def _advance(self, gradients: list[tuple[Slot, Tensor | None]]) -> None:
        """Do a step with a gradient, or None, for each slot; under `no_grad`."""
        rate = self.current_rate()
        for slot, g in gradients:
            if g is None and slot.count is self.count:
                slot.count = +self.count  # from here on it has missed steps
                self._late = (*self._late, slot.name)
        self.count += 1.0
        shared: dict[tuple[int, DType], Scalars] = {}
        for slot, g in gradients:
            if g is None or slot.empty:
                continue
            count, x = slot.count, slot.master
            if count is not self.count:
                count += 1.0
            key = id(count), x.dtype
            s = shared.get(key)
            if s is None:
                s = shared[key] = {k: _cast(v, x.dtype) for k, v in self._scalars(count, rate).items()}
            self._update(slot, x, slot.gradient(g), s)
            slot.publish()

    def current_rate(self) -> Any:
        """Return the rate of the next step.

        Returns
        -------
        float or Tensor
            The number or Tensor given, or that of the schedule for the count of steps so far.

        Raises
        ------
        ValueError
            The schedule gives a Tensor with axes, or on another device.
        TypeError
            The schedule gives neither a number nor a Tensor.

        Examples
        --------
        >>> import tapegrad as tg
        >>> opt = tg.optim.SGD([tg.ones(2)], tg.optim.linear(0.1, 10))
        >>> opt.current_rate().item()
        0.1
        """
        rate = self.rate
        if type(rate) is float or not callable(rate):
            return rate
        with no_grad():
            made = rate(self.count)
        if type(made) not in (int, float):
            what = f"{type(self).__name__}: the rate of the schedule"
            if type(made) is not Tensor:
                raise TypeError(f"{what} is a number or a Tensor, not {type(made).__name__}")
            _check_scalar(what, made, self.count)
        return made

    def _collected(self, idle: bool) -> list[tuple[Slot, Tensor | None]]:
        """Return the gradients of the parameters, and clear them."""
        pairs = [(slot, slot.tensor.grad) for slot in self.slots]
        if not any([g is not None for _, g in pairs]):
            if idle:
                return []
            raise RuntimeError(
                f"{type(self).__name__}: no parameter has a gradient: call loss.backward() before step(), or pass the "
                "gradients of tapegrad.grad, as in step(grads)"
            )
        for slot, _ in pairs:
            slot.tensor.grad = None
        return pairs

    def _picked(self, grads: Any) -> list[tuple[Slot, Tensor | None]]:
        """Return the gradients in a tree; those of a Tensor that the model holds twice are added."""
        what = f"{type(self).__name__}: step(grads)"
        given: dict[int, Tensor] = {}
        strangers: list[str] = []
        for name, g, _ in every_name(grads):
            slot = self._names.get(name)
            if slot is not None:
                if (
                    g.shape != slot.tensor.shape
                    or g.dtype.kind != slot.tensor.dtype.kind
                    or g.device != self.count.device
                ):
                    x = slot.tensor
                    raise ValueError(
                        f"{what}: the gradient {name!r} has shape {g.shape}, {g.dtype.name}, on {g.device}, but the "
                        f"parameter has {x.shape}, {x.dtype.name}, on {x.device}"
                    )
                given[id(slot)] = given[id(slot)] + g if id(slot) in given else g.detach()
            elif name not in self._names:
                strangers.append(name)
        missing = [slot.name for slot in self.slots if id(slot) not in given]
        if missing or strangers:
            raise ValueError(
                f"{what}: the tree is not like the model: gradients are missing for {listed(missing)}; unknown are "
                f"{listed(strangers)}: pass the result of tapegrad.grad for the model that the optimiser was made of"
            )
        return [(slot, given[id(slot)]) for slot in self.slots]

    def _parts(self) -> list[Optimiser]:
        """Return the optimisers that this one consists of: itself."""
        return [self]

    def _changing(self) -> list[Tensor]:
        """Return all Tensors that a step changes."""
        xs = {id(self.count): self.count}
        for slot in self.slots:
            for x in (slot.tensor, slot.master, slot.count, *slot.state.values()):
                xs[id(x)] = x
        return list(xs.values())

    # -- state -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`: the count, the moments, float32 copies, a Tensor as rate.

        The Tensors keep their values when training goes on.

        Returns
        -------
        dict
            Tensors by name, nested.

        Examples
        --------
        >>> import tapegrad as tg
        >>> opt = tg.optim.Adam({"w": tg.ones(2)}, 0.1)
        >>> opt.state()
        {'count': Tensor(0.), 'parameters': {'w': {'mean': Tensor([0., 0.]), 'square': Tensor([0., 0.])}}}
        """
        found = {name: x.detach() for name, x in self._own().items()}
        return found | {"parameters": {slot.name: self._of_slot(slot) for slot in self.slots}}

    def _own(self) -> dict[str, Tensor]:
        own = {"count": self.count}
        if type(self.rate) is Tensor:
            own["rate"] = self.rate
        return own

    def _of_slot(self, slot: Slot) -> dict[str, Tensor]:
        kept = {name: x.detach() for name, x in self._held(slot).items()}
        return kept if slot.count is self.count else kept | {"count": slot.count.detach()}

    def _held(self, slot: Slot) -> dict[str, Tensor]:
        return slot.state | {"master": slot.master} if slot.has_copy else slot.state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, in place: all Tensors stay the same objects, so compiled steps go on as well.

        Parameters
        ----------
        state : mapping
            The result of `state`, its arrays on any device.

        Raises
        ------
        ValueError
            It does not fit: names, a shape or a dtype differ. Nothing is changed.

        Examples
        --------
        >>> import tapegrad as tg
        >>> w = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> opt = tg.optim.Adam([w], 0.1)
        >>> saved = opt.state()
        >>> opt.step([tg.ones(2)])
        >>> opt.restore(saved)
        >>> opt.count
        Tensor(0.)
        """
        for change in self._restoring(state):
            change()

    def _restoring(self, state: Mapping[str, Any], where: str = "") -> list[Callable[[], None]]:
        """Return the changes that restore a state, after all checks; nothing is changed."""
        what = f"{where or type(self).__name__}.restore"
        slots = {slot.name: slot for slot in self.slots}
        same_names(what, state, self._own() | {"parameters": None})
        same_names(what, state["parameters"], slots)
        own = {name: x for name, x in state.items() if name != "parameters"}
        pairs = restored(what, self._own(), own)
        late: list[tuple[Slot, Tensor | None]] = []
        for name, slot in slots.items():
            held = state["parameters"][name]
            if not isinstance(held, Mapping):
                raise ValueError(f"{what}: the state of {name!r} is no dict")
            targets = {f"{name}.{key}": x for key, x in self._held(slot).items()}
            values = {f"{name}.{key}": x for key, x in held.items() if key != "count"}
            pairs += restored(what, targets, values)
            count = held.get("count")
            late.append((slot, None if count is None else fitted(what, f"{name}.count", self.count, count)))

        def change() -> None:
            write(pairs)
            for slot, count in late:
                if count is None:
                    slot.count = self.count
                elif slot.count is self.count:
                    slot.count = asarray(count, copy=True)
                else:
                    write([(slot.count, count)])
            self._late = tuple([slot.name for slot in self.slots if slot.count is not self.count])

        return [change]

    def __repr__(self) -> str:
        kind: Any = self.rate
        n = sum(slot.tensor.size for slot in self.slots)
        return f"{type(self).__name__}({len(self.slots)} parameters of {n:,} elements, rate {kind})"


def _trained(what: str, model: Any) -> dict[str, Tensor]:
    """Return the parameters by name: Tensors that require a gradient, or all floating-point ones if none does."""
    all_found = found(model)
    chosen = [f for f in all_found if f.tensor.requires_grad]
    if not chosen:
        chosen = [f for f in all_found if not f.static and isdtype(f.tensor.dtype, _FLOATS)]
    if not chosen:
        raise ValueError(f"{what}: the model holds no floating-point Tensor: pass a model, or a list of its parameters")
    return {f.name: f.tensor for f in chosen}


def _decayed(what: str, decay: Decay, trained: Mapping[str, Tensor]) -> set[str]:
    """Return the names of parameters that decay."""
    if decay is None:
        return set(trained)
    if callable(decay):
        return {name for name, x in trained.items() if decay(name, x)}
    patterns = [decay] if isinstance(decay, str) else list(decay)
    return matching(f"{what}: decay", patterns, list(trained))


def _cast(v: Any, dtype: DType) -> Any:
    return astype(v, dtype, copy=False) if type(v) is Tensor else v


def _check_scalar(what: str, x: Tensor, like: Tensor) -> None:
    if x.shape != ():
        raise ValueError(f"{what} has shape {x.shape}: it is one number, of shape ()")
    if x.device != like.device:
        raise ValueError(f"{what} is on {x.device}, the parameters are on {like.device}: move it with to_device")
    if x.dtype.kind == "complex floating":
        raise ValueError(f"{what} is complex")


def checked_rate(what: str, rate: Any, like: Tensor) -> Rate:
    """Return a rate: a number, a Tensor of one number, or a schedule."""
    if type(rate) is Tensor:
        _check_scalar(f"{what}: the rate", rate, like)
        return rate
    if callable(rate):
        return rate  # type: ignore[no-any-return]
    return number(what, "rate", rate)


def number(what: str, name: str, value: Any, low: float = 0.0, high: float = float("inf")) -> float:
    """Return a number as a float; TypeError or ValueError unless it is one from low to high."""
    try:
        x = float(value)
    except (TypeError, ValueError):
        known = "a number, a Tensor or a function of the count of steps" if name == "rate" else "a number"
        raise TypeError(f"{what}: {name} is {known}, not {type(value).__name__}") from None
    if not low <= x <= high:
        raise ValueError(f"{what}: {name} must be between {low} and {high}, not {value}")
    return x


def filled(like: Tensor, value: float) -> Tensor:
    """Return a Tensor like another one with one value everywhere."""
    return full(like.shape, value, dtype=like.dtype, device=like.device)
