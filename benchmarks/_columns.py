"""The columns of the table: which libraries and devices are here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from tapegrad import backends

PEERS = ("torch", "jax", "autograd", "mygrad")
HAND = "hand numpy"


@dataclass(frozen=True)
class Column:
    """A library at a place.

    place: what its programs get to make their arrays with: the module for what is written by hand, a device
    string for tapegrad and PyTorch, a device for JAX, None for libraries that know no devices. gpu: whether
    it is compared with what is written by hand on the GPU.
    """

    label: str
    library: str
    place: Any = None
    gpu: bool = False


def devices() -> list[str]:
    """Return the device strings to measure tapegrad on: all that work here but array-api-strict's."""
    usable = backends.available()
    found = [prefix for prefix in ("cpu", "cuda") if usable[prefix] is None]
    others = ("torch:cpu", "torch:cuda", "jax:cpu", "jax:gpu")
    return found + [d for d in others if usable[d.partition(":")[0]] is None and backends.is_available(d)]


def columns(chosen: list[str] | None, peers: bool) -> tuple[list[Column], list[str]]:
    """Return the columns for these tapegrad devices (None for all), and notes on peers that are missing."""
    chosen = devices() if chosen is None else chosen
    found = [Column(HAND, "hand", importlib.import_module("numpy"))]
    if any(device.partition(":")[0] == "cuda" for device in chosen):
        found.append(Column("hand cupy", "hand", importlib.import_module("cupy"), gpu=True))
    found += [Column(f"tapegrad {device}", "tapegrad", device, _is_gpu(device)) for device in chosen]
    notes = []
    for peer in PEERS if peers else ():
        try:
            found += _peer(peer)
        except ImportError as error:
            notes.append(f"{peer}: not installed ({error})")
    return found, notes


def hand_of(column: Column, labels: list[str]) -> str:
    """Return the label of the hand-written column that a column is compared with."""
    return "hand cupy" if column.gpu and "hand cupy" in labels else HAND


def _is_gpu(device: str) -> bool:
    return "cuda" in device or "gpu" in device


def _peer(name: str) -> list[Column]:
    module = importlib.import_module(name)
    if name == "torch":
        places = ["cpu", "cuda"] if module.cuda.is_available() else ["cpu"]
        return [Column("torch" if p == "cpu" else f"torch {p}", "torch", p, _is_gpu(p)) for p in places]
    if name == "jax":
        # By default JAX multiplies float32 matrices in TF32 on a GPU, which the others do not.
        module.config.update("jax_default_matmul_precision", "highest")
        found = [Column("jax.jit", "jax", module.devices("cpu")[0])]
        if backends.is_available("jax:gpu"):
            found.append(Column("jax.jit gpu", "jax", module.devices("gpu")[0], gpu=True))
        return found
    return [Column(name, name)]
