"""An error ends the request it belongs to, gives its blocks back, and no other request notices."""

from functools import partial

import pytest
from tiny import Doubles, assert_empty, finish, tiny_engine, tiny_model

from ramify.engine import Drop, Extend, Fork, Peek
from ramify.engine.loop import Loop
from ramify.errors import ModelError, PromptError, RewardError, StorageError
from ramify.rewards import FunctionReward, ImplicitReward, SequenceReward
from ramify.search import best_of_n
from ramify.types import SamplingParams

TARGET, REWARD, POLICY = (tiny_model(seed) for seed in range(3))
OTHER = tiny_model(3, tokenizer=Doubles())
PARAMS = SamplingParams(max_tokens=8)
GOOD = partial(best_of_n, reward=SequenceReward(REWARD), n=3)


class Scores:
    name = "scores"

    def __init__(self, scores):
        self.scores = scores

    def score(self, sequences):
        yield Peek(sequences, POLICY, "reward")
        return self.scores(sequences)


def raising(prompt):
    group = yield Fork(prompt, 3)
    yield Extend(group, tokens=2)
    yield Drop(group[:1])
    return {}["a bug in a search"]


def yielding(what):
    def search(prompt):
        group = yield Fork(prompt, 3)
        yield Extend(group, tokens=2)
        yield what
        return group[0]

    return search


def returning_nothing(prompt):
    yield Fork(prompt, 2)


def scoring(reward):
    return partial(best_of_n, reward=reward, n=3)


OWN = {
    "a function that raises": (scoring(FunctionReward(lambda prompt, answer: 1 / 0)), RewardError),
    "a function that returns None": (scoring(FunctionReward(lambda prompt, answer: None)), RewardError),
    "a function that returns NaN": (scoring(FunctionReward(lambda prompt, answer: float("nan"))), RewardError),
    "a function that returns infinity": (scoring(FunctionReward(lambda prompt, answer: float("inf"))), RewardError),
    "a function that returns a word": (scoring(FunctionReward(lambda prompt, answer: "high")), RewardError),
    "too few scores": (scoring(Scores(lambda sequences: [1.0])), RewardError),
    "no scores": (scoring(Scores(lambda sequences: [None] * len(sequences))), RewardError),
    "log-probabilities of another tokenizer": (scoring(ImplicitReward(OTHER, OTHER)), ModelError),
    "a reward whose context is too short": (scoring(SequenceReward(tiny_model(1, positions=12))), PromptError),
}  # fmt: skip
FOREIGN = {
    "a bug in a search": (raising, KeyError), "a bug in a reward": (scoring(Scores(lambda some: some[9])), IndexError),
    "no command": (yielding("Extend"), TypeError), "no candidate": (returning_nothing, TypeError),
}  # fmt: skip


def run_among_others(search):
    """The failing request between two good ones, which must come out as if alone."""
    engine = tiny_engine(TARGET)
    requests = [engine.submit("abcab", each, PARAMS, seed=seed) for seed, each in enumerate((GOOD, search, GOOD))]
    finish(engine, requests)
    for seed in (0, 2):
        alone = tiny_engine(TARGET).result("abcab", GOOD, PARAMS, seed=seed)
        assert requests[seed].outcome.to_dict()["candidates"] == alone.to_dict()["candidates"]
    assert_empty(engine)
    assert engine.result("abcab", GOOD, PARAMS).reward is not None
    return requests[1]


@pytest.mark.parametrize("name", OWN)
def test_an_error_is_the_outcome_of_its_request_alone(name):
    search, kind = OWN[name]
    outcome = run_among_others(search).outcome
    assert type(outcome) is kind and outcome.needed and outcome.got and outcome.do


@pytest.mark.parametrize("name", FOREIGN)
def test_an_exception_of_ones_own_code_comes_out_as_it_was(name):
    search, kind = FOREIGN[name]
    failed = run_among_others(search)
    with pytest.raises(kind):
        _ = failed.outcome
    with pytest.raises(kind):
        tiny_engine(TARGET).result("abcab", search, PARAMS)


def test_a_trace_that_cannot_be_written_ends_its_request_alone():
    def full(event, **fields):
        if event == "score":
            raise StorageError("a line on disk", "no space left", "free some")

    engine = tiny_engine(TARGET)
    failed = engine.submit("abcab", GOOD, PARAMS, trace=full)
    good = engine.submit("abcab", GOOD, PARAMS)
    finish(engine, [failed, good])
    assert isinstance(failed.outcome, StorageError) and good.outcome.text is not None
    assert_empty(engine)


def test_an_interruption_gives_back_every_block():
    def interrupted(prompt, answer):
        raise KeyboardInterrupt

    engine = tiny_engine(TARGET)
    engine.submit("abcab", GOOD, PARAMS)
    stopped = engine.submit("abcab", scoring(FunctionReward(interrupted)), PARAMS)
    with pytest.raises(KeyboardInterrupt):
        finish(engine, [stopped])
    assert engine.loop.requests == []
    assert_empty(engine)


def test_an_engine_that_lets_exceptions_through_is_caught(monkeypatch):
    def drain(loop, request):
        request.jobs = [job for job in request.jobs if not job.done]
        reply = None
        while not request.jobs and not request.finished:
            reply = loop._resume(request, reply)

    monkeypatch.setattr(Loop, "_drain", drain)
    with pytest.raises(KeyError):
        run_among_others(raising)
