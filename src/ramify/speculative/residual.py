"""The arithmetic of acceptance, on single rows in float64.

p is the draft's distribution, q the target's. V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A residual lighter than this is rounding: p and q agree, and the rejection that led here had no more chance than that.
ROUNDING = 1e-12
BISECTIONS = 30  # the best divisor to 1e-9 of its range; the law is exact at any that is not below it


def ratio(q_V: Tensor, p_V: Tensor, token: int, share: float = 1.0) -> float:
    """min(1, share q(x) / p(x)): the chance that a drafted token stands; 0 where q(x) is 0."""
    return min(1.0, share * float(q_V[token]) / float(p_V[token]))


def leftover(q_V: Tensor, p_V: Tensor, share: float = 1.0) -> tuple[Tensor, float]:
    """(norm((share q - p)+), its mass): what the draft leaves of a share of the target.

    Where the mass is rounding it counts as 0, and q itself comes back: normalised noise could be any law at all,
    and q at least has no token that the target forbids.
    """
    rest_V = (q_V * share).sub_(p_V).clamp_(min=0.0)
    mass = float(rest_V.sum())
    return (rest_V.div_(mass), mass) if mass > ROUNDING else (q_V, 0.0)


def still_fits(mass: float, share: float) -> float:
    """The share of a node after one of its children fell, `mass` being that child's leftover: S / (S + 1 - share)."""
    lost = 1.0 - share
    return mass / (mass + lost) if mass + lost > 0 else 1.0


def k_sequential_rho(q_V: Tensor, p_V: Tensor, count: int) -> float:
    """The divisor rho in [1, k] of k-sequential selection: 1 - (1 - beta)^k = rho beta, by bisection.

    beta(rho) = sum min(p, q / rho). The upper end is returned: there the residual is never negative.
    """
    both = (p_V > 0) & (q_V > 0)
    p_B, q_B = p_V[both], q_V[both]
    low, high = 1.0, float(count)
    for _ in range(BISECTIONS):
        rho = (low + high) / 2
        beta = min(1.0, float(torch.minimum(p_B, q_B / rho).sum()))
        low, high = (rho, high) if 1 - (1 - beta) ** count > rho * beta else (low, rho)
    return high


def k_sequential_leftover(q_V: Tensor, p_V: Tensor, count: int, rho: float) -> Tensor:
    """What is left when all k i.i.d. tokens failed: norm(q - min(p, q / rho) (1 - (1 - beta)^k) / beta)."""
    kept_V = torch.minimum(p_V, q_V / rho)
    beta = min(1.0, float(kept_V.sum()))
    if beta == 0:  # nothing in common: all of q is left
        return q_V
    return leftover(q_V, kept_V.mul_((1 - (1 - beta) ** count) / beta))[0]


def priced(q_V: Tensor, p_V: Tensor, reward_V: Tensor, delta: float, *, gain_only: bool = False) -> Tensor:
    """q with mass `delta` moved from dull tokens to rewarding ones, as far as the draft would have it so.

    A fractional knapsack: delta is added where p > q > 0, greatest reward first, at most p - q each, and taken where
    q > p, least reward first, at most q - p each. Of all laws o between p and q with the same TV(o, q) it has the
    greatest expected reward. TV(o, q) is delta, or all that can be moved if that is less. O(V log V).

    Args:
        reward_V: what each token is worth.
        delta: total variation to spend.
        gain_only: stop where the next bit of mass would win nothing, so that E_o[reward] >= E_q[reward].
    """
    best_V = reward_V.to(q_V.device).argsort(descending=True, stable=True)
    worst_V = best_V.flip(0)
    more_V = (p_V - q_V).mul_(q_V > 0)
    give_V, take_V = more_V[best_V].clamp_(min=0.0), (-more_V[worst_V]).clamp_(min=0.0)
    room_V, stock_V = give_V.cumsum(0), take_V.cumsum(0)
    moved = min(delta, float(room_V[-1]), float(stock_V[-1]))
    if gain_only:
        steps_S = torch.cat([room_V, stock_V])  # where the token that gets mass changes, or the one that loses it
        to_S = torch.searchsorted(room_V, steps_S).clamp_(max=len(q_V) - 1)
        from_S = torch.searchsorted(stock_V, steps_S).clamp_(max=len(q_V) - 1)
        wins_S = reward_V[best_V[to_S]] > reward_V[worst_V[from_S]]
        moved = min(moved, float((steps_S * wins_S).max()))
    law_V = q_V.clone()
    law_V[best_V] += torch.minimum((moved - room_V + give_V).clamp_(min=0.0), give_V)
    law_V[worst_V] -= torch.minimum((moved - stock_V + take_V).clamp_(min=0.0), take_V)
    return law_V.clamp_(min=0.0)
