"""Sampling and Best-of-N: the engine's complete law against the stated one."""

import pytest
from references import PROMPT, Case, check_law
from references import best_of_n as brute_force

from ramify.engine import Extend, Fork, Score
from ramify.exact import best_of_n_law, output_law, policy_law
from ramify.search import best_of_n, sample

CASE = Case(seed=3, longest=3)


def law_of(case, search):
    return output_law(case.model, PROMPT, search, max_tokens=case.longest)


def test_the_case_has_zeros_ties_and_several_levels():
    policy = CASE.policy()
    assert len(policy) < 15
    assert len({CASE.score(answer) for answer in policy}) < len(policy)
    assert len({CASE.score(answer) for answer in policy}) > 1


@pytest.mark.parametrize("seed", range(2))
def test_sampling_follows_the_policy(seed):
    case = Case(seed, longest=4)
    check_law(law_of(case, lambda prompt: sample(prompt)), case.policy())
    check_law(policy_law(case.model, PROMPT, max_tokens=4), case.policy())


def test_of_several_samples_the_first_is_returned():
    check_law(law_of(CASE, lambda prompt: sample(prompt, n=2)), CASE.policy())


@pytest.mark.parametrize(("seed", "longest", "n"), [(3, 3, 2), (5, 2, 3), (7, 1, 4)])
def test_best_of_n_has_its_stated_law(seed, longest, n):
    case = Case(seed, longest)
    stated = best_of_n_law(case.policy(), case.score, n)
    check_law(law_of(case, lambda prompt: best_of_n(prompt, reward=case.reward, n=n)), stated)
    check_law(brute_force(case, n), stated)


def test_one_candidate_is_the_policy():
    check_law(law_of(CASE, lambda prompt: best_of_n(prompt, reward=CASE.reward, n=1)), CASE.policy())


def test_a_constant_reward_leaves_the_policy():
    case = Case(seed=3, longest=2, levels=1)
    check_law(law_of(case, lambda prompt: best_of_n(prompt, reward=case.reward, n=2)), case.policy())


def broken(choose):
    def search(prompt):
        alive = yield Fork(prompt, 2)
        yield Extend(alive)
        scores = yield Score(alive, CASE.reward)
        return choose(alive, scores)

    return search


def grown_twice_from_one(prompt):
    """Both candidates share their first token: a fork too late."""
    [first] = yield Fork(prompt, 1)
    yield Extend([first], tokens=1)
    alive = yield Fork(first, 2)
    yield Extend(alive)
    yield Score(alive, CASE.reward)
    return alive.best()


def shortest_of_the_best(alive, scores):
    """Where the first index goes to the first that finished, ties go to short answers."""
    top = [one for one, score in zip(alive, scores, strict=True) if score == max(scores)]
    return min(top, key=lambda one: len(one.tokens))


def test_ties_by_index_are_uniform_in_law_because_candidates_are_exchangeable():
    check_law(law_of(CASE, broken(lambda alive, scores: alive[scores.index(max(scores))])),
              best_of_n_law(CASE.policy(), CASE.score, 2))


@pytest.mark.parametrize("search", [
    broken(shortest_of_the_best),
    broken(lambda alive, scores: alive[scores.index(min(scores))]),  # argmin
    grown_twice_from_one,
])
def test_the_check_catches_a_broken_best_of_n(search):
    stated = best_of_n_law(CASE.policy(), CASE.score, 2)
    law = law_of(CASE, search)
    with pytest.raises(AssertionError):
        check_law(law, stated)
