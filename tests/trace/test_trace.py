"""A trace tells the search again."""

import json

import pytest

from ramify.errors import DataError, StorageError
from ramify.trace import Trace, read_trace


def write(path, events, request=0, append=False):
    with Trace(path, append=append) as trace:
        for event, fields in events:
            trace.write(event, request=request, **fields)
    return read_trace(path)


def test_events_are_flat_lines_with_a_clock(tmp_path, events):
    write(tmp_path / "run.jsonl", events)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == [event for event, _ in events]
    times = [line["t"] for line in lines]
    assert times == sorted(times) and times[0] >= 0


def test_the_tree_comes_back(tmp_path, events):
    [request] = write(tmp_path / "run.jsonl", events)
    assert (request.prompt, request.method, request.n) == ("How many apples?", "treebon", 3)
    assert {name: node.parent for name, node in request.nodes.items()} == {
        "": None, "0": "", "1": "", "2": "", "0.0": "0", "0.1": "0"}
    assert {node.id: node.state for node in request.nodes.values() if node.id} == {
        "0": "branched", "1": "dropped", "2": "finished", "0.0": "finished", "0.1": "length"}
    assert request.nodes["1"].dropped_at == 4 and request.nodes["0"].dropped_at is None
    assert request.nodes["0.0"].scores == [(6, 0.9)] and request.nodes["0"].scores == [(4, 0.5)]
    assert request.chosen == ["0", "0.0"]
    assert [node.id for node in request.leaves] == ["1", "2", "0.0", "0.1"]
    assert request.num_events == len(events)  # the unknown "step" is counted and tolerated


def test_a_rewind_forgets_the_scores_behind_it(tmp_path, events):
    events[6:6] = [("rewind", {"candidate": "0", "tokens": 2, "state": "live"})]
    [request] = write(tmp_path / "run.jsonl", events)
    assert request.nodes["0"].scores == [] and request.nodes["0"].tokens == 2


def test_requests_may_be_interleaved_and_numbers_may_come_again(tmp_path, events):
    path = tmp_path / "run.jsonl"
    with Trace(path) as trace:
        for event, fields in events:
            for request in (0, 1):
                trace.write(event, request=request, **fields)
    assert [request.id for request in read_trace(path)] == ["0", "1"]
    requests = write(path, events, request=1, append=True)
    assert [request.id for request in requests] == ["0", "1", "1"]
    assert {request.num_events for request in requests} == {len(events)}


def test_an_interrupted_run_has_no_result(tmp_path, events):
    [request] = write(tmp_path / "run.jsonl", events[:-1])
    assert request.result is None and request.chosen == []


def test_a_conversation_reads_as_text(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    [request] = write(tmp_path / "run.jsonl", [("request", {"prompt": turns, "method": "sample", "n": 1})])
    assert request.prompt == "Hi\nHello"


def test_ten_thousand_events(tmp_path):
    path = tmp_path / "run.jsonl"
    with Trace(path) as trace:
        trace.write("fork", request=0, candidate="", children=[str(n) for n in range(100)])
        for tokens in range(1, 121):
            for n in range(100):
                trace.write("extend", request=0, candidate=str(n), tokens=tokens, text="x" * tokens, state="live")
    [request] = read_trace(path)
    assert request.num_events == 12_001
    assert {node.tokens for node in request.leaves} == {120}


@pytest.mark.parametrize("bad", ['{"event": "score", "request"', '{"request": 0}', '{"event": "extend"}',
                                 '{"event": "extend", "request": 0}', '{"event": "fork", "request": 0, "children": 3}'])
def test_a_damaged_line_is_named(tmp_path, events, bad):
    path = tmp_path / "run.jsonl"
    write(path, events[:2])
    path.write_text(path.read_text() + bad + "\n")
    with pytest.raises(DataError, match=r"run\.jsonl line 3"):
        read_trace(path)


def test_an_empty_trace_says_so(tmp_path):
    (tmp_path / "run.jsonl").touch()
    with pytest.raises(DataError, match="at least one request"):
        read_trace(tmp_path / "run.jsonl")


def test_a_full_disk_is_reported_once():
    with pytest.raises(StorageError, match="No space left"), Trace("/dev/full") as trace:
        trace.write("fork", request=0, children=[])
