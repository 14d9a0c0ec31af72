"""Models: functions of any tree of Tensors, layers beside PyTorch's, modes."""

from __future__ import annotations

import copy
import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad import nn

UNFIT: dict[str, Any] = {"float": 2.0, "int": 7, "list": [tg.relu], "function": lambda: 3}
Pair = namedtuple("Pair", ("left", "right"))


@dataclass
class Data:
    weight: tg.Tensor
    scale: int = 3
    name: str = "data"
    activation: Callable[..., Any] = tg.tanh
    flag: bool = True
    sizes: tuple[int, ...] = (1, 2)
    nothing: Any = None

    def __call__(self, x: Any) -> tg.Tensor:
        return tg.sum(self.activation(self.weight * x) * self.scale)


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value
        self.me = self  # a cycle


class Slotted:
    __slots__ = ("inner", "unset")

    def __init__(self, inner: Any) -> None:
        self.inner = inner


def leaf(*shape: int) -> tg.Tensor:
    return tg.tensor(np.arange(1.0, 1.0 + int(np.prod(shape))).reshape(shape), requires_grad=True)


def rng(device: str = "cpu") -> tg.random.Generator:
    return tg.random.Generator(0, device=device)


# -- functions of models -------------------------------------------------------------------------------------


def test_any_tree_or_object_has_names() -> None:
    shared = leaf(2)
    model: Any = {
        "list": [leaf(1), (leaf(2), None, 3.0)],
        "pair": Pair(leaf(3), Plain({"deep": leaf(4)})),
        "data": Data(leaf(5)),
        "slots": Slotted([shared]),
        "again": shared,
        1: leaf(6),
        "partial": partial(dict, leaf(7), x2=leaf(8)),
        "array": np.ones(3),
        "compiled": tg.compile(lambda x: x),
        "transformed": tg.checkpoint(Data(leaf(9))),
    }
    names = nn.named(model)
    assert {name: x.size for name, x in names.items()} == {
        "list.0": 1,
        "list.1.0": 2,
        "pair.left": 3,
        "pair.right.value.deep": 4,
        "data.weight": 5,
        "slots.inner.0": 2,
        "1": 6,
        "partial.args.0": 7,
        "partial.keywords.x2": 8,
        "transformed.weight": 9,
    }
    assert names["slots.inner.0"] is shared
    assert nn.named(shared) == {"": shared}
    assert nn.named(None) == nn.named([]) == {}
    model["list"].append(model)
    assert nn.named(model) == names


def test_objects_that_know_each_other_are_looked_at_once() -> None:
    nodes = [Plain(leaf(1)) for _ in range(30)]
    for node in nodes:
        node.others = nodes  # type: ignore[attr-defined]
    assert len(nn.named(nodes)) == 30
    assert tg.optim.SGD(nodes, 0.1).step is not None


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two Tensors of the model have the name 'a.b'"):
        nn.named({"a.b": leaf(1), "a": {"b": leaf(1)}})


def test_freezing_by_patterns() -> None:
    model: Any = {"body": {"weight": leaf(1), "bias": leaf(1)}, "head": {"weight": leaf(1)}, "n": tg.asarray(3)}
    model["body"]["weight"].grad = tg.ones(1)
    nn.freeze(model, "body.*")
    assert [x.requires_grad for x in nn.named(model).values()] == [False, False, True, False]
    assert nn.parameters(model) == [model["head"]["weight"]]
    assert model["body"]["weight"].grad is None
    nn.freeze(model, "*.weight", frozen=False)
    assert [x.requires_grad for x in nn.named(model).values()] == [True, False, True, False]
    nn.freeze(model)
    assert nn.parameters(model) == []
    with pytest.raises(ValueError, match="freeze: no name fits the pattern 'tail': the names are 'body.weight'"):
        nn.freeze(model, "head*", "tail", frozen=False)
    assert nn.parameters(model) == []


def test_a_copy_shares_what_the_model_shares() -> None:
    shared = leaf(2)
    shared.grad = tg.ones(2)
    model = Plain([shared, {"x": shared, "frozen": tg.ones(3)}])
    other = nn.copy(model)
    assert other.me is other
    assert other.value[0] is other.value[1]["x"] is not shared
    assert other.value[0].requires_grad
    assert other.value[0].grad is None
    assert not other.value[1]["frozen"].requires_grad
    with tg.no_grad():
        other.value[0] += 1.0
    np.testing.assert_array_equal(shared.detach(), [1.0, 2.0])


def test_loading_moves_and_casts(xp: Place) -> None:
    model = {"w": xp.tensor(np.zeros((2, 2)), requires_grad=True), "n": xp.tensor(np.asarray(0))}
    w, before = model["w"], model["w"].dtype
    done = nn.load(model, {"module.w": np.ones((2, 2), np.float16), "n": 7}, rename={"module.w": "w"})
    assert done == ((), ())
    assert (model["w"] is w, w.dtype, w.requires_grad, model["n"].item()) == (True, before, True, 7)
    xp.check(w.detach(), np.ones((2, 2)))
    other = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True, device="cpu")
    nn.load(model, {"w": other, "n": np.asarray(8)})
    xp.check(w.detach(), [[1.0, 2.0], [3.0, 4.0]])


def test_loading_tensors_of_pytorch_as_they_are(xp: Place) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with tg.default_dtype("float32"):
        model = nn.Sequential(nn.Linear(3, 2, rng=rng(xp.device)), nn.BatchNorm(2))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        nn.load(model, module.to(dtype).state_dict())
        expected = module[0].weight.detach().float().numpy()
        np.testing.assert_array_equal(xp.values(nn.named(model)["0.weight"]), expected)
    with pytest.raises(ValueError, match="'0.weight' is no array"):
        nn.load(model, dict(module.named_parameters()) | dict(module.named_buffers()))  # recorded by PyTorch
    nn.load(model, nn.named(nn.copy(model)))


