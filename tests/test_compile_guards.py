"""Changes by Python between the calls of a compiled function are seen, and cost nothing if they make no difference."""

from __future__ import annotations

import functools
import re
import sys
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import Enum
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from compiling import agree, values
from places import Place

import tapegrad as tg

# A world gives the function, and a change between its calls, given the number of changes so far.
World = tuple[Callable[[Any], Any], Callable[[int], Any]]


def vector(*v: float) -> tg.Tensor:
    return tg.tensor(list(v), requires_grad=True)


class Config:
    held = 2.0
    scale: float

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    @property
    def doubled(self) -> Any:
        return self.base * 2.0  # type: ignore[attr-defined]

    def scaled(self, x: Any) -> Any:
        return x * self.scale

    @staticmethod
    def fixed(x: Any) -> Any:
        return x * rate

    @classmethod
    def of_class(cls, x: Any) -> Any:
        return x * cls.held

    def __call__(self, x: Any) -> Any:
        return self.scaled(x)


class Further(Config):
    def scaled(self, x: Any) -> Any:
        return super().scaled(x) + 1.0


class Slots:
    __slots__ = ("rate",)


@dataclass
class Rates:
    first: float
    second: float = 2.0


@dataclass(frozen=True)
class Fixed:
    first: float


class Named(NamedTuple):
    first: float
    second: Any


class Mode(Enum):
    ADD = 1
    MULTIPLY = 2


class Own(dict[str, float]):
    pass


rate = 0.5
act: Any = tg.sin
module = types.ModuleType("a_module_of_a_test")


def setter(thing: Any, name: str) -> Callable[[int], None]:
    return lambda i: setattr(thing, name, 10.0 + i)


def a_closure() -> World:
    k = 0.5

    def change(i: int) -> None:
        nonlocal k
        k = 1.0 + i

    return lambda x: x * k, change


def a_global() -> World:
    def change(i: int) -> None:
        globals()["rate"] = 1.0 + i

    globals()["rate"] = 0.5
    return lambda x: x * rate, change


def a_global_of_a_callee() -> World:
    def change(i: int) -> None:
        globals()["rate"] = 3.0 + i

    globals()["rate"] = 0.5
    return lambda x: helper(x), change


def helper(x: Any) -> Any:
    return (lambda: Config.fixed(x))()


def a_global_function() -> World:
    globals()["act"] = tg.sin
    return lambda x: act(x), lambda i: globals().update(act=(tg.cos, tg.exp)[i])


def an_attribute_of_a_module() -> World:
    module.rate = 0.5  # type: ignore[attr-defined]
    return lambda x: x * module.rate, setter(module, "rate")


def an_attribute_of_sys() -> World:
    sys.rate_of_a_test = 0.5  # type: ignore[attr-defined]
    return lambda x: x * sys.rate_of_a_test, setter(sys, "rate_of_a_test")  # type: ignore[attr-defined]


def an_attribute() -> World:
    c = Config(rate=0.5)
    return lambda x: x * c.rate, setter(c, "rate")  # type: ignore[attr-defined]


def a_chain() -> World:
    c = Config(inner=Config(inner=Config(rate=0.5)))
    return lambda x: x * c.inner.inner.rate, setter(c.inner.inner, "rate")  # type: ignore[attr-defined]


def a_link_of_a_chain() -> World:
    c = Config(inner=Config(rate=0.5))
    return lambda x: x * c.inner.rate, lambda i: setattr(c, "inner", Config(rate=2.0 + i))  # type: ignore[attr-defined]


def a_property() -> World:
    c = Config(base=0.5)
    return lambda x: x * c.doubled, setter(c, "base")


def a_method() -> World:
    c = Config(scale=0.5)
    return lambda x: c.scaled(x), setter(c, "scale")


def a_bound_method() -> World:
    c = Config(scale=0.5)
    return c.scaled, setter(c, "scale")


def a_callable() -> World:
    c = Config(scale=0.5)
    return c, setter(c, "scale")


def a_method_of_super() -> World:
    c = Further(scale=0.5)
    return lambda x: c(x), setter(c, "scale")


def a_class_attribute() -> World:
    Config.held = 2.0
    return lambda x: Config.of_class(x), setter(Config, "held")


def a_class_attribute_by_an_object() -> World:
    Config.held = 2.0
    c = Config()
    return lambda x: x * c.held, setter(Config, "held")


def a_class_attribute_that_is_shadowed() -> World:
    Config.held = 2.0
    c = Config()
    return lambda x: x * c.held, setter(c, "held")


def slots() -> World:
    s = Slots()
    s.rate = 0.5  # type: ignore[attr-defined]
    return lambda x: x * s.rate, setter(s, "rate")  # type: ignore[attr-defined]


def a_dataclass() -> World:
    r = Rates(0.5)
    return lambda x: x * r.first, setter(r, "first")


def a_frozen_dataclass() -> World:
    c = Config(r=Fixed(0.5))
    return lambda x: x * c.r.first, lambda i: setattr(c, "r", replace(c.r, first=2.0 + i))  # type: ignore[attr-defined]


def a_named_tuple() -> World:
    c = Config(r=Named(0.5, [1.0]))
    return lambda x: x * c.r.first, lambda i: setattr(c, "r", c.r._replace(first=2.0 + i))  # type: ignore[attr-defined]


def an_item_of_a_list_in_a_tuple() -> World:
    r = Named(0.5, [1.0])
    return lambda x: x * r.second[0], lambda i: r.second.__setitem__(0, 2.0 + i)


def a_dict() -> World:
    d = {"rate": 0.5}
    return lambda x: x * d["rate"], lambda i: d.update(rate=2.0 + i)


def a_dict_of_dicts() -> World:
    d: Any = {"groups": [{"rate": 0.5}, {"rate": 0.25}]}
    return lambda x: x * d["groups"][1]["rate"], lambda i: d["groups"][1].update(rate=2.0 + i)


def a_key_more() -> World:
    d: dict[str, float] = {}
    return lambda x: x * d["rate"] if "rate" in d else x + 1.0, lambda i: d.update(rate=2.0 + i)


