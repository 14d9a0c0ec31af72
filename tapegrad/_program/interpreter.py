"""Interpretation of a program: node by node, or as straight Python code that every array library can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad._program.ir import Node, Program, Value, put_in
from tapegrad._program.op_kinds import LOOKING as LOOKING

Caller = Callable[[Callable[..., Any], Any, Any], Any]


def results_of(node: Node, content: Callable[[Value], Any], call: Caller) -> tuple[Any, ...]:
    """Return the results of a node, from the contents of the values it reads; call: of `(function, args, kwargs)`."""
    kwargs = {k: put_in(v, content) for k, v in node.kwargs.items()}
    result = call(node.function, put_in(node.args, content), kwargs)
    return () if node.effect else tuple(result) if node.many else (result,)


def replay_of(
    program: Program[Node],
    keep: Callable[[Any], Any] | None = None,
    apart: bool = False,
    loop: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Return a function of the inputs' arrays that calls the nodes of a program one after the other, for its outputs.

    It is written out as straight code, which takes half the time of going through the nodes, and drops each array after
    its last use. The program `a = multiply w x; b = tanh a; loss = sum b` becomes::

        def replay(arrays, given=()):
            [v0, v1] = arrays
            [] = given
            v2 = k1(v0, v1)
            del v0, v1
            v3 = k2(v2)
            del v2
            v4 = k3(v3)
            del v3
            return [v4]

    keep: applied to results that a library may return as scalars. apart: it takes the arrays of `large_constants` too,
    and returns (outputs, conditions), where a node that raises if a condition holds only gives that. loop: runs a loop
    on arrays, for its result and a condition: the last change if it did not end, else 0.
    """
    # 1. Names: a variable for each value, and a global for each object that has no literal.
    names: dict[Value, str] = {v: f"v{n}" for n, v in enumerate(program.inputs)}
    known: dict[str, Any] = {"keep": keep}
    given = large_constants(program) if apart else []
    names.update({v: f"c{n}" for n, v in enumerate(given)})
    last = _last_uses(program)

    def text(x: Any) -> str:
        kind = type(x)
        if kind is tuple or kind is list:
            inner = "".join(f"{text(i)}, " for i in x)
            return f"({inner})" if kind is tuple else f"[{inner}]"
        if x is None or kind in (bool, int):
            return repr(x)
        if kind is Value:
            if x in names:
                return names[x]
            x = x.constant
        known[f"k{len(known)}"] = x
        return f"k{len(known) - 1}"

    # 2. A line for each node: a call, a condition that is handed out in place of a check, or a loop on arrays.
    lines = [f"    [{', '.join(names[v] for v in program.inputs)}] = arrays"]
    lines.append(f"    [{', '.join(names[v] for v in given)}] = given")
    conditions = []
    for n, node in enumerate(program.nodes):
        arguments = [*map(text, node.args), *[f"{k}={text(v)}" for k, v in node.kwargs.items()]]
        if node.effect and apart:
            conditions.append(f"b{n}")
            lines.append(f"    b{n} = {arguments[0]}")
        elif node.op == "loop" and loop is not None:
            conditions.append(f"b{n}")
            names[node.outs[0]] = f"v{len(names)}"
            lines.append(f"    {names[node.outs[0]]}, b{n} = {text(loop)}({', '.join(arguments)})")
        else:
            call = f"{text(node.function)}({', '.join(arguments)})"
            names.update({v: f"v{len(names) + k}" for k, v in enumerate(node.outs)})
            outs = ", ".join(names[v] for v in node.outs)
            if node.many:
                outs = f"[{outs}]"
            elif outs and keep is not None:
                call = f"keep({call})"
            lines.append(f"    {outs} = {call}" if outs else f"    {call}")
        # 3. Liveness: variables are dropped after their last use, so that their memory is free for the next call.
        dead = [names[v] for v in last.get(n, ()) if v not in given]
        if dead:
            lines.append(f"    del {', '.join(dead)}")
    # 4. The text is compiled once; a call of it runs no loop over nodes.
    outputs = text(program.outputs)
    lines.append(f"    return {outputs}, [{', '.join(conditions)}]" if apart else f"    return {outputs}")
    exec("\n".join(["def replay(arrays, given=()):", *lines]), known)
    replay: Callable[..., Any] = known["replay"]
    return replay


def _last_uses(program: Program[Node]) -> dict[int, list[Value]]:
    """Return for each node the values that nothing after it reads."""
    # Backward liveness analysis: the first reader met from the end is the last one.
    last: dict[int, list[Value]] = {}
    seen = set(program.outputs)
    for n in range(len(program.nodes) - 1, -1, -1):
        node = program.nodes[n]
        for v in (*node.outs, *node.values()):
            if v not in seen and v.constant is None:
                seen.add(v)
                last.setdefault(n, []).append(v)
    return last


def large_constants(program: Program[Node]) -> list[Value]:
    """Return the constants of more than one element that a program reads."""
    values = dict.fromkeys(v for node in program.nodes for v in node.values())
    return [v for v in values if v.constant is not None and v.size > 1]


class PlainExecutor:
    """Runs a program by its library's functions as they are."""

    how = "replayed call by call"

    def __init__(self, program: Program[Node], keep: Callable[[Any], Any] | None = None) -> None:
        self.program = program
        self.run: Callable[[list[Any]], list[Any]] = replay_of(program, keep)
