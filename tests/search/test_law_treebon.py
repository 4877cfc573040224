"""TreeBoN: its complete law against brute force, its limits, and what partial scores do."""

import pytest
from references import PROMPT, PROMPT_IDS, Case, best, check_law
from references import treebon as brute_force

from ramify.engine import Drop, Engine, Extend, Fork, Score
from ramify.errors import OptionError
from ramify.exact import best_of_n_law, output_law, policy_law
from ramify.rewards import FunctionReward
from ramify.search import best_of_n, treebon
from ramify.theory.treebon import one_survivor_law
from ramify.types import SamplingParams

SHORT, LONG = Case(seed=27, longest=2), Case(seed=12, longest=3)


def law_of(case, search):
    return output_law(case.model, PROMPT, search, max_tokens=case.longest)


def tree(case, **options):
    return lambda prompt: treebon(prompt, reward=case.reward, **options)


def first_letter(text):
    """A guide that differs from the reward and ties."""
    return float(text[:1] == "b")


@pytest.mark.parametrize(("case", "n", "layers", "children", "segment"), [
    (LONG, 2, 2, 2, 1),
    (LONG, 2, 2, 2, 2),
    pytest.param(LONG, 2, 3, 2, 1, marks=pytest.mark.slow),
    pytest.param(SHORT, 4, 2, 2, 1, marks=pytest.mark.slow),
    (SHORT, 3, 2, 3, 1),
    (SHORT, 3, 2, 2, 1),  # 3 // 2 = 1 survivor with two children: the tree shrinks
    (SHORT, 2, 2, 1, 1),
])
def test_the_tree_has_the_brute_force_law(case, n, layers, children, segment):
    law = law_of(case, tree(case, n=n, layers=layers, children=children, segment=segment))
    check_law(law, brute_force(case, n, layers, children, segment))


def test_a_guide_of_its_own_prunes_and_the_reward_chooses():
    guide = FunctionReward(lambda prompt, answer: first_letter(answer))
    law = law_of(LONG, tree(LONG, guide=guide, n=2, layers=2, children=2, segment=1))
    check_law(law, brute_force(LONG, 2, 2, 2, 1, guide=lambda answer: float(answer[:1] == (1,))))


def test_the_default_segment_shares_max_tokens_out():
    """ceil(3 / 2) = 2 tokens in the first of two layers."""
    law = law_of(LONG, tree(LONG, n=2, layers=2, children=2))
    check_law(law, brute_force(LONG, 2, 2, 2, segment=2))


@pytest.mark.parametrize(("n", "children"), [(2, 2), (3, 2)])
def test_one_survivor_is_a_chain_of_best_of_n(n, children):
    """theory.treebon states the law of two layers where nobody ends early."""
    case = Case(seed=5, longest=2, zeros=0.0)
    table = case.model.decoder.table
    case.model.decoder.table = lambda prefix: [0.7, 0.3, 0.0] if len(prefix) == len(PROMPT_IDS) else table(prefix)
    law = law_of(case, tree(case, n=n, layers=2, children=children, segment=1))
    ends = [(list(table((*PROMPT_IDS, first))), [case.score((first, last)) for last in range(3)]) for first in (0, 1)]
    stated = one_survivor_law([0.7, 0.3], [case.score((0,)), case.score((1,))], ends, n, children)
    check_law(law, {(first, last): stated[first][last] for first in (0, 1) for last in range(3)})


def test_one_layer_is_best_of_n_in_law():
    law = law_of(LONG, tree(LONG, n=2, layers=1, children=2))
    check_law(law, best_of_n_law(LONG.policy(), LONG.score, 2))


@pytest.mark.parametrize("layers", [2, 3])
def test_one_child_each_is_best_of_n_in_law(layers):
    law = law_of(LONG, tree(LONG, n=2, layers=layers, children=1, segment=1))
    check_law(law, best_of_n_law(LONG.policy(), LONG.score, 2))


def test_one_candidate_is_the_policy():
    law = law_of(LONG, tree(LONG, n=1, layers=3, children=1, segment=1))
    check_law(law, LONG.policy())


def test_one_layer_is_best_of_n_draw_for_draw():
    case = Case(seed=5, longest=6)
    engine, params = Engine(case.model, capacity=500, block_size=2), SamplingParams(max_tokens=6)
    for seed in range(25):
        plain = engine.result(PROMPT, lambda prompt: best_of_n(prompt, reward=case.reward, n=4), params, seed=seed)
        ours = engine.result(PROMPT, tree(case, n=4, layers=1), params, seed=seed)
        assert ours.candidates == plain.candidates
        assert (ours.chosen, ours.text) == (plain.chosen, plain.text)


