"""What proposes tokens: the protocol between the engine and a drafter, and the drafters.

p is the draft's distribution, q the target's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from ramify.sampling.draws import DRAFT, TOKEN, Draws, Key
from ramify.speculative.lookup import SuffixTree, lookup
from ramify.speculative.proposal import Path, Proposal, chain
from ramify.speculative.stopping import Rule, Step, step_of

if TYPE_CHECKING:
    from ramify.models import AcceptanceHead, Model


class Memory:
    """What was said in one request, to be looked up: the prompt and the answers of all its candidates."""

    def __init__(self) -> None:
        self._tree = SuffixTree()
        self._lengths: dict[int, int] = {}

    def learn(self, ask: Ask) -> None:
        """Take in what is new in a candidate's answer."""
        if not self._lengths:
            self._tree.extend("prompt", ask.prompt)
        if ask.stream not in self._lengths:
            self._tree.fork("prompt", ask.stream)
        self._tree.extend(ask.stream, ask.answer[self._lengths.get(ask.stream, 0) :])
        self._lengths[ask.stream] = len(ask.answer)

    def recall(self, ask: Ask) -> list[int]:
        """What most often followed; see `SuffixTree.chain`. The candidate was learnt."""
        return self._tree.chain(ask.stream, ask.most)


@dataclass(slots=True, eq=False)
class Ask:
    """A candidate that wants a draft.

    prompt, answer: the committed ids. most: the longest path worth drafting. stream, and the length of the answer,
    name this round of drafting. ends: ids that end an answer, behind which nothing is worth drafting. flops: what a
    drafter computes for it beside its looks, which are counted where they are taken. memory: its request's.
    """

    prompt: list[int]
    answer: list[int]
    most: int
    stream: int
    ends: Collection[int] = ()
    flops: float = 0.0
    memory: Memory = field(default_factory=Memory)

    @property
    def key(self) -> Key:
        """The round's key; no two rounds begin at one length."""
        return Key(self.stream, len(self.answer), DRAFT)


class Seen(NamedTuple):
    """What the draft model sees after R paths of one candidate: the distribution of the next token, and the hidden
    states of D channels it came from."""

    p_RV: Tensor
    hidden_RD: Tensor


class Look(Protocol):
    """The draft model, for many candidates at once."""

    def __call__(self, asks: Sequence[tuple[Ask, Sequence[Path]]]) -> list[Seen]:
        """For every ask what follows each path; each prefix of a path was asked before."""


class Drafter(Protocol):
    """Anything that proposes tokens. model: the draft model it looks at, if any.

    Candidates of all requests whose drafters are equal are drafted together.
    """

    @property
    def model(self) -> Model | None: ...

    def nodes(self, most: int) -> int:
        """Ids that a proposal of paths up to `most` long has at most."""
        ...

    def propose(self, asks: Sequence[Ask], look: Look, draws: Draws) -> list[Proposal]:
        """One proposal for every ask; an empty one where nothing is worth proposing."""
        ...


