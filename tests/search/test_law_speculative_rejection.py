"""Speculative Rejection: its complete law against brute force, its limits, and its memory."""

from fractions import Fraction

import pytest
from references import PROMPT, PROMPT_IDS, Case, best, check_law
from references import speculative_rejection as brute_force

from ramify.engine import Drop, Engine, Extend, Fork, Score
from ramify.errors import OptionError
from ramify.exact import best_of_n_law, output_law, tabular_reward
from ramify.rewards import SequenceReward
from ramify.search import best_of_n, speculative_rejection
from ramify.search.speculative_rejection import keep
from ramify.types import SamplingParams

SHORT, LONG = Case(seed=27, longest=2), Case(seed=12, longest=3)


def law_of(case, search):
    return output_law(case.model, PROMPT, search, max_tokens=case.longest)


def rejection(case, **options):
    return lambda prompt: speculative_rejection(prompt, reward=case.reward, **options)


@pytest.mark.parametrize(("case", "n", "alpha", "chunk"), [
    (SHORT, 3, "0.5", 1),
    pytest.param(SHORT, 4, "0.5", 1, marks=pytest.mark.slow),
    pytest.param(LONG, 3, "0.4", 1, marks=pytest.mark.slow),
    (SHORT, 3, "0.34", 1),  # ceil(0.66 * 3) = 2
    (LONG, 2, "0.5", 1),
    (LONG, 2, "0.5", 2),
])
def test_fixed_rounds_have_the_brute_force_law(case, n, alpha, chunk):
    law = law_of(case, rejection(case, n=n, alpha=float(alpha), chunk=chunk))
    check_law(law, brute_force(case, n, Fraction(alpha), chunk=chunk))


@pytest.mark.parametrize(("case", "n", "alpha", "first"), [
    (SHORT, 3, "0.5", 1), (LONG, 2, "0.5", 1), (LONG, 2, "0.5", None),
])
def test_rounds_driven_by_memory_have_the_brute_force_law(case, n, alpha, first):
    law = law_of(case, rejection(case, n=n, alpha=float(alpha), first=first))
    check_law(law, brute_force(case, n, Fraction(alpha), memory=n * (first or 1)))


def test_a_small_cache_brings_the_first_cut_forward():
    """A cache with room for three answer tokens beside the prompt holds 3 // 2 = 1 token of each."""
    engine = Engine(LONG.model, capacity=len(PROMPT_IDS) + 3, block_size=1)
    wide = SequenceReward(tabular_reward(3, LONG.value), closed=False)  # closing would take one place more
    law = output_law(LONG.model, PROMPT, lambda prompt: speculative_rejection(prompt, reward=wide, n=2, first=3),
                     engine=engine, width=1, max_tokens=3)
    # Read open, a partial answer scores as its own prefix; a finished one still ends with its end token.
    opened = Case(seed=12, longest=3)
    opened.score = lambda answer: LONG.value((*PROMPT_IDS, *answer))
    check_law(law, brute_force(opened, 2, Fraction("0.5"), memory=3))


@pytest.mark.parametrize("options", [{"chunk": 1}, {"first": 1}, {}])
def test_alpha_zero_is_best_of_n_in_law(options):
    law = law_of(SHORT, rejection(SHORT, n=2, alpha=0.0, **options))
    check_law(law, best_of_n_law(SHORT.policy(), SHORT.score, 2))


@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 2}, {"first": 1}, {}])
def test_alpha_zero_is_best_of_n_draw_for_draw(options):
    case = Case(seed=5, longest=6)
    engine, params = Engine(case.model, capacity=500, block_size=2), SamplingParams(max_tokens=6)
    ties = 0
    for seed in range(25):
        plain = engine.result(PROMPT, lambda prompt: best_of_n(prompt, reward=case.reward, n=5), params, seed=seed)
        ours = engine.result(PROMPT, rejection(case, n=5, alpha=0.0, **options), params, seed=seed)
        assert [(c.id, c.token_ids, c.reward) for c in ours.candidates] == \
            [(c.id, c.token_ids, c.reward) for c in plain.candidates]
        assert (ours.chosen, ours.text, ours.reward) == (plain.chosen, plain.text, plain.reward)
        ties += len(best([c.reward for c in plain.candidates])) > 1
    assert ties > 5  # where the order of the finalists shows


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8])
def test_perfect_partial_scores_lose_nothing(alpha):
    """The first token decides the reward, so a prefix's score is its expected reward: the best always stays."""
    case = Case(seed=6, longest=3, zeros=0.0)
    case.value = lambda prefix: float(prefix[len(PROMPT_IDS)])
    best_reward = {answer: case.score(answer) for answer in case.policy()}
    law = law_of(case, rejection(case, n=2, alpha=alpha, chunk=1))
    check_law(levels(law, best_reward), levels(best_of_n_law(case.policy(), case.score, 2), best_reward))


