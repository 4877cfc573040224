"""The tensors behind a block pool."""

from __future__ import annotations

import math

import numpy as np
import torch


class KVStore:
    """Keys and values of every layer, [kv_heads, num_blocks, block_size, head_dim] each.

    Heads come first so that what a row reads lies ready for a product per head.

    Memory is reserved at once but committed by the operating system only when a block is first written,
    so a large pool that stays half empty costs half.
    """

    def __init__(self, num_layers: int, num_blocks: int, block_size: int, kv_heads: int, head_dim: int,
                 dtype: torch.dtype, device: str = "cpu") -> None:
        shape = (num_layers, 2, kv_heads, num_blocks, block_size, head_dim)
        if device == "cpu":
            # numpy's zeros are lazily committed and never hold NaNs that a masked read would spread.
            zeros = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
            self.kv = torch.from_numpy(zeros).view(dtype).view(shape)
        else:
            self.kv = torch.zeros(shape, dtype=dtype, device=device)
        # Views per layer and side, made once: by block to read from, by slot to write to.
        self._blocks = [pair.unbind() for pair in self.kv]
        self._slots = [pair.unbind() for pair in self.kv.view(num_layers, 2, kv_heads, -1, head_dim)]

    def write(self, layer: int, slots_T: torch.Tensor, k_TGd: torch.Tensor, v_TGd: torch.Tensor) -> None:
        """Store the keys and values of new tokens."""
        for side, x_TGd in zip(self._slots[layer], (k_TGd, v_TGd), strict=True):
            side.index_copy_(1, slots_T, x_TGd.transpose(0, 1))

    def read(self, layer: int, tables_RB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the blocks in each row's table: [R, B * block_size, kv_heads, head_dim] twice."""
        flat, (rows, width) = tables_RB.reshape(-1), tables_RB.shape
        heads, _, size, dim = self._blocks[layer][0].shape
        k_GRCd, v_GRCd = (side.index_select(1, flat).view(heads, rows, width * size, dim)
                          for side in self._blocks[layer])
        return k_GRCd.permute(1, 2, 0, 3), v_GRCd.permute(1, 2, 0, 3)

    def move(self, sources: list[int], slots: list[int]) -> None:
        """Copy single positions, from slots to slots, in every layer."""
        flat = self.kv.view(*self.kv.shape[:3], -1, self.kv.shape[-1])
        flat[:, :, :, torch.tensor(slots)] = flat[:, :, :, torch.tensor(sources)]

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks, (from, to), in every layer."""
        source, target = torch.tensor(pairs, device=self.kv.device).T
        self.kv[:, :, :, target] = self.kv[:, :, :, source]
