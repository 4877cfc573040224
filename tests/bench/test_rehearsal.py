"""A rehearsal spends what the real search spends: token for token, step for step."""

from dataclasses import replace

import pytest
from small import small_llm

from ramify.bench.costs import Costs
from ramify.bench.memory import peak_cached, predict, total
from ramify.bench.rehearsal import rehearse
from ramify.bench.watch import Watch
from ramify.engine.runner import kv_bytes
from ramify.theory.step_cost import Step, StepCost

PROMPT, TOKENS = "how many apples does Tom have", 13
NEVER = {1: -100.0}  # an end of sequence in the last place would close the turn itself
CASES = [("sample", {"n": 3}, "none"), ("best_of_n", {"n": 8}, "classifier"), ("best_of_n", {"n": 5}, "open"),
         ("best_of_n", {"n": 5}, "implicit"), ("self_consistency", {"n": 4}, "none"),
         ("speculative_rejection", {"n": 8, "first": 3}, "classifier"),
         ("speculative_rejection", {"n": 8, "alpha": 0.7}, "implicit"),
         ("treebon", {"n": 8, "children": 2, "layers": 3}, "classifier"), ("treebon", {"n": 8}, "likelihood"),
         ("best_of_n", {"n": 40}, "classifier")]


def spent(usage, method):
    """What does not depend on chance: whose children survive in a tree decides what is shared and what was dropped."""
    tree = method == "treebon"
    pages = {role: {key: value for key, value in page.items() if not (tree and key == "dropped")}
             for role, page in usage.to_dict().items() if isinstance(page, dict)}
    return {**pages, "flops": usage.flops, **({} if tree else {"peak": usage.peak_kv_tokens})}


def steps(turns, method):
    return [[(forward.model, replace(forward.step, cached=0) if method == "treebon" else forward.step)
             for forward in turn.forwards] for turn in turns]


def check(llm, method, options, rehearsal):
    with Watch(llm.engine) as watch:
        result = llm.generate(PROMPT, method, max_tokens=TOKENS, ignore_eos=True, logit_bias=NEVER, **options)
    assert spent(rehearsal.usage, method) == spent(result.usage, method)
    assert steps(rehearsal.turns, method) == steps(watch.turns, method)
    assert method == "treebon" or rehearsal.cached == watch.held


@pytest.mark.parametrize(("method", "options", "reward"), CASES, ids=str)
def test_a_rehearsal_spends_what_the_search_spends(method, options, reward):
    llm = small_llm(reward, dedupe=False)

    def rehearsed(options):
        return rehearse(llm, *llm.plan(method, {**options, "max_tokens": TOKENS}), PROMPT)

    check(llm, method, options, rehearsed(options))
    with pytest.raises(AssertionError):  # broken twin: one candidate more
        check(llm, method, options, rehearsed({**options, "n": options["n"] + 1}))


def test_best_of_n_costs_its_closed_form():
    """The prompt, then a step per token whose rows share it, then a reward that reads every answer at once."""
    llm, n = small_llm("open"), 3
    price = StepCost(1e-3, 2e-5, 3e-6, 4e-9, 5e-8)
    rehearsal = rehearse(llm, *llm.plan("best_of_n", {"n": n, "max_tokens": TOKENS}), PROMPT)
    p = len(llm.model.tokenizer.encode_prompt(PROMPT))
    prompt = Step(p, 1, p * (p + 1) // 2, -(-p // 4) * 4)

    def cached(answer):
        return p // 4 * 4 + n * -(-(p % 4 + answer) // 4) * 4

    grown = [Step(n, n, n * (p + at), cached(at)) for at in range(1, TOKENS)]
    read = Step(n * TOKENS, n, n * (TOKENS * p + TOKENS * (TOKENS + 1) // 2), cached(TOKENS))
    expected = sum(map(price.seconds, [prompt, *grown, prompt, read]))
    costs = Costs({llm.model: price, llm.reward.model: price}, 0.0, 0.0)
    assert costs.seconds(rehearsal.turns) == pytest.approx(expected, rel=1e-12)


def test_memory_adds_up_the_models():
    llm = small_llm()
    rehearsal = rehearse(llm, *llm.plan("best_of_n", {"n": 8, "max_tokens": TOKENS}), PROMPT)
    memory = rehearsal.memory(interpreter=1000)
    p = len(llm.model.tokenizer.encode_prompt(PROMPT))
    target = predict(llm.model, cached=peak_cached(1, p, 8, TOKENS, 4), ids=p, rows=8)
    assert set(rehearsal.cached) == {llm.model, llm.reward.model} and rehearsal.cached[llm.model] * \
        kv_bytes(llm.model) == target["cache"]
    assert memory["cache"] > target["cache"] and memory["weights"] > target["weights"]
    assert memory["total"] == max(1000 + memory["weights"] + memory["cache"] + memory["activations"],
                                  1000 + memory["loading"])


def test_the_fullest_moment_may_be_while_a_model_is_loaded():
    parts = [{"weights": 100, "cache": 30, "activations": 5, "loading": 400},
             {"weights": 200, "cache": 10, "activations": 9, "loading": 250}]
    assert total(parts, 1000) == {"interpreter": 1000, "weights": 300, "cache": 40, "activations": 9,
                                  "loading": 600, "total": 1600}
    late = [{**part, "loading": part["weights"]} for part in parts]
    assert total(late, 1000)["total"] == 1349


def test_a_mistake_in_the_options_is_raised():
    llm = small_llm()
    search, params = llm.plan("treebon", {"n": 4, "children": 8, "max_tokens": 8})
    with pytest.raises(Exception, match="children between 1 and n"):
        rehearse(llm, search, params, PROMPT)