def test_perfect_partial_scores_lose_nothing():
    """The first token decides the reward: the tree over the best first token is at least Best-of-n in every level."""
    case = Case(seed=6, longest=2, zeros=0.0)
    case.value = lambda prefix: float(prefix[len(PROMPT_IDS)])
    law = law_of(case, tree(case, n=2, layers=2, children=2, segment=1))
    stated = best_of_n_law(case.policy(), case.score, 2)
    for level in (0.0, 1.0, 2.0):
        ours, theirs = (sum(p for answer, p in told.items() if case.score(answer) == level) for told in (law, stated))
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_everybody_may_finish_in_the_first_layer():
    """A table that always ends at once: later layers are empty and the answer is there all the same."""
    case = Case(seed=1, longest=3)
    case.model.decoder.table = lambda prefix: [0.0, 0.0, 1.0]
    law = law_of(case, tree(case, n=2, layers=3, children=2, segment=1))
    check_law(law, {(2,): 1.0})


def test_segments_beyond_max_tokens_end_the_tree_early():
    law = law_of(SHORT, tree(SHORT, n=2, layers=4, children=2, segment=5))
    check_law(law, best_of_n_law(SHORT.policy(), SHORT.score, 2))


def test_the_result_tells_the_tree():
    case = Case(seed=5, longest=4, zeros=0.0)
    case.model.decoder.table = lambda prefix: [0.5, 0.5, 0.0]
    result = Engine(case.model, capacity=200, block_size=2, dedupe=False).result(
        PROMPT, tree(case, n=4, layers=2, children=2, segment=2), SamplingParams(max_tokens=4))
    kept = [c for c in result.candidates if c.state == "length"]
    dropped = [c for c in result.candidates if c.state == "dropped"]
    assert len(kept) == 4 and all(len(c.token_ids) == 4 and c.id.count(".") == 1 for c in kept)
    assert len(dropped) == 2 and all(c.dropped_at == 2 and c.id.count(".") == 0 for c in dropped)
    assert {c.id.split(".")[0] for c in kept}.isdisjoint(c.id for c in dropped)
    assert min(kept[0].scores[0][1], kept[2].scores[0][1]) >= max(c.reward for c in dropped)
    assert result.usage.target.prefill == 2 and result.usage.target.decode == 4 * 1 + 2 * 1 + 4 * 1


@pytest.mark.parametrize("options", [{"layers": 0}, {"children": 0}, {"n": 2, "children": 3}, {"segment": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(OptionError):
        law_of(SHORT, tree(SHORT, **{"n": 2, "children": 2, **options}))


def twin(*, cut_first=False, forget=False, keep=1, crowd=False, per_parent=False, finalists=None):
    """TreeBoN with n = 2, c = 2 and two layers of one token and the rest, whole or broken in one way."""

    def search(prompt):
        alive = everyone = yield Fork(prompt, 2)
        if cut_first:
            scores = yield Score(alive, SHORT.reward)
            alive, _ = alive.split_top(scores, 1)
        yield Extend(alive, tokens=1)
        ended = alive.of([]) if forget or crowd else alive.finished
        growing = alive if crowd else alive.unfinished
        scores = yield Score(growing, SHORT.reward)
        top, lost = growing.split_top(scores, min(len(growing), 1 if cut_first else keep))
        yield Drop(lost)
        alive = yield Fork(top, 2)
        yield Extend(alive)
        if per_parent:  # one child of each parent before the reward has its say
            alive = alive.of(alive[::2])
        ended += alive
        ended = ended or everyone
        yield Score(ended, SHORT.reward)
        return finalists(ended) if finalists else ended.best()

    return search


@pytest.mark.parametrize("search", [
    twin(cut_first=True),  # the cut comes before the scores mean anything
    twin(forget=True),  # finished candidates are lost with the layer
    twin(crowd=True),  # finished candidates take places in the tree
    twin(keep=2),  # nobody is pruned
    twin(per_parent=True),
    twin(finalists=lambda ended: min(ended, key=lambda one: one.score)),
    twin(finalists=lambda ended: max(ended, key=lambda one: one.score)),  # ties to the first, so to the short
])
def test_the_check_catches_a_broken_tree(search):
    stated = brute_force(SHORT, 2, 2, 2, 1)
    law = law_of(SHORT, search)
    with pytest.raises(AssertionError):
        check_law(law, stated)


def test_the_unbroken_twin_passes():
    check_law(law_of(SHORT, twin()), brute_force(SHORT, 2, 2, 2, 1))


def test_the_draw_for_draw_check_sees_ties():
    """The seeds above meet ties, or they would prove little."""
    case = Case(seed=5, longest=6)
    engine, params = Engine(case.model, capacity=500, block_size=2), SamplingParams(max_tokens=6)
    results = [engine.result(PROMPT, lambda prompt: best_of_n(prompt, reward=case.reward, n=4), params, seed=seed)
               for seed in range(25)]
    assert sum(len(best([c.reward for c in result.candidates])) > 1 for result in results) > 5


def test_policy_law_is_the_policy_of_the_case():
    check_law(policy_law(LONG.model, PROMPT, max_tokens=3), LONG.policy())
