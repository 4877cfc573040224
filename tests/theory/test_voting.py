import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.theory import voting
from ramify.theory.checks import OutOfRange
from theory import brute
from theory.brute import EXACT, examples


def brute_vote(probs, n, first_wins=False):
    """From every multinomial outcome."""
    law = np.zeros(len(probs))
    for counts, orders in brute.multisets(len(probs), n):
        winners = brute.argmaxes(counts)[: 1 if first_wins else None]
        law[winners] += orders * np.prod(np.asarray(probs, dtype=float) ** counts) / len(winners)
    return law


def check_majority(majority_law):
    tables = ([1.0], [0.5, 0.5], [0.4, 0.35, 0.25], [0.7, 0.0, 0.3], [0.1, 0.2, 0.3, 0.4], [0.25] * 4)
    for probs, n in itertools.product(tables, (1, 2, 3, 5, 8, 12)):
        assert majority_law(probs, n) == pytest.approx(brute_vote(probs, n), abs=EXACT)


def test_the_majority_law():
    check_majority(voting.majority_law)
    with pytest.raises(AssertionError):  # broken twin: ties go to the first answer
        check_majority(lambda probs, n: brute_vote(probs, n, first_wins=True))
    with pytest.raises(AssertionError):  # broken twin: the share of votes
        check_majority(lambda probs, n: np.asarray(probs))


@examples
@given(st.lists(st.integers(0, 100), min_size=1, max_size=6).filter(any), st.integers(1, 40))
def test_it_is_a_law_that_favours_the_likely(weights, n):
    probs = np.array(weights) / sum(weights)
    law = voting.majority_law(probs, n)
    assert law.sum() == pytest.approx(1, abs=1e-11)
    order = np.argsort(probs, kind="stable")
    assert (np.diff(law[order]) >= -1e-12).all()


def test_two_answers_are_a_binomial():
    """Condorcet: an even number of votes is worth the odd one below it."""
    for n in (1, 3, 15, 41):
        assert voting.majority_law([0.6, 0.4], n + 1) == pytest.approx(voting.majority_law([0.6, 0.4], n), abs=EXACT)
    assert voting.majority_accuracy([0.6, 0.4], 1) == pytest.approx(0.6, abs=EXACT)


def test_the_vote_tends_to_the_mode_even_if_wrong():
    right = [voting.majority_accuracy([0.3, 0.4, 0.3], n) for n in (1, 16, 64, 200)]
    assert right[0] > right[1] > right[2] > right[3] and right[3] < 0.05
    assert voting.majority_accuracy([0.3, 0.4, 0.3], 200, correct=1) > 0.9


def check_shares(weighted_shares):
    """Weights exp(r/beta): the answer's probability under the tilt, and the limit of a drawn vote."""
    probs, rewards = brute.table(3, size=6)
    answers = np.array([0, 0, 1, 1, 1, 2])
    tilted = probs * np.exp(rewards / 0.5)
    tilted /= tilted.sum()
    by_answer = np.bincount(answers, weights=probs)
    mean_weight = np.bincount(answers, weights=probs * np.exp(rewards / 0.5)) / by_answer
    assert weighted_shares(by_answer, mean_weight) == pytest.approx(np.bincount(answers, weights=tilted), abs=EXACT)


def test_the_weighted_limit():
    check_shares(voting.weighted_shares)
    with pytest.raises(AssertionError):  # broken twin: the mean weight without how often it comes
        check_shares(lambda probs, weights: weights / weights.sum())
    assert voting.weighted_shares([0.2, 0.8], [1, 1]) == pytest.approx([0.2, 0.8], abs=EXACT)


@pytest.mark.parametrize(("call", "needed"), [
    (lambda: voting.majority_law([0.5, 0.4], 3), "sum to 1"),
    (lambda: voting.majority_law([0.5, 0.5], 0), "whole number"),
    (lambda: voting.majority_accuracy([0.5, 0.5], 3, 2), "an answer's place, 0 to 1"),
    (lambda: voting.weighted_shares([0.5, 0.5], [1.0]), "a mean weight for each answer"),
    (lambda: voting.weighted_shares([0.5, 0.5], [0.0, 0.0]), "not all 0"),
])
def test_numbers_out_of_range(call, needed):
    with pytest.raises(OutOfRange, match=needed):
        call()
