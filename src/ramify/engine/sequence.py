"""What a search holds in its hands: the prompt, sequences and groups of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from ramify.cache import BlockTable
from ramify.errors import RewardError
from ramify.sampling.draws import mix
from ramify.types import SamplingParams, State

if TYPE_CHECKING:
    import torch

    from ramify.engine.runner import Runner


class Context:
    """What one model has read of one text: its block table, the ids in it and what came out last.

    Sequences that have read the same hold one context together: `holders` says how many. Only what changes it for all
    of them may change it in place; `split` makes another for the others.

    parent: what it was split from. fed: the ids that the model read into it since.
    lost: the ids that had been read when the blocks were given up; reading them again is recomputation.
    """

    __slots__ = ("fed", "holders", "ids", "logits", "lost", "parent", "runner", "table", "value")

    def __init__(self, runner: Runner, table: BlockTable, ids: list[int]) -> None:
        self.runner, self.table, self.ids = runner, table, ids
        self.holders, self.fed = 1, 0
        self.parent: Context | None = None
        self.logits: torch.Tensor | None = None
        self.value: float | None = None
        self.lost: list[int] = []

    def hold(self) -> Context:
        """This context, for one more sequence."""
        self.holders += 1
        return self

    def split(self, count: int) -> Context:
        """A context that continues this one, for `count` of its holders; itself if those are all."""
        if count == self.holders:
            return self
        self.holders -= count
        child = Context(self.runner, self.table.fork(), list(self.ids))
        child.holders, child.parent, child.lost = count, self, self.lost
        child.logits, child.value = self.logits, self.value
        return child

    def fork(self) -> Context:
        """Another context that continues this one."""
        return self.hold().split(1)

    def release(self) -> None:
        """One holder less; the last gives the blocks back."""
        self.holders -= 1
        if self.holders == 0:
            self.table.free()

    def adopt(self, other: Context) -> None:
        """Start again from what `other` has read; this context is empty."""
        self.table, self.ids = other.table.fork(), list(other.ids)

    def rewind(self, length: int) -> None:
        """Forget everything read from position `length` on."""
        if length < len(self.ids):
            del self.ids[length:]
            self.table.rewind(length)
            self.logits = self.value = None

    def prune(self, base: int, kept: list[int]) -> None:
        """Of a tree read from position `base` on keep one path, given by the places of its ids in reading order."""
        if kept != list(range(len(kept))):
            table = self.table
            sources, slots = table.slots(base + at for at in kept), table.slots(range(base, base + len(kept)))
            self.runner.store.move(sources, slots)
            self.ids[base : base + len(kept)] = [self.ids[base + at] for at in kept]
        self.rewind(base + len(kept))

    def free(self) -> None:
        """Give the blocks back; what was read counts as lost."""
        self.lost = self.ids + self.lost[len(self.ids) :]
        self.rewind(0)


class Sequence:
    """One candidate while its request runs; the root sequence (path ()) is the prompt itself.

    tokens: the answer so far. scores: (tokens at that moment, score). logprobs: the target's own
    log-probability of each token, before temperature and truncation; known: what is known of those of other
    models. past: contexts that were released.
    """

    __slots__ = ("_text", "children", "contexts", "dropped_at", "known", "logprobs", "parent", "past", "path", "prompt",
                 "scores", "state", "stop_at", "stream", "tokens")

    def __init__(self, prompt: Prompt, parent: Sequence | None, path: tuple[int, ...], stream: int) -> None:
        self.prompt, self.parent, self.path, self.stream = prompt, parent, path, stream
        self.children: list[Sequence] = []
        self.tokens: list[int] = [] if parent is None else list(parent.tokens)
        self.logprobs: list[float] = [] if parent is None else list(parent.logprobs)
        self.scores: list[tuple[int, float]] = [] if parent is None else list(parent.scores)
        self.state: State = "live" if parent is None else parent.state
        self.stop_at: int | None = None if parent is None else parent.stop_at
        self.dropped_at: int | None = None
        self.contexts: dict[Runner, Context] = {}
        self.known: dict[Runner, list[float]] = {}
        self.past: list[Context] = []
        self._text = (0, "")

    @property
    def id(self) -> str:
        """The path of forks as text, such as "0.2.1"."""
        return ".".join(map(str, self.path))

    @property
    def live(self) -> bool:
        """Still growing."""
        return self.state == "live"

    @property
    def newborn(self) -> bool:
        """Nothing was drawn since its fork."""
        return self.parent is not None and len(self.tokens) == len(self.parent.tokens)

    @property
    def finished(self) -> bool:
        """Ended by end of sequence, stop string or length."""
        return self.state in ("finished", "length")

    @property
    def score(self) -> float:
        """The last score."""
        return self.scores[-1][1]

    @property
    def text(self) -> str:
        """The answer so far, cut before a stop string that ended it."""
        if self._text[0] != len(self.tokens):
            self._text = (len(self.tokens), self.prompt.decode(self.tokens))
        return self._text[1][: self.stop_at]

    def fork(self) -> Sequence:
        """A child that continues this sequence and holds its contexts with it, until one of both reads on."""
        turn = len(self.children)
        child = Sequence(self.prompt, self, (*self.path, turn), mix(self.stream, turn + 1))
        self.children.append(child)
        child.contexts = {runner: context.hold() for runner, context in self.contexts.items()}
        child.known = {runner: list(logprobs) for runner, logprobs in self.known.items()}
        return child

    def own(self, runner: Runner) -> Context:
        """Its context in a model, for itself alone, so that it may be changed."""
        context = self.contexts[runner] = self.contexts[runner].split(1)
        return context

    def cut(self, length: int) -> None:
        """Keep the first `length` answer tokens and live again."""
        del self.tokens[length:]
        for logprobs in (self.logprobs, *self.known.values()):
            del logprobs[length:]
        self.scores = [(at, score) for at, score in self.scores if at <= length]
        self.state, self.stop_at, self.dropped_at, self._text = "live", None, None, (0, "")

    def release(self) -> None:
        """Let go of the contexts of every model."""
        for context in self.contexts.values():
            context.release()
        self.past += self.contexts.values()
        self.contexts.clear()


@dataclass(slots=True, eq=False)
class Prompt:
    """What a search starts from.

    ids: prompt tokens of the target. messages: the conversation they came from, for models that read it
    through their own template. choose: one of 0..n-1 at random, under the request's key. decode: token
    ids to text. capacity: KV tokens of the target's cache.
    """

    ids: list[int]
    messages: list[dict[str, str]] | str
    params: SamplingParams
    choose: Callable[[int], int]
    decode: Callable[[list[int]], str]
    capacity: int

    @property
    def text(self) -> str:
        """The conversation's last message, or the raw prompt."""
        return self.messages if isinstance(self.messages, str) else self.messages[-1]["content"]


