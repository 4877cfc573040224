"""Heads on a decoder's hidden states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


class AcceptanceHead(nn.Module):
    """The chance that the target will accept a token that this draft drew (arXiv 2405.19715).

    It reads the hidden state that the draft's distribution came from, the embedding of the token that was drawn and
    the logarithm of its chance, so the newest token is judged too. Then come residual layers x + SiLU(Wx + b), each
    with weights of its own; the published code gave all of them one matrix, and judged each token one step late.
    K drafted tokens of D channels.
    """

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.join = nn.Linear(2 * size + 1, size)
        self.layers = nn.ModuleList(nn.Linear(size, size) for _ in range(layers))
        self.out = nn.Linear(size, 1)

    @property
    def flops(self) -> float:
        """Floating-point operations of judging one token: 2 per weight."""
        return 2.0 * sum(weight.numel() for weight in self.parameters())

    def forward(self, hidden_KD: Tensor, embedded_KD: Tensor, chance_K: Tensor) -> Tensor:
        """Log-odds of acceptance, K, in float32 (float64 for a float64 model). Chances are above 0."""
        log_K1 = chance_K.log()[:, None].to(hidden_KD.dtype)
        x_KD = self.join(torch.cat([hidden_KD, embedded_KD, log_K1], -1))
        for layer in self.layers:
            x_KD = x_KD + F.silu(layer(x_KD))
        odds_K = self.out(x_KD)[:, 0]
        return odds_K.to(torch.promote_types(odds_K.dtype, torch.float32))
