"""Reuse of prompts that were computed before, at token granularity.

A tree of blocks: a path from the root spells a token sequence. A new prompt walks down as far as its
tokens agree; inside the last block it may agree partly, and then that block is shared too and copied on
the first write, like any partial block.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter

from ramify.cache.blocks import BlockPool
from ramify.cache.table import BlockTable


@dataclass(slots=True, eq=False)
class _Node:
    tokens: tuple[int, ...]
    block: int
    parent: _Node | None
    used: int = 0
    children: list[_Node] = field(default_factory=list)  # in the order of their tokens

    def place(self, tokens: tuple[int, ...]) -> int:
        """Where a child of these tokens stands, or would. What agrees longest with them stands there or before."""
        return bisect_left(self.children, tokens, key=_tokens)

    def nearest(self, tokens: tuple[int, ...]) -> tuple[_Node | None, int]:
        """The child that agrees longest with `tokens`, None if none does, and how far, in a time that hardly grows
        with how many there are."""
        near: _Node | None = None
        at, longest = self.place(tokens), 0
        for child in self.children[max(0, at - 1) : at + 1]:
            if (agreed := _agree(child.tokens, tokens)) > longest:
                near, longest = child, agreed
        return near, longest


_tokens = attrgetter("tokens")


def _agree(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Length of the common prefix."""
    for at, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return at
    return min(len(left), len(right))


class PrefixCache:
    """Holds one reference on every block it remembers; the least recently used are given up first."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self._root = _Node((), -1, None)
        self._clock = 0

    def match(self, tokens: list[int]) -> BlockTable:
        """A table over the longest remembered prefix of `tokens` (possibly of length 0).

        Costs one comparison per token of the prefix.
        """
        size, node, blocks, length = self.pool.block_size, self._root, [], 0
        self._clock += 1
        while length < len(tokens):
            piece = tuple(tokens[length : length + size])
            near, agreed = node.nearest(piece)
            if near is None:
                break
            near.used = self._clock
            self.pool.share(near.block)
            blocks.append(near.block)
            length += agreed
            if agreed < size:
                break
            node = near
        return BlockTable(self.pool, blocks, length)

    def insert(self, tokens: list[int], table: BlockTable) -> None:
        """Remember the blocks of `tokens`, which `table` holds from position 0."""
        size, node = self.pool.block_size, self._root
        self._clock += 1
        for at in range(0, len(tokens), size):
            piece = tuple(tokens[at : at + size])
            place = node.place(piece)
            found = node.children[place] if place < len(node.children) else None
            # A partial last block that is remembered with more tokens already has nothing to add, and a block that
            # two nodes held could never be given up.
            if found is None or found.tokens[: len(piece)] != piece:
                found = _Node(piece, table.blocks[at // size], node)
                self.pool.share(found.block)
                node.children.insert(place, found)
            elif found.tokens == piece and self.pool.refs[found.block] == 1 and found.block != table.blocks[at // size]:
                # Computed again by somebody who could not wait for it: one copy is enough.
                self.pool.release(found.block)
                found.block = table.blocks[at // size]
                self.pool.share(found.block)
            found.used = self._clock
            node = found

    def evict(self, count: int) -> int:
        """Give up leaves, oldest first, until `count` blocks became free. Returns how many did."""
        freed = 0
        while freed < count:
            leaves = [node for node in self._nodes() if not node.children and self.pool.refs[node.block] == 1]
            if not leaves:
                break
            for leaf in sorted(leaves, key=lambda node: node.used)[: count - freed]:
                self.pool.release(leaf.block)
                if leaf.parent is not None:
                    leaf.parent.children.remove(leaf)
                freed += 1
        return freed

    def clear(self) -> None:
        """Forget everything."""
        for node in list(self._nodes()):
            self.pool.release(node.block)
        self._root.children.clear()

    def _nodes(self) -> list[_Node]:
        found, stack = [], [self._root]
        while stack:
            children = stack.pop().children
            found += children
            stack += children
        return found
