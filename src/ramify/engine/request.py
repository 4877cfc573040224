"""One running request: a stack of generators, its candidates and its ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from ramify.engine.sequence import Context, Prompt, Sequence
from ramify.errors import RamifyError
from ramify.types import Candidate, Result, Usage

if TYPE_CHECKING:
    from ramify.engine.jobs import Job
    from ramify.engine.runner import Runner
    from ramify.speculative.speculation import Speculation

Emit = Callable[..., None]
Search = Generator[Any, Any, Sequence]


class Request:
    """A search in flight. `stack` holds the search and, above it, what it is waiting for."""

    def __init__(self, number: int, prompt: Prompt, search: Search, *, method: str, seed: int, stream: int,
                 trace: Emit | None, warnings: list[str], speculation: Speculation | None = None) -> None:
        self.number, self.prompt, self.method, self.seed = number, prompt, method, seed
        self.stack: list[Generator[Any, Any, Any]] = [search]
        self.jobs: list[Job] = []
        self.root = Sequence(prompt, None, (), stream)
        self.sequences: list[Sequence] = [self.root]
        self.prefixes: dict[Runner, list[int]] = {}
        self.usage, self.warnings = Usage(), warnings
        self.result: Result | None = None
        self.error: Exception | None = None
        self.choices = 0
        self.speculation = speculation
        self._speculated: dict[str, Any] = {}
        self._trace = trace
        self._started = time.perf_counter()

    @property
    def finished(self) -> bool:
        """Whether a result or an error is there."""
        return self.result is not None or self.error is not None

    @property
    def outcome(self) -> Result | RamifyError:
        """The result of a finished request, or the error that ended it.

        Raises an error that is not Ramify's own, such as a bug in a search, as it was.
        """
        if isinstance(self.error, RamifyError):
            return self.error
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def fail(self, error: Exception) -> None:
        """End with an error and give back every block."""
        self.release()
        self.jobs, self.error = [], error

    def speculation_failed(self, warning: str) -> None:
        """Go on without a draft, and say so in the result."""
        if self.speculation is not None:
            self._speculated, self.speculation = self.speculation.to_dict(), None
            self.warnings.append(warning)

    def emit(self, event: str, sequence: Sequence | None = None, **fields: Any) -> None:
        """Write a trace event, if anybody listens."""
        if self._trace is None:
            return
        if sequence is not None:
            fields = {"candidate": sequence.id, "tokens": len(sequence.tokens), "state": sequence.state, **fields}
            if event == "extend":
                fields["text"] = sequence.text
        self._trace(event, request=self.number, **fields)

    def context(self, sequence: Sequence, runner: Runner) -> Context:
        """What a model has read of a sequence, which begins as the prompt's."""
        context = sequence.contexts.get(runner)
        if context is None:
            context = sequence.contexts[runner] = self.root.contexts[runner].hold()
            self.usage.role(runner.role).cached += len(context.ids)
        return context

    def note_peak(self, target: Runner) -> None:
        """Enter the target's KV tokens that the request holds now, shared blocks once, into the ledger."""
        fill: dict[int, int] = {}
        size = target.pool.block_size
        for context in {sequence.contexts[target] for sequence in self.sequences if target in sequence.contexts}:
            for at, block in enumerate(context.table.blocks):
                fill[block] = max(fill.get(block, 0), min(size, context.table.length - at * size))
        self.usage.peak_kv_tokens = max(self.usage.peak_kv_tokens, sum(fill.values()))

    def release(self) -> None:
        """Give back every block."""
        for sequence in self.sequences:
            sequence.release()

    def complete(self, chosen: Sequence) -> None:
        """Build the result around the search's choice and give back every block."""
        if not isinstance(chosen, Sequence):
            raise TypeError(f"a search returns one of its candidates, not {chosen!r}")
        self.release()
        self._count_dropped()
        self.usage.wall_seconds = time.perf_counter() - self._started
        leaves = [sequence for sequence in self.sequences[1:] if not sequence.children or sequence is chosen]
        self.result = Result(
            text=chosen.text, reward=chosen.scores[-1][1] if chosen.scores else None,
            finish_reason="stop" if chosen.state == "finished" else "length", method=self.method, seed=self.seed,
            candidates=[_report(sequence) for sequence in leaves], usage=self.usage, chosen=chosen.id,
            speculative=self.speculation.to_dict() if self.speculation else self._speculated, warnings=self.warnings)
        if self._trace is not None:
            self.emit("result", **self.result.to_dict())

    def _count_dropped(self) -> None:
        """Tokens read into contexts of which no sequence that survived came."""
        kept = _origins(sequence for sequence in self.sequences if sequence.state != "dropped")
        for context in _origins(self.sequences) - kept:
            self.usage.role(context.runner.role).dropped += context.fed


def _origins(sequences: Iterable[Sequence]) -> set[Context]:
    """All contexts that the sequences held, and what those were split from."""
    found: set[Context] = set()
    for sequence in sequences:
        for context in sequence.past:
            at: Context | None = context
            while at is not None and at not in found:
                found.add(at)
                at = at.parent
    return found


def _report(sequence: Sequence) -> Candidate:
    return Candidate(
        id=sequence.id, text=sequence.text, reward=sequence.scores[-1][1] if sequence.scores else None,
        state="length" if sequence.state == "live" else sequence.state, dropped_at=sequence.dropped_at,
        tokens=len(sequence.tokens), scores=sequence.scores, token_ids=sequence.tokens)
