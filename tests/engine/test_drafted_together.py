"""Requests that draft alike share every draft forward, and one measured pace decides for all of them."""

from functools import partial

import pytest
from tiny import finish, tiny_engine, tiny_model

from ramify.search import sample
from ramify.speculative import Draft, Speculation, speculate
from ramify.speculative.pace import FixedPace
from ramify.speculative.tree_drafter import TreeDrafter
from ramify.types import SamplingParams, SpeculationParams

TARGET, DRAFT = tiny_model(0), tiny_model(7)


def forwards(count, **options):
    """Draft forwards for `count` equal requests that run together."""
    engine, draft, seen = tiny_engine(TARGET), Draft(DRAFT), []
    runner = engine.loop.runner(DRAFT, "draft")
    forward = runner.forward
    runner.forward = lambda work: seen.append(len(work)) or forward(work)
    requests = [engine.submit("abc", partial(sample, n=1), SamplingParams(max_tokens=9, ignore_eos=True), seed=3,
                              speculation=speculate(SpeculationParams(**options), draft)) for _ in range(count)]
    finish(engine, requests)
    return len(seen)


@pytest.mark.parametrize("options", [{"draft_length": 2}, {"tree": "2x1"}, {"tree": "likely:2x2"}], ids=str)
def test_equal_requests_take_the_draft_forwards_of_one(options):
    alone = forwards(1, **options)
    assert alone > 2 and forwards(4, **options) <= alone + 2  # the prompt, which one of them reads for all


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