def a_key_less() -> World:
    d = {"rate": 0.5, "other": 0.5}
    return lambda x: x * sum(d.values()), lambda i: d.popitem()


def a_dict_of_ones_own() -> World:
    d = Own(rate=0.5)
    return lambda x: x * d["rate"], lambda i: d.update(rate=2.0 + i)


def an_ordered_dict() -> World:
    d = OrderedDict(rate=0.5)
    return lambda x: x * d["rate"], lambda i: d.update(rate=2.0 + i)


def a_list() -> World:
    r = [0.5, 1.0]
    return lambda x: x * r[1], lambda i: r.__setitem__(1, 2.0 + i)


def a_length() -> World:
    r = [0.5, 1.0]
    return lambda x: x * len(r), r.append


def a_long_list() -> World:
    r = [0.5] * 200
    return lambda x: x * sum(r), lambda i: r.__setitem__(100 + i, 2.0)


def a_list_of_numbers() -> World:
    r = [0.5, 1.0]
    return lambda x: x * np.asarray(r), lambda i: r.__setitem__(1, 2.0 + i)


def another_container() -> World:
    c = Config(r=[0.5])
    more = ({1.0: 2.0, 3.0: 4.0}, (1.0, [2.0], 3.0))
    return lambda x: x * len(c.r) + 1.0 / len(c.r), lambda i: setattr(c, "r", more[i])  # type: ignore[attr-defined]


def a_queue() -> World:
    r = deque([0.5, 1.0], maxlen=2)
    return lambda x: x * r[0], lambda i: r.append(2.0 + i)


def a_set() -> World:
    r = {"a"}
    return lambda x: x * 2.0 if "b" in r else x + 1.0, lambda i: r.add("ab"[1 - i])


def a_default() -> World:
    r = [0.5]

    def f(x: Any, r: Any = r) -> Any:
        return x * r[0]

    return f, lambda i: r.__setitem__(0, 2.0 + i)


def a_keyword_default() -> World:
    def f(x: Any, *, r: Any = 0.5) -> Any:
        return x * r

    return f, lambda i: f.__kwdefaults__.update(r=2.0 + i)  # type: ignore[union-attr]


def a_partial() -> World:
    f = functools.partial(lambda x, r: x * r["rate"], r={"rate": 0.5})
    return f, lambda i: f.keywords["r"].update(rate=2.0 + i)


def a_keyword_of_a_partial() -> World:
    f = functools.partial(lambda x, r: x * r, r=0.5)
    return f, lambda i: f.keywords.update(r=2.0 + i)


def a_wrapper() -> World:
    c = Config(rate=0.5)

    @functools.wraps(act)
    def f(*args: Any) -> Any:
        return (lambda x: x * c.rate)(*args)  # type: ignore[attr-defined]

    return f, setter(c, "rate")


def a_function() -> World:
    c = Config(f=tg.sin)
    return lambda x: c.f(x), lambda i: setattr(c, "f", (tg.cos, tg.exp)[i])  # type: ignore[attr-defined]


def scaling(k: float) -> Callable[[Any], Any]:
    return lambda x: x * k


def a_closure_of_a_function() -> World:
    c = Config(f=scaling(0.5))
    return lambda x: c.f(x), lambda i: setattr(c, "f", scaling(2.0 + i))  # type: ignore[attr-defined]


def a_function_of_a_transform() -> World:
    c = Config(rate=0.5)
    return tg.grad(lambda x: tg.sum(x * x * c.rate)), setter(c, "rate")  # type: ignore[attr-defined]


def a_custom_rule() -> World:
    c = Config(rate=0.5)
    f = tg.custom_vjp(lambda x: x * 1.0)
    f.defvjp(lambda x: (x * 1.0, None), lambda _, t: (t * c.rate,))  # type: ignore[attr-defined]
    return lambda x: tg.grad(lambda v: tg.sum(f(v)))(x), setter(c, "rate")


def a_compiled_function_inside() -> World:
    c = Config(rate=0.5)
    f = tg.compile(lambda x: x * c.rate)  # type: ignore[attr-defined]
    return lambda x: f(x) + 1.0, setter(c, "rate")


def an_attribute_of_a_function() -> World:
    def f(x: Any) -> Any:
        return x * f.rate  # type: ignore[attr-defined]

    f.rate = 0.5  # type: ignore[attr-defined]
    return f, setter(f, "rate")


def a_weak_reference() -> World:
    c = Config(rate=0.5)
    r = weakref.ref(c)
    return lambda x: x * r().rate, setter(c, "rate")  # type: ignore[union-attr]


def a_context_variable() -> World:
    v: ContextVar[float] = ContextVar("v", default=0.5)
    return lambda x: x * v.get(), lambda i: v.set(2.0 + i)


class Number(float):
    pass


def a_number_of_ones_own() -> World:
    c = Config(rate=Number(0.5))
    return lambda x: x * c.rate, lambda i: setattr(c, "rate", Number(2.0 + i))  # type: ignore[attr-defined]


def a_tuple() -> World:
    c = Config(t=(0.5, (1, "a")))
    return lambda x: x * c.t[0] + c.t[1][0], lambda i: setattr(c, "t", (0.5, (2 + i, "a")))  # type: ignore[attr-defined]


def a_sign_in_a_tuple() -> World:
    c = Config(t=(0.0, 1))
    return lambda x: x * c.t[0], lambda i: setattr(c, "t", ((-0.0, 0.0)[i], 1))  # type: ignore[attr-defined]


def an_enum() -> World:
    c = Config(mode=Mode.ADD)
    return (
        lambda x: x + 2.0 if c.mode is Mode.ADD else x * 3.0,  # type: ignore[attr-defined]
        lambda i: setattr(c, "mode", (Mode.MULTIPLY, Mode.ADD)[i]),
    )


def a_string() -> World:
    c = Config(mode="sin")
    return lambda x: getattr(tg, c.mode)(x), lambda i: setattr(c, "mode", ("cos", "sin")[i])  # type: ignore[attr-defined]


