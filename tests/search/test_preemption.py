"""A cache too small for all candidates gives blocks up and reads them again: nothing in the answer may change."""

from functools import partial
from itertools import product

import pytest
from references import PROMPT, PROMPT_IDS, Case, check_law
from references import treebon as brute_force

from ramify.cache import KVStore
from ramify.engine import Engine
from ramify.errors import CapacityError
from ramify.exact import output_law, tabular_model
from ramify.rewards import ImplicitReward, SequenceReward
from ramify.search import best_of_n, speculative_rejection, treebon
from ramify.types import SamplingParams

LONGEST = 6
CASE = Case(seed=3, longest=LONGEST, zeros=0.1)
IMPLICIT = ImplicitReward(tabular_model(3, 11), tabular_model(3, 12))
OPEN = SequenceReward(CASE.reward.model, closed=False)
SEARCHES = {
    "best_of_n": lambda reward: partial(best_of_n, reward=reward, n=4),
    "speculative_rejection": lambda reward: partial(speculative_rejection, reward=reward, n=5, chunk=2),
    "treebon": lambda reward: partial(treebon, reward=CASE.reward, guide=reward, n=4, layers=3, children=2),
}
REWARDS = {"closed": CASE.reward, "open": OPEN, "implicit": IMPLICIT}
ROOM = len(PROMPT_IDS) + LONGEST + 1  # the reward model closes a turn, one token more than the target reads


def told(engine, search, seed):
    result = engine.result(PROMPT, search, SamplingParams(max_tokens=LONGEST), seed=seed)
    candidates = [(c.id, c.token_ids, c.state, c.scores) for c in result.candidates]
    return candidates, result.chosen, result.usage.target.recomputed


@pytest.mark.parametrize(("name", "reward"), list(product(SEARCHES, REWARDS)))
def test_a_small_cache_changes_nothing(name, reward):
    search, recomputed = SEARCHES[name](REWARDS[reward]), 0
    for seed, (block, room, step, dedupe) in enumerate(product((1, 2, 4), (ROOM, ROOM + 5), (64, 3), (True, False))):
        large = told(Engine(CASE.model, capacity=1000, block_size=2), search, seed)
        tight = Engine(CASE.model, capacity=-(-room // block) * block, block_size=block, step_tokens=step,
                       dedupe=dedupe)
        small = told(tight, search, seed)
        assert small[:2] == large[:2], (block, room, step, dedupe, seed)
        assert large[2] == 0
        recomputed += small[2]
    assert recomputed > 0


def test_the_check_catches_a_cache_that_loses_a_copy(monkeypatch):
    monkeypatch.setattr(KVStore, "copy", lambda self, pairs: None)
    with pytest.raises(AssertionError):
        test_a_small_cache_changes_nothing("treebon", "closed")


def test_a_small_cache_keeps_the_law():
    case = Case(seed=27, longest=2)
    engine = Engine(case.model, capacity=len(PROMPT_IDS) + 3, block_size=1)
    law = output_law(case.model, PROMPT, lambda prompt: treebon(prompt, reward=case.reward, n=2, layers=2, children=2),
                     engine=engine, width=3, max_tokens=2)
    check_law(law, brute_force(case, 2, 2, 2, 1))


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("search", [SEARCHES["best_of_n"](IMPLICIT), SEARCHES["treebon"](CASE.reward)])
def test_requests_that_compete_for_blocks_do_not_disturb_each_other(search, block):
    params, seeds = SamplingParams(max_tokens=LONGEST), range(5)
    alone = [told(Engine(CASE.model, capacity=1000), search, seed)[:2] for seed in seeds]
    engine = Engine(CASE.model, capacity=-(-(ROOM + 3) // block) * block, block_size=block, step_tokens=7)
    requests = [engine.submit(PROMPT, search, params, seed=seed) for seed in seeds]
    while engine.loop.requests:
        engine.step()
    results = [request.result for request in requests]
    assert [([(c.id, c.token_ids, c.state, c.scores) for c in r.candidates], r.chosen) for r in results] == alone


def test_every_block_comes_back():
    engine = Engine(CASE.model, capacity=40, block_size=2, prefix_cache=False)
    for search in (make(reward) for make in SEARCHES.values() for reward in REWARDS.values()):
        engine.result(PROMPT, search, SamplingParams(max_tokens=LONGEST))
    runners = [engine.loop.target, *engine.loop._runners.values()]
    assert len(runners) == 4
    assert all(runner.pool.used == 0 and not any(runner.pool.refs) for runner in runners)


def test_a_text_that_the_reward_model_cannot_hold_is_an_error_not_a_hang():
    case = Case(seed=3, longest=2, zeros=0.0)
    case.model.decoder.table = lambda prefix: [0.5, 0.5, 0.0]
    engine = Engine(case.model, capacity=len(PROMPT_IDS) + 2, block_size=1, prefix_cache=False)
    with pytest.raises(CapacityError, match="room for 5 tokens in tabular-reward"):
        engine.result(PROMPT, SEARCHES["best_of_n"](case.reward), SamplingParams(max_tokens=2))
    assert engine.loop.target.pool.used == 0
