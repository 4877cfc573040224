import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.theory import calibration, tilt
from ramify.theory.checks import OutOfRange
from ramify.theory.law import empirical_law, finite_law
from theory import brute
from theory.brute import EXACT, examples


def two_laws(seed, levels=3):
    rng = np.random.default_rng(seed)
    return finite_law(np.arange(levels), rng.dirichlet(np.ones(levels))), rng.dirichlet(np.ones(levels))


# Calibrated rewards


def check_calibrate(calibrate):
    base = [0.0, 1.0, 1.0, 3.0]
    exact = [sum((b < r) + (b == r) / 2 for b in base) / 4 for r in (-1.0, 0.0, 1.0, 2.0, 3.0, 9.0)]
    assert calibrate([-1.0, 0.0, 1.0, 2.0, 3.0, 9.0], base) == pytest.approx(exact, abs=EXACT)


def test_calibrated_rewards():
    check_calibrate(calibration.calibrate)
    with pytest.raises(AssertionError):  # broken twin: ties lose
        check_calibrate(lambda rewards, base: np.searchsorted(np.sort(base), rewards) / len(base))


def test_calibrated_rewards_do_not_see_the_scale():
    rewards = np.random.default_rng(0).normal(size=50)
    own = calibration.calibrate(rewards, rewards)
    assert own == pytest.approx(calibration.calibrate(np.exp(rewards), np.exp(rewards)), abs=EXACT)
    assert own.mean() == pytest.approx(0.5, abs=EXACT)
    law = empirical_law(rewards)
    assert calibration.quantiles(law) == pytest.approx(np.sort(own), abs=EXACT)


# The win rate of Best-of-n against Best-of-n


def check_win_rate(win_rate):
    for seed, n in itertools.product(range(5), (1, 2, 3)):
        law, aligned = two_laws(seed)
        ours, theirs = (brute.best_of(p, law.values_L, n) for p in (aligned, law.probs_L))
        beats = np.tril(np.ones((3, 3)), -1) + np.eye(3) / 2
        assert win_rate(law, aligned, n) == pytest.approx(ours @ beats @ theirs, abs=EXACT)


def test_the_win_rate():
    check_win_rate(calibration.win_rate)
    with pytest.raises(AssertionError):  # broken twin: the single answer's win rate
        check_win_rate(lambda law, aligned, n: calibration.win_rate(law, aligned, 1))


@examples
@given(st.floats(1, 20), st.floats(0.2, 5))
def test_the_continuous_win_rate(n, power):
    """G = u^a gives a/(1 + a), whatever n."""
    got = calibration.win_rate_continuous(lambda u: u**power, n)
    assert got == pytest.approx(power / (1 + power), abs=1e-6)


def test_the_grid_tends_to_the_continuum():
    law = calibration.grid(2000)
    aligned = np.diff(np.linspace(0, 1, 2001) ** 3)
    for n in (1, 2.5, 4):
        exact = calibration.win_rate_continuous(lambda u: u**3, n)
        assert calibration.win_rate(law, aligned, n) == pytest.approx(exact, abs=1e-5)


# The transform


def check_transform(transform):
    """Its differences are the derivatives of the win rate when mass moves from one level to another."""
    step = 1e-6
    for seed, n in itertools.product(range(5), (1, 2, 4, 2.5)):
        law, aligned = two_laws(seed, levels=4)
        slopes = transform(law, aligned, n)
        for a, b in itertools.combinations(range(4), 2):
            move = step * aligned.min() * (np.eye(4)[b] - np.eye(4)[a])
            gain = calibration.win_rate(law, aligned + move, n) - calibration.win_rate(law, aligned - move, n)
            assert slopes[b] - slopes[a] == pytest.approx(gain / (2 * step * aligned.min()), abs=1e-6)


def at_the_base(law, aligned, n):
    """Broken twin: the weak-tilt transform wherever the policy has gone."""
    return calibration.transform(law, law.probs_L, n)


