"""Drafts from a model with a tokenizer of its own, which reads the target's text and writes on in its own tokens.

For greedy text only. What such a draft wrote has a probability as a path of the draft's tokens, and none as one of
the target's, so nothing is there for a verifier to compare; a target that takes its likeliest token needs none. This
is string-level exact match of arXiv 2502.05202, at temperature 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ramify.models.detokenizer import LONGEST_PART
from ramify.sampling.draws import Draws
from ramify.speculative.drafter import Ask, Look
from ramify.speculative.proposal import Proposal, chain
from ramify.speculative.stopping import Rule, Step, step_of

if TYPE_CHECKING:
    from ramify.models import Model, Tokenizer

WINDOW = 16  # tokens of the answer that are encoded again together with what follows
GREEDY_ONLY = "what such a draft writes has no probability in the target's tokens"
HALF = "\ufffd"  # how a part of a character decodes


@dataclass(slots=True, frozen=True)
class Translation:
    """From the tokens of a target to those of a draft and back, by their text.

    A wrong translation costs a draft that the target refuses, never the text.
    """

    target: Tokenizer
    draft: Tokenizer

    def read(self, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
        """The answer in the draft's tokens, without the part of a character that it may end in.

        O(length): all of it is encoded again, since a tokenizer may write any beginning anew.
        """
        near, known = prompt[-WINDOW:], answer[: whole(self.target, answer)]
        return follow(self.draft, self.target.decode(near), self.target.decode([*near, *known]))

    def write(self, prompt: Sequence[int], answer: Sequence[int], path: Sequence[int]) -> list[int]:
        """The target's tokens of what follows the answer, if the draft's `path` follows what it read; perhaps none.

        The tokens of answer and draft together decode to their text: from where they do not, a draft is given up. A
        part of a character at its end is, too, and one at the answer's end has to be begun as the answer began it.
        The draft's end of sequence becomes the target's.
        """
        size = whole(self.target, answer)
        near, begun = [*prompt[-WINDOW:], *answer[:size]][-WINDOW:], list(answer[size:])
        text = self.target.decode(near)
        goal = text + self._said(text, path)
        ids = follow(self.target, text, goal)
        if ids[: len(begun)] != begun:
            return []
        while len(ids) > len(begun) and not goal.startswith(self.target.decode(near + ids)):
            ids.pop()
        if path and path[-1] in self.draft.eos_ids and self.target.decode(near + ids) == goal:
            ids += self._end()
        return ids[len(begun) :]

    def _said(self, text: str, path: Sequence[int]) -> str:
        """What the path says after the text: its first token may look different at a beginning."""
        before = self.draft.encode(text)
        both = [*before, *path]
        return self.draft.decode(both[: whole(self.draft, both)])[len(self.draft.decode(before)) :].partition(HALF)[0]

    def _end(self) -> list[int]:
        """The end of an answer: what closes a turn, of several ids."""
        ends = self.target.eos_ids
        return [token for token in self.target.closing_ids if token in ends][:1] or list(ends[:1])


def whole(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """How many of the ids end in a whole character; all of them if they say U+FFFD themselves."""
    for size in range(len(ids), max(0, len(ids) - LONGEST_PART - 1), -1):
        if not tokenizer.decode(ids[max(0, size - WINDOW) : size]).endswith(HALF):
            return size
    return len(ids) if len(ids) > LONGEST_PART else 0


def follow(tokenizer: Tokenizer, text: str, goal: str) -> list[int]:
    """The tokens that lead from a text to a longer one: those of both together where they agree, else of the rest."""
    known, ids = tokenizer.encode(text), tokenizer.encode(goal)
    return ids[len(known) :] if ids[: len(known)] == known else tokenizer.encode(goal[len(text) :])


def translation(draft: Model, target: Model) -> Translation | None:
    """How a draft reads what the target wrote; None where their tokens are the same."""
    if draft.tokenizer.fingerprint == target.tokenizer.fingerprint:
        return None
    return Translation(target.tokenizer, draft.tokenizer)


@dataclass(slots=True, frozen=True)
class TranslatedDrafter:
    """Writes the likeliest path of a draft model with another tokenizer, in the target's tokens.

    Args:
        model: the draft model; its looks take paths in its own tokens and give its own distribution.
        translation: between the two.
        stop: ends a path early; see `ramify.speculative.stopping`.

    Cost: one draft forward per token of the longest path, and the text of the answer encoded once more.
    """

    model: Model
    translation: Translation
    stop: Rule | None = None

    def nodes(self, most: int) -> int:
        """See `Drafter`. At most as many of the draft's tokens are drafted as of the target's are wanted."""
        return most

    def propose(self, asks: Sequence[Ask], look: Look, draws: Draws) -> list[Proposal]:
        """See `Drafter`. Draws nothing."""
        paths: list[list[int]] = [[] for _ in asks]
        steps: list[list[Step]] = [[] for _ in asks]
        ends = self.translation.draft.eos_ids
        growing = [at for at, ask in enumerate(asks) if ask.most]
        while growing:
            seen = look([(asks[at], [tuple(paths[at])]) for at in growing])
            p_RV = torch.cat([rows.p_RV for rows in seen])
            for at, p_V, token in zip(growing, p_RV, p_RV.argmax(-1).tolist(), strict=True):
                paths[at].append(token)
                if self.stop:
                    steps[at].append(step_of(p_V, token))
            growing = [at for at in growing if len(paths[at]) < asks[at].most and paths[at][-1] not in ends
                       and not (self.stop and self.stop(steps[at]))]
        written = [self.translation.write(ask.prompt, ask.answer, path)
                   for ask, path in zip(asks, paths, strict=True)]
        return [chain(ids[: ask.most], None, "fixed") for ask, ids in zip(asks, written, strict=True)]
