"""Pattern matching of attention: softmax(f(q k)) v and its gradient become two nodes that never store the scores.

Before, the forward pass is

    s = matmul(q, k); x = f(s), elementwise; p = softmax(x) along the last axis; o = matmul(p, v)

and, as the tape gives them,

    dp = matmul(do, transpose(v)); dx = p * (dp - sum(dp * p)); ds = f'(dx), elementwise
    dv = matmul(transpose(p), do); dq = matmul(ds, transpose(k)); dk = matmul(transpose(q), ds)

After, that is

    o, logs = attention(q, k, v); dq, dk, dv = attention_gradient(q, k, v, do, o, logs)

The two nodes compute probabilities again where they need them. Results differ from those of the single
operations by rounding. Where anything else reads a score or a probability, all stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tapegrad._compile.plan.dead_code import without_dead_code
from tapegrad._program.executor import AttentionKernels
from tapegrad._program.ir import Node, Program, Value
from tapegrad._program.queries import reduction_axes

_TRANSPOSES = ("matrix_transpose", "T")


class Forward(NamedTuple):
    """Nodes of the forward pass: product of queries and keys, those up to `scores`, of softmax, product with values.

    probabilities: the result of softmax; weights: the same in the dtype of the values, if that is another.
    """

    product: Node
    chain: list[Node]
    scores: Value
    softmax: list[Node]
    probabilities: Value
    weights: Value
    result: Node


class Backward(NamedTuple):
    """Nodes of the gradient: that of the probabilities, of the scores, those from it to `end`; then the products."""

    inner: list[Node]
    gradient: Value
    chain: list[Node]
    end: Value
    queries: Node | None
    keys: Node | None
    values: Node | None


def fuse_attention(program: Program[Node], kernels: AttentionKernels) -> Program[Node]:
    """Return a program with attention in fused nodes; kernels: the adapter's."""
    return _Matching(program, kernels).fused()


