"""Ragged rows as one forward: positions, cache slots, and attention over paged blocks.

Shapes: T tokens of all rows together, R rows of an attention group, Q queries per row, B blocks per row,
C = B * block_size cached positions, H heads, G kv heads, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ramify.models.attention import attention

if TYPE_CHECKING:
    from ramify.cache import KVStore
    from ramify.engine.sequence import Context
    from ramify.models import ModelConfig

# Rows are padded to the longest of their group; a group closes when padding would pass this factor.
PADDING = 1.5


@dataclass(slots=True)
class Row:
    """New ids of one context, to be read in this step."""

    context: Context
    ids: list[int]
    start: int
    slots: list[int]


@dataclass(slots=True)
class _Group:
    """Rows that share one padded attention call."""

    tokens_RQ: Tensor
    tables_RB: Tensor
    positions_RQ: Tensor
    valid_RQ: Tensor | None  # None: nothing is padded


class PagedAttention:
    """The attention of one step: writes new keys and values, then reads each row's blocks.

    Called by the decoder once per layer with (layer, q_THd, k_TGd, v_TGd); returns o_THd.
    """

    def __init__(self, config: ModelConfig, store: KVStore, rows: list[Row], block_size: int) -> None:
        self.config, self.store = config, store
        self.slots_T = torch.tensor([slot for row in rows for slot in row.slots])
        self.groups = list(_groups(rows, block_size))
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def __call__(self, layer: int, q_THd: Tensor, k_TGd: Tensor, v_TGd: Tensor) -> Tensor:
        """Attention of one layer."""
        config = self.config
        self.store.write(layer, self.slots_T, k_TGd, v_TGd)
        out_THd = torch.empty_like(q_THd)
        for number, group in enumerate(self.groups):
            k_RCGd, v_RCGd = self.store.read(layer, group.tables_RB)
            out_RQHd = attention(q_THd[group.tokens_RQ], k_RCGd, v_RCGd, self._mask(number, config.windows[layer]),
                                 config.attention_scale, config.attention_softcap)
            if group.valid_RQ is None:
                out_THd[group.tokens_RQ] = out_RQHd
            else:
                out_THd[group.tokens_RQ[group.valid_RQ]] = out_RQHd[group.valid_RQ]
        return out_THd

    def _mask(self, number: int, window: int | None) -> Tensor:
        """Which cached positions each query may see: mask_RQC, True where it may."""
        if (number, window) not in self._masks:
            group = self.groups[number]
            width = group.tables_RB.shape[1] * self.store.kv.shape[3]
            keys_C, positions_RQ1 = torch.arange(width), group.positions_RQ[..., None]
            mask_RQC = keys_C <= positions_RQ1
            if window is not None:
                mask_RQC &= keys_C > positions_RQ1 - window
            self._masks[number, window] = mask_RQC
        return self._masks[number, window]


def flatten(rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Token ids and positions of all rows, one after another: ids_T, positions_T."""
    ids = [token for row in rows for token in row.ids]
    positions = [at for row in rows for at in range(row.start, row.start + len(row.ids))]
    return torch.tensor(ids), torch.tensor(positions)


def _groups(rows: list[Row], block_size: int) -> list[_Group]:
    """Pack rows of similar length together so that little is padded."""
    offsets = np.cumsum([0] + [len(row.ids) for row in rows])
    order = sorted(range(len(rows)), key=lambda at: (len(rows[at].ids), rows[at].start))
    groups: list[_Group] = []
    members: list[int] = []
    real = 0
    for at in order:
        count, width = len(rows[at].ids), rows[at].start + len(rows[at].ids)
        widest = max([width] + [rows[m].start + len(rows[m].ids) for m in members])
        # `order` ascends in query count, so this row is the longest of the group.
        padded = (len(members) + 1) * count * widest
        if members and padded > PADDING * (real + count * width) and padded - real > 4096:
            groups.append(_group(rows, members, offsets, block_size))
            members, real = [], 0
        members.append(at)
        real += count * width
    groups.append(_group(rows, members, offsets, block_size))
    return groups


def _group(rows: list[Row], members: list[int], offsets: np.ndarray, block_size: int) -> _Group:
    counts = np.array([len(rows[at].ids) for at in members])
    starts = np.array([rows[at].start for at in members])
    step_Q = np.arange(counts.max())
    valid_RQ = step_Q < counts[:, None]
    tokens_RQ = np.where(valid_RQ, offsets[members][:, None] + step_Q, offsets[members][:, None])
    positions_RQ = np.where(valid_RQ, starts[:, None] + step_Q, starts[:, None])
    tables = [rows[at].context.table.blocks for at in members]
    # The table may already hold room beyond this step's last position; read no further than needed.
    width = max(-(-(rows[at].start + len(rows[at].ids)) // block_size) for at in members)
    tables_RB = np.zeros((len(members), width), dtype=np.int64)
    for row, blocks in enumerate(tables):
        tables_RB[row, : len(blocks)] = blocks[:width]
    full = bool(valid_RQ.all())
    return _Group(torch.from_numpy(tokens_RQ), torch.from_numpy(tables_RB), torch.from_numpy(positions_RQ),
                  None if full else torch.from_numpy(valid_RQ))