@dataclass(slots=True, frozen=True)
class ChainDrafter:
    """Draws one path of each candidate from the draft model, token by token, all candidates together.

    Args:
        model: the draft model.
        stop: ends a path early; it sees what was drafted so far and never the target.
        coupled: draw with the random numbers that the target will draw with, for `verify_coupled`.
        head: foresees the acceptance of every drafted token, for `stop`.

    Cost: one draft forward per token of the longest path.
    """

    model: Model
    stop: Rule | None = None
    coupled: bool = False
    head: AcceptanceHead | None = None

    def nodes(self, most: int) -> int:
        """See `Drafter`."""
        return most

    def propose(self, asks: Sequence[Ask], look: Look, draws: Draws) -> list[Proposal]:
        """See `Drafter`."""
        paths: list[list[int]] = [[] for _ in asks]
        drawn: list[list[Tensor]] = [[] for _ in asks]
        steps: list[list[Step]] = [[] for _ in asks]
        growing = [at for at, ask in enumerate(asks) if ask.most]
        while growing:
            seen = look([(asks[at], [tuple(paths[at])]) for at in growing])
            p_RV, hidden_RD = (torch.cat(rows) for rows in zip(*seen, strict=True))
            tokens = self._draw(asks, growing, paths, p_RV, draws)
            foreseen = self._acceptance([asks[at] for at in growing], p_RV, hidden_RD, tokens)
            for at, token, p_V, acceptance in zip(growing, tokens, p_RV, foreseen, strict=True):
                paths[at].append(token)
                drawn[at].append(p_V)
                if self.stop:
                    steps[at].append(step_of(p_V, token, acceptance))
            growing = [at for at in growing if len(paths[at]) < asks[at].most and paths[at][-1] not in asks[at].ends
                       and not (self.stop and self.stop(steps[at]))]
        if self.coupled:  # the target's own draws decide, whatever the drafts were drawn from
            return [chain(path, None, "fixed") for path in paths]
        return [chain(path, torch.stack(rows) if rows else None) for path, rows in zip(paths, drawn, strict=True)]

    def _draw(self, asks: Sequence[Ask], growing: list[int], paths: list[list[int]], p_RV: Tensor,
              draws: Draws) -> list[int]:
        if self.coupled:
            keys = [Key(asks[at].stream, len(asks[at].answer) + len(paths[at]), TOKEN) for at in growing]
            return draws.guess(p_RV, keys)
        return draws.categorical(p_RV, [asks[at].key.part(len(paths[at])) for at in growing])

    def _acceptance(self, asks: list[Ask], p_RV: Tensor, hidden_RD: Tensor, tokens: list[int]) -> list[float]:
        """What the head says of each token; 1 without one."""
        if self.head is None:
            return [1.0] * len(tokens)
        for ask in asks:
            ask.flops += self.head.flops
        token_R = torch.tensor(tokens, device=hidden_RD.device)
        chance_R = p_RV.gather(1, token_R[:, None])[:, 0]
        found: list[float] = self.head(hidden_RD, self.model.decoder.embed(token_R), chance_R).sigmoid().tolist()
        return found


@dataclass(slots=True, frozen=True)
class LookupDrafter:
    """Copies what followed the last few tokens when they came before, in the prompt or the answer. Costs no forward."""

    model: None = None

    def nodes(self, most: int) -> int:
        """See `Drafter`."""
        return most

    def propose(self, asks: Sequence[Ask], look: Look, draws: Draws) -> list[Proposal]:
        """See `Drafter`."""
        return [chain(lookup(ask.prompt + ask.answer, ask.most), None, "fixed") for ask in asks]


@dataclass(slots=True, frozen=True)
class SuffixDrafter:
    """Copies what most often followed in the prompt, the answer and its siblings of the same search.

    Costs no forward. (arXiv 2411.04975)
    """

    model: None = None

    def nodes(self, most: int) -> int:
        """See `Drafter`."""
        return most

    def propose(self, asks: Sequence[Ask], look: Look, draws: Draws) -> list[Proposal]:
        """See `Drafter`."""
        for ask in asks:
            ask.memory.learn(ask)
        return [chain(ask.memory.recall(ask), None, "fixed") for ask in asks]


@dataclass(slots=True, frozen=True)
class MixedDrafter:
    """What the request's memory is sure of for at least `sure` tokens, and the draft model's path elsewhere."""

    neural: Drafter
    sure: int = 4

    @property
    def model(self) -> Model | None:
        """See `Drafter`."""
        return self.neural.model

    def nodes(self, most: int) -> int:
        """See `Drafter`."""
        return most

    def propose(self, asks: Sequence[Ask], look: Look, draws: Draws) -> list[Proposal]:
        """See `Drafter`."""
        proposals = SuffixDrafter().propose(asks, look, draws)
        unsure = [at for at, proposal in enumerate(proposals) if len(proposal) < min(self.sure, asks[at].most)]
        drafted = self.neural.propose([asks[at] for at in unsure], look, draws)
        for at, proposal in zip(unsure, drafted, strict=True):
            proposals[at] = proposal
        return proposals
