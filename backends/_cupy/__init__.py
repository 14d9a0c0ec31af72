"""The CuPy backend: arrays on CUDA devices.

`Adapter` is loaded when it is asked for: kernel texts can be generated, and tested, where there is no CuPy.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "Adapter":
        raise AttributeError(name)
    from tapegrad.backends._cupy.adapter import Adapter

    return Adapter
