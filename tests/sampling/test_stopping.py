"""What ends an answer: the end token, stop strings, max_tokens; and what a later look may not remember."""

import pytest

from ramify.engine import Engine, Extend, Fork, Rewind, Score
from ramify.errors import OptionError
from ramify.exact import distance, output_law, tabular_model, tabular_reward
from ramify.rewards import FunctionReward, SequenceReward
from ramify.search import best_of_n, sample, treebon
from ramify.types import SamplingParams

EOS, START = 2, "ab"
MODEL = tabular_model(3, 9)


def text_of(answer):
    return "".join("ab"[token] for token in answer if token != EOS)


def reference_law(longest, stop=(), ignore_eos=False, table=MODEL.decoder.table):
    """Token by token: the end token, then stop strings, then the length end an answer."""
    law = {}

    def walk(answer, mass):
        stopped = any(word in text_of(answer) for word in stop)
        if stopped or len(answer) == longest or (answer[-1:] == (EOS,) and not ignore_eos):
            law[answer] = law.get(answer, 0.0) + mass
            return
        for token, p in enumerate(table((0, 1, *answer))):
            if p > 0:
                walk((*answer, token), mass * p)

    walk((), 1.0)
    return law


def engine_law(search=lambda prompt: sample(prompt), **sampling):
    return output_law(MODEL, START, search, **sampling)


@pytest.mark.parametrize("sampling", [
    {"max_tokens": 1}, {"max_tokens": 4}, {"max_tokens": 3, "ignore_eos": True},
    {"max_tokens": 4, "stop": ("ba",)}, {"max_tokens": 4, "stop": ("a",)}, {"max_tokens": 4, "stop": ("bb", "ab")},
    {"max_tokens": 3, "stop": ("aaaaaaaa",)}, {"max_tokens": 4, "stop": ("aa",), "ignore_eos": True},
])
def test_answers_end_where_they_should(sampling):
    stated = reference_law(sampling["max_tokens"], sampling.get("stop", ()), sampling.get("ignore_eos", False))
    assert distance(engine_law(**sampling), stated) < 1e-9


@pytest.mark.parametrize("wrong", [
    {"longest": 3, "stop": ("ba",)}, {"longest": 4}, {"longest": 4, "stop": ("ba",), "ignore_eos": True},
    {"longest": 4, "stop": ("ab",)},
])
def test_the_check_catches_a_wrong_end(wrong):
    assert distance(engine_law(max_tokens=4, stop=("ba",)), reference_law(**wrong)) > 1e-3


def test_a_stop_string_counts_across_a_fork():
    """The parent's last letter and the child's first spell it."""
    law = engine_law(lambda prompt: treebon(prompt, reward=FunctionReward(lambda prompt, answer: 0.0), n=1, children=1,
                                            layers=4, segment=1), max_tokens=4, stop=("ba",))
    assert distance(law, reference_law(4, ("ba",))) < 1e-9


def run(search, **sampling):
    engine = Engine(MODEL, capacity=200, block_size=2)
    return [engine.result(START, search, SamplingParams(**sampling), seed=seed) for seed in range(30)]


def test_the_stop_string_is_cut_from_the_text_and_the_result_says_stop():
    stopped = 0
    for result in run(lambda prompt: sample(prompt), max_tokens=6, stop=("ba", "abb")):
        [candidate] = result.candidates
        assert "ba" not in result.text and "abb" not in result.text
        whole = text_of(candidate.token_ids)
        if "ba" in whole or "abb" in whole:
            stopped += 1
            assert (result.finish_reason, candidate.state) == ("stop", "finished")
            assert result.text == whole[: min(at for word in ("ba", "abb") if (at := whole.find(word)) >= 0)]
        elif candidate.token_ids[-1] == EOS:
            assert (result.finish_reason, candidate.state, result.text) == ("stop", "finished", whole)
        else:
            assert (result.finish_reason, candidate.state, candidate.tokens) == ("length", "length", 6)
    assert 0 < stopped < 30


def test_the_end_token_wins_over_max_tokens_at_the_same_place():
    states = {(c.token_ids[-1] == EOS, c.state) for result in run(lambda prompt: sample(prompt), max_tokens=1)
              for c in result.candidates}
    assert states == {(True, "finished"), (False, "length")}


def test_rewards_see_the_text_before_the_stop_string():
    texts, prefixes = set(), set()
    watch = FunctionReward(lambda prompt, answer: float(texts.add(answer) is None))
    model = SequenceReward(tabular_reward(3, lambda prefix: float(prefixes.add(prefix) is None)))
    results = run(lambda prompt: best_of_n(prompt, reward=watch, n=2), max_tokens=5, stop=("ba",))
    run(lambda prompt: best_of_n(prompt, reward=model, n=2), max_tokens=5, stop=("ba",))
    assert texts == {c.text for result in results for c in result.candidates}
    assert prefixes == {(0, 1, *("ab".index(letter) for letter in text), EOS) for text in texts}


def test_an_empty_stop_string_is_refused():
    with pytest.raises(OptionError, match="not empty"):
        SamplingParams(stop=("a", ""))


def rewinding(prompt):
    """Read the text, cut it back, grow it anew."""
    [one] = yield Fork(prompt, 1)
    yield Extend([one], tokens=2)
    if one.tokens == [EOS]:
        return one
    text, tokens = one.text, list(one.tokens)
    yield Rewind([one], 1)
    assert (one.live, one.text, one.tokens) == (True, text[:1], tokens[:1])
    yield Extend([one], tokens=1)
    assert one.text == text_of(one.tokens)
    return one


def test_a_rewound_candidate_forgets_its_text():
    tokens = {tuple(result.candidates[0].token_ids) for result in run(rewinding, max_tokens=3)}
    assert len(tokens) > 3


def rewound(length):
    def search(prompt):
        [one] = yield Fork(prompt, 1)
        yield Extend([one])
        yield Rewind([one], length)
        yield Extend([one])
        return one

    return search


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_suffix_drawn_again_leaves_the_policy(length):
    """Rewinding draws the rest afresh under new keys, so the law is the policy's."""
    assert distance(engine_law(rewound(length), max_tokens=3), reference_law(3)) < 1e-9


def test_scores_after_a_rewind_are_those_of_the_new_text():
    def spelt(prefix):
        return float(sum(3**at * token for at, token in enumerate(prefix)))

    reward = SequenceReward(tabular_reward(3, spelt))

    def search(prompt):
        alive = yield Fork(prompt, 2)
        yield Extend(alive, tokens=3)
        yield Score(alive, reward)
        yield Rewind(alive, 1)
        yield Extend(alive, tokens=2)
        yield Score(alive, reward)
        return alive.best()

    for result in run(search, max_tokens=4):
        for candidate in result.candidates:
            closed = (0, 1, *candidate.token_ids, *(() if candidate.token_ids[-1] == EOS else (EOS,)))
            assert candidate.scores[-1][1] == spelt(closed)
            assert all(at <= len(candidate.token_ids) for at, _ in candidate.scores)
