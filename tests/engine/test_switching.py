"""Entropy-adaptive decoding: its law is the stated mixture of two models, and its costs are in the ledger."""

import math
from dataclasses import replace

import pytest
from test_speculation import ONE
from tiny import tiny_engine, tiny_model

from ramify.errors import OptionError
from ramify.exact import distance, output_law, policy_law, tabular_model
from ramify.speculative import Draft, Speculation, speculate
from ramify.speculative.pace import FixedPace
from ramify.speculative.switching import DWELL, WINDOW, SwitchDrafter, verify_trusted
from ramify.types import SamplingParams, SpeculationParams

MODEL, DRAFT, TOKENS = tabular_model(3, 1), tabular_model(3, 2, zeros=0.2), 4
BIG, LITTLE = tiny_model(0), tiny_model(7)


def switching(nats, window, dwell, length, model=DRAFT):
    return lambda: Speculation(SwitchDrafter(model, nats, window, dwell), verify_trusted, FixedPace(length))


def stated_law(nats, window, dwell, length):
    """The mixture chain, from the tables."""
    q, p, law = MODEL.decoder.table, DRAFT.decoder.table, {}

    def write(answer, mass, looks, drafting, written, left):
        """`left` tokens of this draft may follow; None between drafts."""
        at = len(answer)
        if at == TOKENS or answer[-1:] == (2,):
            law[answer] = law.get(answer, 0.0) + mass
            return
        row, after = q((0, 1, *answer)), None
        if 0 < at < TOKENS - 1 and left != 0:
            if left is None and not drafting and written < dwell:
                written += 1
            else:
                row_p = p((0, 1, *answer))
                looks = (*looks, -sum(x * math.log(x) for x in row_p if x))[-window:]
                sure = sum(looks) / len(looks) <= nats
                if sure != drafting and written >= dwell:
                    drafting, written = sure, 0
                written += 1
                if drafting:
                    row, after = row_p, (min(length, TOKENS - at - 1) if left is None else left) - 1
        for token, chance in enumerate(row):
            if chance:
                write((*answer, token), mass * chance, looks, drafting, written, after)

    write((), 1.0, (), False, dwell, None)
    return law


@pytest.mark.parametrize("setting", [
    (0.8, 1, 1, 3), (0.8, 2, 1, 3), (0.7, 5, 2, 3), (0.9, 1, 2, 1), (0.6, 2, 1, 2), (9.0, 1, 1, 2)], ids=str)
def test_the_law_is_the_mixture_of_both_models(setting):
    law = output_law(MODEL, "ab", ONE, speculation=switching(*setting), max_tokens=TOKENS)
    assert distance(law, stated_law(*setting)) < 1e-9
    assert distance(law, policy_law(MODEL, "ab", max_tokens=TOKENS)) > 1e-3  # lossy
    other = (setting[0] / 90, *setting[1:])
    assert distance(law, stated_law(*other)) > 1e-3  # the broken twin: another threshold


def test_it_is_asked_for_by_name():
    options = SpeculationParams(verifier="trusted", draft_stop="mean:0.8", draft_length=3)
    law = output_law(MODEL, "ab", ONE, speculation=lambda: speculate(options, Draft(DRAFT)), max_tokens=TOKENS)
    assert distance(law, stated_law(0.8, WINDOW, DWELL, 3)) < 1e-9
    assert distance(law, policy_law(MODEL, "ab", max_tokens=TOKENS)) > 1e-3


def test_a_draft_that_is_never_sure_leaves_the_law_alone():
    law = output_law(MODEL, "ab", ONE, speculation=switching(0.0, 1, 1, 3, tabular_model(3, 2)), max_tokens=TOKENS)
    assert distance(law, policy_law(MODEL, "ab", max_tokens=TOKENS)) < 1e-9


def test_both_costs_are_in_the_ledger():
    big, little, params = tiny_model(0), tiny_model(7), SamplingParams(max_tokens=20, ignore_eos=True)
    drafted = {}
    for nats in (0.5, 1.2, 9.0):
        big.decoder.calls, little.decoder.calls, looks = [], [], []
        little.decoder.logits = lambda x_KD, looks=looks: looks.append(1) or little.decoder.decoder.logits(x_KD)
        result = tiny_engine(big).result("abcab", ONE, params, speculation=switching(nats, 5, 3, 8, little)())
        page, own = result.usage.target, result.usage.draft
        assert page.tokens == sum(big.decoder.calls) and own.tokens == sum(little.decoder.calls)
        assert page.recomputed == own.recomputed == 0
        pairs = own.tokens * (own.tokens + 1) // 2
        again = 2 * 16 * 8 * len(looks) / 2  # the drafter projects every look once more
        assert own.flops == little.decoder.flops(own.tokens, pairs) + again
        drafted[nats] = result.speculative["num_accepted_draft_tokens"]
    assert drafted[0.5] <= drafted[1.2] < drafted[9.0] == 16  # the target: the first token, the last, every ninth


@pytest.mark.parametrize("setting", [(-1.0, 5, 3), (1.0, 0, 3), (1.0, 5, 0), (float("nan"), 5, 3)])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(OptionError):
        SwitchDrafter(LITTLE, *setting)


def test_a_look_up_does_not_cost_the_draft_its_cache():
    """A draft model that was not asked keeps what it has read."""
    spec = speculate(SpeculationParams(draft_length=4), Draft(LITTLE, "suffix"))
    spec.drafter = replace(spec.drafter, sure=1)
    result = tiny_engine(BIG).result("abababab", ONE, SamplingParams(max_tokens=30, ignore_eos=True), speculation=spec)
    assert result.usage.draft.calls > 2 and result.usage.draft.recomputed == 0
