"""Voting over n sampled answers: the exact law of the majority vote and the limit of the weighted vote.

Self-consistency (arXiv 2203.11171) draws n solutions and returns the most frequent final answer; ties are
broken uniformly at random. Shape letter: A distinct answers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ramify.theory.checks import need, need_count
from ramify.theory.law import Floats, probability_vector


def majority_law(probs: ArrayLike, n: int) -> Floats:
    """P[each answer wins a vote of n independent samples], ties uniform; shape A, sums to 1.

    The sum over all multinomial outcomes, grouped: an answer wins with c votes and t ties with probability
    1/(1+t), every other answer having at most c votes. Counts are independent Poissons given that they add up
    to n, so the groups are products of polynomials in (ties, votes), prefix times suffix for each answer, and
    all terms are positive: no cancellation. At most O(A^2 n^3), tenths of a second at A = 12, n = 64. As n
    grows it tends to the modal answer, right or wrong.

    Args:
        probs: P[answer] of one sample, shape A.
        n: votes.
    """
    need_count("n", n)
    votes_AN = np.array([_poisson(n * prob, n) for prob in probability_vector(probs)])
    wins_A = sum((votes_AN[:, count] * _undefeated(votes_AN, count, n - count) for count in range(1, n + 1)),
                 start=np.zeros(len(votes_AN)))
    return wins_A / _poisson(n, n)[n]


def majority_accuracy(probs: ArrayLike, n: int, correct: int = 0) -> float:
    """P[the vote of n samples returns answer number `correct`]: one entry of `majority_law`."""
    law_A = majority_law(probs, n)
    need(0 <= correct < len(law_A), f"an answer's place, 0 to {len(law_A) - 1}", correct, "change it")
    return float(law_A[correct])


def weighted_shares(probs: ArrayLike, mean_weights: ArrayLike) -> Floats:
    """Each answer's share of all weight as n -> inf, P[a] E[w|a] / sum; the largest wins. Shape A.

    Weights exp(r/beta) make it the answer's probability under the tilt p exp(r/beta)/Z; equal weights the
    plain vote.

    Args:
        probs: P[answer] of one sample, shape A.
        mean_weights: the mean weight of samples with that answer, 0 or more, shape A.
    """
    probs_A, weights_A = probability_vector(probs), np.asarray(mean_weights, dtype=np.float64).ravel()
    need(len(weights_A) == len(probs_A), "a mean weight for each answer", f"{len(weights_A)} weights, "
         f"{len(probs_A)} answers", "pair them up")
    need(bool((weights_A >= 0).all()) and float(probs_A @ weights_A) > 0, "weights of 0 or more, not all 0",
         weights_A, "use exp(r/beta) or a score in [0, 1]")
    shares_A = probs_A * weights_A
    return shares_A / shares_A.sum()


def _undefeated(votes_AN: Floats, count: int, left: int) -> Floats:
    """For each answer E[1/(1 + ties); the others cast `left` votes and none has more than `count`]."""
    start_TV = np.zeros((min(len(votes_AN) - 1, left // count) + 1, left + 1))
    start_TV[0, 0] = 1.0
    before, after = [start_TV], [start_TV]
    for votes_N in votes_AN[:-1]:
        before.append(_add_answer(before[-1], votes_N, count))
    for votes_N in votes_AN[:0:-1]:
        after.append(_add_answer(after[-1], votes_N, count))
    ties_T = np.arange(len(start_TV))
    share_TT = 1 / (1 + np.add.outer(ties_T, ties_T))
    return np.array([np.sum(share_TT * (first_TV @ last_TV[:, ::-1].T))
                     for first_TV, last_TV in zip(before, after[::-1], strict=True)])


def _add_answer(state_TV: Floats, votes_N: Floats, count: int) -> Floats:
    """P[(ties, votes)] with one more answer, which has at most `count` votes; with `count` it is a tie."""
    most = state_TV.shape[1]
    grown_TV = np.array([np.convolve(row_V, votes_N[:count])[:most] for row_V in state_TV])
    if count < most:
        grown_TV[1:, count:] += votes_N[count] * state_TV[:-1, : most - count]
    return grown_TV


def _poisson(mean: float, most: int) -> Floats:
    """P[Poisson(mean) = 0..most]."""
    if mean == 0:
        return np.eye(1, most + 1)[0]
    return np.exp([k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(most + 1)])
