"""Code: lists of calls `(function, arguments)`, which are patched where an array changes.

The arguments of most calls are arrays that stay the same objects. A reference among them stands for an array of the
present call. Where it stands is noted by its root, as a linker notes relocations::

    code                                   patches
    0  exp(x0, buffer A)                   x0: 0
    1  multiply(buffer A, buffer A, out)   out: 1

When the array of x0 is another, call 0 is made anew with it, and call 1 stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad._program.ir import Value
from tapegrad.backends._numpy.executor.references import roots_of
from tapegrad.backends._numpy.executor.threads import Call, Code, run_all

Patch = tuple[Code, int, Callable[..., Any], tuple[Any, ...]]  # code, place in it, and the call with its references


class Writer:
    """The code of a program, as it is written.

    code: run on the calling thread; patches: the calls to make anew, by the root whose array changes; threaded: whether
    some code is run on several threads.
    """

    def __init__(self) -> None:
        self.code: Code = []
        self.patches: dict[Value, list[Patch]] = {}
        self.threaded = False

    def emit(self, code: Code, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Append a call to some code."""
        # A call with two views of one root is made anew once.
        for root in dict.fromkeys(roots_of(args)):
            self.patches.setdefault(root, []).append((code, len(code), function, args))
        code.append((function, args))

    def emit_all(self, code: Code, calls: list[Call]) -> None:
        """Append calls to some code."""
        for function, args in calls:
            self.emit(code, function, args)

    def emit_threads(self, code: Code, codes: list[Code]) -> None:
        """Append a call that runs codes at once, each on a thread."""
        self.emit(code, run_all, (codes,))
        self.threaded = True
