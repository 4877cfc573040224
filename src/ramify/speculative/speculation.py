"""One request's speculation: who drafts, how the target verifies, how long to draft, and what came of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ramify.errors import OptionError
from ramify.sampling.draws import Draws, Key
from ramify.speculative.drafter import ChainDrafter, Drafter, LookupDrafter, Memory, MixedDrafter, SuffixDrafter
from ramify.speculative.pace import FixedPace, MeasuredPace, Pace
from ramify.speculative.proposal import Proposal
from ramify.speculative.stopping import Rule, acceptance, confidence, entropy, likelihood
from ramify.speculative.switching import SwitchDrafter, verify_trusted
from ramify.speculative.translation import GREEDY_ONLY, TranslatedDrafter, Translation
from ramify.speculative.tree_drafter import TreeDrafter
from ramify.speculative.verify import (
    Verdict,
    verify_coupled,
    verify_greedy,
    verify_k_sequential,
    verify_recursive,
    verify_token,
)
from ramify.speculative.verify_joint import verify_block, verify_traversal
from ramify.speculative.verify_relaxed import verify_lossy, verify_typical
from ramify.types import SpeculationParams, check

if TYPE_CHECKING:
    from ramify.models import Model

Verify = Callable[[Proposal, Tensor, Draws, Key], Verdict]

VERIFIERS: dict[str, Verify] = {
    "token": verify_token, "block": verify_block, "recursive": verify_recursive, "k_sequential": verify_k_sequential,
    "traversal": verify_traversal, "coupled": verify_coupled, "greedy": verify_greedy, "lossy": verify_lossy,
    "typical": verify_typical, "trusted": verify_trusted,
}
CHAINS = ("token", "block", "lossy", "trusted")  # verifiers that take no tree
LOOKUPS: dict[str, Callable[[], Drafter]] = {"ngram": LookupDrafter, "suffix": SuffixDrafter}
STOPS: dict[str, Callable[[float], Rule]] = {
    "confidence": confidence, "entropy": entropy, "likelihood": likelihood, "acceptance": acceptance}
RULES = 'draft_stop such as "likelihood:0.4", "confidence:0.4", "entropy:1.5", "acceptance:0.3" or "mean:1.2"'


@dataclass(slots=True, eq=False)
class Speculation:
    """How one request speculates, and what came of it.

    drafted, accepted: tokens. rejections: tests that failed. verified: rows that the target read with a draft.
    committed: tokens that came of them. memory: what was said, for drafters that look it up.
    """

    drafter: Drafter
    verify: Verify
    pace: Pace
    drafted: int = 0
    accepted: int = 0
    rejections: int = 0
    verified: int = 0
    committed: int = 0
    memory: Memory = field(default_factory=Memory)

    def note(self, proposal: Proposal, verdict: Verdict, committed: int) -> None:
        """Take in one verification; `committed` tokens of it were used.

        Where the answer ended among the drafted tokens, what was drafted behind its end says nothing.
        """
        ended, accepted = committed <= len(verdict.path), min(len(verdict.path), committed)
        self.drafted += len(proposal)
        self.accepted += accepted
        self.rejections += 0 if ended else verdict.rejections
        self.verified += 1
        self.committed += committed
        self.pace.observe(committed if ended else max(proposal.depths), accepted, committed)

    def to_dict(self) -> dict[str, Any]:
        """The `speculative` block of a result."""
        counts: dict[str, Any] = {
            "num_draft_tokens": self.drafted, "num_accepted_draft_tokens": self.accepted,
            "num_rejections": self.rejections, "num_verifications": self.verified}
        if self.verified:
            counts = {"mean_acceptance_length": self.committed / self.verified,
                      "draft_acceptance_rate": self.accepted / self.drafted, **counts}
        return counts


@dataclass(slots=True, frozen=True)
class Draft:
    """What may draft: a model, a look-up among `LOOKUPS`, or a model where the look-up is not sure.

    translation: for a model whose tokenizer is not the target's; it drafts greedy text only.
    paces: what measured lengths have learnt, by verifier and stop rule, for all requests that draft so.
    """

    model: Model | None
    lookup: str = ""
    translation: Translation | None = None
    paces: dict[tuple[str, str], MeasuredPace] = field(default_factory=dict, compare=False, repr=False)


def speculate(params: SpeculationParams, draft: Draft) -> Speculation:
    """A fresh speculation for one request.

    Raises:
        OptionError: options that do not go together.
    """
    if draft.translation is not None:
        check(params.verifier in ("auto", "greedy"), "verifier=greedy for a draft with another tokenizer",
              params.verifier, f"leave it out: {GREEDY_ONLY}")
        params = replace(params, verifier="greedy")
    coupled = params.verifier == "coupled" or (
        params.verifier == "auto" and params.draft_length is None and not params.tree)
    verifier = params.verifier
    if verifier == "auto":
        verifier = "coupled" if coupled else "traversal" if params.tree else "block"
    check(not params.tree or verifier not in CHAINS, "a verifier of trees", verifier, "use traversal or leave out tree")
    check(verifier != "k_sequential" or not params.tree or params.tree.startswith("iid:"),
          "siblings drawn independently for verifier=k_sequential", f"tree={params.tree}", "use iid:2x1 or traversal")
    check((verifier == "trusted") == params.draft_stop.startswith("mean:"),
          "verifier=trusted with draft_stop=mean:NATS, and neither without the other",
          f"verifier={verifier} with draft_stop={params.draft_stop!r}", "give both or neither")
    lossy = verifier in ("typical", "trusted") or params.lenience < 1
    check(not lossy or bool(params.tree) or params.draft_length is not None, f"a draft_length for verifier={verifier}",
          "a measured one", "give one: with lengths that depend on time so would the law")
    verify = VERIFIERS[verifier]
    if verifier == "lossy":
        verify = functools.partial(verify_lossy, lenience=params.lenience)
    drafter = _drafter(params, draft, coupled)
    length = params.draft_length
    if isinstance(drafter, TreeDrafter):
        length = drafter.depth if length is None else length
        check(length <= drafter.depth, f"a draft_length of at most {drafter.depth} for tree={params.tree}", length,
              "lower it, leave it out, or draw a deeper tree")
    pace = FixedPace(length) if length is not None else draft.paces.setdefault(
        (verifier, params.draft_stop), MeasuredPace())
    return Speculation(drafter, verify, pace)


def _drafter(params: SpeculationParams, draft: Draft, coupled: bool) -> Drafter:
    if draft.lookup or draft.model is None:
        check(not params.tree, "no tree for drafts that are looked up", params.tree, "leave it out")
    if draft.model is None:
        check(not params.draft_stop, "a draft model for draft_stop", draft.lookup, "leave it out")
        return LOOKUPS[draft.lookup]()
    if draft.translation is not None:
        return _translated(params, draft.model, draft.translation, draft.lookup)
    if params.tree:
        check(not params.draft_stop, "no draft_stop with a tree", params.draft_stop, "leave one out")
        return TreeDrafter(draft.model, params.tree)
    if params.verifier == "trusted":
        check(not draft.lookup, "a draft model alone for verifier=trusted", f"{draft.lookup}+{draft.model.name}",
              "leave the look-up out")
        return SwitchDrafter(draft.model, _number(params.draft_stop))
    stop, judged = _stop(params.draft_stop), params.draft_stop.startswith("acceptance:")
    check(not judged or draft.model.acceptance is not None, "a draft with an acceptance head",
          f"{draft.model.name}, which has none", "train one with ramify.train, or stop by confidence")
    neural = ChainDrafter(draft.model, stop, coupled, draft.model.acceptance if judged else None)
    return MixedDrafter(neural) if draft.lookup else neural


def _translated(params: SpeculationParams, model: Model, translation: Translation, lookup: str) -> Drafter:
    check(not params.tree, "no tree for a draft with another tokenizer", params.tree, "leave it out")
    check(not params.draft_stop.startswith("acceptance:"), "another draft_stop for a draft with another tokenizer",
          params.draft_stop, "stop by confidence: its head foresees what becomes of its own tokens")
    neural = TranslatedDrafter(model, translation, _stop(params.draft_stop))
    return MixedDrafter(neural) if lookup else neural


@functools.cache  # equal rules, so that requests are drafted together
def _stop(text: str) -> Rule | None:
    """The rule that "confidence:0.4" names."""
    if not text:
        return None
    name = text.partition(":")[0]
    if name not in STOPS:
        raise OptionError(RULES, repr(text), "write it so")
    return STOPS[name](_number(text))


def _number(text: str) -> float:
    """That of "confidence:0.4"."""
    try:
        return float(text.partition(":")[2])
    except ValueError:
        raise OptionError(RULES, repr(text), "write it so") from None
