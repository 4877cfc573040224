"""A head that foresees which drafted tokens the target will accept (SpecDec++, arXiv 2405.19715).

p is the draft's law and q the target's. Draft and target stay frozen.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ramify.models import AcceptanceHead
from ramify.train.data import Row
from ramify.train.distill import answer_hidden
from ramify.train.loop import LoopConfig, train
from ramify.train.models import Trunk


class Drafted(NamedTuple):
    """N drafted tokens: what an `AcceptanceHead` reads of each, and min(1, q/p)."""

    hidden_ND: Tensor
    embedded_ND: Tensor
    chance_N: Tensor
    accepted_N: Tensor


@torch.inference_mode()
def drafted(draft: Trunk, target: Trunk, rows: Sequence[Row], mixing: float, generator: torch.Generator) -> Drafted:
    """One token from p at every place of the answers in `rows`, which should be the target's own samples.

    A drafted token's neighbours in a draft are drafted too, which the head should see: hidden states are those of
    texts whose every token is the drafted one, but with probability `mixing` the sample's own. Such places are left
    out. Labels are of the sample's context.
    """
    logp_NV = draft.lm_head(answer_hidden(draft, rows)).log_softmax(-1)
    logq_NV = target.lm_head(answer_hidden(target, rows)).log_softmax(-1)
    token_N1 = torch.multinomial(logp_NV.exp(), 1, generator=generator)
    chance_N = logp_NV.gather(1, token_N1).exp()[:, 0]
    accepted_N = (logq_NV - logp_NV).gather(1, token_N1).exp().clamp(max=1)[:, 0]
    own_N = torch.cat([torch.tensor(row.ids[row.prompt :]) for row in rows])
    kept_N = torch.rand(len(own_N), generator=generator) < mixing
    mixed = torch.where(kept_N, own_N, token_N1[:, 0]).split([len(row.ids) - row.prompt for row in rows])
    texts = [Row(row.ids[: row.prompt] + ids.tolist(), row.prompt) for row, ids in zip(rows, mixed, strict=True)]
    embedded_ND = draft.get_input_embeddings()(token_N1[:, 0])
    return Drafted(*(part[~kept_N] for part in (answer_hidden(draft, texts), embedded_ND, chance_N, accepted_N)))


def acceptance_loss(odds_N: Tensor, accepted_N: Tensor, reject_weight: float = 6.0) -> Tensor:
    """Binary cross-entropy of log-odds against soft labels, the reject side weighing more; over the summed weights.

    The minimiser's odds are a / (reject_weight (1 - a)): it warns too early rather than too late.
    """
    refused_N = reject_weight * (1 - accepted_N)
    loss_N = -accepted_N * F.logsigmoid(odds_N) - refused_N * F.logsigmoid(-odds_N)
    return loss_N.sum() / (accepted_N + refused_N).sum()


def train_acceptance(head: AcceptanceHead, draft: Trunk, target: Trunk,
                     batch_of_step: Callable[[int], Sequence[Row]], config: LoopConfig, run: Path,
                     mixing: float = 0.15, reject_weight: float = 6.0) -> None:  # fmt: skip
    """Train the head in place on the target's samples `batch_of_step(step)`; see `ramify.train.loop.train`.

    Logs the mean label and the mean of what the head says. Cost: two forwards of the draft and one of the target.
    """

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        seen = drafted(draft, target, batch_of_step(step), mixing, torch.Generator().manual_seed(step))
        *given, accepted_N = (part.clone() for part in seen)  # autograd refuses inference tensors
        odds_N = head(*given)
        said = odds_N.detach().sigmoid().mean()
        numbers = {"accepted": round(float(accepted_N.mean()), 4), "said": round(float(said), 4)}
        return acceptance_loss(odds_N, accepted_N, reject_weight), numbers

    train(head, loss_of_step, config, run)


def save_acceptance(head: AcceptanceHead, folder: Path) -> None:
    """Put the head in a draft's folder, in float16, where `ramify.models.load_model` finds it."""
    weights = {name: weight.half() for name, weight in head.state_dict().items()}
    save_file(weights, folder / "acceptance_head.safetensors")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["ramify"] = {**config.get("ramify", {}), "acceptance_head": {"layers": len(head.layers)}}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
