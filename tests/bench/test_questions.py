"""Questions and the judging of answers."""

import pytest

from ramify.bench.questions import embedded, from_file
from ramify.errors import DataError
from ramify.minis.problems import problems


def test_embedded_questions_know_their_answers():
    for question, problem in zip(embedded(5, seed=3), problems("evaluation", 5, 3), strict=True):
        assert question.prompt == problem.question
        assert question.is_right(problem.solution)
        assert not question.is_right(problem.solution + "1") and not question.is_right("")


def test_own_problems(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "2+2?", "answer": 4}\n\n{"prompt": "Capital of France?", "answer": "#### Paris"}\n'
                    '{"messages": [{"role": "user", "content": "x"}], "answer": "1,000"}\n')
    four, paris, thousand = from_file(file)
    assert four.is_right("so it is 4.0") and four.is_right("#### 4") and not four.is_right("4 or 5")
    assert paris.is_right("It is #### Paris") and not paris.is_right("#### London") and not paris.is_right("Paris")
    assert thousand.is_right("\\boxed{1000}") and thousand.prompt == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("line", ['{"answer": 3}', '{"prompt": "", "answer": 3}', '{"prompt": "x"}',
                                  '{"prompt": "x", "answer": true}', '{"prompt": "x", "answer": ""}'])
def test_bad_lines_are_named(tmp_path, line):
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "x", "answer": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=r"own\.jsonl line 2"):
        from_file(file)


def test_an_empty_file_is_a_mistake(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text("\n")
    with pytest.raises(DataError, match="at least one problem"):
        from_file(file)
