"""Drafts from a model with another tokenizer: the text of plain greedy decoding, whatever was drafted."""

from functools import partial

import pytest
from scripted import byte_pairs, pieces, saved, scripted_model
from test_engine_laws import SEARCHES, tokens
from tiny import Doubles, assert_empty, finish, tiny_engine, tiny_model

from ramify.errors import OptionError
from ramify.search import sample
from ramify.speculative import Draft, Speculation, speculate
from ramify.speculative.pace import FixedPace
from ramify.speculative.switching import verify_trusted
from ramify.speculative.translation import translation
from ramify.types import SamplingParams, SpeculationParams

ONE = partial(sample, n=1)
PROMPT = "the cat"
TEXT = PROMPT + " ate 12 hats at the Grüße café; the rest of 東京 sat 120 😀 to the west."
TYPO = TEXT.replace("rest", "best")
DETOUR = TEXT.partition("rest")[0] + "best of them came first, and that was that."
TOKENIZERS = {"coarse": lambda: byte_pairs(320), "fine": lambda: byte_pairs(262), "pieces": pieces}
PAIRS = [(a, b) for a in TOKENIZERS for b in TOKENIZERS if a != b]


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """Tokenizers by name."""
    return {name: saved(make(), tmp_path_factory.mktemp(name)) for name, make in TOKENIZERS.items()}


def ahead(target, draft, lookup="", **options):
    return speculate(SpeculationParams(**options), Draft(draft, lookup, translation(draft, target)))


def greedy(target, speculation, prompt=PROMPT, search=ONE, **sampling):
    params = SamplingParams(**{"temperature": 0, "max_tokens": 100, **sampling})
    engine = tiny_engine(target)
    result = engine.result(prompt, search, params, speculation=speculation)
    assert_empty(engine)
    return result


# Models that know the text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3, 8, None])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_one_that_knows_the_text_is_believed(cut, pair, length):
    target, draft = (scripted_model(cut[name], TEXT) for name in pair)
    plain = greedy(target, None)
    assert plain.text.strip() == TEXT[len(PROMPT) :].strip() and plain.finish_reason == "stop"
    drafted = greedy(target, ahead(target, draft, draft_length=length))
    assert tokens(drafted) == tokens(plain)
    if length == 8:
        told = drafted.speculative
        assert told["num_accepted_draft_tokens"] > 0.6 * len(drafted.candidates[0].token_ids)
        assert drafted.usage.target.calls < 0.6 * plain.usage.target.calls


@pytest.mark.parametrize("sampling", [
    {"stop": ("est of",)}, {"stop": ("京",)}, {"stop": ("é; t", "zzz")}, {"max_tokens": 7}, {"ignore_eos": True},
    {"logit_bias": {5: 20.0}}, {"repetition_penalty": 1.2}], ids=str)
@pytest.mark.parametrize("pair", PAIRS[:4], ids="-".join)
def test_every_end_is_that_of_plain_decoding(cut, pair, sampling):
    target, draft = (scripted_model(cut[name], TEXT) for name in pair)
    plain, drafted = (greedy(target, spec, **sampling) for spec in (None, ahead(target, draft, draft_length=6)))
    assert tokens(drafted) == tokens(plain)
    assert (drafted.text, drafted.finish_reason) == (plain.text, plain.finish_reason)
    assert drafted.speculative["num_draft_tokens"]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_mistake_of_the_draft_is_refused(cut, pair):
    target, draft = scripted_model(cut[pair[0]], TEXT), scripted_model(cut[pair[1]], TYPO, TEXT)
    drafted = greedy(target, ahead(target, draft, draft_length=8))
    assert tokens(drafted) == tokens(greedy(target, None))
    told = drafted.speculative
    assert told["num_rejections"] > 0 and told["num_accepted_draft_tokens"] < told["num_draft_tokens"]


def test_to_trust_what_was_translated_is_caught(cut):
    """The broken twin: the draft's mistake stands."""
    target, draft = scripted_model(cut["coarse"], TEXT, TYPO), scripted_model(cut["fine"], TYPO)
    honest = ahead(target, draft, draft_length=8)
    twin = Speculation(honest.drafter, verify_trusted, FixedPace(8))
    assert tokens(greedy(target, honest)) == tokens(greedy(target, None)) != tokens(greedy(target, twin))


def test_a_draft_that_goes_on_from_stale_text_is_caught(cut, monkeypatch):
    """It must forget what it drafted and the target refused. The text is the target's all the same."""
    target, draft = scripted_model(cut["coarse"], TEXT), scripted_model(cut["fine"], DETOUR, TEXT)
    honest = greedy(target, ahead(target, draft, draft_length=12))
    monkeypatch.setattr("ramify.engine.draft_reader.agree", lambda left, right: min(len(left), len(right)))
    stale = greedy(target, ahead(target, draft, draft_length=12))
    assert tokens(stale) == tokens(honest)
    accepted = [each.speculative["num_accepted_draft_tokens"] for each in (stale, honest)]
    assert accepted[0] < 0.8 * accepted[1]


