"""Attention over paged blocks in plain torch: rows of like length are padded to each other and go through together.

Serves every dtype and device; where there are kernels (see `paged`), it is what they are compared with.
Shapes: T tokens of all rows together, R rows of an attention group, Q queries per row, B blocks per row,
C = B * block_size cached positions, H heads, G kv heads, d head dimension.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ramify.models.attention import attention

if TYPE_CHECKING:
    from ramify.cache import KVStore
    from ramify.engine.batch import Row, Tree
    from ramify.models import ModelConfig

# Rows are padded to the longest of their group; a group closes when padding would pass this factor.
PADDING = 1.5
# Reads of a key and value that cost about as much as another attention call.
CALL = 1500


@dataclass(slots=True)
class _Group:
    """Rows that go through attention together.

    shared_1B: the blocks that all rows begin with, read once for all of them. tables_RB: each row's blocks from
    position `first` on. valid_RQ: None when nothing is padded. trees: of every row, or None.
    """

    tokens_RQ: Tensor
    shared_1B: Tensor
    tables_RB: Tensor
    first: int
    positions_RQ: Tensor
    valid_RQ: Tensor | None
    trees: list[Tree] | None


class PaddedAttention:
    """The attention of one step: writes new keys and values, then reads each row's blocks.

    Called by the decoder once per layer with (layer, q_THd, k_TGd, v_TGd); returns o_THd.
    """

    def __init__(self, config: ModelConfig, store: KVStore, rows: list[Row]) -> None:
        self.config, self.store, self.block_size = config, store, store.block_size
        self.slots_T = torch.tensor([slot for row in rows for slot in row.slots])
        # A sliding window may end inside a shared beginning.
        self.groups = _groups(rows, store.block_size, share=not any(config.windows))
        # The usual step of one search: all its rows, unpadded, as they come.
        tokens_RQ = self.groups[0].tokens_RQ
        self.in_order = torch.equal(tokens_RQ.flatten(), torch.arange(len(self.slots_T)))
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def __call__(self, layer: int, q_THd: Tensor, k_TGd: Tensor, v_TGd: Tensor) -> Tensor:
        """Attention of one layer."""
        self.store.write(layer, self.slots_T, k_TGd, v_TGd)
        if self.in_order:
            return self._attend(layer, 0, q_THd.unflatten(0, self.groups[0].tokens_RQ.shape)).flatten(0, 1)
        out_THd = torch.empty_like(q_THd)
        for number, group in enumerate(self.groups):
            out_RQHd = self._attend(layer, number, q_THd[group.tokens_RQ])
            if group.valid_RQ is None:
                out_THd[group.tokens_RQ] = out_RQHd
            else:
                out_THd[group.tokens_RQ[group.valid_RQ]] = out_RQHd[group.valid_RQ]
        return out_THd

    def _attend(self, layer: int, number: int, q_RQHd: Tensor) -> Tensor:
        """Attention of one group's queries over the cached keys of its rows: o_RQHd."""
        config, group = self.config, self.groups[number]
        own, mask_RQC = self._read(layer, group.tables_RB, q_RQHd), self._mask(number, config.windows[layer])
        if not group.first:
            return attention(q_RQHd, *own, mask_RQC, config.attention_scale, config.attention_softcap)
        shared = self._read(layer, group.shared_1B, q_RQHd)
        return shared_attention(q_RQHd, shared, own, mask_RQC, config.attention_scale, config.attention_softcap)

    def _read(self, layer: int, tables_RB: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of some rows, in the type of the queries."""
        keys, values = self.store.read(layer, tables_RB)
        return keys.to(like.dtype), values.to(like.dtype)

    def _mask(self, number: int, window: int | None) -> Tensor:
        """Which of a row's own cached positions each query may see: mask_RQC, True where it may."""
        if (number, window) not in self._masks:
            group = self.groups[number]
            keys_C = torch.arange(group.tables_RB.shape[1] * self.block_size) + group.first
            positions_RQ1 = group.positions_RQ[..., None]
            mask_RQC = keys_C <= positions_RQ1 if group.trees is None else _branching(group.trees, group, len(keys_C))
            if window is not None:
                places_R1C = keys_C if group.trees is None else _places(group.trees, keys_C)
                mask_RQC &= places_R1C > positions_RQ1 - window
            self._masks[number, window] = mask_RQC.to(self.store.kv.device)
        return self._masks[number, window]


def shared_attention(q_R1Hd: Tensor, shared: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], mask_R1C: Tensor,
                     scale: float, softcap: float | None = None) -> Tensor:
    """o_R1Hd: one query per row over P keys that every row begins with, then over the row's own C.

    Equal to `attention` over the P + C keys of each row, but the shared ones are read once: a product of all
    rows' queries with them per key head. shared: k and v [1, P, G, d]; own: [R, C, G, d]; the mask is of own.
    """
    rows, _, heads, width = q_R1Hd.shape
    (kp_GPd, vp_GPd), (k_GRCd, v_GRCd) = ((x[0].transpose(0, 1) for x in shared),
                                          (x.permute(2, 0, 1, 3) for x in own))
    groups, split = len(kp_GPd), kp_GPd.shape[1]
    each = heads // groups  # query heads that share a key head
    q_GXd = (q_R1Hd * scale).view(rows, groups, each, width).transpose(0, 1).reshape(groups, rows * each, width)
    own_scores = q_GXd.reshape(groups * rows, each, width) @ k_GRCd.flatten(0, 1).transpose(1, 2)
    scores_GRhC = torch.cat([(q_GXd @ kp_GPd.transpose(1, 2)).view(groups, rows, each, -1),
                             own_scores.view(groups, rows, each, -1)], -1)
    if softcap is not None:
        scores_GRhC = torch.tanh(scores_GRhC / softcap) * softcap
    scores_GRhC[..., split:].masked_fill_(~mask_R1C, -torch.inf)
    probs_GRhC = scores_GRhC.softmax(-1)
    out = probs_GRhC[..., :split].flatten(1, 2) @ vp_GPd
    out = torch.baddbmm(out.view(groups * rows, each, width), probs_GRhC[..., split:].flatten(0, 1),
                        v_GRCd.flatten(0, 1))
    return out.view(groups, rows, each, width).transpose(0, 1).reshape(q_R1Hd.shape)


