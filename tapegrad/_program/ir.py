"""The intermediate representation of a program: values without contents, nodes, groups of nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, final

# Kinds of operations. "pick" takes one element of each row, "rows" lays values side by side; "" is any other.
Kind = Literal["", "elementwise", "reduction", "view", "matmul", "pick", "rows"]


@final
class Value:
    """An array of a program: an input, a constant or a result, of known shape and dtype.

    node: the one that computes it, None for inputs and constants; constant: the array, None for others; dtype: native;
    uniform: the scalar constant that all its elements are, if they are known to be; row: the array of rows that it lies
    in, and which one it is, if it is to lie in one.
    """

    __slots__ = ("constant", "dtype", "node", "row", "shape", "size", "uniform")

    def __init__(self, shape: tuple[int, ...], dtype: Any, node: Node | None = None, constant: Any = None) -> None:
        self.shape, self.dtype, self.node, self.constant = shape, dtype, node, constant
        self.size = prod(shape)  # the number of elements
        self.uniform: Value | None = None
        self.row: tuple[Rows, int] | None = None

    def __repr__(self) -> str:
        return f"<value {self.shape} {self.dtype}>"


@final
class Node:
    """One call of a program: `function(*args, **kwargs)`, with values in the places of arrays.

    op: the name in the array API standard, or of an extension of the adapter ("index_get", "special.erf"); outs: the
    results; many: whether the function returns several; line: "file:line" of the user's call; effect: whether it is
    called for its effect (to refuse bad values), not for a result; kind: of operation, see `op_kinds`, once planned.
    """

    __slots__ = ("args", "effect", "function", "kind", "kwargs", "line", "many", "op", "outs", "reads")

    def __init__(
        self,
        op: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        line: str = "",
        effect: bool = False,
        reads: list[Value] | None = None,
    ) -> None:
        self.op, self.function, self.args, self.kwargs, self.line = op, function, args, kwargs, line
        self.effect = effect
        # Found once: passes ask for the reads of a node many times.
        self.reads = reads_of(args, kwargs) if reads is None else reads
        self.outs: tuple[Value, ...] = ()
        self.many = False
        self.kind: Kind = ""

    @property
    def out(self) -> Value:
        """The result of a node that has one."""
        return self.outs[0]

    def values(self) -> list[Value]:
        """Return the values among the arguments, as often as each is there."""
        return self.reads

    def __repr__(self) -> str:
        return f"<node {self.op} {self.outs}>"


@final
class Run:
    """Nodes that are run together, a block of rows at a time.

    lead: the leading axes whose elements are the rows; ins: values read from elsewhere; outs: results that others read.
    """

    __slots__ = ("ins", "lead", "nodes", "outs")

    effect = False

    def __init__(self, lead: tuple[int, ...]) -> None:
        self.lead = lead
        self.nodes: list[Node] = []
        self.ins: tuple[Value, ...] = ()
        self.outs: tuple[Value, ...] = ()

    def note_reads(self) -> None:
        """Note which values the nodes read from elsewhere."""
        # In the order of first use, each once.
        own = {v for node in self.nodes for v in node.outs}
        self.ins = tuple(dict.fromkeys(v for node in self.nodes for v in node.reads if v not in own))

    def values(self) -> Iterator[Value]:
        """Go through the values that are read from elsewhere."""
        return iter(self.ins)

    def __repr__(self) -> str:
        return f"<run of {len(self.nodes)} nodes along {self.lead}>"


@final
class Rows:
    """An array whose rows are values of a program: there are `count`, of one shape and dtype, after one to spare."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class _Group:
    """Nodes that are done at once; form: how, for who runs them."""

    effect = False
    form = ""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.outs: tuple[Value, ...] = tuple([node.out for node in nodes])

    def values(self) -> Iterator[Value]:
        """Go through the values that are read."""
        for node in self.nodes:
            yield from node.values()


@final
class Stack(_Group):
    """Nodes of one operation, whose operands are the same for all or rows in order; so are their results."""

    form = "stack"


