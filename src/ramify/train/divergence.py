"""How far a draft is from its target, as losses to train it with. Here p is the draft's law and q the target's.

Each takes the logits of both over the same V tokens, [..., V], and returns one number per law, [...]: at least 0, and
0 where p = q. No sampling: sums run over the whole vocabulary. O(V).
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

LossName = Literal["forward_kl", "reverse_kl", "jsd", "tv", "tvd++", "log_acceptance"]
Loss = Callable[[Tensor, Tensor], Tensor]
LEAST_SIGMA = 1e-3  # of the advantage in `tvd_plus_plus`


def forward_kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """KL(q || p): the draft must cover what the target does."""
    return _kl(q_NV.log_softmax(-1), p_NV.log_softmax(-1))


def reverse_kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """KL(p || q): the draft must not do what the target would not."""
    return _kl(p_NV.log_softmax(-1), q_NV.log_softmax(-1))


def jensen_shannon(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """Mean of KL(p || m) and KL(q || m) with m = (p + q)/2; at most log 2."""
    logp_NV, logq_NV = p_NV.log_softmax(-1), q_NV.log_softmax(-1)
    logm_NV = torch.logaddexp(logp_NV, logq_NV) - math.log(2)
    return 0.5 * (_kl(logp_NV, logm_NV) + _kl(logq_NV, logm_NV))


def total_variation(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """1 - sum min(p, q): exactly the chance that the target rejects the draft's token."""
    return 0.5 * (p_NV.softmax(-1) - q_NV.softmax(-1)).abs().sum(-1)


def tvd_plus_plus(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """TV over the standard deviation of its reward, which is a constant to autograd (arXiv 2403.00858).

    As a policy gradient, TV rewards a drafted token x with r(x) = 1 if q(x) > p(x), else 0. TVD++ takes the advantage
    (r - mu)/sigma instead, mu and sigma^2 = mu (1 - mu) being r's mean and variance under p. Summed over the
    vocabulary, mu falls out and sigma divides the gradient: plain TV hardly moves where p and q hardly overlap.
    """
    mu_N = ((q_NV.softmax(-1) > p_NV.softmax(-1)) * p_NV.softmax(-1)).sum(-1).detach()
    return total_variation(p_NV, q_NV) / (mu_N * (1 - mu_N)).clamp(min=LEAST_SIGMA**2).sqrt()


def negative_log_acceptance(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """-log sum min(p, q): TV's gradient over the acceptance (arXiv 2602.23881)."""
    return -torch.minimum(p_NV.log_softmax(-1), q_NV.log_softmax(-1)).logsumexp(-1)


LOSSES: dict[LossName, Loss] = {
    "forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": jensen_shannon, "tv": total_variation,
    "tvd++": tvd_plus_plus, "log_acceptance": negative_log_acceptance,
}  # fmt: skip


def _kl(loga_NV: Tensor, logb_NV: Tensor) -> Tensor:
    """KL(a || b). Tokens that a never gives count nothing, whatever b gives them."""
    return torch.where(loga_NV.isneginf(), 0.0, loga_NV.exp() * (loga_NV - logb_NV)).sum(-1)