class _Matching:
    """A search for the pattern in a program, from the division that ends each softmax."""

    def __init__(self, program: Program[Node], kernels: AttentionKernels) -> None:
        self.program, self.kernels = program, kernels
        self.order = {node: i for i, node in enumerate(program.nodes)}
        self.readers: dict[Value, list[Node]] = {}
        for node in program.nodes:
            for v in dict.fromkeys(node.reads):
                self.readers.setdefault(v, []).append(node)
        self.outputs = set(program.outputs)

    def fused(self) -> Program[Node]:
        """Replace each attention that is found."""
        # Softmax is the rarest part of the pattern, so that its last operation is the place to begin.
        nodes: dict[int, Node] = {}
        gone: set[Node] = set()
        for node in self.program.nodes:
            forward = self._forward(node)
            if forward is not None:
                backward = self._backward(forward)
                if self._is_alone(forward, backward):
                    self._replace(forward, backward, nodes, gone)
        if not nodes:
            return self.program
        kept = [nodes.get(i, node) for i, node in enumerate(self.program.nodes) if i in nodes or node not in gone]
        return without_dead_code(self.program.with_nodes(kept))

    # -- forward -----------------------------------------------------------------------------------------

    def _forward(self, node: Node) -> Forward | None:
        """Return the attention whose softmax ends in a division."""
        if node.op != "divide" or not all(type(v) is Value and v.node is not None for v in node.args):
            return None
        # 1. Softmax: exp(x - max x) / sum(...), along the last axis.
        power: Node
        total: Node
        power, total = (v.node for v in node.args)
        low = power.args[0].node if power.op == "exp" and type(power.args[0]) is Value else None
        if low is None or low.op != "subtract" or not _over_rows(total, "sum", power.out):
            return None
        x, highest = low.args
        top = highest.node if type(highest) is Value else None
        if type(x) is not Value or top is None or not _over_rows(top, "max", x):
            return None
        # 2. The product with the values, perhaps after a cast.
        softmax = [top, low, power, total, node]
        casts = [n for n in self.readers.get(node.out, ()) if n.op == "astype"]
        weights = casts[0].out if len(casts) == 1 else node.out
        results = [n for n in self.readers.get(weights, ()) if n.op == "matmul" and n.args[0] is weights]
        if len(results) != 1:
            return None
        # 3. The scores: elementwise functions of one product, of queries and keys.
        found = self._chain(x, set())
        products = [n for n in found if n.op == "matmul"]
        if len(products) != 1:
            return None
        chain = [n for n in found if n.op != "matmul"]
        # 4. Kernels are for some dtypes and sizes only.
        forward = Forward(products[0], chain, x, [*softmax, *casts], node.out, weights, results[0])
        q, k, v = (*products[0].args, results[0].args[1])
        dtypes = {w.dtype.name for w in (q, k, v, products[0].out, weights, results[0].out)}
        sizes = (q.shape[-1], v.shape[-1])
        known = len(dtypes) == 1 and self.kernels.takes(*dtypes, *x.shape[-2:]) and max(sizes) <= self.kernels.LARGEST
        long = min(len(w.shape) for w in (q, k, v)) > 1 and results[0].out.size and min(sizes) > 0
        return forward if known and long and self.kernels.can_compute(chain) else None

    def _chain(self, end: Value, stops: set[Value]) -> list[Node]:
        """Return the nodes that compute a value from a product, or from `stops`, elementwise in its shape."""
        # A search in depth: a node is in the chain if one of its operands depends on the product, or on a stop.
        depends: dict[Value, bool] = {}
        found: list[Node] = []

        def visit(v: Value) -> bool:
            node = v.node
            if v not in depends:
                depends[v] = v in stops
                if node is not None and v not in stops and v.shape == end.shape:
                    if node.op == "matmul" and not stops:
                        found.append(node)
                        depends[v] = True
                    elif node.kind == "elementwise" and not node.many:
                        depends[v] = any([visit(x) for x in node.reads])
                        if depends[v]:
                            found.append(node)
            return depends[v]

        visit(end)
        return found

    # -- backward ----------------------------------------------------------------------------------------

    def _backward(self, forward: Forward) -> Backward | None:
        """Return the gradient of an attention, None where there is none of this form."""
        # The gradient of the weights is a product with the values; multiplied with probabilities it begins the pattern.
        p, v, out = forward.probabilities, forward.result.args[1], forward.result.out
        for node in self.readers[p]:
            others = [x for x in node.args if x is not p]
            if node.op == "multiply" and len(others) == 1 and type(others[0]) is Value:
                above = [others[0].node] if others[0].node is not None else []
                if above and above[0].op == "astype" and above[0].args[0].node is not None:
                    above.insert(0, above[0].args[0].node)
                product = above[0] if above else None
                if product is not None and product.op == "matmul" and _is_transposed(product.args[1], v):
                    grad = product.args[0]
                    if grad.shape == out.shape and grad.dtype == out.dtype:
                        return self._of_scores(forward, above, node, others[0], grad)
        return None

    def _of_scores(
        self, forward: Forward, above: list[Node], weighted: Node, incoming: Value, grad: Value
    ) -> Backward | None:
        """Return the gradient from that of the scores on: dx = p * (dp - sum(dp * p)), f'(dx), and three products."""
        p = forward.probabilities
        total = self._only(weighted.out)
        if total is None or not _over_rows(total, "sum", weighted.out):
            return None
        less = self._only(total.out)
        if less is None or less.op != "subtract" or less.args != (incoming, total.out):
            return None
        ends = self._only(less.out)
        if ends is None or ends.op != "multiply" or set(ends.args) != {p, less.out}:
            return None
        end = ends.out
        while (after := self._only(end)) is not None and after.kind == "elementwise" and after.out.shape == end.shape:
            end = after.out
        # From the gradient of the scores back through f: elementwise functions of it, and of forward values.
        stops = {ends.out, *[n.out for n in (forward.product, *forward.chain)]}
        chain = self._chain(end, stops) if end is not ends.out else []
        # Each of the three products may be missing, where nobody wants that gradient.
        q, k = forward.product.args
        products = self.readers.get(end, [])
        queries = [n for n in products if n.op == "matmul" and n.args[0] is end and _is_transposed(n.args[1], k)]
        keys = [n for n in products if n.op == "matmul" and n.args[1] is end and _is_transposed(n.args[0], q)]
        turned = [n for n in self.readers[forward.weights] if n.op in _TRANSPOSES]
        values = [
            n for t in turned for n in self.readers.get(t.out, ()) if n.op == "matmul" and n.args == (t.out, grad)
        ]
        if max(map(len, (queries, keys, values))) > 1 or not self.kernels.can_compute(chain):
            return None
        first, second, third = (found[0] if found else None for found in (queries, keys, values))
        return Backward([*above, weighted, total, less, ends, *turned], ends.out, chain, end, first, second, third)

    def _only(self, v: Value) -> Node | None:
        """Return the node that reads a value, None if there are several."""
        readers = self.readers.get(v, [])
        return readers[0] if len(readers) == 1 and v not in self.outputs else None

    # -- both ----------------------------------------------------------------------------------------------

    def _is_alone(self, forward: Forward, backward: Backward | None) -> bool:
        """Say whether nothing else reads scores or probabilities."""
        # Else the scores would be stored all the same, and computed twice.
        inside = {forward.product, *forward.chain, *forward.softmax}
        users = {*inside, forward.result}
        if backward is not None:
            inside |= {*backward.inner, *backward.chain}
            users |= {*inside, *[n for n in (backward.queries, backward.keys, backward.values) if n is not None]}
        return all(
            v not in self.outputs and users.issuperset(self.readers.get(v, ())) for node in inside for v in node.outs
        )

    def _replace(self, forward: Forward, backward: Backward | None, nodes: dict[int, Node], gone: set[Node]) -> None:
        """Put nodes in the places of products; dead code elimination drops the rest."""
        # 1. The forward call, in the place of the product with the values.
        kernels = self.kernels
        q, k = forward.product.args
        v, out = forward.result.args[1], forward.result.out
        lead = out.shape[:-2]
        sizes = kernels.Sizes(lead, out.shape[-2], k.shape[-1], q.shape[-1], v.shape[-1])
        scores = kernels.Scores(forward.product.out, forward.chain, forward.scores)
        call = kernels.Attention(sizes, scores)
        logs = Value(out.shape[:-1], kernels.LOGS)
        node = _made("attention", call, (q, k, v, *call.operands), (out, logs), forward.result)
        if backward is None:
            nodes[self.order[forward.result]] = node
            return
        # 2. The call of the gradient, in the place of the first of its products.
        products = [n for n in (backward.queries, backward.keys, backward.values) if n is not None]
        at = min(self.order[n] for n in products)
        turned = self._only(backward.keys.out) if backward.keys is not None else None
        if turned is not None and turned.op not in _TRANSPOSES:
            turned = None
        more = scores._replace(gradient=backward.gradient, back=backward.chain, end=backward.end)
        pull = kernels.AttentionGradient(sizes, more, turned is not None)
        grad = backward.inner[0].args[0]
        args = (q, k, v, grad, out, logs, *pull.operands)
        if any(x.node is not None and self.order.get(x.node, -1) >= at for x in args):
            return  # an operand of the gradient comes later
        keys = (sizes.keys, sizes.size) if turned is not None else (sizes.size, sizes.keys)
        # 3. Its results are the products' values, so that readers need no change.
        made = [(*lead, sizes.queries, sizes.size), (*lead, *keys), (*lead, sizes.keys, sizes.depth)]
        outs = [Value(shape, out.dtype) for shape in made]
        for i, found in enumerate((backward.queries, turned or backward.keys, backward.values)):
            if found is not None:
                outs[i] = found.out
        nodes[self.order[forward.result]] = node
        nodes[at] = _made("attention_gradient", pull, args, tuple(outs), self.program.nodes[at])
        gone.update(products)
        if turned is not None:
            gone.add(turned)


def _made(op: str, function: Callable[..., Any], args: tuple[Any, ...], outs: tuple[Value, ...], like: Node) -> Node:
    node = Node(op, function, args, {}, like.line)
    node.outs, node.many = outs, True
    for v in outs:
        v.node = node
    return node


def _over_rows(node: Node | None, op: str, x: Value) -> bool:
    """Say whether a node reduces the last axis of a value and keeps it."""
    if node is None or node.op != op or node.args[0] is not x:
        return False
    return reduction_axes(node) == (len(x.shape) - 1,) and bool(node.kwargs.get("keepdims"))


def _is_transposed(a: object, b: object) -> bool:
    """Say whether one of two values is the transpose of the other, in their last two axes."""
    return any(
        isinstance(x, Value) and x.node is not None and x.node.op in _TRANSPOSES and x.node.args[0] is y
        for x, y in ((a, b), (b, a))
    )
