"""Stated laws against brute force: products for the policy, all tuples for Best-of-N, all counts for votes."""

from collections import Counter, defaultdict
from itertools import product
from math import prod

import pytest

from ramify.exact import best_of_n_law, distance, policy_law, tabular_model
from ramify.exact.laws import vote_law
from ramify.sampling.draws import mix

POLICY = {(0,): 0.2, (1,): 0.3, (2,): 0.1, (3,): 0.4}
REWARDS = {(0,): 1.0, (1,): 1.0, (2,): 2.0, (3,): 0.0}


def all_tuples(policy, n):
    for answers in product(policy, repeat=n):
        yield answers, prod(policy[answer] for answer in answers)


def best_by_tuples(policy, reward, n, ties="uniform"):
    law = defaultdict(float)
    for answers, p in all_tuples(policy, n):
        top = [answer for answer in answers if reward[answer] == max(reward[a] for a in answers)]
        if ties == "smallest":
            top = [min(top)]
        for answer in top:
            law[answer] += p / len(top)
    return law


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_law(n):
    law = best_of_n_law(POLICY, REWARDS.get, n)
    assert distance(law, best_by_tuples(POLICY, REWARDS, n)) < 1e-12
    assert sum(law.values()) == pytest.approx(1)
    assert (distance(law, best_by_tuples(POLICY, REWARDS, n, ties="smallest")) < 1e-3) == (n == 1)


def test_best_of_n_law_on_a_random_table():
    policy = policy_law(tabular_model(3, 2, zeros=0.3), "a", max_tokens=2)
    reward = {answer: mix(1, *answer) % 2 for answer in policy}
    assert distance(best_of_n_law(policy, reward.get, 3), best_by_tuples(policy, reward, 3)) < 1e-12


KEYS = {(0,): "x", (1,): "y", (2,): None, (3,): "z"}


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_vote_law(n):
    stated = defaultdict(float)
    for answers, p in all_tuples(POLICY, n):
        votes = Counter(KEYS[answer] for answer in answers if KEYS[answer] is not None)
        winners = [key for key in votes if votes[key] == max(votes.values())] or [None]
        for key in winners:
            stated[key] += p / len(winners)
    law = vote_law(POLICY, KEYS.get, n)
    assert distance(law, stated) < 1e-12
    first = defaultdict(float)  # the broken twin: the first vote wins
    for answers, p in all_tuples(POLICY, n):
        first[next((KEYS[a] for a in answers if KEYS[a] is not None), None)] += p
    assert (distance(law, first) < 1e-3) == (n <= 2)


def test_votes_when_nobody_or_everybody_votes():
    assert vote_law(POLICY, lambda answer: None, 3) == {None: pytest.approx(1.0)}
    assert vote_law(POLICY, lambda answer: "x", 3) == pytest.approx({None: 0.0, "x": 1.0})


def test_policy_law_is_the_product_of_the_rows():
    model = tabular_model(3, 7)
    law = policy_law(model, "ab", max_tokens=2)
    table = model.decoder.table
    assert law[(1, 0)] == pytest.approx(table((0, 1))[1] * table((0, 1, 1))[0])
    assert law[(2,)] == pytest.approx(table((0, 1))[2])
    assert len(law) == 7 and sum(law.values()) == pytest.approx(1)


def test_policy_law_knows_stop_strings_and_ignored_ends():
    model = tabular_model(3, 7)
    stopped = policy_law(model, "ab", max_tokens=3, stop=("a",))
    assert all((0 not in answer[:-1]) for answer in stopped) and sum(stopped.values()) == pytest.approx(1)
    endless = policy_law(model, "ab", max_tokens=2, ignore_eos=True)
    assert len(endless) == 9 and sum(endless.values()) == pytest.approx(1)


def test_distance_sees_answers_that_one_law_lacks():
    assert distance({(0,): 1.0}, {(1,): 1.0}) == 1.0
    assert distance({(0,): 0.5, (1,): 0.5}, {(0,): 0.6, (1,): 0.4}) == pytest.approx(0.1)
