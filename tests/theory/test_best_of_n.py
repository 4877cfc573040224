import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.theory import best_of_n
from ramify.theory.checks import OutOfRange
from ramify.theory.law import binomial_law, empirical_law, finite_law
from theory import brute
from theory.brute import EXACT, examples

SEEDS, WIDTHS = range(6), range(1, 5)

laws = st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 1000)), min_size=1, max_size=8).map(
    lambda pairs: finite_law([r for r, _ in pairs], np.array([w for _, w in pairs]) / sum(w for _, w in pairs)))
widths = st.one_of(st.integers(1, 10_000), st.floats(1, 1e6))


# The law


def check_sequence_law(sequence_law):
    for seed, n in itertools.product(SEEDS, WIDTHS):
        probs, rewards = brute.table(seed)
        assert sequence_law(probs, rewards, n) == pytest.approx(brute.best_of(probs, rewards, n), abs=EXACT)


def first_index_wins(probs, rewards, n):
    """Broken twin: ties go to the lowest index."""
    order = np.lexsort((-np.arange(len(probs)), rewards))
    upto = np.cumsum(np.asarray(probs)[order]) ** n
    law = np.empty(len(probs))
    law[order] = np.diff(upto, prepend=0.0)
    return law


def as_if_continuous(probs, rewards, n):
    """Broken twin: n F^(n-1) p, the density formula, renormalised."""
    upto = np.array([probs[rewards <= r].sum() for r in rewards])
    law = probs * n * upto ** (n - 1)
    return law / law.sum()


def test_the_law_over_sequences():
    check_sequence_law(best_of_n.sequence_law)


@pytest.mark.parametrize("twin", [first_index_wins, as_if_continuous])
def test_a_wrong_law_is_caught(twin):
    with pytest.raises(AssertionError):
        check_sequence_law(twin)


def test_an_impossible_sequence_stays_impossible():
    law = best_of_n.sequence_law([0.5, 0.0, 0.5], [0.0, 9.0, 1.0], 3)
    assert law == pytest.approx([0.125, 0.0, 0.875], abs=EXACT)


def check_numbers(level_law, expected_reward, kl, win_rate):
    for seed, n in itertools.product(SEEDS, WIDTHS):
        probs, rewards = brute.table(seed)
        law, best = finite_law(rewards, probs), brute.best_of(probs, rewards, n)
        assert level_law(law, n) == pytest.approx(brute.by_level(best, rewards), abs=EXACT)
        assert expected_reward(law, n) == pytest.approx(best @ rewards, abs=EXACT)
        assert kl(law, n) == pytest.approx(brute.kl(best, probs), abs=EXACT)
        beats = (rewards[:, None] > rewards) + (rewards[:, None] == rewards) / 2
        assert win_rate(law, n) == pytest.approx(best @ beats @ probs, abs=EXACT)


GOOD = {"level_law": best_of_n.level_law, "expected_reward": best_of_n.expected_reward, "kl": best_of_n.kl,
        "win_rate": best_of_n.win_rate}


def test_reward_kl_and_win_rate():
    check_numbers(**GOOD)


@pytest.mark.parametrize(("name", "twin"), [
    ("level_law", lambda law, n: law.probs_L * n * np.exp(law.log_upto_L) ** (n - 1)),
    ("expected_reward", lambda law, n: float(law.values_L[-1])),
    ("kl", lambda law, n: best_of_n.kl_bound(n)),
    ("win_rate", lambda law, n: float(best_of_n.level_law(law, n) @ np.exp(law.log_upto_L))),
])
def test_a_wrong_number_is_caught(name, twin):
    with pytest.raises(AssertionError):
        check_numbers(**GOOD | {name: twin})


