"""Comparisons at equal compute, against enumeration and curves that are known in closed form."""

import math
from itertools import product

import numpy as np
import pytest

from ramify.bench.compare import Reach, cost_to_reach, share_interval, win_rate


def curve(cost):
    """A value that is linear in the logarithm of the cost."""
    return 2 + 3 * math.log(cost)


def linear_cost(costs, values, goal):
    """A wrong twin: linear in the cost itself."""
    return float(np.interp(goal, values, costs))


def test_interpolation_is_exact_where_the_value_is_linear_in_log_cost():
    costs = [10, 40, 640]
    for cost in (10.5, 40, 200):
        reach = cost_to_reach(costs, [curve(c) for c in costs], curve(cost))
        assert reach == (pytest.approx(cost), False)
    assert linear_cost(costs, [curve(c) for c in costs], curve(200)) != pytest.approx(200, rel=0.1)


def test_nothing_is_extrapolated():
    assert cost_to_reach([10, 40], [1, 2], 0.5) == Reach(10, True)
    assert cost_to_reach([10, 40], [1, 2], 2.001) is None
    assert cost_to_reach([40, 10], [2, 1], 2) == (pytest.approx(40), False)


def test_the_first_crossing_counts_when_a_curve_falls_again():
    assert cost_to_reach([1, 10, 100, 1000], [0, 2, 1, 3], 2) == (pytest.approx(10), False)


REWARDS, PROBS = (0.0, 1.0, 2.5), (0.5, 0.3, 0.2)


def mean_over_pools(estimate, size):
    """The estimate averaged over every possible pool, with the pool's probability."""
    total = 0.0
    for levels in product(range(3), repeat=size):
        total += math.prod(PROBS[level] for level in levels) * estimate([REWARDS[level] for level in levels])
    return total


def exact_win_rate(value, n):
    """P[value beats the best of n], ties half, from the law of the maximum."""
    upto = np.cumsum(PROBS)
    law = upto**n - np.concatenate([[0], upto[:-1]]) ** n
    return sum(p * ((value > r) + 0.5 * (value == r)) for p, r in zip(law, REWARDS, strict=True))


def with_replacement(value, pool, n):
    """A wrong twin: pretends that the pool is the law."""
    picks = [max(pick) for pick in product(pool, repeat=n)]
    return float(np.mean([(value > best) + 0.5 * (value == best) for best in picks]))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("value", [0.0, 1.0, 2.5])
def test_win_rate_is_unbiased(n, value):
    expected = exact_win_rate(value, n)
    assert mean_over_pools(lambda pool: win_rate(value, pool, pool, n), 4) == pytest.approx(expected, abs=1e-12)
    if n > 1:
        assert abs(mean_over_pools(lambda pool: with_replacement(value, pool, n), 4) - expected) > 1e-3


def test_win_rate_between_whole_widths_is_linear_and_stops_at_the_pool():
    pool = [0.1, 0.4, 0.2, 0.9]
    low, high = (win_rate(0.5, pool, pool, n) for n in (2, 3))
    assert win_rate(0.5, pool, pool, 2.25) == pytest.approx(0.75 * low + 0.25 * high)
    assert win_rate(0.5, pool, pool, 9.0) == win_rate(0.5, pool, pool, 4) == 0.0
    assert win_rate(0.5, pool, pool, 0.3) == win_rate(0.5, pool, pool, 1) == 0.75


def test_win_rate_by_correctness_ranks_by_score():
    # The best by score is wrong: a correct answer always beats it, whatever else the pool holds.
    assert win_rate(1.0, [1, 1, 0], [0.1, 0.2, 0.9], 3) == 1.0
    assert win_rate(0.0, [1, 1, 0], [0.1, 0.2, 0.9], 3) == 0.5


def test_share_interval():
    costs = np.array([[10.0] * 6, [100.0] * 6])
    values = np.array([[0.0] * 6, [2.0] * 6])
    full = np.full(6, 1000.0)
    assert share_interval(costs, values, np.ones(6), full, resamples=50) == pytest.approx((10**1.5 / 1000,) * 2)
    assert share_interval(costs, values, np.full(6, 3.0), full, resamples=50) == (math.inf, math.inf)
    mixed = share_interval(costs, values + np.arange(6), np.full(6, 4.0), full, resamples=200)
    assert mixed[0] < mixed[1] == math.inf
