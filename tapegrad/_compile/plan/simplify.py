"""Simplification: constant folding, common subexpression elimination, algebraic identities, dead code elimination.

Every step keeps results equal to the bit.

    before, with the output e               after
    z = zeros ()                            b = exp x           (c is the same subexpression)
    o = ones (3,)                           e = add b b         (z and o are constants, b * 1 is b; nobody reads f)
    b = exp x
    c = exp x
    d = multiply b o
    f = add x z
    e = add d c
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from tapegrad._compile.plan.dead_code import without_dead_code
from tapegrad._engine.dispatch import computed, native_device
from tapegrad._program.interpreter import results_of
from tapegrad._program.ir import Node, Program, Value, put_in, reads_of
from tapegrad._program.op_kinds import kind_of
from tapegrad.backends import Backend, as_key

# Operations that fill an array with one value, from a shape or like another array; those that pick elements; and those
# whose result may be their operand as it is.
_FILLS = ("zeros", "ones", "full")
_LIKE = ("zeros_like", "ones_like", "full_like")
_PICKS = ("take", "take_along_axis", "index_get")
KEPT = 65536  # elements up to which an array of one value is kept, not made at each call
_MAYBE_SAME = {"positive", "astype", "reshape", "broadcast_to", "permute_dims", "squeeze", "expand_dims"}


def simplified(program: Program[Node], backend: Backend) -> Program[Node]:
    """Return a program with the same outputs and less to do; backend: the adapter of its library.

    One pass forwards, by value numbering: each node, with its operands as they are called by now, is looked up among
    those before it, and else is folded or kept.
    """
    new: dict[Value, Value] = {}  # in place of a value of the old program
    seen: dict[Hashable, tuple[Value, ...]] = {}  # the results of each operation on each operands
    nodes: list[Node] = []
    handed_out = set(program.outputs)

    def now(v: Value) -> Value:
        return new.get(v, v)

    for old in program.nodes:
        # 1. A copy of the node, on the new operands: a captured program stays as it is.
        args, kwargs, reads = old.args, old.kwargs, old.reads
        if not new.keys().isdisjoint(reads):
            args = put_in(args, now)
            kwargs = {k: put_in(v, now) for k, v in kwargs.items()}
            reads = list(map(now, reads))
        node = Node(old.op, old.function, args, kwargs, old.line, old.effect, reads)
        node.outs, node.many = old.outs, old.many
        if old.effect:  # called for its effect, each time
            nodes.append(node)
            continue
        # 2. Common subexpressions: the same operation on the same operands was there before.
        key = (old.op, *map(_frozen, args), _frozen(tuple(kwargs.items())) if kwargs else None)
        found = seen.get(key)
        if found is None:
            # 3. Operands that the library broadcasts by itself; identities such as x * 1; constant folding.
            if any([_narrow(v) is not v for v in reads]):
                _drop_broadcasts(node)
            found = _same_as(node) or _written(node, handed_out) or _folded(node, backend)
            if found is None:
                _note_uniform(node, backend)
                node.kind = kind_of(node.op, node.args)
                found = node.outs
                for v in found:
                    v.node = node
                if not _is_kept(node, backend):
                    nodes.append(node)
            seen[key] = found
        if found is not old.outs:
            new.update(zip(old.outs, found, strict=True))
    outputs = [now(v) for v in program.outputs]
    return without_dead_code(program.with_nodes(nodes, outputs))


def _frozen(x: object) -> Hashable:
    """Return nested arguments as something hashable that is equal for equal arguments."""
    kind = type(x)
    if isinstance(x, Value):
        return x
    if isinstance(x, tuple | list) and (kind is tuple or kind is list):
        return (kind, *map(_frozen, x))
    if isinstance(x, slice):
        return (kind, x.start, x.stop, x.step)
    if kind is float or kind is complex:
        return (kind, repr(x))  # 0.0 is not -0.0, nor is it 0
    return (kind, x) if kind in (bool, int) else as_key(x)


# -- constants -------------------------------------------------------------------------------------------


def _folded(node: Node, backend: Backend) -> tuple[Value, ...] | None:
    """Return the results of a node that reads only constants, computed now: constant folding.

    Arrays of one value everywhere are left out: `_note_uniform` keeps these as scalars.
    """
    for v in node.reads:
        if v.constant is None:
            return None
    if node.op in _FILLS and node.out.shape != ():
        return None
    if node.op == "empty" or (node.op == "broadcast_to" and node.out.shape != ()):
        return None
    for v, array in zip(node.outs, results_of(node, lambda v: v.constant, computed), strict=True):
        v.node, v.constant = None, backend.as_array(array)
    return node.outs


def _is_kept(node: Node, backend: Backend) -> bool:
    """Make the result of a computation that is one value everywhere a constant; say whether it is one now."""
    # Fills are left as they are: executors fill memory faster than they copy an array of as many elements.
    scalar = None if node.many or node.effect else node.out.uniform
    if scalar is None or node.op in (*_FILLS, *_LIKE) or node.kind == "view" or node.out.size > KEPT:
        return False
    node.out.constant = backend.xp.full(
        node.out.shape, scalar.constant.item(), dtype=scalar.dtype, device=native_device(scalar.constant)
    )
    node.out.node = None
    return True


def _note_uniform(node: Node, backend: Backend) -> None:
    """Note the scalar that a result is everywhere, if it is one: who reads it elementwise reads that scalar."""
    if node.many or node.effect:
        return
    # A fill is one value; so is a part of such an array, and any elementwise function of such arrays and scalars.
    if node.op in _FILLS:
        args = ((), *node.args[1:])
    elif node.op in _LIKE and type(node.args[0]) is Value:
        args = (backend.xp.zeros((), dtype=node.args[0].dtype), *node.args[1:])
    elif node.op in _PICKS and type(node.args[0]) is Value and node.args[0].uniform is not None:
        node.out.uniform = node.args[0].uniform
        return
    elif node.reads and all([v.uniform is not None or (v.constant is not None and v.shape == ()) for v in node.reads]):
        if kind_of(node.op, node.args) != "elementwise":
            return
        args = put_in(node.args, lambda v: _scalar_of(v).constant)
    else:
        return
    scalar = Value((), node.out.dtype)
    scalar.constant = backend.as_array(computed(node.function, args, node.kwargs))
    if scalar.constant.dtype == node.out.dtype:
        node.out.uniform = scalar


def _scalar_of(v: Value) -> Value:
    """Return the scalar that a value is everywhere, if it is one, else the value."""
    return v if v.uniform is None else v.uniform


# -- the same value under another name -------------------------------------------------------------------


def _same_as(node: Node) -> tuple[Value, ...] | None:
    """Return the value that a node's result is equal to, if there is one: an identity, such as x * 1 = x."""
    op, args = node.op, node.args
    out = node.outs[0]
    x = args[0] if args else None
    # A change of shape, order or dtype that changes nothing.
    if op in _MAYBE_SAME:
        if type(x) is not Value:
            return None
        if x.shape == out.shape and x.dtype == out.dtype and (op != "permute_dims" or _in_order(args[1])):
            return (x,)
        if op in ("broadcast_to", "reshape", "squeeze", "expand_dims") and x.uniform is not None:
            out.uniform = x.uniform
        elif op in ("broadcast_to", "reshape", "expand_dims") and x.size == 1 and x.constant is not None:
            scalar = Value((), x.dtype)
            scalar.constant = x.constant if x.shape == () else x.constant.reshape(())
            out.uniform = scalar
    # A product with one, or a quotient by it.
    if op in ("multiply", "divide") and len(args) == 2:
        for x, other in ((args[0], args[1]), (args[1], args[0]))[: 2 if op == "multiply" else 1]:
            if type(x) is Value and _is_one(other) and x.shape == out.shape and x.dtype == out.dtype:
                return (x,)
    return None


