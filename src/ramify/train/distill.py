"""A draft distilled from its target. Here p is the draft's law and q the target's."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ramify.errors import OptionError
from ramify.train.data import Row, pad
from ramify.train.divergence import LOSSES, LossName, total_variation
from ramify.train.loop import LoopConfig, train
from ramify.train.models import Trunk
from ramify.train.sample import sample


def answer_hidden(model: Trunk, rows: Sequence[Row]) -> Tensor:
    """Hidden states [tokens, D] from which the answer tokens of all rows are predicted, row after row."""
    ids_BT = pad([row.ids for row in rows], fill=0)
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    return torch.cat([hidden_BTD[b, row.prompt - 1 : len(row.ids) - 1] for b, row in enumerate(rows)])


def answer_logits(model: Trunk, rows: Sequence[Row]) -> Tensor:
    """Logits [tokens, V] that predict the answer tokens of all rows, row after row."""
    return model.lm_head(answer_hidden(model, rows))


def train_draft(draft: Trunk, target: Trunk, batch_of_step: Callable[[int], Sequence[Row]], config: LoopConfig,
                run: Path, loss: LossName = "forward_kl", on_policy: float = 0.0) -> None:  # fmt: skip
    """Train the draft in place to match the frozen target on the answer tokens of `batch_of_step(step)`.

    Rows should be the target's own samples: then the mean `acceptance` logged is the chance that speculative
    verification at temperature 1 accepts a draft token. Before each step a share `on_policy` of the rows, drawn
    anew, has its answers replaced by samples of the draft as it then is, so that it also learns where its own
    drafts lead (arXiv 2310.08461, 2306.13649); `acceptance` is of both kinds together then. Gradients do not run
    through the sampling. Cost: one target forward beside the draft's training, and the draft's samples.

    Raises:
        OptionError: an unknown loss, or a share outside [0, 1].
    """
    if loss not in LOSSES:
        raise OptionError(f"a loss among {', '.join(LOSSES)}", repr(loss), "pick one of them")
    if not 0 <= on_policy <= 1:
        raise OptionError("an on_policy share in [0, 1]", str(on_policy), "0 is the target's samples only")

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = list(batch_of_step(step))
        own = random.Random(step).sample(range(len(rows)), round(on_policy * len(rows)))
        for at, row in zip(own, own_answers(draft, [rows[at] for at in own], step), strict=True):
            rows[at] = row
        with torch.inference_mode():
            q_NV = answer_logits(target, rows)
        q_NV = q_NV.clone()  # autograd refuses inference tensors
        p_NV = answer_logits(draft, rows)
        acceptance = 1 - float(total_variation(p_NV.detach(), q_NV).mean())
        return LOSSES[loss](p_NV, q_NV).mean(), {"acceptance": round(acceptance, 4)}

    train(draft, loss_of_step, config, run)


def own_answers(draft: Trunk, rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows' prompts with answers of the draft at temperature 1, none longer than the longest answer of `rows`."""
    if not rows:
        return []
    prompts = [row.ids[: row.prompt] for row in rows]
    found = sample(draft, prompts, n=1, max_tokens=max(len(row.ids) - row.prompt for row in rows),
                   eos=draft.config.eos_token_id, pad=0, seed=seed)  # fmt: skip
    return [Row(prompt + text, len(prompt)) for prompt, [text] in zip(prompts, found, strict=True)]
