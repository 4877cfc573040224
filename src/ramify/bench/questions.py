"""What a benchmark asks, and whether an answer is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ramify.errors import DataError
from ramify.minis.problems import is_correct, problems
from ramify.search.self_consistency import final_answer
from ramify.trace import Row, read_rows


@dataclass(slots=True, frozen=True)
class Question:
    """A prompt (text or chat messages) and the judge of its answers."""

    prompt: Any
    is_right: Callable[[str], bool]


def embedded(count: int, seed: int) -> list[Question]:
    """`count` problems of the embedded evaluation split; the last line of an answer must be `#### number`."""
    return [Question(problem.question, partial(is_correct, problem)) for problem in problems("evaluation", count, seed)]


def from_file(path: str | Path) -> list[Question]:
    """Problems of a JSON lines file: `prompt` (or `messages`) and `answer`.

    An answer is right when what follows its last `####`, stands in its last `\\boxed{}` or is its last number
    equals `answer`, as a number if both are numbers, else letter by letter.

    Raises:
        DataError: a line without a prompt or an answer, or no line at all.
    """
    found = [_question(row, f"{path} line {number}") for number, row in read_rows(path)]
    if not found:
        raise DataError("at least one problem", f"none in {path}", 'write lines such as {"prompt": "...", "answer": 7}')
    return found


def _question(row: Row, place: str) -> Question:
    prompt, answer = row.get("prompt", row.get("messages")), row.get("answer")
    if not prompt or not isinstance(prompt, str | list):
        raise DataError(f"a prompt or messages at {place}", repr(prompt), "mend that line")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        raise DataError(f"a text or a number as answer at {place}", repr(answer), "mend that line")
    return Question(prompt, partial(_same, final_answer(str(answer)) or str(answer).strip()))


def _same(expected: str, text: str) -> bool:
    got = final_answer(text)
    if got is None:
        return False
    try:
        return float(got) == float(expected)
    except ValueError:
        return got == expected
