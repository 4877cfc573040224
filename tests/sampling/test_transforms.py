"""Logits to probabilities: against transformers where it has the same transform, by hand where it has not."""

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ramify.exact import enumerate_law, policy_law, tabular_model
from ramify.sampling.draws import Key
from ramify.sampling.transforms import probabilities
from ramify.types import SamplingParams

VOCABULARY = 50
torch.manual_seed(0)
LOGITS_RV = 3 * torch.randn(8, VOCABULARY, dtype=torch.float64)
PROMPT, ANSWERS = [1, 2, 3, 3], [[4 + row, 4 + row, 20, 3] for row in range(8)]
SEEN = torch.tensor([PROMPT + answer for answer in ANSWERS])


def theirs(*processors, logits=LOGITS_RV):
    scores = logits.clone()
    for processor in processors:
        scores = processor(SEEN, scores)
    return scores.softmax(-1)


def ours(**sampling):
    return probabilities(LOGITS_RV, SamplingParams(**sampling), ANSWERS, PROMPT)


@pytest.mark.parametrize(("sampling", "processors"), [
    ({"temperature": 0.7}, [TemperatureLogitsWarper(0.7)]),
    ({"temperature": 3.0}, [TemperatureLogitsWarper(3.0)]),
    ({"top_k": 5}, [TopKLogitsWarper(5)]),
    ({"top_k": 1}, [TopKLogitsWarper(1)]),
    ({"top_k": 500}, [TopKLogitsWarper(500)]),
    ({"top_p": 0.8}, [TopPLogitsWarper(0.8)]),
    ({"top_p": 0.05}, [TopPLogitsWarper(0.05)]),
    ({"min_p": 0.1}, [MinPLogitsWarper(0.1)]),
    ({"min_p": 1.0}, [MinPLogitsWarper(1.0)]),
    ({"repetition_penalty": 1.3}, [RepetitionPenaltyLogitsProcessor(1.3)]),
    ({"repetition_penalty": 0.8}, [RepetitionPenaltyLogitsProcessor(0.8)]),
    ({"logit_bias": {3: 2.5, 7: -1.0}}, [SequenceBiasLogitsProcessor({(3,): 2.5, (7,): -1.0})]),
    # The order: bias, penalties, temperature, top-k, top-p, min-p, each judged on what the one before left.
    ({"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
     [TemperatureLogitsWarper(0.8), TopKLogitsWarper(12), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)]),
    ({"logit_bias": {3: 2.5}, "repetition_penalty": 1.5, "temperature": 1.4, "top_p": 0.7},
     [SequenceBiasLogitsProcessor({(3,): 2.5}), RepetitionPenaltyLogitsProcessor(1.5), TemperatureLogitsWarper(1.4),
      TopPLogitsWarper(0.7)]),
])
def test_equal_to_transformers(sampling, processors):
    torch.testing.assert_close(ours(**sampling), theirs(*processors), rtol=0, atol=1e-12)


@pytest.mark.parametrize("processors", [
    [TopPLogitsWarper(0.9), TopKLogitsWarper(12), TemperatureLogitsWarper(0.8)],  # the order turned round
    [TemperatureLogitsWarper(0.8), TopKLogitsWarper(12), TopPLogitsWarper(0.8)],
])
def test_the_comparison_catches_a_wrong_order_or_value(processors):
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours(temperature=0.8, top_k=12, top_p=0.9), theirs(*processors), rtol=0, atol=1e-12)


def test_nothing_asked_is_the_softmax():
    torch.testing.assert_close(ours(), LOGITS_RV.softmax(-1), rtol=0, atol=0)


@pytest.mark.parametrize("sampling", [
    {}, {"temperature": 0.3}, {"temperature": 0}, {"top_k": 3, "top_p": 0.5, "min_p": 0.3}, {"frequency_penalty": 2.0},
])
def test_rows_sum_to_one_and_do_not_know_their_neighbours(sampling):
    probs_RV = ours(**sampling)
    torch.testing.assert_close(probs_RV.sum(-1), torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-12)
    for row in range(8):
        alone = probabilities(LOGITS_RV[row : row + 1], SamplingParams(**sampling), ANSWERS[row : row + 1], PROMPT)
        torch.testing.assert_close(alone[0], probs_RV[row], rtol=0, atol=0)


def test_the_input_is_untouched():
    before = LOGITS_RV.clone()
    ours(logit_bias={1: 3.0}, repetition_penalty=2.0, temperature=0.5, top_p=0.5, min_p=0.1)
    assert torch.equal(LOGITS_RV, before)


def test_temperature_zero_takes_the_first_of_the_most_likely():
    logits = torch.tensor([[1.0, 5.0, 5.0, 2.0]])
    assert probabilities(logits, SamplingParams(temperature=0)).tolist() == [[0, 1, 0, 0]]
    biased = SamplingParams(temperature=0, logit_bias={3: 10.0})
    assert probabilities(logits, biased).tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_a_tiny_temperature_tends_to_greedy_and_not_to_nan(temperature):
    probs = probabilities(torch.tensor([[1.0, 30.0, 29.0, float("-inf")]]), SamplingParams(temperature=temperature))
    assert probs.tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_a_huge_temperature_tends_to_uniform_over_what_is_possible():
    probs = probabilities(torch.tensor([[1.0, 30.0, float("-inf")]]), SamplingParams(temperature=1e6))
    torch.testing.assert_close(probs, torch.tensor([[0.5, 0.5, 0.0]]), rtol=0, atol=1e-4)


