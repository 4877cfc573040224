"""Speculation inside the engine: the law of plain decoding, and its very text under the coupled verifier."""

from functools import partial

import pytest
from test_engine_laws import SEARCHES, tokens
from tiny import assert_empty, finish, tiny_engine, tiny_model

from ramify.engine import Drop, Extend, Fork, Rewind
from ramify.exact import policy_law, tabular_model
from ramify.exact.enumerate import output_law
from ramify.exact.laws import distance
from ramify.search import best_of_n, sample
from ramify.speculative import Draft, Speculation, chain, speculate
from ramify.speculative.drafter import ChainDrafter
from ramify.speculative.pace import FixedPace
from ramify.types import SamplingParams, SpeculationParams

TARGET, DRAFT = tiny_model(0), tiny_model(7)
LONG = SamplingParams(max_tokens=14)
LOSSLESS = ["token", "block", "recursive", "k_sequential", "traversal", "coupled"]
TREES = ["2x1", "iid:2x1", "beam:2x2", "likely:2x2"]


def ahead(model=DRAFT, lookup="", **options):
    return lambda: speculate(SpeculationParams(**options), Draft(model, lookup))


# The complete law, on tabular models -------------------------------------------------------------------------------


ONE = partial(sample, n=1)


def law_error(speculation, **sampling):
    model, sampling = tabular_model(3, 1), {"max_tokens": 3, **sampling}
    law = output_law(model, "ab", ONE, speculation=speculation, **sampling)
    return distance(law, policy_law(model, "ab", **sampling))


@pytest.mark.parametrize("verifier", LOSSLESS)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_chains_keep_the_law(verifier, length):
    assert law_error(ahead(tabular_model(3, 2), verifier=verifier, draft_length=length)) < 1e-9


@pytest.mark.parametrize("verifier", ["recursive", "k_sequential", "traversal", "coupled"])
@pytest.mark.parametrize("tree", TREES[:2])
def test_trees_keep_the_law(verifier, tree):
    if verifier == "k_sequential" and not tree.startswith("iid"):
        pytest.skip("a rule for independent siblings")
    assert law_error(ahead(tabular_model(3, 2), verifier=verifier, tree=tree)) < 1e-9


@pytest.mark.parametrize("sampling", [
    {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.7}, {"repetition_penalty": 1.5}, {"presence_penalty": 1.0},
    {"logit_bias": {0: 1.0}}, {"ignore_eos": True}, {"stop": ("a",)}], ids=str)
def test_sampling_options_keep_the_law(sampling):
    assert law_error(ahead(tabular_model(3, 2), draft_length=2), **sampling) < 1e-9


@pytest.mark.parametrize("lookup", ["ngram", "suffix"])
def test_looked_up_drafts_keep_the_law(lookup):
    assert law_error(ahead(None, lookup, draft_length=2)) < 1e-9


@pytest.mark.parametrize("vocabulary", [2, 4])
def test_a_draft_of_another_width_keeps_the_law(vocabulary):
    """Vocabularies that were padded differently."""
    draft = tabular_model(vocabulary, 2)
    assert law_error(ahead(draft, draft_length=2)) < 1e-9


def test_a_wrong_residual_is_caught(monkeypatch):
    monkeypatch.setattr("ramify.speculative.verify.leftover", lambda q_V, p_V, share=1.0: (q_V, 1.0))
    assert law_error(ahead(tabular_model(3, 2), verifier="token", draft_length=2)) > 1e-3


def test_a_draft_that_lies_about_its_distribution_is_caught():
    """Drawn from p, stated as p squared: what engines do that draw at one temperature and compare at another."""

    class Liar:
        model = tabular_model(3, 2)

        def nodes(self, most):
            return most

        def propose(self, asks, look, draws):
            true = ChainDrafter(self.model).propose(asks, look, draws)
            return [chain(p.tokens, p.p_NV**2) for p in true]

    block = ahead(verifier="block", draft_length=2)().verify
    assert law_error(lambda: Speculation(Liar(), block, FixedPace(2))) > 1e-3


# Token for token, on random Llamas in float64 ----------------------------------------------------------------------


def results(speculation, *, params=LONG, searches=SEARCHES, **engine):
    engine = tiny_engine(TARGET, **engine)
    requests = [engine.submit("abcab" + "cd" * seed, search, params, seed=seed, speculation=speculation())
                for seed, search in enumerate(searches)]
    finish(engine, requests)
    engine.loop.target.prefixes and engine.loop.target.prefixes.clear()
    assert_empty(engine)
    return [request.outcome for request in requests]


def seen(outcomes):
    return [tokens(outcome) for outcome in outcomes]


COUPLED = [{"draft_length": 1}, {"draft_length": 4}, {"draft_length": 9}, {"draft_stop": "confidence:0.3",
           "draft_length": 6}, {}, *({"tree": tree} for tree in TREES)]


@pytest.mark.parametrize("options", COUPLED, ids=str)
def test_every_search_gives_the_text_of_plain_decoding(options):
    assert seen(results(ahead(verifier="coupled", **options))) == seen(results(lambda: None))


@pytest.mark.parametrize("lookup", ["ngram", "suffix"])
def test_looked_up_drafts_give_the_text_of_plain_decoding(lookup):
    assert seen(results(ahead(None, lookup, verifier="coupled"))) == seen(results(lambda: None))


@pytest.mark.parametrize("params", [
    {"temperature": 0}, {"temperature": 0.7, "top_p": 0.8}, {"top_k": 3}, {"min_p": 0.2}, {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.5, "presence_penalty": 0.5}, {"logit_bias": {1: 2.0}}, {"stop": ("cd", "ba")},
    {"ignore_eos": True, "max_tokens": 14}], ids=str)