@final
class Fold(_Group):
    """A chain of additions, each of the next row to the sum so far; only the last sum is read by others."""

    form = "fold"

    def __init__(self, nodes: list[Node]) -> None:
        super().__init__(nodes)
        self.outs = (nodes[-1].out,)

    def values(self) -> Iterator[Value]:
        """Go through the values that are read."""
        yield self.nodes[0].args[0]
        for node in self.nodes:
            yield node.args[1]


@final
class Scan(_Group):
    """A chain of nodes of one operation, each of the result before it and another value; others may read any result.

    first: the value that the chain begins with; others: the operands that come in, one for each node. moves_in,
    moves_out: the others, and the results, that can be moved by one call each, with their places in the chain.
    """

    form = "scan"

    def __init__(self, nodes: list[Node]) -> None:
        super().__init__(nodes)
        x, y = nodes[0].args
        if y.node is not None and x in [v for node in nodes[1:] for v in node.args]:
            x, y = y, x  # the operand that comes again is the chain's
        self.first, self.others = x, [y]
        for before, node in pairwise(nodes):
            x, y = node.args
            self.others.append(y if x is before.out else x)
        self.moves_in: list[tuple[list[int], list[Value]]] = []
        self.moves_out: list[tuple[list[int], list[Value]]] = []

    def values(self) -> Iterator[Value]:
        """Go through the values that are read from elsewhere."""
        yield self.first
        yield from self.others


Group = Run | Stack | Fold | Scan  # nodes that run as one
Item = Node | Group

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with defaults, which `typing` has from Python 3.13 on

    ItemT = TypeVar("ItemT", bound=Item, covariant=True, default=Item)
    OtherT = TypeVar("OtherT", bound=Item)
else:
    from typing import TypeVar

    ItemT = TypeVar("ItemT")


class Program(Generic[ItemT]):
    """Items in an order in which they can be run, from inputs to outputs.

    A captured program, `Program[Node]`, has only nodes; a planned one, `Program[Item]` or `Program`, has groups too.
    replaces: for each output the number of the input whose array it takes the place of (updated state), or None.
    arguments: numbers of the inputs that are other arrays from call to call. gradients: places of the outputs that
    only become gradients. reassociated: whether results may differ by rounding.
    """

    def __init__(
        self,
        inputs: list[Value],
        items: Sequence[ItemT],
        outputs: list[Value],
        replaces: list[int | None] | None = None,
        arguments: frozenset[int] = frozenset(),
        gradients: frozenset[int] = frozenset(),
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.items: list[ItemT] = items if type(items) is list else list(items)
        self.arguments, self.gradients = arguments, gradients
        self.replaces: list[int | None] = [None] * len(outputs) if replaces is None else replaces
        self.reassociated = False

    @property
    def nodes(self: Program[Node]) -> list[Node]:
        """The items of a captured program, which are all single nodes."""
        return self.items

    def with_nodes(self, items: Sequence[OtherT], outputs: list[Value] | None = None) -> Program[OtherT]:
        """Return a program of the same inputs and outputs that computes them in another way."""
        outputs = self.outputs if outputs is None else outputs
        return Program(self.inputs, items, outputs, self.replaces, self.arguments, self.gradients)


def nodes_only(program: Program) -> Program[Node]:
    """Return a program for an executor that takes single nodes alone, which no planner has grouped."""
    assert all(type(item) is Node for item in program.items), "groups are for executors that plan"
    return cast("Program[Node]", program)


def reads_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Value]:
    """Return the values in nested arguments."""
    found: list[Value] = []
    for x in (*args, *kwargs.values()) if kwargs else args:
        kind = type(x)
        if kind is Value:
            found.append(x)
        elif kind is tuple or kind is list:
            found += reads_of(tuple(x), {})
    return found


def put_in(tree: Any, put: Callable[[Value], Any]) -> Any:
    """Return nested tuples and lists with something else in the place of each value."""
    kind = type(tree)
    if kind is Value:
        return put(tree)
    if kind is tuple:
        return tuple([put_in(x, put) for x in tree])
    if kind is list:
        return [put_in(x, put) for x in tree]
    return tree
