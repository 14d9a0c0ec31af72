"""Drawings of a computational graph, as Graphviz DOT or Mermaid text."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import shorten
from typing import NamedTuple

from tapegrad._engine.tensor import Tensor
from tapegrad._inspect.tape import Entry, Tape, names_of, show, show_static

# Kind of node -> fill and border, the same in both languages.
_COLOURS = {
    "leaf": ("#fde7b0", "#b07a00"),
    "value": ("#f2f2f2", "#777777"),
    "operation": ("#dbe9fb", "#3a6ea5"),
    "untracked": ("#ffffff", "#777777"),
}
PROGRAM_COLOURS = {
    "state": _COLOURS["leaf"],
    "argument": _COLOURS["value"],
    "operation": _COLOURS["operation"],
    "result": ("#dff0d8", "#4a7a3a"),
}
_ROUND = ("leaf", "value", "state", "argument", "result")
LONGEST = 60  # characters in a line of a label; longer text, as of an array as an index, is cut


class Shape(NamedTuple):
    """One shape of a drawing.

    Attributes
    ----------
    id : str
        The name in the drawing's text.
    kind : str
        The kind of node, which tells its form and colours.
    lines : list of str
        The lines of its label.
    inputs : list of str
        The ids of the shapes that arrows come from.
    group : str
        The title of the box around it and its neighbours of the same group; "" for none.
    """

    id: str
    kind: str
    lines: list[str]
    inputs: list[str]
    group: str = ""


def to_dot(tape: Tape, names: Mapping[str, Tensor] | None = None) -> str:
    """Return the graph of a tape in Graphviz's DOT language, for `dot -Tsvg`.

    Ellipses are values from outside, yellow where they are leaves that require a gradient; boxes are operations,
    dashed where nothing was recorded.

    Parameters
    ----------
    tape : Tape
        The tape.
    names : mapping of str to Tensor or None, default None
        Labels for values on the tape (a Tensor updated in place since has another value: its label is not used); the
        others are named as in `print(tape)`.

    Returns
    -------
    str
        The text of the graph.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor(3.0, requires_grad=True)
    >>> with tg.Tape() as tape:
    ...     y = w * 2.0
    >>> "n0 -> n1" in tg.to_dot(tape, {"w": w, "y": y})
    True
    """
    return draw_dot("tape", _nodes(tape, names or {}), _COLOURS)


def draw_dot(name: str, nodes: list[Shape], colours: Mapping[str, tuple[str, str]]) -> str:
    """Return shapes in DOT; colours: fill and border for each kind."""
    text = [f"digraph {name} {{", '  node [fontname="Helvetica", fontsize=11];']
    for n, node in enumerate(nodes):
        if node.group and (n == 0 or nodes[n - 1].group != node.group):
            text.append(f'  subgraph cluster_{n} {{ label="{_escape_dot(node.group)}";')
        fill, border = colours[node.kind]
        shape = "ellipse" if node.kind in _ROUND else "box"
        style = "filled,dashed" if node.kind == "untracked" else "filled"
        label = "\\n".join(_escape_dot(line) for line in node.lines)
        look = f'shape={shape}, style="{style}", fillcolor="{fill}", color="{border}"'
        text.append(f'  {node.id} [label="{label}", {look}];')
        if node.group and (n + 1 == len(nodes) or nodes[n + 1].group != node.group):
            text.append("  }")
    text += [f"  {source} -> {node.id};" for node in nodes for source in node.inputs]
    return "\n".join([*text, "}", ""])


def to_mermaid(tape: Tape, names: Mapping[str, Tensor] | None = None) -> str:
    """Return the graph of a tape as a Mermaid flowchart, which Markdown viewers draw.

    Parameters
    ----------
    tape : Tape
        The tape.
    names : mapping of str to Tensor or None, default None
        Labels for values on the tape, as for `to_dot`.

    Returns
    -------
    str
        The text of the graph.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor(3.0, requires_grad=True)
    >>> with tg.Tape() as tape:
    ...     y = w * 2.0
    >>> print(tg.to_mermaid(tape, {"w": w}).splitlines()[2].strip())
    n1["%0 = multiply(w, 2.0)<br/>() float64"]:::operation
    """
    return draw_mermaid(_nodes(tape, names or {}), _COLOURS)


def draw_mermaid(nodes: list[Shape], colours: Mapping[str, tuple[str, str]]) -> str:
    """Return shapes as a Mermaid flowchart; colours: fill and border for each kind."""
    text = ["flowchart TD"]
    for n, node in enumerate(nodes):
        if node.group and (n == 0 or nodes[n - 1].group != node.group):
            text.append(f'  subgraph g{n}["{_escape_mermaid(node.group)}"]')
        start, end = ("([", "])") if node.kind in _ROUND else ("[", "]")
        label = "<br/>".join(_escape_mermaid(line) for line in node.lines)
        text.append(f'  {node.id}{start}"{label}"{end}:::{node.kind}')
        if node.group and (n + 1 == len(nodes) or nodes[n + 1].group != node.group):
            text.append("  end")
    text += [f"  {source} --> {node.id}" for node in nodes for source in node.inputs]
    for kind, (fill, border) in colours.items():
        dashes = ",stroke-dasharray:4" if kind == "untracked" else ""
        text.append(f"  classDef {kind} fill:{fill},stroke:{border},color:#000000{dashes}")
    return "\n".join([*text, ""])


def _nodes(tape: Tape, given: Mapping[str, Tensor]) -> list[Shape]:
    names = names_of(tape, given)
    nodes: list[Shape] = []
    node_of: dict[int, str] = {}  # identity of a buffer -> the node that made it
    for entry in tape:
        operands = [x for x in entry.operands if isinstance(x, Tensor)]
        for x in operands:
            if id(x._array) not in node_of:
                node_of[id(x._array)] = f"n{len(nodes)}"
                kind, mark = ("leaf", ", requires grad") if x.requires_grad and x.is_leaf else ("value", "")
                nodes.append(Shape(f"n{len(nodes)}", kind, [names[id(x._array)] + mark, _shape_and_dtype(x)], []))
        kind = "untracked" if entry.record is None else "operation"
        inputs = [node_of[id(x._array)] for x in operands]
        node_of.update((id(y._array), f"n{len(nodes)}") for y in entry.results)
        nodes.append(Shape(f"n{len(nodes)}", kind, _lines(entry, names), inputs))
    return nodes


def _lines(entry: Entry, names: dict[int, str]) -> list[str]:
    static = [show_static(s) for s in entry.static if s is not False]
    call = f"{entry.operation.name}({', '.join([show(x, names) for x in entry.operands] + static)})"
    results = ", ".join(names[id(y._array)] for y in entry.results)
    line = shorten(f"{results} = {call}", LONGEST, placeholder=" ...")
    return [line, *dict.fromkeys(_shape_and_dtype(y) for y in entry.results)]


def _shape_and_dtype(x: Tensor) -> str:
    return f"{x.shape} {x.dtype.name}"


def _escape_dot(text: str) -> str:
    # Graphviz reads backslashes and HTML entities in labels.
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def _escape_mermaid(text: str) -> str:
    # Mermaid's own entities, #code;. Two percent signs would start a comment.
    text = "".join(f"#{ord(c)};" if c in '"#&<>`\\' else c for c in text)
    return text.replace("%%", "#37;#37;")
