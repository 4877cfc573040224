"""What is not computed twice: the ledger of searches over a long prompt, checked against what it must be.

    python benchmarks/work_saved.py [--n 64] [--prompt 256] [--new 128]

For every method: the prompt's forward tokens in each model, peak key-value tokens against their bound, the blocks
that a drop freed before the next step, and the tokens that each round of scores read. Exits with 1 if one is off.
"""

from __future__ import annotations

import argparse
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from common import RESULTS, command, in_words, keep, machine, text_of_length

import ramify
from ramify.api import LLM
from ramify.bench.run import GeneratedTokens
from ramify.types import Result

METHODS: dict[str, dict[str, Any]] = {
    "best_of_n": {}, "speculative_rejection": {"chunk": 32}, "treebon": {"layers": 4, "children": 4}}
Event = dict[str, Any]


def watched(llm: LLM, prompt: str, method: str, args: argparse.Namespace) -> tuple[Result, list[Event], int]:
    """One search; each of its events with the state of the caches at that moment; and the tokens it drew."""
    loop, events, counter, steps = llm.engine.loop, [], GeneratedTokens(), 0
    take_step = loop.step

    def step() -> Any:
        nonlocal steps
        steps += 1
        return take_step()

    def note(event: str, **fields: Any) -> None:
        counter.note(event, **fields)
        seen = loop.runner(llm.reward.model, "reward").tokens_seen  # type: ignore[union-attr]
        events.append({"event": event, "free": loop.target.pool.available, "read": seen, "step": steps, **fields})

    loop.step = step  # type: ignore[method-assign]
    try:
        result = llm.generate(prompt, method, n=args.n, seed=0, max_tokens=args.new, ignore_eos=True, trace=note,
                              **METHODS[method])
    finally:
        loop.step = take_step  # type: ignore[method-assign]
    return result, events, counter.total


def drops(events: list[Event]) -> list[dict[str, int]]:
    """Rounds of drops: how many candidates, the blocks that came free, and the steps that took."""
    rounds, before = [], events[0]
    for event, some in groupby(events, key=lambda e: e["event"]):
        group = list(some)
        if event == "drop":
            freed, steps = (group[-1][what] - before[what] for what in ("free", "step"))
            rounds.append({"candidates": len(group), "answer_tokens": group[0]["tokens"], "blocks_freed": freed,
                           "steps": steps, "carried_on": before["event"] == "fork"})
        before = group[-1]
    return rounds


def scores(events: list[Event], prompt: int) -> list[dict[str, int]]:
    """Rounds of scores: candidates, tokens the reward model read, and what reading everything again would take."""
    rounds, read = [], 0
    for event, some in groupby(events, key=lambda e: e["event"]):
        group = list(some)
        if event == "score":
            rounds.append({"candidates": len(group), "tokens_read": group[0]["read"] - read,
                           "reading_all_again": sum(prompt + e["tokens"] for e in group)})
            read = group[0]["read"]
    return rounds


def bound(events: list[Event], prompt: int, block_size: int) -> int:
    """The prompt and the live answers, each within one block, when they were longest together."""
    grown = [list(some) for event, some in groupby(events, key=lambda e: e["event"]) if event == "extend"]
    return prompt + max(sum(e["tokens"] + block_size for e in group) for group in grown)


def report(llm: LLM, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Every number of one method, and whether it is what it must be."""
    text = text_of_length(llm.model.tokenizer, args.prompt)
    prompt = len(llm.model.tokenizer.encode_prompt(text))
    reward = llm.reward.model  # type: ignore[union-attr]
    reward_prompt = len(reward.tokenizer.encode_prompt(text))
    start = llm.engine.loop.runner(reward, "reward").tokens_seen
    result, events, drawn = watched(llm, text, method, args)
    for event in events:
        event["read"] -= start
    size, usage = llm.engine.loop.target.pool.block_size, result.usage
    rounds, dropped = scores(events, reward_prompt), drops(events)
    # A score may read its turn's end again, and the token before it.
    closing = (len(reward.tokenizer.closing_ids) + 1) * sum(r["candidates"] for r in rounds)
    most = bound(events, prompt, size)
    own = [r["candidates"] * (-(-(prompt + r["answer_tokens"] - 1) // size) - prompt // size) for r in dropped]
    return {
        "method": method, "options": METHODS[method], "n": args.n, "prompt_tokens": prompt, "drawn_tokens": drawn,
        "target": {"tokens": usage.target.tokens, "recomputed": usage.target.recomputed,
                   "without_sharing": args.n * prompt + drawn},
        "reward": {"tokens": usage.reward.tokens, "prompt": reward_prompt},
        "peak_kv_tokens": usage.peak_kv_tokens, "peak_kv_bound": most,
        "drops": dropped, "blocks_of_dropped": own, "scores": rounds,
        "checks": {
            "prompt read once by the target": usage.target.tokens <= prompt + drawn and not usage.target.recomputed,
            "prompt read once by the reward model": usage.reward.tokens <= reward_prompt + drawn + closing,
            "partial scores read new tokens only": sum(r["tokens_read"] for r in rounds) == usage.reward.tokens,
            "peak within one block of prompt and live answers": usage.peak_kv_tokens <= most,
            "blocks free in the step of the drop": all(r["steps"] == 0 for r in dropped),
            "all blocks of the dropped are free": method != "speculative_rejection"
            or [r["blocks_freed"] for r in dropped] == own,
        },
    }


def table(reports: list[dict[str, Any]], hardware: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = ["# Work saved", "", f"Printed by `{command()}` on {in_words(hardware)}. Counts are exact.", ""]
    for entry in reports:
        target, reward, prompt = entry["target"], entry["reward"], entry["prompt_tokens"]
        lines += [
            f"## {entry['method']}, n = {entry['n']}, a prompt of {prompt} tokens", "",
            f"- Target: {target['tokens']} forward tokens for {entry['drawn_tokens']} drawn ones and the prompt once; "
            f"{target['without_sharing']} if every candidate read the prompt.",
            f"- Reward model: {reward['tokens']} forward tokens, the {reward['prompt']} of the prompt once.",
            f"- Peak: {entry['peak_kv_tokens']} key-value tokens; prompt and live answers within one block each are "
            f"{entry['peak_kv_bound']}.",
            *(f"- Drop of {drop['candidates']}{' whose children carry on' if drop['carried_on'] else ''} at "
              f"{drop['answer_tokens']} tokens: {drop['blocks_freed']} blocks free after {drop['steps']} further steps."
              for drop in entry["drops"]),
            *(f"- Score of {score['candidates']}: {score['tokens_read']} tokens read; {score['reading_all_again']} if "
              "read from the start." for score in entry["scores"]),
            *(f"- {'holds' if ok else '**FAILS**'}: {what}" for what, ok in entry["checks"].items()), ""]
    return "\n".join(lines)


def main() -> int:
    """Run all methods; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini-math")
    parser.add_argument("--reward", default="mini-math-reward", help="a scalar-head model")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens of every answer")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    llm = ramify.load(args.model, reward=args.reward, dedupe=False)
    llm.engine.loop.target.prefixes = None  # nothing is remembered from one method to the next
    reports = [report(llm, method, args) for method in METHODS]
    keep("work_saved", {"command": command(), "reports": reports}, table(reports, machine()), args.out)
    return 0 if all(ok for entry in reports for ok in entry["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
