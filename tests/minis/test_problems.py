"""The generator: deterministic, disjoint splits, and solutions whose every line is true."""

import re

import pytest

from ramify.minis.problems import LIMIT, Problem, answer_of, is_correct, problem_stream, problems, split_of

SPLITS = ("train", "validation", "evaluation")
LINE = re.compile(r"(\d+)([-+*/])(\d+)=(\d+) [a-z]+")


def wrong_lines(solution):
    """Lines of arithmetic that do not hold or are not arithmetic, and a final answer that is not the last result."""
    *steps, final = solution.split("\n")
    wrong, result = [], None
    for step in steps:
        match = LINE.fullmatch(step)
        if match is None:
            wrong.append(step)
            continue
        a, sign, b, result = int(match[1]), match[2], int(match[3]), int(match[4])
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
        if value != result:
            wrong.append(step)
    return wrong + ([final] if final != f"#### {result}" else [])


def shared(lists):
    seen = [{problem.question for problem in found} for found in lists]
    return (seen[0] & seen[1]) | (seen[0] & seen[2]) | (seen[1] & seen[2])


@pytest.fixture(scope="module")
def by_split():
    return [problems(split, 300, seed=7) for split in SPLITS]


def test_same_arguments_give_the_same_problems(by_split):
    assert problems("train", 300, seed=7) == by_split[0]
    assert problems("train", 100, seed=7) == by_split[0][:100]
    assert problems("train", 300, seed=8) != by_split[0]


def test_splits_share_no_problem(by_split):
    assert shared(by_split) == set()
    for split, found in zip(SPLITS, by_split, strict=True):
        assert {split_of(problem.question) for problem in found} == {split}
        assert len({problem.question for problem in found}) == 300


def test_a_leak_between_splits_is_caught(by_split):
    train, validation, evaluation = by_split
    assert shared([train, validation, [*evaluation, train[3]]]) == {train[3].question}


def test_every_line_of_every_solution_is_true(by_split):
    for problem in (problem for found in by_split for problem in found):
        assert wrong_lines(problem.solution) == []
        assert problem.solution.count("\n") == problem.steps
        assert 2 <= problem.steps <= 5
        assert 0 < problem.answer <= LIMIT
        assert is_correct(problem, problem.solution)


def test_a_wrong_line_is_caught():
    assert wrong_lines("3*6=19 apples\n#### 19") == ["3*6=19 apples"]
    assert wrong_lines("3*6=18 apples\n#### 19") == ["#### 19"]
    assert wrong_lines("7/2=3 apples\n#### 3") == ["7/2=3 apples"]


def test_numbers_of_the_solution_come_from_the_question_or_from_earlier_lines(by_split):
    words = {"twice": {"2"}, "alf": {"2"}}
    for problem in (problem for found in by_split for problem in found):
        known = set(re.findall(r"\d+", problem.question))
        known |= {n for word, numbers in words.items() if word in problem.question for n in numbers}
        for a, _, b, result in LINE.findall(problem.solution):
            assert {a, b} <= known, problem
            known.add(result)


def test_stream_keeps_to_the_steps_asked_for():
    stream = problem_stream("train", 0, (1, 2))
    assert {next(stream).steps for _ in range(200)} == {1, 2}


@pytest.mark.parametrize(
    ("text", "answer"),
    [("#### 27", 27), ("9*3=27 eggs\n#### 27\n", 27), ("#### 5 #### 27", 27), ("#### -4", -4), ("27", None),
     ("####", None), ("#### 27 eggs", None), ("#### 2 7", None), ("#### 99999999999", None), ("", None)],
)  # fmt: skip
def test_answer_is_what_follows_the_last_mark(text, answer):
    assert answer_of(text) == answer
    assert is_correct(Problem("q", "s", 27, 1), text) == (answer == 27)
