"""Direct Preference Optimisation (arXiv 2305.18290) and the gradient-entanglement diagnostic (arXiv 2410.13828)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.train.data import Row, pad
from ramify.train.loop import LoopConfig, train
from ramify.train.models import Trunk

Regime = Literal["good", "both up", "both down", "impossible"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, with the log-probability the frozen reference gives each."""

    chosen: Row
    rejected: Row
    chosen_ref: float = 0.0
    rejected_ref: float = 0.0


@dataclass(frozen=True, slots=True)
class Entanglement:
    """First-order change of both log-probabilities under one descent step of size 1, and what decides its signs."""

    chosen_change: float
    rejected_change: float
    inner: float  # <g_w, g_l>
    chosen_square: float  # |g_w|^2
    rejected_square: float  # |g_l|^2
    regime: Regime

    @property
    def cosine(self) -> float:
        return self.inner / (self.chosen_square * self.rejected_square) ** 0.5


def entanglement(chosen_grad: Tensor, rejected_grad: Tensor, d_w: float = 1.0, d_l: float = 1.0) -> Entanglement:
    """What the step theta += d_w g_w - d_l g_l does to log pi(y_w) and log pi(y_l), to first order.

    `chosen_grad`, `rejected_grad`: flat gradients of the two log-probabilities; d_w, d_l >= 0: how fast the loss
    falls with log pi(y_w) and rises with log pi(y_l) (equal for DPO). Chosen down with rejected up cannot happen
    (Cauchy-Schwarz), so "impossible" is only seen for gradients with rounding errors or at a boundary.
    """
    inner = float(chosen_grad @ rejected_grad)
    w, l = float(chosen_grad @ chosen_grad), float(rejected_grad @ rejected_grad)  # noqa: E741
    up_w, up_l = d_w * w - d_l * inner, d_w * inner - d_l * l
    regimes: dict[tuple[bool, bool], Regime] = {
        (True, False): "good", (True, True): "both up", (False, False): "both down", (False, True): "impossible",
    }  # fmt: skip
    return Entanglement(up_w, up_l, inner, w, l, regimes[up_w > 0, up_l > 0])


def answer_logprobs(model: Trunk, rows: Sequence[Row]) -> Tensor:
    """log pi(answer | prompt) [rows], summed over the tokens of each answer. Cost: one forward."""
    ids_BT = pad([row.ids for row in rows], fill=0)
    logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    logprob_BT = -F.cross_entropy(logits_BTV.mT, ids_BT[:, 1:], reduction="none")
    position_T = torch.arange(1, ids_BT.size(1))
    prompt_B1 = torch.tensor([[row.prompt] for row in rows])
    length_B1 = torch.tensor([[len(row.ids)] for row in rows])
    return (logprob_BT * ((position_T >= prompt_B1) & (position_T < length_B1))).sum(1)


def pair_entanglement(model: Trunk, pair: Pair) -> Entanglement:
    """The diagnostic of one pair under DPO weights, from full gradients. Cost: two forwards and backwards."""
    weights = list(model.parameters())

    def gradient(row: Row) -> Tensor:
        found = torch.autograd.grad(answer_logprobs(model, [row])[0], weights)
        return torch.cat([g.flatten() for g in found])

    return entanglement(gradient(pair.chosen), gradient(pair.rejected))


def dpo_loss(margin_B: Tensor) -> Tensor:
    """Mean -log sigmoid of the implicit reward margins beta (log-ratio of chosen - log-ratio of rejected)."""
    return -F.logsigmoid(margin_B).mean()


def train_dpo(model: Trunk, batch_of_step: Callable[[int], Sequence[Pair]], config: LoopConfig, run: Path,
              beta: float = 0.1, chosen_weight: float = 0.0) -> None:  # fmt: skip
    """Train a policy in place on preference pairs; its implicit reward is beta log(pi / reference).

    `chosen_weight` adds the chosen answers' mean negative log-likelihood per token, which keeps them likely.
    Logs accuracy and both mean log-ratios: a falling `chosen_ratio` shows entanglement at work.
    """

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        pairs = batch_of_step(step)
        logprob_B = answer_logprobs(model, [p.chosen for p in pairs] + [p.rejected for p in pairs])
        reference_B = torch.tensor([p.chosen_ref for p in pairs] + [p.rejected_ref for p in pairs])
        chosen_B, rejected_B = (logprob_B - reference_B).chunk(2)
        margin_B = beta * (chosen_B - rejected_B)
        loss = dpo_loss(margin_B)
        if chosen_weight:
            tokens = sum(len(p.chosen.ids) - p.chosen.prompt for p in pairs)
            loss = loss - chosen_weight * logprob_B[: len(pairs)].sum() / tokens
        return loss, {
            "accuracy": round(float((margin_B > 0).float().mean()), 4),
            "chosen_ratio": round(chosen_B.mean().item(), 4),
            "rejected_ratio": round(rejected_B.mean().item(), 4),
        }

    train(model, loss_of_step, config, run)
