"""A transformer that fills any blank from any others, small enough to be trained in a minute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layer(nn.Module):
    """Both streams read the contents that they may see, then pass one small network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BQD: Tensor, content_BND: Tensor, mask_QN: Tensor) -> Tensor:
        """x after this layer; row q sees the contents that its mask allows."""
        def split(x_BTD: Tensor) -> Tensor:
            return x_BTD.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        read_BND = self.norm(content_BND)
        seen = F.scaled_dot_product_attention(split(self.query(self.norm(x_BQD))), split(self.key(read_BND)),
                                              split(self.value(read_BND)), mask_QN)
        x_BQD = x_BQD + self.out(seen.transpose(1, 2).flatten(2))
        return x_BQD + self.inner(self.after(x_BQD))


class TwoStream(nn.Module):
    """N positions of V tokens in any order, as in XLNet (arXiv 1906.08237).

    The content stream knows a position's token and sees what was decided before it; the query stream knows the place
    alone. So a row depends on the tokens that it is given, and on nothing else, in both passes.
    """

    def __init__(self, vocabulary: int, size: int, width: int = 48, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(size, width)
        self.begin, self.blank = (nn.Parameter(torch.randn(width)) for _ in range(2))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def logits(self, tokens_BN: Tensor, order_BN: Tensor, seen: Sequence[int]) -> Tensor:
        """logits_BQV of order[seen[0] + q], given the tokens at order[: seen[q]]."""
        places_BND = self.places(order_BN)
        content = self.tokens(tokens_BN.gather(1, order_BN)) + places_BND
        content = torch.cat([self.begin.expand(len(content), 1, -1), content], 1)  # nobody sees nothing
        query = self.blank + places_BND[:, seen[0] : seen[0] + len(seen)]
        ranks_N = torch.arange(content.shape[1])
        before_NN, given_QN = ranks_N <= ranks_N[:, None], ranks_N <= torch.tensor(list(seen))[:, None]
        for layer in self.layers:
            query, content = layer(query, content, given_QN), layer(content, content, before_NN)
        return self.out(self.norm(query))

    @torch.inference_mode()
    def forward(self, tokens: Sequence[int], order: Sequence[int], seen: Sequence[int]) -> Tensor:
        """See `ramify.speculative.any_order.AnySubset`."""
        return self.logits(torch.tensor([list(tokens)]), torch.tensor([list(order)]), seen)[0].double().softmax(-1)


def train(model: TwoStream, batch_of_step: Callable[[int], Tensor], steps: int, rate: float = 3e-3) -> float:
    """Learn every conditional of random orders. Returns the last steps' mean loss, in nats a token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    losses = []
    for step in range(steps):
        tokens_BN = batch_of_step(step)
        order_BN = torch.rand(tokens_BN.shape).argsort(1)
        logits_BNV = model.logits(tokens_BN, order_BN, range(tokens_BN.shape[1]))
        loss = F.cross_entropy(logits_BNV.flatten(0, 1), tokens_BN.gather(1, order_BN).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / len(losses[-20:])
