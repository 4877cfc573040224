"""Tabular models on the real engine: the prefix arrives through the paged cache, and a broken cache shows."""

import functools

import pytest
import torch

from ramify.cache import BlockTable, KVStore
from ramify.engine import Engine
from ramify.engine.padded import PaddedAttention
from ramify.exact import distance, output_law, policy_law, tabular_model, tabular_reward
from ramify.exact.tabular import TabularDecoder, random_table
from ramify.rewards import SequenceReward
from ramify.search import best_of_n, sample, treebon
from ramify.types import SamplingParams

MODEL, START = tabular_model(3, 27, zeros=0.2), "ab"
REWARD = SequenceReward(tabular_reward(3, lambda prefix: float(sum(prefix) % 3)))


def tree_law(block_size):
    """The law of a small tree, with the prompt's block shared or not."""
    search = functools.partial(treebon, reward=REWARD, n=2, layers=2, children=2, segment=1)
    return output_law(MODEL, START, search, engine=Engine(MODEL, capacity=300, block_size=block_size), max_tokens=2,
                      width=4)


@pytest.mark.parametrize("vocabulary", [2, 3, 6])
def test_every_prefix_is_a_number_and_back(vocabulary):
    decoder = TabularDecoder(vocabulary, random_table(vocabulary, 0))
    for prefix in ((), (0,), (vocabulary - 1,) * 5, (0, 1, 0, 1, 1)):
        code = sum((token + 1) * decoder.base**at for at, token in enumerate(prefix))
        assert decoder.prefix(code) == prefix


@pytest.mark.parametrize("vocabulary", [3, 6])
def test_the_longest_prefix_survives_the_attention(vocabulary):
    """17 positions: the number is exact in float64, and the reward model hears every token of it."""
    heard = []
    model = tabular_model(vocabulary, table=lambda prefix: [1.0, 1.0] + [0.0] * (vocabulary - 2))
    reward = SequenceReward(tabular_reward(vocabulary, lambda prefix: float(heard.append(prefix) or 0)))
    result = Engine(model, capacity=200, block_size=4).result(
        "abba", lambda prompt: best_of_n(prompt, reward=reward, n=4), SamplingParams(max_tokens=12))
    assert sorted(heard) == sorted((0, 1, 1, 0, *c.token_ids, vocabulary - 1) for c in result.candidates)


def test_the_letters_of_a_vocabulary():
    tokenizer = MODEL.tokenizer
    assert tokenizer.encode("aba") == [0, 1, 0] and tokenizer.decode([0, 2, 1]) == "ab"
    assert tokenizer.eos_ids == (2,) and tokenizer.closing_ids == [2]


def test_logits_are_logs_of_the_table():
    row = MODEL.decoder.table((0, 1))
    code = torch.tensor([[float(1 + 2 * 4)]], dtype=torch.float64)
    torch.testing.assert_close(MODEL.decoder.logits(code)[0].exp(), torch.tensor(row, dtype=torch.float64))


def no_copy(monkeypatch):
    """Copy on write forgets to copy."""
    monkeypatch.setattr(KVStore, "copy", lambda self, pairs: None)


def shared_write(monkeypatch):
    """A fork writes into its parent's block."""
    monkeypatch.setattr(BlockTable, "_shared_tail", lambda self: False)


def sees_ahead(monkeypatch):
    """The mask lets a token see the rest of its block."""
    mask = PaddedAttention._mask
    monkeypatch.setattr(PaddedAttention, "_mask", lambda self, *args: torch.ones_like(mask(self, *args)))


def lost_rewind(monkeypatch):
    """Positions are numbered one too high."""
    from ramify.engine import runner

    flatten = runner.flatten
    monkeypatch.setattr(runner, "flatten", lambda rows: (lambda ids, at: (ids, at + (at > 2)))(*flatten(rows)))


@pytest.mark.parametrize("breakage", [no_copy, shared_write, sees_ahead, lost_rewind])
def test_a_broken_cache_shows_in_the_law(breakage, monkeypatch):
    stated = tree_law(block_size=1)
    breakage(monkeypatch)
    try:
        assert distance(tree_law(block_size=4), stated) > 1e-3
    except (AssertionError, ValueError) as error:  # a path that does not repeat itself; a number that is no prefix
        assert "same path" in str(error) or isinstance(error, ValueError)


def test_the_unbroken_cache_leaves_the_law():
    assert distance(tree_law(block_size=4), tree_law(block_size=1)) < 1e-12


def test_a_table_of_ones_own():
    model = tabular_model(2, table=lambda prefix: [0.25, 0.75])
    stated = {(1,): 0.75, (0, 1): 0.1875, (0, 0): 0.0625}
    assert distance(policy_law(model, "a", max_tokens=2), stated) < 1e-12
    assert distance(output_law(model, "a", sample, max_tokens=2), stated) < 1e-12
