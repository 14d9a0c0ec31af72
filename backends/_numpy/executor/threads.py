"""Threads of this process that the code of large compiled programs runs on.

A program whose work is shared holds a call `run_all([code 0, code 1])`. Code 0 runs on the calling thread, code 1 on a
helper, which waits for a lock in between. The helpers belong to the process, and one program has them at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Context, copy_context
from threading import Lock, Thread
from typing import Any

Call = tuple[Callable[..., Any], tuple[Any, ...]]
Code = list[Call]


def thread_count(asked: int | None) -> int:
    """Return how many threads to use: as asked, else as the usual variables say, else one a core."""
    if asked is not None:
        return asked
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return max(1, int(os.environ[name]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_code(code: Code) -> None:
    """Run code: call one function after the other."""
    for function, args in code:
        function(*args)


class Helper:
    """A thread that runs code for others.

    It is handed over by two locks, which takes a tenth of the time of a queue.
    """

    def __init__(self) -> None:
        self._go, self._done = Lock(), Lock()
        # Both begin locked: `start` unlocks the first for the helper, which unlocks the second for `wait`.
        self._go.acquire()
        self._done.acquire()
        self._code: Code = []
        self._context = Context()
        self._error: BaseException | None = None
        Thread(target=self._loop, name="tapegrad", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._go.acquire()
            try:
                self._context.run(run_code, self._code)
            # Any error is handed to who waits, so that the helper lives on.
            except BaseException as error:
                self._error = error
            self._done.release()

    def start(self, code: Code) -> None:
        """Run code under the np.errstate of the calling thread, which is a variable of its context."""
        self._code, self._context = code, copy_context()
        self._go.release()

    def wait(self) -> BaseException | None:
        """Return when the code has run: the error it raised, if any."""
        self._done.acquire()
        error, self._error, self._code = self._error, None, []
        return error


class Team:
    """The helpers of this process."""

    def __init__(self) -> None:
        self.helpers: list[Helper] = []
        self.free = Lock()

    def run(self, codes: list[Code]) -> None:
        """Run codes at once, the first on the calling thread; one after the other if the helpers are busy."""
        # Busy helpers are not waited for: another thread of the user runs a program.
        if not self.free.acquire(blocking=False):
            for code in codes:
                run_code(code)
            return
        try:
            # Helpers are made at first use and stay: starting a thread takes longer than most programs.
            while len(self.helpers) < len(codes) - 1:
                self.helpers.append(Helper())
            helping = self.helpers[: len(codes) - 1]
            for helper, code in zip(helping, codes[1:], strict=True):
                helper.start(code)
            # Helpers are waited for in any case, as they write to buffers of this program.
            try:
                run_code(codes[0])
            finally:
                errors = [error for helper in helping if (error := helper.wait()) is not None]
            if errors:
                raise errors[0]
        finally:
            self.free.release()


team = Team()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=team.__init__)  # type: ignore[misc]  # threads do not survive a fork


def run_all(codes: list[Code]) -> None:
    """Run codes at once, on as many threads."""
    team.run(codes)
