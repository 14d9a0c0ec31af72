"""Threads of this process that the code of large compiled programs runs on.

A program whose work is shared holds a call `run_all([code 0, code 1])`. Code 0 runs on the calling thread, code 1 on a
helper, which waits for a lock in between. The helpers belong to the process, and one program has them at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import copy_context
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


class Job:
    """Code that a helper runs once.

    ended: false while a helper has it; over: a lock that the helper unlocks then; error: the one that the code raised.
    """

    __slots__ = ("code", "context", "ended", "error", "over")

    def __init__(self, code: Code) -> None:
        self.code = code
        self.context = copy_context()  # np.errstate of the calling thread is a variable of its context
        self.ended = True
        self.error: BaseException | None = None
        self.over = Lock()
        self.over.acquire()


class Helper:
    """A thread that runs code for others.

    A job is handed over by a lock, which takes a tenth of the time of a queue.
    """

    def __init__(self) -> None:
        self._go = Lock()
        self._go.acquire()
        self._job: Any = None
        Thread(target=self._loop, name="tapegrad", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._go.acquire()
            job = self._job
            try:
                job.context.run(run_code, job.code)
            # Any error is handed to who waits, so that the helper lives on.
            except BaseException as error:
                job.error = error
            job.ended = True
            job.over.release()

    def start(self, job: Job) -> None:
        """Run a job beside the calling thread."""
        # Python looks for Ctrl-C after calls: a job that has begun is known as such.
        job.ended = False
        self._job = job
        self._go.release()


def _wait(jobs: list[Job]) -> None:
    """Return when no helper has one of these jobs; raise Ctrl-C not before."""
    # Helpers write to buffers of the program, whose next call must find them at rest.
    interrupted: BaseException | None = None
    while True:
        try:
            for job in jobs:
                if not job.ended:
                    job.over.acquire()
            break
        except BaseException as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


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
            jobs = [Job(code) for code in codes[1:]]
            try:
                for helper, job in zip(self.helpers, jobs, strict=False):
                    helper.start(job)
                run_code(codes[0])
            finally:
                _wait(jobs)
            for job in jobs:
                if job.error is not None:
                    raise job.error
        finally:
            self.free.release()


team = Team()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=team.__init__)  # type: ignore[misc]  # threads do not survive a fork


def run_all(codes: list[Code]) -> None:
    """Run codes at once, on as many threads."""
    team.run(codes)


def run_ranges(work: Callable[[range], None], count: int, threads: int) -> None:
    """Call a function for all numbers below `count`, with a range of about equal length on each thread."""
    if threads < 2:
        work(range(count))
        return
    run_all([[(work, (range(t * count // threads, (t + 1) * count // threads),))] for t in range(threads)])
