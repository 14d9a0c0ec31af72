"""State: values that are checked whole, then written to Tensors that stay the same objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tapegrad._engine.dispatch import backend_of, native_device
from tapegrad._engine.dtypes import KIND_RANKS
from tapegrad._engine.mode import no_grad
from tapegrad._engine.tensor import Tensor
from tapegrad.nn._walk import listed
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import asarray


def fitted(what: str, name: str, target: Tensor, value: Any, exact: bool = True) -> Tensor:
    """Return a value as a Tensor like the target; ValueError names both shapes or dtypes if it does not fit.

    exact: whether the dtype must be the same; else it is of the same kind, and is cast.
    """
    try:
        if type(value) is Tensor:
            x = value.detach()
        else:
            of_host = isinstance(value, np.ndarray | np.generic) or not hasattr(value, "dtype")
            x = asarray(value, device="cpu" if of_host else None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {name!r} is no array ({error})") from error
    if x.shape != target.shape:
        raise ValueError(f"{what}: {name!r} has shape {x.shape}, but {target.shape} is needed")
    plain = not hasattr(value, "dtype")  # a number or list of Python
    if (
        KIND_RANKS[x.dtype.kind] > KIND_RANKS[target.dtype.kind]
        if plain
        else (x.dtype != target.dtype if exact else x.dtype.kind != target.dtype.kind)
    ):
        raise ValueError(f"{what}: {name!r} has dtype {x.dtype.name}, but {target.dtype.name} is needed")
    if backend_of[type(x._array)].has_dtype(target.dtype.name, native_device(x._array)):
        x = astype(x, target.dtype, copy=False)  # first, as the other device may lack the dtype of the value
    return asarray(x, dtype=target.dtype, device=target.device)


def same_names(what: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError unless two mappings have the same names."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what}: a state is a dict, as state() gives it, not {type(given).__name__}")
    missing = [n for n in wanted if n not in given]
    unknown = [n for n in given if n not in wanted]
    if missing or unknown:
        raise ValueError(
            f"{what}: the state does not fit: missing are {listed(missing)}; unknown are {listed(unknown)}"
        )


def restored(what: str, targets: Mapping[str, Tensor], values: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of a Tensor and the value to write to it, after all checks; nothing is changed."""
    same_names(what, values, targets)
    return [(x, fitted(what, name, x, values[name])) for name, x in targets.items()]


def write(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Write values to Tensors in place."""
    with no_grad():
        for x, value in pairs:
            x[...] = value