@examples
@given(laws, widths)
def test_the_law_is_a_law_and_the_bounds_hold(law, n):
    level = best_of_n.level_law(law, n)
    assert level.sum() == pytest.approx(1, abs=1e-9) and (level >= 0).all()
    kl = best_of_n.kl(law, n)
    sharp = best_of_n.kl_bound(n, law.top)
    assert -EXACT <= kl <= sharp + 1e-9
    assert sharp <= min(best_of_n.kl_bound(n), best_of_n.kl_ceiling(law)) + 1e-9
    assert best_of_n.win_rate(law, n) <= best_of_n.win_rate_bound(n) + 1e-9
    assert best_of_n.expected_reward(law, n + 1) >= best_of_n.expected_reward(law, n) - 1e-9


def test_many_levels_reach_the_formulas():
    law = finite_law(np.arange(100_000), np.full(100_000, 1e-5))
    for n in (1, 2, 4, 16, 5.5):
        assert best_of_n.kl(law, n) == pytest.approx(math.log(n) - (n - 1) / n, abs=1e-4)
        assert best_of_n.win_rate(law, n) == pytest.approx(n / (n + 1), abs=1e-4)
    assert best_of_n.kl_bound(16) == pytest.approx(1.835, abs=5e-4)
    assert best_of_n.kl_bound(4) == pytest.approx(0.636, abs=5e-4)


def check_bound_given_top(kl_bound):
    """Exact for one atom above a continuum, here 100 000 small levels."""
    for n, top in itertools.product((1, 2, 4, 16, 64), (0.01, 0.2, 0.7)):
        probs = np.append(np.full(100_000, (1 - top) / 100_000), top)
        assert kl_bound(n, top) == pytest.approx(best_of_n.kl(finite_law(np.arange(100_001), probs), n), abs=2e-3)


def test_the_bound_given_the_top_is_reached():
    check_bound_given_top(best_of_n.kl_bound)
    assert best_of_n.kl_bound(7, 1.0) == 0.0
    assert best_of_n.kl_bound(7, 1e-12) == pytest.approx(best_of_n.kl_bound(7), abs=1e-9)


def test_a_bound_that_forgets_the_top_is_caught():
    with pytest.raises(AssertionError):
        check_bound_given_top(lambda n, top: best_of_n.kl_bound(n))


@examples
@given(st.integers(0, 10_000), st.integers(2, 3))
def test_any_choice_among_n_draws_keeps_the_bound(seed, n):
    """A random rule that may look at everything drawn."""
    rng = np.random.default_rng(seed)
    probs, law = rng.dirichlet(np.ones(3)), np.zeros(3)
    for drawn in itertools.product(range(3), repeat=n):
        law[drawn[rng.integers(n)]] += math.prod(probs[list(drawn)])
    assert brute.kl(law, probs) <= best_of_n.kl_bound(n) + EXACT


def test_the_card_of_the_asymptotics():
    """arXiv 2404.01730 with Bernoulli(0.3) tokens and 0.05 nats a token; n is a real exponential."""
    card = ((10, 0.3590, 0.0101), (30, 0.3928, 0.0237), (100, 0.4246, 0.0398), (300, 0.4393, 0.0466))
    for length, reward, kl in card:
        law, n = binomial_law(length, 0.3), math.exp(0.05 * length)
        assert best_of_n.expected_reward(law, n) == pytest.approx(reward, abs=5e-5)
        assert best_of_n.kl(law, n) / length == pytest.approx(kl, abs=5e-5)


# Estimators


def check_unbiased(estimate):
    """The mean over every possible pool of 4 samples is the true value of Best-of-n."""
    for seed in range(3):
        probs, scores = brute.table(seed, size=3, levels=2)
        values = np.random.default_rng(seed).normal(size=3)
        for n in WIDTHS:
            truth = brute.best_of(probs, scores, n) @ values
            mean = sum(math.prod(probs[list(pool)]) * estimate(scores[list(pool)], values[list(pool)], n)
                       for pool in itertools.product(range(3), repeat=4))
            assert mean == pytest.approx(truth, abs=EXACT)


def ties_by_value(scores, values, n):
    """Broken twin: among equal scores the better value is ranked higher."""
    order = np.lexsort((values, scores))
    return best_of_n.estimate_smaller_n(np.arange(len(scores)), np.asarray(values)[order], n)


