"""Models: any tree or object that holds Tensors, and functions of all its Tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

from tapegrad._engine.dtypes import as_dtype, isdtype
from tapegrad._engine.tensor import Tensor, make_leaf
from tapegrad.nn._state import fitted, write
from tapegrad.nn._walk import every_name, found, listed, matching
from tapegrad.ops.conversion import astype
from tapegrad.typing import ArrayLike, DTypeLike

M = TypeVar("M")


class Loaded(NamedTuple):
    """The names that `load` passed over with `strict=False`.

    Attributes
    ----------
    missing : tuple of str
        Names of the model that were not given.
    unexpected : tuple of str
        Names given that the model does not have.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.load({"w": tg.zeros(1)}, {"v": [1.0]}, strict=False)
    Loaded(missing=('w',), unexpected=('v',))
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def named(model: Any) -> dict[str, Tensor]:
    """Return the Tensors of a model by dotted name.

    A model is a Tensor, a dict, list, tuple, named tuple, dataclass or any object with attributes, nested in any way.
    A Tensor that it holds twice has its first name; cycles do no harm. Buffers, such as the running mean of a
    batch-norm layer, are among them.

    Parameters
    ----------
    model : object
        The model.

    Returns
    -------
    dict of str to Tensor
        The Tensors themselves, in the order of attributes and items.

    Raises
    ------
    ValueError
        Two Tensors have one name, as in {"a.b": x, "a": {"b": y}}.

    Examples
    --------
    >>> import tapegrad as tg
    >>> list(tg.nn.named({"layers": [tg.ones(1), tg.ones(2)], "bias": tg.ones(3)}))
    ['layers.0', 'layers.1', 'bias']
    """
    tensors: dict[str, Tensor] = {}
    for name, x, _ in found(model):
        if name in tensors:
            raise ValueError(f"named: two Tensors of the model have the name {name!r}: rename one of them")
        tensors[name] = x
    return tensors


def parameters(model: Any) -> list[Tensor]:
    """Return the Tensors of a model that require a gradient, each once.

    Parameters
    ----------
    model : object
        The model: see `named`.

    Returns
    -------
    list of Tensor
        The Tensors themselves.

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = {"w": tg.tensor([1.0], requires_grad=True), "table": tg.ones(3)}
    >>> len(tg.nn.parameters(model))
    1
    """
    return [x for _, x, _ in found(model) if x.requires_grad]


def freeze(model: Any, *patterns: str, frozen: bool = True) -> None:
    """Have Tensors of a model require no gradient, or require one again.

    Buffers, which static fields hold, never require one.

    Parameters
    ----------
    model : object
        The model: see `named`.
    *patterns : str
        Names with `*` for any text; all names if there are none. One that begins with "*." fits a name without a dot,
        too.
    frozen : bool, default True
        False to have them require a gradient again.

    Raises
    ------
    ValueError
        No name fits a pattern; nothing is changed.

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = {"body": tg.tensor([1.0], requires_grad=True), "head": tg.tensor([1.0], requires_grad=True)}
    >>> tg.nn.freeze(model, "body*")
    >>> [name for name, x in tg.nn.named(model).items() if x.requires_grad]
    ['head']
    """
    tensors = {f.name: f for f in found(model)}
    for name in matching("freeze", patterns or ("*",), list(tensors)):
        x = tensors[name].tensor
        if frozen:
            x.requires_grad = False
            x.grad = None
        elif not tensors[name].static and isdtype(x.dtype, ("real floating", "complex floating")):
            x.requires_grad = True


def copy(model: M) -> M:
    """Return a copy of a model with Tensors of its own, shared where those of the model are.

    Gradients are not copied.

    Parameters
    ----------
    model : object
        The model: see `named`.

    Returns
    -------
    object
        A model of the same types.

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = {"w": tg.tensor([1.0], requires_grad=True)}
    >>> other = tg.nn.copy(model)
    >>> other["w"] is model["w"], other["w"].requires_grad
    (False, True)
    """
    made = deepcopy(model)
    for _, x, _ in found(made):
        if x.is_leaf:
            x.grad = None
    return made


