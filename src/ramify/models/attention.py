"""Attention as a pure function, and the plain way to run it over whole sequences.

Shapes: R rows, Q queries, C keys, H query heads in G groups, d head_dim, T = sum of Q over rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.models.config import ModelConfig


def attention(
    q_RQHd: Tensor, k_RCGd: Tensor, v_RCGd: Tensor, mask_RQC: Tensor, scale: float, softcap: float | None = None
) -> Tensor:
    """o_RQHd = softmax(cap(q k^T * scale) over the keys where the mask is True) v.

    Query head h reads key head h // (H / G). A query that sees no key gets finite numbers without meaning.
    """
    rows, queries, heads, width = q_RQHd.shape
    shared = heads // k_RCGd.shape[2]
    if queries == 1 and shared > 1:
        # One query: the heads that share a key head are its queries, and every key is read once.
        folded = q_RQHd.reshape(rows, -1, shared, width).transpose(1, 2)
        return attention(folded, k_RCGd, v_RCGd, mask_RQC, scale, softcap).transpose(1, 2).reshape_as(q_RQHd)
    q, k, v = (x.transpose(1, 2) for x in (q_RQHd, k_RCGd, v_RCGd))
    mask = mask_RQC[:, None]
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True).transpose(1, 2)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.tanh(q @ k.transpose(-1, -2) * (scale / softcap)) * softcap
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def visible(query_Q: Tensor, key_C: Tensor, window: int | None) -> Tensor:
    """mask_QC: True where a query at one position sees a key at another: not later, and within the window."""
    distance = query_Q[..., :, None] - key_C[..., None, :]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


class DenseAttention:
    """Attend over whole sequences laid end to end, `lengths` tokens each. Keeps nothing between calls."""

    def __init__(self, config: ModelConfig, lengths: Sequence[int]) -> None:
        self.config, self.lengths = config, list(lengths)

    def __call__(self, layer: int, q_THd: Tensor, k_TGd: Tensor, v_TGd: Tensor) -> Tensor:
        config = self.config
        out = []
        for q, k, v in zip(*(x.split(self.lengths) for x in (q_THd, k_TGd, v_TGd)), strict=True):
            index = torch.arange(len(q), device=q.device)
            mask = visible(index, index, config.windows[layer])
            out.append(
                attention(
                    q[None], k[None], v[None], mask[None], config.attention_scale, config.attention_softcap
                )[0]
            )
        return torch.cat(out)
