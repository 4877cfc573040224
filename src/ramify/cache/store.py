"""The tensors behind a block pool."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ramify.types import check

LINE = 64  # bytes; blocks begin where a line of the processor's cache does
GROUP = 16  # keys that lie number by number, if blocks are multiples of it
SCALE = 4  # bytes beside a head's numbers of one token, where those are bytes themselves: a float32
LARGEST = 127  # of a signed byte, so that both signs reach equally far
LEAST = 1e-30  # numbers that are all smaller become zeros: 127 over them might be no float32
# What a store may hold, by name. Rounded ones take less than a model's own type.
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16", "int8")}


def bytes_per_token(num_layers: int, kv_heads: int, head_dim: int, dtype_name: str) -> int:
    """Bytes that a `KVStore` of this type takes for one token: keys and values of all layers, scales included."""
    dtype = DTYPES[dtype_name]
    return 2 * num_layers * kv_heads * _width(head_dim, dtype) * dtype.itemsize


def _width(head_dim: int, dtype: torch.dtype) -> int:
    """Numbers of the store's type for one head of one token."""
    return head_dim + (SCALE if dtype == torch.int8 else 0)


def as_bytes(x_TGd: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers as signed bytes with a scale per head: the largest becomes 127. x is about codes_TGd * scales_TG."""
    largest_TG = x_TGd.abs().amax(-1)
    inverse_TG = torch.where(largest_TG > LEAST, LARGEST / largest_TG, 0)
    return (x_TGd * inverse_TG[..., None]).round().to(torch.int8), largest_TG * (1 / LARGEST)


class KVStore:
    """Keys and values, kv: [num_blocks, num_layers, 2, kv_heads, block_size * head_dim].

    A block is in one piece, over all layers. Its values are [block_size, head_dim] per head; its keys [block_size /
    GROUP, head_dim, GROUP], so that kernels find one number of many keys side by side. On a GPU they are one after
    another; `together` says how many are not, where neither is wanted.

    Of dtype int8 every token has a scale per layer and head, for its key and for its value, and every GROUP of keys
    or values begins with its float32 scales, so that whatever moves a block moves them too. Tokens are rounded one by
    one as they come, not block by block when those are full: so nothing is ever rounded twice, or again after a
    rewind, and what a token reads does not depend on how a text came to be.

    Memory is reserved at once but committed by the operating system only when a block is first written,
    so a large pool that stays half empty costs half.

    Raises `OptionError`: bytes with a head_dim that is no multiple of 4.
    """

    def __init__(self, num_layers: int, num_blocks: int, block_size: int, kv_heads: int, head_dim: int,
                 dtype: torch.dtype, device: str = "cpu", together: int | None = None) -> None:
        check(dtype != torch.int8 or head_dim % SCALE == 0, "a head_dim that is a multiple of 4 for keys in int8",
              head_dim, "choose another kv_dtype")
        if together is None:
            together = 1 if device != "cpu" else GROUP if block_size % GROUP == 0 else block_size
        self.block_size = block_size
        self.group = group = together
        width = _width(head_dim, dtype)
        shape = (num_blocks, num_layers, 2, kv_heads, block_size * width)
        if device == "cpu":
            # numpy's zeros are lazily committed and never hold NaNs that a masked read would spread.
            size = math.prod(shape) * dtype.itemsize
            zeros = np.zeros(size + LINE, np.uint8)
            first = -zeros.ctypes.data % LINE
            self.kv = torch.from_numpy(zeros[first : first + size]).view(dtype).view(shape)
        else:
            self.kv = torch.zeros(shape, dtype=dtype, device=device)
        lead = group * (width - head_dim)
        groups = self.kv.unflatten(-1, (-1, group * width))
        self._keys = groups[:, :, 0, ..., lead:].unflatten(-1, (head_dim, group))
        self._values = groups[:, :, 1, ..., lead:].unflatten(-1, (group, head_dim))
        self._scales = groups[..., :lead].view(torch.float32) if lead else None

    def write(self, layer: int, slots_T: Tensor, k_TGd: Tensor, v_TGd: Tensor) -> None:
        """Store the keys and values of new tokens, rounded to the store's type."""
        blocks_T, groups_T, at_T = self._places(slots_T)
        if self._scales is None:
            k_TGd, v_TGd = k_TGd.to(self.kv.dtype), v_TGd.to(self.kv.dtype)
        else:
            (k_TGd, keys_TG), (v_TGd, values_TG) = as_bytes(k_TGd.float()), as_bytes(v_TGd.float())
            self._scales[:, layer][blocks_T, :, :, groups_T, at_T] = torch.stack((keys_TG, values_TG), 1)
        self._keys[:, layer][blocks_T, :, groups_T, :, at_T] = k_TGd
        self._values[:, layer][blocks_T, :, groups_T, at_T] = v_TGd

    def read(self, layer: int, tables_RB: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the blocks in each row's table: [R, B * block_size, kv_heads, head_dim] twice."""
        k_RBGgdo, v_RBGgod = self._keys[:, layer][tables_RB], self._values[:, layer][tables_RB]
        if self._scales is not None:
            scales_RB2Ggo = self._scales[:, layer][tables_RB]
            k_RBGgdo = k_RBGgdo * scales_RB2Ggo[:, :, 0, ..., None, :]
            v_RBGgod = v_RBGgod * scales_RB2Ggo[:, :, 1, ..., None]
        return k_RBGgdo.permute(0, 1, 3, 5, 2, 4).flatten(1, 3), v_RBGgod.permute(0, 1, 3, 4, 2, 5).flatten(1, 3)

    def move(self, sources: list[int], slots: list[int]) -> None:
        """Copy single positions, from slots to slots, in every layer."""
        (from_T, g_T, o_T), (to_T, to_g_T, to_o_T) = (self._places(torch.tensor(some)) for some in (sources, slots))
        self._keys[to_T, :, :, to_g_T, :, to_o_T] = self._keys[from_T, :, :, g_T, :, o_T]
        self._values[to_T, :, :, to_g_T, to_o_T] = self._values[from_T, :, :, g_T, o_T]
        if self._scales is not None:
            self._scales[to_T, :, :, :, to_g_T, to_o_T] = self._scales[from_T, :, :, :, g_T, o_T]

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks, (from, to), in every layer."""
        if self.kv.is_cuda:  # one launch for all
            sources, targets = torch.tensor(pairs, device=self.kv.device).T
            self.kv[targets] = self.kv[sources]
            return
        for source, target in pairs:  # each is in one piece: no gathering, which takes three times as long
            self.kv[target] = self.kv[source]

    def _places(self, slots_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The block of each slot, the group inside it, and the place in that."""
        offsets_T = slots_T % self.block_size
        return slots_T // self.block_size, offsets_T // self.group, offsets_T % self.group
