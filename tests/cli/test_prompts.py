"""A prompts file is checked whole before any work; what is done already is known by id, prompt and options."""

import json

import pytest

from ramify.cli.prompts import Job, read_jobs, result_row, unfinished
from ramify.errors import DataError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_are_read(tmp_path):
    chat = [{"role": "user", "content": "Hi"}]
    rows = [{"prompt": "a"}, {"id": "x", "prompt": chat}, {"id": 7, "messages": chat, "meta": [1]}]
    path = write(tmp_path / "p.jsonl", rows)
    assert read_jobs(path) == [Job("1", "a", 1), Job("x", chat, 2), Job("7", chat, 3, [1])]


@pytest.mark.parametrize(("bad", "message"), [
    ({"promt": "a"}, "promt"), ({"id": "x"}, "neither"), ({"prompt": "a", "messages": []}, "both"),
    ({"prompt": " "}, "a text"), ({"prompt": 3}, "a text"), ({"prompt": []}, "messages"),
    ({"prompt": [{"role": "robot", "content": "a"}]}, "role"),
    ({"prompt": [{"role": "user", "content": ""}]}, "content"), ({"prompt": "a", "id": None}, "id"),
    ({"prompt": "a", "id": True}, "id"), ({"prompt": "a", "id": "3"}, "lines 3 and 17"),
    ({"prompt": "a", "answer": 3}, "meta"), ([1], "one JSON object"),
])
def test_a_bad_line_17_is_named(tmp_path, bad, message):
    path = write(tmp_path / "p.jsonl", [{"prompt": "a"}] * 16 + [bad])
    with pytest.raises(DataError, match=r"p\.jsonl lines? .*17") as error:
        read_jobs(path)
    assert message in str(error.value)


def test_no_prompts_is_an_error(tmp_path):
    with pytest.raises(DataError, match="at least one prompt"):
        read_jobs(write(tmp_path / "p.jsonl", []))


def test_only_the_same_prompt_under_the_same_options_is_done(tmp_path):
    jobs = [Job(name, f"prompt {name}", 0) for name in "abcd"]
    now, before = {"n": 4}, {"n": 8}
    rows = [result_row(jobs[0], now, {"text": "1"}), result_row(jobs[1], before, {"text": "2"}),
            result_row(Job("c", "another prompt", 0), now, {"text": "3"})]
    out = write(tmp_path / "out.jsonl", rows)
    assert [job.id for job in unfinished(jobs, out, now)] == ["b", "c", "d"]
    assert unfinished(jobs, tmp_path / "new.jsonl", now) == unfinished(jobs, None, now) == jobs
    out.write_text(out.read_text() + '{"id": "d", "pro')  # a crash
    assert [job.id for job in unfinished(jobs, out, now)] == ["b", "c", "d"]


def test_meta_travels():
    assert result_row(Job("a", "p", 1, {"answer": 3}), {}, {"text": "t"})["meta"] == {"answer": 3}
    assert "meta" not in result_row(Job("a", "p", 1), {}, {"text": "t"})