def test_loading_accepts_either_name_of_a_shared_tensor() -> None:
    shared = leaf(2)
    model = {"emb": {"weight": shared}, "head": {"weight": shared}}
    for names in (("emb.weight",), ("head.weight",), ("emb.weight", "head.weight")):
        nn.load(model, {key: [5.0, 6.0] for key in names})
        np.testing.assert_array_equal(shared.detach(), [5.0, 6.0])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": np.ones((3, 2)), "b": np.ones(2)}, r"'w' has shape \(3, 2\), but \(2, 2\) is needed"),
        ({"w": np.ones((2, 2)), "b": np.ones(2, np.complex64)}, "'b' has dtype complex64, but float64 is needed"),
        ({"w": np.ones((2, 2)), "b": np.ones(2, np.int64)}, "'b' has dtype int64, but float64 is needed"),
        ({"w": np.ones((2, 2)), "b": [1j, 2.0]}, "'b' has dtype complex128, but float64 is needed"),
        ({"w": np.ones((2, 2))}, "missing are 'b': pass rename= for other names, or strict=False"),
        ({"w": np.ones((2, 2)), "b": np.ones(2), "c": np.ones(1)}, "unexpected are 'c'"),
        ({"w": np.ones((2, 2)), "bias": np.ones(2)}, "missing are 'b'; unexpected are 'bias'"),
        ({"w": np.ones((2, 2)), "b": "text"}, "'b' is no array"),
        ({"w": np.ones((2, 2)), "b": np.asarray(["x", "y"])}, "'b' is no array"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_changes(tensors: Any, message: str) -> None:
    model = {"w": tg.zeros((2, 2)), "b": tg.zeros(2)}
    with pytest.raises(ValueError, match=f"load: .*{message}"):
        nn.load(model, tensors)
    assert not tg.any(model["w"] != 0)
    assert not tg.any(model["b"] != 0)


def test_loading_what_fits() -> None:
    model = {"w": tg.zeros(2), "b": tg.zeros(2)}
    done = nn.load(model, {"w": [1.0, 2.0], "x": [1.0]}, strict=False)
    assert (done.missing, done.unexpected) == (("b",), ("x",))
    np.testing.assert_array_equal(model["w"], [1.0, 2.0])
    with pytest.raises(TypeError, match="pass a dict of arrays by name, not list"):
        nn.load(model, [1.0])  # type: ignore[arg-type]


def test_casting_changes_floats_in_place() -> None:
    model = {"w": leaf(2), "frozen": tg.ones(2), "n": tg.asarray(1), "z": tg.asarray(1j)}
    w = model["w"]
    w.grad = tg.ones(2)
    assert nn.cast(model, tg.float32) is model
    assert model["w"] is w
    assert [x.dtype.name for x in model.values()] == ["float32", "float32", "int64", "complex128"]
    assert (w.requires_grad, w.is_leaf) == (True, True)
    assert w.grad is None
    tg.sum(w * w).backward()
    assert w.grad is not None
    with pytest.raises(TypeError, match="cast: the dtype must be a real floating one, not int32"):
        nn.cast(model, tg.int32)
    with pytest.raises(RuntimeError, match="cast: 'y' is the result of a recorded operation"):
        nn.cast({"w": w, "y": w * 2.0}, tg.float64)
    assert w.dtype == tg.float32


# -- dataclasses with static fields --------------------------------------------------------------------------


def test_transforms_take_dataclasses_with_fields_that_are_no_arrays(xp: Place) -> None:
    x = xp.tensor(np.asarray([0.5, -1.0]))
    model = Data(xp.tensor(np.asarray([1.0, 2.0])))
    expected = 3 * np.asarray([0.5, -1.0]) * (1 - np.tanh(np.asarray([0.5, -2.0])) ** 2)
    g = tg.grad(lambda m: m(x))(model)
    assert type(g) is Data
    assert (g.scale, g.name, g.activation, g.flag, g.sizes, g.nothing) == (3, "data", tg.tanh, True, (1, 2), None)
    xp.check(g.weight, expected)
    compiled = tg.compile(tg.grad(lambda m, x: m(x)))
    for _ in range(4):
        xp.check(compiled(model, x).weight, expected)
    assert compiled.program is not None
    model.scale = 2  # another program
    for _ in range(4):
        xp.check(compiled(model, x).weight, expected * 2 / 3)
    xp.check(tg.jvp(lambda m: m(x), (model,), (g,))[1], np.sum(expected * expected) * 2 / 3, rtol=1e-10)
    many = tg.vmap(lambda m, x: m(x), in_axes=(None, 0))(model, tg.stack([x, 2.0 * x]))
    xp.check(many[0], xp.values(model(x)))


def test_a_float_of_a_plain_dataclass_is_differentiated_by_unless_marked() -> None:
    @dataclass
    class Mixed:
        rate: float
        fixed: float = nn.static(2.0)
        items: list[Any] = field(default_factory=list)

    g = tg.grad(lambda m: m.rate**2 * m.fixed * m.items[1](1.0))(Mixed(3.0, items=[5.0, tg.exp]))
    assert (g.rate, g.fixed) == (pytest.approx(12.0 * np.e), 2.0)
    assert g.items[1] is tg.exp


def test_layers_are_trees_of_all_their_attributes() -> None:
    @nn.layer
    class Block:
        first: nn.Linear
        eps: float = 0.5
        sizes: tuple[float, ...] = (1.0, 2.0)

        def __call__(self, x: Any) -> Any:
            return self.first(x) * self.eps

    @nn.layer
    class Net:
        def __init__(self) -> None:
            self.blocks: list[Any] = [Block(nn.Linear(2, 2, rng=rng())), tg.relu]
            self.table = {"w": leaf(2), "f": tg.exp}["w"]
            self.count = nn.static  # a function

        def __call__(self, x: Any) -> Any:
            for f in self.blocks:
                x = f(x)
            return tg.sum(x * self.table)

    class Deeper(Net):
        pass

    kinds: list[Any] = [Net, nn.layer(Deeper)]
    for kind in kinds:
        model = kind()
        g = tg.grad(lambda m: m(tg.ones(2)))(model)
        assert type(g) is kind
        assert g.blocks[0].eps == 0.5
        assert list(nn.named(g)) == list(nn.named(model)) == ["blocks.0.first.weight", "blocks.0.first.bias", "table"]
        model(tg.ones(2)).backward()
        for x, y in zip(nn.named(model).values(), nn.named(g).values(), strict=True):
            np.testing.assert_array_equal(x.grad, y.detach())
    with pytest.raises(TypeError, match="__slots__"):
        nn.layer(Slotted)
    with pytest.raises(TypeError, match="a decorator of a class, not of function"):
        nn.layer(UNFIT["function"])


def test_the_text_of_a_model_fits_on_a_few_lines() -> None:
    r = rng()
    blocks = [nn.Sequential(nn.Linear(300, 200, rng=r), tg.relu, nn.Linear(200, 300, rng=r)) for _ in range(12)]
    text = repr(nn.Sequential(nn.Embedding(5, 300, rng=r), nn.Sequential(*blocks), nn.Linear(300, 5, rng=r)))
    assert text == (
        "Sequential(\n"
        "  Embedding(weight=float64[5, 300]),\n"
        "  Sequential(\n"
        "    12 x Sequential(\n"
        "      Linear(weight=float64[200, 300], bias=float64[200]),\n"
        "      relu,\n"
        "      Linear(weight=float64[300, 200], bias=float64[300]),\n"
        "    ),\n"
        "  ),\n"
        "  Linear(weight=float64[5, 300], bias=float64[5]),\n"
        ")"
    )


# -- layers beside PyTorch's ---------------------------------------------------------------------------------

Case = tuple[Callable[[tg.random.Generator], Any], Callable[[Any], Any], tuple[Any, ...]]


def data(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def torch_attention(t: Any, width: int, heads: int, bias: bool = True) -> Any:
    class Attention(t.MultiheadAttention):  # type: ignore[misc]
        def forward(self, q: Any, k: Any = None, v: Any = None) -> Any:
            k = q if k is None else k
            return super().forward(q, k, k if v is None else v, need_weights=False)[0]

    return Attention(width, heads, bias=bias, batch_first=True)


LAYERS: dict[str, Case] = {
    "Linear": (lambda r: nn.Linear(3, 5, rng=r), lambda t: t.Linear(3, 5), (data(2, 4, 3),)),
    "Linear of a vector": (lambda r: nn.Linear(3, 5, rng=r), lambda t: t.Linear(3, 5), (data(3),)),
    "Linear without bias": (
        lambda r: nn.Linear(3, 5, bias=False, rng=r),
        lambda t: t.Linear(3, 5, bias=False),
        (data(2, 3),),
    ),
    "Embedding": (
        lambda r: nn.Embedding(7, 3, rng=r),
        lambda t: t.Embedding(7, 3),
        (np.asarray([[1, 2, 2], [6, 0, 1]]),),
    ),
    "Sequential": (
        lambda r: nn.Sequential(nn.Linear(3, 4, rng=r), tg.relu, nn.Linear(4, 2, rng=r)),
        lambda t: t.Sequential(t.Linear(3, 4), t.ReLU(), t.Linear(4, 2)),
        (data(5, 3),),
    ),
    "Conv": (lambda r: nn.Conv(3, 4, 3, rng=r), lambda t: t.Conv2d(3, 4, 3), (data(2, 3, 6, 5),)),
    "Conv of one axis": (
        lambda r: nn.Conv(4, 6, (3,), stride=2, padding=1, dilation=2, groups=2, bias=False, rng=r),
        lambda t: t.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False),
        (data(2, 4, 9),),
    ),
    "Conv of three axes": (
        lambda r: nn.Conv(2, 3, (3, 1, 3), padding="same", rng=r),
        lambda t: t.Conv3d(2, 3, (3, 1, 3), padding="same"),
        (data(2, 2, 3, 4, 5),),
    ),
    "ConvTranspose": (
        lambda r: nn.ConvTranspose(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, rng=r),
        lambda t: t.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (data(2, 4, 3, 4),),
    ),
    "LayerNorm": (lambda r: nn.LayerNorm((3, 4)), lambda t: t.LayerNorm((3, 4)), (data(2, 3, 4),)),
    "LayerNorm without bias": (
        lambda r: nn.LayerNorm(4, bias=False, eps=0.1),
        lambda t: t.LayerNorm(4, bias=False, eps=0.1),
        (data(2, 3, 4),),
    ),
    "RMSNorm": (lambda r: nn.RMSNorm(4), lambda t: t.RMSNorm(4), (data(2, 3, 4),)),
    "GroupNorm": (lambda r: nn.GroupNorm(2, 6), lambda t: t.GroupNorm(2, 6), (data(2, 6, 3),)),
    "BatchNorm": (lambda r: nn.BatchNorm(3), lambda t: t.BatchNorm2d(3), (data(4, 3, 2, 2),)),
    "BatchNorm of rows": (
        lambda r: nn.BatchNorm(3, momentum=0.3),
        lambda t: t.BatchNorm1d(3, momentum=0.3),
        (data(5, 3),),
    ),
    "Attention": (lambda r: nn.Attention(8, 2, rng=r), lambda t: torch_attention(t, 8, 2), (data(2, 5, 8),)),
    "Attention without bias": (
        lambda r: nn.Attention(6, 3, bias=False, rng=r),
        lambda t: torch_attention(t, 6, 3, bias=False),
        (data(5, 6),),
    ),
    "Attention to others": (
        lambda r: nn.Attention(8, 2, rng=r),
        lambda t: torch_attention(t, 8, 2),
        (data(2, 5, 8), data(2, 3, 8), data(2, 3, 8) + 1.0),
    ),
    "LSTM": (lambda r: nn.LSTM(3, 4, rng=r), lambda t: t.LSTM(3, 4, batch_first=True), (data(2, 5, 3),)),
    "LSTM, all options": (
        lambda r: nn.LSTM(3, 2, layers=2, bidirectional=True, bias=False, rng=r),
        lambda t: t.LSTM(3, 2, 2, bidirectional=True, bias=False, batch_first=True),
        (data(2, 4, 3),),
    ),
    "LSTM of one sequence": (lambda r: nn.LSTM(3, 4, rng=r), lambda t: t.LSTM(3, 4, batch_first=True), (data(5, 3),)),
    "GRU": (lambda r: nn.GRU(3, 4, rng=r), lambda t: t.GRU(3, 4, batch_first=True), (data(2, 5, 3),)),
    "GRU, all options": (
        lambda r: nn.GRU(3, 2, layers=2, bidirectional=True, bias=False, rng=r),
        lambda t: t.GRU(3, 2, 2, bidirectional=True, bias=False, batch_first=True),
        (data(2, 4, 3), data(4, 2, 2)),
    ),
    "CNN": (
        lambda r: nn.Sequential(
            nn.Conv(1, 4, 3, padding=1, bias=False, rng=r), nn.BatchNorm(4), tg.relu, nn.Conv(4, 2, 3, stride=2, rng=r)
        ),
        lambda t: t.Sequential(
            t.Conv2d(1, 4, 3, padding=1, bias=False), t.BatchNorm2d(4), t.ReLU(), t.Conv2d(4, 2, 3, stride=2)
        ),
        (data(3, 1, 6, 6),),
    ),
}


def outputs(y: Any) -> list[Any]:
    return [v for part in y for v in outputs(part)] if isinstance(y, (tuple, list)) else [y]


def loss_of(xp: Any, ys: list[Any]) -> Any:
    return sum((xp.sum(xp.sin(y)) for y in ys[1:]), start=xp.sum(xp.sin(ys[0])))


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_load_what_pytorch_saved_and_do_the_same(name: str, train: bool, tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file
    from safetensors.torch import save_file

    assert safetensors
    make, theirs, inputs = LAYERS[name]
    torch.manual_seed(3)
    module = theirs(torch.nn).double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64) * 0.5)  # also biases and scales that begin as 0 and 1
        for b in module.buffers():
            if b.dtype.is_floating_point:
                b.copy_(torch.rand(b.shape, dtype=torch.float64) + 0.5)
    module.train(train)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    model = make(rng())
    assert nn.load(model, load_file(tmp_path / "model.safetensors")) == ((), ())
    given = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    mine = [tg.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    expected = outputs(module(*given))
    with nn.training(rng()) if train else nn.evaluation():
        got = outputs(model(*mine))
    for y, z in zip(got, expected, strict=True):
        np.testing.assert_allclose(y.detach(), z.detach().numpy(), rtol=1e-9, atol=1e-12)
    loss_of(torch, expected).backward()
    loss_of(tg, got).backward()
    gradients = dict(module.named_parameters())
    for key, x in nn.named(model).items():
        if x.requires_grad:
            np.testing.assert_allclose(x.grad, gradients[key].grad.numpy(), rtol=1e-8, atol=1e-11, err_msg=key)  # type: ignore[arg-type]
    for x, y in zip(mine, given, strict=True):
        if x.requires_grad:
            np.testing.assert_allclose(x.grad, y.grad.numpy(), rtol=1e-8, atol=1e-11)  # type: ignore[arg-type]
    after = module.state_dict()  # running statistics
    assert list(nn.named(model)) == list(after)
    for key, x in nn.named(model).items():
        np.testing.assert_allclose(x.detach(), after[key].numpy(), rtol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_on_every_place_eager_compiled_and_by_tree(xp: Place, name: str) -> None:
    make, _, inputs = LAYERS[name]
    with tg.default_dtype("float64" if xp.double else "float32"):
        model = make(rng(xp.device))
        with tg.default_device("cpu"):
            host = make(rng())
    nn.load(model, {key: np.asarray(x.detach()) for key, x in nn.named(host).items()})
    xs = [xp.tensor(x) for x in inputs]

    def cost(model: Any, *xs: Any) -> tg.Tensor:
        loss: tg.Tensor = loss_of(tg, outputs(model(*xs)))
        return loss

    reference = cost(host, *[tg.asarray(x, device="cpu") for x in inputs])
    reference.backward()
    expected = {key: np.asarray(x.grad) for key, x in nn.named(host).items() if x.requires_grad}
    compiled = tg.no_grad()(tg.compile(tg.value_and_grad(cost)))  # else gradients are recorded for second ones
    for _ in range(3):
        value, g = compiled(model, *xs)
        xp.check(value, np.asarray(reference.detach()), rtol=1e-9)
    for key, x in nn.named(g).items():
        if key in expected:
            xp.check(x, expected[key], rtol=1e-9)
    cost(model, *xs).backward()
    for key, x in nn.named(model).items():
        if x.requires_grad:
            xp.check(x.grad, expected[key], rtol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_keep_their_type_and_names(name: str) -> None:
    make, _, inputs = LAYERS[name]
    model = make(rng())
    other = copy.deepcopy(model)
    assert repr(other) == repr(model)
    assert len(repr(model)) < 400
    nn.load(other, nn.named(model))
    nn.cast(other, tg.float32)
    xs = [tg.asarray(x, dtype=tg.float32) if x.dtype.kind == "f" else tg.asarray(x) for x in inputs]
    for y, z in zip(outputs(other(*xs)), outputs(model(*[tg.asarray(x) for x in inputs])), strict=True):
        assert y.dtype == tg.float32
        np.testing.assert_allclose(y.detach(), z.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_a_seed_begin_alike_in_a_dtype(name: str) -> None:
    make, _, _ = LAYERS[name]
    with tg.default_dtype("float32"):
        a, b = make(rng()), make(rng())
    for x, y in zip(nn.named(a).values(), nn.named(b).values(), strict=True):
        assert x.dtype.name in ("float32", "int64")
        np.testing.assert_array_equal(x.detach(), y.detach())


@pytest.mark.parametrize("name", [name for name in LAYERS if "Embedding" not in name])
def test_layers_compute_in_the_precision_that_is_asked_for(name: str) -> None:
    make, _, inputs = LAYERS[name]
    model = make(rng())
    xs = [tg.asarray(x) for x in inputs]

    @tg.compile
    def step() -> Any:
        ys = outputs(model(*xs))
        loss_of(tg, [tg.astype(y, tg.float64) for y in ys]).backward()
        return [y.detach() for y in ys]

    full = step()
    for x in nn.parameters(model):
        x.grad = None
    with nn.precision("float16"):
        for _ in range(4):  # the programs of either are kept apart
            half = step()
            for x in nn.parameters(model):
                assert x.grad is not None
                assert x.grad.dtype == tg.float64
                x.grad = None
    for y, z in zip(full, half, strict=True):
        assert y.dtype == tg.float64
        np.testing.assert_allclose(y, tg.astype(z, tg.float64), rtol=0.05, atol=0.05)
    if "Norm" not in name:
        assert half[0].dtype == tg.float16


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda r: nn.Linear(3, 2, rng=r)(tg.ones((2, 4))),
            ValueError,
            r"Linear: the input has shape \(2, 4\), but the last axis must have length 3",
        ),
        (lambda r: nn.Linear(3, 2, rng=r)(tg.ones(())), ValueError, r"Linear: the input has shape \(\)"),
        (
            lambda r: nn.Linear(3, 2, rng=r)([1.0, 2.0, 3.0]),
            TypeError,
            "Linear: the input is a Tensor or an array, not list",
        ),
        (lambda r: nn.Linear(0, 2, rng=r), ValueError, "Linear: n_in must be a positive integer, not 0"),
        (
            lambda r: nn.Linear(3, UNFIT["float"], rng=r),
            ValueError,
            "Linear: n_out must be a positive integer, not 2.0",
        ),
        (lambda r: nn.Linear(3, 2, rng=UNFIT["int"]), TypeError, "pass a generator"),
        (
            lambda r: nn.Embedding(3, 2, rng=r)(tg.ones(2)),
            TypeError,
            "Embedding: the input is a Tensor of integers, not float64",
        ),
        (lambda r: nn.Embedding(3, 2, rng=r)(tg.asarray([3])), IndexError, "3"),
        (
            lambda r: nn.Sequential(UNFIT["list"]),
            TypeError,
            r"layer 0 is not callable, but a list: write Sequential\(\*layers\)",
        ),
        (
            lambda r: nn.Conv(3, 2, 3, rng=r)(tg.ones((2, 4, 5, 5))),
            ValueError,
            r"Conv: the input has shape \(2, 4, 5, 5\), but axis -3 must have length 3",
        ),
        (lambda r: nn.Conv(3, 2, (1, 1, 1, 1), rng=r), ValueError, "one to three axes"),
        (lambda r: nn.Conv(3, 2, 3, groups=2, rng=r), ValueError, "groups=2 must divide n_in=3 and n_out=2"),
        (lambda r: nn.ConvTranspose(3, 2, 3, rng=r)(tg.ones((2, 3, 5))), ValueError, "ConvTranspose: the input has"),
        (lambda r: nn.LayerNorm(3)(tg.ones((2, 4))), ValueError, r"LayerNorm: .* but the last axes must be \(3,\)"),
        (lambda r: nn.LayerNorm((4, 3))(tg.ones(3)), ValueError, r"LayerNorm: .* but the last axes must be \(4, 3\)"),
        (lambda r: nn.RMSNorm(3)([1.0]), TypeError, "RMSNorm: the input is a Tensor or an array, not list"),
        (lambda r: nn.LayerNorm(()), ValueError, "one last axis or more"),
        (lambda r: nn.GroupNorm(2, 3), ValueError, "groups=2 must divide n=3"),
        (lambda r: nn.BatchNorm(3)(tg.ones((2, 4))), ValueError, "BatchNorm: .* but axis 1 must have length 3"),
        (lambda r: nn.BatchNorm(3, momentum=2.0), ValueError, "momentum is the share of the batch"),
        (lambda r: nn.Dropout(1.5), ValueError, "from 0 to 1, not 1.5"),
        (lambda r: nn.Attention(6, 4, rng=r), ValueError, "heads=4 must divide width=6"),
        (lambda r: nn.Attention(6, 3, dropout=1.5, rng=r), ValueError, "Attention: .* from 0 to 1, not 1.5"),
        (
            lambda r: nn.Attention(6, 3, rng=r)(tg.ones((2, 4))),
            ValueError,
            "Attention: the input has shape .* length 6",
        ),
        (lambda r: nn.Attention(6, 3, rng=r)(tg.ones(6)), ValueError, r"Attention: .*\(6,\)"),
        (lambda r: nn.LSTM(3, 2, rng=r)(tg.ones((2, 5, 4))), ValueError, "LSTM: the input has shape .* length 3"),
        (lambda r: nn.LSTM(3, 2, rng=r)(tg.ones((2, 0, 3))), ValueError, "with a time or more"),
        (lambda r: nn.LSTM(3, 2, rng=r)(tg.ones((2, 5, 3)), tg.ones((1, 2, 2))), ValueError, r"a pair \(h, cell\)"),
        (
            lambda r: nn.GRU(3, 2, rng=r)(tg.ones((2, 5, 3)), tg.ones((1, 5, 2))),
            ValueError,
            r"GRU: the state has shape \(1, 5, 2\), but \(1, 2, 2\) is needed",
        ),
        (lambda r: nn.training(UNFIT["int"]).__enter__(), TypeError, "training: pass a generator"),
        (lambda r: nn.precision("int8").__enter__(), TypeError, "precision: the dtype must be a real floating one"),
        (lambda r: nn.init.orthogonal(r, 3), ValueError, "two axes or more"),
    ],
)
def test_wrong_use_is_named(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(rng())


# -- first values --------------------------------------------------------------------------------------------


def test_first_values_have_their_moments(xp: Place) -> None:
    r = tg.random.Generator(1, device=xp.device)
    shape = (40, 30, 3)
    for f, std in ((nn.init.glorot, (2 / (90 + 120)) ** 0.5), (nn.init.he, (2 / 90) ** 0.5), (nn.init.lecun, 90**-0.5)):
        for uniform in (False, True):
            x = xp.values(f(r, shape, tg.float32, uniform=uniform))
            assert (x.shape, x.dtype) == (shape, np.float32)
            assert abs(x.std() / std - 1) < 0.05
            assert abs(x.mean()) < 0.05 * std
            if uniform:
                assert np.abs(x).max() <= 3**0.5 * std
    for sizes in ((4, 6), (6, 4), (4, 2, 3), (0, 3)):
        x = xp.values(nn.init.orthogonal(r, sizes, tg.float32, gain=2.0)).reshape(sizes[0], int(np.prod(sizes[1:])))
        product = x @ x.T if sizes[0] <= x.shape[1] else x.T @ x
        np.testing.assert_allclose(product, 4.0 * np.eye(len(product)), atol=1e-4)
    assert not xp.values(nn.init.zeros(r, (2, 3), tg.float32)).any()


# -- modes ---------------------------------------------------------------------------------------------------


def test_a_step_compiled_in_one_mode_is_not_replayed_in_another() -> None:
    from tapegrad._engine.settings import training_mode

    r, other = rng(), rng()

    @tg.compile
    def draw(x: tg.Tensor) -> tg.Tensor:
        mode = training_mode.get()
        return x if mode is None else x + mode.rng.uniform((2,))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            np.testing.assert_array_equal(draw(tg.zeros(2)), [0.0, 0.0])
            with nn.training(r):
                a = draw(tg.zeros(2))
            np.testing.assert_array_equal(a, other.uniform((2,)))
            third = tg.random.Generator(5)
            with nn.training(third):
                a = draw(tg.zeros(2))
            np.testing.assert_array_equal(a, tg.random.Generator(5).uniform((2,)))


def test_a_compiled_call_sees_numbers_of_layers_that_are_changed() -> None:
    r = rng()
    model = nn.Sequential(nn.LayerNorm(4), nn.Dropout(0.0), nn.Linear(4, 2, rng=r))
    nn.freeze(model)
    x = tg.asarray(data(3, 4))

    @tg.compile
    def call() -> tg.Tensor:
        y: tg.Tensor = model(x)
        return y

    for eps in (1e-5, 1.0):
        model[0].eps = eps
        for _ in range(4):
            np.testing.assert_allclose(call(), model(x), rtol=1e-12)
    with nn.training(r):
        for rate in (0.0, 1.0):
            model[1].rate = rate
            for _ in range(4):
                np.testing.assert_allclose(call(), model(x), rtol=1e-12)
    setattr(model, "2", nn.Linear(4, 2, bias=False, rng=r))
    nn.freeze(model)
    for _ in range(4):
        np.testing.assert_allclose(call(), model(x), rtol=1e-12)


def test_modes_hold_for_their_thread_and_nest() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from tapegrad._engine.settings import precision_mode, training_mode

    with nn.training(), nn.precision("float32"):
        assert training_mode.get() is not None
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(training_mode.get).result() is None
            assert pool.submit(precision_mode.get).result() is None
        with nn.evaluation(), nn.precision(None):
            assert training_mode.get() is None
            assert precision_mode.get() is None
        assert training_mode.get() is not None
    assert training_mode.get() is None


def test_dropout_drops_inside_training_alone(xp: Place) -> None:
    model, x = nn.Sequential(nn.Dropout(0.25), nn.Dropout(0.0)), xp.tensor(np.ones(4000))
    xp.check(model(x), np.ones(4000))
    r = rng(xp.device)
    with nn.training(r):
        first, second = xp.values(model(x)), xp.values(model(x))
        with nn.evaluation():
            xp.check(model(x), np.ones(4000))
    np.testing.assert_allclose(np.unique(first), [0.0, 4 / 3], rtol=1e-6)
    assert abs(first.mean() - 1.0) < 0.05
    assert (first != second).any()
    with nn.training(), pytest.raises(RuntimeError, match="with tapegrad.nn.training"):
        model(x)


def test_attention_drops_in_training_only() -> None:
    layer = nn.Attention(8, 2, dropout=0.5, rng=tg.random.Generator(0))
    same = nn.Attention(8, 2, rng=tg.random.Generator(0))
    x = tg.asarray(np.random.default_rng(0).normal(size=(2, 5, 8)))
    np.testing.assert_array_equal(layer(x).detach(), same(x).detach())
    with nn.training(tg.random.Generator(1)):
        first, second = layer(x), layer(x)
        np.testing.assert_array_equal(same(x).detach(), same(x).detach())
    assert not np.array_equal(first.detach(), second.detach())
    with nn.training(), pytest.raises(RuntimeError, match="Attention: inside training.. there is no generator"):
        layer(x)


def test_a_compiled_step_with_dropout_and_batch_norm_is_the_eager_one(xp: Place) -> None:
    def program() -> tuple[Any, Callable[[], Any]]:
        with tg.default_dtype("float64" if xp.double else "float32"):
            r = rng(xp.device)
            parts = nn.Linear(3, 8, rng=r), nn.BatchNorm(8), tg.relu, nn.Dropout(0.5), nn.Linear(8, 2, rng=r)
        model = nn.Sequential(*parts)
        opt = tg.optim.AdamW(model, 0.01, decay=["0.*"])
        x = xp.tensor(np.random.default_rng(0).normal(size=(6, 3)))

        def step() -> Any:
            with nn.training(r):
                loss = tg.sum(model(x) ** 2)
            loss.backward()
            opt.step()
            return loss

        return model, step

    a, eager = program()
    b, plain = program()
    compiled = tg.compile(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = []
        for _ in range(6):
            value = compiled()
            losses.append(value.item())
            xp.check(value, xp.values(eager()), rtol=1e-9)
    assert len(set(losses)) == 6
    for x, y in zip(nn.named(a).values(), nn.named(b).values(), strict=True):
        xp.check(x.detach(), xp.values(y.detach()), rtol=1e-8)
    assert nn.named(b)["1.num_batches_tracked"].item() == 6


@pytest.mark.parametrize("how", ["stored", "computed"])
@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float16"), ("torch:cpu", "bfloat16")])
def test_training_in_16_bits(device: str, dtype: str, how: str) -> None:
    """With parameters of 16 bits, and with products of 16 bits beside parameters of 32; compiled to the bit."""
    if device != "cpu":
        pytest.importorskip("torch")

    def losses(through: Callable[..., Any]) -> list[float]:
        with tg.default_dtype("float32"), tg.default_device(device):
            r = rng(device)
            parts = nn.Linear(3, 16, rng=r), nn.LayerNorm(16), tg.gelu, nn.Dropout(0.1), nn.Linear(16, 1, rng=r)
            model = nn.Sequential(*parts)
            x = r.uniform((64, 3), -1.0, 1.0)
            y = tg.sum(x * x, axis=1, keepdims=True)
            if how == "stored":
                nn.cast(model, dtype)
                x = tg.astype(x, dtype)
            opt = tg.optim.AdamW(model, tg.optim.cosine(0.02, 60, warmup=5))
            scale = tg.optim.Scale(device=device)

        def step() -> tg.Tensor:
            with nn.training(r), nn.precision(dtype if how == "computed" else None):
                out = model(x)
            assert out.dtype.name == dtype
            loss = tg.mean((tg.astype(out, "float32") - y) ** 2)
            scale.up(loss).backward()
            scale.step(opt, clip=1.0)
            return loss

        run = through(step)
        return [run().item() for _ in range(60)]

    found = losses(lambda f: f)
    assert found[-1] < 0.15 * found[0]
    assert losses(tg.compile) == found


@pytest.mark.parametrize("compiled", [False, True])
def test_a_checkpoint_trains_as_its_function_does(compiled: bool) -> None:
    """The second computation drops the same elements, after the block too, and updates no statistics."""

    def gradients(through: Callable[..., Any]) -> list[Any]:
        r = rng()
        model = nn.Sequential(nn.Linear(3, 4, rng=r), nn.BatchNorm(4), nn.Dropout(0.5), nn.Linear(4, 2, rng=r))
        f, x = through(model), tg.asarray(data(6, 3))

        def step() -> None:
            with nn.training(r), nn.precision("float32"):
                loss = tg.sum(f(x) ** 2)
            loss.backward()

        run = tg.compile(step) if compiled else step
        for _ in range(4):
            for x_ in nn.parameters(model):
                x_.grad = None
            run()
        found = [x_.grad if x_.requires_grad else x_ for x_ in nn.named(model).values()]
        return [np.asarray(x_) for x_ in found]

    for x, y in zip(gradients(lambda f: f), gradients(tg.checkpoint), strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6)


def test_batch_norm_is_updated_inside_transforms() -> None:
    model = nn.BatchNorm(2)
    mean = model.running_mean
    x = tg.asarray([[1.0, 2.0], [3.0, 6.0]])
    with nn.training(), tg.no_grad():
        g = tg.grad(lambda m: tg.sum(m(x) ** 3))(model)
    np.testing.assert_allclose(mean, [0.2, 0.4])
    assert g.running_mean is model.running_mean is mean
    assert not mean.requires_grad
    assert nn.parameters(model) == [model.weight, model.bias]
    nn.freeze(model)
    nn.freeze(model, frozen=False)
    assert nn.parameters(model) == [model.weight, model.bias]
    with nn.training(), pytest.raises(ValueError, match="1 values a channel, which have no variance"):
        model(x[:1])
    with nn.training(), pytest.raises(RuntimeError, match="inside vmap each example would have running statistics"):
        tg.vmap(model)(tg.stack([x, x]))
    np.testing.assert_allclose(mean, [0.2, 0.4])


def test_layers_under_vmap_and_in_forward_mode() -> None:
    r = rng()
    model = nn.Sequential(nn.Linear(3, 4, rng=r), nn.LayerNorm(4), tg.tanh)
    x = tg.asarray(data(5, 3))
    np.testing.assert_allclose(tg.vmap(model)(x).detach(), model(x).detach(), rtol=1e-12)
    frozen = nn.copy(model)
    nn.freeze(frozen)
    value, tangent = tg.jvp(frozen, (x,), (tg.ones_like(x),))
    shifted = frozen(x + 1e-6)
    np.testing.assert_allclose(tangent, (shifted - value) / 1e-6, atol=1e-4)
    many = tg.vmap(tg.grad(lambda m, x: tg.sum(m(x))), in_axes=(None, 0))(frozen, x)
    assert nn.named(many)["0.weight"].shape == (5, 4, 3)  # a gradient for each example


def test_an_object_of_python_is_a_model() -> None:
    """No base class, no decorator."""

    class Net:
        def __init__(self, r: tg.random.Generator) -> None:
            self.body = [nn.Linear(3, 16, rng=r), nn.Linear(16, 1, rng=r)]
            self.shift = tg.tensor([0.5], requires_grad=True)

        def __call__(self, x: tg.Tensor) -> tg.Tensor:
            y: tg.Tensor = self.body[1](tg.tanh(self.body[0](x))) + self.shift
            return y

    r = rng()
    model = Net(r)
    opt = tg.optim.Adam(model, tg.optim.cosine(0.05, 200))
    x = r.uniform((32, 3), -1.0, 1.0)
    y = tg.sum(x * x, axis=1, keepdims=True)

    @tg.compile
    def step() -> tg.Tensor:
        loss = tg.mean((model(x) - y) ** 2)
        loss.backward()
        opt.step()
        return loss

    losses = [step().item() for _ in range(200)]
    assert losses[-1] < 0.05 * losses[0]


# -- summary -------------------------------------------------------------------------------------------------


def test_a_summary_counts_what_a_call_does() -> None:
    r = rng()
    shared = nn.Linear(4, 4, rng=r)
    model = nn.Sequential(nn.Conv(2, 4, 3, padding=1, rng=r), nn.BatchNorm(4), tg.relu, shared, shared)
    x = tg.asarray(data(3, 2, 5, 4))
    found = nn.summary(model, x)
    assert [(row.name, row.kind, row.shape) for row in found.rows] == [
        ("", "Sequential", "(3, 4, 5, 4)"),
        ("0", "Conv", "(3, 4, 5, 4)"),
        ("1", "BatchNorm", "(3, 4, 5, 4)"),
        ("3", "Linear", "(3, 4, 5, 4)"),
    ]
    rows = {row.name: row for row in found.rows}
    elements = 3 * 4 * 5 * 4
    assert rows["0"].flops == 2 * elements * 2 * 9 + elements  # products, and the bias
    assert rows["3"].flops == 2 * (2 * elements * 4 + elements)
    assert (rows["0"].parameters, rows["1"].parameters, rows["3"].parameters) == (4 * 2 * 9 + 4, 17, 20)
    assert (found.parameters, found.others) == (76 + 8 + 20, 9)
    assert found.flops == sum(row.flops for row in found.rows)
    assert rows["0"].kept == 0  # the input and the weight are there anyway
    # The inputs of both calls: that of the first is relu's, whose channels lie last, copied as rows.
    assert rows["3"].kept == 2 * 8 * elements
    assert rows[""].kept == 8 * elements
    nn.freeze(model, "0.*")
    frozen = nn.summary(model, x)
    assert (frozen.parameters, frozen.kept) == (28, found.kept - 4 * 8)  # no gradient needs the norm's factors
    nn.freeze(model)
    assert nn.summary(model, x).kept == 0
    text = repr(found).splitlines()
    assert text[0].split() == ["result", "parameters", "FLOP", "kept", "for", "backward"]
    assert text[-1] == "of the parameters 104 require a gradient"


def test_a_summary_of_a_plain_object_and_of_several_arguments() -> None:
    class Net:
        def __init__(self) -> None:
            self.table = {"first": nn.GRU(3, 4, rng=rng()), "second": [nn.Dropout(0.5)]}
            self.me = self

        def __call__(self, x: tg.Tensor, scale: float) -> Any:
            y, h = self.table["first"](x)  # type: ignore[operator]
            return {"y": self.table["second"][0](y) * scale, "h": h}  # type: ignore[index]

    with nn.training(rng()):
        found = nn.summary(Net(), tg.ones((2, 5, 3)), scale=2.0)
    assert [(row.name, row.kind, row.shape) for row in found.rows] == [
        ("", "Net", "(2, 5, 4), (1, 2, 4)"),
        ("table.first", "GRU", "(2, 5, 4), (1, 2, 4)"),
        ("table.second.0", "Dropout", "(2, 5, 4)"),
    ]
    with pytest.raises(TypeError, match="a dict is not callable"):
        nn.summary({"w": tg.ones(2)})


def test_attention_with_a_mask_is_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    model = nn.Attention(8, 2, rng=rng())
    nn.load(model, {key: x.numpy() for key, x in module.state_dict().items()})
    x, seen = data(3, 5, 8), np.random.default_rng(0).random((5, 5)) < 0.7
    seen |= np.eye(5, dtype=bool)
    for mine, hidden in (({"causal": True}, np.triu(np.ones((5, 5), bool), 1)), ({"mask": tg.asarray(seen)}, ~seen)):
        given = torch.tensor(x)
        expected = module(given, given, given, attn_mask=torch.tensor(hidden), need_weights=False)[0]
        np.testing.assert_allclose(
            model(tg.asarray(x), **mine).detach(), expected.detach().numpy(), rtol=1e-9, atol=1e-12
        )
