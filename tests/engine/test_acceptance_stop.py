"""Drafts that an acceptance head ends: the law is the target's, and the head judges the newest token."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from test_speculation import DRAFT, LONG, ahead, law_error, results, seen
from tiny import tiny_engine, tiny_model

from ramify.errors import OptionError
from ramify.exact import tabular_model
from ramify.models import AcceptanceHead
from ramify.search import sample
from ramify.speculative import Speculation, chain
from ramify.speculative.drafter import ChainDrafter
from ramify.speculative.pace import FixedPace
from ramify.types import SamplingParams

FAR = 4  # the first token follows the prompt and the last a draft, so drafts have up to two


def judged_table(seed=2):
    """A tabular draft whose head likes token 0 and is unsure of others, the more the longer the text; and its calls."""
    model, calls = tabular_model(3, seed), []

    def head(hidden_K1, token_K1, chance_K):
        assert (chance_K > 0).all()
        calls.append([(model.decoder.prefix(int(code)), int(token))
                      for code, token in zip(hidden_K1[:, 0], token_K1[:, 0], strict=True)])
        return torch.where(token_K1[:, 0] == 0, 2.0, 0.5) - 0.1 * hidden_K1[:, 0].log1p()

    model.decoder.embed = lambda token_K: token_K[:, None]
    model.acceptance, head.flops = head, 0.0
    return model, calls


@pytest.mark.parametrize("verifier", ["token", "block", "traversal", "coupled"])
@pytest.mark.parametrize("threshold", ["0.15", "0.4"])
def test_the_law_is_untouched(verifier, threshold):
    model, calls = judged_table()
    speculation = ahead(model, verifier=verifier, draft_length=3, draft_stop=f"acceptance:{threshold}")
    assert law_error(speculation, max_tokens=FAR) < 1e-9
    assert {len(prefix) for call in calls for prefix, _ in call} >= {3, 4}  # second tokens of drafts too


def test_to_take_back_the_token_that_stopped_the_draft_is_biased():
    class Regrets(ChainDrafter):
        def propose(self, asks, look, draws):
            drafts = super().propose(asks, look, draws)
            return [chain(d.tokens[:-1], d.p_NV[:-1] if len(d) > 1 else None) if len(d) < ask.most else d
                    for ask, d in zip(asks, drafts, strict=True)]

    model, _ = judged_table()
    honest = ahead(model, verifier="token", draft_length=2, draft_stop="acceptance:0.3")()
    regrets = Regrets(model, honest.drafter.stop, False, model.acceptance)
    assert law_error(lambda: Speculation(regrets, honest.verify, FixedPace(2)), max_tokens=FAR) > 1e-3


def test_every_drafted_token_is_judged_with_the_state_it_was_drawn_from():
    model, calls = judged_table()
    speculation = ahead(model, verifier="token", draft_length=4, draft_stop="acceptance:0.9")()
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    result = tiny_engine(tabular_model(3, 1)).result("ab", partial(sample, n=1), params, speculation=speculation)
    judged = [call for [call] in calls]
    assert len(judged) == result.speculative["num_draft_tokens"]
    follows = [(*prefix, token) == after for (prefix, token), (after, _) in pairwise(judged)]
    rounds = result.speculative["num_verifications"]
    assert len(follows) - sum(follows) <= rounds - 1  # only a new round begins elsewhere
    assert sum(follows) > 3
    assert not any(prefix == after for (prefix, _), (after, _) in pairwise(judged))  # a late head sees one state twice


def test_a_surer_head_drafts_more():
    def drafted(bias):
        model = tiny_model(7)
        model.acceptance = AcceptanceHead(16, 0).double().requires_grad_(False)
        model.acceptance.out.weight.zero_()
        model.acceptance.out.bias.fill_(bias)
        options = {"verifier": "token", "draft_length": 6, "draft_stop": "acceptance:0.3"}
        params = SamplingParams(max_tokens=14, ignore_eos=True)
        [result] = results(ahead(model, **options), params=params, searches=[partial(sample, n=1)])
        return result.speculative["num_draft_tokens"] / result.speculative["num_verifications"]

    assert drafted(-1.0) == 1 < drafted(1.5) == 2 < drafted(9.0)  # 1 - .82^2 is above .3


def test_what_the_head_computes_is_in_the_ledger():
    """A head that never stops leaves the drafts as they are without it: what is more in the ledger is its own."""
    model = tiny_model(7)
    head = model.acceptance = AcceptanceHead(16, 3).double().requires_grad_(False)
    head.out.bias.fill_(40.0)
    assert head.flops == 2 * ((33 * 16 + 16) + 3 * (16 * 16 + 16) + (16 + 1))
    options = {"verifier": "token", "draft_length": 4}
    [judged], [plain] = (results(ahead(model, **options, **stop), params=LONG, searches=[partial(sample, n=3)])
                         for stop in ({"draft_stop": "acceptance:0.9"}, {}))
    assert judged.speculative == plain.speculative and judged.usage.target == plain.usage.target
    drafted = plain.speculative["num_draft_tokens"]
    assert judged.usage.draft.flops - plain.usage.draft.flops == drafted * head.flops > 0


def test_every_search_gives_the_text_of_plain_decoding():
    torch.manual_seed(0)
    model = tiny_model(7)
    model.acceptance = AcceptanceHead(16, 3).double().requires_grad_(False)
    options = {"verifier": "coupled", "draft_length": 6, "draft_stop": "acceptance:0.6"}
    assert seen(results(ahead(model, **options), params=LONG)) == seen(results(lambda: None, params=LONG))


def test_a_draft_without_a_head():
    assert ahead(DRAFT, draft_stop="confidence:0.3")().drafter.head is None
    with pytest.raises(OptionError, match="acceptance head"):
        ahead(DRAFT, draft_stop="acceptance:0.3")()


@pytest.mark.parametrize("stop", ["acceptance", "acceptance:", "acceptance:x", "acceptance:2", "acceptance:0.3:4"])
def test_rules_that_cannot_be_read(stop):
    model, _ = judged_table()
    with pytest.raises(OptionError):
        ahead(model, draft_stop=stop)()


def test_equal_rules_are_drafted_together():
    model, _ = judged_table()
    speculation = ahead(model, draft_stop="acceptance:0.3")
    assert speculation().drafter == speculation().drafter
    assert speculation().drafter != ahead(model, draft_stop="confidence:0.3")().drafter
