"""A minimum cut of a network with capacities, by Dinic's algorithm."""

from __future__ import annotations

from collections import deque


class Network:
    """Nodes 0..n-1 and arcs with capacities, which may be infinite."""

    def __init__(self, nodes: int) -> None:
        self.out: list[list[int]] = [[] for _ in range(nodes)]
        self.head: list[int] = []
        self.left: list[float] = []

    def add(self, tail: int, head: int, capacity: float) -> None:
        """An arc from `tail` to `head`; arc k and its reverse k ^ 1 stand side by side."""
        for one, other, amount in ((tail, head, capacity), (head, tail, 0.0)):
            self.out[one].append(len(self.head))
            self.head.append(other)
            self.left.append(amount)

    def source_side(self, source: int, sink: int) -> set[int]:
        """The nodes on the source's side of a minimum cut."""
        finite = [amount for amount in self.left if amount != float("inf")]
        # What is left of an arc after subtractions in floating point.
        nothing = 1e-12 * max(finite, default=0.0)
        while True:
            level = self._levels(source, nothing)
            if sink not in level:
                return set(level)
            self._block(source, sink, level, nothing)

    def _levels(self, source: int, nothing: float) -> dict[int, int]:
        level = {source: 0}
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for arc in self.out[node]:
                if self.left[arc] > nothing and self.head[arc] not in level:
                    level[self.head[arc]] = level[node] + 1
                    queue.append(self.head[arc])
        return level

    def _block(self, source: int, sink: int, level: dict[int, int], nothing: float) -> None:
        """Send flow along arcs that go one level up until none gets through."""
        tried = [0] * len(self.out)
        way: list[int] = []
        node = source
        while True:
            if node == sink:
                amount = min(self.left[arc] for arc in way)
                if amount == float("inf"):
                    raise OverflowError("an infinite flow: no finite cut exists")
                for arc in way:
                    self.left[arc] -= amount
                    self.left[arc ^ 1] += amount
                full = next(at for at, arc in enumerate(way) if self.left[arc] <= nothing)
                node = self.head[way[full] ^ 1]
                del way[full:]
                continue
            arcs = self.out[node]
            while tried[node] < len(arcs):
                arc = arcs[tried[node]]
                if self.left[arc] > nothing and level.get(self.head[arc], -1) == level[node] + 1:
                    break
                tried[node] += 1
            else:
                if node == source:
                    return
                last = way.pop()
                node = self.head[last ^ 1]
                tried[node] += 1
                continue
            way.append(arcs[tried[node]])
            node = self.head[way[-1]]
