"""Work on one sequence in one model, as handlers ask for it and the scheduler meters it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ramify.engine.reading import agree

if TYPE_CHECKING:
    from ramify.engine.request import Request
    from ramify.engine.runner import Runner
    from ramify.engine.sequence import Context, Sequence

Want = Literal["grow", "logits", "value", "logprobs", "none"]
GENERATED: tuple[Want, ...] = ("grow", "logits")  # what reads the target's own tokens


@dataclass(slots=True, eq=False)
class Job:
    """Read `prefix + suffix` to its end, then hand over what is wanted.

    want: "grow" samples `grow` more tokens (`suffix` is then the sequence's own token list and grows
    along); "logits" of the next token; the scalar "value" at the last; "logprobs" of the answer.
    """

    request: Request
    sequence: Sequence
    runner: Runner
    prefix: list[int]
    suffix: list[int]
    want: Want
    grow: int = 0
    result: Any = None

    @property
    def context(self) -> Context:
        """What the model has read of the sequence."""
        return self.sequence.contexts[self.runner]

    @property
    def length(self) -> int:
        """Ids in all."""
        return len(self.prefix) + len(self.suffix)

    @property
    def most(self) -> int:
        """Ids that may have been read before: after them comes what is wanted."""
        if self.want == "logprobs":
            return len(self.prefix) + len(self.sequence.known[self.runner]) - 1
        return self.length - 1

    @property
    def pending(self) -> int:
        """Ids not read yet."""
        return len(self.prefix) + len(self.suffix) - len(self.sequence.contexts[self.runner].ids)

    @property
    def done(self) -> bool:
        """Nothing left to read, or to grow."""
        return (self.grow == 0 or not self.sequence.live) if self.want == "grow" else self.pending == 0

    @property
    def lacks_prompt(self) -> bool:
        """Whether the prompt was given up with the root's blocks: one candidate reads it again for all."""
        return len(self.context.ids) + 1 < len(self.prefix) and self.sequence is not self.request.root

    def restore(self) -> None:
        """Start an empty context from the prompt, if that is there by now, or still after blocks were given up. What
        came out at its end is not: ids are read again where that is wanted."""
        context, root = self.context, self.request.root.contexts.get(self.runner)
        if not context.ids:
            if root is not None and root.ids:
                context.adopt(root)
            else:
                found = self.runner.open(self.prefix)
                context.table, context.ids = found.table, found.ids
            self.request.usage.role(self.runner.role).cached += len(context.ids)
        context.rewind(self.most)

    def return_prompt(self) -> None:
        """Let the others share the prompt that this job had to read again."""
        context, root = self.context, self.request.root.contexts[self.runner]
        if not root.ids and len(context.ids) >= len(self.prefix):
            root.adopt(context)
            root.rewind(len(self.prefix))

    def keep(self) -> None:
        """Note what was wanted: a later step may give up the context's blocks, and what came out with them."""
        self.result = self.context.value if self.want == "value" else list(self.sequence.known.get(self.runner, ()))

    def next_ids(self, count: int) -> list[int]:
        """The next `count` ids to read."""
        at, split = len(self.context.ids), len(self.prefix)
        if at >= split:
            return self.suffix[at - split : at - split + count]
        return (self.prefix[at : at + count] + self.suffix[: max(0, at + count - split)])[:count]

    def account(self, start: int, count: int, drafted: int = 0, others: int = 0) -> None:
        """Enter `count` ids read from position `start`, the last `drafted` a draft, into the request's ledger.

        others: jobs that were spared reading the same.
        """
        context, runner = self.context, self.runner
        lost = context.lost
        page = self.request.usage.role(runner.role)
        recomputed = agree(context.ids[start:], lost[start : start + count]) if lost else 0
        fresh, prompt = count - recomputed, count - recomputed
        if self.want in GENERATED:
            prompt = min(fresh, max(0, len(self.prefix) - start - recomputed))
        page.cached += count * others
        page.recomputed += recomputed
        page.prefill += prompt
        page.decode += fresh - prompt - drafted
        page.verify += drafted
        page.flops += runner.flops(count, count * (2 * start + count + 1) // 2)
        context.fed += count
