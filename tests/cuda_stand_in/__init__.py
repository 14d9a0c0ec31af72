"""A stand-in for CUDA on a machine without a GPU: `python -m pytest -p cuda_stand_in`, or `install()` before CuPy.

Nothing changes where it is only imported. README.md says how it works and what it cannot show.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator

import pytest

from cuda_stand_in import compiler, libraries, library
from cuda_stand_in.counters import Counts, counted, counters
from cuda_stand_in.faults import simulated
from cuda_stand_in.library import is_installed
from cuda_stand_in.requirements import Unavailable, check

__all__ = ["Counts", "Unavailable", "counted", "counters", "install", "is_installed", "simulated"]


def install() -> None:
    """Put the stand-in in CUDA's place in this process; Unavailable where that cannot be."""
    if is_installed():
        return
    check()
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB is CUDA's own
    os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
    library.load()
    from cupy_backends.cuda.api import runtime

    library.replace_runtime(runtime.__file__)
    import cupy.cuda.compiler

    library.replace_cublas()
    cupy.cuda.compiler._compile_module_with_cache = compiler.compile_module_with_cache
    cupy.cuda.compiler._get_arch = lambda: "90"
    libraries.replace()
    library.loaded().set_special(libraries.special)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Generator[None, object, object]:
    """Install the stand-in for a session of tests, before a conftest.py can import CuPy."""
    try:
        install()
    except Unavailable as error:
        raise pytest.UsageError(str(error)) from None
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Keep the kernels that tapegrad generates in this session, for test_nvrtc.py."""
    if "CUDA_STAND_IN_TEXTS" not in os.environ:
        folder = os.environ["CUDA_STAND_IN_TEXTS"] = tempfile.mkdtemp(prefix="cuda-texts-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