def none() -> World:
    c = Config(mask=None)
    return (
        lambda x: x if c.mask is None else x * c.mask,  # type: ignore[attr-defined]
        lambda i: setattr(c, "mask", vector(0.0, 1.0 + i).detach()),
    )


def getattr_by_a_string() -> World:
    c = Config(rate=0.5)
    return lambda x: x * getattr(c, "rate"), setter(c, "rate")  # noqa: B009


def an_attribute_that_comes() -> World:
    c = Config()
    return lambda x: x * getattr(c, "late", 3.0), setter(c, "late")


def an_attribute_that_goes() -> World:
    c = Config(rate=0.5, scale=0.25)
    return lambda x: x * getattr(c, "rate", 3.0) * getattr(c, "scale", 3.0), lambda i: delattr(c, ["rate", "scale"][i])


def all_attributes() -> World:
    c = Config(rate=0.5, k=1.0)
    return lambda x: x * sum(vars(c).values()), setter(c, "k")


def a_namespace() -> World:
    c = SimpleNamespace(rate=0.5)
    return lambda x: x * c.rate, setter(c, "rate")


def a_numpy_scalar() -> World:
    c = Config(rate=np.float64(0.5))
    return lambda x: x * c.rate, lambda i: setattr(c, "rate", np.float64(2.0 + i))  # type: ignore[attr-defined]


def a_sign_of_zero() -> World:
    c = Config(rate=0.0)
    return lambda x: x * c.rate, lambda i: setattr(c, "rate", -0.0)  # type: ignore[attr-defined]


def a_type_of_number() -> World:
    c = Config(n=1)
    return lambda x: tg.ones(2, dtype="int64") * c.n, lambda i: setattr(c, "n", 1.0)  # type: ignore[attr-defined]


def a_tied_weight() -> World:
    w = vector(1.0, 2.0)
    m = {"a": w, "b": w}
    return lambda x: (m["a"] * m["b"] - x).detach(), lambda i: m.update(b=vector(5.0, 5.0 + i))


def two_that_are_swapped() -> World:
    c = Config(a=vector(1.0, 2.0), b=vector(3.0, 4.0))

    def change(i: int) -> None:
        c.a, c.b = c.b, c.a  # type: ignore[attr-defined]

    return lambda x: (c.a * x - c.b).detach(), change  # type: ignore[attr-defined]


def a_parameter_more() -> World:
    w, b, c = vector(1.0, 2.0), vector(0.5, 0.1), vector(0.25, 4.0)
    trained = [w]

    def step(x: Any) -> Any:
        tg.sum((w * x + b * c) ** 2).backward()
        with tg.no_grad():
            for p in trained:
                assert p.grad is not None
                p -= 0.001 * p.grad
        w.grad = b.grad = c.grad = None
        return w + b + c.detach()

    return lambda x: step(x).detach(), lambda i: trained.append([b, c][i])


def a_parameter_frozen() -> World:
    ws = [vector(1.0, 2.0), vector(0.5, 0.1), vector(0.0, 1.0)]

    def step(x: Any) -> Any:
        tg.sum((ws[0] * x + ws[1]) ** 2 + ws[2]).backward()
        with tg.no_grad():
            for p in ws:
                if p.requires_grad:
                    assert p.grad is not None
                    p -= 0.001 * p.grad
                p.grad = None
        return ws[0] * ws[1]

    return lambda x: step(x).detach(), lambda i: setattr(ws[i], "requires_grad", False)


def a_tensor_that_is_kept() -> World:
    kept: list[Any] = []
    box = {"rate": tg.asarray(0.5)}

    def change(i: int) -> None:
        kept.append(box["rate"])
        box["rate"] = tg.asarray(2.0 + i)

    return lambda x: x * box["rate"], change


def a_tensor_of_another_shape() -> World:
    c = Config(w=tg.asarray([1.0, 2.0]))
    return (
        lambda x: x.shape[0] * tg.zeros(c.w.shape) + 1.0,  # type: ignore[attr-defined]
        lambda i: setattr(c, "w", tg.ones((2, 2 + i))),
    )


def a_tensor_elsewhere() -> World:
    c = Config(w=tg.asarray([1.0, 2.0]))
    return (
        lambda x: x * c.w.to_device("cpu") if c.w.device != "cpu" else x + c.w,  # type: ignore[attr-defined]
        lambda i: setattr(c, "w", c.w.to_device(("strict:device1", "cpu")[i])),  # type: ignore[attr-defined]
    )


def array(*v: float) -> Any:
    return np.asarray(v)


def an_array() -> World:
    c = Config(a=array(1.0, 2.0))
    return lambda x: x * c.a, lambda i: setattr(c, "a", array(3.0, 4.0 + i))  # type: ignore[attr-defined]


def an_array_in_a_closure() -> World:
    a = array(1.0, 2.0)

    def change(i: int) -> None:
        nonlocal a
        a = array(3.0, 4.0 + i)

    return lambda x: tg.asarray(a) * x, change


def an_array_in_a_dict() -> World:
    d = {"a": array(1.0, 2.0)}
    return lambda x: x * d["a"], lambda i: d.update(a=array(3.0, 4.0 + i))


def an_array_in_a_list() -> World:
    d = [array(1.0, 2.0)]
    return lambda x: x * d[0], lambda i: d.__setitem__(0, array(3.0, 4.0 + i))


def an_array_in_a_tuple() -> World:
    c = Config(t=(array(1.0, 2.0),))
    return lambda x: x * c.t[0], lambda i: setattr(c, "t", (array(3.0, 4.0 + i),))  # type: ignore[attr-defined]


def a_picked_array() -> World:
    c = Config(all=[array(1.0, 2.0), array(3.0, 4.0), array(5.0, 6.0)], i=0)
    return lambda x: x * c.all[c.i], lambda i: setattr(c, "i", i + 1)  # type: ignore[attr-defined]


