"""How a model reads a candidate: which ids stand for the prompt and for the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ramify.errors import PromptError

if TYPE_CHECKING:
    from ramify.engine.request import Request
    from ramify.engine.sequence import Sequence
    from ramify.models import Model


def prompt_ids(model: Model, request: Request) -> list[int]:
    """The request's prompt in the model's own template and tokens.

    Raises `PromptError` when the longest answer would not fit the model's context.
    """
    prompt = request.prompt
    ids: list[int] = model.tokenizer.encode_prompt(prompt.messages)
    room, needed = model.decoder.config.max_positions, len(ids) + prompt.params.max_tokens
    if needed > room:
        raise PromptError(f"prompt and answer within the {room} tokens of {model.name}",
                          f"{len(ids)} + {prompt.params.max_tokens}", "shorten the prompt or lower max_tokens")
    return ids


def answer_ids(model: Model, target: Model, sequence: Sequence, closed: bool) -> list[int]:
    """The answer in the model's tokens, after `prompt_ids`.

    Ids pass through when the tokenizers are equal; otherwise, and after a stop string, the text is encoded
    again. A finished answer, or any if `closed`, ends as the model's chat template ends a turn.
    """
    same = model.tokenizer.fingerprint == target.tokenizer.fingerprint
    ended = bool(sequence.tokens) and sequence.tokens[-1] in target.tokenizer.eos_ids
    stopped = sequence.state == "finished" and not ended
    if same and not stopped:
        ids = sequence.tokens[:-1] if ended else list(sequence.tokens)
    else:
        ids = model.tokenizer.encode(sequence.text)
    return ids + model.tokenizer.closing_ids if closed or ended or stopped else ids


def agree(left: list[int], right: list[int]) -> int:
    """Length of the common prefix."""
    short = min(len(left), len(right))
    if left[:short] == right[:short]:
        return short
    return next(at for at in range(short) if left[at] != right[at])
