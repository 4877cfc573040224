"""A trace in the terminal: the tree of candidates, where they were dropped, and what it all cost."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ramify.trace.reader import Node, Traced
from ramify.types import ROLES

MARKS = {"finished": ("✓", "green"), "length": ("…", "yellow"), "dropped": ("✗", "red"),
         "branched": ("┬", "cyan"), "live": ("·", "default")}
COUNTS = ("prefill", "decode", "verify", "recomputed", "dropped", "cached", "calls")
TAIL = 60  # characters of an answer's end shown beside its candidate


def summary(request: Traced) -> dict[str, Any]:
    """The request for machines: what was asked, every candidate, and what it cost."""
    chosen = request.chosen
    return {
        "request": request.id, "prompt": request.prompt, "method": request.method, "n": request.n,
        "options": request.options, "events": request.num_events, "complete": request.result is not None,
        "chosen": chosen[-1] if chosen else None,
        "candidates": [
            {"id": node.id, "parent": node.parent, "tokens": node.tokens, "state": node.state,
             "dropped_at": node.dropped_at, "scores": [list(pair) for pair in node.scores],
             "on_chosen_path": node.id in chosen}
            for node in request.nodes.values() if node.id
        ],
        "usage": (request.result or {}).get("usage", {}),
    }


def overview(requests: list[Traced]) -> Table:
    """One line per request."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left",
                  title=f"{len(requests)} requests; --request NUMBER shows one")
    for heading in ("#", "method", "candidates", "dropped", "reward", "tokens", "prompt"):
        table.add_column(heading, justify="left" if heading in ("method", "prompt") else "right", no_wrap=True,
                         overflow="ellipsis")
    for number, request in enumerate(requests, 1):
        reward = (request.result or {}).get("reward")
        table.add_row(str(number), request.method, str(len(request.leaves)),
                      str(sum(node.state == "dropped" for node in request.leaves)),
                      "" if reward is None else f"{reward:+.3f}", str(_forward_tokens(request)),
                      Text(" ".join(request.prompt.split())))
    return table


def tree(request: Traced) -> Tree:
    """The candidates under their prompt; the chosen path is green and starred."""
    title = Text(request.method or "request", style="bold")
    title.append(f"  {plural(len(request.leaves), 'candidate')}, {plural(request.num_events, 'event')}", style="dim")
    if request.prompt:
        title.append("\n" + request.prompt.strip())
    root = Tree(title, guide_style="dim")
    chosen = set(request.chosen)
    waiting = [(root, child) for child in reversed(request.nodes[""].children)]
    while waiting:  # not recursive: a trace may be as deep as it likes
        branch, name = waiting.pop()
        node = request.nodes[name]
        twig = branch.add(_label(node, request.nodes[node.parent or ""], name in chosen))
        waiting += [(twig, child) for child in reversed(node.children)]
    return root


def _label(node: Node, parent: Node, chosen: bool) -> Text:
    """Such as `★ 0.2.1 ✗ 24 tokens  +0.40 at 24  …the end of the answer`."""
    mark, colour = MARKS[node.state]
    label = Text(no_wrap=True, overflow="ellipsis")
    label.append("★ " if chosen else "  ", style="bold green")
    label.append(node.id, style="bold green" if chosen else "bold")
    label.append(f" {mark} ", style=colour)
    label.append(f"dropped at {node.dropped_at}" if node.state == "dropped" else f"{node.tokens} tokens", style=colour)
    for at, score in node.scores:
        label.append(f"  {score:+.3f}", style="magenta")
        label.append(f"@{at}", style="dim")
    added = node.text.removeprefix(parent.text) if node.text.startswith(parent.text) else node.text
    tail = " ".join(added.split())
    label.append("  " + (tail if len(tail) <= TAIL else "…" + tail[1 - TAIL :]), style="italic" if chosen else "dim")
    return label


def footer(request: Traced) -> Table | Text:
    """The ledger: forward tokens per model role, FLOPs, peak memory and time."""
    if request.result is None:
        return Text("no result: the run was interrupted", style="yellow")
    usage = request.result["usage"]
    table = Table(box=box.SIMPLE_HEAD, title="forward tokens", title_justify="left", caption_justify="left",
                  caption=f"{usage['flops']:.3g} FLOPs · peak {usage['peak_kv_tokens']} KV tokens · "
                          f"{usage['wall_seconds']:.2f} s")
    table.add_column("model")
    for count in COUNTS:
        table.add_column(count, justify="right", no_wrap=True)
    for role in ROLES:
        if page := usage.get(role):
            table.add_row(role, *(str(page.get(count, 0)) for count in COUNTS))
    return table


def plural(count: int, noun: str) -> str:
    """Such as `1 event` and `2 events`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _forward_tokens(request: Traced) -> int:
    """Tokens that any model read, as `RoleUsage.tokens` counts them."""
    usage = (request.result or {}).get("usage", {})
    seen = ("prefill", "decode", "verify", "recomputed")
    return sum(usage.get(role, {}).get(count, 0) for role in ROLES for count in seen)