def two_arrays_that_are_one() -> World:
    a = array(1.0, 2.0)
    c = Config(a=a, b=a)
    return lambda x: x * c.a + c.b, lambda i: setattr(c, "b", array(3.0, 4.0 + i))  # type: ignore[attr-defined]


def an_array_of_another_shape() -> World:
    c = Config(a=array(1.0, 2.0))
    return lambda x: x * c.a, lambda i: setattr(c, "a", np.ones((2 + i, 2)))  # type: ignore[attr-defined]


def an_array_of_another_dtype() -> World:
    c = Config(a=array(1.0, 2.0))
    return lambda x: x * c.a, lambda i: setattr(c, "a", c.a.astype(("float32", "complex128")[i]))  # type: ignore[attr-defined]


COMPUTED: dict[str, Callable[[Any], Any]] = {
    "itself": lambda a: a,
    "a quotient": lambda a: a / 255.0,
    "a quotient by it": lambda a: 255.0 / a,
    "a product with a constant": lambda a: array(1.0, 2.0) * a,
    "a comparison": lambda a: tg.where(tg.asarray(a > 1.5), 1.0, 2.0),
    "a slice": lambda a: tg.asarray(a[1:]),
    "a transpose": lambda a: a.T,
    "indices": lambda a: a[[1, 0]],
    "a copy": lambda a: tg.asarray(a.copy()),
    "a cast": lambda a: a.astype("float32"),
    "a function": lambda a: np.sqrt(a),
    "a function of a namespace": lambda a: np.linalg.norm(a),
    "a reduction": lambda a: np.sum(a),
    "a method": lambda a: a.mean(),
    "several": lambda a: np.concatenate([a, a])[1:3],
    "a float": lambda a: float(a[1]),
    "an item": lambda a: a[0].item(),
    "a list": lambda a: tg.asarray(a.tolist()),
    "a conversion": lambda a: tg.asarray(np.asarray(a, dtype="float32")),
    "a condition": lambda a: 3.0 if a[0] > 1.5 else 4.0,
    "a loop": lambda a: sum(v for v in a),
    "a range": lambda a: len(range(int(a[1]))),
    "a shape": lambda a: a.shape[0] * a.ndim * a.size,
    "an iteration": lambda a: list(a)[1] + min(a),
}


def computing(name: str) -> Callable[[], World]:
    def make() -> World:
        c = Config(a=array(1.0, 2.0))
        return lambda x: x * COMPUTED[name](c.a), lambda i: c.a.__setitem__(slice(None), array(3.0, 4.0 + i))  # type: ignore[attr-defined]

    return make


WORLDS: dict[str, Callable[[], World]] = {
    f.__name__.replace("_", " "): f
    for f in (
        a_closure, a_global, a_global_of_a_callee, a_global_function, an_attribute_of_a_module, an_attribute_of_sys,
        an_attribute, a_chain, a_link_of_a_chain, a_property, a_method, a_bound_method, a_callable, a_method_of_super,
        a_class_attribute, a_class_attribute_by_an_object, a_class_attribute_that_is_shadowed, slots, a_dataclass,
        a_frozen_dataclass, a_named_tuple, an_item_of_a_list_in_a_tuple, a_dict, a_dict_of_dicts, a_key_more,
        a_key_less, a_dict_of_ones_own, an_ordered_dict, a_list, a_length, a_long_list, a_list_of_numbers,
        another_container,
        a_queue,
        a_set, a_default, a_keyword_default, a_partial, a_keyword_of_a_partial, a_wrapper, a_function,
        a_closure_of_a_function, a_function_of_a_transform, a_custom_rule, a_compiled_function_inside,
        a_number_of_ones_own, an_attribute_of_a_function, a_weak_reference, a_context_variable, a_tuple,
        a_sign_in_a_tuple,
        an_enum,
        a_string, none, getattr_by_a_string, an_attribute_that_comes, an_attribute_that_goes, all_attributes,
        a_namespace, a_numpy_scalar, a_sign_of_zero, a_type_of_number, a_tied_weight, two_that_are_swapped,
        a_parameter_more, a_parameter_frozen, a_tensor_that_is_kept, a_tensor_of_another_shape, a_tensor_elsewhere,
        an_array, an_array_in_a_closure, an_array_in_a_dict, an_array_in_a_list, an_array_in_a_tuple, a_picked_array,
        two_arrays_that_are_one, an_array_of_another_shape, an_array_of_another_dtype,
    )
}  # fmt: skip
WORLDS |= {f"{name} of an array": computing(name) for name in COMPUTED}


