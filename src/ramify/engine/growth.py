"""From logits to committed tokens: sampling, end of sequence, stop strings, length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ramify.sampling.draws import TOKEN, Draws, Key
from ramify.sampling.transforms import has_penalties, probabilities

if TYPE_CHECKING:
    from ramify.engine.jobs import Job
    from ramify.engine.sequence import Sequence
    from ramify.models import Tokenizer


def sample(jobs: list[Job], logits_RV: Tensor, draws: Draws, tokenizer: Tokenizer) -> None:
    """Draw and commit one token for every job; the jobs belong to one request."""
    prompt = jobs[0].sequence.prompt
    answers = [job.sequence.tokens for job in jobs] if has_penalties(prompt.params) else None
    probs_RV = probabilities(logits_RV, prompt.params, answers, prompt.ids)
    keys = [Key(job.sequence.stream, len(job.sequence.tokens), TOKEN) for job in jobs]
    tokens = draws.categorical(probs_RV, keys)
    token_R1 = torch.tensor(tokens, device=logits_RV.device)[:, None]
    logprob_R = logits_RV.log_softmax(-1).gather(-1, token_R1)[:, 0].tolist()
    for job, token, logprob in zip(jobs, tokens, logprob_R, strict=True):
        job.grow -= 1
        commit(job.sequence, token, logprob, tokenizer)


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
