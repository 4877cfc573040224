"""Language-model training: next-token cross-entropy on the answer, a small weight on the prompt."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.train.data import Row, pad
from ramify.train.loop import LoopConfig, train
from ramify.train.models import Trunk


def lm_loss(model: Trunk, rows: Sequence[Row], prompt_weight: float) -> tuple[Tensor, float]:
    """Mean weighted cross-entropy per answer token (prompt tokens weigh `prompt_weight`), and the answer's alone."""
    ids_BT = pad([row.ids for row in rows], fill=0)
    B, T = ids_BT.shape
    position_T = torch.arange(1, T)
    prompt_B1 = torch.tensor([[row.prompt] for row in rows])
    length_B1 = torch.tensor([[len(row.ids)] for row in rows])
    answer_BT = (position_T >= prompt_B1) & (position_T < length_B1)
    weight_BT = answer_BT.float() + prompt_weight * (position_T < prompt_B1)
    logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    loss_BT = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none").view(B, T - 1)
    answers = answer_BT.sum()
    return (loss_BT * weight_BT).sum() / answers, float((loss_BT.detach() * answer_BT).sum() / answers)


def train_lm(model: Trunk, batch_of_step: Callable[[int], Sequence[Row]], config: LoopConfig, run: Path,
             prompt_weight: float = 0.1, after_save: Callable[[int], None] | None = None) -> None:  # fmt: skip
    """Train a causal language model in place on `batch_of_step(step)`; see `ramify.train.loop.train`."""

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        loss, answer_loss = lm_loss(model, batch_of_step(step), prompt_weight)
        return loss, {"answer_loss": round(answer_loss, 5)}

    train(model, loss_of_step, config, run, after_save)