def _groups(rows: list[Row], block_size: int, share: bool) -> list[_Group]:
    """Rows that begin with the same blocks together, if reading those once is worth a call; the rest by length."""
    families: dict[int, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        alike = row.context.table.blocks[0] if share and len(row.ids) == 1 else -1
        families[-2 if row.tree else alike].append(at)
    offsets = np.cumsum([0] + [len(row.ids) for row in rows])
    rest = families.pop(-1, [])
    groups = [_group(rows, some, offsets, block_size, 0) for some in _pack(rows, families.pop(-2, []))]
    for members in families.values():
        blocks = _common([rows[at] for at in members], block_size)
        if (len(members) - 1) * blocks * block_size > CALL:
            groups += [_group(rows, some, offsets, block_size, blocks) for some in _pack(rows, members)]
        else:
            rest += members
    return groups + [_group(rows, some, offsets, block_size, 0) for some in _pack(rows, rest)]


def _common(rows: list[Row], block_size: int) -> int:
    """How many blocks all rows begin with. A row's last block is its own: it is written in this step."""
    first, count = rows[0].context.table.blocks, min(row.start for row in rows) // block_size
    for row in rows[1:]:
        blocks = row.context.table.blocks
        while blocks[:count] != first[:count]:
            count -= 1
    return count


def _pack(rows: list[Row], members: list[int]) -> list[list[int]]:
    """Rows of similar length together, so that little is padded."""
    packs: list[list[int]] = []
    real = widest = 0
    for at in sorted(members, key=lambda at: (len(rows[at].ids), rows[at].start)):
        count, width = len(rows[at].ids), rows[at].start + len(rows[at].ids)
        # Ids per row ascend, so this row has the most of its pack.
        padded = 0 if not packs else (len(packs[-1]) + 1) * count * max(widest, width)
        if not packs or (padded > PADDING * (real + count * width) and padded - real > CALL):
            packs.append([])
            real = widest = 0
        packs[-1].append(at)
        real, widest = real + count * width, max(widest, width)
    return packs


def _group(rows: list[Row], members: list[int], offsets: np.ndarray, block_size: int, shared: int) -> _Group:
    counts = np.array([len(rows[at].ids) for at in members])
    starts = np.array([rows[at].start for at in members])
    step_Q = np.arange(counts.max())
    valid_RQ = step_Q < counts[:, None]
    tokens_RQ = np.where(valid_RQ, offsets[members][:, None] + step_Q, offsets[members][:, None])
    positions_RQ = np.where(valid_RQ, starts[:, None] + step_Q, starts[:, None])
    trees = [tree for at in members if (tree := rows[at].tree)] or None
    for row, at in enumerate(members if trees else ()):
        positions_RQ[row, : counts[row]] = rows[at].positions
    tables = [rows[at].context.table.blocks for at in members]
    # The table may already hold room beyond this step's last position; read no further than needed.
    width = -(-int((starts + counts).max()) // block_size)
    tables_RB = np.zeros((len(members), width - shared), dtype=np.int64)
    for row, blocks in enumerate(tables):
        tables_RB[row, : len(blocks) - shared] = blocks[shared:width]
    full = bool(valid_RQ.all())
    return _Group(torch.from_numpy(tokens_RQ), torch.tensor([tables[0][:shared]], dtype=torch.int64),
                  torch.from_numpy(tables_RB), shared * block_size, torch.from_numpy(positions_RQ),
                  None if full else torch.from_numpy(valid_RQ), trees)


def _branching(trees: list[Tree], group: _Group, width: int) -> Tensor:
    """mask_RQC of rows that branch: what came before the tree, and in it what each id sees."""
    mask_RQC = torch.zeros(*group.positions_RQ.shape, width, dtype=torch.bool)
    for mask_QC, tree in zip(mask_RQC, trees, strict=True):
        mask_QC[:, : tree.base] = True
        for mask_C, seen in zip(mask_QC, tree.sees, strict=False):
            mask_C[[tree.base + slot for slot in seen]] = True
    return mask_RQC


def _places(trees: list[Tree], keys_C: Tensor) -> Tensor:
    """places_R1C: the position in the text of what each row's slots hold."""
    places_RC = keys_C.repeat(len(trees), 1)
    for places_C, tree in zip(places_RC, trees, strict=True):
        places_C[tree.base : tree.base + len(tree.depths)] = torch.tensor(tree.depths) + tree.base
    return places_RC[:, None]
