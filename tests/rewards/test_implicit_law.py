"""The implicit reward against the soft value identity, through real Peeks on the engine.

With policy = the tilt p exp(r / beta) / Z as a language model and reference = p, the plain sum of
beta * log-ratios over a prefix s is V_beta(s) - beta log Z, V_beta(s) = beta log E_p[exp(r / beta) | s].
"""

from functools import cache
from math import exp, log

import pytest

from ramify.engine import Engine, Extend, Fork, Peek, Rewind, Score
from ramify.errors import ModelError, RewardError
from ramify.exact import policy_law, tabular_model
from ramify.rewards import ImplicitReward
from ramify.sampling.draws import mix
from ramify.search import treebon
from ramify.types import SamplingParams

BETA, LONGEST, EOS, START = 0.7, 4, 2, "ab"
BASE = tabular_model(3, 21)


def reward(answer):
    return float(mix(99, *answer) % 4)


@cache
def mass(answer):
    """E_p[exp(r / beta) | the answer begins like this]."""
    if len(answer) == LONGEST or answer[-1:] == (EOS,):
        return exp(reward(answer) / BETA)
    return sum(p * mass((*answer, token)) for token, p in enumerate(row(answer)))


def row(answer):
    return BASE.decoder.table((0, 1, *answer))


def tilted_row(prefix):
    """The tilt's next-token distribution; any will do after the answer's end."""
    answer = prefix[2:]
    if len(answer) == LONGEST:
        return [1 / 3] * 3
    weights = [p * mass((*answer, token)) for token, p in enumerate(row(answer))]
    return [weight / sum(weights) for weight in weights]


def soft_value(answer):
    return BETA * log(mass(answer))


TILT = tabular_model(3, table=tilted_row)
SUM = ImplicitReward(TILT, BASE, "sum", BETA)
DECAY = ImplicitReward(TILT, BASE, "decay")


def scores_of(scorer, seeds=range(20), search=None):
    """{prefix: score} for prefixes met while answers grow token by token."""
    found = {}

    def growing(prompt):
        alive = yield Fork(prompt, 3)
        while alive.unfinished:
            yield Extend(alive.unfinished, tokens=1)
            scores = yield Score(alive, scorer)
            found.update({tuple(one.tokens): score for one, score in zip(alive, scores, strict=True)})
        return alive.best()

    engine = Engine(BASE, capacity=400, block_size=2)
    for seed in seeds:
        engine.result(START, search or growing, SamplingParams(max_tokens=LONGEST), seed=seed)
    return found


def check_soft_value(scores):
    constant = BETA * log(mass(()))
    assert {prefix: score + constant for prefix, score in scores.items()} == \
        pytest.approx({prefix: soft_value(prefix) for prefix in scores}, abs=1e-9)


def test_the_tilt_is_the_law_that_the_identity_speaks_of():
    policy = policy_law(BASE, START, max_tokens=LONGEST)
    stated = {answer: p * exp(reward(answer) / BETA) / mass(()) for answer, p in policy.items()}
    assert policy_law(TILT, START, max_tokens=LONGEST) == pytest.approx(stated, abs=1e-12)


def test_the_plain_sum_is_the_soft_value_of_every_prefix():
    scores = scores_of(SUM)
    assert len(scores) > 15 and {len(prefix) for prefix in scores} == {1, 2, 3, 4}
    check_soft_value(scores)


def test_finished_answers_rank_by_reward():
    """beta * log-ratio = r - beta log Z on whole answers."""
    constant = BETA * log(mass(()))
    whole = {prefix: score for prefix, score in scores_of(SUM).items() if len(prefix) == LONGEST or prefix[-1] == EOS}
    assert {prefix: score + constant for prefix, score in whole.items()} == \
        pytest.approx({prefix: reward(prefix) for prefix in whole}, abs=1e-9)


def log_ratios(prefix):
    return [log(tilted_row((0, 1, *prefix[:at]))[token] / row(prefix[:at])[token]) for at, token in enumerate(prefix)]


def test_decaying_weights_are_one_over_k_plus_one():
    scores = scores_of(DECAY)
    stated = {prefix: sum(ratio / (k + 1) for k, ratio in enumerate(log_ratios(prefix))) for prefix in scores}
    assert scores == pytest.approx(stated, abs=1e-9)