def run(make: Callable[[], World], compiled: bool, calls: int = 15) -> tuple[list[Any], Any]:
    """Return the results of calls, between which two changes are made, and the function."""
    f, change = make()
    called = tg.compile(f) if compiled else f
    found = []
    for n in range(calls):
        if n in (5, 10):
            change(n // 5 - 1)
        found.append(values(called(tg.asarray([1.0, float(n)]))))
    return found, called


@pytest.mark.parametrize("name", WORLDS)
def test_what_python_changes_is_seen(name: str) -> None:
    expected, _ = run(WORLDS[name], False)
    found, f = run(WORLDS[name], True)
    for n, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert agree(a, b), f"call {n}"
    assert f.program is not None
    assert f._replayed >= 6  # each change costs three calls at most, not more


# Changes that make no difference: how many calls are not replayed for one.
def counted_inside() -> World:
    c, seen = Config(n=0), []

    def f(x: Any) -> Any:
        c.n += 1  # type: ignore[attr-defined]
        seen.append(1)
        return x * 2.0

    return f, lambda i: None


def reset_outside() -> World:
    c = Config(n=0)

    def f(x: Any) -> Any:
        c.n += 1  # type: ignore[attr-defined]
        return x * 2.0

    return f, lambda i: setattr(c, "n", 0)


class Trainer:
    def __init__(self) -> None:
        self.epoch, self.losses, self.w = 0, [], tg.asarray([1.0, 2.0])  # type: ignore[var-annotated]

    def fit(self, i: int) -> None:
        self.epoch += 1
        self.losses.append(i)
        self.other = i

    def step(self, x: Any) -> Any:
        return x * self.w


def counted_by_another_method() -> World:
    t = Trainer()
    return t.step, t.fit


def an_equal_number() -> World:
    c = Config(rate=0.1, n=1000, name="a b", r=Rates(0.5), t=(1.0, [2.0]))

    def change(i: int) -> None:
        c.rate, c.n, c.name = float("0.1"), int("1000"), " ".join("ab")  # type: ignore[attr-defined]
        c.r, c.t = Rates(0.5), (1.0, [2.0])  # type: ignore[attr-defined]

    return lambda x: x * c.rate * c.n * c.r.first * c.t[1][0] + len(c.name), change  # type: ignore[attr-defined]


def a_function_made_again() -> World:
    c = Config(f=scaling(0.5))
    return lambda x: c.f(x), lambda i: setattr(c, "f", scaling(0.5))  # type: ignore[attr-defined]


def a_tensor_that_nobody_reads() -> World:
    c = Config(loss=tg.asarray(0.0))
    return lambda x: x * 2.0 if c.loss is not None else x, setter(c, "loss_")  # type: ignore[attr-defined]


def a_last_result() -> World:
    c = Config(loss=tg.asarray(0.0))
    return (
        lambda x: x * 2.0 if c.loss is not None else x,  # type: ignore[attr-defined]
        lambda i: setattr(c, "loss", tg.asarray(float(i))),
    )


def an_array_each_time() -> World:
    c = Config(a=array(1.0, 2.0))
    return lambda x: x * c.a, lambda i: setattr(c, "a", array(3.0, 4.0 + i))  # type: ignore[attr-defined]


def a_memo() -> World:
    memo: dict[Any, Any] = {}

    def f(x: Any) -> Any:
        if x.shape not in memo:
            memo[x.shape] = tg.arange(2.0)
        return x * memo[x.shape]

    return f, lambda i: None


def an_attribute_that_is_not_named() -> World:
    c = Config(rate=0.5, unused=1)
    return lambda x: x * c.rate, setter(c, "unused")  # type: ignore[attr-defined]


NOTHING: dict[str, Callable[[], World]] = {
    f.__name__.replace("_", " "): f
    for f in (
        counted_inside, reset_outside, counted_by_another_method, an_equal_number, a_function_made_again,
        a_tensor_that_nobody_reads, a_last_result, an_array_each_time, a_memo, an_attribute_that_is_not_named,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_what_makes_no_difference_costs_nothing(name: str) -> None:
    expected, _ = run(NOTHING[name], False)
    found, f = run(NOTHING[name], True)
    assert found == expected
    assert f._replayed >= 12


def test_a_flag_that_goes_to_and_fro_has_two_programs() -> None:
    calls = 0
    c = Config(training=True)

    @tg.compile
    def step(x: Any) -> Any:
        nonlocal calls
        calls += 1
        return x * 2.0 if c.training else x + 1.0  # type: ignore[attr-defined]

    for i in range(40):
        c.training = i % 3 != 0  # type: ignore[attr-defined]
        assert step(tg.asarray(float(i))).item() == (2.0 * i if i % 3 else i + 1.0)
    assert calls == 4


def test_a_flag_that_does_not_matter_costs_little() -> None:
    calls = 0
    c = Config(training=True)

    @tg.compile
    def step(x: Any) -> Any:
        nonlocal calls
        calls += 1
        return x * 2.0 if c.training else x * float("2.0")  # type: ignore[attr-defined]

    program = None
    for i in range(40):
        c.training = i < 10 or i % 3 != 0  # type: ignore[attr-defined]
        step(tg.asarray(float(i)))
        if i == 9:
            program = step.program
    assert calls == 4
    assert step.program is program


def test_what_changes_at_each_call_runs_eagerly_with_one_warning() -> None:
    c = Config(rate=0.0)
    step = tg.compile(lambda x: x * c.rate)  # type: ignore[attr-defined]

    def changing() -> None:
        for i in range(20):
            c.rate = float(i)  # type: ignore[attr-defined]
            assert step(tg.asarray(2.0)).item() == 2.0 * i

    with pytest.warns(RuntimeWarning, match=r"too often .* last, c.rate was 4.0 and is 5.0. .* in a Tensor") as told:
        changing()
    assert len(told) == 1
    for i in range(200):  # it is replayed again where nothing changes
        assert step(tg.asarray(float(i))).item() == 19.0 * i
    assert step._replayed > 100


def test_what_is_counted_and_read_is_named() -> None:
    c = Config(n=0)

    def step(x: Any) -> Any:
        c.n += 1  # type: ignore[attr-defined]
        return x * 2.0 if c.n < 5 else x  # type: ignore[attr-defined]

    compiled = tg.compile(step)
    compiled(tg.asarray(1.0))
    with pytest.warns(RuntimeWarning, match=r"step changes and reads c\.n, which stays .* or count outside"):
        compiled(tg.asarray(1.0))
    for _ in range(4):
        compiled(tg.asarray(1.0))


# Counters of a call in a container, read on a line that writes nothing; the name in the warning.
def _in_a_dict() -> tuple[Any, str]:
    stats = {"n": 0}

    def step(x: Any) -> Any:
        stats["n"] += 1
        return x * 2.0 if stats["n"] < 5 else x

    return step, "stats['n']"


def _by_get() -> tuple[Any, str]:
    c = Config(stats=defaultdict(int))
    c.stats["n"] = 0  # type: ignore[attr-defined]

    def step(x: Any) -> Any:
        stats = c.stats  # type: ignore[attr-defined]
        stats["n"] = stats.get("n") + 1
        early = stats.get("n") < 5
        return x * 2.0 if early else x

    return step, "c.stats['n']"


def _in_a_counter() -> tuple[Any, str]:
    seen = Counter(["calls"])

    def step(x: Any) -> Any:
        seen["calls"] += 1
        return x * 2.0 if seen["calls"] % 5 else x

    return step, "seen['calls']"


def _in_a_dict_of_dicts() -> tuple[Any, str]:
    c = Config(stats={"train": {"n": 0}})

    def step(x: Any) -> Any:
        c.stats["train"]["n"] += 1  # type: ignore[attr-defined]
        return x * 2.0 if c.stats["train"]["n"] < 5 else x  # type: ignore[attr-defined]

    return step, "c.stats['train']['n']"


def _in_a_list() -> tuple[Any, str]:
    n = [0]

    def step(x: Any) -> Any:
        n[0] += 1
        return x * 2.0 if n[0] < 5 else x

    return step, "n[0]"


def _in_a_global() -> tuple[Any, str]:
    world: dict[str, Any] = {"stats": {"n": 0}}
    exec("def step(x):\n    stats['n'] += 1\n    return x * 2.0 if stats['n'] < 5 else x", world)
    return world["step"], "stats['n']"


def _of(kind: Any, add: str, read: str) -> tuple[Any, str]:
    world: dict[str, Any] = {"seen": kind, "i": iter(range(9))}
    exec(f"def step(x):\n    {add}\n    return x * 2.0 if {read} else x", world)
    return world["step"], "len(seen)"


IN_CONTAINERS: dict[str, Callable[[], tuple[Any, str]]] = {
    **{f.__name__.strip("_"): f for f in (_in_a_dict, _by_get, _in_a_counter, _in_a_dict_of_dicts, _in_a_list)},
    "in a global": _in_a_global,
    "len of a list": lambda: _of([], "seen.append(1)", "len(seen) < 5"),
    "len of a long list": lambda: _of([1] * 20, "seen.append(1)", "len(seen) < 25"),
    "len of a deque": lambda: _of(deque(), "seen.append(1)", "len(seen) < 5"),
    "len of a set": lambda: _of(set(), "seen.add(next(i))", "len(seen) < 5"),
    "len of a dict": lambda: _of({}, "seen[next(i)] = 1", "len(seen) < 5"),
    "the last of a list": lambda: _of([0], "seen.append(seen[-1] + 1)", "seen[-1] < 5"),
    "the sum of a list": lambda: _of([0], "seen.append(1)", "sum(seen) < 5"),
    "an item in a list": lambda: _of([0], "seen.append(seen[-1] + 1)", "4 not in seen"),
    "a list that ends": lambda: _of([1] * 5, "seen.pop()", "seen"),
    "a loop over a list": lambda: _of([], "seen.append(1)", "[v for v in seen][4:] == []"),
}


@pytest.mark.parametrize("name", IN_CONTAINERS)
def test_what_is_counted_in_a_container_and_read_is_named(name: str) -> None:
    step, what = IN_CONTAINERS[name]()
    compiled = tg.compile(step)
    compiled(tg.asarray(1.0))
    with pytest.warns(RuntimeWarning, match=rf"changes and reads {re.escape(what)}, which stays .* or count outside"):
        compiled(tg.asarray(1.0))


NOT_READ = {
    "a counter": ({"n": 0}, "seen['n'] += 1"),
    "an item set": ({"n": 0}, "seen['n'] = 1 - seen['n']"),
    "a number in a list": ([0], "seen[0] += 1"),
    "a list": ([], "seen.append(1)"),
    "a deque": (deque(maxlen=2), "seen.append(1)"),
    "a set": (set(), "seen.add(next(i))"),
    "a memo": ({}, "'k' in seen or seen.update(k=2.0)"),
    "a list filled once": ([], "seen or seen.append(2.0)"),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_counted_in_a_container_and_not_read_is_no_matter(name: str) -> None:
    kind, change = NOT_READ[name]
    step, _ = _of(kind, f"{change}; n = x[0]", "len(x) == 2")
    compiled = tg.compile(step)
    for _ in range(6):
        assert compiled(tg.asarray([1.0, 2.0])).tolist() == [2.0, 4.0]
    assert compiled._replayed >= 4


def test_a_global_of_the_name_of_an_attribute_is_no_matter() -> None:
    """Scripts count in a global `step` and call `optimiser.step()`; a global that is named is seen."""
    world: dict[str, Any] = {"tg": tg, "w": tg.asarray([1.0, 2.0]), "rate": 2.0, "step": 0}
    text = (
        "class Optimiser:\n"
        "    def step(self, x):\n"
        "        global w\n"
        "        w -= tg.mean(x)\n"
        "optimiser = Optimiser()\n"
        "def train(x):\n"
        "    optimiser.step(x)\n"
        "    return [rate * v for v in (tg.sum(w),)][0]\n"
    )
    exec(text, world)
    compiled = tg.compile(world["train"])
    total = 3.0
    for step in range(12):
        world["step"] = step
        world["rate"] = 2.0 if step < 8 else 5.0
        total -= 2.0
        assert compiled(tg.asarray(1.0)).item() == world["rate"] * total
        assert (compiled._last is not None) is (step >= 1)


@pytest.mark.parametrize("text", ["globals()['rate']", "eval('rate')", "f.__globals__['rate']"])
def test_a_global_that_is_named_by_a_string_is_seen(text: str) -> None:
    world: dict[str, Any] = {"rate": 2.0}
    exec(f"def f(x): return x * {text}", world)
    compiled = tg.compile(world["f"])
    for n in range(8):
        world["rate"] = 2.0 if n < 4 else 3.0
        assert compiled(tg.asarray(1.0)).item() == world["rate"]


def test_a_memo_may_grow() -> None:
    """Each of several programs is looked at again where the others have filled a dict."""
    memo: dict[Any, Any] = {}

    @tg.compile
    def step(x: Any) -> Any:
        if x.shape not in memo:
            memo[x.shape] = tg.arange(float(x.shape[0]))
        return x * memo[x.shape]

    for i in range(60):
        n = i % 4 + 1
        assert step(tg.ones(n)).tolist() == list(range(n))
        if i in (20, 30):
            memo[f"from elsewhere {i}"] = i
    assert step._replayed > 20


def test_an_item_more_that_makes_no_difference_may_come_to_make_one() -> None:
    box: dict[str, Any] = {"a": 2.0}

    def f(x: Any) -> Any:
        for v in box.values():
            x = x if v is None else x * v
        return x

    step = tg.compile(f)
    for n in range(40):
        if n in (6, 12):
            box[f"b{n}"] = None
        if n in (18, 24):
            box[f"b{n - 12}"] = float(n)
        assert step(tg.asarray(1.0)).item() == f(tg.asarray(1.0)).item()
    assert step._replayed > 20


def by_isinstance(x: Any) -> Any:
    return tg.asarray(x) * 2.0 if isinstance(x, np.ndarray) else x * 3.0


@functools.singledispatch
def by_dispatch(x: Any) -> Any:
    return x * 3.0


@by_dispatch.register(np.ndarray)
def _(x: Any) -> Any:
    return tg.asarray(x) * 2.0


def by_match(x: Any) -> Any:
    match x:
        case np.ndarray():
            return tg.asarray(x) * 2.0
        case _:
            return x * 3.0


def by_hasattr(x: Any) -> Any:
    return tg.asarray(x) * (2.0 if hasattr(x, "sum") and callable(x.astype) else 3.0)


@pytest.mark.parametrize("f", [by_isinstance, by_dispatch, by_match, by_hasattr])
@pytest.mark.parametrize("outside", [False, True])
def test_a_raw_array_passes_for_what_it_is(f: Any, outside: bool) -> None:
    x = np.asarray([1.0, 10.0])
    step = tg.compile((lambda: f(x)) if outside else f)
    for _ in range(5):
        assert step(*[] if outside else [x]).tolist() == [2.0, 20.0]
    assert step.program is not None


Array: Any = np.ndarray
ARRAYS: Any = (list, np.ndarray)
TABLE: dict[Any, float] = {np.ndarray: 2.0}
KINDS = Config(table={np.ndarray: 2.0}, arrays={np.ndarray})


ASKING: dict[str, Callable[[Any], Any]] = {
    "is": lambda x: tg.asarray(x) * 2.0 if type(x) is np.ndarray else x * 3.0,
    "is not": lambda x: x * 3.0 if type(x) is not np.ndarray else tg.asarray(x) * 2.0,
    "equal": lambda x: tg.asarray(x) * 2.0 if type(x) == np.ndarray else x * 3.0,  # noqa: E721
    "in": lambda x: tg.asarray(x) * 2.0 if type(x) in (np.ndarray, list) else x * 3.0,
    "is, the other way round": lambda x: tg.asarray(x) * 2.0 if np.ndarray is type(x) else x * 3.0,
    "equal, the other way round": lambda x: tg.asarray(x) * 2.0 if np.ndarray == type(x) else x * 3.0,  # noqa: E721
    "get": lambda x: tg.asarray(x) * 2.0 if {np.ndarray: 1}.get(type(x)) else x * 3.0,
    "in a dict": lambda x: tg.asarray(x) * 2.0 if type(x) in {np.ndarray: 1} else x * 3.0,
    "an item": lambda x: tg.asarray(x) * {np.ndarray: 2.0, tg.Tensor: 3.0}[type(x)],
    "issubclass": lambda x: tg.asarray(x) * 2.0 if issubclass(type(x), np.ndarray) else x * 3.0,
    "bases": lambda x: tg.asarray(x) * 2.0 if np.ndarray in type(x).__mro__ else x * 3.0,
    "mro()": lambda x: tg.asarray(x) * 2.0 if np.ndarray in type(x).mro() else x * 3.0,
    "map": lambda x: tg.asarray(x) * 2.0 if list(map(type, [x])) == [np.ndarray] else x * 3.0,
    "any": lambda x: tg.asarray(x) * 2.0 if any(t is type(x) for t in (list, np.ndarray)) else x * 3.0,
    "a variable for the type": lambda x: of_kind(x, np.ndarray),
    "a variable for that of the array": lambda x: as_kind(x),
    "a table": lambda x: tg.asarray(x) * TABLE.get(type(x), 3.0),
    "a table of an object": lambda x: tg.asarray(x) * KINDS.table.get(type(x), 3.0),  # type: ignore[attr-defined]
    "a tuple of types": lambda x: tg.asarray(x) * 2.0 if type(x) in ARRAYS else x * 3.0,
    "a set of types": lambda x: tg.asarray(x) * 2.0 if type(x) in KINDS.arrays else x * 3.0,  # type: ignore[attr-defined]
    "a name for it": lambda x: tg.asarray(x) * 2.0 if type(x) is Array else x * 3.0,
    "another function's table": lambda x: tg.asarray(x) * factor(type(x)),
}


def of_kind(x: Any, kind: type) -> Any:
    return tg.asarray(x) * 2.0 if kind is type(x) else x * 3.0  # type: ignore[arg-type]


def as_kind(x: Any) -> Any:
    kind = type(x)
    twice = tg.asarray(x) * 2.0
    return twice if kind is np.ndarray else x * 3.0


def factor(kind: type) -> float:
    return TABLE.get(kind, 3.0)


@pytest.mark.parametrize("name", ASKING)
def test_comparing_the_type_of_a_raw_array_is_refused(name: str) -> None:
    step = tg.compile(ASKING[name])
    x = np.asarray([1.0, 10.0])
    assert step(x).tolist() == [2.0, 20.0]
    with pytest.raises(tg.CaptureError, match=r"at test_compile_guards.py:\d+ a type is compared with \w+, .*isinst"):
        step(x)


def logged(x: Any) -> Any:
    text = f"{type(x)} {type(x).__name__} {type(x).__module__}"
    if not isinstance(x, (np.ndarray, tg.Tensor)):
        raise TypeError(f"not {type(x).__name__}")
    return tg.asarray(x) * (2.0 if text == "<class 'numpy.ndarray'> ndarray numpy" else 3.0)


def matched(x: Any) -> Any:
    match x:
        case np.ndarray() if type(x).__name__ == "ndarray":
            return tg.asarray(x) * 2.0
    return x * 3.0


@pytest.mark.parametrize(
    "f",
    [
        logged,
        matched,
        lambda x: tg.asarray(x) * 2.0 if x.__class__ is np.ndarray else x * 3.0,
        lambda x: tg.asarray(x) * TABLE.get(x.__class__, 3.0),
        lambda x: tg.asarray(x) * 2.0 if isinstance(x, ARRAYS) and type(x).__qualname__ == "ndarray" else x * 3.0,
        lambda x: tg.asarray(x) * (2.0 if [t.__name__ for t in type(x).__mro__][-2:] == ["ndarray", "object"] else 3.0),
        lambda x: x * 3.0 if type(x) is tuple else tg.asarray(x) * 2.0,  # type: ignore[operator]
    ],
)
def test_the_name_of_a_raw_array_s_type_is_that_of_its_library_s(f: Any) -> None:
    step, x = tg.compile(f), np.asarray([1.0, 10.0])
    for _ in range(5):
        assert step(x).tolist() == [2.0, 20.0]
    assert step.program is not None


LARGE: dict[str, Callable[[Any], Any]] = {
    "a function": lambda a: np.sqrt(a),
    "several": lambda a: np.concatenate([a, a]),
    "a method": lambda a: a.mean(axis=0),
    "a reduction": lambda a: np.sum(a),
    "a copy": lambda a: a.copy(),
    "a float": lambda a: float(a[0]),
    "a list": lambda a: tg.asarray(a.tolist()),
    "a condition": lambda a: 1.0 if a[0] > 0 else 2.0,
}


@pytest.mark.parametrize("name", LARGE)
def test_what_numpy_makes_of_a_large_array_is_refused(name: str) -> None:
    a = np.ones(300)
    box = {"a": a}
    step = tg.compile(lambda x: x * LARGE[name](box["a"]))
    step(tg.asarray(1.0))
    with pytest.raises(tg.CaptureError, match=r"at test_compile_guards.py:\d+"):
        step(tg.asarray(1.0))
    assert box["a"] is a


WRITES: dict[str, Callable[[Any], Any]] = {
    "an item": lambda a: a.__setitem__(0, 1.0),
    "an operator": lambda a: a.__iadd__(1.0),
    "a method": lambda a: a.sort(),
    "a view": lambda a: a.reshape(-1).__setitem__(0, 1.0),
    "out": lambda a: np.sin(np.ones(a.shape), out=a),
    "out of a method": lambda a: np.ones((2, *a.shape)).sum(axis=0, out=a),
    "copyto": lambda a: np.copyto(a, 1.0),
    "fill": lambda a: a.fill(1.0),
    "random": lambda a: np.random.default_rng(0).random(out=a),
}


@pytest.mark.parametrize("size", [2, 300])
@pytest.mark.parametrize("name", WRITES)
def test_writing_to_an_array_from_outside_is_refused(name: str, size: int) -> None:
    a = np.zeros(size)
    box = {"a": a}

    def f(x: Any) -> Any:
        WRITES[name](box["a"])
        return x * 2.0

    step = tg.compile(f)
    step(tg.asarray(1.0))
    with pytest.raises(tg.CaptureError, match=r"at test_compile_guards.py:\d+ .*raw array"):
        step(tg.asarray(1.0))
    assert box["a"] is a


def test_changes_on_all_places(xp: Place) -> None:
    m: dict[str, Any] = {"a": xp.tensor([1.0, 2.0]), "b": xp.tensor([3.0, 4.0]), "rate": 0.5, "on": True}
    m["raw"] = xp.tensor([5.0, 6.0])._array
    host = np.asarray([1.0, 4.0], dtype="float64" if xp.double else "float32")

    def f(x: Any) -> Any:
        y = m["a"] * x * m["rate"] + m["b"] * m["raw"] + tg.asarray(np.sqrt(host), device=xp.device)
        return y if m["on"] else -y

    def change(i: int) -> None:
        if i == 0:
            m["rate"] = 0.25
        elif i == 1:
            m["a"], m["b"] = m["b"], m["a"]
        elif i == 2:
            m["raw"] = xp.tensor([7.0, 8.0])._array
        elif i == 3:
            m["on"] = False
        else:
            host[:] = [9.0, 16.0]

    step = tg.compile(f)
    for n in range(30):
        if n % 5 == 4:
            change(n // 5)
        x = xp.tensor([1.0, float(n)])
        xp.check(step(x), xp.values(f(x)))
    assert step._replayed >= 12


def test_functions_of_a_library_on_an_array_from_outside(xp: Place) -> None:
    """PyTorch's arrays tell whether they were written to, and JAX's cannot be; others are refused."""
    raw = {"a": xp.tensor(np.ones(300))._array}
    library = tg.backends.of_device(xp.device)[0].xp
    step = tg.compile(lambda x: x * library.sin(raw["a"]))
    x = xp.tensor(2.0)
    xp.check(step(x), np.full(300, 2.0 * np.sin(1.0)))
    if xp.device.partition(":")[0] not in ("torch", "jax"):
        with pytest.raises(
            tg.CaptureError, match=r"at test_compile_guards.py:\d+ the values of a raw array are needed"
        ):
            step(x)
        assert "Tracer" not in type(raw["a"]).__name__
        return
    for n in range(12):
        if n == 4:
            raw["a"] = xp.tensor(np.full(300, 2.0))._array
        if n == 8 and hasattr(raw["a"], "fill_"):
            raw["a"].fill_(3.0)
        xp.check(step(x), 2.0 * np.sin(np.asarray(raw["a"])))
    assert step._replayed >= 5


def test_writing_to_an_array_of_pytorch_is_refused() -> None:
    torch = pytest.importorskip("torch")
    raw = {"a": torch.ones(2)}

    def f(x: Any) -> Any:
        raw["a"].view(-1).add_(1.0)
        return x * 2.0

    step = tg.compile(f)
    step(tg.asarray(1.0))
    with pytest.raises(tg.CaptureError, match=r"updates raw\['a'\] in place, .* write to the array outside"):
        step(tg.asarray(1.0))
