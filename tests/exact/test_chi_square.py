"""The chi-square helper against known quantiles, and a real random Llama whose engine must pass it."""

import math

import pytest
import torch

from ramify.engine import Engine
from ramify.exact import chi_square
from ramify.models import DenseAttention, Model, parse_config
from ramify.models.decoder import Decoder
from ramify.sampling.draws import Key, KeyedDraws, uniform
from ramify.sampling.transforms import probabilities
from ramify.search import sample
from ramify.types import SamplingParams


# 95 % and 99 % quantiles of chi-square, from tables.
@pytest.mark.parametrize(("freedom", "statistic", "p"), [
    (1, 3.841458821, 0.05), (1, 6.634896601, 0.01), (2, 5.991464547, 0.05), (5, 11.07049769, 0.05),
    (9, 21.66599433, 0.01),
])
def test_p_values_are_those_of_the_tables(freedom, statistic, p):
    """Counts built to have exactly this statistic: two cells off by d, d and -d."""
    cells, each = freedom + 1, 1000
    off = math.sqrt(statistic * each / 2)
    counts = {0: each + off, 1: each - off, **dict.fromkeys(range(2, cells), each)}
    assert chi_square(counts, dict.fromkeys(range(cells), 1 / cells)) == pytest.approx(p, rel=1e-6)


def test_a_perfect_fit_has_p_value_one():
    assert chi_square({0: 30, 1: 70}, {0: 0.3, 1: 0.7}) == pytest.approx(1.0)


def test_an_impossible_outcome_has_p_value_zero():
    assert chi_square({0: 30, 1: 69, 2: 1}, {0: 0.3, 1: 0.7}) == 0.0
    assert chi_square({0: 30, 1: 69, 2: 1}, {0: 0.3, 1: 0.7, 2: 0.0}) == 0.0


def test_rare_outcomes_are_pooled():
    law = {0: 0.5, 1: 0.5 - 1e-3, **dict.fromkeys(range(2, 12), 1e-4)}
    # Expected 0.1 each: apart, one hit would look like a miracle; together they expect 1.
    assert chi_square({0: 500, 1: 499, 2: 1}, law) > 0.5
    assert chi_square({0: 500, 1: 480, 2: 20}, law) < 1e-9


def test_one_cell_proves_nothing():
    assert chi_square({0: 10}, {0: 1.0}) == 1.0


def test_p_values_of_true_draws_are_uniform():
    law = {at: (at + 1) / 10 for at in range(4)}
    weights, tens = torch.tensor(list(law.values())), dict.fromkeys(range(10), 0)
    for trial in range(300):
        picks = KeyedDraws().categorical(weights.repeat(400, 1), [Key(trial, at) for at in range(400)])
        tens[min(9, int(10 * chi_square({at: picks.count(at) for at in law}, law)))] += 1
    assert chi_square(tens, dict.fromkeys(range(10), 0.1)) > 1e-3


VOCABULARY = 12
CONFIG = {"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
          "tie_word_embeddings": True}
PROMPT = "3 1 4 1 5"


class Digits:
    """Ids written as numbers; id 0 ends an answer."""

    fingerprint, eos_ids, closing_ids, template = "digits", (0,), [0], None

    def encode_prompt(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


def random_llama(tmp_path):
    torch.manual_seed(4)
    config = parse_config(CONFIG)
    decoder = Decoder(config).requires_grad_(False)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.6 if parameter.dim() > 1 else 1.0)
    return Model("random-llama", decoder, Digits(), None, tmp_path)


def two_token_law(model, params):
    """Exact: one dense forward per prefix, without the engine."""
    prompt, law = model.tokenizer.encode_prompt(PROMPT), {}

    def row(ids):
        attend = DenseAttention(model.decoder.config, [len(ids)])
        hidden_TD = model.decoder(torch.tensor(ids), torch.arange(len(ids)), attend)
        return probabilities(model.decoder.logits(hidden_TD[-1:]), params)[0].tolist()

    for first, p in enumerate(row(prompt)):
        if first == 0:
            law[(0,)] = p
            continue
        for second, q in enumerate(row([*prompt, first])):
            law[first, second] = p * q
    return law


def test_a_real_llamas_samples_follow_its_law(tmp_path):
    model, params = random_llama(tmp_path), SamplingParams(max_tokens=2, temperature=1.3)
    law = two_token_law(model, params)
    assert sum(law.values()) == pytest.approx(1, abs=1e-5)

    def counts(draws=None):
        engine, seen = Engine(model, capacity=4000, block_size=4, draws=draws), {}
        for seed in range(6):
            for candidate in engine.result(PROMPT, lambda prompt: sample(prompt, n=500), params, seed=seed).candidates:
                seen[tuple(candidate.token_ids)] = seen.get(tuple(candidate.token_ids), 0) + 1
        return seen

    assert chi_square(counts(), law) > 1e-3
    assert chi_square(counts(Tilted()), law) < 1e-9
    assert chi_square(counts(), two_token_law(model, SamplingParams(max_tokens=2, temperature=1.0))) < 1e-9


class Tilted(KeyedDraws):
    """The broken twin: the square root of a uniform number leans towards late tokens."""

    def categorical(self, probs_RV, keys):
        cdf_RV = probs_RV.cumsum(-1)
        aims_R1 = torch.tensor([[uniform(key) ** 0.5] for key in keys]) * cdf_RV[:, -1:]
        return torch.searchsorted(cdf_RV, aims_R1)[:, 0].tolist()
