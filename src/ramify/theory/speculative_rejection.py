"""Speculative Rejection (arXiv 2410.20290) as a schedule: who is alive when, and what it costs.

n_0 candidates share a memory of C = n_0 * tau_0 answer tokens. When it is full they are scored, a fraction
alpha is dropped, and the rest grow until it is full again. Everything here assumes that nobody stops before
`max_tokens`: answers that end early only make it cheaper.

Limits of the output law. alpha = 0 is Best-of-n_0. Scores that say nothing about the final reward leave
Best-of- (survivors); scores that order the final rewards leave Best-of-n_0. The KL never exceeds
`best_of_n.kl_bound(n_0)`, since one of n_0 independent draws is returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ramify.theory.checks import need, need_count

Rule = Literal["ceil", "round", "quantile"]


@dataclass(frozen=True, slots=True)
class Round:
    """`live` candidates grow from `start` to `end` tokens of answer; their scores decide who is in the next
    round."""

    start: float
    end: float
    live: float

    @property
    def tokens(self) -> float:
        """Answer tokens decoded in this round."""
        return self.live * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Rounds in order; the last one ends with finished answers. Counts are answer tokens unless a name says
    else."""

    rounds: tuple[Round, ...]

    @property
    def width(self) -> float:
        """n_0, the candidates of the first round."""
        return self.rounds[0].live

    @property
    def survivors(self) -> float:
        """Candidates that reach the end and compete for the final choice."""
        return self.rounds[-1].live

    @property
    def length(self) -> float:
        """Tokens of a finished answer."""
        return self.rounds[-1].end

    @property
    def decode_tokens(self) -> float:
        """Decoded tokens: sum of live * (end - start)."""
        return sum(r.tokens for r in self.rounds)

    @property
    def dropped_tokens(self) -> float:
        """Decoded tokens of candidates dropped on the way; decode_tokens - survivors * length."""
        return sum((now.live - later.live) * now.end for now, later in pairwise(self.rounds))

    @property
    def peak_tokens(self) -> float:
        """The most answer tokens alive at once."""
        return max(r.live * r.end for r in self.rounds)

    @property
    def best_of_n_tokens(self) -> float:
        """What Best-of-n_0 decodes: width * length."""
        return self.width * self.length

    @property
    def cost_ratio(self) -> float:
        """decode_tokens / best_of_n_tokens; 1 minus this is the saving against Best-of-n_0."""
        return self.decode_tokens / self.best_of_n_tokens

    @property
    def matched_width(self) -> float:
        """The Best-of-N whose finished answers fill the same memory: peak_tokens / length."""
        return self.peak_tokens / self.length

    def target_tokens(self, prompt_tokens: int = 0) -> float:
        """Forward tokens of the target: the prompt once, then all decoded tokens but each candidate's last."""
        return prompt_tokens + self.decode_tokens - self.width

    def reward_tokens(self, prompt_tokens: int = 0, *, reuse: bool = True) -> float:
        """Forward tokens of the reward model over all rounds, the final scoring included.

        With `reuse` it keeps a cache per candidate and reads the prompt once and each new token once;
        without, it reads prompt and answer of every live candidate again at every decision.
        """
        if reuse:
            return prompt_tokens + self.decode_tokens
        return sum(r.live * (prompt_tokens + r.end) for r in self.rounds)


def keep_count(n: int, alpha: float, rule: Rule = "ceil") -> int:
    """How many of n candidates survive one decision; at least 1.

    "ceil": ceil((1-alpha) n). "round": round((1-alpha) n), halves to even, as in the authors' code.
    "quantile": those at or above the linearly interpolated alpha-quantile, as the paper words it:
    n - ceil(alpha (n-1)) if no scores tie.
    """
    need_count("n", n)
    need(0 <= alpha < 1, "alpha, the dropped fraction, in [0, 1)", alpha, "use 0.5 to drop half")
    slack = 1e-9  # so that 0.1 * 30 counts as 3 whatever the floating point says
    if rule == "ceil":
        return n - math.floor(alpha * n + slack)
    if rule == "round":
        return max(1, round(round((1 - alpha) * n, 9)))
    return n - math.ceil(alpha * (n - 1) - slack)