def _written(node: Node, handed_out: set[Value]) -> tuple[Value, ...] | None:
    """Return the value that is written over all of an array: x[...] = v gives v.

    Not for a value that the program hands out already: two outputs must not be one array.
    """
    if node.op != "index_set":
        return None
    x, key, value = node.args
    if type(value) is not Value or value.node is None or value.node.kind == "view" or value in handed_out:
        return None
    if value.shape != x.shape or value.dtype != x.dtype or any(i is not ... and i != slice(None) for i in key):
        return None
    handed_out.add(value)
    return (value,)


def _in_order(axes: Sequence[int]) -> bool:
    return tuple(axes) == tuple(range(len(axes)))


def _is_one(x: object) -> bool:
    if isinstance(x, Value):
        constant = _scalar_of(x).constant
        return constant is not None and constant.shape == () and bool(constant == 1)
    return type(x) in (int, float) and x == 1


def _drop_broadcasts(node: Node) -> None:
    """Have an elementwise node read scalars, and operands before they are broadcast, where its result stays the same.

    The library broadcasts these by itself, and reads less memory for it.
    """
    if kind_of(node.op, node.args) != "elementwise":
        return
    shape = node.out.shape
    # First without all broadcasts; then with that of the operand that gives the result its shape.
    for wide in (True, False):
        args = tuple([_narrow(a) if type(a) is Value else a for a in node.args])
        if not wide:  # the result gets its shape from one of them: keep that one
            keep = next((i for i, a in enumerate(node.args) if type(a) is Value and a.shape == shape), None)
            if keep is None:  # it gets its shape from several together
                return
            args = (*args[:keep], node.args[keep], *args[keep + 1 :])
        if _broadcast([a.shape for a in args if type(a) is Value]) == shape:
            node.args, node.reads = args, reads_of(args, node.kwargs)
            return


def _narrow(v: Value) -> Value:
    """Return a value before it was broadcast: a scalar if all its elements are one."""
    if v.uniform is not None:
        return v.uniform
    node = v.node
    return node.args[0] if node is not None and node.op == "broadcast_to" else v


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    ndim = max(map(len, shapes), default=0)
    padded = [(1,) * (ndim - len(s)) + tuple(s) for s in shapes]
    return tuple([next((n for n in column if n != 1), 1) for column in zip(*padded, strict=True)])