def test_the_end_of_sequence_is_drafted_too(cut):
    target, draft = scripted_model(cut["coarse"], TEXT), scripted_model(cut["fine"], TEXT)
    end = greedy(target, ahead(target, draft, draft_length=40))
    assert end.finish_reason == "stop"
    # The first token follows the prompt; one draft has all others, the end of sequence among them.
    assert end.speculative["num_accepted_draft_tokens"] >= len(end.candidates[0].token_ids) - 3


def test_a_look_up_goes_before_it(cut):
    twice = PROMPT + " the cat the cat the cat the cat the cat the hat the cat the cat the hat"
    target, draft = (scripted_model(cut[name], twice) for name in ("coarse", "fine"))
    mixed = ahead(target, draft, "suffix", draft_length=6)
    alone = ahead(target, draft, draft_length=6)
    assert tokens(greedy(target, mixed)) == tokens(greedy(target, alone)) == tokens(greedy(target, None))
    assert mixed.accepted > 0


# The ledger ---------------------------------------------------------------------------------------------------------


def test_only_what_changed_is_read_again(cut):
    target, draft = scripted_model(cut["coarse"], TEXT), scripted_model(cut["fine"], TEXT)
    drafted = greedy(target, ahead(target, draft, draft_length=8))
    assert drafted.usage.draft.tokens == draft.decoder.seen
    whole = len(cut["fine"].encode(TEXT))
    rounds = drafted.speculative["num_verifications"]
    assert whole - 8 < draft.decoder.seen <= whole + 4 * rounds  # a few ids at every seam, never all of them


def test_requests_are_drafted_together_and_alone_alike(cut):
    target, draft = scripted_model(cut["pieces"], TEXT, TYPO), scripted_model(cut["fine"], TYPO, TEXT)
    engine = tiny_engine(target, capacity=256, step_tokens=24)
    params, prompts = SamplingParams(temperature=0, max_tokens=60), [PROMPT, TEXT[:30], TYPO[:50], TEXT[:55]]
    requests = [engine.submit(prompt, partial(sample, n=2), params, speculation=ahead(target, draft, draft_length=5))
                for prompt in prompts]
    assert len({request.speculation.drafter for request in requests}) == 1
    finish(engine, requests)
    assert_empty(engine)
    for prompt, request in zip(prompts, requests, strict=True):
        assert tokens(request.outcome) == tokens(greedy(target, None, prompt, partial(sample, n=2), max_tokens=60))


# Models that know nothing -------------------------------------------------------------------------------------------

TARGET, DRAFT = tiny_model(0), tiny_model(7, tokenizer=Doubles())


@pytest.mark.parametrize("options", [{"draft_length": 4}, {}, {"draft_length": 6, "draft_stop": "entropy:1"}], ids=str)
@pytest.mark.parametrize("engine", [{}, {"capacity": 44, "block_size": 2}, {"step_tokens": 3}], ids=str)
def test_every_search_gives_the_text_of_plain_decoding(options, engine):
    def seen(make):
        running = tiny_engine(TARGET, **engine)
        requests = [running.submit("abcab" + "cd" * seed, search, SamplingParams(max_tokens=14, temperature=0),
                                   seed=seed, speculation=make()) for seed, search in enumerate(SEARCHES)]
        finish(running, requests)
        assert_empty(running)
        return [tokens(request.outcome) for request in requests]

    assert seen(lambda: ahead(TARGET, DRAFT, **options)) == seen(lambda: None)


def test_a_prompt_beyond_the_drafts_context_goes_on_without():
    short = tiny_model(7, tokenizer=Doubles(), positions=4)
    drafted = greedy(TARGET, ahead(TARGET, short, draft_length=2), "abcabc", max_tokens=12)
    assert tokens(drafted) == tokens(greedy(TARGET, None, "abcabc", max_tokens=12))
    assert "without a draft" in drafted.warnings[0]


def test_a_draft_that_runs_out_of_context_in_mid_answer_stops_drafting():
    short = tiny_model(7, tokenizer=Doubles(), positions=12)
    drafted = greedy(TARGET, ahead(TARGET, short, draft_length=2), "abcab", max_tokens=20, ignore_eos=True)
    assert tokens(drafted) == tokens(greedy(TARGET, None, "abcab", max_tokens=20, ignore_eos=True))


@pytest.mark.parametrize("options", [
    {"verifier": "block"}, {"verifier": "coupled"}, {"verifier": "lossy", "lenience": 0.5, "draft_length": 2},
    {"verifier": "trusted", "draft_stop": "mean:1.0", "draft_length": 2}, {"tree": "2x1"},
    {"draft_stop": "acceptance:0.3"}], ids=str)
def test_what_needs_probabilities_is_refused(options):
    with pytest.raises(OptionError, match="another tokenizer"):
        ahead(TARGET, DRAFT, **options)
