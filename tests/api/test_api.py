"""The Python face: options, prompts and rewards that fit, and those that do not."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

import ramify.api
from ramify import LLM, METHODS, CapacityError, ModelError, OptionError, PromptError, Result, RewardError, load
from ramify.api import load_reward
from ramify.engine import Engine, Extend, Fork, Score
from ramify.exact import tabular_model
from ramify.rewards import FunctionReward


def count_a(prompt, answer):
    return answer.count("a") + len(answer) / 100


def make(reward=count_a, **engine):
    model = tabular_model(4, seed=3)
    return LLM(Engine(model, **{"capacity": 256, "block_size": 4, **engine}), reward and load_reward(reward))


SMALL = {"n": 3, "max_tokens": 5}
llm = make()


def assert_idle(used=None):
    used = used or llm
    assert used.engine.loop.requests == []
    for runner in (used.engine.loop.target, *used.engine.loop._runners.values()):
        runner.prefixes.clear()
        assert runner.pool.used == 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_and_its_result_is_complete(method):
    options = {**SMALL, "children": 2, "layers": 2} if method == "treebon" else SMALL
    result = llm.generate("ab", method, seed=4, **options)
    assert isinstance(result, Result) and result.method == method and result.seed == 4
    [chosen] = [row for row in result.candidates if row.id == result.chosen]
    assert chosen.text == result.text and chosen.reward == result.reward and chosen.tokens == len(chosen.token_ids)
    assert result.finish_reason == {"finished": "stop", "length": "length"}[chosen.state]
    if result.reward is not None:
        assert result.reward == max(row.reward for row in result.candidates) == count_a("", result.text)
    assert result.warnings == [] and set(result.to_dict()) >= {"text", "candidates", "usage", "speculative"}
    assert_idle()


BAD = {
    "a method that is not there": ({"method": "beam"}, "best_of_n"),
    "an option of another method": ({"alpha": 0.5}, "best_of_n"), "a misspelt one": ({"temprature": 1}, "temperature"),
    "no candidates": ({"n": 0}, "at least 1"), "half a candidate": ({"n": 2.5}, "whole"),
    "below zero": ({"temperature": -0.1}, "temperature"), "no number": ({"temperature": float("nan")}, "0 or more"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"), "no probability": ({"top_p": 0}, "top_p"),
    "an empty stop": ({"stop": ("",)}, "not empty"), "a token too far": ({"logit_bias": {4: 1.0}}, "below 4"),
    "no reward at all": ({"reward": 5}, "object with `score`"), "half a pair": ({"reward": "implicit:one"}, "POLICY"),
    "a cut above one": ({"method": "speculative_rejection", "alpha": 1.5}, "alpha"),
    "more children than candidates": ({"method": "treebon", "children": 9}, "children"),
    "a guide where none is taken": ({"guide": count_a}, "best_of_n"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_option_is_an_error_that_names_it(name):
    options, word = BAD[name]
    with pytest.raises(OptionError, match=word) as caught:
        llm.generate("ab", **{**SMALL, **options})
    assert caught.value.needed and caught.value.got and caught.value.do
    assert_idle()


def test_a_method_that_needs_a_reward_says_so():
    bare = make(reward=None)
    for method in ("best_of_n", "speculative_rejection", "treebon"):
        with pytest.raises(OptionError, match="reward"):
            bare.generate("ab", method, **SMALL)
    assert bare.generate("ab", "sample", **SMALL).reward is None
    with pytest.raises(OptionError, match="weighted votes"):
        bare.generate("ab", "self_consistency", beta=1.0, **SMALL)
    assert bare.generate("ab", reward=count_a, **SMALL).reward is not None


def test_what_the_engine_cannot_be_is_refused():
    for wrong in ({"capacity": 0}, {"block_size": 0}, {"step_tokens": 0}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            load("mini-math", **wrong)


@pytest.mark.parametrize(("prompt", "error"), [
    ("", PromptError), ([{"role": "user", "content": ""}], PromptError), ("abc" * 5, PromptError),
])  # fmt: skip
def test_a_bad_prompt_is_an_error_and_spoils_no_other(prompt, error, monkeypatch):
    encode = llm.model.tokenizer.encode_prompt
    text = lambda prompt: prompt if isinstance(prompt, str) else prompt[-1]["content"]  # noqa: E731
    monkeypatch.setattr(llm.model.tokenizer, "encode_prompt", lambda prompt: encode(text(prompt)))
    with pytest.raises(error):
        llm.generate(prompt, **SMALL)
    with pytest.raises(error):
        llm.generate(["ab", prompt, "ba"], **SMALL)
    outcomes = dict(llm.stream(["ab", prompt, "ba"], **SMALL))
    assert type(outcomes[1]) is error
    assert [outcomes[at].to_dict()["candidates"] for at in (0, 2)] == [
        llm.generate(text, **SMALL).to_dict()["candidates"] for text in ("ab", "ba")]  # fmt: skip
    assert_idle()


def test_a_prompt_that_does_not_fit_the_cache_is_an_error():
    with pytest.raises(CapacityError, match="raise capacity"):
        make(capacity=4).generate("ab", **SMALL)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "high", ZeroDivisionError])
def test_a_reward_that_fails_on_one_prompt_loses_no_other_result(value):
    def picky(prompt, answer):
        if prompt != "ba":
            return 1.0
        if value is ZeroDivisionError:
            raise value("of course")
        return value

    prompts = ["ab", "ba", "bb"]
    outcomes = dict(llm.stream(prompts, reward=picky, **SMALL))
    assert isinstance(outcomes[1], RewardError) and "picky" in str(outcomes[1])
    assert outcomes[0].reward == outcomes[2].reward == 1.0
    with pytest.raises(RewardError):
        llm.generate(prompts, reward=picky, **SMALL)
    assert_idle()


def test_many_prompts_come_back_in_order_whatever_ends_first(monkeypatch):
    prompts = ["abc", "a", "bb", "ccc", "ab"] * 3
    alone = [llm.generate(prompt, **SMALL).to_dict()["candidates"] for prompt in prompts]
    assert [result.to_dict()["candidates"] for result in llm.generate(prompts, **SMALL)] == alone
    monkeypatch.setattr(ramify.api, "ROWS", 6)  # two prompts of three candidates at a time
    assert [result.to_dict()["candidates"] for result in llm.generate(prompts, **SMALL)] == alone
    ends = [index for index, _ in llm.stream(prompts, **SMALL)]
    assert sorted(ends) == list(range(15)) != ends
    assert llm.generate([], **SMALL) == []
    assert_idle()


def test_a_stream_that_is_left_or_crossed_by_another_harms_nothing():
    want = [llm.generate(prompt, **SMALL).text for prompt in ("ab", "ba", "a")]
    left = llm.stream(["ab"] * 20, **SMALL)
    next(left)
    left.close()
    assert_idle()
    first, second = (llm.stream(["ab", "ba", "a"], **SMALL) for _ in range(2))
    begun = dict([next(first), next(second)])
    assert set(begun) <= {0, 1, 2}
    assert {index: result.text for index, result in second}.items() <= dict(enumerate(want)).items()
    assert {index: result.text for index, result in first}.items() <= dict(enumerate(want)).items()
    assert_idle()


def longest(prompt, *, reward, tries, extra=0):
    """A search of one's own."""
    group = yield Fork(prompt, tries + extra)
    yield Extend(group)
    scores = yield Score(group, reward)
    return group.best([len(sequence.tokens) + score / 100 for sequence, score in zip(group, scores, strict=True)])


