"""How long to draft: when a chain should stop growing, and which length pays with measured times.

p is the draft's distribution. A rule sees what was already drafted and never the target, and the newest token stays
in the proposal whatever the rule says: to leave a token out because of what it is would bias the output. With that,
the output's law is the target's under every rule and every length here. Lengths from measured times make the
*text* depend on the machine unless the verifier is the coupled one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ramify.errors import OptionError


class Step(NamedTuple):
    """One drafted token. chance: p of the token; top: the largest p; entropy: of p, in nats; acceptance: what an
    acceptance head says, 1 without one."""

    chance: float
    top: float
    entropy: float
    acceptance: float = 1.0


Rule = Callable[[Sequence[Step]], bool]  # the steps so far, newest last: draft no more?


def step_of(p_V: Tensor, token: int, acceptance: float = 1.0) -> Step:
    """The step that drew `token` from the normalised p_V. O(V)."""
    return Step(float(p_V[token]), float(p_V.max()), float(torch.special.entr(p_V).sum()), acceptance)


def fixed(length: int) -> Rule:
    """Stop after `length` tokens; 0 drafts none.

    Raises:
        OptionError: a negative length.
    """
    if length < 0:
        raise OptionError("a draft length of 0 or more", str(length), "0 turns drafting off")
    return lambda steps: len(steps) >= length


def confidence(threshold: float = 0.4) -> Rule:
    """Stop after a token where the draft's likeliest had less than `threshold`; 0 never stops.

    Raises:
        OptionError: a threshold outside [0, 1]; so do the rules below.
    """
    _need_share("confidence", threshold)
    return lambda steps: bool(steps) and steps[-1].top < threshold


def entropy(threshold: float) -> Rule:
    """Stop after a token that was drawn from a distribution of more than `threshold` nats.

    Raises:
        OptionError: a negative threshold.
    """
    if not threshold >= 0:
        raise OptionError("an entropy threshold of 0 nats or more", str(threshold), "raise it")
    return lambda steps: bool(steps) and steps[-1].entropy > threshold


def likelihood(threshold: float = 0.4) -> Rule:
    """Stop once the probability of the whole path under the draft is below `threshold`; 0 never stops.

    It needs no head, and where the draft is good it foresees refusals about as well as one.
    """
    _need_share("likelihood", threshold)
    return lambda steps: math.prod(step.chance for step in steps) < threshold


def acceptance(threshold: float = 0.3) -> Rule:
    """Stop once the chance that some token will be rejected, 1 - product of acceptances, is above `threshold`.

    SpecDec++ (arXiv 2405.19715) with the newest token in the product; its code is one token late.
    """
    _need_share("rejection", threshold)
    return lambda steps: 1 - math.prod(step.acceptance for step in steps) > threshold


def bounded(rule: Rule, least: int, most: int) -> Rule:
    """`rule`, but not before `least` tokens and always at `most`; SpecDec++ uses 2 and 20.

    Raises:
        OptionError: bounds that leave nothing.
    """
    if not 0 <= least <= most:
        raise OptionError("bounds with 0 <= least <= most", f"{least} and {most}", "swap them")
    return lambda steps: len(steps) >= most or (len(steps) >= least and rule(steps))


def best_length(acceptance_by_position: Sequence[float], draft_seconds: float,
                verify_seconds: Callable[[int], float], start_seconds: float = 0.0) -> int:
    """The draft length k with the most expected tokens per second; the shortest of equals.

    A row gets 1 + a_1 + a_1 a_2 + ... + a_1..a_k tokens in k draft_seconds + verify_seconds(k), whatever the number
    of rows, since all of them wait for both. k = 0 is plain decoding. All lengths are tried: measured times have
    steps.

    Args:
        acceptance_by_position: a_i, the chance that token i is accepted if those before it were; the longest
            length tried is how many there are.
        draft_seconds: one draft step with the present rows.
        verify_seconds: one target step with 1 + k tokens in each of the present rows.
        start_seconds: what drafting at all costs beyond that, per token.
    """
    best, best_rate, tokens, survival = 0, 1 / verify_seconds(0), 1.0, 1.0
    for length, chance in enumerate(acceptance_by_position, 1):
        survival *= chance
        tokens += survival
        rate = tokens / (length * draft_seconds + verify_seconds(length) + tokens * start_seconds)
        if rate > best_rate:
            best, best_rate = length, rate
    return best


class AcceptanceRates:
    """A running estimate of the chance that draft token i is accepted if those before it were.

    Counts fade by `decay` whenever their position is tested, so they remember about 1/(1 - decay) tests. Each is
    drawn towards the estimate of the position before it, the first one towards `prior`, as if `strength` tests had
    said so: positions that were never reached follow their neighbours, and nothing is divided by zero. A first token
    that is never accepted is thought of as prior * strength/(strength + 1/(1 - decay)), .05 by default.

    Raises:
        OptionError: a number out of its range.
    """

    def __init__(self, positions: int, prior: float = 0.7, strength: float = 4.0, decay: float = 0.98) -> None:
        _need_share("prior acceptance", prior)
        if not (strength > 0 and 0 <= decay < 1 and positions >= 1):
            raise OptionError("strength above 0, decay in [0, 1) and at least 1 position",
                              f"{strength}, {decay} and {positions}", "correct them")
        self.prior, self.strength, self.decay = prior, strength, decay
        self._accepted, self._tested = [0.0] * positions, [0.0] * positions

    def observe(self, drafted: int, accepted: int) -> None:
        """Learn from one chain: its first `accepted` tokens stood, the next one, if drafted, did not.

        Tokens behind the first failure say nothing. Tokens beyond the positions are ignored.
        """
        for position in range(min(drafted, accepted + 1, len(self._tested))):
            self._accepted[position] = self.decay * self._accepted[position] + (position < accepted)
            self._tested[position] = self.decay * self._tested[position] + 1

    def by_position(self) -> list[float]:
        """a_1, a_2, ..., each strictly between 0 and 1 if the prior is."""
        rates, nearby = [], self.prior
        for accepted, tested in zip(self._accepted, self._tested, strict=True):
            nearby = (accepted + self.strength * nearby) / (tested + self.strength)
            rates.append(nearby)
        return rates


def _need_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise OptionError(f"a {name} in [0, 1]", str(value), "change it")
