"""What the commands of `ramify theory` read: numbers, laws and files of rewards. numpy waits until it is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ramify.errors import DataError, OptionError
from ramify.theory.checks import OutOfRange

if TYPE_CHECKING:
    from ramify.theory.law import Law

Pool = tuple[list[float], list[float]]  # rewards of one prompt's answers; 1 or 0 for correct, or nothing


@contextmanager
def user_mistakes() -> Iterator[None]:
    """Theory knows no errors of ours; on the command line a number out of range is the user's."""
    try:
        yield
    except OutOfRange as error:
        raise OptionError(*error.args) from error


def need_at_most_one(**options: object) -> None:
    """Refuse options of which each says the other's business."""
    given = ["--" + name.replace("_", "-") for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise OptionError("one of these options at most", " and ".join(given), f"drop {given[-1]}")


def numbers(text: str, option: str) -> list[float]:
    """Numbers separated by commas, whole ones as int."""
    try:
        found = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise OptionError(f"finite numbers for {option}", repr(text), "separate them by commas, 1,4,16")
    return [int(number) if number.is_integer() else number for number in found]


def whole(given: Sequence[float], option: str) -> list[int]:
    """The same numbers, none of which may have a fraction."""
    for number in given:
        if not isinstance(number, int):
            raise OptionError(f"whole numbers for {option}", f"{number:g}", "round it")
    return [int(number) for number in given]


def widths(text: str) -> list[float]:
    """Numbers of candidates, at least one."""
    if not text:
        raise OptionError("a number of candidates for --n", "nothing", "give one or several, 1,4,16")
    return numbers(text, "--n")


def read_levels(text: str) -> Law:
    """The law behind --levels."""
    from ramify.theory.law import finite_law

    return finite_law(*pairs(text, "--levels", "reward:probability", "0:0.7,1:0.3"))


def pairs(text: str, option: str, what: str, example: str) -> list[list[float]]:
    """The two columns of pairs separated by commas."""
    found = [part.split(":") for part in text.split(",")]
    if any(len(pair) != 2 for pair in found):
        raise OptionError(f"{what} pairs for {option}", repr(text), f"write them as {example}")
    return [numbers(",".join(column), option) for column in zip(*found, strict=True)]


def one_pool(path: Path | None) -> Law:
    """The empirical law of the one prompt in a file of rewards."""
    from ramify.theory.law import empirical_law

    if path is None:
        raise OptionError("a law of the reward", "neither --levels nor --rewards", "give one, --levels 0:0.7,1:0.3")
    pools = read_pools(path)
    if len(pools) != 1:
        raise OptionError("rewards of one prompt", f"{len(pools)} prompts in {path}", "give a file for each prompt")
    return empirical_law(pools[0][0])


def read_pools(path: Path) -> list[Pool]:
    """The rewards in a JSON lines file, by prompt, in order of appearance."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("a readable file of JSON lines for --rewards", f"{path}: {error}", "check it") from error
    pools: dict[str, Pool] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            for prompt, reward, correct in _read_line(line, f"line {number} of {path}"):
                rewards, verdicts = pools.setdefault(prompt or f"line {number}", ([], []))
                rewards.append(reward)
                verdicts += [] if correct is None else [float(correct)]
    if not pools:
        raise DataError("at least one reward", f"an empty file {path}", "score some answers first")
    for rewards, verdicts in pools.values():
        if len(verdicts) not in (0, len(rewards)):
            raise DataError('"correct" on every line of a prompt or on none', f"{len(verdicts)} of {len(rewards)}",
                            f"mend {path}")
    return list(pools.values())


def _read_line(line: str, where: str) -> Iterator[tuple[str, float, bool | None]]:
    """(prompt, reward, correct) of a line; a result of `generate` has several and is a prompt of its own."""
    try:
        item = json.loads(line, parse_int=float)
    except json.JSONDecodeError as error:
        raise DataError("JSON on every line", f"{where}: {error}", "write one JSON value a line") from error
    own = isinstance(item, dict) and isinstance(item.get("candidates"), list)
    for entry in item["candidates"] if own else [item]:
        entry = entry if isinstance(entry, dict) else {"reward": entry}
        reward, correct = entry.get("reward"), entry.get("correct")
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
            raise DataError("a finite reward for every answer", f"{where}: {json.dumps(reward)}",
                            "score all of them, for instance with best_of_n")
        if correct not in (None, 0, 1):
            raise DataError('"correct" to be true, false, 1 or 0', f"{where}: {json.dumps(correct)}", "mend it")
        yield "" if own else json.dumps(entry.get("prompt", "all")), float(reward), correct
