"""Containers as arguments and results: dataclasses of any form, named tuples, and subclasses of both."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pytest

import tapegrad as tg
from tapegrad._engine.tree import flatten

T = TypeVar("T")


@dataclass
class Plain:
    w: Any
    n: Any = 3.0


@dataclass
class NotAnArgument:
    w: Any
    n: Any = field(init=False, default=3.0)


@dataclass
class MadeAfterwards:
    w: Any
    n: Any = field(init=False)

    def __post_init__(self) -> None:
        self.n = 3.0


@dataclass(frozen=True)
class Frozen:
    w: Any
    n: Any = 3.0


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    w: Any
    n: Any = 3.0


@dataclass(slots=True)
class Slots:
    w: Any
    n: Any = field(init=False, default=3.0)


@dataclass(kw_only=True)
class KeywordOnly:
    n: Any = 3.0
    w: Any


@dataclass
class WithAFactory:
    w: Any
    n: Any = field(default_factory=lambda: 3.0)
    more: list[Any] = field(default_factory=list)


@dataclass
class Inherited(Plain):
    more: Any = 1.0


@dataclass(frozen=True, slots=True)
class InheritedSlots(FrozenSlots):
    more: Any = 1.0


@dataclass
class OfAKind(Generic[T]):
    w: T
    n: Any = 3.0


@dataclass
class OnlyToStart:
    w: Any
    n: Any = 3.0
    scale: dataclasses.InitVar[float] = 2.0
    must: dataclasses.InitVar[Any] = None

    def __post_init__(self, scale: float, must: Any) -> None:
        assert must == "given"


@dataclass
class WithStaticFields:
    w: Any
    name: str = field(default="a layer", metadata={"static": True})
    apply: Any = field(default=tg.sin, metadata={"static": True})
    n: Any = 3.0
    width: int = field(init=False, default=7, metadata={"static": True})


@dataclass
class Checked:
    """Of a positive value only, which a gradient need not have."""

    w: Any
    n: Any = 3.0

    def __post_init__(self) -> None:
        if not np.all(np.asarray(self.w) > 0):
            raise ValueError("w is not positive")


@dataclass
class WithACache:
    """A property that is computed once must be computed again of other values."""

    w: Any
    n: Any = 3.0

    @cached_property
    def doubled(self) -> Any:
        return self.w * 2.0


@dataclass
class WithMore:
    """Attributes that are no fields: a name is kept, an array is computed again."""

    w: Any
    n: Any = 3.0

    def __post_init__(self) -> None:
        self.name = "more"
        self.doubled = self.w * 2.0


@dataclass
class WithAName:
    w: Any
    n: Any = 3.0

    def __post_init__(self) -> None:
        self.name = "more"


class Named(NamedTuple):
    w: Any
    n: Any = 3.0


class NamedOtherwise(Named):
    """A named tuple that is made of something else."""

    __slots__ = ()

    def __new__(cls, both: Any) -> Any:
        return super().__new__(cls, *both)


def started(w: Any) -> OnlyToStart:
    return OnlyToStart(w, must="given")


CONTAINERS: dict[str, Callable[[Any], Any]] = {
    **{
        c.__name__: c
        for c in (
            *(Plain, NotAnArgument, MadeAfterwards, Frozen, FrozenSlots, Slots, WithAFactory, Inherited),
            *(InheritedSlots, OfAKind, WithStaticFields, Checked, WithACache, WithMore, WithAName, Named),
        )
    },
    "KeywordOnly": lambda w: KeywordOnly(w=w),
    "OnlyToStart": started,
    "NamedOtherwise": lambda w: NamedOtherwise((w, 3.0)),
    "OrderedDict": lambda w: OrderedDict(w=w, n=3.0),
    "defaultdict": lambda w: defaultdict(float, w=w, n=3.0),
}


def weight(m: Any) -> Any:
    return m["w"] if isinstance(m, dict) else m.w


def number(m: Any) -> Any:
    return m["n"] if isinstance(m, dict) else m.n


def loss(m: Any) -> Any:
    w = weight(m)
    return tg.sum(w * w) * number(m) + 0.0 * tg.sum(getattr(m, "doubled", w))


X = np.asarray([0.5, 2.0])


@pytest.mark.parametrize("name", CONTAINERS)
def test_through_transforms(name: str) -> None:
    m = CONTAINERS[name](X)
    gradient = tg.grad(loss)(m)
    assert type(gradient) is type(m)
    np.testing.assert_allclose(weight(gradient), 6.0 * X)
    np.testing.assert_allclose(number(gradient), X @ X)
    value, tangent = tg.jvp(loss, (m,), (gradient,))
    np.testing.assert_allclose([value, tangent], [3 * X @ X, 36 * X @ X + (X @ X) ** 2])
    tensors = CONTAINERS[name](tg.asarray(X))
    mapped = tg.vmap(lambda t, m: flatten(m)[1]([x * t for x in flatten(m)[0]]), (0, None))(
        tg.asarray([1.0, 2.0]), tensors
    )
    assert type(mapped) is type(m)
    np.testing.assert_allclose(np.asarray(weight(mapped)), [X, 2 * X])
    again = tg.checkpoint(lambda m: m)(tensors)
    assert type(again) is type(m)
    if name == "WithMore":  # computed where a compiled call is over
        return
    compiled = tg.compile(tg.grad(loss))
    for k in range(1, 5):
        found = compiled(CONTAINERS[name](k * X))
        assert type(found) is type(m)
        np.testing.assert_allclose(weight(found), 6.0 * k * X)


def test_what_is_no_field_is_kept() -> None:
    leaves, rebuild = flatten(WithStaticFields(X))
    assert leaves[1:] == [3.0]
    layer = rebuild([1.0, 2.0])
    assert (layer.w, layer.name, layer.apply, layer.n, layer.width) == (1.0, "a layer", tg.sin, 2.0, 7)
    made = tg.grad(lambda m: tg.sum(m.w * m.doubled) if m.name == "more" else None)(WithMore(X))
    np.testing.assert_allclose(made.w, 4.0 * X)
    assert made.name == "more"
    assert tg.grad(lambda m: tg.sum(m.w) if m.name == "more" else None)(WithAName(X)).name == "more"
    cached = WithACache(X)
    np.testing.assert_array_equal(cached.doubled, 2.0 * X)
    np.testing.assert_allclose(tg.grad(lambda m: tg.sum(m.w * m.doubled))(cached).w, 4.0 * X)


class HasASlot:
    __slots__ = ("extra",)


@dataclass(slots=True)
class WithASlotOfItsBase(HasASlot):
    w: Any
    n: Any = 3.0


@dataclass
class OnlyToStartWithMore:
    w: Any
    scale: dataclasses.InitVar[float]

    def __post_init__(self, scale: float) -> None:
        self.scaled = self.w * scale


@dataclass
class CheckedWithMore(Checked):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.doubled = [self.w * 2.0]


def set_later(m: Any, **values: Any) -> Any:
    for n, v in values.items():
        object.__setattr__(m, n, v)
    return m


OUTSIDE: dict[str, Callable[[], Any]] = {
    "mask: class does not make": lambda: set_later(Plain(X), mask=X),
    "mask: class does not make, in a list": lambda: set_later(Plain(X), mask=[1.0, {"m": X}]),
    "mask: class does not make, of Tensors": lambda: set_later(Plain(tg.asarray(X)), mask=tg.asarray(X)),
    "mask: class does not make, of Tensors beside": lambda: set_later(WithMore(X), mask=tg.asarray(X)),
    "mask: class does not make, frozen": lambda: set_later(Frozen(X), mask=X),
    "extra: class does not make, in a slot": lambda: set_later(WithASlotOfItsBase(X), extra=X),
    "doubled: its class does not make it": lambda: set_later(WithMore(X), doubled=X * 3.0),
    "doubled: its class does not make it, of another shape": lambda: set_later(WithMore(X), doubled=X[:1]),
    "scaled: cannot be made of its fields": lambda: OnlyToStartWithMore(X, 2.0),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_arrays_outside_of_fields_are_refused_where_they_would_be_lost(name: str) -> None:
    attribute, _, why = name.partition(",")[0].partition(": ")
    match = rf"the attribute {attribute} holds an array, but is no field.*{why}.*field\(init=False\).*static"
    f: Any = lambda m: tg.sum(m.w * m.w)  # noqa: E731
    for transform in (tg.grad, tg.hessian, lambda f: lambda m: tg.jvp(f, (m,), (m,)), tg.checkpoint):
        with pytest.raises(TypeError, match=match):
            transform(f)(OUTSIDE[name]())


def test_attributes_that_are_no_arrays_are_kept() -> None:
    for m in (WithMore(X), WithAName(X), Frozen(X), WithASlotOfItsBase(X)):
        seen = "extra" if isinstance(m, HasASlot) else "name"
        set_later(m, **{seen: "changed"})
        made = tg.grad(lambda m, n=seen: tg.sum(m.w**2) if getattr(m, n) == "changed" else None)(m)
        np.testing.assert_allclose(made.w, 2 * X)
        assert getattr(made, seen) == "changed"


def test_a_gradient_that_the_class_refuses() -> None:
    with pytest.raises(TypeError, match=r"the attribute doubled .* cannot be made of its fields again \("):
        tg.grad(lambda m: -tg.sum(m.w * m.doubled[0]))(CheckedWithMore(X))


def test_static_fields_are_part_of_what_is_compiled() -> None:
    compiled = tg.compile(lambda m: m.apply(m.w) * m.width)
    for apply in (tg.sin, tg.cos, tg.sin):
        for width in (2, 3):
            m = WithStaticFields(tg.asarray(X), apply=apply)
            m.width = width
            for _ in range(4):
                np.testing.assert_allclose(np.asarray(compiled(m)), np.asarray(apply(m.w)) * width)


def test_a_field_that_is_not_set() -> None:
    m = dataclasses.make_dataclass("Late", [("w", Any), ("b", Any, field(init=False))])(X)
    gradient = tg.grad(lambda m: tg.sum(m.w**2))(m)
    np.testing.assert_allclose(gradient.w, 2 * X)
    assert not hasattr(gradient, "b")
