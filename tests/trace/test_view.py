"""What the terminal shows."""

import pytest
from rich.console import Console

from ramify.trace import Trace, read_trace
from ramify.trace.view import footer, overview, summary, tree


@pytest.fixture
def request_(tmp_path, events):
    with Trace(tmp_path / "run.jsonl") as trace:
        for event, fields in events:
            trace.write(event, request=0, **fields)
    [request] = read_trace(tmp_path / "run.jsonl")
    return request


def shown(renderable, width=120):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_tree_marks_drops_branches_and_the_chosen_path(request_):
    lines = shown(tree(request_)).splitlines()
    by_id = {line.split("─ ")[1].removeprefix("★").split()[0]: line for line in lines if "─ " in line}
    assert list(by_id) == ["0", "0.0", "0.1", "1", "2"]
    assert [name for name, line in by_id.items() if "★" in line] == ["0", "0.0"]
    assert "✗ dropped at 4" in by_id["1"] and "-0.500@4" in by_id["1"]
    assert "┬ 4 tokens" in by_id["0"] and "dropped" not in by_id["0"]
    assert by_id["0.0"].endswith("+0.900@6  = 7")  # only what it adds to its parent


def test_brackets_in_texts_are_not_markup(request_):
    request_.nodes["1"].text = "[bold]x[/nothing]"
    assert "[bold]x[/nothing]" in shown(tree(request_))


def test_a_long_answer_keeps_its_end_and_every_candidate_one_line(request_):
    request_.nodes["1"].text = "word " * 500 + "#### 12"
    assert "#### 12" in shown(tree(request_))
    assert len(shown(tree(request_), width=40).splitlines()) == 7


def test_a_deep_tree_does_not_exhaust_the_stack(tmp_path):
    with Trace(tmp_path / "deep.jsonl") as trace:
        name = ""
        for _ in range(300):
            child = f"{name}.0".lstrip(".")
            trace.write("fork", request=0, candidate=name, children=[child])
            name = child
    [request] = read_trace(tmp_path / "deep.jsonl")
    assert len(shown(tree(request), width=2000).splitlines()) == 301


def test_the_footer_adds_up(request_):
    text = shown(footer(request_))
    assert "target" in text and "1e+06 FLOPs" in text and "peak 20 KV tokens" in text
    assert "draft" not in text


def test_without_a_result_the_footer_says_why(request_):
    request_.result = None
    assert "interrupted" in shown(footer(request_))


def test_the_overview_counts(request_):
    line = next(line for line in shown(overview([request_])).splitlines() if "treebon" in line)
    assert line.split()[:6] == ["1", "treebon", "4", "1", "+0.900", "35"]


def test_the_summary_is_plain_data(request_):
    data = summary(request_)
    assert data["chosen"] == "0.0" and data["complete"] and data["usage"]["peak_kv_tokens"] == 20
    assert [row["id"] for row in data["candidates"] if row["on_chosen_path"]] == ["0", "0.0"]
    assert data["candidates"][1] == {"id": "1", "parent": "", "tokens": 4, "state": "dropped", "dropped_at": 4,
                                     "scores": [[4, -0.5]], "on_chosen_path": False}
