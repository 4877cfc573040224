"""What speculation costs and how long to draft: tokens per target call, speed-ups, the stopping problem.

Where one number stands for a pair of models it is the acceptance a: every draft token is accepted with
probability a whatever came before (arXiv 2211.17192, 2302.01318). `length` is the number of drafted tokens
per target call and `cost` the time of one draft step over the time of one target step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from ramify.theory.checks import need, need_count
from ramify.theory.speculative import Prefix, Table, pair, residual

Stop = Callable[[tuple[float, ...]], bool]

LONGEST = 256  # draft length that `best_length` tries; longer ones matter only where drafts are all but free


def expected_tokens(acceptance: float, length: int) -> float:
    """E[tokens per target call] = (1 - a^(length+1))/(1 - a): the accepted ones and the target's own."""
    _need_pair(acceptance, length)
    return float(length + 1) if acceptance == 1 else (1 - acceptance ** (length + 1)) / (1 - acceptance)


def rejections_per_token(acceptance: float, length: int) -> float:
    """E[rejections]/E[tokens] = (1 - a^length)/`expected_tokens`; rises to 1 - a as drafts get longer."""
    return (1 - acceptance**length) / expected_tokens(acceptance, length)


def speedup(acceptance: float, length: int, cost: float) -> float:
    """Time without over time with speculation, `expected_tokens`/(cost length + 1), for one row in memory-bound
    decoding: a target pass over 1 + length tokens takes as long as over one.

    Some length is above 1 iff a > cost; length 1 then gives (1 + a)/(1 + cost). See `batched_speedup` for rows.
    """
    _need_cost(cost)
    return expected_tokens(acceptance, length) / (cost * length + 1)


def operation_factor(acceptance: float, length: int, operations: float) -> float:
    """Arithmetic with over arithmetic without speculation, (o length + length + 1)/`expected_tokens`.

    `operations` is o, the draft's arithmetic per token over the target's. Never below 1: rejected tokens are work.
    """
    need(operations >= 0, "operations of 0 or more", operations, "divide the draft's parameters by the target's")
    return (operations * length + length + 1) / expected_tokens(acceptance, length)


def best_length(acceptance: float, cost: float, longest: int = LONGEST) -> int:
    """The length, 0 to `longest`, with the largest `speedup`; the shortest of equals, so 0 unless a > cost.

    The speed-up rises to one top and falls, being concave over affine; the scan stops at the top.
    """
    length = 0
    while length < longest and speedup(acceptance, length + 1, cost) > speedup(acceptance, length, cost):
        length += 1
    return length


def step_seconds(seconds: Mapping[int, float], tokens: float) -> float:
    """L(tokens): the time of one target pass, between the measured points of {tokens: seconds} by straight lines.

    Raises:
        OutOfRange: tokens outside the table, or a table without positive numbers.
    """
    need(len(seconds) > 0 and min(seconds) > 0 and min(seconds.values()) > 0,
         "a table of tokens and seconds above 0", dict(seconds), "measure some passes")
    points = sorted(seconds)
    need(points[0] <= tokens <= points[-1], f"tokens between the measured {points[0]} and {points[-1]}", tokens,
         "measure a pass of that size")
    return float(np.interp(tokens, points, [seconds[point] for point in points]))


def batched_speedup(acceptance: float, length: int, cost: float, rows: int, seconds: Mapping[int, float]) -> float:
    """`speedup` of `rows` sequences at once: `expected_tokens`/(L(rows (length+1))/L(rows) + cost length).

    `seconds` is the measured table of L, see `step_seconds`; `cost` is for the same number of rows. A flat table
    gives `speedup`. Below 1 it is better not to speculate: a wide batch is bound by arithmetic.
    """
    need_count("rows", rows)
    _need_cost(cost)
    wider = step_seconds(seconds, rows * (length + 1)) / step_seconds(seconds, rows)
    return expected_tokens(acceptance, length) / (wider + cost * length)


