"""A reward model that checks a text against what a frozen policy expected: new layers on its trunk.

Learning to judge from right/wrong labels alone failed here: two million tokens of them left the ranking near
chance, although the trunk's own log-probabilities rank well. What was missing is the circuit that compares each
token with the prediction made one place earlier. So the first new layer starts out looking one token back, and
besides the labels the new layers learn to tell how surprising the trunk found each token so far. Texts with
randomly replaced tokens teach that quickly (as in ELECTRA, arXiv 2003.10555); the policy's samples join them.
"""

import math
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramify.train.data import Row, pad
from ramify.train.loop import LoopConfig, train
from ramify.train.models import Trunk
from ramify.train.reward import Judged, final_scores, prefix_loss, prefix_mask

LEAST = -6.0  # log-probabilities are cut here: less likely is no more wrong
SHARPNESS = 120.0  # of the look back: about 14 nats between the token before and its neighbours
FAST_PAIRS = 3  # rotary pairs that tell neighbouring places apart
THRESHOLD = 2.6  # their sum of cosines is 3 one place back and at most 2.4 anywhere else


def replaced(row: Row, kinds: Sequence[Collection[int]], rate: float, rng: random.Random) -> Judged:
    """The row with answer tokens replaced by random ones of their kind, and how far it stayed sound.

    Each answer token that is in one of `kinds` is redrawn from that kind with chance `rate` (it may stay the same).
    """
    ids = list(row.ids)
    for place in range(row.prompt, len(ids)):
        for kind in kinds:
            if ids[place] in kind and rng.random() < rate:
                ids[place] = rng.choice(sorted(kind))
    sound = shared_length(ids, row.ids)
    return Judged(ids, row.prompt, sound == len(ids), 0, sound)


def shared_length(ids: Sequence[int], other: Sequence[int]) -> int:
    """How many leading ids two texts share."""
    return next((i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), min(len(ids), len(other)))


@torch.no_grad()
def rescale_stream(model: Trunk, layers: int, rows: Sequence[Row]) -> None:
    """Scale the first `layers` layers so that what they hand on has root mean square 1 on `rows`.

    Norms undo the scale (their epsilon is scaled along), so the layers compute the same as before; but new layers
    can now be heard. (The stream of a policy trained with Muon grew to 70: new weights would have to grow so too.)
    """
    ids_BT = pad([row.ids for row in rows], fill=0)
    hidden_BTD = model.model(input_ids=ids_BT, output_hidden_states=True, use_cache=False).hidden_states[layers]
    factor = 1 / hidden_BTD[prefix_mask(rows, ids_BT.size(1))].square().mean().sqrt().item()
    model.config.rms_norm_eps *= factor**2
    for part in model.modules():
        if isinstance(part, type(model.model.norm)):
            part.variance_epsilon = model.config.rms_norm_eps
    model.model.embed_tokens.weight.mul_(factor)
    for layer in model.model.layers[:layers]:
        layer.self_attn.o_proj.weight.mul_(factor)
        layer.mlp.down_proj.weight.mul_(factor)