def test_presence_counts_once_and_frequency_every_time():
    logits, answers = torch.zeros(1, 4), [[2, 2, 3]]
    presence = probabilities(logits, SamplingParams(presence_penalty=1.0), answers, [0])
    frequency = probabilities(logits, SamplingParams(frequency_penalty=1.0), answers, [0])
    torch.testing.assert_close(presence.log() - presence[0, 0].log(), torch.tensor([[0.0, 0.0, -1.0, -1.0]]))
    torch.testing.assert_close(frequency.log() - frequency[0, 0].log(), torch.tensor([[0.0, 0.0, -2.0, -1.0]]))


def test_a_bias_of_minus_infinity_forbids():
    probs = probabilities(LOGITS_RV, SamplingParams(logit_bias={5: float("-inf")}))
    assert (probs[:, 5] == 0).all()
    assert probs.isfinite().all()


def test_top_p_keeps_the_smallest_set_with_at_least_its_mass():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    for top_p, kept in ((0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)):
        assert (probabilities(logits, SamplingParams(top_p=top_p)) > 0).sum() == kept, top_p


def test_top_p_keeps_one_of_equals_in_token_order():
    assert (probabilities(torch.zeros(1, 4), SamplingParams(top_p=0.5)) > 0).tolist() == [[True, True, False, False]]


# Laws of whole answers on tables: an independent reference in plain Python.

MODEL, START, LONGEST = tabular_model(4, 5, zeros=0.2), "ab", 3


def nucleus(row, top_p):
    kept, mass = [], 0.0
    for token in sorted(range(len(row)), key=lambda token: -row[token]):
        if mass >= top_p:
            break
        kept.append(token)
        mass += row[token]
    return [p if token in kept else 0.0 for token, p in enumerate(row)]


def above(row, min_p):
    return [p if p >= min_p * max(row) else 0.0 for p in row]


def heated(row, temperature):
    return [p ** (1 / temperature) for p in row]


def without_repeats(row, prefix, factor):
    """Repetition penalty on log-probabilities, which are never positive."""
    return [p**factor if token in prefix else p for token, p in enumerate(row)]


def reference_law(change):
    law = {}

    def walk(answer, mass):
        if len(answer) == LONGEST or answer[-1:] == (3,):
            law[answer] = mass
            return
        row = change([float(p) for p in MODEL.decoder.table((0, 1, *answer))], (0, 1, *answer))
        for token, p in enumerate(row):
            if p > 0:
                walk((*answer, token), mass * p / sum(row))

    walk((), 1.0)
    return law


def engine_law(**sampling):
    from ramify.exact import output_law
    from ramify.search import sample

    return output_law(MODEL, START, lambda prompt: sample(prompt), max_tokens=LONGEST, **sampling)


@pytest.mark.parametrize(("sampling", "change"), [
    ({"top_p": 0.7}, lambda row, prefix: nucleus(row, 0.7)),
    ({"min_p": 0.4}, lambda row, prefix: above(row, 0.4)),
    ({"temperature": 2.0, "top_p": 0.8, "min_p": 0.3},
     lambda row, prefix: above(nucleus([p / sum(heated(row, 2.0)) for p in heated(row, 2.0)], 0.8), 0.3)),
    ({"repetition_penalty": 2.0}, lambda row, prefix: without_repeats(row, prefix, 2.0)),
    ({"top_k": 1}, lambda row, prefix: [float(p == max(row)) for p in row]),
    ({"temperature": 0}, lambda row, prefix: [float(p == max(row)) for p in row]),
    ({"ignore_eos": False, "logit_bias": {0: float("-inf")}}, lambda row, prefix: [0.0, *row[1:]]),
])
def test_laws_of_answers_under_sampling_options(sampling, change):
    stated = reference_law(change)
    assert policy_law(MODEL, START, max_tokens=LONGEST, **sampling) == pytest.approx(stated, abs=1e-9)
    assert engine_law(**sampling) == pytest.approx(stated, abs=1e-9)


@pytest.mark.parametrize("change", [
    lambda row, prefix: row,  # the option forgotten
    lambda row, prefix: [p if p < 0.5 or p == max(row) else 0.0 for p in row],
    lambda row, prefix: nucleus(nucleus(row, 0.7), 0.35),  # applied twice, the second time on what is not renormalised
])
def test_the_check_catches_a_broken_top_p(change):
    with pytest.raises(AssertionError):
        assert engine_law(top_p=0.7) == pytest.approx(reference_law(change), abs=1e-9)


def test_one_draw_per_row_of_what_is_left():
    probs_RV = probabilities(torch.tensor([[0.5, 0.3, 0.2]]).log(), SamplingParams(top_k=2))
    law = enumerate_law(lambda source: source.categorical(probs_RV, [Key(0, 0)])[0])
    assert law == pytest.approx({0: 0.625, 1: 0.375}, abs=1e-6)
