"""A pytest plugin: Python evaluates frames by a function of ours, as it does once torch.compile was used.

Calls of Python functions then copy references to their arguments, which they otherwise take over. What is told by
reference counts must not change by that.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

SOURCE = """
extern void *_PyEval_EvalFrameDefault(void *, void *, int);
void *evaluate(void *thread, void *frame, int raises) { return _PyEval_EvalFrameDefault(thread, frame, raises); }
"""


def install() -> None:
    """Have all frames evaluated by a function that only calls CPython's own."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "evaluate.c"), Path(folder, "evaluate.so")
        source.write_text(SOURCE)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        evaluate = ctypes.PyDLL(str(library)).evaluate
    api = ctypes.pythonapi
    api.PyInterpreterState_Get.restype = ctypes.c_void_p
    api._PyInterpreterState_SetEvalFrameFunc.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    interpreter = api.PyInterpreterState_Get()
    api._PyInterpreterState_SetEvalFrameFunc(interpreter, ctypes.cast(evaluate, ctypes.c_void_p))


def pytest_configure() -> None:
    """Install it after the package was imported, as users do who import PyTorch later."""
    import tapegrad  # noqa: F401

    install()
