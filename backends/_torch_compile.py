"""Captured programs on PyTorch: `torch.compile` where a compiler is found, else call by call.

PyTorch traces the replay into one graph and compiles it to C++ or Triton, which takes 5 to 20 seconds for each program.
It fuses operations: results agree with eager calls up to rounding, not to the bit.

Programs are replayed call by call in three cases: with TAPEGRAD_TORCH_COMPILE=0 in the environment, for complex values,
which the compiler does not support, and after two minutes of compilation, or TAPEGRAD_TORCH_COMPILE_SECONDS.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tapegrad._program.executor import Executor
from tapegrad._program.interpreter import PlainExecutor
from tapegrad._program.ir import Node, Program
from tapegrad.backends._external_compiler import CompiledExecutor
from tapegrad.backends._torch_functions import tracing

SWITCH = "TAPEGRAD_TORCH_COMPILE"
SECONDS = "TAPEGRAD_TORCH_COMPILE_SECONDS"
MOST = 120.0  # seconds that the compiler may take
_warned = False


def executor(program: Program[Node], to_host: Callable[[Any], Any]) -> Executor:
    """Return the executor of a program."""
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
    return CompiledExecutor(
        program, "torch.compile", _compiled, to_host, from_host=lambda v, like: torch.asarray(v, device=like.device)
    )


def has_compiler() -> bool:
    """Return whether there is a C++ compiler for the code that PyTorch generates."""
    return any(name and shutil.which(name) for name in (os.environ.get("CXX"), "g++", "c++", "clang++", "cl"))


def _compiled(replay: Callable[..., Any], arrays: list[Any], given: list[Any]) -> Callable[..., Any]:
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        limit = float(os.environ.get(SECONDS, ""))
    except ValueError:
        limit = MOST

    # Trace the graph first: torch.compile would read the Python code of array_api_compat, and refuses some of it.
    def first() -> tuple[Callable[..., Any], Any]:
        with torch.no_grad():
            with tracing:
                graph = make_fx(replay)(arrays, given)
            function = torch.compile(graph, fullgraph=True, dynamic=False)
            return function, function(arrays, given)

    function, outs = limited(first, limit, f"took more than {limit:g} s ({SECONDS} in the environment allows more)")
    known = [outs]  # the results of the first run

    def run(arrays: list[Any], given: list[Any]) -> Any:
        if known:
            return known.pop()
        with torch.no_grad():
            return function(arrays, given)

    return run


class _Stopped(BaseException):
    """The signal that ends a long compilation; a BaseException, so that handlers of errors do not catch it."""


def limited(call: Callable[[], Any], seconds: float, text: str) -> Any:
    """Call a function with a time limit; raise TimeoutError with a text at the limit.

    A call into native code is not interrupted until it returns. The function runs on this thread, as nothing could end
    another one. A watching thread raises an exception in this thread, and again if the code goes on after it.
    """
    raising = ctypes.pythonapi.PyThreadState_SetAsyncExc
    here, done, lock = ctypes.c_ulong(threading.get_ident()), threading.Event(), threading.Lock()

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):
            with lock:
                if not done.is_set():
                    raising(here, ctypes.py_object(_Stopped))
            wait = 1.0

    watcher = threading.Thread(target=watch, name="tapegrad limit", daemon=True)
    watcher.start()
    try:
        try:
            return call()
        finally:
            with lock:
                done.set()
                raising(here, None)  # cancel a pending exception
            watcher.join()
    except _Stopped:
        raise TimeoutError(text) from None
