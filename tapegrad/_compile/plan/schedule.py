"""The items of a program: nodes, and groups of nodes that are run as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad._program.ir import Node, Value


class Groups:
    """The items of a program: groups of nodes (of any class with `nodes`), and single nodes.

    home: the group of each node that is in one.
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.home: dict[Node, Any] = {}
        self.order = {node: i for i, node in enumerate(nodes)}

    def outside(self, values: Iterable[Value], group: Any) -> list[Value]:
        """Return those of some values that are computed, and not by a group."""
        return [v for v in values if v.node is not None and self.home.get(v.node) is not group]

    def reaches(self, values: Iterable[Value], group: Any) -> bool:
        """Say whether any of some values depends on a group."""
        stack = [v.node for v in values if v.node is not None]
        if not stack:
            return False
        first = self._first(group)
        seen: set[Node] = set()
        while stack:
            node = stack.pop()
            if node in seen or self.order[node] < first:
                continue
            home = self.home.get(node)
            if home is group:
                return True
            for member in (node,) if home is None else home.nodes:
                seen.add(member)
                stack += [v.node for v in member.values() if v.node is not None and v.node not in seen]
        return False

    def _first(self, group: Any) -> int:
        """Return the place from which on a node may depend on a group: nodes before read nothing that does."""
        spans = {(self.order[g.nodes[0]], self.order[g.nodes[-1]]) for g in set(self.home.values())}
        first = self.order[group.nodes[0]]
        while True:  # a group that reaches across may hand on what its later nodes read
            earlier = min((a for a, b in spans if a < first <= b), default=first)
            if earlier == first:
                return first
            first = earlier

    def ordered(self) -> list[Any]:
        """Return all items, each after what it reads and as near to its last node's place as that allows."""
        items: list[Any] = []
        done: set[Any] = set()
        home = self.home
        for start in self.nodes:
            item = home.get(start, start)
            if item in done:  # a group before it has asked for it
                continue
            if item is start:
                if all([v.node is None or home.get(v.node, v.node) in done for v in item.reads]):
                    done.add(item)
                    items.append(item)
                    continue
            elif item.nodes[-1] is not start:
                continue
            stack = [(item, False)]
            while stack:
                item, ready = stack.pop()
                if item in done:
                    continue
                if ready:
                    done.add(item)
                    items.append(item)
                    continue
                stack.append((item, True))
                for node in (item,) if type(item) is Node else item.nodes:
                    for v in node.values():
                        if v.node is not None:
                            before = home.get(v.node, v.node)
                            if before is not item and before not in done:
                                stack.append((before, False))
        return items