class Group(list[Sequence]):
    """Candidates in a fixed order, with the choices that searches make among them."""

    def __init__(self, sequences: Iterable[Sequence], choose: Callable[[int], int]) -> None:
        super().__init__(sequences)
        self.choose = choose

    def of(self, sequences: Iterable[Sequence]) -> Group:
        """Another group of the same request."""
        return Group(sequences, self.choose)

    @property
    def unfinished(self) -> Group:
        """Those still growing."""
        return self.of(sequence for sequence in self if sequence.live)

    @property
    def finished(self) -> Group:
        """Those that ended."""
        return self.of(sequence for sequence in self if sequence.finished)

    def best(self, scores: list[float] | None = None) -> Sequence:
        """The highest score (by default the last of each), ties broken uniformly at random."""
        scores = [sequence.score for sequence in self] if scores is None else scores
        top = max(scores)
        ties = [sequence for sequence, score in zip(self, scores, strict=True) if score == top]
        return ties[self.choose(len(ties)) if len(ties) > 1 else 0]

    def split_top(self, scores: list[float], count: int) -> tuple[Group, Group]:
        """The `count` highest scores and the rest, both in their old order; ties at the cut drawn uniformly."""
        cut = sorted(scores, reverse=True)[count - 1] if count else math.inf
        kept = [at for at, score in enumerate(scores) if score > cut]
        ties = [at for at, score in enumerate(scores) if score == cut]
        while len(kept) < count:
            kept.append(ties.pop(self.choose(len(ties)) if len(ties) > count - len(kept) else 0))
        chosen = set(kept)
        return (self.of(sequence for at, sequence in enumerate(self) if at in chosen),
                self.of(sequence for at, sequence in enumerate(self) if at not in chosen))


def check_scores(scores: list[float], count: int, reward: str) -> list[float]:
    """The scores, or a `RewardError` when they are not `count` finite numbers."""
    if len(scores) != count:
        raise RewardError(f"{count} scores", f"{len(scores)} from reward {reward!r}", "return one per candidate")
    for score in scores:
        if not isinstance(score, Real) or not math.isfinite(score):
            raise RewardError("a finite score for every candidate", f"{score} from reward {reward!r}",
                              "mend the reward, or use one that can score this text")
    return scores
