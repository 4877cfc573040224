"""Logits to the distribution that is sampled. Pure functions; R rows, V vocabulary.

Order: logit bias, penalties, temperature, top-k, top-p, min-p, renormalise. Speculation and guidance
apply the same function to every distribution they compare.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.types import SamplingParams


def probabilities(logits_RV: Tensor, params: SamplingParams, answers: list[list[int]] | None = None,
                  prompt: list[int] | None = None) -> Tensor:
    """The sampling distribution of each row.

    Args:
        logits_RV: raw logits of rows that share `params`.
        params: temperature 0 gives all mass to the most likely token (the first of equals).
        answers: tokens generated so far per row; needed when a penalty is on.
        prompt: prompt tokens; the repetition penalty counts them too.

    Returns probs_RV, rows summing to 1. Costs one softmax, plus one sort when top-p is on.
    """
    if params.logit_bias:
        logits_RV = logits_RV.clone()
        ids = torch.tensor(list(params.logit_bias), device=logits_RV.device)
        logits_RV[:, ids] += torch.tensor(list(params.logit_bias.values())).to(logits_RV)
    if has_penalties(params):
        logits_RV = penalise(logits_RV, params, answers or [[]] * len(logits_RV), prompt or [])
    if params.temperature == 0:
        return torch.zeros_like(logits_RV).scatter_(-1, logits_RV.argmax(-1, keepdim=True), 1.0)
    if params.temperature != 1:
        # The largest becomes 0 first: a tiny temperature would turn it into infinity, and the softmax into NaN.
        logits_RV = (logits_RV - logits_RV.amax(-1, keepdim=True)) / max(params.temperature, 1e-30)
    probs_RV = logits_RV.softmax(-1)
    if params.top_k == 0 and params.top_p == 1 and params.min_p == 0:
        return probs_RV
    kept_RV = truncate(probs_RV, params.top_k, params.top_p, params.min_p)
    return kept_RV / kept_RV.sum(-1, keepdim=True)


def has_penalties(params: SamplingParams) -> bool:
    """Whether the distribution depends on which tokens came before, beyond the model itself."""
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0


def is_plain(params: SamplingParams) -> bool:
    """Whether the distribution is the softmax of the logits over the temperature, or its limit at temperature 0."""
    truncated = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
    return not (truncated or params.logit_bias or has_penalties(params))


def penalise(logits_RV: Tensor, params: SamplingParams, answers: list[list[int]], prompt: list[int]) -> Tensor:
    """Repetition (prompt and answer), presence and frequency (answer) penalties."""
    counts_RV = torch.zeros_like(logits_RV)
    for row, answer in enumerate(answers):
        ids = torch.tensor(answer, dtype=torch.long, device=logits_RV.device)
        counts_RV[row] += torch.bincount(ids, minlength=logits_RV.shape[-1])
    seen_RV = counts_RV > 0
    if prompt:
        seen_RV[:, torch.tensor(prompt)] = True
    factor = params.repetition_penalty
    repeated_RV = torch.where(logits_RV > 0, logits_RV / factor, logits_RV * factor)
    logits_RV = torch.where(seen_RV, repeated_RV, logits_RV)
    return logits_RV - params.presence_penalty * (counts_RV > 0) - params.frequency_penalty * counts_RV


def truncate(probs_RV: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Zero what the truncations cut, each judged on what the one before left. Not renormalised."""
    if 0 < top_k < probs_RV.shape[-1]:
        kept = torch.zeros_like(probs_RV, dtype=torch.bool).scatter_(-1, probs_RV.topk(top_k).indices, True)
        probs_RV = probs_RV * kept
    if top_p < 1:
        sorted_RV, order_RV = probs_RV.sort(descending=True, stable=True)
        before_RV = sorted_RV.cumsum(-1) - sorted_RV
        keep = before_RV < top_p * sorted_RV.sum(-1, keepdim=True)
        probs_RV = probs_RV * torch.zeros_like(keep).scatter_(-1, order_RV, keep)
    if min_p > 0:
        probs_RV = probs_RV * (probs_RV >= min_p * probs_RV.amax(-1, keepdim=True))
    return probs_RV