def test_the_transform_is_the_derivative():
    check_transform(calibration.transform)
    with pytest.raises(AssertionError):
        check_transform(at_the_base)


def test_the_transform_on_a_fine_grid():
    law = calibration.grid(4000)
    u = law.values_L
    assert calibration.transform(law, law.probs_L, 1) == pytest.approx(u, abs=1e-9)
    for n in (2, 4):
        weak = n**2 / (2 * n - 1) * u ** (2 * n - 1)
        assert calibration.transform(law, law.probs_L, n) == pytest.approx(weak, abs=2e-3)
    aligned = np.diff(np.linspace(0, 1, 4001) ** 2)  # G = u^2: Phi' = n^2 u^(n-1) u^(2n-2)
    strong = 9 / 7 * u**7
    assert calibration.transform(law, aligned, 3) == pytest.approx(strong, abs=3e-3)


# The aligned policy


def objective(law, aligned, n, beta):
    return calibration.win_rate(law, aligned, n) - beta * brute.kl(aligned, law.probs_L)


def check_aligned(aligned_law):
    """No point of a grid on the simplex does better, and nor does any nearby point."""
    rng = np.random.default_rng(0)
    simplex = [np.array([i, j, 12 - i - j]) / 12 for i in range(13) for j in range(13 - i)]
    for seed, n, beta in itertools.product(range(2), (1, 2, 4), (0.02, 0.2, 2.0)):
        law, _ = two_laws(seed)
        best = aligned_law(law, n, beta)
        reached = objective(law, best, n, beta)
        near = [0.999 * best + 0.001 * rng.dirichlet(np.ones(3)) for _ in range(20)]
        assert reached >= max(objective(law, other, n, beta) for other in (*simplex, *near)) - 1e-12


def tuned_for_one(law, n, beta):
    """Broken twin: the policy for a single answer."""
    return calibration.aligned_law(law, 1, beta)


def test_the_aligned_policy():
    check_aligned(calibration.aligned_law)
    with pytest.raises(AssertionError):
        check_aligned(tuned_for_one)


@examples
@given(st.integers(0, 1000), st.floats(1, 32), st.floats(0.02, 5))
def test_it_is_the_fixed_point(seed, n, beta):
    law, _ = two_laws(seed, levels=6)
    aligned = calibration.aligned_law(law, n, beta)
    excess = np.log(aligned / law.probs_L) - calibration.transform(law, aligned, n) / beta
    assert np.ptp(excess) < 1e-8
    assert calibration.win_rate(law, aligned, n) >= 0.5 - 1e-9


def test_for_one_answer_it_is_the_plain_tilt():
    law, _ = two_laws(0)
    by_rank = finite_law(calibration.quantiles(law), law.probs_L)
    assert calibration.aligned_law(law, 1, 0.3) == pytest.approx(tilt.tilt(by_rank, 0.3), abs=1e-10)
    assert calibration.divergence(law, tilt.tilt(by_rank, 0.3)) == pytest.approx(tilt.tilt_point(by_rank, 0.3)[0])


def test_a_strong_pull_still_converges():
    law = calibration.grid(300)
    aligned = calibration.aligned_law(law, 64, 1e-4)
    excess = np.log(aligned / law.probs_L) - calibration.transform(law, aligned, 64) / 1e-4
    assert np.ptp(excess) < 1e-8 * 64 / 1e-4


@pytest.mark.parametrize(("call", "needed"), [
    (lambda: calibration.calibrate([1.0], []), "at least one base sample"),
    (lambda: calibration.grid(0), "whole number"),
    (lambda: calibration.win_rate(calibration.grid(3), [0.5, 0.5], 2), "each of the 3 levels"),
    (lambda: calibration.aligned_law(calibration.grid(3), 2, 0.0), "beta above 0"),
    (lambda: calibration.win_rate_continuous(lambda u: u, 0.0), "n of at least 1"),
])
def test_numbers_out_of_range(call, needed):
    with pytest.raises(OutOfRange, match=needed):
        call()