def test_every_sampling_option_gives_the_text_of_plain_decoding(params):
    params = SamplingParams(**{"max_tokens": 12, **params})
    assert seen(results(ahead(verifier="coupled", draft_length=3), params=params)) == seen(
        results(lambda: None, params=params))


@pytest.mark.parametrize("engine", [{"capacity": 28, "block_size": 2}, {"step_tokens": 3}, {"prefix_cache": False}],
                         ids=str)
def test_short_memory_and_small_steps_change_nothing(engine):
    assert seen(results(ahead(verifier="coupled", draft_length=4), **engine)) == seen(results(lambda: None))


def test_greedy_is_greedy_under_every_verifier():
    greedy = SamplingParams(max_tokens=12, temperature=0)
    plain = seen(results(lambda: None, params=greedy))
    for verifier in (*LOSSLESS, "greedy"):
        assert seen(results(ahead(verifier=verifier, draft_length=3), params=greedy)) == plain


def test_a_batch_is_its_singles():
    """Acceptance is ragged; nobody notices the others."""
    speculation = ahead(verifier="block", draft_length=3)
    together = results(speculation)
    for seed, search in enumerate(SEARCHES):
        alone = tiny_engine(TARGET).result("abcab" + "cd" * seed, search, LONG, seed=seed, speculation=speculation())
        assert tokens(alone) == tokens(together[seed])


def test_a_path_that_keeps_its_place_in_the_cache_is_caught(monkeypatch):
    """The accepted branch of a tree must move to where the text goes on."""
    monkeypatch.setattr("ramify.cache.KVStore.move", lambda *_: None)
    options = {"verifier": "coupled", "tree": "3x2x1"}
    assert seen(results(ahead(**options))) != seen(results(lambda: None))


def test_forks_and_rewinds_between_drafts():
    def wander(prompt):
        [first] = yield Fork(prompt, 1)
        yield Extend([first], tokens=5)
        children = yield Fork(first, 2)
        yield Extend(children, tokens=4)
        yield Rewind([children[0]], 6)
        yield Extend(children)
        yield Drop([children[1]])
        return children[0]

    params = SamplingParams(max_tokens=14, ignore_eos=True)
    with_draft, plain = (results(each, params=params, searches=[wander])
                         for each in (ahead(verifier="coupled", draft_length=3), lambda: None))
    assert seen(with_draft) == seen(plain)


# The ledger, and what goes wrong -----------------------------------------------------------------------------------


def test_the_ledger_counts_what_the_models_saw():
    target, draft = tiny_model(0), tiny_model(7)
    result = tiny_engine(target).result("abcab", ONE, SamplingParams(max_tokens=14, ignore_eos=True),
                                        speculation=ahead(draft, draft_length=3)())
    page, own, told = result.usage.target, result.usage.draft, result.speculative
    assert page.tokens == sum(target.decoder.calls) and page.calls == len(target.decoder.calls)
    assert own.tokens == sum(draft.decoder.calls) and own.calls == len(draft.decoder.calls)
    assert page.verify == told["num_draft_tokens"]
    # The first token follows the prompt; a verification gives what it accepted and one more; a last one is plain.
    assert told["num_accepted_draft_tokens"] + page.decode == 13
    assert told["num_verifications"] <= page.decode <= told["num_verifications"] + 1


def test_a_draft_equal_to_the_target_is_always_accepted():
    for verifier in LOSSLESS:
        [result] = results(ahead(TARGET, verifier=verifier, draft_length=4), searches=[ONE],
                           params=SamplingParams(max_tokens=16, ignore_eos=True))
        assert result.speculative["draft_acceptance_rate"] == 1
        assert result.usage.target.calls == 1 + 3  # the prompt, and 15 tokens in fives


class Broken(ChainDrafter):
    def propose(self, asks, look, draws):
        if len(asks[0].answer) > 4:
            raise RuntimeError("out of ideas")
        return super().propose(asks, look, draws)


def test_a_drafter_that_fails_is_given_up_with_a_warning():
    verify = ahead(verifier="coupled")().verify
    with_draft = results(lambda: Speculation(Broken(DRAFT, None, True), verify, FixedPace(2)))
    assert seen(with_draft) == seen(results(lambda: None))
    warned = [result for result in with_draft if result.warnings]
    assert warned
    for result in warned:
        assert "RuntimeError: out of ideas" in result.warnings[0]
        assert result.speculative["num_verifications"] > 0


def test_a_prompt_beyond_the_drafts_context_goes_on_without():
    short = tiny_model(7, positions=4)
    with_draft = results(ahead(short, verifier="coupled", draft_length=2))
    assert seen(with_draft) == seen(results(lambda: None))
    assert all("without a draft" in result.warnings[0] for result in with_draft)


def test_a_draft_that_runs_out_of_context_in_mid_answer_stops_drafting():
    short = tiny_model(7, positions=12)
    with_draft = results(ahead(short, verifier="coupled", draft_length=2), searches=[partial(best_of_n, n=2,
                         reward=SEARCHES[0].keywords["reward"])], params=SamplingParams(max_tokens=20, ignore_eos=True))
    plain = results(lambda: None, searches=[partial(best_of_n, n=2, reward=SEARCHES[0].keywords["reward"])],
                    params=SamplingParams(max_tokens=20, ignore_eos=True))
    assert seen(with_draft) == seen(plain)