def best_batched_length(acceptance: float, cost: float, rows: int, seconds: Mapping[int, float]) -> int:
    """The length, 0 included, with the largest `batched_speedup` among those whose passes the table covers.

    All of them are tried: a measured table has steps. The shortest of equals.
    """
    need_count("rows", rows)
    step_seconds(seconds, rows)
    lengths = range(max(seconds) // rows)
    return max(lengths, key=lambda length: batched_speedup(acceptance, length, cost, rows, seconds))


# The stopping problem of SpecDec++ (arXiv 2405.19715)


def stopping_cost(p: Table, q: Table, tokens: int, stop: Stop, discard: float, call: float) -> float:
    """E[cost] of writing `tokens` tokens when `stop` ends each draft: `discard` a rejected or unread draft token,
    `call` a target call.

    `stop` sees a_1..a_k = min(1, q/p) of the tokens drafted so far, () at first: an acceptance head that is always
    right. SpecDec++ is `lambda a: 1 - math.prod(a) > threshold`, a constant length `lambda a: len(a) >= length`;
    near the end of a text the best constant may beat the best threshold.
    A draft never goes beyond the last token but one, which the target writes itself. With step times d and t of
    draft and target, discard = d and call = t - d make the total time d tokens + cost. O(V^(2 tokens)).
    """
    return _written_cost(p, q, tokens, lambda accepts, verify, draft: verify() if stop(accepts) else draft(),
                         discard, call)


def least_stopping_cost(p: Table, q: Table, tokens: int, discard: float, call: float) -> float:
    """The minimum of `stopping_cost` over all rules, which may see the drafted tokens too, by value iteration."""
    return _written_cost(p, q, tokens, lambda accepts, verify, draft: min(verify(), draft()), discard, call)


Lazy = Callable[[], float]


def _written_cost(p: Table, q: Table, tokens: int, choose: Callable[[tuple[float, ...], Lazy, Lazy], float],
                  discard: float, call: float) -> float:
    """Bellman's equation over (text, draft); `choose` picks between verifying now and drafting one token more."""
    need_count("tokens", tokens)
    need(discard >= 0 and call >= 0, "costs of 0 or more", f"{discard} and {call}", "use step times")

    @cache
    def from_here(text: Prefix) -> float:
        return drafting(text, ()) if len(text) < tokens else 0.0

    def drafting(text: Prefix, accepts: tuple[float, ...], drafted: Prefix = ()) -> float:
        seen = text + drafted
        if len(seen) + 1 >= tokens:
            return verifying(text, accepts, drafted)
        p_V, q_V = pair(p(seen), q(seen))
        return choose(accepts, lambda: verifying(text, accepts, drafted), lambda: sum(
            float(p_V[x]) * drafting(text, (*accepts, min(1.0, float(q_V[x] / p_V[x]))), (*drafted, x))
            for x in np.flatnonzero(p_V).tolist()))

    def verifying(text: Prefix, accepts: tuple[float, ...], drafted: Prefix) -> float:
        total, reached = call, 1.0
        for place, accept in enumerate((*accepts, 0.0)):
            seen, left = text + drafted[:place], len(drafted) - place
            p_V, q_V = pair(p(seen), q(seen))
            next_V = residual(p_V, q_V) if left else q_V
            if reached * (1 - accept) > 0:
                total += reached * (1 - accept) * (discard * left + sum(
                    float(next_V[x]) * from_here((*seen, x)) for x in np.flatnonzero(next_V).tolist()))
            reached *= accept
        return total

    return from_here(())


def _need_pair(acceptance: float, length: int) -> None:
    need(0 <= acceptance <= 1, "an acceptance in [0, 1]", acceptance, "it is 1 - tv(draft, target)")
    need(length >= 0 and length == int(length), "a length that is a whole number of at least 0", length, "change it")


def _need_cost(cost: float) -> None:
    need(cost >= 0, "a cost of 0 or more", cost, "divide the draft's step time by the target's")