def test_a_search_of_ones_own_is_passed_as_a_function():
    result = llm.generate("ab", longest, tries=4, max_tokens=6)
    assert result.method == "longest" and len(result.candidates) == 4
    assert len(result.text) == max(len(row.text) for row in result.candidates)
    assert len(llm.generate("ab", longest, tries=4, extra=2, max_tokens=6).candidates) == 6
    assert llm.generate("ab", partial(longest, tries=2), max_tokens=6).method == "longest"
    with pytest.raises(OptionError, match="tries"):
        llm.generate("ab", longest, max_tokens=6)
    with pytest.raises(OptionError, match="longest"):
        llm.generate("ab", longest, tries=4, width=3)


def test_an_exception_in_ones_own_search_comes_through_after_the_engine_is_clean():
    def broken(prompt):
        yield Fork(prompt, 3)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        llm.generate(["ab", "ba"], broken, max_tokens=5)
    assert_idle()
    assert llm.generate("ab", **SMALL).text is not None


class Judge:
    """A reward of one's own that can also be called."""

    name = "judge"

    def score(self, sequences):
        return [7.0 for _ in sequences]
        yield

    def __call__(self, prompt, answer):
        raise AssertionError("`score` comes first")


def test_rewards_are_functions_objects_or_names(monkeypatch):
    assert llm.generate("ab", reward=Judge(), **SMALL).reward == 7.0
    assert load_reward(count_a).name == "count_a" and isinstance(load_reward(count_a), FunctionReward)
    loads = []
    monkeypatch.setattr(ramify.api, "load_reward", lambda reward, device="": loads.append((reward, device)) or Judge())
    for _ in range(2):
        assert llm.generate("ab", reward="somewhere/else", **SMALL).reward == 7.0
    assert loads.count(("somewhere/else", "cpu")) == 1, "a reward is loaded once, not once per call"


def test_one_stop_string_may_stand_alone():
    results = [llm.generate("ab", "sample", n=8, max_tokens=6, stop=stop) for stop in ("bb", ("bb",), ["bb"])]
    assert len({tuple(row.text for row in result.candidates) for result in results}) == 1
    assert all("bb" not in row.text for row in results[0].candidates)


def test_a_models_warnings_are_in_the_result():
    warned = make()
    warned.model.warnings.append("positions end at 18")
    first, second = (warned.generate("ab", **SMALL) for _ in range(2))
    assert first.warnings == second.warnings == ["positions end at 18"] and first.warnings is not second.warnings


def test_events_tell_the_whole_search():
    events = []
    llm.generate("ab", trace=lambda event, **fields: events.append(SimpleNamespace(event=event, **fields)), **SMALL)
    assert [at.event for at in events] == ["request", "fork", *["extend"] * 3, *["score"] * 3, "result"]
    assert events[0].prompt == "ab" and events[0].method == "best_of_n" and events[0].n == 3
    assert events[1].children == ["0", "1", "2"] == [at.candidate for at in events[2:5]]


def test_an_order_that_follows_the_finish_is_caught(monkeypatch):
    """The broken twin of `many prompts come back in order`."""
    stream = LLM.stream
    monkeypatch.setattr(LLM, "stream", lambda *args, **options: enumerate(out for _, out in stream(*args, **options)))
    with pytest.raises(AssertionError):
        test_many_prompts_come_back_in_order_whatever_ends_first(monkeypatch)


def test_temperature_0_leaves_one_answer():
    greedy = llm.generate("ab", "sample", n=4, max_tokens=5, temperature=0)
    assert len({row.text for row in greedy.candidates}) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_for_a_gpu(dtype):
    with pytest.raises(OptionError, match=r"float64 on a CPU.*device=cuda"):
        ramify.load("mini-math", dtype=dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_clean_error():
    with pytest.raises(ModelError, match="device"):
        ramify.load("mini-math", device="cuda")
