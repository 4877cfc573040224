"""Searches of one's own: forks in every position leave the laws they should, and keep what is shared apart."""

import pytest
from references import PROMPT, Case, check_law

from ramify.engine import Drop, Engine, Extend, Fork, Rewind, Score
from ramify.exact import best_of_n_law, output_law
from ramify.rewards import FunctionReward
from ramify.sampling.draws import mix
from ramify.types import SamplingParams

CASE = Case(seed=27, longest=2)


def law_of(search, **sampling):
    return output_law(CASE.model, PROMPT, search, max_tokens=2, **sampling)


def forked_when_finished(prompt):
    """Copies of a finished answer are finished: they draw nothing and score alike."""
    [one] = yield Fork(prompt, 1)
    yield Extend([one])
    copies = yield Fork(one, 2)
    yield Extend(copies)
    scores = yield Score(copies, CASE.reward)
    assert copies.unfinished == [] and scores[0] == scores[1]
    assert [copy.tokens for copy in copies] == [one.tokens] * 2 and [copy.state for copy in copies] == [one.state] * 2
    return copies[1]


def forked_from_an_empty_fork(prompt):
    """A fork of a fork before anything was said."""
    [one] = yield Fork(prompt, 1)
    [two] = yield Fork(one, 1)
    [three] = yield Fork(two, 1)
    yield Extend([three])
    return three


def scored_before_anything_was_said(prompt):
    alive = yield Fork(prompt, 1)
    yield Score(alive, CASE.reward)
    yield Extend(alive, tokens=1)
    yield Score(alive, CASE.reward)
    [child] = yield Fork(alive, 1)
    yield Score([child], CASE.reward)
    yield Extend([child])
    return child


def with_a_noisy_sibling(prompt):
    """The sibling shares blocks, goes its own way, is rewound and dropped: the other never notices."""
    [parent] = yield Fork(prompt, 1)
    yield Extend([parent], tokens=1)
    quiet, noisy = yield Fork(parent, 2)
    yield Extend([noisy])
    yield Rewind([noisy], 0)
    yield Extend([noisy])
    yield Drop([noisy, parent])
    yield Extend([quiet])
    return quiet


@pytest.mark.parametrize("search", [
    forked_when_finished, forked_from_an_empty_fork, scored_before_anything_was_said, with_a_noisy_sibling,
])
def test_these_leave_the_policy(search):
    check_law(law_of(search), CASE.policy())


def two_forks_of_the_prompt(prompt):
    """Candidates that start later, one of them after the other has finished."""
    first = yield Fork(prompt, 1)
    yield Extend(first)
    second = yield Fork(prompt, 1)
    yield Extend(second)
    alive = first.of([*first, *second])
    yield Score(alive, CASE.reward)
    return alive.best()


def children_of_empty_forks(prompt):
    [one] = yield Fork(prompt, 1)
    alive = yield Fork(one, 2)
    yield Extend(alive)
    yield Score(alive, CASE.reward)
    return alive.best()


def uneven_chunks(prompt):
    one, two = alive = yield Fork(prompt, 2)
    yield Extend([two], tokens=1)
    yield Extend([one])
    yield Extend([two], tokens=1)
    yield Score([two], CASE.reward)
    yield Score(alive, CASE.reward)
    return alive.best()


@pytest.mark.parametrize("search", [two_forks_of_the_prompt, children_of_empty_forks, uneven_chunks])
def test_these_are_best_of_two(search):
    check_law(law_of(search), best_of_n_law(CASE.policy(), CASE.score, 2))


def siblings_with_one_stream_each_turn(prompt):
    """The broken twin: the second fork starts over at the first child's key."""
    [parent] = yield Fork(prompt, 1)
    yield Extend([parent], tokens=1)
    [left] = yield Fork(parent, 1)
    parent.children.clear()
    [right] = yield Fork(parent, 1)
    yield Extend([left, right])
    return right


def test_a_fork_that_forgets_its_siblings_is_caught():
    with pytest.raises(AssertionError, match="drawn from twice"):
        law_of(siblings_with_one_stream_each_turn)


def test_penalties_count_what_the_parent_said():
    """The law of a forked candidate under a frequency penalty is the policy's under it."""
    from ramify.exact import policy_law

    options = {"frequency_penalty": 1.5, "repetition_penalty": 1.3, "temperature": 0.8}
    law = law_of(with_a_noisy_sibling, **options)
    check_law(law, policy_law(CASE.model, PROMPT, max_tokens=2, **options))
    with pytest.raises(AssertionError):
        check_law(law, CASE.policy())


def test_ids_tell_the_family():
    def search(prompt):
        one, two = yield Fork(prompt, 2)
        yield Extend([one, two], tokens=1)
        yield Fork(two, 1)
        grandchildren = yield Fork([one, two], 2)
        assert [child.id for child in grandchildren] == ["0.0", "0.1", "1.1", "1.2"]
        yield Extend(grandchildren)
        return grandchildren[0]

    Engine(CASE.model, capacity=100).result(PROMPT, search, SamplingParams(max_tokens=2))


@pytest.mark.parametrize("n", [1, 2, 8])
def test_a_candidate_does_not_depend_on_how_many_there_are(n):
    """Candidate i of n answers alike for every n: streams come from paths, not from width."""
    case, reward = Case(seed=5, longest=8), FunctionReward(lambda prompt, answer: 0.0)

    def search(prompt, n):
        alive = yield Fork(prompt, n)
        yield Extend(alive)
        yield Score(alive, reward)
        return alive[0]

    engine, params = Engine(case.model, capacity=400), SamplingParams(max_tokens=8)
    for seed in range(5):
        few = engine.result(PROMPT, lambda prompt: search(prompt, n), params, seed=seed).candidates
        many = engine.result(PROMPT, lambda prompt: search(prompt, 12), params, seed=seed).candidates
        assert [c.token_ids for c in few] == [c.token_ids for c in many[:n]]


def test_seeds_differ():
    assert len({mix(seed) for seed in range(1000)}) == 1000
