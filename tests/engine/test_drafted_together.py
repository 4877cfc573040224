"""Requests that draft alike share every draft forward, and one measured pace decides for all of them."""

from functools import partial

import pytest
from tiny import finish, tiny_engine, tiny_model

from ramify.search import sample
from ramify.speculative import Draft, Speculation, speculate
from ramify.speculative.drafter import MixedDrafter
from ramify.speculative.pace import FixedPace
from ramify.speculative.tree_drafter import TreeDrafter
from ramify.types import SamplingParams, SpeculationParams

TARGET, DRAFT = tiny_model(0), tiny_model(7)


def forwards(count, make=lambda draft, options: speculate(SpeculationParams(**options), draft), lookup="", **options):
    """Draft forwards for `count` equal requests that run together."""
    engine, draft, seen = tiny_engine(TARGET), Draft(DRAFT, lookup), []
    runner = engine.loop.runner(DRAFT, "draft")
    forward = runner.forward
    runner.forward = lambda work: seen.append(len(work)) or forward(work)
    requests = [engine.submit("abc", partial(sample, n=1), SamplingParams(max_tokens=9, ignore_eos=True), seed=3,
                              speculation=make(draft, options)) for _ in range(count)]
    finish(engine, requests)
    return len(seen)


@pytest.mark.parametrize("options", [
    {"draft_length": 2}, {"tree": "2x1"}, {"tree": "likely:2x2"}, {"draft_length": 3, "lookup": "suffix"},
    {"draft_length": 3, "lookup": "suffix", "verifier": "coupled"}], ids=str)
def test_equal_requests_take_the_draft_forwards_of_one(options):
    alone = forwards(1, **options)
    assert alone > 2 and forwards(4, **options) <= alone + 2  # the prompt, which one of them reads for all


def test_drafters_that_are_not_equal_draft_one_after_the_other():
    """The broken twin: mixed drafters that only look alike."""

    class Loner(MixedDrafter):
        __eq__, __hash__ = object.__eq__, object.__hash__

    def make(draft, options):
        honest = speculate(SpeculationParams(**options), draft)
        return Speculation(Loner(honest.drafter.neural), honest.verify, honest.pace)

    options = {"draft_length": 3, "lookup": "suffix"}
    assert forwards(4, make, **options) > 2 * forwards(4, **options)


def test_every_request_remembers_only_itself():
    """Requests that are drafted together look up what they said themselves."""
    engine, draft, told = tiny_engine(TARGET), Draft(DRAFT, "suffix"), []
    prompts = ["ababababab", "cdcdcdcdcd"]
    for together in (False, True):
        speculations = [speculate(SpeculationParams(draft_length=4), draft) for _ in prompts]
        assert speculations[0].drafter == speculations[1].drafter
        requests = []
        for prompt, speculation in zip(prompts, speculations, strict=True):
            requests.append(engine.submit(prompt, partial(sample, n=2), SamplingParams(max_tokens=9, ignore_eos=True),
                                          seed=3, speculation=speculation))
            if not together:
                finish(engine, requests)
        finish(engine, requests)
        told.append([request.outcome.speculative for request in requests])
    assert told[0] == told[1] and all(each["num_accepted_draft_tokens"] for each in told[0])


def test_unequal_trees_are_not_drafted_together():
    same = TreeDrafter(DRAFT, "2x1")
    assert same == TreeDrafter(DRAFT, "2x1") and hash(same) == hash(TreeDrafter(DRAFT, "2x1"))
    assert same not in (TreeDrafter(DRAFT, "2x2"), TreeDrafter(tiny_model(8), "2x1"), DRAFT)


def test_a_shared_pace_is_asked_once_a_step_for_all_rows():
    class Asked(FixedPace):
        def length(self, rows, ids, costs):
            ASKED.append((rows, ids))
            return super().length(rows, ids, costs)

    ASKED = []
    engine, pace = tiny_engine(TARGET), Asked(1)
    requests = []
    for seed in range(3):
        ahead = speculate(SpeculationParams(draft_length=1, verifier="coupled"), Draft(DRAFT))
        requests.append(engine.submit("abc", partial(sample, n=1), SamplingParams(max_tokens=5, ignore_eos=True),
                                      seed=seed, speculation=Speculation(ahead.drafter, ahead.verify, pace)))
    steps = 0
    while not all(request.finished for request in requests):
        engine.step()
        steps += 1
    assert len(ASKED) <= steps and max(ASKED) == (3, 3)
