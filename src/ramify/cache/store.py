"""The tensors behind a block pool."""

from __future__ import annotations

import math

import numpy as np
import torch

LINE = 64  # bytes; blocks begin where a line of the processor's cache does
GROUP = 16  # keys that lie number by number, if blocks are multiples of it


class KVStore:
    """Keys and values, kv: [num_blocks, num_layers, 2, kv_heads, block_size * head_dim].

    A block is in one piece, over all layers. Its values are [block_size, head_dim] per head; its keys [block_size /
    GROUP, head_dim, GROUP], so that kernels find one number of many keys side by side.

    Memory is reserved at once but committed by the operating system only when a block is first written,
    so a large pool that stays half empty costs half.
    """

    def __init__(self, num_layers: int, num_blocks: int, block_size: int, kv_heads: int, head_dim: int,
                 dtype: torch.dtype, device: str = "cpu") -> None:
        self.block_size = block_size
        shape = (num_blocks, num_layers, 2, kv_heads, block_size * head_dim)
        if device == "cpu":
            # numpy's zeros are lazily committed and never hold NaNs that a masked read would spread.
            size = math.prod(shape) * dtype.itemsize
            zeros = np.zeros(size + LINE, np.uint8)
            first = -zeros.ctypes.data % LINE
            self.kv = torch.from_numpy(zeros[first : first + size]).view(dtype).view(shape)
        else:
            self.kv = torch.zeros(shape, dtype=dtype, device=device)
        self.group = GROUP if block_size % GROUP == 0 else block_size
        self._keys = self.kv[:, :, 0].unflatten(-1, (-1, head_dim, self.group))
        self._values = self.kv[:, :, 1].unflatten(-1, (block_size, head_dim))

    def write(self, layer: int, slots_T: torch.Tensor, k_TGd: torch.Tensor, v_TGd: torch.Tensor) -> None:
        """Store the keys and values of new tokens, rounded to the store's type."""
        blocks_T, offsets_T = slots_T // self.block_size, slots_T % self.block_size
        self._keys[:, layer][blocks_T, :, offsets_T // self.group, :, offsets_T % self.group] = k_TGd.to(self.kv.dtype)
        self._values[:, layer][blocks_T, :, offsets_T] = v_TGd.to(self.kv.dtype)

    def read(self, layer: int, tables_RB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the blocks in each row's table: [R, B * block_size, kv_heads, head_dim] twice."""
        k_RBGgdo, v_RBGSd = self._keys[:, layer][tables_RB], self._values[:, layer][tables_RB]
        return k_RBGgdo.permute(0, 1, 3, 5, 2, 4).flatten(1, 3), v_RBGSd.transpose(2, 3).flatten(1, 2)

    def move(self, sources: list[int], slots: list[int]) -> None:
        """Copy single positions, from slots to slots, in every layer."""
        (from_T, at_T), (to_T, there_T) = ((places_T // self.block_size, places_T % self.block_size)
                                           for places_T in (torch.tensor(sources), torch.tensor(slots)))
        group = self.group
        self._keys[to_T, :, :, there_T // group, :, there_T % group] = (
            self._keys[from_T, :, :, at_T // group, :, at_T % group])
        self._values[to_T, :, :, there_T] = self._values[from_T, :, :, at_T]

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks, (from, to), in every layer."""
        source, target = torch.tensor(pairs, device=self.kv.device).T
        self.kv[target] = self.kv[source]
