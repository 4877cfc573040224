"""Entropy-adaptive decoding: the draft model writes where it is sure, the target elsewhere. Lossy by design.

p is the draft's distribution, q the target's. Nothing is verified: the target reads what the draft wrote when it takes
over, which is what its cache needs anyway, and goes on from there. So the switch is a drafter that looks before it
draws, and a rule that lets everything stand; costs and caches are those of speculation. (arXiv 2502.06833)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ramify.sampling.draws import Draws, Key
from ramify.speculative.drafter import Ask, Look
from ramify.speculative.proposal import Proposal, chain, normalised
from ramify.speculative.verify import Verdict, follow_up, require_chain, require_rows
from ramify.types import check

if TYPE_CHECKING:
    from ramify.models import Model

WINDOW, DWELL = 5, 3


@dataclass(slots=True)
class Switch:
    """Who writes the next token of one candidate.

    A look tells the draft's entropy at a position; the draft writes while the mean of the last `window` looks is at
    most `nats`. Whoever took over writes at least `dwell` tokens.
    """

    nats: float
    window: int = WINDOW
    dwell: int = DWELL
    drafting: bool = False
    written: int = DWELL  # tokens since the last switch; at first the draft may take over at once
    seen: deque[float] = field(default_factory=deque)

    @property
    def rests(self) -> bool:
        """Whether the target goes on, whatever a look would tell."""
        return not self.drafting and self.written < self.dwell

    def looked(self, entropy: float) -> bool:
        """Take in a look; whether the draft writes this token."""
        self.seen.append(entropy)
        if len(self.seen) > self.window:
            self.seen.popleft()
        sure = sum(self.seen) / len(self.seen) <= self.nats
        if sure != self.drafting and self.written >= self.dwell:
            self.drafting, self.written = sure, 0
        self.written += self.drafting
        return self.drafting


class SwitchDrafter:
    """The draft's part of every candidate's text, up to where the target takes over.

    A candidate that was forked off begins without a past. Entropies are those of the model as it is, in nats, before
    temperature and truncation, so that greedy decoding switches, too. Keeps state: every request has its own.

    Args:
        model: the draft model.
        nats: the mean entropy up to which the draft writes; 0 leaves all to the target, but for certain tokens.
        window: looks in that mean.
        dwell: tokens between two switches, at least.

    Raises:
        OptionError: a number out of its range.

    Cost: one draft forward per token that the draft writes, and one where the target may be relieved.
    """

    def __init__(self, model: Model, nats: float, window: int = WINDOW, dwell: int = DWELL) -> None:
        check(nats >= 0, "a mean entropy of 0 nats or more", nats, "raise it")
        check(window >= 1 and dwell >= 1, "window and dwell of at least 1", (window, dwell), "raise them")
        self.model: Model | None = model
        self._decoder, self._settings = model.decoder, (nats, window, dwell)
        self._projection = 2.0 * self._decoder.config.hidden_size * self._decoder.config.vocab_size
        self._switches: dict[int, Switch] = {}

    def nodes(self, most: int) -> int:
        """See `Drafter`."""
        return most

    def propose(self, asks: Sequence[Ask], look: Look, draws: Draws) -> list[Proposal]:
        """See `Drafter`."""
        nats, window, dwell = self._settings
        paths: list[list[int]] = [[] for _ in asks]
        drawn: list[list[Tensor]] = [[] for _ in asks]
        states = [self._switches.setdefault(ask.stream, Switch(nats, window, dwell, written=dwell)) for ask in asks]
        growing = [at for at, state in enumerate(states) if not state.rests]
        while growing:
            seen = look([(asks[at], [tuple(paths[at])]) for at in growing])
            p_RV, hidden_RD = (torch.cat(rows) for rows in zip(*seen, strict=True))
            raw_RV = self._decoder.logits(hidden_RD).softmax(-1)
            for at in growing:
                asks[at].flops += self._projection
            entropies = torch.special.entr(raw_RV).sum(-1).tolist()
            writing = [row for row, at in enumerate(growing) if states[at].looked(entropies[row])]
            keys = [asks[growing[row]].key.part(len(paths[growing[row]])) for row in writing]
            tokens = draws.categorical(p_RV[writing], keys) if writing else []
            for row, token in zip(writing, tokens, strict=True):
                paths[growing[row]].append(token)
                drawn[growing[row]].append(p_RV[row])
            grown = [growing[row] for row in writing]
            growing = [at for at in grown if len(paths[at]) < asks[at].most and paths[at][-1] not in asks[at].ends]
        for state in states:  # the target writes the token after every draft
            state.written += not state.drafting
        return [chain(path, torch.stack(rows) if rows else None) for path, rows in zip(paths, drawn, strict=True)]


def verify_trusted(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key) -> Verdict:
    """Every drafted token stands, then one is drawn from q. Lossy: the draft's law where it wrote, q's elsewhere."""
    require_chain(proposal)
    require_rows(proposal, q_NV)
    return Verdict(list(range(len(proposal))), follow_up(normalised(q_NV[-1]), draws, key), 0)