def load(
    model: Any,
    tensors: Mapping[str, ArrayLike],
    *,
    rename: Mapping[str, str] | Callable[[str], str] | None = None,
    strict: bool = True,
) -> Loaded:
    """Give the Tensors of a model new values, in place, by name.

    All is checked first: if anything does not fit, nothing is changed. Values are cast to the dtype of the model within
    one kind, as from float16 to float32, and moved to its device. A Tensor that the model holds twice may be given by
    either name.

    Parameters
    ----------
    model : object
        The model: see `named`.
    tensors : mapping of str to ArrayLike
        New values by name: the result of `named`, a `state_dict` of PyTorch, or the contents of a safetensors file.
    rename : mapping, callable or None, default None
        The name in the model for each given name: a function, or a dict of those that differ.
    strict : bool, default True
        Whether every name must be on both sides; if not, those on one side are passed over.

    Returns
    -------
    Loaded
        The names that were passed over.

    Raises
    ------
    ValueError
        Names are missing or unexpected, or a shape or kind of dtype differs: the message names them.
    TypeError
        `tensors` is no mapping.

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = {"w": tg.zeros(2)}
    >>> _ = tg.nn.load(model, {"module.w": [1.0, 2.0]}, rename=lambda name: name.removeprefix("module."))
    >>> model["w"]
    Tensor([1., 2.])
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(f"load: pass a dict of arrays by name, not {type(tensors).__name__}")
    table = rename if isinstance(rename, Mapping) else {}
    to_name = rename if callable(rename) else lambda name: table.get(name, name)
    mine = {f.name: f.tensor for f in every_name(model)} | named(model)
    pairs: list[tuple[Tensor, Tensor]] = []
    unexpected: list[str] = []
    for given, value in tensors.items():
        name = to_name(given)
        if name not in mine:
            unexpected.append(given)
            continue
        shown = name if name == given else f"{given} (renamed {name})"
        pairs.append((mine[name], fitted("load", shown, mine[name], value, exact=False)))
    reached = {id(x) for x, _ in pairs}
    missing = [name for name, x in named(model).items() if id(x) not in reached]
    if strict and (missing or unexpected):
        lacks = f"missing are {listed(missing)}" if missing else ""
        more = f"unexpected are {listed(unexpected)}" if unexpected else ""
        raise ValueError(
            f"load: the names do not fit: {'; '.join(filter(None, (lacks, more)))}: pass rename= for other names, or "
            "strict=False to load those that fit. Nothing was changed"
        )
    write(pairs)
    return Loaded(tuple(missing), tuple(unexpected))


def cast(model: M, dtype: DTypeLike) -> M:
    """Give all floating-point Tensors of a model another dtype, in place.

    Do so before an optimiser is made, which keeps float32 copies of parameters of 16 bits. To compute in 16 bits with
    parameters of 32, use `precision`.

    Parameters
    ----------
    model : object
        The model: see `named`.
    dtype : DTypeLike
        A real floating dtype.

    Returns
    -------
    object
        The model itself.

    Raises
    ------
    TypeError
        The dtype is not a real floating one, or the device does not have it.
    RuntimeError
        A Tensor of the model is the result of a recorded operation.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.cast({"w": tg.ones(2), "ids": tg.arange(2)}, tg.float32)
    {'w': Tensor([1., 1.], dtype=float32), 'ids': Tensor([0, 1])}
    """
    wanted = as_dtype(dtype)
    if not isdtype(wanted, "real floating"):
        raise TypeError(f"cast: the dtype must be a real floating one, not {wanted.name}")
    floats = [f for f in found(model) if isdtype(f.tensor.dtype, "real floating")]
    for name, x, _ in floats:
        if not x.is_leaf:
            raise RuntimeError(f"cast: {name!r} is the result of a recorded operation: use tapegrad.astype(x, dtype)")
    values = [astype(x.detach(), wanted) for _, x, _ in floats]
    for (_, x, _), value in zip(floats, values, strict=True):
        required = x.requires_grad
        x.grad = None
        x._array, x._record = value._array, None
        if required:
            make_leaf(x)
    return model
