import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from ramify.theory.checks import OutOfRange
from ramify.theory.intervals import bootstrap_interval, wilson_interval


def check_wilson(interval):
    """Both ends are rates at which the observed rate is exactly z standard errors away."""
    for successes, trials, level in itertools.product((1, 7, 19), (20, 200), (0.8, 0.95)):
        z = NormalDist().inv_cdf(0.5 + level / 2)
        for end in interval(successes, trials, level):
            assert 0 <= end <= 1
            error = abs(successes / trials - end)
            assert error == pytest.approx(z * math.sqrt(end * (1 - end) / trials), abs=1e-12)


def wald(successes, trials, level):
    """Broken twin: the textbook interval, too short and centred on the observed rate."""
    rate, z = successes / trials, NormalDist().inv_cdf(0.5 + level / 2)
    half = z * math.sqrt(rate * (1 - rate) / trials)
    return rate - half, rate + half


def test_wilson_solves_its_equation():
    check_wilson(wilson_interval)
    with pytest.raises(AssertionError):
        check_wilson(wald)


def test_wilson_at_the_ends():
    assert wilson_interval(0, 10)[0] == 0.0 and 0.2 < wilson_interval(0, 10)[1] < 0.4
    assert wilson_interval(10, 10)[1] == 1.0
    low, high = wilson_interval(30, 50)
    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(20, 50), abs=1e-12)


def coverage(interval, trials=40):
    """The chance that the interval holds the true rate, by the binomial law, averaged over rates."""
    held = []
    for rate in np.linspace(0.05, 0.95, 19):
        chances = [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(trials + 1)]
        ends = [interval(k, trials, 0.95) for k in range(trials + 1)]
        held.append(sum(c for c, (low, high) in zip(chances, ends, strict=True) if low <= rate <= high))
    return np.mean(held)


def test_wilson_covers_what_it_says():
    assert abs(coverage(wilson_interval) - 0.95) < 0.01
    assert abs(coverage(wald) - 0.95) > 0.02


def check_bootstrap(interval):
    """Against all 4^4 resamples of four prompts; 2000 drawn ones know the quantile to a few per cent of mass."""
    values = [0.0, 1.0, 2.0, 7.0]
    means = np.sort([np.mean(drawn) for drawn in itertools.product(values, repeat=4)])
    low, high = interval(values, level=0.9)
    assert 0.03 < np.mean(means < low + 1e-12) < 0.09
    assert 0.03 < np.mean(means > high - 1e-12) < 0.09


def test_bootstrap_quantiles():
    check_bootstrap(bootstrap_interval)
    with pytest.raises(AssertionError):  # broken twin: the quantiles of the values, not of their resampled means
        check_bootstrap(lambda values, level: np.quantile(values, [0.5 - level / 2, 0.5 + level / 2]))


def test_bootstrap_is_repeatable_and_shrinks():
    values = np.random.default_rng(0).normal(size=400)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high and high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert bootstrap_interval([2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("call", [
    lambda: wilson_interval(3, 2), lambda: wilson_interval(0, 0), lambda: wilson_interval(1, 2, 1.0),
    lambda: bootstrap_interval([]), lambda: bootstrap_interval([1.0], level=0.0),
    lambda: bootstrap_interval([1.0], resamples=0)])
def test_numbers_out_of_range(call):
    with pytest.raises(OutOfRange):
        call()
