"""Refused arguments of a captured program, such as labels out of range, without a wait for the device.

A kernel evaluates the conditions within the graph. If one holds, it sets `stop` and a flag in host memory. Kernels that
write state do nothing while `stop` is set, in this call and in all that follow, until the host has seen the flag: at
the next call or the next wait, whichever comes first. Then the error is raised, and state is as it was before the call
that was refused. Results of that call, and of those after it, mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import cupy

from tapegrad.backends._array import Array
from tapegrad.backends._cupy.deferred_checks import Flags


class Refusals(Flags):
    """The flags of a program's refusals; stop: whether one of its calls was refused and not yet reported."""

    def __init__(self, errors: list[Callable[[], Exception]]) -> None:
        super().__init__(len(errors), errors)
        self.stop = cupy.zeros((), "bool")
        self.stream = cupy.cuda.get_current_stream()  # that of the last call

    def arguments(self, conditions: list[Array]) -> tuple[Array, ...]:
        """Return the arguments of `kernel`."""
        return (self.stop, *self._flags, *conditions)

    def launched(self) -> None:
        """Have the next wait on the current stream report a refusal."""
        super().launched()
        self.stream = cupy.cuda.get_current_stream()

    def raise_first(self) -> None:
        """Raise the error of the first refusal, and let the calls that follow write state again."""
        try:
            super().raise_first()
        except Exception:
            with cupy.cuda.Device(self.device), self.stream:  # after the calls that were made before it was noticed
                self.stop.fill(0)
            raise


def kernel(name: str, count: int) -> str:
    """Return the text of the kernel that evaluates so many conditions."""
    # One thread evaluates all: there are few, each of one element.
    flags = "".join(f", unsigned char* f{i}" for i in range(count))
    conditions = "".join(f", const bool* c{i}" for i in range(count))
    checks = "".join(f"  if (*c{i}) {{ *f{i} = 1; *stop = true; }}\n" for i in range(count))
    return f'extern "C" __global__ void {name}(bool* stop{flags}{conditions}) {{\n{checks}}}\n'


def guarded(source: str) -> str:
    """Return the text of a kernel that takes `stop` as its last argument and does nothing while it is set."""
    return source.replace(") {\n", ", const bool* refused) {\n  if (*refused) return;\n", 1)
