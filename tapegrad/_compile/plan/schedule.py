"""Scheduling: an order of nodes and groups of nodes in which each comes after all that it reads.

The passes of fusion put nodes into groups, and each group runs as one item. A group is possible only where no path
leaves it and comes back: else the group and a node on that path would wait for each other.

    before                                  after, with a group of a and c
    a = exp x                               b = sum x
    b = sum x                               run: a = exp x, c = multiply a 2
    c = multiply a 2                        d = add c b
    d = add c b
"""

from __future__ import annotations

from collections.abc import Iterable

from tapegrad._program.ir import Group, Item, Node, Value


class Schedule:
    """Nodes of a program in the order of their calls, and the groups that passes have made of them.

    group_of: the group of each node that is in one; place: of each node in the order of calls.
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.group_of: dict[Node, Group] = {}
        self.place = {node: i for i, node in enumerate(nodes)}

    def outside(self, values: Iterable[Value], group: Group) -> list[Value]:
        """Return those of some values that are computed, and not by a group."""
        return [v for v in values if v.node is not None and self.group_of.get(v.node) is not group]

    def reaches(self, values: Iterable[Value], group: Group) -> bool:
        """Say whether any of some values depends on a group.

        A depth-first search goes from the values back to their operands.
        """
        stack = [v.node for v in values if v.node is not None]
        if not stack:
            return False
        first = self._first(group)
        seen: set[Node] = set()
        while stack:
            node = stack.pop()
            if node in seen or self.place[node] < first:
                continue
            member_of = self.group_of.get(node)
            if member_of is group:
                return True
            # A group runs as one: who reads one of its results waits for all that its nodes read.
            for member in (node,) if member_of is None else member_of.nodes:
                seen.add(member)
                stack += [v.node for v in member.reads if v.node is not None and v.node not in seen]
        return False

    def _first(self, group: Group) -> int:
        """Return the place from which on a node may depend on a group: nodes before read nothing that does."""
        spans = {(self.place[g.nodes[0]], self.place[g.nodes[-1]]) for g in set(self.group_of.values())}
        first = self.place[group.nodes[0]]
        # A group that spans this place may hand on operands of its later nodes: then its first node bounds the search.
        while True:
            earlier = min((a for a, b in spans if a < first <= b), default=first)
            if earlier == first:
                return first
            first = earlier

    def ordered(self) -> list[Item]:
        """Return all items in topological order, each as near to its last node's place as that allows.

        Near, so that a value is read soon after it is made: its memory is free earlier, and it may still be in a cache.
        """
        items: list[Item] = []
        done: set[Item] = set()
        group_of = self.group_of
        for start in self.nodes:
            item: Item = group_of.get(start, start)
            if item in done:  # a group before it has asked for it
                continue
            if item is start:
                # Quick path: a single node whose operands are there.
                if all([v.node is None or group_of.get(v.node, v.node) in done for v in start.reads]):
                    done.add(item)
                    items.append(item)
                    continue
            elif not isinstance(item, Node) and item.nodes[-1] is not start:
                continue  # a group waits until its last node's turn
            # A search in depth, with a stack of its own: operands first, then the item.
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
                for node in (item,) if isinstance(item, Node) else item.nodes:
                    for v in node.reads:
                        if v.node is not None:
                            before = group_of.get(v.node, v.node)
                            if before is not item and before not in done:
                                stack.append((before, False))
        return items
