"""How a model reads a candidate: which ids stand for the prompt and for the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ramify.errors import PromptError
from ramify.speculative.translation import translation

if TYPE_CHECKING:
    from ramify.engine.request import Request
    from ramify.engine.sequence import Prompt, Sequence
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


def draft_prompt_ids(draft: Model, target: Model, prompt: Prompt) -> list[int]:
    """The prompt as a draft reads it: the target's own ids where tokens are the same.

    Elsewhere the conversation in the draft's template; or, if one of both models has none, the text of the target's
    prompt, since that is what the target goes on with.

    Raises:
        PromptError: messages that the draft's template refuses, or a prompt without text.
    """
    if translation(draft, target) is None:
        return prompt.ids
    tokenizer = draft.tokenizer
    if tokenizer.template is not None and target.tokenizer.template is not None:
        return tokenizer.encode_prompt(prompt.messages)
    text = target.tokenizer.decode(prompt.ids)
    ids = tokenizer.encode(text) if tokenizer.template is not None else tokenizer.encode_prompt(text)
    if not ids:
        raise PromptError(f"a prompt with some text for {draft.name}", "special tokens alone", "decode without a draft")
    return ids


def agree(left: list[int], right: list[int]) -> int:
    """Length of the common prefix."""
    short = min(len(left), len(right))
    if left[:short] == right[:short]:
        return short
    return next(at for at in range(short) if left[at] != right[at])
