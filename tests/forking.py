"""A function run in a forked process, which is stopped if it hangs."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable


def in_child(f: Callable[[], bool], seconds: int = 20) -> int:
    """Run a function in a forked process; return 0 if it returned True, else the status that the system gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        try:
            os._exit(0 if f() else 1)
        except BaseException:
            os._exit(2)
    return os.waitpid(child, 0)[1]
