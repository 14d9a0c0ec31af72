"""Saving and loading: a model's Tensors, or nested dicts of Tensors and plain values, as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.mode import no_grad
from tapegrad._engine.tensor import Tensor, host
from tapegrad._training.tensor_file import Array, Content, flat, read, write
from tapegrad.backends import of_device
from tapegrad.nn import named
from tapegrad.ops.creation import asarray

Path_ = str | PathLike[str]


def save(path: Path_, tree: Any, *, note: str | None = None) -> None:
    """Save the Tensors of a model, or of nested dicts, in a safetensors file, whole or not at all.

    The file is written under another name, brought to the disk, and put in the place of an old one in one step. The
    names are those of `tg.nn.named`: `layers.0.weight`. PyTorch, JAX and others read the file.

    Parameters
    ----------
    path : str or path
        The file; its folder is there.
    tree : model, or dict
        Any tree or object that holds Tensors, as for `tg.nn.named`. Dicts may also hold arrays, numbers, strings,
        booleans, None, and lists of these.
    note : str or None, default None
        A text for people, kept in the file.

    Raises
    ------
    TypeError
        A dict holds objects that cannot be saved.
    ValueError
        Two Tensors would have the same name.
    OSError
        The disk is full, or the folder is not there; an old file stays as it was.
    ImportError
        The package safetensors is not installed.

    Examples
    --------
    >>> import tapegrad as tg, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/weights.safetensors"
    ...     tg.save(path, {"w": tg.asarray([1.0, 2.0]), "steps": 10})
    ...     tg.load(path)
    {'w': Tensor([1., 2.]), 'steps': 10}
    """
    if isinstance(tree, Mapping):
        leaves = flat(tree, ".")
        tree = {name: x if is_array(x) or is_plain(x) else _named(name, x) for name, x in leaves.items()}
        found = flat(tree, ".")
    else:
        found = dict(_named("", tree))
    write(as_path("save", path), content_of(found, note))


def _named(prefix: str, model: Any) -> dict[str, Tensor]:
    tensors = named(model)
    if not tensors:
        where = f"{prefix!r} holds" if prefix else "there is"
        raise TypeError(f"save: {where} no Tensor, in an object of type {type(model).__name__}")
    return tensors


def load(path: Path_, *, device: str | None = None) -> dict[str, Any]:
    """Load a safetensors file, of tapegrad or of another program, as a flat dict.

    Give it to `tg.nn.load` to put the values into a model. No code in a file is run.

    Parameters
    ----------
    path : str or path
        The file.
    device : str or None, default None
        Where the Tensors are; None for the default device.

    Returns
    -------
    dict of str to Tensor
        Tensors by name, with the file's dtypes; plain values that `tg.save` put there, too.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, a pickle, of another format, or of a later version.
    TypeError
        The device lacks a dtype of the file.
    ImportError
        The package safetensors is not installed.

    Examples
    --------
    >>> import tapegrad as tg, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/weights.safetensors"
    ...     tg.save(path, {"layers": {"0": tg.asarray([1.0, 2.0])}})
    ...     tg.load(path)
    {'layers.0': Tensor([1., 2.])}
    """
    if device is not None:
        of_device(device)  # raises for an unknown one, before the file is read
    content = read(as_path("load", path))
    return {name: asarray(x, device=device) for name, x in content.arrays.items()} | content.values


def as_path(name: str, path: Any) -> Path:
    """Return a path; raise TypeError with the name of the function if it is none."""
    try:
        return Path(path)
    except TypeError as error:
        raise TypeError(f"{name}: a path is a string or a pathlib.Path, not {type(path).__name__}") from error


def content_of(leaves: Mapping[str, Any], note: str | None) -> Content:
    """Return named leaves as a file has them: arrays on the host, and plain values."""
    arrays = {name: on_host(x) for name, x in leaves.items() if is_array(x)}
    values = {name: x.item() if isinstance(x, np.generic) else x for name, x in leaves.items() if name not in arrays}
    for name, x in values.items():
        if not is_plain(x):
            raise TypeError(
                f"save: {name!r} is of type {type(x).__name__}; arrays, numbers, strings, booleans, None, and lists of "
                "these can be saved"
            )
    return Content(arrays, values, note)


def is_array(x: Any) -> bool:
    """Return whether something is saved as an array."""
    return isinstance(x, Tensor | np.ndarray) or type(x) in backend_of


def is_plain(x: Any) -> bool:
    """Return whether something is saved as a plain value."""
    if isinstance(x, list):
        return all([is_plain(item) for item in x])
    return x is None or isinstance(x, bool | int | float | str | np.bool_ | np.integer | np.floating) or x == {}


def on_host(x: Any) -> Array:
    """Return an array of any library as one of NumPy, bfloat16 as that of ml_dtypes."""
    if isinstance(x, np.ndarray):
        return x
    with no_grad():
        tensor = asarray(x)
    if tensor.dtype.name != "bfloat16":
        return host(tensor)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("saving bfloat16 needs ml_dtypes: pip install ml_dtypes") from error
    return host(tensor).astype(ml_dtypes.bfloat16)
