"""Products of small matrices in a loop, as one product of large ones.

A loop over the first axis of an array multiplies each part by the same matrix: that is one product of all parts. Its
gradient adds up products, which is one product of the factors one below the other; there the sum has another order, so
that results agree with those of an eager call to rounding, not to the bit.
"""

from __future__ import annotations

import operator
from typing import Any

from tapegrad._program.ir import Kind, Node, Program, Value

FEWEST = 4
LARGEST = 1 << 24  # elements of factors that are kept for the one product


def merged(program: Program, xp: Any) -> Program:
    """Return a program with products merged; xp: the library's namespace."""
    if sum([node.op == "matmul" for node in program.nodes]) < FEWEST:
        return program
    nodes = _sums(_parts(program.nodes, xp), program.outputs, xp)
    return program.with_nodes(nodes)


def _made(op: str, function: Any, args: tuple[Any, ...], shape: tuple[int, ...], like: Value, kind: Kind) -> Node:
    node = Node(op, function, args, {}, like.node.line if like.node is not None else "")
    node.kind = kind
    node.outs = (Value(shape, like.dtype, node),)
    return node


def _is_product(node: Node | None) -> bool:
    return (
        node is not None
        and node.op == "matmul"
        and all(type(v) is Value and len(v.shape) == 2 for v in node.args)
        and node.args[0].dtype == node.args[1].dtype
    )


def _part(v: Value) -> tuple[Value, int] | None:
    """Return (x, i) if a value is x[i], a matrix."""
    node = v.node
    if node is None or node.op != "index_get" or len(node.args[0].shape) != 3:
        return None
    i, *rest = node.args[1]
    return (node.args[0], i) if type(i) is int and all(s == slice(None) for s in rest) else None


# -- products of the parts of an array with one matrix ----------------------------------------------------


def _parts(nodes: list[Node], xp: Any) -> list[Node]:
    groups: dict[tuple[Value, Value], dict[int, Node]] = {}
    for node in nodes:
        if _is_product(node) and (part := _part(node.args[0])) is not None:
            groups.setdefault((part[0], node.args[1]), {})[part[1]] = node
    first: dict[Node, list[Node]] = {}
    gone: set[Node] = set()
    order = {node: i for i, node in enumerate(nodes)}
    for (x, w), group in groups.items():
        n, m, k = x.shape
        if len(group) != n or n < FEWEST:
            continue
        width = w.shape[1]
        flat = _made("reshape", xp.reshape, (x, (n * m, k)), (n * m, k), x, "view")
        some = next(iter(group.values()))
        product = _made("matmul", some.function, (flat.out, w), (n * m, width), some.out, "matmul")
        parts = _made("reshape", xp.reshape, (product.out, (n, m, width)), (n, m, width), product.out, "view")
        made = [flat, product, parts]
        for i, node in group.items():
            key = (i, slice(None), slice(None))
            take = Node("index_get", operator.getitem, (parts.out, key), {}, node.line)
            take.kind, take.outs = "view", node.outs
            node.out.node = take
            made.append(take)
            gone.add(node)
        first[min(group.values(), key=order.__getitem__)] = made
    return [new for node in nodes for new in (first.get(node, []) if node in gone else [node])]


# -- sums of products ---------------------------------------------------------------------------------------


def _sums(nodes: list[Node], outputs: list[Value], xp: Any) -> list[Node]:
    readers: dict[Value, list[Node]] = {}
    for node in nodes:
        for v in node.reads:
            readers.setdefault(v, []).append(node)
    kept = set(outputs)

    def alone(v: Value) -> Node | None:
        """Return the one node that reads a value, if there is one and nobody else wants it."""
        found = readers.get(v, ())
        return found[0] if len(found) == 1 and v not in kept else None

    new: dict[Node, list[Node]] = {}
    seen: set[Node] = set()
    for node in nodes:
        if node in seen or node.op != "add" or not all(type(v) is Value for v in node.args):
            continue
        chain = [node]
        while (after := alone(chain[-1].out)) is not None and after.op == "add" and after.args[0] is chain[-1].out:
            chain.append(after)
        seen.update(chain)
        products = []
        for link in chain:
            factors = _factors(link.args[1], alone, link.out)
            if factors is None:
                break
            products.append(factors)
        start: Value | None = node.args[0]
        factors = _factors(start, alone, node.out) if start is not None else None
        done = chain[: len(products)]
        if factors is not None:
            products.insert(0, factors)
            start = None
        if len(products) >= FEWEST and _alike(products):
            new[done[-1]] = _one(products, start, done[-1], xp)
            new.update((link, []) for link in done[:-1])
    return [made for node in nodes for made in new.get(node, [node])]


def _factors(v: Value, alone: Any, out: Value) -> tuple[Value, Value, Node] | None:
    """Return (a, b, node) if a value is a.T @ b, and only added to something."""
    node = v.node
    if node is None or not _is_product(node) or v.shape != out.shape or alone(v) is None:
        return None
    left = node.args[0].node
    if left is None or left.op not in ("T", "matrix_transpose"):
        return None
    return left.args[0], node.args[1], node


def _alike(products: list[tuple[Value, Value, Node]]) -> bool:
    a, b, _ = products[0]
    same = all(x.shape == a.shape and y.shape == b.shape for x, y, _ in products)
    return same and len(products) * max(a.size, b.size) <= LARGEST


def _one(products: list[tuple[Value, Value, Node]], start: Value | None, last: Node, xp: Any) -> list[Node]:
    """Return the nodes that compute a sum of products, added to `start`, as the last addition's result."""
    parts = [_part(a) for a, _, _ in products]
    made = []
    if all(p is not None and p[0] is parts[0][0] for p in parts):  # type: ignore[index]
        products = [p for _, p in sorted(zip([p[1] for p in parts], products, strict=True), key=lambda x: x[0])]  # type: ignore[index]
    sides = []
    for side in (0, 1):
        values: tuple[Value, ...] = tuple([p[0] if side == 0 else p[1] for p in products])
        m, k = values[0].shape
        shape = (len(values) * m, k)
        whole = _part(values[0])
        if whole is not None and [_part(v) for v in values] == [(whole[0], i) for i in range(whole[0].shape[0])]:
            node = _made("reshape", xp.reshape, (whole[0], shape), shape, whole[0], "view")
        else:
            node = _made("rows", xp.concat, (values,), shape, values[0], "rows")
        made.append(node)
        sides.append(node.out)
    turned = _made("T", operator.attrgetter("T"), (sides[0],), sides[0].shape[::-1], sides[0], "view")
    product = _made("matmul", products[0][2].function, (turned.out, sides[1]), last.out.shape, last.out, "matmul")
    made += [turned, product]
    if start is None:
        product.outs = last.outs
    else:
        total = Node("add", last.function, (start, product.out), {}, last.line)
        total.kind, total.outs = last.kind, last.outs
        made.append(total)
    last.out.node = made[-1]
    return made
