"""Reward training on right/wrong labels at every prefix, so that a partial text gets a meaningful score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.train.data import Row, pad
from ramify.train.loop import LoopConfig, train
from ramify.train.models import Trunk


@dataclass(frozen=True, slots=True)
class Judged(Row):
    """A prompt with one finished answer, whether the answer is right, and which prompt it belongs to.

    `sound`: where it is known, the number of leading ids without a mistake.
    """

    correct: bool
    group: int
    sound: int | None = None


def scores(model: Trunk, rows: Sequence[Row]) -> Tensor:
    """Logits [rows, longest]: the score of every prefix. Entries past a row's end are meaningless."""
    ids_BT = pad([row.ids for row in rows], fill=0)
    return model.score(model.model(input_ids=ids_BT, use_cache=False).last_hidden_state).squeeze(-1)


def prefix_mask(rows: Sequence[Row], longest: int) -> Tensor:
    """bool [rows, longest]: the places whose prefixes are scored, from the bare prompt to the whole text."""
    position_T = torch.arange(longest)
    first_B1 = torch.tensor([[row.prompt - 1] for row in rows])
    length_B1 = torch.tensor([[len(row.ids)] for row in rows])
    return (position_T >= first_B1) & (position_T < length_B1)


def prefix_loss(score_BT: Tensor, rows: Sequence[Judged]) -> Tensor:
    """Mean binary cross-entropy of every prefix against the label of the finished answer.

    The minimiser at a prefix is the log-odds that an answer of the sampling policy that starts so turns out right.
    Rows that say how far they are `sound` label each prefix by that instead. Each row weighs the same.
    """
    scored_BT = prefix_mask(rows, score_BT.size(1))
    until_B1 = torch.tensor([[_right_until(row)] for row in rows])
    label_BT = (torch.arange(score_BT.size(1)) < until_B1).float()
    loss_BT = F.binary_cross_entropy_with_logits(score_BT, label_BT, reduction="none")
    return ((loss_BT * scored_BT).sum(1) / scored_BT.sum(1)).mean()


def _right_until(row: Judged) -> int:
    """Prefixes of up to so many ids are labelled right."""
    return row.sound if row.sound is not None else len(row.ids) * row.correct


def final_scores(score_BT: Tensor, rows: Sequence[Judged]) -> Tensor:
    """Scores [rows] of the finished texts."""
    return score_BT[torch.arange(len(rows)), torch.tensor([len(row.ids) - 1 for row in rows])]


def pair_loss(score_B: Tensor, rows: Sequence[Judged]) -> Tensor:
    """Bradley-Terry: mean -log sigmoid(right - wrong) over the pairs of one prompt; 0 without pairs."""
    group_B = torch.tensor([row.group for row in rows])
    correct_B = torch.tensor([row.correct for row in rows])
    pair_BB = (group_B[:, None] == group_B) & correct_B[:, None] & ~correct_B
    if not pair_BB.any():
        return score_B.sum() * 0.0
    return -F.logsigmoid(score_B[:, None] - score_B)[pair_BB].mean()


def train_reward(model: Trunk, batch_of_step: Callable[[int], Sequence[Judged]], config: LoopConfig,
                 run: Path, final_weight: float = 1.0, pair_weight: float = 0.0) -> None:  # fmt: skip
    """Train a one-label sequence classifier in place; see `ramify.train.loop.train` for files and resume.

    The loss is that of all prefixes + `final_weight` x that of finished texts + `pair_weight` x Bradley-Terry.
    """

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = batch_of_step(step)
        score_BT = scores(model, rows)
        final_B = final_scores(score_BT, rows)
        label_B = torch.tensor([float(row.correct) for row in rows])
        prefix = prefix_loss(score_BT, rows)
        final = F.binary_cross_entropy_with_logits(final_B, label_B)
        loss = prefix + final_weight * final
        if pair_weight:
            loss = loss + pair_weight * pair_loss(final_B, rows)
        right = float(((final_B > 0) == (label_B > 0)).float().mean())
        numbers = {"prefix": prefix.item(), "final": final.item(), "right": right}
        return loss, {name: round(number, 4) for name, number in numbers.items()}

    train(model, loss_of_step, config, run)
