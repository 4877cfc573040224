"""The reward that a preference-tuned policy implies: its log-ratio to the reference it was tuned from."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Sequence as Many
from typing import Any, Literal

from ramify.engine.commands import Command, Peek
from ramify.engine.sequence import Sequence
from ramify.errors import ModelError
from ramify.models import Model


class ImplicitReward:
    """Scores an answer y, whole or partial, by sum_k w_k * log(policy(y_k | ..) / reference(y_k | ..)).

    weights="sum": w_k = beta. For a perfect DPO policy this is the soft value of the prefix up to a
    constant (arXiv 2305.18290). weights="decay": w_k = 1 / (k + 1), the form TreeBoN prunes by (arXiv
    2410.16033); early tokens dominate and it is neither the mean log-ratio nor the DPO reward.
    """

    def __init__(self, policy: Model, reference: Model, weights: Literal["sum", "decay"] = "sum",
                 beta: float = 1.0) -> None:
        if policy.tokenizer.fingerprint != reference.tokenizer.fingerprint:
            raise ModelError("a policy and a reference with one tokenizer", f"{policy.name} and {reference.name}",
                             "use the reference that the policy was tuned from")
        self.policy, self.reference, self.weights, self.beta = policy, reference, weights, beta
        self.name = f"{policy.name}/{reference.name}"

    def score(self, sequences: Many[Sequence]) -> Generator[Command, Any, list[float]]:
        """One weighted log-ratio per candidate. Costs the new tokens once in each of the two models."""
        tuned = yield Peek(sequences, self.policy, "reward")
        plain = yield Peek(sequences, self.reference, "reference")
        return [self.combine(ours, theirs) for ours, theirs in zip(tuned, plain, strict=True)]

    def combine(self, tuned: list[float], plain: list[float]) -> float:
        """The weighted sum of one candidate's log-ratios."""
        ratios = [ours - theirs for ours, theirs in zip(tuned, plain, strict=True)]
        if self.weights == "decay":
            return sum(ratio / (k + 1) for k, ratio in enumerate(ratios))
        return self.beta * sum(ratios)
