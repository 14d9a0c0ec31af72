"""Executor of a compiled program: it runs calls that were planned once.

A call of a compiled function goes through `Executor.run`:

1. Copy on write: a donated state array that somebody else can see is replaced by a copy that this executor owns.
2. Binding: where an input is another array than at the last call, the calls that take it are made anew (`code`).
3. Double buffering: an output whose latest array somebody still holds gets another one.
4. The code is run.

Whether others hold an array is told by its reference count, in CPython's terms, and by that of the `base` that owns its
memory, as views have one. Such a count is read where the array is a local variable, and never of an argument: a call
holds its arguments once more while something evaluates frames in CPython's place, as torch.compile does. A program in
which `w -= 0.1 * g`, with the gradient g an output too, so writes into the same two arrays at each call, if the user
keeps neither::

    call 1    w is the user's: copied to W     g is written to G
    call 2    w is W: written in place         the Tensor of g holds G: g is written to H
    call 3    w is W: written in place         nobody holds G any more: g is written to G
"""

from __future__ import annotations

from collections.abc import Collection
from sys import getrefcount
from typing import Any

import numpy as np

from tapegrad._program.ir import Program, Value
from tapegrad.backends._array import Array
from tapegrad.backends._numpy.executor import blas
from tapegrad.backends._numpy.executor.buffers import new_buffer
from tapegrad.backends._numpy.executor.plan import plan_of
from tapegrad.backends._numpy.executor.references import NDArray, Operand, Ref, actual
from tapegrad.backends._numpy.executor.threads import run_code, thread_count

TENSOR = 1  # the reference to a state array that its Tensor will hold once a call is done


class _Output:
    """An output that gets an array which nobody else holds at each call (double buffering).

    latest, before: its arrays of the last call and the one before; count: references to the latest that are ours.
    """

    def __init__(self, value: Value) -> None:
        self.value = value
        self.latest: NDArray | None = None
        self.before: NDArray | None = None
        self.count = 0

    def references(self) -> int:
        """Return how many references there are to the latest array or its memory."""
        a: Any = self.latest
        return getrefcount(a) + getrefcount(a.base)

    def is_held(self, ours: int, lent: Collection[int]) -> bool:
        """Say whether somebody else holds the latest array; ours: the references of this executor.

        lent: identities of arrays that one more holds, who lets go of them in this call.
        """
        lenders = id(self.latest) in lent
        return self.references() != ours + lenders

    def swap(self, lent: Collection[int]) -> NDArray:
        """Make the array before the latest one, or a new one if somebody holds it.

        Most users let go of arrays. That array is in the cache, and pages of new memory cost more than it takes to
        compute their contents.
        """
        self.latest, self.before = self.before, self.latest
        if self.latest is None or self.is_held(UNHELD, lent):
            self.latest = new_buffer(self.value.shape, self.value.dtype)
        return self.latest


def _unheld() -> int:
    out = _Output(Value((), np.dtype(bool)))
    out.latest = new_buffer((), np.dtype(bool))
    return out.references()


UNHELD = _unheld()  # references to an output's array that is in no code and that nobody else holds


class Executor:
    """Executor of one program, called with the arrays of its inputs.

    lent: identities of earlier outputs whose holder lets go of them in the next call.
    """

    how = "calls into planned buffers"

    def __init__(self, program: Program, threads: int | None = None) -> None:
        self.program = program
        self.plan = plan = plan_of(program, thread_count(threads))
        self.code, self.checks = plan.writer.code, plan.checks
        self.bound: list[Any] = [None] * len(program.inputs)  # the array of each input at the last call
        # Donated inputs, and the references to the array of each while only this executor and its Tensor hold it.
        self.owned: dict[int, int] = {k: -1 for k, v in enumerate(program.inputs) if v in plan.donated}
        self.copied: set[int] = set()  # inputs of which a view gave a copy: bound at each call, as the array may change
        self.outputs = [plan.placement.array(v) for v in program.outputs]
        self.lent: Collection[int] = ()
        self.fresh = [_Output(v) for v in plan.fresh]
        for out in self.fresh:
            self._renew(out)

    @property
    def nbytes(self) -> int:
        """The bytes of planned buffers: the memory of a run beyond inputs and outputs."""
        return self.plan.placement.pool.nbytes

    @property
    def lends(self) -> bool:
        """True if a call may write over the arrays that are lent: it raises before it does, if at all."""
        return self.checks.come_first

    def run(self, arrays: list[Array]) -> list[Array]:
        """Return the outputs for these inputs; write updated state in its place."""
        inputs, bound, lent = self.program.inputs, self.bound, self.lent
        # `is_held` is written out below: these are loops over all parameters at each call.
        for k, count in self.owned.items():
            a: Any = arrays[k]
            if a is not bound[k] or getrefcount(a) + getrefcount(a.base) != count:
                a = None
                self._own(k, arrays)
        for k, a in enumerate(arrays):
            if a is not bound[k] or k in self.copied:
                self._bind(inputs[k], a, k)
                bound[k] = a
        for out in self.fresh:
            a = out.latest
            if getrefcount(a) + getrefcount(a.base) != out.count + (id(a) in lent):
                self._renew(out)
        a = None  # no reference to an input or output that the next call would count
        self.checks.passed = self.checks.absent
        if self.plan.holds_blas:
            with blas.held():
                run_code(self.code)
        else:
            run_code(self.code)
        return [_handed_out(out) if type(out) is Ref else out for out in self.outputs]

    def refused(self) -> bool:
        """Say whether the last run raised in a check: where `lends` holds, before it wrote to an output."""
        return not self.checks.passed

    def _own(self, k: int, arrays: list[Array]) -> None:
        """Put a copy, which only this executor and the Tensor will hold, in the place of a state array."""
        copy = new_buffer(arrays[k].shape, arrays[k].dtype)
        np.copyto(copy, arrays[k])
        self._bind(self.program.inputs[k], copy, k)
        self.bound[k] = arrays[k] = copy
        self.owned[k] = getrefcount(copy) + getrefcount(copy.base) + TENSOR

    def _renew(self, out: _Output) -> None:
        """Have an output written to another array, as somebody holds the latest."""
        self._bind(out.value, out.swap(self.lent))
        out.count = out.references()

    def _bind(self, root: Value, array: Array, k: int | None = None) -> None:
        """Put an array, and its views, into the calls that take them; k: the number of an input."""
        plan = self.plan
        for ref in plan.placement.refs[root]:  # parents first
            if ref.parent is None:
                ref.array = array
            else:
                ref.array = ref.function(ref.parent.array)
                if k is not None and ref.array.size and not np.may_share_memory(ref.array, array):
                    self.copied.add(k)
        for code, i, function, args in plan.writer.patches.get(root, ()):
            code[i] = function, actual(args)


def _handed_out(out: Ref) -> Operand:
    """Return an output; of a view a new one, which holds on to its memory as long as somebody has it."""
    array: NDArray = out.array
    return array if out.parent is None else array[...]
