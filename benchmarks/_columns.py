"""The columns of the table: libraries and devices that are here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapegrad import backends

PEERS = ("torch", "jax", "autograd", "mygrad")
HAND = "hand numpy"


@dataclass(frozen=True)
class Column:
    """A library at a place.

    place: an argument of its programs, to make their arrays: the module for programs by hand, a device
    string for tapegrad and PyTorch, a device for JAX, None for libraries that know no devices. gpu: whether
    it is compared with the programs by hand on the GPU. compiled: whether its step goes through the
    library's `compile`.
    """

    label: str
    library: str
    place: Any = None
    gpu: bool = False
    compiled: bool = False


def devices() -> list[str]:
    """Return the device strings to measure tapegrad on: all that work here but array-api-strict's."""
    usable = backends.available()
    found = [prefix for prefix in ("cpu", "cuda") if usable[prefix] is None]
    others = ("torch:cpu", "torch:cuda", "jax:cpu", "jax:gpu")
    return found + [d for d in others if usable[d.partition(":")[0]] is None and backends.is_available(d)]


def columns(
    chosen: list[str] | None, peers: Sequence[str] = PEERS, compiled: bool = False, gpu_only: bool = False
) -> tuple[list[Column], list[str]]:
    """Return the columns for these tapegrad devices (None for all) and peers, and notes on peers that are missing.

    compiled: a compiled column too for each of tapegrad's and PyTorch's. gpu_only: no column of a peer on the CPU.
    """
    chosen = devices() if chosen is None else chosen
    found = [Column(HAND, "hand", importlib.import_module("numpy"))]
    if any(device.partition(":")[0] == "cuda" for device in chosen):
        found.append(Column("hand cupy", "hand", importlib.import_module("cupy"), gpu=True))
    for device in chosen:
        found += tapegrad_at(device, f"tapegrad {device}", compiled)
    notes: list[str] = []
    for peer in peers:
        try:
            of_peer = _peer(peer)
            if peer == "torch" and compiled:
                of_peer += _torch_compile(notes, gpu_only)
        except ImportError as error:
            notes.append(f"{peer}: not installed ({error})")
            continue
        found += [column for column in of_peer if column.gpu or not gpu_only]
    return found, notes


def tapegrad_at(device: str, label: str, compiled: bool) -> list[Column]:
    """Return tapegrad's column for a device, and a compiled one if asked for."""
    eager = Column(label, "tapegrad", device, _is_gpu(device))
    return [eager, replace(eager, label=f"{label} compiled", compiled=True)] if compiled else [eager]


def hand_of(column: Column, labels: list[str]) -> str:
    """Return the label of the hand-written column that a column is compared with."""
    return "hand cupy" if column.gpu and "hand cupy" in labels else HAND


def full_precision() -> None:
    """Have JAX, if it is loaded, multiply float32 matrices as such on a GPU, as the others do, and not in TF32."""
    jax = sys.modules.get("jax")
    if jax is not None:
        jax.config.update("jax_default_matmul_precision", "highest")


def _is_gpu(device: str) -> bool:
    return "cuda" in device or "gpu" in device


def _peer(name: str) -> list[Column]:
    module = importlib.import_module(name)
    if name == "torch":
        return [Column("torch" if p == "cpu" else f"torch {p}", "torch", p, _is_gpu(p)) for p in _torch_places(module)]
    if name == "jax":
        full_precision()
        found = [Column("jax.jit", "jax", module.devices("cpu")[0])]
        if backends.is_available("jax:gpu"):
            found.append(Column("jax.jit gpu", "jax", module.devices("gpu")[0], gpu=True))
        return found
    return [Column(name, name)]


def _torch_places(torch: Any) -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _torch_compile(notes: list[str], gpu_only: bool) -> list[Column]:
    """Return the columns of torch.compile where it works: it needs a C++ compiler, on a GPU Triton."""
    import torch

    found = []
    for place in _torch_places(torch):
        if gpu_only and place == "cpu":
            continue
        label = "torch.compile" if place == "cpu" else f"torch.compile {place}"
        try:
            torch.compile(torch.tanh)(torch.ones(2, device=place))
        except Exception as error:  # of many kinds
            notes.append(f"{label}: does not work here ({first_line(error)})")
        else:
            found.append(Column(label, "torch", place, _is_gpu(place), compiled=True))
    return found


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
