"""Merging of matrix products (batched GEMM): the products of a loop are one product of large matrices.

A loop over the first axis of an array multiplies each part by the same matrix: that is one product of all parts.

    before, for x of shape (n, m, k)        after
    x0 = index_get x 0                      flat = reshape x (n m, k)
    y0 = matmul x0 w                        all = matmul flat w
    x1 = index_get x 1                      parts = reshape all (n, m, j)
    y1 = matmul x1 w                        y0 = index_get parts 0
    ...                                     y1 = index_get parts 1 ...

Its gradient adds up products, which is one product of the factors, one below the other. There the sum has another
order, so that results agree with those of an eager call to rounding, not to the bit.

    before                                  after
    p0 = matmul x0.T g0                     x = rows x0 x1 ..., g = rows g0 g1 ...
    p1 = matmul x1.T g1                     s = matmul x.T g
    s = add (add p0 p1) p2 ...
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

from tapegrad._program.ir import Kind, Node, Program, Value

Reader = Callable[[Value], "Node | None"]  # from a value to the one node that reads it, if there is one alone

FEWEST = 4
LARGEST = 1 << 24  # elements of factors that are kept for the one product


class Factors(NamedTuple):
    """Factors of a product `left.T @ right`, and the node that computes it."""

    left: Value
    right: Value
    node: Node


def merged(program: Program[Node], xp: Any) -> Program[Node]:
    """Return a program with products merged; xp: the library's namespace."""
    if sum([node.op == "matmul" for node in program.nodes]) < FEWEST:
        return program
    nodes = _sums(_by_blocks(program.nodes, xp), program.outputs, xp)
    return program.with_nodes(nodes)


def _made(
    op: str, function: Callable[..., Any], args: tuple[Any, ...], shape: tuple[int, ...], like: Value, kind: Kind
) -> Node:
    """Return a new node with one result, of the dtype and the line of another value."""
    node = Node(op, function, args, {}, like.node.line if like.node is not None else "")
    node.kind = kind
    node.outs = (Value(shape, like.dtype, node),)
    return node


def _is_product(node: Node | None) -> TypeGuard[Node]:
    """Say whether a node is a product of two matrices of one dtype."""
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


def _by_blocks(nodes: list[Node], xp: Any) -> list[Node]:
    """Return nodes where the products of all parts of an array with one matrix are one product."""
    # 1. Products by array and matrix, with the number of each part.
    groups: dict[tuple[Value, Value], dict[int, Node]] = {}
    for node in nodes:
        if _is_product(node) and (part := _part(node.args[0])) is not None:
            groups.setdefault((part[0], node.args[1]), {})[part[1]] = node
    # 2. Where all parts are there: the nodes to put in the place of the first product, instead of all.
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
    """Return nodes where chains of additions of products are one product."""
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
        # 1. The chain of additions that begins here, each of which alone reads the sum so far.
        chain = [node]
        while (after := alone(chain[-1].out)) is not None and after.op == "add" and after.args[0] is chain[-1].out:
            chain.append(after)
        seen.update(chain)
        # 2. As many addends as are products of the same form that nobody else reads.
        products = []
        for link in chain:
            factors = _factors(link.args[1], alone, link.out)
            if factors is None:
                break
            products.append(factors)
        # 3. The sum begins with a product as well, or with another value, which is added at the end.
        start: Value | None = node.args[0]
        factors = _factors(start, alone, node.out) if start is not None else None
        done = chain[: len(products)]
        if factors is not None:
            products.insert(0, factors)
            start = None
        if len(products) >= FEWEST and _alike(products):
            new[done[-1]] = _one_product(products, start, done[-1], xp)
            new.update((link, []) for link in done[:-1])
    return [made for node in nodes for made in new.get(node, [node])]


def _factors(v: Value, alone: Reader, out: Value) -> Factors | None:
    """Return the factors if a value is a.T @ b, and only added to something."""
    node = v.node
    if node is None or not _is_product(node) or v.shape != out.shape or alone(v) is None:
        return None
    left = node.args[0].node
    if left is None or left.op not in ("T", "matrix_transpose"):
        return None
    return Factors(left.args[0], node.args[1], node)


def _alike(products: list[Factors]) -> bool:
    """Say whether factors have the same shapes, and are few enough to lie one below the other."""
    a, b, _ = products[0]
    same = all(p.left.shape == a.shape and p.right.shape == b.shape for p in products)
    return same and len(products) * max(a.size, b.size) <= LARGEST


def _one_product(products: list[Factors], start: Value | None, last: Node, xp: Any) -> list[Node]:
    """Return the nodes that compute a sum of products, added to `start`, as the last addition's result."""
    # 1. Parts of one array in their order: then the array itself, reshaped, holds all of them one below the other.
    parts = [part for p in products if (part := _part(p.left)) is not None]
    if len(parts) == len(products) and len({x for x, _ in parts}) == 1:
        order = sorted(range(len(parts)), key=lambda n: parts[n][1])
        products = [products[n] for n in order]
    # 2. Each side of the product: an array that is there, or rows that the factors are computed into.
    made: list[Node] = []
    sides = []
    for values in (tuple([p.left for p in products]), tuple([p.right for p in products])):
        m, k = values[0].shape
        shape = (len(values) * m, k)
        whole = _part(values[0])
        if whole is not None and [_part(v) for v in values] == [(whole[0], i) for i in range(whole[0].shape[0])]:
            node = _made("reshape", xp.reshape, (whole[0], shape), shape, whole[0], "view")
        else:
            node = _made("rows", xp.concat, (values,), shape, values[0], "rows")
        made.append(node)
        sides.append(node.out)
    # 3. The product, and its sum with the start, if any.
    turned = _made("T", operator.attrgetter("T"), (sides[0],), sides[0].shape[::-1], sides[0], "view")
    product = _made("matmul", products[0].node.function, (turned.out, sides[1]), last.out.shape, last.out, "matmul")
    made += [turned, product]
    if start is None:
        product.outs = last.outs  # the sum's value keeps its identity, for those who read it
    else:
        total = Node("add", last.function, (start, product.out), {}, last.line)
        total.kind, total.outs = last.kind, last.outs
        made.append(total)
    last.out.node = made[-1]
    return made
