"""The searches that ours are timed beside: written with transformers, and the same searches."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODELS = ("mini-math", "mini-math-reward", 48)


@pytest.fixture(scope="module")
def speed():
    pytest.importorskip("transformers")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import search_speed

        yield search_speed
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def sides(speed):
    return {"ramify": speed.Ours(*MODELS, "auto"), "transformers": speed.Transformers(*MODELS)}


def test_both_sides_answer(speed, sides):
    from ramify.bench.questions import embedded

    rows = [speed.one_problem(sides, question, 4, at) for at, question in enumerate(embedded(2, 0))]
    for row in rows:
        for method in speed.METHODS:
            for side in speed.SIDES:
                found = row[method][side]
                assert 4 <= found["written"] <= 4 * 48
                assert found["written"] - 4 * 48 < found["read"] and found["judged"] > 0
    for method in speed.METHODS:
        assert speed.summary(method, rows)["ratio"]["value"] > 0


@pytest.mark.parametrize("method", ["best_of_n", "treebon", "speculative_rejection"])
def test_best_of_one_is_the_greedy_answer(method, speed, sides, monkeypatch):
    """One candidate of the most likely tokens: the same text and the same reward on both sides."""
    from ramify.bench.questions import embedded

    ours, theirs = sides["ramify"].llm, sides["transformers"].searches
    generate = theirs.policy.generate
    monkeypatch.setattr(theirs.policy, "generate", lambda *args, **options: generate(
        *args, **options | {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}))
    options = {"children": 1} if method == "treebon" else {}
    for question in embedded(2, 0):
        result = ours.generate(question.prompt, method, n=1, temperature=0, max_tokens=48, **options)
        answer = getattr(theirs, method)(question.prompt, 1, **options)
        assert answer.ids == result.candidates[-1].token_ids
        assert answer.reward == pytest.approx(result.reward, abs=1e-3)


def test_rewards_are_those_of_the_engine(speed, sides):
    """Answers of unlike lengths, finished or not, in one padded batch; a token less must show."""
    from search_in_transformers import Answer, reward_of

    from ramify.bench.questions import embedded

    ours, theirs = sides["ramify"].llm, sides["transformers"].searches
    question = embedded(3, 0)[2].prompt
    result = ours.generate(question, "best_of_n", n=8, max_tokens=64)
    batch, answers = theirs.read(question), [Answer(each.token_ids, True) for each in result.candidates]
    assert len({len(answer.ids) for answer in answers}) > 1
    expected = torch.tensor([each.reward for each in result.candidates])
    found = torch.tensor(list(map(reward_of, theirs.score(batch, answers))))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    shorter = [Answer(answer.ids[:-1], True) for answer in answers]
    assert not torch.allclose(torch.tensor(list(map(reward_of, theirs.score(batch, shorter)))), expected, atol=1e-3)
