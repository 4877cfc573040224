"""A pool of equal KV blocks with reference counts. Knows nothing of tensors."""

from __future__ import annotations


class OutOfBlocks(Exception):
    """The pool has no free block; the scheduler makes room before it lets this happen."""


class BlockPool:
    """Hands out block numbers 0..num_blocks-1; a block is free again when its last holder lets go.

    Args:
        num_blocks: blocks in all.
        block_size: tokens per block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.refs = [0] * num_blocks
        # Last in, first out: a small working set stays on the same warm pages.
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def available(self) -> int:
        """Free blocks."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Blocks with at least one holder."""
        return self.num_blocks - len(self._free)

    def allocate(self) -> int:
        """A free block, held once. Raises `OutOfBlocks` when there is none."""
        if not self._free:
            raise OutOfBlocks
        block = self._free.pop()
        self.refs[block] = 1
        return block

    def share(self, block: int) -> None:
        """Add a holder."""
        self.refs[block] += 1

    def release(self, block: int) -> None:
        """Remove a holder; the last one frees the block."""
        self.refs[block] -= 1
        if self.refs[block] == 0:
            self._free.append(block)