def with_replacement(scores, values, n):
    """Broken twin: the plug-in, as if the pool were the policy."""
    share = np.full(len(scores), 1 / len(scores))
    return float(best_of_n.sequence_law(share, scores, n) @ values)


def test_the_estimator_is_unbiased():
    check_unbiased(best_of_n.estimate_smaller_n)


@pytest.mark.parametrize("twin", [ties_by_value, with_replacement])
def test_a_biased_estimator_is_caught(twin):
    with pytest.raises(AssertionError):
        check_unbiased(twin)


@examples
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.data())
def test_the_estimator_is_the_mean_over_subsets(scores, data):
    n = data.draw(st.integers(1, len(scores)))
    values = data.draw(st.permutations(range(len(scores))))
    subsets = [[values[i] for i in subset if scores[i] == max(scores[j] for j in subset)]
               for subset in itertools.combinations(range(len(scores)), n)]
    got = best_of_n.estimate_smaller_n(scores, values, n)
    assert got == pytest.approx(np.mean([np.mean(best) for best in subsets]), abs=1e-9)


def check_pass_at_k(pass_at_k):
    for correct, k in itertools.product(range(7), range(1, 7)):
        verdicts = [1.0] * correct + [0.0] * (6 - correct)
        truth = 1 - math.comb(6 - correct, k) / math.comb(6, k)
        assert pass_at_k(correct, 6, k) == pytest.approx(truth, abs=EXACT)
        assert best_of_n.estimate_smaller_n(verdicts, verdicts, k) == pytest.approx(truth, abs=EXACT)


def test_pass_at_k_is_a_special_case():
    check_pass_at_k(best_of_n.pass_at_k)


def test_the_biased_pass_at_k_is_caught():
    with pytest.raises(AssertionError):
        check_pass_at_k(lambda correct, samples, k: best_of_n.pass_at_n(correct / samples, k))


def test_pass_at_n():
    assert best_of_n.pass_at_n(0.3, 4) == pytest.approx(1 - 0.7**4, abs=EXACT)
    assert best_of_n.pass_at_n(1.0, 4) == 1.0
    assert best_of_n.pass_at_n(1e-20, 2) == pytest.approx(2e-20, rel=1e-12)


def test_a_large_pool_needs_no_large_binomial():
    scores = np.random.default_rng(0).normal(size=5000)
    assert best_of_n.estimate_smaller_n(scores, scores, 5000) == scores.max()
    assert best_of_n.estimate_smaller_n(scores, scores, 1) == pytest.approx(scores.mean(), abs=EXACT)
    plug_in = best_of_n.expected_reward(empirical_law(scores), 8)
    assert best_of_n.estimate_smaller_n(scores, scores, 8) == pytest.approx(plug_in, abs=0.01)


@pytest.mark.parametrize(("call", "needed"), [
    (lambda: best_of_n.kl_bound(0.5), "n of at least 1"),
    (lambda: best_of_n.kl_bound(math.inf), "n of at least 1"),
    (lambda: best_of_n.kl_bound(2, 1.5), r"in \[0, 1\]"),
    (lambda: best_of_n.estimate_smaller_n([1.0, 2.0], [1.0, 2.0], 3), "at most the 2 samples"),
    (lambda: best_of_n.estimate_smaller_n([1.0, 2.0], [1.0, 2.0], 0), "whole number"),
    (lambda: best_of_n.estimate_smaller_n([1.0, 2.0], [1.0], 1), "one value for each score"),
    (lambda: best_of_n.estimate_smaller_n([1.0, math.nan], [1.0, 2.0], 1), "finite scores"),
    (lambda: best_of_n.pass_at_k(5, 4, 1), "between 0 and 4"),
    (lambda: best_of_n.pass_at_k(1, 4, 5), "at most the 4 samples"),
    (lambda: best_of_n.pass_at_n(1.5, 4), r"in \[0, 1\]"),
])
def test_numbers_out_of_range(call, needed):
    with pytest.raises(OutOfRange, match=needed):
        call()
