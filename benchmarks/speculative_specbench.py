"""Spec-Bench's protocol (arXiv 2401.07851) with the embedded pair: every way to draft, one question at a time.

    python benchmarks/speculative_specbench.py [--questions 10] [--specbench spec_bench.jsonl[.xz]] [--threads 1]

Batch 1, greedy and at temperature 1, every prompt read anew. The speed of an answer is its tokens over its time; a
method's speed-up is the mean of its speeds over the mean of plain decoding's, as Spec-Bench has it. Methods take turns
on every question, and all count their own tokens, the end of sequence included.

Then transformers: `generate` plain and with `assistant_model=` on the same weights at batch 1; and at batch 16, which
assisted generation refuses, plain `generate` beside ours with and without drafts.
"""

from __future__ import annotations

import argparse
import json
import lzma
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from common import RESULTS, command, in_words, keep, machine

import ramify
from ramify.api import LLM
from ramify.bench.speculative import PLAIN, Cell, Workload
from ramify.minis.problems import problems
from ramify.models import load_model
from ramify.speculative import Draft

Answer = tuple[int, int, float, str]  # tokens, target calls, seconds, text
Ask = Callable[[str, float, int], Answer]  # prompt, temperature, seed

OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("", {}),
    "ngram, 8": ("ngram", {"draft_length": 8, "verifier": "token"}),
    "suffix, 8": ("suffix", {"draft_length": 8, "verifier": "token"}),
    "draft 4, token": ("model", {"draft_length": 4, "verifier": "token"}),
    "draft 4, block": ("model", {"draft_length": 4, "verifier": "block"}),
    "draft 4, coupled": ("model", {"draft_length": 4, "verifier": "coupled"}),
    "tree 3x1x1x1, without replacement": ("model", {"tree": "3x1x1x1", "verifier": "traversal"}),
    "tree 3x1x1x1, independent": ("model", {"tree": "iid:3x1x1x1", "verifier": "traversal"}),
    "suffix + draft 4, block": ("suffix+model", {"draft_length": 4, "verifier": "block"}),
    "measured length, coupled": ("model", {}),
}
BATCH = [PLAIN, Cell("block", 2), Cell("block", 4), Cell("coupled", 4), Cell("coupled")]


def ours(base: LLM, max_tokens: int) -> dict[str, Ask]:
    """The methods of `OWN` on one engine."""
    assert base.draft is not None
    drafts = {"": None, "model": base.draft, "suffix+model": Draft(base.draft.model, "suffix"),
              "ngram": Draft(None, "ngram"), "suffix": Draft(None, "suffix")}

    def asker(llm: LLM, options: dict[str, Any]) -> Ask:
        def ask(prompt: str, temperature: float, seed: int) -> Answer:
            began = time.perf_counter()
            result = llm.generate(prompt, "sample", n=1, seed=seed, temperature=temperature, max_tokens=max_tokens,
                                  **options)
            seconds = time.perf_counter() - began
            return result.candidates[0].tokens, result.usage.target.calls, seconds, result.text

        return ask

    return {name: asker(LLM(base.engine, None, drafts[source]), options) for name, (source, options) in OWN.items()}


