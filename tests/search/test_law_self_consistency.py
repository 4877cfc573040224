"""Self-consistency: the law of the vote, plain and weighted, against multinomial enumeration."""

from collections import defaultdict
from math import exp, factorial, prod

import pytest
from references import EOS, PROMPT, Case, check_law, vote

from ramify.engine import Extend, Fork, Score
from ramify.errors import OptionError
from ramify.exact import output_law
from ramify.search import self_consistency
from ramify.search.self_consistency import final_answer
from ramify.theory.voting import majority_law, weighted_shares

CASE = Case(seed=4, longest=2, zeros=0.0)


def last_letter(text):
    """The final answer of a letter text; none for an empty one, which does not vote."""
    return text[-1:] or None


def last_token(answer):
    return next((token for token in answer[::-1] if token != EOS), None)


def law_of(search):
    return output_law(CASE.model, PROMPT, search, max_tokens=CASE.longest)


def answers_of(law):
    """The law of the final answer."""
    told = defaultdict(float)
    for answer, p in law.items():
        told[last_token(answer)] += p
    return told


def multinomial_vote(shares, n):
    """P[answer wins] summed over all counts; `shares` maps answers to P, None being the texts that do not vote."""
    names, law = list(shares), defaultdict(float)

    def walk(at, left, counts):
        if at == len(names) - 1:
            counts = [*counts, left]
            p = factorial(n) * prod(shares[name] ** c / factorial(c) for name, c in zip(names, counts, strict=True))
            votes = {name: c for name, c in zip(names, counts, strict=True) if name is not None and c}
            winners = [name for name, c in votes.items() if c == max(votes.values())] or [None]
            for name in winners:
                law[name] += p / len(winners)
            return
        for count in range(left + 1):
            walk(at + 1, left - count, [*counts, count])

    walk(0, n, [])
    return law


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_plain_vote_has_its_law(n):
    law = law_of(lambda prompt: self_consistency(prompt, n=n, answer=last_letter))
    check_law(law, vote(CASE, n, last_token))
    check_law(answers_of(law), multinomial_vote(answers_of(CASE.policy()), n))


def test_texts_without_an_answer_do_not_vote():
    shares = answers_of(CASE.policy())
    assert 0 < shares[None] < 1
    law = answers_of(law_of(lambda prompt: self_consistency(prompt, n=2, answer=last_letter)))
    assert law[None] == pytest.approx(shares[None] ** 2, abs=1e-12)


def test_theory_agrees_where_everybody_votes():
    shares = {"x": 0.5, "y": 0.3, "z": 0.2}
    for n in (1, 2, 5):
        law = multinomial_vote(shares, n)
        assert [law[name] for name in shares] == pytest.approx(list(majority_law([0.5, 0.3, 0.2], n)))


@pytest.mark.parametrize(("n", "beta"), [(2, 0.7), (3, 2.0)])
def test_the_weighted_vote_has_its_law(n, beta):
    law = law_of(lambda prompt: self_consistency(prompt, n=n, reward=CASE.reward, beta=beta, answer=last_letter))
    check_law(law, vote(CASE, n, last_token, beta))


def test_a_huge_beta_is_the_plain_vote_and_a_tiny_one_follows_the_best_reward():
    weighted = law_of(lambda prompt: self_consistency(prompt, n=2, reward=CASE.reward, beta=1e15, answer=last_letter))
    check_law(weighted, vote(CASE, 2, last_token))
    greedy = law_of(lambda prompt: self_consistency(prompt, n=2, reward=CASE.reward, beta=1e-3, answer=last_letter))
    told = defaultdict(float)
    policy = CASE.policy()
    for left, p in policy.items():
        for right, q in policy.items():
            voters = [one for one in (left, right) if last_token(one) is not None]
            top = max((CASE.score(one) for one in voters), default=None)
            # The best reward's answer wins, however many share it; ties between answers are uniform.
            winners = {last_token(one) for one in voters if CASE.score(one) == top} or {None}
            for winner in winners:
                told[winner] += p * q / len(winners)
    assert answers_of(greedy) == pytest.approx(dict(told), abs=1e-9)


def test_the_weighted_vote_tends_to_the_tilts_answer():
    """The limit of card and docstring: shares of the weight are the answer's probability under the tilt."""
    beta, policy = 0.8, CASE.policy()
    tilt = {answer: p * exp(CASE.score(answer) / beta) for answer, p in policy.items()}
    marginal, shares = defaultdict(float), answers_of(policy)
    for answer, weight in tilt.items():
        marginal[last_token(answer)] += weight / sum(tilt.values())
    names = list(shares)
    means = [sum(tilt[a] for a in policy if last_token(a) == name) / shares[name] for name in names]
    assert list(weighted_shares([shares[name] for name in names], means)) == pytest.approx([marginal[n] for n in names])


def test_many_plain_votes_find_the_modal_answer():
    shares = {"modal": 0.6, "other": 0.4}
    few, many = (multinomial_vote(shares, n)["modal"] for n in (20, 100))
    assert 0.8 < few < many and many > 0.97


def weighted_by_hand(prompt, weigh):
    alive = yield Fork(prompt, 2)
    yield Extend(alive)
    scores = yield Score(alive, CASE.reward)
    votes, first = defaultdict(float), {}
    for one, score in zip(alive, scores, strict=True):
        if (key := last_letter(one.text)) is not None:
            votes[key] += weigh(score)
            first.setdefault(key, one)
    if not votes:
        return alive[0]
    winners = [key for key in votes if votes[key] == max(votes.values())]
    return first[winners[prompt.choose(len(winners)) if len(winners) > 1 else 0]]


@pytest.mark.parametrize("weigh", [
    lambda score: 1.0,  # weights forgotten
    lambda score: exp(-score),  # the wrong sign
])
def test_the_check_catches_broken_weights(weigh):
    stated = vote(CASE, 2, last_token, beta=1.0)
    check_law(law_of(lambda prompt: weighted_by_hand(prompt, exp)), stated)
    law = law_of(lambda prompt: weighted_by_hand(prompt, weigh))
    with pytest.raises(AssertionError):
        check_law(law, stated)


def first_key_wins(prompt):
    alive = yield Fork(prompt, 3)
    yield Extend(alive)
    return next((one for one in alive if last_letter(one.text) is not None), alive[0])


def nobody_abstains(prompt):
    """Texts without an answer vote for the empty one."""
    return self_consistency(prompt, n=3, answer=lambda text: text[-1:])


@pytest.mark.parametrize("search", [first_key_wins, nobody_abstains])
def test_the_check_catches_a_broken_vote(search):
    with pytest.raises(AssertionError):
        check_law(law_of(search), vote(CASE, 3, last_token))


@pytest.mark.parametrize(("text", "answer"), [
    ("so 3 + 4 = 7\n#### 7", "7"), ("#### 1,234\n", "1234"), ("\\boxed{12} or \\boxed{13}", "13"),
    ("it costs 5 or 6.5.", "6.5"), ("-3", "-3"), ("no number", None), ("", None),
    ("#### 2\n#### 3", "3"), ("12 then #### x", "x"),
])
def test_final_answers(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize("options", [
    {"beta": 0.0, "reward": CASE.reward}, {"beta": -1.0, "reward": CASE.reward}, {"beta": 1.0},
])
def test_weights_need_a_positive_beta_and_a_reward(options):
    with pytest.raises(OptionError):
        law_of(lambda prompt: self_consistency(prompt, n=2, **options))
