"""Heads on a decoder's hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScalarHead(nn.Module):
    """A reward: one number per hidden state. K hidden states of D channels."""

    def __init__(self, weight_1D: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_1D, requires_grad=False)

    def forward(self, hidden_KD: Tensor) -> Tensor:
        """value_K in float32 (float64 for a float64 model), unbounded.

        The reward of a text is the value at its last token.
        """
        value_K = hidden_KD @ self.weight[0]
        return value_K.to(torch.promote_types(value_K.dtype, torch.float32))
