"""The JSON Lines of `ramify generate`: prompts in, results out, and which of them are done already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramify.errors import DataError
from ramify.trace import Row, read_rows

FIELDS = ("id", "prompt", "messages", "meta")
ROLES = ("system", "user", "assistant")


@dataclass(slots=True, frozen=True)
class Job:
    """One line of a prompts file. `meta` is carried to the result untouched."""

    id: str
    prompt: str | list[dict[str, str]]
    line: int
    meta: Any = None


def read_jobs(path: str | Path) -> list[Job]:
    """Every prompt of the file, all of it checked before any work begins.

    A line has `prompt` (a text, or a list of chat messages; `messages` is another name for the latter), and may
    have `id` (default: its line number) and `meta` (anything).

    Raises:
        DataError: a line that is not such an object, an id used twice, or no prompt at all.
    """
    jobs: dict[str, Job] = {}
    for number, row in read_rows(path):
        job = _job(row, number, f"{path} line {number}")
        if job.id in jobs:
            raise DataError("an id of its own for every prompt", f"{job.id!r} at {path} lines {jobs[job.id].line} and "
                            f"{number}", "rename one")
        jobs[job.id] = job
    if not jobs:
        raise DataError("at least one prompt", f"none in {path}", 'write lines such as {"prompt": "..."}')
    return list(jobs.values())


def _job(row: Row, number: int, place: str) -> Job:
    if unknown := [name for name in row if name not in FIELDS]:
        raise DataError(f"only the fields {', '.join(FIELDS)} at {place}", ", ".join(unknown),
                        "rename them, or move what the result should carry into meta")
    if ("prompt" in row) == ("messages" in row):
        raise DataError(f"either prompt or messages at {place}", "both" if "prompt" in row else "neither",
                        "write one of them")
    prompt: Any = row.get("prompt", row.get("messages"))
    if not (_is_text(prompt) or (isinstance(prompt, list) and prompt and all(map(_is_message, prompt)))):
        raise DataError(f"a text, or messages with a role ({', '.join(ROLES)}) and content, at {place}",
                        repr(prompt)[:60], "mend that line")
    name = row.get("id", number)
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise DataError(f"a text or whole number as id at {place}", repr(name)[:60], "mend that line")
    return Job(str(name), prompt, number, row.get("meta"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_message(value: Any) -> bool:
    return (isinstance(value, dict) and set(value) == {"role", "content"} and value["role"] in ROLES
            and _is_text(value["content"]))


def result_row(job: Job, options: dict[str, Any], result: dict[str, Any]) -> Row:
    """The line of an --out file: what was asked, under which options, and the answer."""
    meta = {} if job.meta is None else {"meta": job.meta}
    return {"id": job.id, "prompt": job.prompt, **meta, "options": options, **result}


def unfinished(jobs: Iterable[Job], out: str | Path | None, options: dict[str, Any]) -> list[Job]:
    """The jobs that the --out file has no result for, same prompt and same options.

    Raises:
        DataError: a damaged line; a last one that a crash left without its end is passed over.
    """
    if out is None or not Path(out).is_file():
        return list(jobs)
    done = {row["id"]: row["prompt"] for _, row in read_rows(out, torn=True)
            if row.get("options") == options and "id" in row}
    return [job for job in jobs if done.get(job.id) != job.prompt]
