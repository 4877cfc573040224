"""From events back to requests and their trees of candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramify.errors import DataError
from ramify.trace.jsonl import Row, read_rows


@dataclass(slots=True)
class Node:
    """One candidate as the trace tells it.

    state: live, finished, length, dropped or branched (given up because its children carry on).
    text: the whole answer so far. scores: (tokens at that moment, score), without those of its parents.
    """

    id: str
    parent: str | None
    children: list[str] = field(default_factory=list)
    tokens: int = 0
    text: str = ""
    state: str = "live"
    dropped_at: int | None = None
    scores: list[tuple[int, float]] = field(default_factory=list)


@dataclass(slots=True)
class Traced:
    """One request of a trace. `nodes` are in order of appearance, the prompt ("") first."""

    id: str
    prompt: str = ""
    method: str = ""
    n: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=lambda: {"": Node("", None)})
    result: Row | None = None
    num_events: int = 0

    @property
    def chosen(self) -> list[str]:
        """The ids from the first fork down to the chosen candidate; empty before the result."""
        at = (self.result or {}).get("chosen")
        path: list[str] = []
        while at and at in self.nodes:
            path.append(at)
            at = self.nodes[at].parent
        return path[::-1]

    @property
    def leaves(self) -> list[Node]:
        """The candidates that nothing continues."""
        return [node for node in self.nodes.values() if node.id and not node.children]


def read_trace(path: str | Path) -> list[Traced]:
    """The requests of a trace file, in order of appearance. Events of a kind it does not know only count.

    Raises:
        DataError: a file that cannot be read or is empty, or a damaged line, named by its number.
    """
    requests: list[Traced] = []
    live: dict[str, Traced] = {}
    for number, row in read_rows(path):
        try:
            _route(requests, live, row)
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"a whole trace event at {path} line {number}", f"{type(error).__name__}: {error}",
                            "check that this is a trace, and mend or remove that line") from error
    if not requests:
        raise DataError("a trace with at least one request", f"none in {path}", "write one with --trace")
    return requests


def _route(requests: list[Traced], live: dict[str, Traced], row: Row) -> None:
    """Hand an event to its request. A result ends a request: its id may come again, in a resumed run."""
    key = str(row["request"])
    if key not in live:
        live[key] = Traced(key)
        requests.append(live[key])
    live[key].num_events += 1
    _apply(live[key], row)
    if row["event"] == "result":
        del live[key]


def _apply(request: Traced, row: Row) -> None:
    """Let one event change its request."""
    match row["event"]:
        case "request":
            request.prompt, request.method = _text(row["prompt"]), row["method"]
            request.n, request.options = row.get("n"), row.get("options", {})
        case "fork":
            parent = _node(request, row.get("candidate", ""))
            for child in row["children"]:
                request.nodes[child] = Node(child, parent.id, tokens=parent.tokens, text=parent.text,
                                            state="live" if parent.state == "dropped" else parent.state)
                parent.children.append(child)
        case "extend" | "rewind":
            node = _node(request, row["candidate"])
            node.tokens, node.text = row["tokens"], row.get("text", node.text)
            node.state = row.get("state", node.state)
            node.scores = [(at, score) for at, score in node.scores if at <= node.tokens]
        case "score":
            _node(request, row["candidate"]).scores.append((row["tokens"], row["score"]))
        case "drop":
            node = _node(request, row["candidate"])
            node.state = "branched" if node.children else "dropped"
            node.dropped_at = None if node.children else row["tokens"]
        case "result":
            request.result, request.method = row, request.method or row["method"]


def _node(request: Traced, candidate: str) -> Node:
    """The candidate's node; one whose fork the trace lacks hangs from the prompt."""
    if candidate not in request.nodes:
        request.nodes[candidate] = Node(candidate, "")
        request.nodes[""].children.append(candidate)
    return request.nodes[candidate]


def _text(prompt: Any) -> str:
    """A prompt or conversation as one text."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
