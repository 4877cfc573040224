"""The block table of one sequence in one model's cache."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from ramify.cache.blocks import BlockPool


class BlockTable:
    """Maps token positions 0..length-1 of a sequence to slots of a `BlockPool`.

    Full blocks are shared by forks and never copied. Only a partial last block that somebody else holds
    too is copied, at the first write into it (copy on write).
    """

    __slots__ = ("blocks", "length", "pool")

    def __init__(self, pool: BlockPool, blocks: Iterable[int] = (), length: int = 0) -> None:
        self.pool, self.length = pool, length
        self.blocks = array("q", blocks)  # so that the tables of many rows are put end to end at once

    def fork(self) -> BlockTable:
        """A second table over the same blocks. Costs one count per block, no copy."""
        for block in self.blocks:
            self.pool.share(block)
        return BlockTable(self.pool, self.blocks, self.length)

    def rewind(self, length: int) -> None:
        """Forget every position from `length` on; blocks beyond are released at once."""
        keep = -(-length // self.pool.block_size)
        for block in self.blocks[keep:]:
            self.pool.release(block)
        del self.blocks[keep:]
        self.length = length

    def free(self) -> None:
        """Release everything."""
        self.rewind(0)

    def slots(self, positions: Iterable[int]) -> list[int]:
        """Where positions of the sequence lie in the pool: block * block_size + offset."""
        size = self.pool.block_size
        return [self.blocks[at // size] * size + at % size for at in positions]

    def _shared_tail(self) -> bool:
        """Whether the next write goes into a block that somebody else holds too."""
        return self.length % self.pool.block_size != 0 and self.pool.refs[self.blocks[-1]] > 1

    def blocks_needed(self, count: int) -> int:
        """Blocks that `append(count)` will allocate."""
        return -(-(self.length + count) // self.pool.block_size) - len(self.blocks) + self._shared_tail()

    def append(self, count: int) -> tuple[list[int], tuple[int, int] | None]:
        """Make room for `count` more tokens.

        Returns the slots (block * block_size + offset) of the new positions, and the (from, to) blocks of
        the copy that must happen before they are written, if any. Raises `OutOfBlocks`.
        """
        size, copy = self.pool.block_size, None
        if self._shared_tail():
            old = self.blocks[-1]
            self.blocks[-1] = self.pool.allocate()
            self.pool.release(old)
            copy = (old, self.blocks[-1])
        end = self.length + count
        while len(self.blocks) * size < end:
            self.blocks.append(self.pool.allocate())
        slots = self.slots(range(self.length, end))
        self.length = end
        return slots, copy