class MeanRatio(ImplicitReward):
    def combine(self, tuned, plain):
        return super().combine(tuned, plain) / max(1, len(tuned))


class Unshifted(ImplicitReward):
    """Log-probabilities taken one position too late: of the token itself under what follows it."""

    def combine(self, tuned, plain):
        return super().combine(tuned[1:], plain[1:])


class Swapped(ImplicitReward):
    def combine(self, tuned, plain):
        return super().combine(plain, tuned)


@pytest.mark.parametrize("broken", [
    DECAY,  # the card asks for this: with weights 1/(k+1) the identity must fail
    *(kind(TILT, BASE, "sum", BETA) for kind in (MeanRatio, Unshifted, Swapped)),
    ImplicitReward(TILT, BASE, "sum", 1.0),  # the wrong beta
    ImplicitReward(tabular_model(3, 22), BASE, "sum", BETA),  # a policy that is not the tilt
])
def test_the_check_catches_a_score_that_is_no_soft_value(broken):
    scores = scores_of(broken, seeds=range(4))
    with pytest.raises(AssertionError):
        check_soft_value(scores)


def test_a_perfect_guide_keeps_the_soft_value_through_forks():
    """TreeBoN forks candidates with their scorers' caches: later scores are soft values all the same."""
    found = {}

    class Watched(ImplicitReward):
        def score(self, sequences):
            scores = yield from super().score(sequences)
            found.update({tuple(one.tokens): score for one, score in zip(sequences, scores, strict=True)})
            return scores

    guide = Watched(TILT, BASE, "sum", BETA)
    scores_of(None, search=lambda prompt: treebon(prompt, reward=guide, n=4, layers=3, children=2, segment=1))
    assert len(found) > 15
    check_soft_value(found)


def test_scores_after_a_rewind_are_soft_values():
    found = {}

    def search(prompt):
        alive = yield Fork(prompt, 2)
        yield Extend(alive)
        yield Score(alive, SUM)
        for length in (2, 0, 1):
            yield Rewind(alive, length)
            yield Extend(alive, tokens=2)
            scores = yield Score(alive, SUM)
            found.update({tuple(one.tokens): score for one, score in zip(alive, scores, strict=True)})
        return alive[0]

    scores_of(None, search=search)
    assert len(found) > 10
    check_soft_value(found)


def test_each_token_is_read_once_per_model():
    def search(prompt):
        [one] = yield Fork(prompt, 1)
        for _ in range(3):
            yield Extend([one], tokens=1)
            yield Score([one], SUM)
        return one

    table = tabular_model(3, table=lambda prefix: [0.5, 0.5, 0.0])
    usage = Engine(table, capacity=100, block_size=2).result(START, search, SamplingParams(max_tokens=3)).usage
    # Two prompt tokens and two of three answer tokens: what follows the last is nobody's business.
    assert (usage.reward.tokens, usage.reference.tokens) == (4, 4)


def test_models_whose_tokens_mean_something_else_are_refused():
    other = tabular_model(3, 5)
    other.tokenizer.fingerprint = "runes"
    with pytest.raises(ModelError, match="one tokenizer"):
        ImplicitReward(other, BASE)
    with pytest.raises(ModelError, match="tokenizer of tabular"):
        scores_of(ImplicitReward(other, other), seeds=[0])


def test_a_ratio_that_is_not_finite_is_an_error():
    """The policy rules out what the target says."""
    narrow = tabular_model(3, table=lambda prefix: [0.0, 0.0, 1.0])
    with pytest.raises(RewardError, match="finite"):
        scores_of(ImplicitReward(narrow, BASE), seeds=range(5))


def test_the_targets_own_log_probabilities_are_those_of_the_table():
    """Before temperature and truncation, whatever was sampled from."""

    def search(prompt):
        alive = yield Fork(prompt, 2)
        yield Extend(alive, tokens=1)
        alive = yield Fork(alive, 2)
        yield Extend(alive)
        for one, logprobs in zip(alive, (yield Peek(alive, None, "target")), strict=True):
            stated = [log(row(tuple(one.tokens[:at]))[token]) for at, token in enumerate(one.tokens)]
            assert logprobs == pytest.approx(stated, abs=1e-9)
        return alive[0]

    params = SamplingParams(max_tokens=4, temperature=0.5, top_k=2)
    for seed in range(5):
        Engine(BASE, capacity=100).result(START, search, params, seed=seed)
