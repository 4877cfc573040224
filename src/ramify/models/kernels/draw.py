"""From logits to tokens in one go: no probability is written down. Shapes: R rows, N draws, V vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types

from ramify.models.kernels.jit import compiled, link
from ramify.models.kernels.rowwise import ONE, ZERO, exponential
from ramify.models.kernels.team import claim, finish, fork, new_board

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 256  # logits whose weights are summed up before a draw looks which of them it falls on
FEWEST = np.float32(-80.0)  # logits, below the largest, that weigh nothing: masked ones are never drawn
ALONE = 1 << 14  # logits, some 20 microseconds, that are not worth a second thread


@compiled
def _weight(logit, largest, sharpness):
    """e^(sharpness * (logit - largest))."""
    x = (logit - largest) * sharpness
    return exponential(x) if x > FEWEST else ZERO


@compiled
def _weigh(logits_V, largest, sharpness, sums_B):
    """The sum of all weights; that of each block goes to `sums_B`."""
    total = 0.0  # in float64, like the running sum of `_find`
    for block in range(len(sums_B)):
        weights = np.float32(0)
        for at in range(block * BLOCK, min(block * BLOCK + BLOCK, len(logits_V))):
            weights += _weight(logits_V[at], largest, sharpness)
        sums_B[block] = weights
        total += float(weights)
    return total


@compiled
def _find(logits_V, largest, sharpness, sums_B, aim):
    """The first index at which the running sum of weights is above `aim`; the last of any weight, if none is."""
    before, block = 0.0, 0
    while block < len(sums_B) - 1 and before + sums_B[block] <= aim:
        before += sums_B[block]
        block += 1
    found = 0
    for at in range(block * BLOCK, len(logits_V)):
        weight = _weight(logits_V[at], largest, sharpness)
        before += weight
        if weight > ZERO:
            found = at
            if before > aim:
                break
    return found


@compiled
def _first(logits_V, value):
    """The first index of a value that is there."""
    at = 0
    while logits_V[at] != value:
        at += 1
    return at


@compiled
def _row(logits_V, sharpness, first, end, uniforms_N, tokens_N, logprobs_N, sums_B):
    """The tokens that draws `first` to `end` take from one row, and their log-probability under the plain softmax."""
    largest = logits_V[0]
    for at in range(len(logits_V)):
        largest = max(largest, logits_V[at])
    total = _weigh(logits_V, largest, ONE, sums_B)
    sharp = total if sharpness in (ZERO, ONE) else _weigh(logits_V, largest, sharpness, sums_B)
    for at in range(first, end):
        if sharpness == ZERO:
            token = _first(logits_V, largest)
        else:
            token = _find(logits_V, largest, sharpness, sums_B, uniforms_N[at] * sharp)
        tokens_N[at] = token
        logprobs_N[at] = logits_V[token] - largest - np.log(total)


@compiled
def _share(board, logits_RV, sharpness, ends_R, uniforms_N, tokens_N, logprobs_N, sums_RB):
    row = claim(board, 0)
    while row < len(logits_RV):
        first = ends_R[row - 1] if row else 0
        _row(logits_RV[row], sharpness, first, ends_R[row], uniforms_N, tokens_N, logprobs_N, sums_RB[row])
        finish(board, 0)
        row = claim(board, 0)


@compiled
def _draw(threads, board, logits_RV, sharpness, ends_R, uniforms_N, tokens_N, logprobs_N, sums_RB):
    fork(threads, _share, (board, logits_RV, sharpness, ends_R, uniforms_N, tokens_N, logprobs_N, sums_RB))


_LINES, _NUMBERS, _COUNTS = types.float32[:, ::1], types.float32[::1], types.int64[::1]
link(_share, (_COUNTS, _LINES, types.float32, _COUNTS, types.float64[::1], _COUNTS, _NUMBERS, _LINES))


def draw(logits_RV: Array, temperature: float, uniforms_N: Array, ends_R: Array) -> tuple[Array, Array]:
    """Tokens drawn from softmax(logits / temperature), and their logarithms of softmax(logits).

    The draws of a row follow those of the row before and end at `ends_R`. A draw's uniform number in [0, 1) says how
    far up the sum of probabilities, in the order of tokens, its token lies. Temperature 0 takes the likeliest, the
    first of equals. Logits more than 80 temperatures below the largest are never drawn. One or two passes over float32
    logits and a short look per draw, with as many threads as torch has.

    Returns tokens_N and logprobs_N.
    """
    rows, size = logits_RV.shape
    threads = torch.get_num_threads() if rows > 1 and rows * size > ALONE else 1
    tokens_N, logprobs_N = np.empty(len(uniforms_N), np.int64), np.empty(len(uniforms_N), np.float32)
    sharpness = np.float32(1 / max(temperature, 1e-30)) if temperature else ZERO
    _draw(threads, new_board(1), logits_RV, sharpness, ends_R, uniforms_N, tokens_N, logprobs_N,
          np.empty((rows, (size + BLOCK - 1) // BLOCK), np.float32))
    return tokens_N, logprobs_N