def schedule(n: int, alpha: float, max_tokens: int, first_round: int, rule: Rule = "ceil") -> Schedule:
    """The schedule in whole numbers: candidates are dropped when they fill the memory C = n * first_round.

    Round k ends at C // n_k tokens, or one token after its start if that is later, and keep_count of its
    candidates go on. Once the count would stay as it is, all run to the end: so does everybody at alpha = 0
    (Best-of-n), and a last survivor even if max_tokens > C.
    """
    _need_plan(n, alpha, max_tokens, first_round)
    for name, value in (("n", n), ("max_tokens", max_tokens), ("first_round", first_round)):
        need_count(name, value)
    start, live = 0, n
    rounds: list[Round] = []
    while start < max_tokens:
        fewer = keep_count(live, alpha, rule)
        full = max_tokens if fewer == live else max(start + 1, n * first_round // live)
        rounds.append(Round(start, min(full, max_tokens), live))
        start, live = full, fewer
    return Schedule(tuple(rounds))


def schedule_at(n: int, alpha: float, max_tokens: int, times: Sequence[int], rule: Rule = "ceil") -> Schedule:
    """The schedule with decisions after given numbers of answer tokens, ascending, whatever the memory.

    A decision may drop nobody (keep_count(2, 0.3) is 2). Times at or beyond `max_tokens` never come.
    """
    need_count("max_tokens", max_tokens)
    need(all(a < b for a, b in pairwise([0, *times])), "ascending decision times above 0", list(times),
         "sort them")
    ends = [*(t for t in times if t < max_tokens), max_tokens]
    rounds, start, live = [], 0, n
    for end in ends:
        rounds.append(Round(start, end, live))
        start, live = end, keep_count(live, alpha, rule)
    return Schedule(tuple(rounds))


def continuous_schedule(n: float, alpha: float, max_tokens: float, first_round: float) -> Schedule:
    """The schedule in real numbers: tau_k = tau_0/(1-alpha)^k and n_k = (1-alpha)^k n_0, at least 1.

    O(ln(max_tokens/first_round)/alpha) rounds, so alpha is 0 or at least 0.001.
    """
    _need_plan(n, alpha, max_tokens, first_round)
    need(alpha == 0 or alpha >= 0.001, "alpha of 0 or at least 0.001", alpha, "use closed_form_tokens")
    if alpha == 0:
        return Schedule((Round(0.0, float(max_tokens), float(n)),))
    rounds: list[Round] = []
    start, live = 0.0, float(n)
    while start < max_tokens:
        full = n * first_round / live
        end = float(max_tokens) if live == 1 or full > max_tokens * (1 - 1e-12) else full
        rounds.append(Round(start, end, live))
        start, live = end, max(1.0, live * (1 - alpha))
    return Schedule(tuple(rounds))


def closed_form_tokens(n: float, alpha: float, max_tokens: float, first_round: float) -> float:
    """C (1 + alpha K) decoded tokens, C = n tau_0 and K = ln(L/tau_0)/ln(1/(1-alpha)) decisions.

    Equal to `continuous_schedule` when K is whole and just above it otherwise (the chord of a convex
    function). As alpha -> 0 it tends to C (1 + ln(L/tau_0)), not to Best-of-n: memory still limits who lives.

    Raises:
        OutOfRange: alpha = 0, or C < max_tokens, where less than one candidate would be left.
    """
    _need_plan(n, alpha, max_tokens, first_round)
    need(alpha > 0, "alpha above 0", alpha, "use best_of_n_tokens for Best-of-N")
    need(n * first_round >= max_tokens, f"n * first_round of at least max_tokens = {max_tokens}",
         n * first_round, "raise n or first_round, so that one finished answer fits")
    decisions = math.log(max_tokens / first_round) / -math.log1p(-alpha)
    return n * first_round * (1 + alpha * decisions)


def _need_plan(n: float, alpha: float, max_tokens: float, first_round: float) -> None:
    need(n >= 1, "n of at least 1", n, "start at least one candidate")
    need(0 <= alpha < 1, "alpha, the dropped fraction, in [0, 1)", alpha, "use 0.5 to drop half")
    need(0 < first_round <= max_tokens, f"first_round between 1 and max_tokens = {max_tokens}", first_round,
         "change it")
