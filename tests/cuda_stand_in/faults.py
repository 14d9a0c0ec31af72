"""Machines with something wrong: no driver, an old one, too little memory, a device that is gone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cuda_stand_in import library

_TYPES: dict[str, Any] = {
    "device_count": ctypes.c_int,
    "driver_version": ctypes.c_int,  # 0: no driver
    "memory_limit": ctypes.c_size_t,  # bytes of all devices together
    "fault": ctypes.c_int,  # the error of every launch, copy and wait
}


@contextmanager
def simulated(**settings: int) -> Iterator[None]:
    """Have a device with other properties in a block: those of the names above."""
    variables = {name: _TYPES[name].in_dll(library.loaded(), name) for name in settings}
    before = {name: v.value for name, v in variables.items()}
    for name, v in variables.items():
        v.value = settings[name]
    try:
        yield
    finally:
        for name, v in variables.items():
            v.value = before[name]
