"""What the watch counts, against the engine's own ledger; where a step's time goes, by a made clock."""

import itertools
from dataclasses import replace

import pytest
from small import small_llm, small_model

from ramify.bench.watch import Watch

METHODS = ["sample", "best_of_n", "speculative_rejection", "treebon"]


def watched(llm, method, n=8, tokens=12):
    with Watch(llm.engine) as watch:
        return llm.generate("how many apples", method, n=n, max_tokens=tokens, ignore_eos=True), watch


def by_model(watch):
    found = {}
    for forward in itertools.chain.from_iterable(turn.forwards for turn in watch.turns):
        found.setdefault(forward.model, []).append(forward.step)
    return found


def check_ledger(llm, result, found):
    """Ids are the tokens of the ledger, and with the pairs they make its FLOPs."""
    for model, page in ((llm.model, result.usage.target), (llm.reward.model, result.usage.reward)):
        steps = found.get(model, [])
        assert sum(step.ids for step in steps) == page.tokens and len(steps) == page.calls
        assert sum(model.decoder.flops(step.ids, step.pairs) for step in steps) == pytest.approx(page.flops, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_counts_are_those_of_the_ledger(method):
    llm = small_llm()
    result, watch = watched(llm, method)
    check_ledger(llm, result, by_model(watch))
    broken = {model: [replace(step, pairs=step.pairs - step.ids) for step in steps]
              for model, steps in by_model(watch).items()}
    with pytest.raises(AssertionError):  # broken twin: an id does not see itself
        check_ledger(llm, result, broken)


def test_shared_positions_count_once():
    llm = small_llm()
    _, watch = watched(llm, "sample", n=6, tokens=9)
    [prompt] = {turn.forwards[0].step.ids for turn in watch.turns[:1]}
    last = watch.turns[-1].forwards[0].step
    shared = prompt // 4 * 4
    assert last.rows == last.ids == 6
    assert prompt % 4 and last.cached == shared + 6 * -(-(prompt + 8 - shared) // 4) * 4
    assert watch.held[llm.model] == last.cached + 4  # the prompt keeps its last block, of which each has a copy
    assert last.pairs == 6 * (prompt + 8)


def test_the_clock_of_a_turn():
    """Every look at the clock is a second: one inside each forward, one inside the projection, the rest outside."""
    llm, seconds = small_llm(), itertools.count()
    with Watch(llm.engine, lambda: float(next(seconds))) as watch:
        llm.generate("how many", "sample", n=2, max_tokens=3, ignore_eos=True)
    assert [turn.forwards[0].seconds for turn in watch.turns] == [2, 2, 2]
    # began, forward's two, what watching took (one more), the projection's two, end: the last minus the first, less 1.
    assert [turn.seconds for turn in watch.turns] == [5, 5, 5]


def test_the_engine_is_left_as_it_was():
    llm = small_llm()
    before = {name: dict(vars(owner)) for name, owner in
              (("engine", llm.engine), ("loop", llm.engine.loop), ("target", llm.engine.loop.target))}
    result, _ = watched(llm, "best_of_n")
    for owner in (llm.engine, llm.engine.loop, llm.engine.loop.target, small_model().decoder):
        assert not {"step", "runner", "forward", "logits"} & set(vars(owner)), before
    assert llm.generate("how many apples", "best_of_n", n=8, max_tokens=12, ignore_eos=True).text == result.text
