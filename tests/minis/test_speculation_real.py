"""Speculation with the embedded models: greedy text, sampled law and the accuracy of searches stay what they are."""

from collections import Counter
from functools import cache

import pytest
import torch

import ramify
from ramify.exact import chi_square
from ramify.minis.problems import is_correct, problems
from ramify.models import DenseAttention, load_model
from ramify.sampling.transforms import probabilities
from ramify.types import SamplingParams

GREEDY = {"method": "sample", "n": 1, "temperature": 0.0, "max_tokens": 160}
TIE = 1e-3  # logits that float32 may order either way, by the shape of its batch


@cache
def llm(dtype="float32", draft="mini-math-draft", dedupe=True):
    return ramify.load("mini-math", draft=draft, dtype=dtype, dedupe=dedupe)


@cache
def questions(count):
    return [problem.question for problem in problems("evaluation", count)]


def greedy(model, asked, batch, **options):
    """The answers' token ids, with so many prompts at a time."""
    found = []
    for start in range(0, len(asked), batch):
        results = model.generate(asked[start : start + batch], **GREEDY, **options)
        found += [result.candidates[0].token_ids for result in results]
    return found


def dense_logits(model, ids):
    """Of the token after `ids`: one forward, no cache, no engine."""
    attend = DenseAttention(model.decoder.config, [len(ids)])
    hidden_TD = model.decoder(torch.tensor(ids), torch.arange(len(ids)), attend)
    return model.decoder.logits(hidden_TD[-1:])[0]


def is_near_tie(question, ours, theirs):
    """Whether two texts part where float64 sees their two tokens on top and less than `TIE` apart."""
    at = next(at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
    model = load_model("mini-math", dtype="float64")
    logits_V = dense_logits(model, model.tokenizer.encode_prompt(question) + ours[:at])
    top = logits_V.topk(2)
    return {ours[at], theirs[at]} == set(top.indices.tolist()) and float(top.values[0] - top.values[1]) < TIE


def assert_same(asked, ours, theirs):
    """Equal but for near-ties, of which there are few."""
    parted = [at for at in range(len(asked)) if ours[at] != theirs[at]]
    assert all(is_near_tie(asked[at], ours[at], theirs[at]) for at in parted)
    assert len(parted) <= len(asked) // 50


@pytest.mark.parametrize("options", [{"draft_length": 4}, {"tree": "2x2x1"}, {}], ids=str)
def test_greedy_text_is_that_of_plain_decoding(options):
    """In float64 there are no ties."""
    model, asked = llm("float64"), questions(6)
    assert greedy(model, asked, 6, **options) == greedy(model, asked, 6, draft_length=0)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("part", [0, 100, 200, 300, 400])
def test_greedy_text_of_500_prompts_is_that_of_plain_decoding(part, batch):
    asked = questions(500)[part : part + 100]
    assert_same(asked, greedy(llm(), asked, batch, draft_length=4), plain_greedy(part))


@cache
def plain_greedy(part):
    return greedy(llm(), questions(500)[part : part + 100], 64, draft_length=0)


def test_a_draft_that_stands_unseen_is_caught(monkeypatch):
    """The broken twin: every drafted token is believed."""
    from ramify.speculative import Verdict

    def believe(proposal, q_NV, draws, key):
        return Verdict(list(range(len(proposal))), int(q_NV[len(proposal)].argmax()), 0)

    model, asked = llm(), questions(6)
    plain = greedy(model, asked, 6, draft_length=0)
    monkeypatch.setitem(ramify.speculative.speculation.VERIFIERS, "greedy", believe)
    with pytest.raises(AssertionError):
        assert_same(asked, greedy(model, asked, 6, draft_length=4, verifier="greedy"), plain)


# The law of the first tokens ----------------------------------------------------------------------------------------

# Nothing like what the models were trained on: they often disagree about the answer.
STRANGE = "What is 7 times 8?"
SHORT = {"temperature": 1.0, "max_tokens": 5}  # the first token is the target's; then a draft of up to three
FIRST, SAMPLES, RARE = 3, 2000, 1e-3
RULES = {"token": {"verifier": "token", "draft_length": 3}, "block": {"verifier": "block", "draft_length": 3},
         "traversal": {"verifier": "traversal", "tree": "2x2x1"}}
TWINS = {"token": "verify", "block": "verify_joint", "traversal": "verify_joint"}


@cache
def stated_law():
    """The law of the first tokens by dense forwards; what is rarer than `RARE` goes under None."""
    model, params = llm().model, SamplingParams(**SHORT)
    prompt, law = model.tokenizer.encode_prompt(STRANGE), {}

    def walk(answer, mass):
        if len(answer) == FIRST or answer[-1:] == model.tokenizer.eos_ids:
            law[answer] = mass
            return
        p_V = probabilities(dense_logits(model, prompt + list(answer))[None].double(), params)[0]
        for token in (p_V * mass > RARE).nonzero()[:, 0].tolist():
            walk((*answer, token), mass * float(p_V[token]))

    walk((), 1.0)
    law[None] = 1 - sum(law.values())
    return law


def p_value(rule):
    """Of sampled first tokens against their law."""
    law, counts = stated_law(), Counter()
    for seed in range(SAMPLES // 500):
        result = llm(dedupe=False).generate(STRANGE, "sample", n=500, seed=seed, **SHORT, **RULES[rule])
        assert result.speculative["num_rejections"] > 150
        firsts = [tuple(candidate.token_ids[:FIRST]) for candidate in result.candidates]
        counts.update(first if first in law else None for first in firsts)
    return chi_square(counts, law)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_sampled_tokens_follow_the_law(rule):
    assert p_value(rule) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_residual_that_is_the_target_itself_is_caught(rule, monkeypatch):
    monkeypatch.setattr(f"ramify.speculative.{TWINS[rule]}.leftover", lambda q_V, p_V, share=1.0: (
        q_V, float((q_V * share - p_V).clamp(min=0).sum())))
    assert p_value(rule) < 1e-3


# Searches -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("method", "options"), [
    ("speculative_rejection", {"n": 8}), ("treebon", {"n": 8, "layers": 3, "children": 2})])
def test_a_search_is_as_right_with_a_draft_as_without(method, options):
    """Coupled draws in float64: the same candidates, scores and choice, hence the same accuracy."""
    asked = problems("evaluation", 24)
    texts = [problem.question for problem in asked]
    told = []
    for ahead in ({"draft_length": 0}, {"draft_length": 4, "verifier": "coupled"}):
        results = llm("float64").generate(texts, method, max_tokens=120, **options, **ahead)
        told.append([(result.text, [(row.id, row.token_ids, row.state) for row in result.candidates])
                     for result in results])
    plain, drafted = told
    assert plain == drafted
    right = sum(is_correct(problem, text) for problem, (text, _) in zip(asked, drafted, strict=True))
    assert right > len(asked) // 3
