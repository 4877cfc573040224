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
        self._flat = self.kv.view(num_layers, 2, kv_heads, num_blocks * block_size, head_dim)

    def write(self, layer: int, slots_T: torch.Tensor, k_TGd: torch.Tensor, v_TGd: torch.Tensor) -> None:
        """Store the keys and values of new tokens."""
        self._flat[layer, 0].index_copy_(1, slots_T, k_TGd.transpose(0, 1))
        self._flat[layer, 1].index_copy_(1, slots_T, v_TGd.transpose(0, 1))

    def read(self, layer: int, tables_RB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the blocks in each row's table: [R, B * block_size, kv_heads, head_dim] twice."""
        rows = len(tables_RB)
        flat = tables_RB.reshape(-1)
        k, v = (self.kv[layer, side].index_select(1, flat) for side in (0, 1))
        k_GRCd, v_GRCd = (x.view(len(x), rows, -1, x.shape[-1]) for x in (k, v))
        return k_GRCd.permute(1, 2, 0, 3), v_GRCd.permute(1, 2, 0, 3)

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks, (from, to), in every layer."""
        source, target = torch.tensor(pairs, device=self.kv.device).T
        self.kv[:, :, :, target] = self.kv[:, :, :, source]
