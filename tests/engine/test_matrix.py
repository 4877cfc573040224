"""Every search with every verifier, draft and sampling option: what docs/matrix.md promises, cell by cell."""

from functools import cache, partial

import pytest
from matrix import CELLS, KINDS, LOSSY, MODEL, NONSENSE, PAGE, REFUSED, SAMPLING, TARGET, cell, make, page, refusal
from test_engine_laws import REWARD, tokens
from tiny import EOS, assert_empty, finish, tiny_engine

from ramify.errors import OptionError
from ramify.exact import distance, policy_law, tabular_model
from ramify.exact.enumerate import output_law
from ramify.rewards import SequenceReward
from ramify.search import METHODS, best_of_n, sample, self_consistency, speculative_rejection, treebon
from ramify.speculative import Draft, speculate
from ramify.types import SamplingParams, SpeculationParams

SCORED = SequenceReward(REWARD)
SEARCHES = (
    partial(best_of_n, reward=SCORED, n=2), partial(sample, n=2),
    partial(self_consistency, n=2, answer=lambda text: text[:1]),
    partial(speculative_rejection, reward=SCORED, n=3, first=2),
    partial(treebon, reward=SCORED, n=4, layers=2, children=2),
)
LENGTH = 9


def texts(ahead, kv_dtype=None, **sampling):
    """Every search in one batch: all candidates' tokens and scores, and the choice."""
    engine, params = tiny_engine(TARGET, kv_dtype=kv_dtype), SamplingParams(**{"max_tokens": LENGTH, **sampling})
    requests = [engine.submit("abcab" + "cd" * seed, search, params, seed=seed, speculation=ahead())
                for seed, search in enumerate(SEARCHES)]
    finish(engine, requests)
    assert_empty(engine)
    return [tokens(request.outcome) for request in requests]


@cache
def plain(name):
    return texts(lambda: None, **SAMPLING[name])


def ahead_of(verifier, kind, temperature=1.0):
    options, _ = cell(verifier, kind)
    return make(KINDS[kind][0], options, temperature)


def test_the_searches_are_all_there():
    assert {search.func for search in SEARCHES} == set(METHODS.values())


@pytest.mark.parametrize("kind", [kind for verifier, kind in CELLS if verifier == "coupled"])
def test_coupled_draws_give_the_text_of_plain_decoding(kind):
    """Token for token, for every search, under two sampling options per draft; the next draft takes others."""
    names, at = list(SAMPLING), list(KINDS).index(kind)
    for name in (names[at % len(names)], names[(at + 4) % len(names)], names[(at + 7) % len(names)]):
        assert texts(ahead_of("coupled", kind), **SAMPLING[name]) == plain(name), name


def test_every_sampling_option_does_something():
    """And ends of sequence come in the middle of blocks, or nothing above would meet one."""
    assert len({str(plain(name)) for name in SAMPLING}) == len(SAMPLING)
    rows = [row for _, candidates in plain("temperature") for row in candidates]
    assert any(EOS in ids and 2 < len(ids) < LENGTH for _, ids, _, _ in rows)


@pytest.mark.parametrize(("verifier", "kind"), [pair for pair in CELLS if pair[0] not in ("coupled", "trusted")])
def test_temperature_0_gives_the_text_of_plain_decoding(verifier, kind):
    assert texts(ahead_of(verifier, kind, temperature=0.0), **SAMPLING["greedy"]) == plain("greedy")


# The law, on a tabular model ----------------------------------------------------------------------------------------

TABLE, LITTLE = tabular_model(3, 1), tabular_model(3, 2, zeros=0.2)
ROUNDS = {"token": {"draft_length": 2}, "block": {"draft_length": 2}, "recursive": {"tree": "2x1"},
          "k_sequential": {"tree": "iid:2"}, "traversal": {"tree": "2x1"}}


def law_error(verifier, name, draft=None, options=None):
    params = {"max_tokens": 3, **SAMPLING[name]}
    spec = SpeculationParams(verifier=verifier, **(options or ROUNDS[verifier]))
    law = output_law(TABLE, "ab", partial(sample, n=1), **params,
                     speculation=lambda: speculate(spec, draft or Draft(LITTLE)))
    return distance(law, policy_law(TABLE, "ab", **params))


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("verifier", ROUNDS)
def test_sampling_options_leave_the_law_alone(verifier, name):
    assert law_error(verifier, name) < 1e-9


@pytest.mark.parametrize("verifier", ROUNDS)
@pytest.mark.parametrize("lookup", ["ngram", "suffix"])
def test_look_ups_leave_the_law_alone(verifier, lookup):
    assert law_error(verifier, "penalties", Draft(None, lookup), {"draft_length": 2}) < 1e-9


@pytest.mark.parametrize("verifier", LOSSY)
def test_lossy_is_the_word_for_what_changes_the_law(verifier):
    """The broken twins: what is promised of the others does not hold of these."""
    assert law_error(verifier, "temperature", options={"draft_length": 2, **LOSSY[verifier]}) > 1e-3


def test_a_draft_may_be_drawn_without_the_options_of_sampling(monkeypatch):
    """As long as what is stated is what was drawn from."""
    monkeypatch.setattr("ramify.engine.draft_reader.Reader._distributions", raw)
    assert law_error("token", "top-k") < 1e-9


def test_a_target_that_forgets_the_options_of_sampling_is_caught(monkeypatch):
    monkeypatch.setattr("ramify.engine.speculation.distributions", lambda prompts, logits_RV, answer: raw(logits_RV))
    assert law_error("token", "top-k") > 1e-3


def raw(*args):
    """The model as it is."""
    return args[-1].softmax(-1)


# Refusals, and the page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("draft", "options"), [*REFUSED, *((MODEL, options) for options in NONSENSE)], ids=str)
def test_options_that_do_not_go_together_are_refused(draft, options):
    told = refusal(draft, options)
    assert told.startswith("needed ") and "; got " in told
    with pytest.raises(OptionError):
        make(draft, options)


def test_the_page_is_fresh():
    """`PYTHONPATH=src:tests/engine python tests/engine/matrix.py` writes it."""
    assert PAGE.read_text() == page()
