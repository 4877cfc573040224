import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.theory import best_of_n, tilt
from ramify.theory.checks import OutOfRange
from ramify.theory.law import binomial_law, finite_law
from theory import brute
from theory.brute import EXACT, examples

TEMPERATURES = (0.05, 0.5, 1.0, 20.0)


def a_law(seed, size=5):
    probs, rewards = brute.table(seed, size)
    return finite_law(rewards, probs)


# The tilt


def check_tilt(tilted):
    for seed, beta in itertools.product(range(5), TEMPERATURES):
        law = a_law(seed)
        weights = [p * math.exp(r / beta) for p, r in zip(law.probs_L, law.values_L, strict=True)]
        assert tilted(law, beta) == pytest.approx(np.array(weights) / sum(weights), abs=EXACT)


def test_the_tilt():
    check_tilt(tilt.tilt)
    with pytest.raises(AssertionError):  # broken twin: beta the wrong way up
        check_tilt(lambda law, beta: tilt.tilt(law, 1 / beta))


def test_its_kl_and_reward():
    for seed, beta in itertools.product(range(5), TEMPERATURES):
        law = a_law(seed)
        tilted = tilt.tilt(law, beta)
        assert tilt.tilt_point(law, beta) == pytest.approx(
            (brute.kl(tilted, law.probs_L), tilted @ law.values_L), abs=EXACT)


def test_its_two_ends():
    law = a_law(0)
    assert tilt.tilt(law, math.inf) == pytest.approx(law.probs_L, abs=EXACT)
    assert tilt.tilt(law, 0) == pytest.approx(np.eye(len(law.probs_L))[-1], abs=EXACT)
    assert tilt.tilt_point(law, 0) == pytest.approx(tilt.tilt_point(law, 1e-4), abs=EXACT)
    assert tilt.tilt(finite_law([0, 1e5], [0.5, 0.5]), 1e-3).tolist() == [0.0, 1.0]  # no overflow


@examples
@given(st.integers(0, 1000), st.floats(0.001, 0.999))
def test_the_temperature_for_a_kl(seed, share):
    law = a_law(seed)
    kl = share * best_of_n.kl_ceiling(law)
    assert tilt.tilt_point(law, tilt.beta_for_kl(law, kl))[0] == pytest.approx(kl, abs=EXACT)


def check_optimum(optimum_reward):
    """No law within the KL earns more, and one on the boundary earns as much."""
    rng = np.random.default_rng(0)
    for seed in range(4):
        law = a_law(seed)
        for other in rng.dirichlet(np.ones(len(law.probs_L)), 40):
            kl, reward = brute.kl(other, law.probs_L), other @ law.values_L
            assert reward <= optimum_reward(law, kl) + EXACT
        for beta in TEMPERATURES[1:]:
            kl, reward = tilt.tilt_point(law, beta)
            assert optimum_reward(law, kl) == pytest.approx(reward, abs=1e-6)


def best_of_n_at_that_kl(law, kl):
    """Broken twin: the reward of the Best-of-n with this KL, taken for the optimum."""
    if kl >= best_of_n.kl_ceiling(law):
        return float(law.values_L[-1])
    low, high = 1.0, 1e9
    for _ in range(80):
        low, high = (mid, high) if best_of_n.kl(law, mid := (low + high) / 2) < kl else (low, mid)
    return best_of_n.expected_reward(law, high)


def test_the_optimum():
    check_optimum(tilt.optimum_reward)
    with pytest.raises(AssertionError):
        check_optimum(best_of_n_at_that_kl)


@examples
@given(st.integers(0, 1000), st.floats(1, 1e4))
def test_best_of_n_never_beats_it(seed, n):
    assert tilt.gap_to_best_of_n(a_law(seed), n) >= -1e-9


def test_the_frontier_rises_and_flattens():
    law = binomial_law(20, 0.3)
    kls = np.linspace(0, 30, 31)
    rewards = tilt.frontier(law, kls)
    assert rewards[0] == pytest.approx(law.mean, abs=EXACT) and rewards[-1] == 1.0
    assert (np.diff(rewards) >= 0).all() and (np.diff(rewards, 2) <= 1e-12).all()


def test_the_card_of_the_asymptotics():
    """Bernoulli(0.3) tokens, 0.05 nats a token: the optimum is one number, and Best-of-n's gap to it shrinks."""
    for length in (1, 10, 100):
        optimum = tilt.optimum_reward(binomial_law(length, 0.3), 0.05 * length)
        assert optimum == pytest.approx(0.4503, abs=5e-5)
    gaps = []
    for length, reward in ((10, 0.3662), (30, 0.4025), (100, 0.4337), (300, 0.4449)):
        law, n = binomial_law(length, 0.3), math.exp(0.05 * length)
        assert tilt.optimum_reward(law, best_of_n.kl(law, n)) == pytest.approx(reward, abs=5e-5)
        gaps.append(tilt.gap_to_best_of_n(law, n))
    assert min(gaps) > 0.005 and gaps[-1] < gaps[0]


# Soft Best-of-n


def check_soft(soft):
    for seed, n, beta in itertools.product(range(4), (1, 2, 3, 6), TEMPERATURES):
        law = a_law(seed)
        weights, exact = np.exp(law.values_L / beta), np.zeros(len(law.probs_L))
        for counts, orders in brute.multisets(len(law.probs_L), n):
            exact += orders * np.prod(law.probs_L**counts) * counts * weights / (counts @ weights)
        assert soft(law, n, beta) == pytest.approx(exact, abs=EXACT)


def test_soft_best_of_n():
    check_soft(tilt.soft_best_of_n)
    with pytest.raises(AssertionError):  # broken twin: the limit, whatever n
        check_soft(lambda law, n, beta: tilt.tilt(law, beta))
    with pytest.raises(AssertionError):  # broken twin: the tilt of Best-of-n
        check_soft(lambda law, n, beta: tilt.tilt(finite_law(law.values_L, best_of_n.level_law(law, n)), beta))


def test_its_three_limits():
    law = a_law(1)
    assert tilt.soft_best_of_n(law, 7, 1e6) == pytest.approx(law.probs_L, abs=1e-5)
    assert tilt.soft_best_of_n(law, 7.5, 1e-4) == pytest.approx(best_of_n.level_law(law, 7.5), abs=EXACT)
    errors = [np.abs(tilt.soft_best_of_n(law, n, 0.7) - tilt.tilt(law, 0.7)).max() for n in (1e2, 1e3, 1e4)]
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1) and errors[2] < 3e-4  # 1/n


@examples
@given(st.integers(0, 1000), st.floats(1, 1e6), st.floats(1e-3, 1e3))
def test_it_is_a_law(seed, n, beta):
    soft = tilt.soft_best_of_n(a_law(seed), n, beta)
    assert soft.sum() == pytest.approx(1, abs=1e-11) and (soft >= 0).all()


@pytest.mark.parametrize(("call", "needed"), [
    (lambda: tilt.tilt(a_law(0), -1.0), "beta of 0 or more"),
    (lambda: tilt.beta_for_kl(a_law(0), -0.1), "KL of 0 or more"),
    (lambda: tilt.beta_for_kl(a_law(0), 50.0), "below the ceiling"),
    (lambda: tilt.soft_best_of_n(a_law(0), 0.5, 1.0), "n of at least 1"),
    (lambda: tilt.soft_best_of_n(a_law(0), 2, 0.0), "beta above 0"),
])
def test_numbers_out_of_range(call, needed):
    with pytest.raises(OutOfRange, match=needed):
        call()