def levels(law, reward):
    told = {}
    for answer, p in law.items():
        told[reward[answer]] = told.get(reward[answer], 0.0) + p
    return told


def test_scores_that_say_nothing_leave_best_of_the_survivors():
    """Nobody ends before the last round, where scores are all 0 but at the end: Best-of-2 of 4 candidates."""
    case = Case(seed=8, longest=2, zeros=0.0)
    table = case.model.decoder.table
    case.model.decoder.table = lambda prefix: [0.6, 0.4, 0.0] if len(prefix) == len(PROMPT_IDS) else table(prefix)
    value = case.value
    case.value = lambda prefix: 0.0 if len(prefix) == len(PROMPT_IDS) + 2 and prefix[-1] == 2 else value(prefix)
    assert all(len(answer) == 2 for answer in case.policy())
    # Halved after one token; the second cut, between finished answers, keeps the better.
    law = law_of(case, rejection(case, n=3, alpha=0.34, chunk=1))
    check_law(law, best_of_n_law(case.policy(), case.score, 2))


def test_a_constant_score_does_not_leave_the_policy():
    """Whoever finishes is remembered, whoever grows may still be dropped: finalists favour short answers."""
    case = Case(seed=8, longest=2, levels=1)
    law = law_of(case, rejection(case, n=3, alpha=0.5, chunk=1))
    check_law(law, brute_force(case, 3, Fraction("0.5"), chunk=1))
    with pytest.raises(AssertionError):
        check_law(law, case.policy())


@pytest.mark.parametrize(("count", "alpha", "stay"), [
    (10, "0.7", 3), (10, "0.9", 1), (10, "0.3", 7), (30, "0.1", 27), (100, "0.29", 71), (3, "0.5", 2), (2, "0.3", 2),
    (1, "0.99", 1), (5, "0", 5), (1, "0.9999999999", 1),
])
def test_how_many_stay(count, alpha, stay):
    assert keep(count, float(alpha)) == stay
    assert stay == -(-(1 - Fraction(alpha)) * count // 1)


@pytest.mark.parametrize("options", [
    {"alpha": 1.0}, {"alpha": -0.1}, {"first": 0}, {"chunk": 0}, {"first": 2, "chunk": 2},
])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(OptionError):
        law_of(SHORT, rejection(SHORT, n=2, **options))


def twin(*, cut_first=False, forget=False, count=lambda n: -(-n // 2), finalists=list):
    """Speculative Rejection with chunk 1 and alpha 0.5, whole or broken in one way."""

    def search(prompt):
        alive = yield Fork(prompt, 3)
        ended = alive.of([])
        scores = [0.0] * 3
        while alive.unfinished:
            if not cut_first:
                yield Extend(alive.unfinished, tokens=1)
            scores = yield Score(alive, SHORT.reward)
            alive, lost = alive.split_top(scores, count(len(alive)))
            if cut_first:
                yield Extend(alive.unfinished, tokens=1)
                yield Score(alive, SHORT.reward)
            ended += [one for one in alive.finished if one not in ended]
            yield Drop([one for one in lost if one not in ended])
            if forget:
                ended = alive.finished
        return ended.of(finalists(ended)).best() if finalists is list else finalists(ended)

    return search


def first_of_the_best(ended):
    return max(ended, key=lambda one: one.score)


@pytest.mark.parametrize("search", [
    twin(cut_first=True),  # cut before anything is scored
    twin(forget=True),  # finished candidates are forgotten when a later cut drops them
    twin(count=lambda n: max(1, n // 2)),  # floor for ceil
    twin(count=lambda n: n),  # never drops
    twin(finalists=first_of_the_best),  # ties to the first that finished, so to the short
])
def test_the_check_catches_a_broken_speculative_rejection(search):
    stated = brute_force(SHORT, 3, Fraction("0.5"), chunk=1)
    law = law_of(SHORT, search)
    with pytest.raises(AssertionError):
        check_law(law, stated)


def test_the_unbroken_twin_passes():
    check_law(law_of(SHORT, twin()), brute_force(SHORT, 3, Fraction("0.5"), chunk=1))


def test_memory_holds_while_it_can():
    """Live answer tokens stay within n * first while every cut drops somebody."""
    case, peak = Case(seed=21, longest=8, zeros=0.0), []
    case.model.decoder.table = lambda prefix: [0.5, 0.5, 0.0]

    def watched(prompt):
        search, reply = speculative_rejection(prompt, reward=case.reward, n=8, alpha=0.5, first=2), None
        alive = {}
        while True:
            try:
                command = search.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = yield command
            if isinstance(command, Fork):
                alive = {one.id: one for one in reply}
            if isinstance(command, Drop):
                alive = {name: one for name, one in alive.items() if one not in command.sequences}
            peak.append(sum(len(one.tokens) for one in alive.values()))

    Engine(case.model, capacity=100, block_size=2).result(PROMPT, watched, SamplingParams(max_tokens=8))
    assert max(peak) == 16
