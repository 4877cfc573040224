"""Text of a growing answer, piece by piece: what is said stays said, and no half character is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

State = tuple[int, int]  # (first token of the piece before, first token not yet shown)
START: State = (0, 0)
# a character of UTF-8 has at most 4 bytes, so at most 3 tokens at the end are a part of one
LONGEST_PART = 3


class Decodes(Protocol):
    """Anything that turns ids into text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""


@dataclass(slots=True, frozen=True)
class Detokenizer:
    """Turns a growing list of ids into text. It keeps nothing: the state is two integers, which a fork copies.

    The pieces of `advance` and the last one of `rest` join to `decode` of all ids, if these end in whole
    characters. The piece before is decoded along with the new one: a token's text can depend on its neighbour.
    """

    tokenizer: Decodes

    def advance(self, tokens: Sequence[int], state: State = START) -> tuple[str, State]:
        """The text that `tokens`, all of the answer so far, add to what `state` has shown, and the new state.

        Tokens at the end that are part of a character wait for the rest of it; so does text that ends in U+FFFD,
        which looks the same. Costs two short decodes, or up to five.
        """
        before, shown = state
        old = self.tokenizer.decode(tokens[before:shown])
        for end in range(len(tokens), max(shown, len(tokens) - LONGEST_PART - 1), -1):
            text = self.tokenizer.decode(tokens[before:end])
            if len(text) > len(old) and not text.endswith("\ufffd"):
                return text[len(old) :], (shown, end)
        return "", state

    def rest(self, tokens: Sequence[int], state: State) -> str:
        """What `advance` still holds back of a finished answer, half characters as U+FFFD."""
        before, shown = state
        return self.tokenizer.decode(tokens[before:])[len(self.tokenizer.decode(tokens[before:shown])) :]