@torch.no_grad()
def look_back(model: Trunk, policy: Trunk, first_new: int, rows: Sequence[Row]) -> None:
    """Let layer `first_new` of `model` attend to the token before each token, for good.

    Its queries and keys become constants, turned by the rotary embedding so that their product is positive one place
    back and negative elsewhere (the slowest pair supplies the threshold). The constant is the linear function of the
    layer's input that is nearest 1 on `rows` (least squares). The layer reads its input as the policy's output layer
    would. Those weights are frozen.
    """
    layer, head = model.model.layers[first_new], model.config.head_dim
    layer.input_layernorm.weight.copy_(policy.model.norm.weight)
    ids_BT = pad([row.ids for row in rows], fill=0)
    hidden_BTD = model.model(input_ids=ids_BT, output_hidden_states=True, use_cache=False).hidden_states[first_new]
    real_BT = torch.arange(ids_BT.size(1)) < torch.tensor([[len(row.ids)] for row in rows])
    x_ND = layer.input_layernorm(hidden_BTD)[real_BT]  # prompts too: a negative constant would attract every look
    ridge = 1e-4 * len(x_ND) * torch.eye(x_ND.size(1))
    constant_D = torch.linalg.solve(x_ND.T @ x_ND + ridge, x_ND.sum(0))
    query, key = torch.zeros(head), torch.zeros(head)
    for pair in range(FAST_PAIRS):
        angle = model.config.rope_parameters["rope_theta"] ** (-2 * pair / head)
        query[pair], query[pair + head // 2] = math.cos(angle), -math.sin(angle)
        key[pair] = 1.0
    query[head // 2 - 1], key[head // 2 - 1] = -THRESHOLD, 1.0
    size = math.sqrt(SHARPNESS)
    attention = layer.self_attn
    attention.q_proj.weight.copy_(torch.outer(query.repeat(model.config.num_attention_heads) * size, constant_D))
    attention.k_proj.weight.copy_(torch.outer(key.repeat(model.config.num_key_value_heads) * size, constant_D))
    nn.init.normal_(attention.o_proj.weight, std=0.02)  # at zero, nothing that is looked at could be learned
    for part in (layer.input_layernorm, attention.q_proj, attention.k_proj):
        part.requires_grad_(False)


def surprise(policy: Trunk, hidden_BTD: Tensor, ids_BT: Tensor, rows: Sequence[Row]) -> Tensor:
    """[B, T, 2]: the policy's log-probability of each answer token, cut at LEAST, and the least so far.

    `hidden_BTD`: output of the policy's last layer, before its norm. Zero at prompt tokens.
    """
    logits_BTV = policy.lm_head(policy.model.norm(hidden_BTD))
    logp_BT = -F.cross_entropy(logits_BTV[:, :-1].mT, ids_BT[:, 1:], reduction="none")
    prompt_B1 = torch.tensor([[row.prompt] for row in rows])
    logp_BT = F.pad(logp_BT, (1, 0)).clamp(min=LEAST) * (torch.arange(ids_BT.size(1)) >= prompt_B1)
    return torch.stack([logp_BT, logp_BT.cummin(1).values], dim=-1)


class Judge(nn.Module):
    """A reward model and the head, thrown away after training, that says how surprising the text is."""

    def __init__(self, model: Trunk) -> None:
        super().__init__()
        self.model = model
        self.surprise = nn.Linear(model.config.hidden_size, 2)


def train_judge(model: Trunk, policy: Trunk, batch_of_step: Callable[[int], Sequence[Judged]], config: LoopConfig,
                run: Path) -> None:  # fmt: skip
    """Train the layers that `model` has beyond the policy's in place, on labels and on the policy's surprise.

    Labels as in `ramify.train.reward.prefix_loss`, the finished text counting one half more. Cost: a forward through
    everything, a backward through the new layers.
    """
    judge, first_new = Judge(model), policy.config.num_hidden_layers

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = batch_of_step(step)
        ids_BT = pad([row.ids for row in rows], fill=0)
        out = model.model(input_ids=ids_BT, output_hidden_states=True, use_cache=False)
        score_BT = model.score(out.last_hidden_state).squeeze(-1)
        with torch.no_grad():
            target_BT2 = surprise(policy, out.hidden_states[first_new], ids_BT, rows) / 2
        error_BT2 = (judge.surprise(out.last_hidden_state) - target_BT2).square()
        error, least_error = error_BT2[prefix_mask(rows, ids_BT.size(1))].mean(0)
        prefix = prefix_loss(score_BT, rows)
        label_B = torch.tensor([float(row.correct) for row in rows])
        final = F.binary_cross_entropy_with_logits(final_scores(score_BT, rows), label_B)
        loss = prefix + 0.5 * final + error + 0.2 * least_error
        numbers = {"prefix": prefix, "final": final, "surprise": error, "least": least_error}
        return loss, {name: round(number.item(), 4) for name, number in numbers.items()}

    train(judge, loss_of_step, config, run)
