"""How an answer ends: a model that always spells the same word shows where."""

import pytest

from ramify.engine import Engine, Extend, Fork
from ramify.exact import tabular_model
from ramify.types import SamplingParams

WORD = "abcabcdab"


def speller(prefix):
    """After a prompt of one letter, spell the word, then end."""
    ids = ["abcdefg".index(letter) for letter in WORD] + [7] * 9
    return [float(token == ids[len(prefix) - 1]) for token in range(8)]


def spell(tokens=None, **params):
    def search(prompt):
        group = yield Fork(prompt, 2)
        yield Extend(group, tokens=tokens)
        while tokens and group.unfinished:
            yield Extend(group, tokens=tokens)
        return group[1]

    engine = Engine(tabular_model(8, table=speller), capacity=64, block_size=4, step_tokens=8)
    result = engine.result("g", search, SamplingParams(**{"max_tokens": 12, **params}))
    return result.text, result.finish_reason, result.candidates[1].tokens


@pytest.mark.parametrize("tokens", [None, 1, 2, 4])
@pytest.mark.parametrize(("params", "want"), [
    ({}, (WORD, "stop", 10)),
    ({"max_tokens": 9}, (WORD, "length", 9)),
    ({"max_tokens": 10}, (WORD, "stop", 10)),
    ({"max_tokens": 1}, ("a", "length", 1)),
    ({"max_tokens": 12, "ignore_eos": True}, (WORD, "length", 12)),
    ({"stop": ("cab",)}, ("ab", "stop", 5)),
    ({"stop": ("bcd", "ca")}, ("ab", "stop", 4)),
    ({"stop": ("cabcd", "da")}, ("ab", "stop", 7)),
    ({"stop": ("d", "bcd")}, ("abca", "stop", 7)),
    ({"stop": ("a",)}, ("", "stop", 1)),
    ({"stop": ("x", "abb")}, (WORD, "stop", 10)),
    ({"stop": ("ab",), "max_tokens": 2}, ("", "stop", 2)),
])  # fmt: skip
def test_an_answer_ends_at_the_same_place_however_it_is_grown(params, want, tokens):
    assert spell(tokens, **params) == want


def test_a_speller_that_runs_on_is_caught(monkeypatch):
    monkeypatch.setattr("ramify.engine.growth._find_stop", lambda sequence, stop: None)
    assert spell(stop=("cab",)) == (WORD, "stop", 10)


def test_no_tokens_means_none():
    def search(prompt):
        [candidate] = yield Fork(prompt, 1)
        yield Extend([candidate], tokens=0)
        assert candidate.tokens == [] and candidate.live
        yield Extend([])
        yield Extend([candidate], tokens=3)
        return candidate

    engine = Engine(tabular_model(8, table=speller), capacity=64)
    assert engine.result("g", search, SamplingParams(max_tokens=12)).text == WORD[:3]
