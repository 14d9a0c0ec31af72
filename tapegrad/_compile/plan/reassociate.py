"""Reassociation: sums and products of a run are collected and factored, for fewer passes over large arrays.

Real arithmetic allows more than floating-point arithmetic: x * a * b is x * (a * b), and a * x + b * x * y is
x * (a + b * y). Results then differ by rounding, so that this is done only for those who ask for it. Products of sums
are never multiplied out, which could cancel digits.

    before                                  after, with 2 x + 6 x y as x * (6 y + 2)
    a = multiply x 2                        a = multiply y 6
    b = multiply x y                        b = add a 2
    c = multiply b 6                        d = multiply b x
    d = add a c
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable
from functools import reduce
from math import isfinite
from typing import Any

from tapegrad._program.ir import Node, Run, Value

Operand = Value | float
Product = tuple[tuple[Value, int], ...]  # factors and their powers, in the order in which they were met
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "negative": operator.neg,
}
_HIGHEST = 4  # power that is multiplied out


class Sum:
    """A number and products, each with a coefficient."""

    def __init__(self, number: float = 0.0, terms: dict[Product, float] | None = None) -> None:
        self.number, self.terms = number, terms or {}

    def scaled(self, c: float) -> Sum:
        """Return c times this."""
        return Sum(c * self.number, {p: c * k for p, k in self.terms.items()})

    def plus(self, other: Sum) -> Sum:
        """Return the sum of both, with like products collected."""
        terms = dict(self.terms)
        for p, k in other.terms.items():
            terms[p] = terms.get(p, 0.0) + k
        return Sum(self.number + other.number, terms)

    def single(self) -> bool:
        """Say whether this is one product."""
        return len(self.terms) == 1 and self.number == 0

    def sound(self) -> bool:
        """Say whether no term is lost, nor infinite: a term that cancels may be infinite or NaN at a call."""
        return isfinite(self.number) and all(k != 0 and isfinite(k) for k in self.terms.values())


def reassociate(run: Run) -> None:
    """Replace the nodes of a run by fewer that compute the same but for rounding, if there are such."""
    # Each elementwise node is a pass over memory: the rewritten run is taken only if it has fewer of them.
    nodes = _Rewriting(run).nodes()
    if nodes is not None and _passes(nodes) < _passes(run.nodes):
        run.nodes = nodes
        run.note_reads()
        for node in nodes:
            for v in node.outs:
                v.node = node


def _passes(nodes: list[Node]) -> int:
    return sum(n.kind == "elementwise" for n in nodes)


class _Rewriting:
    """The two halves of the rewriting of a run: reading nodes as sums of products, and writing these as nodes again."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.uses = Counter(v for n in run.nodes for v in n.reads)
        self.uses.update(run.outs)
        self.number: dict[Value, int] = {}  # of factors, in the order in which they are met
        self.sums: dict[Value, Sum] = {}
        self.new: list[Node] = []
        self.made: dict[Hashable, Value] = {}  # by operation and operands: common subexpressions
        self.value: dict[Value, Value] = {}  # those written in the places of sums
        self.scaled: set[tuple[float, Value]] = set()  # factors that are terms of a sum, with a coefficient
        self.line = ""
        for node in run.nodes:
            s = self.sum_of(node)
            if s is not None and s.sound():
                self.sums[node.out] = s

    # -- reading ---------------------------------------------------------------------------------------

    def sum_of(self, node: Node) -> Sum | None:
        """Return an arithmetic node as a sum, None for another node."""
        # Only arithmetic in one shape and dtype, on arrays and numbers: other operands stay as they are.
        out = node.outs[0]
        if node.kind != "elementwise" or node.kwargs or out.dtype.kind != "f" or out.dtype.itemsize < 4:
            return None
        args: list[Operand] = []
        for x in map(_number_or, node.args):
            if isinstance(x, float) or (isinstance(x, Value) and x.shape == out.shape and x.dtype == out.dtype):
                args.append(x)
            else:
                return None
        if node.op in ("add", "subtract"):
            a, b = map(self.terms_of, args)
            return a.plus(b.scaled(-1.0) if node.op == "subtract" else b)
        if node.op == "negative":
            return self.terms_of(args[0]).scaled(-1.0)
        if node.op == "multiply":
            return self.product(*args)
        if node.op == "divide" and isinstance(args[1], float) and args[1] != 0:
            return self.terms_of(args[0]).scaled(1 / args[1])
        power = 2.0 if node.op == "square" else args[1] if node.op == "pow" else None
        if isinstance(power, float) and power.is_integer() and 2 <= power <= _HIGHEST and isinstance(args[0], Value):
            base = args[0]
            return reduce(lambda s, _: self.times(s, base), range(int(power) - 1), self.factor(base))
        return None

    def product(self, a: Operand, b: Operand) -> Sum:
        """Return a product: a number multiplies each term of a sum, two values give one product."""
        if isinstance(a, float):
            return Sum(a * b) if isinstance(b, float) else self.terms_of(b).scaled(a)
        if isinstance(b, float):
            return self.terms_of(a).scaled(b)
        return self.times(self.factor(a), b)

    def times(self, s: Sum, x: Value) -> Sum:
        """Return the product of a single product and a value."""
        # Powers of like factors add up.
        ((p, k),) = s.terms.items()
        ((q, c),) = self.factor(x).terms.items()
        powers = Counter(dict(p))
        powers.update(dict(q))
        return Sum(0.0, {self.ordered(powers): k * c})

    def factor(self, x: Value) -> Sum:
        """Return a value as a single product: that of its factors, else itself."""
        s = self.sums.get(x)
        return s if s is not None and s.single() else self.itself(x)

    def terms_of(self, x: Operand) -> Sum:
        """Return a value, or number, as terms: of a sum only if nobody else needs that."""
        if isinstance(x, float):
            return Sum(x)
        s = self.sums.get(x)
        return s if s is not None and (s.single() or self.uses[x] == 1) else self.itself(x)

    def itself(self, x: Value) -> Sum:
        self.number.setdefault(x, len(self.number))
        return Sum(0.0, {((x, 1),): 1.0})

    def ordered(self, powers: dict[Value, int]) -> Product:
        return tuple(sorted(powers.items(), key=lambda f: self.number[f[0]]))

    # -- writing ---------------------------------------------------------------------------------------

    def nodes(self) -> list[Node] | None:
        """Return the nodes in place of those of the run; None if a result were something that is there already."""
        # 1. Sums that are needed as values: results of the run, and operands of nodes that are not arithmetic.
        asked = dict.fromkeys(v for n in self.run.nodes if n.outs[0] not in self.sums for v in n.reads)
        roots = [v for v in (*asked, *self.run.outs) if v in self.sums]
        # 2. Coefficients that a factor has as a term elsewhere, so that the multiple is computed once.
        for v in [*roots, *(x for s in self.sums.values() for p in s.terms for x, _ in p if x in self.sums)]:
            self.scaled |= {(k, p[0][0]) for p, k in self.sums[v].terms.items() if len(p) == 1 and p[0][1] == 1}
        # 3. Nodes in their order: arithmetic as it is needed, others on the operands that they have now.
        for node in self.run.nodes:
            self.line = node.line
            if node.outs[0] in self.sums:
                if node.outs[0] in self.run.outs and not self.write_as(node.outs[0]):
                    return None
                continue
            new = {v: self.written(v) for v in node.reads}
            if any(new[v] is not v for v in new):
                args = tuple([new.get(x, x) if type(x) is Value else x for x in node.args])
                made = Node(node.op, node.function, args, node.kwargs, node.line)
                made.outs, made.many, made.kind = node.outs, node.many, node.kind
                node = made
            self.new.append(node)
        return self.new

    def write_as(self, v: Value) -> bool:
        """Compute a result of the run; False if it is there under another name."""
        if v in self.value:
            return self.value[v] is v
        before = len(self.new)
        found = self.write(self.sums[v])
        if len(self.new) == before or found is not self.new[-1].outs[0]:
            return False
        self.new[-1].outs = (v,)
        self.made = {k: v if x is found else x for k, x in self.made.items()}
        self.value = {k: v if x is found else x for k, x in self.value.items()}
        self.value[v] = v
        return True

    def written(self, v: Value) -> Value:
        """Return the value that holds another one now, computed here if it is a sum."""
        if v not in self.sums:
            return v
        if v in self.run.outs and v not in self.value:
            self.write_as(v)
        if v not in self.value:
            self.value[v] = self.write(self.sums[v])
        return self.value[v]

    def write(self, s: Sum) -> Value:
        """Compute a sum: factors that most terms share are taken out, again and again."""
        if s.single():
            ((p, k),) = s.terms.items()
            return self.write_product(p, k)
        # 1. The factor that most products share.
        counts = Counter(x for p in s.terms for x, _ in p)
        shared, n = max(counts.items(), key=lambda c: c[1])
        if n < 2:
            return self.write_terms(s)
        # 2. All that the products with it have in common, which is taken out of them.
        inside = [p for p in s.terms if any(x is shared for x, _ in p)]
        common = {x: min(dict(p).get(x, 0) for p in inside) for x, _ in inside[0]}
        common = {x: power for x, power in common.items() if power}
        inner, rest = Sum(), Sum(s.number, {p: k for p, k in s.terms.items() if p not in inside})
        for p in inside:
            left = Counter(dict(p))
            left.subtract(common)
            q = self.ordered({x: power for x, power in left.items() if power})
            if q:
                inner.terms[q] = s.terms[p]
            else:
                inner.number = s.terms[p]
        # 3. The sum inside is factored in turn, multiplied, and the terms without the factor are added.
        factored = self.write(inner)
        for x, power in common.items():
            factored = self.call("multiply", factored, self.power(self.written(x), power))
        if not rest.terms and rest.number == 0:
            return factored
        return self.write_terms(rest, factored)

    def write_terms(self, s: Sum, first: Value | None = None) -> Value:
        """Add up terms that share nothing, to a value if one is given."""
        total = first
        # Positive terms first: then no sum begins with a negation.
        for p, k in sorted(s.terms.items(), key=lambda t: t[1] < 0):
            if total is not None:
                total = self.call("add" if k > 0 else "subtract", total, self.write_product(p, abs(k)))
            elif k < 0 and s.number != 0:
                total, s = self.call("subtract", s.number, self.write_product(p, -k)), Sum(0.0, s.terms)
            else:
                total = self.write_product(p, k)
        assert total is not None
        return self.call("add", total, s.number) if s.number else total

    def write_product(self, p: Product, k: float) -> Value:
        """Compute a product; its coefficient goes to a factor that is needed with it elsewhere, else to the whole."""
        kept = next((x for x, power in p if power == 1 and len(p) > 1 and (k, x) in self.scaled), None)
        total = None
        for x, power in p:
            v = self.power(self.written(x), power)
            if x is kept:
                v = self.call("multiply", v, k)
            total = v if total is None else self.call("multiply", total, v)
        assert total is not None
        if k == 1 or kept is not None:
            return total
        return self.call("negative", total) if k == -1 else self.call("multiply", total, k)

    def power(self, x: Value, n: int) -> Value:
        """Compute a power by products, of squares where it is even."""
        if n == 1:
            return x
        half = self.power(x, n // 2)
        return self.call("multiply", half, half) if n % 2 == 0 else self.call("multiply", self.power(x, n - 1), x)

    def call(self, op: str, *args: Operand) -> Value:
        """Compute an operation, unless that was done before."""
        key = (op, *args)
        if key not in self.made:
            x = next(a for a in args if isinstance(a, Value))
            node = Node(op, _FUNCTIONS[op], args, {}, self.line)
            node.kind = "elementwise"
            node.outs = (Value(x.shape, x.dtype, node),)
            self.new.append(node)
            self.made[key] = node.outs[0]
        return self.made[key]


def _number_or(x: object) -> object:
    """Return a number or scalar constant as a float, anything else as it is."""
    if isinstance(x, Value):
        is_number = x.shape == () and x.constant is not None and x.dtype.kind == "f"
        return float(x.constant) if is_number else x
    return float(x) if type(x) is int or type(x) is float else x
