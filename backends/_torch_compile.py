"""Captured programs on PyTorch: `torch.compile` where a compiler is found, else call by call.

PyTorch traces the replay into one graph and has it compiled to C++ or Triton, which takes 5 to 20 seconds for each
program. It fuses: results agree with eager calls up to rounding, not to the bit. TAPEGRAD_TORCH_COMPILE=0 in the
environment has programs replayed call by call instead, and so are those with complex values, which it has no code for.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tapegrad.backends._handed_over import HandedOver
from tapegrad.backends._replay import PlainExecutor

SWITCH = "TAPEGRAD_TORCH_COMPILE"
_warned = False


def executor(program: Any, to_host: Callable[[Any], Any]) -> Any:
    """Return what runs a program."""
    global _warned
    if os.environ.get(SWITCH) == "0" or any(v.dtype.is_complex for n in program.nodes for v in n.outs):
        return PlainExecutor(program)
    if not has_compiler():
        if not _warned:
            _warned = True
            text = (
                "compile: torch.compile needs a C++ compiler (set CXX, or install g++), and none is found, so that "
                f"programs are replayed call by call; {SWITCH}=0 in the environment asks for that without this warning"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return PlainExecutor(program)
    return HandedOver(program, "torch.compile", _compiled, to_host)


def has_compiler() -> bool:
    """Say whether there is a C++ compiler for what PyTorch generates."""
    return any(name and shutil.which(name) for name in (os.environ.get("CXX"), "g++", "c++", "clang++", "cl"))


def _compiled(replay: Callable[..., Any], arrays: list[Any], given: list[Any]) -> Callable[..., Any]:
    from torch.fx.experimental.proxy_tensor import make_fx

    # The graph first: torch.compile would read the Python of array_api_compat, and refuses some of it.
    with torch.no_grad():
        function = torch.compile(make_fx(replay)(arrays, given), fullgraph=True, dynamic=False)

    def run(arrays: list[Any], given: list[Any]) -> Any:
        with torch.no_grad():
            return function(arrays, given)

    return run