class Transformers:
    """The same pair in transformers."""

    def __init__(self, model: str, draft: str, max_tokens: int) -> None:
        from transformers import AutoModelForCausalLM

        source = load_model(model)
        self.tokenizer, self.max_tokens = source.tokenizer, max_tokens
        self.model, self.draft = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
                                  for path in (source.path, load_model(draft).path))
        self.calls = 0
        self.model.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))

    def asks(self) -> dict[str, Ask]:
        """Plain and assisted, with the defaults of `generate`."""
        return {"transformers, plain": self._ask(None), "transformers, assisted": self._ask(self.draft)}

    def _ask(self, assistant: Any) -> Ask:
        def ask(prompt: str, temperature: float, seed: int) -> Answer:
            self.calls, began = 0, time.perf_counter()
            out = self.generate([prompt], temperature, seed, assistant)
            seconds = time.perf_counter() - began
            return len(out[0]), self.calls, seconds, self.tokenizer.decode(out[0])

        return ask

    def generate(self, prompts: Sequence[str], temperature: float, seed: int, assistant: Any = None) -> list[list[int]]:
        """New ids of every prompt, up to and with the end of sequence. Padded on the left."""
        rows = [self.tokenizer.encode_prompt(prompt) for prompt in prompts]
        width, [end] = max(map(len, rows)), self.tokenizer.eos_ids
        ids = torch.tensor([[end] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        torch.manual_seed(seed)
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {
            "do_sample": False}
        more = {} if assistant is None else {"assistant_model": assistant}
        out = self.model.generate(ids, attention_mask=mask, max_new_tokens=self.max_tokens, pad_token_id=end, **how,
                                  **more)[:, width:].tolist()
        return [row[: row.index(end) + 1] if end in row else row for row in out]


def one_by_one(asks: dict[str, Ask], prompts: list[str], temperature: float) -> list[dict[str, Any]]:
    """Every method on every question, by turns."""
    for ask in asks.values():
        ask(prompts[0], temperature, 0)  # warm up
    answers: dict[str, list[Answer]] = {name: [] for name in asks}
    for seed, prompt in enumerate(prompts):
        for name, ask in asks.items():
            answers[name].append(ask(prompt, temperature, seed))
    base = mean(tokens / seconds for tokens, _, seconds, _ in answers["plain"])
    texts = [text for *_, text in answers["plain"]]
    rows = []
    for name, some in answers.items():
        tokens, calls = sum(answer[0] for answer in some), sum(answer[1] for answer in some)
        speed = mean(count / seconds for count, _, seconds, _ in some)
        rows.append({"method": name, "tokens": tokens, "target_calls": calls, "tokens_per_call": tokens / calls,
                     "calls_saved": 1 - calls / tokens, "tokens_per_second": speed, "speedup": speed / base,
                     "same_text": sum(a[3] == text for a, text in zip(some, texts, strict=True))})
    return rows


def sixteen(llm: LLM, other: Transformers, prompts: list[str], repeats: int, max_tokens: int) -> dict[str, Any]:
    """Batch 16, by turns: ours, transformers' plain `generate`, and what it says to an assistant."""
    workload = Workload(prompts, 16, {"max_tokens": max_tokens})
    batches = [prompts[at : at + 16] for at in range(0, len(prompts), 16)]
    paces: dict[str, list[float]] = {}
    calls: dict[str, float] = {}
    for repeat in range(-1, repeats):  # the first one warms up
        for cell in BATCH:
            run = workload.run(llm, cell, repeat)
            paces.setdefault(cell.name, []).append(run.seconds / run.tokens)
            calls[cell.name] = run.tokens / run.calls
        began = time.perf_counter()
        tokens = sum(len(row) for batch in batches for row in other.generate(batch, 1.0, repeat + 1))
        paces.setdefault("transformers, plain", []).append((time.perf_counter() - began) / tokens)
    try:
        other.generate(batches[0], 1.0, 0, other.draft)
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    seconds = {name: median(some[1:]) for name, some in paces.items()}
    return {"prompts": len(prompts), "assisted_says": refusal, "rows": [
        {"method": name, "tokens_per_call": calls.get(name), "tokens_per_second": 1 / pace,
         "speedup": seconds["plain"] / pace} for name, pace in seconds.items()]}


def spec_bench(path: Path, llm: LLM, count: int, max_tokens: int) -> list[str]:
    """First turns, evenly spread over the file's categories, cut to what the context holds beside an answer."""
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    rows = sorted(rows, key=lambda row: row["category"])[:: max(1, len(rows) // count)][:count]
    tokenizer, room = llm.model.tokenizer, llm.model.decoder.config.max_positions - max_tokens - 40
    return [tokenizer.decode(tokenizer.encode(row["prompt"][-1]["content"])[:room]) for row in rows]


def table(report: dict[str, Any], hardware: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = ["# Spec-Bench's protocol on the embedded pair", "",
             f"{report['draft']} drafting for {report['model']}. Printed by `{command()}` on {in_words(hardware)}. "
             "Speed-up: mean of per-question tokens/second over that of plain decoding. mini-math does not understand "
             "Spec-Bench's questions: there the numbers tell how the methods fare on text that is nothing like what it "
             "was trained on.", ""]
    for part in report["parts"]:
        lines += [f"## {part['name']}, temperature {part['temperature']:g}: {part['questions']} questions, batch 1", "",
                  "| method | accepted tokens per call | target calls saved | speed-up | same text as plain |",
                  "|---|---|---|---|---|"]
        lines += [f"| {row['method']} | {row['tokens_per_call']:.2f} | {row['calls_saved']:.0%} | "
                  f"{row['speedup']:.2f} | {row['same_text']} of {part['questions']} |" for row in part["rows"]]
        lines.append("")
    batch = report["batch"]
    lines += [f"## Batch 16, temperature 1: {batch['prompts']} problems", "", "| method | tokens per call | speed-up |",
              "|---|---|---|"]
    for row in batch["rows"]:
        tokens = "-" if row["tokens_per_call"] is None else f"{row['tokens_per_call']:.2f}"
        lines.append(f"| {row['method']} | {tokens} | {row['speedup']:.2f} |")
    says = f"transformers' assisted generation at batch 16 says: {batch['assisted_says']!r}."
    return "\n".join([*lines, "", says, ""])


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini-math")
    parser.add_argument("--draft", default="mini-math-draft")
    parser.add_argument("--questions", type=int, default=10, help="of each set")
    parser.add_argument("--specbench", type=Path, help="its questions, a JSON object with prompt and category a line")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="of batch 16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hardware = machine()
    llm = ramify.load(args.model, draft=args.draft, reward=None)
    llm.engine.loop.target.prefixes = None  # every question pays for its own prompt
    other = Transformers(args.model, args.draft, args.max_tokens)
    asks = ours(llm, args.max_tokens) | other.asks()
    own = [problem.question for problem in problems("evaluation", max(32, args.questions), 0)]
    sets = {"Evaluation problems": own[: args.questions]}
    if args.specbench:
        sets["Spec-Bench"] = spec_bench(args.specbench, llm, args.questions, args.max_tokens)
    parts = [{"name": name, "temperature": temperature, "questions": len(prompts),
              "rows": one_by_one(asks, prompts, temperature)} for name, prompts in sets.items()
             for temperature in (0.0, 1.0)]
    report = {"command": command(), "machine": hardware, "model": args.model, "draft": args.draft, "parts": parts,
              "batch": sixteen(llm, other, own[:32], args.repeats, args.max_tokens)}
    keep("speculative_specbench", report, table(report, hardware), args.out)


if __name__ == "__main__":
    main()
