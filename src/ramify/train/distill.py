"""A draft distilled from its target. Here p is the draft's distribution and q the target's."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ramify.train.data import Row, pad
from ramify.train.loop import LoopConfig, train
from ramify.train.models import Trunk

TokenLoss = Callable[[Tensor, Tensor], Tensor]  # draft and target log-probabilities [tokens, V] -> loss [tokens]


def forward_kl(logp_NV: Tensor, logq_NV: Tensor) -> Tensor:
    """KL(q || p) per token: the draft must cover what the target does."""
    return (logq_NV.exp() * (logq_NV - logp_NV)).sum(-1)


def total_variation(logp_NV: Tensor, logq_NV: Tensor) -> Tensor:
    """1 - sum min(p, q) per token: exactly the chance that the target rejects the draft's token."""
    return 0.5 * (logq_NV.exp() - logp_NV.exp()).abs().sum(-1)


def answer_logits(model: Trunk, rows: Sequence[Row]) -> Tensor:
    """Logits [tokens, V] that predict the answer tokens of all rows, row after row."""
    ids_BT = pad([row.ids for row in rows], fill=0)
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    chosen = [hidden_BTD[b, row.prompt - 1 : len(row.ids) - 1] for b, row in enumerate(rows)]
    return model.lm_head(torch.cat(chosen))


def train_draft(draft: Trunk, target: Trunk, batch_of_step: Callable[[int], Sequence[Row]], config: LoopConfig,
                run: Path, loss: TokenLoss = forward_kl) -> None:  # fmt: skip
    """Train the draft in place to match the frozen target on the answer tokens of `batch_of_step(step)`.

    Rows should be the target's own samples: then the mean `acceptance` logged is the chance that speculative
    verification at temperature 1 accepts a draft token. Cost: one target forward beside the draft's training.
    """

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = batch_of_step(step)
        with torch.inference_mode():
            logq_NV = answer_logits(target, rows).log_softmax(-1)
        logq_NV = logq_NV.clone()  # autograd refuses inference tensors
        logp_NV = answer_logits(draft, rows).log_softmax(-1)
        acceptance = 1 - float(total_variation(logp_NV.detach(), logq_NV).mean())
        return loss(logp_NV, logq_NV).mean(), {"acceptance": round(acceptance, 4)}

    train(draft, loss_of_step, config, run)
