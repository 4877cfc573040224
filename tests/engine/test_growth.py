"""How an answer ends: a model that always spells the same word shows where. What rows are drawn from."""

import pytest
import torch

from ramify.engine import Engine, Extend, Fork, growth
from ramify.engine.sequence import Prompt
from ramify.exact import tabular_model
from ramify.sampling.transforms import probabilities
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


@pytest.mark.parametrize(("options", "passes"), [
    ([{}, {}, {}], 1), ([{}, {"temperature": 0.5}, {}], 2),
    ([{"repetition_penalty": 1.1}] * 2, 2), ([{"logit_bias": {1: 2.0}}, {"logit_bias": {1: 3.0}}], 2)], ids=str)
def test_rows_whose_options_do_the_same_are_transformed_together(options, passes, monkeypatch):
    """Each row is what it is alone; one pass for every kind of options."""
    calls = []
    monkeypatch.setattr(growth, "probabilities", lambda *args: calls.append(1) or probabilities(*args))
    prompts = [Prompt([1, 2], "", SamplingParams(**each), None, None, 0) for each in options]
    logits_RV, answers = torch.randn(len(options), 5, generator=torch.Generator().manual_seed(0)), [[1], [2, 2], [3]]
    together = growth.distributions(prompts, logits_RV, lambda row: answers[row])
    assert len(calls) == passes
    for row, prompt in enumerate(prompts):
        [alone] = probabilities(logits_RV[row : row + 1], prompt.params, [answers[row]], prompt.ids)
        torch.testing.assert_close(together[row], alone)
