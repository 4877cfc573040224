"""Attention over paged blocks by kernels that follow one plan per step; elsewhere in plain torch.

Shapes: T tokens of all rows together, H heads, G kv heads, d head dimension, X columns.
"""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ramify.engine.padded import PaddedAttention

if TYPE_CHECKING:
    from ramify.cache import KVStore
    from ramify.engine.batch import Row
    from ramify.models import ModelConfig
    from ramify.models.kernels.attention_plan import Pages, Plan, Rows

VECTOR = 16  # the kernels take as many keys and numbers at a time
# What they read, by what a store holds, as numpy knows it.
ARRAYS = {torch.float32: torch.float32, torch.bfloat16: torch.uint16, torch.int8: torch.int8}


def attention_of(config: ModelConfig, store: KVStore, rows: list[Row]) -> PagedAttention | PaddedAttention:
    """The attention of one step: on a CPU, in blocks and heads of whole vectors, by kernels."""
    whole = store.block_size % VECTOR == 0 and config.head_dim % VECTOR == 0
    if whole and store.kv.dtype in ARRAYS and store.kv.device.type == "cpu":
        return PagedAttention(config, store, rows)
    return PaddedAttention(config, store, rows)


class PagedAttention:
    """The attention of one step by kernels: writes new keys and values, then reads each row's blocks.

    Called by the decoder once per layer with (layer, q_THd, k_TGd, v_TGd); returns o_THd. A decoder that runs all
    its layers in one call takes `pages` instead. Planning a step of 64 rows costs some 0.2 milliseconds.
    """

    def __init__(self, config: ModelConfig, store: KVStore, rows: list[Row]) -> None:
        self.config, self.block_size = config, store.block_size
        self.kv = store.kv.view(ARRAYS[store.kv.dtype]).numpy()
        self.slots_T = np.fromiter(chain.from_iterable(row.slots for row in rows), np.int64)
        self.rows = rows_of(rows)
        self._plans: dict[int, Plan] = {}

    def pages(self) -> Pages:
        """Everything that kernels need to know of the step."""
        from ramify.models.kernels.attention_plan import Pages

        return Pages(self.slots_T, {window: self._plan(window) for window in self.config.distinct_windows}, self.kv)

    def _plan(self, window: int) -> Plan:
        from ramify.models.kernels.attention_plan import plan

        if window not in self._plans:
            config = self.config
            self._plans[window] = plan(self.rows, window, config.num_heads, config.num_kv_heads, config.head_dim,
                                       self.block_size, torch.get_num_threads())
        return self._plans[window]

    def __call__(self, layer: int, q_THd: Tensor, k_TGd: Tensor, v_TGd: Tensor) -> Tensor:
        """Attention of one layer."""
        from ramify.models.kernels.attention import attend, write

        config = self.config
        kv_TX = torch.cat((k_TGd, v_TGd), 1).flatten(1)
        write(self.kv, layer, self.block_size, self.slots_T, kv_TX.numpy(), 0, kv_TX.shape[1] // 2)
        out_THd = torch.empty(q_THd.shape)
        attend(q_THd.flatten(1).contiguous().numpy(), self.kv, layer, self._plan(config.windows[layer] or 0),
               config.attention_scale, config.attention_softcap or 0.0, out_THd.flatten(1).numpy())
        return out_THd


def rows_of(rows: list[Row]) -> Rows:
    """A step's rows as the planner takes them."""
    from ramify.models.kernels.attention_plan import Rows

    tables = [row.context.table.blocks for row in rows]
    trees = [row.tree for row in rows]
    sees = [np.zeros((len(row.ids), len(row.tree.depths)), np.uint8) for row in rows if row.tree]
    for sees_QS, tree in zip(sees, filter(None, trees), strict=True):
        for seen_S, slots in zip(sees_QS, tree.sees, strict=True):
            seen_S[slots] = 1
    return Rows(
        np.frombuffer(b"".join(tables), np.int64).copy(),
        np.fromiter(accumulate(map(len, tables)), np.int64),
        np.array([row.start for row in rows]),
        np.array([len(row.ids) for row in rows]),
        np.array([tree.base if tree else row.start for row, tree in zip(rows, trees, strict=True)]),
        np.array([len(tree.depths) if tree else 0 for tree in trees]),
        np.array([depth for tree in trees if tree for depth in tree.depths], np.int64),
        np.concatenate([np.zeros(0, np.uint8), *(sees_QS.ravel() for sees_QS in sees)]),
    )  # fmt: skip
