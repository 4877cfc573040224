"""From logits to committed tokens: sampling, end of sequence, stop strings, length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ramify.engine.runner import rows_of
from ramify.sampling.draws import TOKEN, Draws, Key, KeyedDraws, uniforms
from ramify.sampling.transforms import has_penalties, is_plain, probabilities

if TYPE_CHECKING:
    from ramify.engine.jobs import Job
    from ramify.engine.sequence import Prompt, Sequence
    from ramify.models import Model, Tokenizer


def sample(rows: list[list[Job]], logits_RV: Tensor, draws: Draws, model: Model) -> None:
    """Draw and commit one token for every job of every row."""
    compiled = model.decoder.fused is not None and not logits_RV.is_cuda and isinstance(draws, KeyedDraws)
    for alike in _alike([jobs[0].sequence.prompt for jobs in rows]):
        jobs = [job for row in alike for job in rows[row]]
        sequences = [job.sequence for job in jobs]
        drawn = _drawn(sequences, [len(rows[row]) for row in alike], rows_of(logits_RV, alike), draws, compiled)
        for job, sequence, token, logprob in zip(jobs, sequences, *drawn, strict=True):
            job.grow -= 1
            commit(sequence, token, logprob, model.tokenizer)


def _drawn(sequences: list[Sequence], counts: list[int], logits_RV: Tensor, draws: Draws,
           compiled: bool) -> tuple[list[int], list[float]]:
    """A token for every sequence, so many in each row, and its log-probability. They share options of sampling."""
    prompt, keys = sequences[0].prompt, [Key(at.stream, len(at.tokens), TOKEN) for at in sequences]
    if compiled and is_plain(prompt.params):
        from ramify.models.kernels.draw import draw

        tokens_N, logprobs_N = draw(logits_RV.numpy(), prompt.params.temperature, uniforms(keys), np.cumsum(counts))
        return tokens_N.tolist(), logprobs_N.tolist()
    logits_NV = rows_of(logits_RV, [row for row, count in enumerate(counts) for _ in range(count)])
    probs_NV = _transformed(prompt, logits_NV, range(len(sequences)), lambda at: sequences[at].tokens)
    tokens = draws.categorical(probs_NV, keys)
    return tokens, logprobs_of(tokens, logits_NV)


def logprobs_of(tokens: list[int], logits_RV: Tensor) -> list[float]:
    """The model's own log-probability of a token in each row, before any option of sampling. One pass."""
    token_R1 = torch.tensor(tokens, device=logits_RV.device)[:, None]
    logprobs: list[float] = logits_RV.log_softmax(-1).gather(-1, token_R1)[:, 0].tolist()
    return logprobs


def distributions(prompts: list[Prompt], logits_RV: Tensor, answer: Callable[[int], list[int]]) -> Tensor:
    """What is sampled from in each row, with the options of the prompt it belongs to: p_RV or q_RV.

    answer: what stands before a row's token, asked for penalties only. Costs one pass per kind of options.
    """
    kinds = _alike(prompts)
    if len(kinds) == 1:
        return _transformed(prompts[0], logits_RV, range(len(prompts)), answer)
    probs_RV = torch.empty_like(logits_RV)
    for rows in kinds:
        probs_RV[rows] = _transformed(prompts[rows[0]], logits_RV[rows], rows, answer)
    return probs_RV


def _alike(prompts: list[Prompt]) -> list[list[int]]:
    """The rows whose prompts have one kind of options, for each kind."""
    kinds = {prompt: _kind(prompt) for prompt in dict.fromkeys(prompts)}
    if len(set(kinds.values())) == 1:
        return [list(range(len(prompts)))]
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        alike[kinds[prompt]].append(row)
    return list(alike.values())


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
