"""Optimisers: against PyTorch and written-out references, on every place, eager and compiled."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad import optim

Array = np.ndarray[Any, Any]
UNFIT: dict[str, Any] = {"text": "fast", "integers": [3]}
SHAPES = ((3, 4), (5,), (), (2, 3, 4), (0,), (1, 7))
# Each optimiser with options that take all of its branches, and with PyTorch's names of them.
LIKE_TORCH: dict[str, tuple[Callable[..., Any], str, dict[str, Any]]] = {
    "SGD": (partial(optim.SGD, rate=0.1), "SGD", {"lr": 0.1}),
    "SGD with momentum": (
        partial(optim.SGD, rate=0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    ),
    "Nesterov": (
        partial(optim.SGD, rate=0.1, momentum=0.9, nesterov=True),
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ),
    "RMSprop": (partial(optim.RMSprop, rate=0.01), "RMSprop", {"lr": 0.01}),
    "RMSprop, all options": (
        partial(optim.RMSprop, rate=0.01, smoothing=0.9, momentum=0.9, centred=True, weight_decay=0.1),
        "RMSprop",
        {"lr": 0.01, "alpha": 0.9, "momentum": 0.9, "centered": True, "weight_decay": 0.1},
    ),
    "Adagrad": (
        partial(optim.Adagrad, rate=0.1, start=0.1, weight_decay=0.1),
        "Adagrad",
        {"lr": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.1},
    ),
    "Adam": (partial(optim.Adam, rate=0.1, weight_decay=0.1), "Adam", {"lr": 0.1, "weight_decay": 0.1}),
    "Adam without memory": (partial(optim.Adam, rate=0.1, betas=(0.0, 0.0)), "Adam", {"lr": 0.1, "betas": (0.0, 0.0)}),
    "AdamW": (
        partial(optim.AdamW, rate=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1),
        "AdamW",
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "Adafactor": (
        partial(optim.Adafactor, rate=0.1, weight_decay=0.1),
        "Adafactor",
        {"lr": 0.1, "weight_decay": 0.1},
    ),
}
ALL: dict[str, Callable[..., Any]] = {
    **{name: make for name, (make, _, _) in LIKE_TORCH.items()},
    "Lion": partial(optim.Lion, rate=0.01, weight_decay=0.1),
    "LAMB": partial(optim.LAMB, rate=0.01),
    "Muon": partial(optim.Muon, rate=0.01),
    "Split": lambda model: optim.Split(
        model, {"1": partial(optim.SGD, rate=0.1)}, partial(optim.AdamW, rate=optim.cosine(0.1, 10, warmup=2))
    ),
}


def numbers(seed: int, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape)) for shape in shapes]


def leaves(values: list[Array], device: str | None = None, dtype: Any = None) -> list[tg.Tensor]:
    return [tg.tensor(v, requires_grad=True, device=device, dtype=dtype) for v in values]


def give(parameters: list[tg.Tensor], gradients: list[Array | None]) -> None:
    for x, g in zip(parameters, gradients, strict=True):
        x.grad = None if g is None else tg.tensor(g, dtype=x.dtype, device=x.device)


# -- against PyTorch and written-out references --------------------------------------------------------------


@pytest.mark.parametrize("name", LIKE_TORCH)
def test_a_hundred_steps_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    make, theirs, options = LIKE_TORCH[name]
    rng = np.random.default_rng(1)
    shapes = tuple(tuple(rng.integers(1, 6, size=rng.integers(0, 4))) for _ in range(8))
    start = numbers(2, shapes)
    mine, other = leaves(start), [torch.tensor(v, requires_grad=True) for v in start]
    opt, reference = make(mine), getattr(torch.optim, theirs)(other, **options)
    for n in range(100):
        gradients = numbers(100 + n, shapes)
        give(mine, list(gradients))
        for x, g in zip(other, gradients, strict=True):
            x.grad = torch.tensor(g)
        opt.step()
        reference.step()
    for x, y in zip(mine, other, strict=True):
        np.testing.assert_allclose(x.detach(), y.detach().numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adafactor", "RMSprop, all options"])
def test_parameters_that_miss_steps_count_their_own_as_in_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    make, theirs, options = LIKE_TORCH[name]
    start = numbers(3, ((3,), (2, 2), (4,)))
    mine, other = leaves(start), [torch.tensor(v, requires_grad=True) for v in start]
    opt, reference = make(mine), getattr(torch.optim, theirs)(other, **options)
    for n in range(20):
        gradients: list[Array | None] = list(numbers(100 + n, ((3,), (2, 2), (4,))))
        if n < 7:
            gradients[1] = None  # begins late
        if n % 3 == 1:
            gradients[2] = None  # misses some
        give(mine, gradients)
        for x, g in zip(other, gradients, strict=True):
            x.grad = None if g is None else torch.tensor(g)
        opt.step()
        reference.step()
        if n == 12:
            saved = opt.state()
            opt = make(mine)
            opt.restore(saved)
    for x, y in zip(mine, other, strict=True):
        np.testing.assert_allclose(x.detach(), y.detach().numpy(), rtol=1e-6, atol=1e-9)


def lion(x: Array, g: Array, s: dict[str, Any], n: int) -> Any:
    m = s.get("m", 0.0)
    s["m"] = 0.99 * m + 0.01 * g
    return x - 0.01 * (np.sign(0.9 * m + 0.1 * g) + 0.1 * x)


def lamb(x: Array, g: Array, s: dict[str, Any], n: int) -> Any:
    s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0.0) + 0.001 * g * g
    u = s["m"] / (1 - 0.9**n) / (np.sqrt(s["v"] / (1 - 0.999**n)) + 1e-6) + 0.01 * x
    of_x, of_u = np.sqrt(np.sum(x * x)), np.sqrt(np.sum(u * u))
    return x - 0.01 * u * (of_x / of_u if of_x > 0 and of_u > 0 else 1.0)


def muon(x: Array, g: Array, s: dict[str, Any], n: int) -> Any:
    s["v"] = 0.95 * s.get("v", 0.0) + 0.05 * g
    u = (0.05 * g + 0.95 * s["v"]).reshape(len(g), -1)
    rows, columns = u.shape
    y = u / np.linalg.norm(u)
    if rows > columns:
        y = y.T
    for _ in range(5):
        a = y @ y.T
        y = 3.4445 * y + (-4.775 * a + 2.0315 * a @ a) @ y
    o = (y.T if rows > columns else y).reshape(x.shape)
    return x * (1 - 0.01 * 0.1) - 0.01 * math.sqrt(max(1.0, rows / columns)) * o


@pytest.mark.parametrize("reference", [lion, lamb, muon])
def test_a_hundred_steps_are_those_of_the_formulas(reference: Callable[..., Any]) -> None:
    shapes = ((3, 4), (5, 2), (2, 3, 4), (1, 1)) + (() if reference is muon else ((5,), ()))
    values = numbers(4, shapes)
    mine = leaves(values)
    opt = {"lion": ALL["Lion"], "lamb": ALL["LAMB"], "muon": ALL["Muon"]}[reference.__name__](mine)
    states: list[dict[str, Any]] = [{} for _ in values]
    for n in range(1, 101):
        gradients = numbers(200 + n, shapes)
        give(mine, list(gradients))
        opt.step()
        values = [reference(x, g, s, n) for x, g, s in zip(values, gradients, states, strict=True)]
    for x, y in zip(mine, values, strict=True):
        np.testing.assert_allclose(x.detach(), y, rtol=1e-6, atol=1e-9)


def test_muon_is_that_of_pytorch_up_to_its_rounding() -> None:
    """PyTorch iterates in bfloat16."""
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    start = numbers(5, ((6, 4), (4, 6)))
    mine, other = leaves(start), [torch.tensor(v, requires_grad=True) for v in start]
    opt, reference = optim.Muon(mine, 0.01), torch.optim.Muon(other, lr=0.01)
    for n in range(20):
        gradients = numbers(n, ((6, 4), (4, 6)))
        give(mine, list(gradients))
        for x, g in zip(other, gradients, strict=True):
            x.grad = torch.tensor(g)
        opt.step()
        reference.step()
    for x, y, v in zip(mine, other, start, strict=True):
        moved = np.abs(y.detach().numpy() - v).max()
        assert np.abs(np.asarray(x.detach()) - y.detach().numpy()).max() < 0.03 * moved


def test_muon_makes_singular_values_alike() -> None:
    g = np.diag([1.0, 0.1, 0.01])
    w = tg.tensor(np.zeros((3, 3)), requires_grad=True)
    opt = optim.Muon([w], 1.0, weight_decay=0.0)
    opt.step([tg.asarray(g)])
    assert np.all(np.abs(np.linalg.svd(np.asarray(w.detach()))[1] - 0.95) < 0.3)


# -- every place, eager and compiled -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_steps_on_every_place_are_those_on_numpy(xp: Place, name: str) -> None:
    shapes = ((3, 4), (5,), ())
    start = numbers(6, shapes)
    mine, host = [xp.tensor(v, requires_grad=True) for v in start], leaves(start, "cpu")
    opt, reference = ALL[name](mine), ALL[name](host)
    for n in range(3):
        gradients = numbers(n, shapes)
        for x, g in zip(mine, gradients, strict=True):
            x.grad = xp.tensor(g)
        give(host, list(gradients))
        opt.step()
        reference.step()
    for x, y in zip(mine, host, strict=True):
        xp.check(x.detach(), np.asarray(y.detach()), rtol=1e-9 if name != "Muon" else 1e-6)


@pytest.mark.parametrize("name", ALL)
def test_compiled_steps_are_the_eager_ones(xp: Place, name: str) -> None:
    start = numbers(7, ((3, 4), (5,), ()))
    xs = [xp.tensor(v) for v in numbers(8, ((3, 4), (5,), ()))]

    def program() -> tuple[list[tg.Tensor], Any, Callable[[], tg.Tensor]]:
        weights = [xp.tensor(v, requires_grad=True) for v in start]
        opt = ALL[name](weights)

        def step() -> tg.Tensor:
            loss = sum((tg.sum((w - x) ** 2) for w, x in zip(weights, xs, strict=True)), start=tg.asarray(0.0))
            loss.backward()
            optim.clip_norm(weights, 3.0)
            opt.step()
            return loss

        return weights, opt, step

    mine, opt, eager = program()
    theirs, other, plain = program()
    compiled = tg.compile(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            a, b = eager(), compiled()
            xp.check(b, xp.values(a), rtol=1e-10)
    for x, y in zip(mine, theirs, strict=True):
        xp.check(y.detach(), xp.values(x.detach()), rtol=1e-9)
    assert compiled.program is not None
    assert other.count.item() == opt.count.item() == 6
    saved = opt.state()  # a restored compiled step goes on in the same program
    for x, y in zip(mine, theirs, strict=True):
        with tg.no_grad():
            y[...] = x.detach()
    other.restore(saved)
    before = compiled.program
    xp.check(compiled(), xp.values(eager()), rtol=1e-10)
    assert compiled.program is before


@pytest.mark.parametrize("name", ["AdamW", "Muon", "Adafactor", "SGD with momentum"])
def test_gradients_of_transforms_are_taken_by_name(name: str) -> None:
    @dataclass
    class Model:
        w: tg.Tensor
        others: dict[str, list[tg.Tensor]]

    start = numbers(9, ((3, 4), (5,), ()))

    def made() -> Model:
        a, b, c = leaves(start)
        return Model(a, {"x": [b, c]})

    def cost(model: Model) -> tg.Tensor:
        return tg.sum(model.w**2) + tg.sum(model.others["x"][0] ** 3) * model.others["x"][1]

    one, two = made(), made()
    first, second = ALL[name](one), ALL[name](two)
    for _ in range(3):
        cost(one).backward()
        first.step()
        second.step(tg.grad(cost)(two))
    for x, y in zip(tg.nn.named(one).values(), tg.nn.named(two).values(), strict=True):
        np.testing.assert_array_equal(x.detach(), y.detach())


def test_gradients_of_a_shared_tensor_are_added() -> None:
    w = tg.tensor([1.0, 2.0])
    model = {"a": w, "b": w}
    opt = optim.SGD(model, 0.5)
    opt.step(tg.grad(lambda m: tg.sum(m["a"] * 2.0 + m["b"] * 3.0))(model))
    np.testing.assert_array_equal(w, [1.0 - 2.5, 2.0 - 2.5])


def test_parameters_come_from_any_iterable() -> None:
    weights = {"a": tg.tensor([1.0], requires_grad=True), "b": tg.tensor([2.0], requires_grad=True)}
    for given in (weights.values(), (w for w in weights.values()), tuple(weights.values()), iter(weights.values())):
        opt = optim.SGD(given, 0.5)
        assert [slot.name for slot in opt.slots] == ["0", "1"]
        opt.step([tg.ones(1), tg.zeros(1)])
    np.testing.assert_array_equal(weights["a"].detach(), [-1.0])


def test_a_copy_of_model_and_optimiser_goes_on_alike() -> None:
    weights = leaves(numbers(13))
    opt = ALL["AdamW"](weights)
    give(weights, list(numbers(1)))
    opt.step()
    others, twin = copy.deepcopy((weights, opt))
    for xs, o in ((weights, opt), (others, twin)):
        give(xs, list(numbers(2)))
        o.step()
    for x, y in zip(weights, others, strict=True):
        np.testing.assert_array_equal(x.detach(), y.detach())
    assert (opt.count.item(), twin.count.item()) == (2, 2)


def test_tensors_that_require_no_gradient_are_trained_if_none_does() -> None:
    model = {"w": tg.ones(2), "n": tg.asarray(3)}
    assert [s.name for s in optim.SGD(model, 0.1).slots] == ["w"]
    model["v"] = tg.tensor([1.0], requires_grad=True)
    assert [s.name for s in optim.SGD(model, 0.1).slots] == ["v"]


# -- rates ---------------------------------------------------------------------------------------------------

SCHEDULERS: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "cosine": (optim.cosine(0.1, 50, end=0.01), lambda t, o: t.CosineAnnealingLR(o, 50, eta_min=0.01)),
    "linear": (optim.linear(0.1, 20), lambda t, o: t.LinearLR(o, 1.0, 0.0, total_iters=20)),
    "exponential": (optim.exponential(0.1, 0.9), lambda t, o: t.ExponentialLR(o, 0.9)),
    "piecewise": (optim.piecewise({0: 0.1, 5: 0.01, 9: 0.001}), lambda t, o: t.MultiStepLR(o, [5, 9], 0.1)),
    "one_cycle": (
        optim.one_cycle(0.1, 40),
        lambda t, o: t.OneCycleLR(o, 0.1, total_steps=40, cycle_momentum=False),
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedules_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    mine, make = SCHEDULERS[name]
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = make(torch.optim.lr_scheduler, optimiser)
    for n in range(40):
        value = mine(tg.asarray(float(n)))
        np.testing.assert_allclose(np.asarray(value), optimiser.param_groups[0]["lr"], rtol=1e-9, atol=1e-12)
        optimiser.step()
        if n < 39:
            theirs.step()


@pytest.mark.parametrize(
    "schedule",
    [
        optim.constant(0.1, warmup=4),
        optim.linear(0.1, 10, warmup=4, end=0.02),
        optim.cosine(0.1, 10, warmup=4, end=0.02),
        optim.piecewise({0: 0.1, 8: 0.02}, warmup=4),
        optim.exponential(0.1, 0.5, 10, warmup=4),
    ],
    ids=str,
)
def test_schedules_warm_up_and_run_on_every_place(xp: Place, schedule: Any) -> None:
    counts = np.arange(15.0)
    rates = np.asarray([float(schedule(tg.asarray(n, device="cpu"))) for n in counts])
    np.testing.assert_allclose(rates[0], 0.1 / 4, rtol=0.2)
    assert np.all(np.diff(rates[:4]) > 0)
    assert rates.max() <= 0.1 + 1e-15
    assert np.all(rates > 0)
    for n in (0, 4, 9, 14):
        rate = schedule(xp.tensor(np.asarray(float(n))))
        np.testing.assert_allclose(float(rate), rates[n], rtol=1e-5)


def test_a_rate_is_a_number_a_tensor_or_a_function() -> None:
    rate = tg.tensor(0.5)
    for given in (0.5, rate, lambda count: 0.5, lambda count: 0.5 + 0.0 * count, np.float64(0.5)):
        w = tg.tensor([2.0], dtype=tg.float32, requires_grad=True)
        opt = optim.SGD([w], given)
        opt.step([tg.asarray([1.0], dtype=tg.float32)])
        np.testing.assert_array_equal(w.detach(), [1.5])
    w = tg.tensor([2.0], requires_grad=True)
    opt = optim.SGD([w], rate)

    @tg.compile
    def step() -> None:
        tg.sum(w).backward()
        opt.step()

    for _ in range(4):
        step()
    np.testing.assert_array_equal(w.detach(), [0.0])
    rate *= 2.0
    step()
    np.testing.assert_array_equal(w.detach(), [-1.0])
    assert opt.state()["rate"].item() == 1.0


@pytest.mark.parametrize("changed", ["rate", "schedule", "momentum", "inside"])
def test_a_compiled_step_sees_what_is_changed_between_calls(changed: str) -> None:
    def program(through: Callable[..., Any]) -> list[float]:
        w = tg.tensor([1.0, 2.0], requires_grad=True)
        opt = optim.SGD([w], 0.1, momentum=0.5)
        both = optim.Split({"w": w}, {"w": lambda part: opt})

        def step() -> tg.Tensor:
            loss = tg.sum(w * w)
            loss.backward()
            (both if changed == "inside" else opt).step()
            return loss

        run, losses = through(step), []
        for n in range(12):
            if n == 6:
                if changed == "momentum":
                    opt.momentum = 0.9
                else:
                    opt.rate = optim.constant(0.3) if changed == "schedule" else 0.3
            losses.append(run().item())
        return losses

    np.testing.assert_allclose(program(tg.compile), program(lambda f: f), rtol=1e-12)


def test_a_compiled_step_with_parameters_that_come_late_is_the_eager_one() -> None:
    def program(through: Callable[..., Any]) -> tuple[list[float], float, float]:
        a, b = tg.tensor(np.ones(3), requires_grad=True), tg.tensor(np.ones(2), requires_grad=True)
        opt, scale = optim.AdamW({"a": a, "b": b}, 0.1), optim.Scale(start=4.0)

        def without() -> tg.Tensor:
            loss = tg.sum(a**2)
            scale.up(loss).backward()
            scale.step(opt)
            return loss

        def whole() -> tg.Tensor:
            loss = tg.sum(a**2) + tg.sum(b**3)
            loss.backward()
            opt.step()
            return loss

        first, second = through(without), through(whole)
        losses = [f().item() for f in [first] * 5 + [second] * 5 + [first] * 3 + [second] * 2]
        for frozen in (True, False):  # back to what there is a program for, except for the counts
            tg.nn.freeze([a], frozen=frozen)
            losses += [second().item() for _ in range(5)]
        return losses, opt.slots[0].count.item(), opt.slots[1].count.item()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses, *counts = program(tg.compile)
    expected, *others = program(lambda f: f)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    assert counts == others == [20.0, 17.0]


# -- decay, splits, masters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Lion", "LAMB", "RMSprop", "Adagrad", "Adafactor", "Muon"])
def test_decay_holds_for_what_fits_the_patterns(name: str) -> None:
    kind = getattr(optim, name)
    for decay in ("*.weight", ["*.weight", "nothing*"][:1], lambda name, x: x.ndim == 2):
        model: Any = {
            "a": {"weight": tg.ones((2, 2)), "bias": tg.ones((2,))},
            "norm": tg.ones(2),
            "weight": tg.ones((2, 3)),
        }
        opt = kind(model, 0.1, weight_decay=0.5, decay=decay)
        decays = {slot.name for part in opt._parts() for slot in part.slots if slot.decay == 0.5}
        assert decays == {"a.weight", "weight"}
        opt.step(
            {"a": {"weight": tg.zeros((2, 2)), "bias": tg.zeros(2)}, "norm": tg.zeros(2), "weight": tg.zeros((2, 3))}
        )
        assert tg.all(model["a"]["weight"] < 1.0), name
        if name != "Muon":
            assert tg.all(model["norm"] == 1.0)


def test_a_split_is_its_parts() -> None:
    model: dict[str, Any] = {"emb": tg.ones(2), "body": [tg.ones(2), tg.ones((2, 2))]}
    opt = optim.Split(
        model,
        {"emb": partial(optim.SGD, rate=0.5), "body.0": partial(optim.SGD, rate=0.25)},
        partial(optim.Muon, rate=0.1),
    )
    assert [type(p).__name__ for p in opt._parts()] == ["SGD", "SGD", "_Orthogonal"]
    opt.step(tg.grad(lambda m: tg.sum(m["emb"]) + tg.sum(m["body"][0]) + tg.sum(m["body"][1]))(model))
    np.testing.assert_array_equal(model["emb"], [0.5, 0.5])
    np.testing.assert_array_equal(model["body"][0], [0.75, 0.75])
    other = copy.deepcopy(model)
    fresh = optim.Split(
        other,
        {"emb": partial(optim.SGD, rate=0.5), "body.0": partial(optim.SGD, rate=0.25)},
        partial(optim.Muon, rate=0.1),
    )
    fresh.restore(opt.state())
    assert fresh.count.item() == 1
    with pytest.raises(ValueError, match="unknown are 'x'"):
        opt.restore({**opt.state(), "x": {}})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon", "Adafactor", "Lion"])
def test_parameters_of_16_bits_move_by_way_of_float32(dtype: str, name: str) -> None:
    """A step of a 10,000th is below the rounding of 1.0 in 16 bits."""
    device = "cpu"
    if dtype == "bfloat16":
        pytest.importorskip("torch")
        device = "torch:cpu"
    w = tg.tensor(np.ones((2, 3)), dtype=dtype, device=device, requires_grad=True)
    opt = getattr(optim, name)([w], 1e-4)
    for _ in range(200):
        w.grad = tg.ones_like(w.detach())
        opt.step()
    assert w.dtype.name == dtype
    assert np.all(np.asarray(tg.astype(w.detach(), tg.float32).to_device("cpu")) < 0.995)
    state = opt.state()
    again = getattr(optim, name)([w], 1e-4)
    again.restore(state)
    assert again._parts()[0].slots[0].master.dtype == tg.float32
    np.testing.assert_array_equal(again._parts()[0].slots[0].master.array, opt._parts()[0].slots[0].master.array)


@pytest.mark.parametrize("name", ["SGD with momentum", "Adam", "AdamW", "Lion", "LAMB"])
def test_complex_parameters_are_their_two_parts(name: str) -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(size=3) + 1j * rng.normal(size=3)
    w = tg.tensor(z, requires_grad=True)
    pair = tg.tensor(np.stack([z.real, z.imag], -1), requires_grad=True)
    a, b = ALL[name]([w]), ALL[name]([pair])
    for _ in range(5):
        g = rng.normal(size=3) + 1j * rng.normal(size=3)
        w.grad, pair.grad = tg.asarray(g), tg.asarray(np.stack([g.real, g.imag], -1))
        a.step()
        b.step()
    got = np.asarray(w.detach())
    np.testing.assert_allclose(np.stack([got.real, got.imag], -1), pair.detach(), rtol=1e-12)


# -- clipping, scaling, averages -----------------------------------------------------------------------------


def test_clip_norm_is_that_of_pytorch(xp: Place) -> None:
    values = numbers(10, ((3, 4), (5,), ()))
    norm = math.sqrt(sum(float(np.sum(v * v)) for v in values))
    for limit in (1.0, norm * 2.0, 0.0):
        weights = [xp.tensor(np.zeros_like(v), requires_grad=True) for v in values]
        for w, v in zip(weights, values, strict=True):
            w.grad = xp.tensor(v)
        found = optim.clip_norm(weights, limit)
        xp.check(found, norm, rtol=1e-12)
        for w, v in zip(weights, values, strict=True):
            xp.check(w.grad, v * min(1.0, limit / norm), rtol=1e-12)
    tree = {"a": xp.tensor(values[0])}
    optim.clip_norm({"a": weights[0]}, 1.0, grads=tree)
    xp.check(tg.linalg.vector_norm(tree["a"]), 1.0)


def test_clip_value_clips_each_element(xp: Place) -> None:
    w = xp.tensor(np.zeros(4), requires_grad=True)
    w.grad = xp.tensor(np.asarray([-3.0, -0.5, 0.5, 3.0]))
    optim.clip_value([w], 1.0)
    xp.check(w.grad, [-1.0, -0.5, 0.5, 1.0])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "SGD with momentum", "Muon", "Split"])
def test_a_gradient_that_is_not_finite_changes_nothing(xp: Place, name: str, compiled: bool) -> None:
    values = numbers(11, ((3, 4), (5,)))
    weights = [xp.tensor(v, requires_grad=True) for v in values]
    plain = [xp.tensor(v, requires_grad=True) for v in values]
    opt, reference = ALL[name](weights), ALL[name](plain)
    scale = optim.Scale(start=1024.0, every=3)
    factor = xp.tensor(np.asarray(1.0))

    def step() -> None:
        scale.up(sum((tg.sum(w * w) * factor for w in weights), start=tg.asarray(0.0))).backward()
        scale.step(opt)

    run = tg.compile(step) if compiled else step
    scales = []
    for bad in (False, False, True, False, False, False, True, True):
        with tg.no_grad():
            factor[...] = math.inf if bad else 1.0
        with np.errstate(all="ignore"):
            run()
        if not bad:
            for w in plain:
                w.grad = 2.0 * w.detach()
            reference.step()
        scales.append(scale.scale.item())
        for part, other in zip(opt._parts(), reference._parts(), strict=True):
            assert part.count.item() == other.count.item()
            for mine, its in zip(part._changing(), other._changing(), strict=True):
                xp.check(mine.detach(), xp.values(its.detach()), rtol=1e-9)
    assert scales == [1024.0, 1024.0, 512.0, 512.0, 512.0, 1024.0, 512.0, 256.0]
    again = optim.Scale()
    again.restore(scale.state())
    assert again.scale.item() == 256.0


def test_scaling_divides_gradients_of_16_bits_in_float32() -> None:
    """A gradient of 2^-30 is 0 in float16, and is not where it is scaled by 2^15."""
    w = tg.tensor([1.0], dtype=tg.float16, requires_grad=True)
    opt, scale = optim.Adam([w], 0.25, eps=0.0), optim.Scale(start=2.0**15)
    scale.up(tg.sum(tg.astype(w, tg.float32) * 2.0**-30)).backward()
    scale.step(opt, clip=1.0)
    np.testing.assert_allclose(w.detach(), [0.75])


def test_an_average_is_applied_inside_its_block(xp: Place) -> None:
    w = xp.tensor(np.asarray([0.0, 1.0]), requires_grad=True)
    decayed, mean = optim.Average({"w": w}, decay=0.5), optim.Average({"w": w}, decay=None)

    @tg.compile
    def step() -> None:
        with tg.no_grad():
            w[...] = w + 1.0
        decayed.update()
        mean.update()

    expected = None
    for n in range(1, 6):
        step()
        value = np.asarray([0.0, 1.0]) + n
        expected = value if expected is None else 0.5 * expected + 0.5 * value
    with decayed.applied():
        xp.check(w.detach(), expected)
        assert w.requires_grad
    with mean.applied():
        xp.check(w.detach(), [3.0, 4.0])
    xp.check(w.detach(), [5.0, 6.0])
    with pytest.raises(KeyError), mean.applied():
        raise KeyError
    xp.check(w.detach(), [5.0, 6.0])
    again = optim.Average({"w": w}, decay=None)
    again.restore(mean.state())
    with again.applied():
        xp.check(w.detach(), [3.0, 4.0])


# -- state ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_restored_optimiser_goes_on_to_the_bit(name: str) -> None:
    weights = leaves(numbers(12))
    opt = ALL[name](weights)
    for n in range(3):
        give(weights, list(numbers(n)))
        opt.step()
    saved, values = opt.state(), [w.detach() for w in weights]
    host = {}

    def to_host(x: Any) -> Any:  # as a file of arrays would give it back
        return {k: to_host(v) for k, v in x.items()} if isinstance(x, dict) else np.array(x)

    host = to_host(saved)

    def go_on() -> list[Array]:
        for n in range(3, 6):
            give(weights, list(numbers(n)))
            opt.step()
        return [np.array(w.detach()) for w in weights]

    first = go_on()
    for state in (saved, host):
        with tg.no_grad():
            for w, v in zip(weights, values, strict=True):
                w[...] = v
        kept = [x for part in opt._parts() for x in part._changing()]
        opt.restore(state)
        assert all(x is y for x, y in zip(kept, [x for part in opt._parts() for x in part._changing()], strict=True))
        for x, y in zip(go_on(), first, strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    w = tg.tensor([[1.0, 2.0]], requires_grad=True)
    opt = optim.AdamW({"w": w}, 0.1)
    opt.step({"w": tg.ones((1, 2))})
    good = opt.state()

    def changed(**parts: Any) -> dict[str, Any]:
        return {"count": tg.asarray(9.0), "parameters": {"w": {**good["parameters"]["w"], **parts}}}

    for state, message in (
        (changed(mean=tg.ones((2, 2))), r"'w.mean' has shape \(2, 2\), but \(1, 2\) is needed"),
        (changed(mean=tg.ones((1, 2), dtype=tg.float32)), "'w.mean' has dtype float32, but float64 is needed"),
        (changed(extra=tg.ones((1, 2))), "unknown are 'w.extra'"),
        ({"count": tg.asarray(9.0), "parameters": {}}, "missing are 'w'"),
        ({"count": tg.asarray(9.0)}, "missing are 'parameters'"),
        ({**good, "rate": 1.0}, "unknown are 'rate'"),
        ("nonsense", "a state is a dict"),
        (changed(mean="text"), "'w.mean' is no array"),
    ):
        with pytest.raises(ValueError, match=message):
            opt.restore(state)  # type: ignore[arg-type]
        assert opt.count.item() == 1.0


# -- bad input -----------------------------------------------------------------------------------------------


def test_a_step_without_gradients_says_so() -> None:
    w = tg.tensor([1.0], requires_grad=True)
    for opt in (optim.AdamW([w], 0.1), optim.Split([w], {"0": partial(optim.SGD, rate=0.1)})):
        with pytest.raises(RuntimeError, match="call loss.backward"):
            opt.step()
        assert opt.count.item() == 0
    with pytest.raises(RuntimeError, match="scale.up"):
        optim.Scale().step(optim.SGD([w], 0.1))
    for clip in (optim.clip_norm, optim.clip_value):
        with pytest.raises(RuntimeError, match="call loss.backward"):
            clip([w], 1.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: optim.SGD(m, -0.1), ValueError, "rate must be between 0.0 and inf, not -0.1"),
        (lambda m: optim.SGD(m, math.nan), ValueError, "rate must be"),
        (lambda m: optim.SGD(m, UNFIT["text"]), TypeError, "rate is a number, a Tensor or a function of the count"),
        (lambda m: optim.SGD(m, tg.ones(2)), ValueError, r"the rate has shape \(2,\)"),
        (lambda m: optim.SGD(m, 0.1, nesterov=True), ValueError, "nesterov needs a momentum"),
        (lambda m: optim.Adam(m, 0.1, betas=(0.9, 1.5)), ValueError, "a beta must be between 0.0 and 1.0"),
        (lambda m: optim.AdamW(m, 0.1, decay=["*.kernel"]), ValueError, "no name fits the pattern '\\*.kernel'"),
        (lambda m: optim.AdamW(m, 0.1, decay=UNFIT["integers"]), TypeError, "a pattern is a string"),
        (lambda m: optim.AdamW({}, 0.1), ValueError, "holds no floating-point Tensor"),
        (lambda m: optim.AdamW({"n": tg.asarray(1)}, 0.1), ValueError, "holds no floating-point Tensor"),
        (lambda m: optim.AdamW([m["w"] * 2.0], 0.1), ValueError, "'0' is the result of a recorded operation"),
        (lambda m: optim.Split(m, {"x*": partial(optim.SGD, rate=0.1)}), ValueError, "no name fits the pattern"),
        (lambda m: optim.Split(m, {"w": partial(optim.SGD, rate=0.1)}), ValueError, "no pattern fits 'v': pass rest="),
        (
            lambda m: optim.Split(m, {"*": partial(optim.SGD, rate=0.1), "w": partial(optim.SGD, rate=0.1)}),
            ValueError,
            "earlier patterns take all that fits 'w'",
        ),
        (lambda m: optim.Muon([m["v"]], 0.1), ValueError, "no matrix"),
        (lambda m: optim.SGD([tg.ones(2, dtype="float16")], 0.1, masters=False), ValueError, "leave masters=True"),
        (lambda m: optim.cosine(0.1, 0), ValueError, "steps must be a positive integer"),
        (lambda m: optim.cosine(0.1, 10, warmup=10), ValueError, "must be shorter than all 10"),
        (lambda m: optim.linear(0.1, 10, warmup=-1), ValueError, "warmup is a number of steps"),
        (lambda m: optim.linear(-0.1, 10), ValueError, "rate must be between"),
        (lambda m: optim.piecewise({5: 0.1}), ValueError, "from step 0 on"),
        (lambda m: optim.exponential(0.1, 0.0), ValueError, "the factor must be positive"),
        (lambda m: optim.one_cycle(0.1, 10, rise=1.0), ValueError, "none to fall"),
        (lambda m: optim.Scale(start=0.0), ValueError, "start must be positive"),
        (lambda m: optim.Average(m, decay=2.0), ValueError, "decay must be between 0.0 and 1.0"),
        (lambda m: optim.clip_norm(m, -1.0), ValueError, "limit must be between"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    model = {"w": tg.tensor([[1.0]], requires_grad=True), "v": tg.tensor([1.0], requires_grad=True)}
    with pytest.raises(error, match=message):
        make(model)


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ({"w": tg.ones((1, 1))}, "missing for 'v'"),
        ({"w": tg.ones((1, 1)), "v": tg.ones(1), "u": tg.ones(1)}, "unknown are 'u'"),
        (
            {"w": tg.ones((1, 1)), "v": tg.ones(2)},
            r"'v' has shape \(2,\), float64, on cpu, but the parameter has \(1,\)",
        ),
        ({"w": tg.ones((1, 1)), "v": tg.asarray([1])}, "'v' has shape .*int64"),
        ([tg.ones((1, 1)), tg.ones(1)], "not like the model"),
    ],
)
def test_a_tree_of_gradients_that_does_not_fit_is_named(grads: Any, message: str) -> None:
    model = {"w": tg.ones((1, 1)), "v": tg.ones(1)}
    opt = optim.AdamW(model, 0.1)
    with pytest.raises(ValueError, match=message):
        opt.step(grads)
    assert opt.count.item() == 0
    np.testing.assert_array_equal(model["v"], [1.0])


def test_rates_and_parameters_of_other_devices_are_named() -> None:
    pytest.importorskip("array_api_strict")
    w, v = tg.tensor([1.0], requires_grad=True), tg.tensor([1.0], requires_grad=True, device="strict:CPU_DEVICE")
    elsewhere = tg.tensor(0.1, device="strict:CPU_DEVICE")
    with pytest.raises(ValueError, match="the rate is on strict:CPU_DEVICE, the parameters are on cpu"):
        optim.SGD([w], elsewhere)
    with pytest.raises(ValueError, match="the rate of the schedule is on strict:CPU_DEVICE"):
        optim.SGD([w], lambda count: elsewhere).step([tg.ones(1)])
    with pytest.raises(TypeError, match="the rate of the schedule is a number or a Tensor, not str"):
        optim.SGD([w], lambda count: "fast").step([tg.ones(1)])
    with pytest.raises(TypeError, match="operands on"):
        optim.SGD([w], lambda count: elsewhere * count).step([tg.ones(1)])
    with pytest.raises(ValueError, match="give each device its optimiser by Split"):
        optim.SGD([w, v], 0.1)
    with pytest.raises(ValueError, match=r"Scale\(device='strict:CPU_DEVICE'\)"):
        optim.Scale(device="cpu").up(tg.sum(v))
    v.grad = tg.ones_like(v.detach())
    with pytest.raises(ValueError, match=r"Scale\(device='strict:CPU_DEVICE'\)"):
        optim.Scale(device="cpu").step(optim.SGD([v], 0.1))
    z = tg.tensor([1j], requires_grad=True)
    z.grad = tg.asarray([1j])
    with pytest.raises(TypeError, match="complex numbers have no order"):
        optim.clip_value([z], 1.0)
