"""The contract of an executor, which runs a program for a compiled call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from tapegrad._program.ir import Item, Node, Program


class Executor(Protocol):
    """An executor of one program, made by `Backend.executor`.

    Arrays are of the library of the adapter. They have the shapes and dtypes of the program's inputs and outputs.

    Attributes
    ----------
    program : Program
        The program as it is run; `compiled.program` shows it.
    how : str
        The way in which it is run, in words for the display.
    """

    @property
    def program(self) -> Program[Item]:
        """The program as it is run."""

    @property
    def how(self) -> str:
        """The way in which the program is run, in words."""

    def run(self, arrays: list[Any], /) -> list[Any]:
        """Return the outputs of the program.

        Parameters
        ----------
        arrays : list of array
            The inputs, in the program's order. The executor may put other arrays of the same contents into the list.

        Returns
        -------
        list of array
            The outputs, in the program's order. An output for which `program.replaces` names an input may be that
            input's memory, written over, if nobody else can see it.

        Raises
        ------
        Exception
            The error of a node that refuses values. State is then as it was.
        """


@runtime_checkable
class PlanningExecutor(Executor, Protocol):
    """An executor that plans its memory, so that it may write over arrays that it has handed out before.

    Attributes
    ----------
    nbytes : int
        The bytes of planned buffers: the memory of a run beyond inputs and outputs.
    lends : bool
        Whether the caller may lend: an error then comes before a lent array is written over, or `refused` says not.
    lent : collection of int
        Identities (`id`) of outputs of earlier runs that the caller drops in the next one, and that nobody else holds.
    """

    lent: Collection[int]

    @property
    def nbytes(self) -> int:
        """The bytes of planned buffers."""

    @property
    def lends(self) -> bool:
        """True if outputs of earlier runs may be lent."""

    def refused(self) -> bool:
        """Return whether the last run raised before it wrote over an array that was lent to it."""


class FusedProgram(Protocol):
    """A small traced program that runs in few kernel launches, made by `Backend.fused_program`.

    It holds for the sizes that it was traced with; `resized` makes it for others.

    Attributes
    ----------
    suited : bool
        Whether it is faster for its sizes than the functions one by one.
    """

    suited: bool

    def __call__(self, arrays: Sequence[Any], /) -> Sequence[Any]:
        """Return the outputs of the program for the arrays of its inputs, all on one device."""

    def size_key(self, numbers: Mapping[int, int], /) -> Hashable:
        """Return a key that is equal for programs that differ in sizes alone.

        Parameters
        ----------
        numbers : mapping of int to int
            The number that stands in the key for each size.

        Returns
        -------
        hashable
            The key; None if the program holds for its own sizes only.
        """

    def resized(self, sizes: Mapping[int, int], /) -> FusedProgram:
        """Return the program for arrays of other sizes, given by those of the trace."""


class AttentionKernels(Protocol):
    """An adapter's module of attention: the limits of its kernels, and calls of them."""

    LARGEST: int  # elements of a query, key or value
    LOGS: Any  # the dtype of logarithms of sums

    @property
    def Sizes(self) -> Callable[..., Any]:
        """The sizes of a problem: leading axes, queries, keys, elements of a query and of a value."""

    @property
    def Scores(self) -> Callable[..., Any]:
        """The elementwise nodes between the first product and softmax."""

    @property
    def Attention(self) -> Callable[..., Any]:
        """The function of a node `attention`."""

    @property
    def AttentionGradient(self) -> Callable[..., Any]:
        """The function of a node `attention_gradient`."""

    def takes(self, dtype: str, queries: int, keys: int) -> bool:
        """Say whether there is a kernel for a dtype and numbers of queries and keys."""

    def can_compute(self, nodes: list[Node]) -> bool:
        """Say whether kernels can compute some elementwise nodes."""
