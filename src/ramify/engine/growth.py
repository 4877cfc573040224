"""From logits to committed tokens: sampling, end of sequence, stop strings, length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ramify.sampling.draws import TOKEN, Draws, Key
from ramify.sampling.transforms import has_penalties, probabilities

if TYPE_CHECKING:
    from ramify.engine.jobs import Job
    from ramify.engine.sequence import Prompt, Sequence
    from ramify.models import Tokenizer


def sample(jobs: list[Job], logits_RV: Tensor, draws: Draws, tokenizer: Tokenizer) -> None:
    """Draw and commit one token for every job."""
    probs_RV = distributions([job.sequence.prompt for job in jobs], logits_RV, lambda row: jobs[row].sequence.tokens)
    keys = [Key(job.sequence.stream, len(job.sequence.tokens), TOKEN) for job in jobs]
    tokens = draws.categorical(probs_RV, keys)
    token_R1 = torch.tensor(tokens, device=logits_RV.device)[:, None]
    logprob_R = logits_RV.log_softmax(-1).gather(-1, token_R1)[:, 0].tolist()
    for job, token, logprob in zip(jobs, tokens, logprob_R, strict=True):
        job.grow -= 1
        commit(job.sequence, token, logprob, tokenizer)


def distributions(prompts: list[Prompt], logits_RV: Tensor, answer: Callable[[int], list[int]]) -> Tensor:
    """What is sampled from in each row, with the options of the prompt it belongs to: p_RV or q_RV.

    answer: what stands before a row's token, asked for penalties only. Costs one pass per kind of options.
    """
    rows_of: dict[Hashable, list[int]] = defaultdict(list)
    kinds = {id(prompt): _kind(prompt) for prompt in prompts}
    for row, prompt in enumerate(prompts):
        rows_of[kinds[id(prompt)]].append(row)
    if len(rows_of) == 1:
        return _transformed(prompts[0], logits_RV, range(len(prompts)), answer)
    probs_RV = torch.empty_like(logits_RV)
    for rows in rows_of.values():
        probs_RV[rows] = _transformed(prompts[rows[0]], logits_RV[rows], rows, answer)
    return probs_RV


def _kind(prompt: Prompt) -> Hashable:
    """Equal for prompts whose rows are transformed alike: penalties count a prompt's own tokens."""
    params = prompt.params
    if has_penalties(params):
        return id(prompt)
    return params.temperature, params.top_k, params.top_p, params.min_p, tuple(params.logit_bias.items())


def _transformed(prompt: Prompt, logits_RV: Tensor, rows: Iterable[int], answer: Callable[[int], list[int]]) -> Tensor:
    answers = [answer(row) for row in rows] if has_penalties(prompt.params) else None
    return probabilities(logits_RV, prompt.params, answers, prompt.ids)


def commit(sequence: Sequence, token: int, logprob: float, tokenizer: Tokenizer) -> None:
    """Append a token and find out whether it ends the answer."""
    params = sequence.prompt.params
    sequence.tokens.append(token)
    sequence.logprobs.append(logprob)
    if token in tokenizer.eos_ids and not params.ignore_eos:
        sequence.state = "finished"
    elif params.stop and (cut := _find_stop(sequence, params.stop)) is not None:
        sequence.state, sequence.stop_at = "finished", cut
    elif len(sequence.tokens) >= params.max_tokens:
        sequence.state = "length"


def _find_stop(sequence: Sequence, stop: tuple[str, ...]) -> int | None:
    """Where the earliest stop string begins in the answer's text, if one is there by now."""
    # A character takes at most four byte tokens, so the last tokens tell whether a full look is worth it.
    window = 4 * max(map(len, stop)) + 4
    tail = sequence.prompt.decode(sequence.tokens[-window:])
    if not any(word in tail for word in stop):
        return None
    found = [at for word in stop if (at := sequence.text.find(word)) >= 0]
    return min(found, default=None)
