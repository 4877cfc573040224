"""The shapes of work that decide an engine's speed, and runs of them: many prompts, many candidates, long prompts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from ramify.bench.memory import peak_cached, predict, room
from ramify.bench.watch import Turn, Watch
from ramify.engine.runner import kv_bytes
from ramify.errors import ModelError, OptionError

if TYPE_CHECKING:
    from ramify.api import LLM
    from ramify.engine.runner import Runner
    from ramify.models import Tokenizer
    from ramify.trace import Row
    from ramify.types import Result

LETTERS = "abcdefghijklmnopqrstuvwxyz     "


@dataclass(slots=True, frozen=True)
class Workload:
    """`prompts` random prompts of `length` tokens, for each `samples` candidates of `tokens` tokens.

    Everything is drawn from the full distribution at temperature 1; no candidate ends early.
    """

    name: str
    prompts: int
    length: int
    samples: int
    tokens: int

    @property
    def rows(self) -> int:
        """Candidates in all."""
        return self.prompts * self.samples

    @property
    def counted(self) -> int:
        """The tokens that a speed is about: those written, or where that is one each, those of the prompts."""
        return self.rows * self.tokens if self.tokens > 1 else self.prompts * self.length

    @property
    def positions(self) -> int:
        """Of the longest text."""
        return self.length + self.tokens


WORKLOADS = {workload.name: workload for workload in (
    Workload("single", 1, 32, 1, 128), Workload("batch16", 16, 32, 1, 128), Workload("batch64", 64, 32, 1, 128),
    Workload("shared16", 1, 256, 16, 128), Workload("shared64", 1, 256, 64, 128),
    Workload("prefix2048x64", 1, 2048, 64, 128), Workload("prefill1024", 1, 1024, 1, 1))}


def named(names: str, tokens: int | None = None) -> list[Workload]:
    """Workloads by their names, separated by commas; `tokens` replaces the length of answers of more than one token.

    Raises `OptionError` naming those that there are.
    """
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in WORKLOADS]:
        raise OptionError(f"workloads among {', '.join(WORKLOADS)}", repr(unknown[0]), "pick some of them")
    found = [WORKLOADS[name] for name in dict.fromkeys(wanted)]
    return [replace(each, tokens=tokens) if tokens and each.tokens > 1 else each for each in found]


def random_texts(workload: Workload, tokenizer: Tokenizer, seed: int) -> list[str]:
    """Different prompts of random letters, as long as the workload asks in this tokenizer's tokens.

    Raises `ModelError`: the chat template alone is longer.
    """
    source = random.Random(seed)
    return [_cut("".join(source.choices(LETTERS, k=8 * workload.length)), workload.length, tokenizer)
            for _ in range(workload.prompts)]


def _cut(text: str, tokens: int, tokenizer: Tokenizer) -> str:
    """The longest beginning of the text whose prompt has at most so many tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(tokenizer.encode_prompt(text[:middle])) <= tokens else (low, middle - 1)
    if not text[:low].strip():
        raise ModelError(f"a model whose template leaves room in {tokens} tokens", "one that fills them",
                         "leave this workload out")
    return text[:low]


def run(llm: LLM, workload: Workload, texts: list[str], seed: int,
        first: Callable[[], None] = lambda: None) -> list[Result]:
    """Answer all prompts together; `first` is called when the first token is there."""
    search, params = llm.plan("sample", {"n": workload.samples, "max_tokens": workload.tokens, "ignore_eos": True})
    requests = [llm.engine.submit(text, search, params, seed=seed + at) for at, text in enumerate(texts)]
    waiting = True
    while not all(request.finished for request in requests):
        llm.engine.step()
        if waiting and any(sequence.tokens for request in requests for sequence in request.sequences):
            waiting = False
            first()
    results: list[Any] = [request.outcome for request in requests]
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def measure(llm: LLM, workload: Workload, repeats: int, *, seed: int = 0, interpreter: int = 0,
            clock: Callable[[], float] = time.perf_counter, done: Callable[[float], None] = lambda _: None) -> Row:
    """Times of `repeats` runs, and what one more run did, watched step by step.

    Every run reads its prompts. One run warms up first. `interpreter` bytes are what the process held before the
    model was loaded; `done` is called with the seconds of each timed run.
    """
    llm.engine.loop.target.prefixes = None
    texts = random_texts(workload, llm.model.tokenizer, seed)
    lengths = [len(llm.model.tokenizer.encode_prompt(text)) for text in texts]
    workload = replace(workload, length=max(lengths))
    run(llm, replace(workload, tokens=min(4, workload.tokens)), texts, seed)
    seconds = []
    for repeat in range(repeats):
        began = clock()
        run(llm, workload, texts, seed + repeat)
        seconds.append(clock() - began)
        done(seconds[-1])
    with Watch(llm.engine, clock) as watch:
        results = run(llm, workload, texts, seed)
    target = llm.engine.loop.target
    cached = peak_cached(workload.prompts, max(lengths), workload.samples, workload.tokens, target.pool.block_size)
    expected = predict(llm.model, cached=room(llm.model, cached, target.capacity),
                       ids=min(sum(lengths), llm.engine.loop.scheduler.step_tokens), rows=workload.rows,
                       kv_dtype=target.kv_dtype, interpreter=interpreter)
    return {"workload": workload.name, "prompts": workload.prompts, "prompt_tokens": max(lengths),
            "samples": workload.samples, "tokens": workload.tokens, "counted": workload.counted, "seconds": seconds,
            "tokens_per_second": workload.counted / median(seconds), "expected_bytes": expected,
            **_watched(target, watch.turns, results)}


def _watched(target: Runner, turns: list[Turn], results: list[Result]) -> Row:
    """What the watched run read and computed, and how its steps' time divides.

    widest: the steps that write a token for every candidate, which are most of a run; of them the median.
    """
    forwards = [forward for turn in turns for forward in turn.forwards]
    rows = max(forward.step.rows for forward in forwards)
    widest = [turn for turn in turns if turn.forwards[-1].step.rows == turn.forwards[-1].step.ids == rows] or turns
    read = target.model.decoder.nbytes_read * len(forwards) + kv_bytes(target.model, target.kv_dtype) * sum(
        forward.step.cached for forward in forwards)
    inside = sum(forward.seconds for turn in widest for forward in turn.forwards)
    return {"steps": len(turns), "step_seconds": median(turn.seconds for turn in widest),
            "outside_forward": 1 - inside / sum(turn.seconds for turn in widest),
            "read_bytes": read, "flops": sum(result.usage.flops for result in results),
            "peak_kv_tokens": sum(result.usage.peak_kv_tokens for result in results),
            "counts": [[forward.step.ids, forward.step.rows, forward.step.pairs, forward.step.cached]
                       for forward in forwards]}
