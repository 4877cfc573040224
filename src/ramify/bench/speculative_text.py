"""What drafts are worth on text that the target wrote: read once by both models, no draft drawn.

p is the draft's distribution, q the target's. L tokens of an answer, V vocabulary.

Given the text, a verifier that goes token by token lets the draft stand at each position independently of the
others, with a chance that only p, q and the token there decide: so rounds of drafting are counted exactly, whatever
the length, without supposing that all positions are alike (arXiv 2411.00841 for the sum of TV).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.engine.speculation import fit_vocabulary
from ramify.models import DenseAttention
from ramify.sampling.transforms import probabilities
from ramify.theory.intervals import bootstrap_interval
from ramify.theory.speculative_cost import step_seconds

if TYPE_CHECKING:
    from ramify.models import Model
    from ramify.types import SamplingParams

Floats = NDArray[np.float64]


@dataclass(slots=True, frozen=True, eq=False)
class Reading:
    """One answer of the target as both models see it, position by position.

    tv_L: TV(p, q), the chance that the token rule rejects there. token_L, coupled_L: the chance that a draft stood
    given the token that came, under the token rule and under the coupled one.
    """

    tv_L: Floats
    token_L: Floats
    coupled_L: Floats

    def stands(self, verifier: str) -> Floats:
        """The chances under a verifier; block, recursive and traversal keep at least what the token rule keeps."""
        return self.coupled_L if verifier in ("coupled", "greedy") else self.token_L


@torch.inference_mode()
def read(target: Model, draft: Model, prompt: list[int], answer: list[int], params: SamplingParams) -> Reading:
    """One pass of each model over a prompt and an answer that the target drew with `params` (no penalties)."""
    q_LV, p_LV = (_distributions(model, prompt, answer, params, target.decoder.config.vocab_size)
                  for model in (target, draft))
    return compare(p_LV, q_LV, answer)


def compare(p_LV: Tensor, q_LV: Tensor, answer: Sequence[int]) -> Reading:
    """The reading of an answer from the distributions that each of its tokens could be drawn from."""
    p_LV, q_LV = (probs.double() / probs.double().sum(-1, keepdim=True) for probs in (p_LV, q_LV))
    at_L1 = torch.tensor(answer)[:, None]
    p_L, q_L = (probs.gather(-1, at_L1)[:, 0] for probs in (p_LV, q_LV))
    p_end_L, q_end_L = (probs.cumsum(-1).gather(-1, at_L1)[:, 0] for probs in (p_LV, q_LV))
    # Both draws put one uniform number into their own cumulative sums: they agree where the token's pieces overlap.
    overlap_L = torch.minimum(p_end_L, q_end_L) - torch.maximum(p_end_L - p_L, q_end_L - q_L)
    tv_L = (q_LV - p_LV).clamp(min=0).sum(-1)
    return Reading(tv_L.numpy(), (p_L / q_L).clamp(max=1).numpy(), (overlap_L / q_L).clamp(0, 1).numpy())


def _distributions(model: Model, prompt: list[int], answer: list[int], params: SamplingParams, size: int) -> Tensor:
    ids = torch.tensor(prompt + answer[:-1])
    hidden_TD = model.decoder(ids, torch.arange(len(ids)), DenseAttention(model.decoder.config, [len(ids)]))
    return probabilities(fit_vocabulary(model.decoder.logits(hidden_TD[len(prompt) - 1 :]), size), params)


class Rounds(NamedTuple):
    """What writing an answer after its first token takes: target calls, and tokens drafted for them."""

    calls: float
    drafted: float


def expected_rounds(stands_L: Floats, length: int, max_tokens: int) -> Rounds:
    """The expected rounds that write this text with drafts of `length`; the first token is the prompt's.

    A round ends with the first draft that falls, or with the token after `length` drafts that stood. Drafts are cut
    one short of `max_tokens` and at an end of the answer, as the engine cuts them. O(L length).
    """
    total = len(stands_L)
    starts_L = np.zeros(total + length + 2)
    starts_L[1] = 1.0
    drafted = 0.0
    for begin in range(1, total):
        reached, most = starts_L[begin], min(length, max_tokens - begin - 1)
        drafted += reached * most
        for place in range(begin, begin + most):
            if place >= total:  # the text ended among the drafts
                drafted -= reached * (begin + most - total)
                reached = 0.0
                break
            starts_L[place + 1] += reached * (1 - stands_L[place])
            reached *= stands_L[place]
        else:
            starts_L[begin + most + 1] += reached
    return Rounds(float(starts_L[1:total].sum()), float(drafted))


def tokens_per_call(readings: Sequence[Reading], verifier: str, length: int, max_tokens: int) -> float:
    """Tokens over expected target calls, the prompts' included; 1 without drafts."""
    tokens = sum(len(reading.tv_L) for reading in readings)
    return tokens / sum(1 + expected_rounds(reading.stands(verifier), length, max_tokens).calls for reading in readings)


def expected_speedup(readings: Sequence[Reading], verifier: str, length: int, max_tokens: int, rows: int,
                     draft_seconds: float, target_seconds: Mapping[int, float]) -> float:
    """Plain over drafted seconds for writing these texts, `rows` at a time.

    Args:
        draft_seconds: a draft step of `rows` ids.
        target_seconds: {ids: seconds} of target steps, see `theory.speculative_cost.step_seconds`.
    """
    calls, drafted = (sum(part) for part in zip(*(
        expected_rounds(reading.stands(verifier), length, max_tokens) for reading in readings), strict=True))
    plain = step_seconds(target_seconds, rows)
    verify = step_seconds(target_seconds, rows * (1 + drafted / calls)) if calls else plain
    tokens = sum(len(reading.tv_L) for reading in readings)
    return tokens * plain / (len(readings) * plain + calls * verify + drafted * draft_seconds)


def mean_over_tokens(values: Sequence[Floats]) -> tuple[float, tuple[float, float]]:
    """The mean over all tokens of all texts, and its 95 % bootstrap interval over texts (of the linearised ratio)."""
    sums, counts = np.array([each.sum() for each in values]), np.array([len(each) for each in values])
    mean = float(sums.sum() / counts.sum())
    low, high = bootstrap_interval((sums - mean * counts) / counts.mean())
    return mean, (mean + low, mean + high)
