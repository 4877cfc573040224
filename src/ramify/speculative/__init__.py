"""Speculation: drafted tokens, and the rules by which the target lets them stand.

p is the draft's distribution, q the target's. `proposal` holds what was drafted, `trees` drafts it, `verify`
judges it; all of it pure functions of distributions, without a model.
"""

from ramify.speculative.proposal import Proposal, Scheme, chain
from ramify.speculative.speculation import LOOKUPS, Draft, Speculation, speculate
from ramify.speculative.verify import (
    Verdict,
    verify_coupled,
    verify_greedy,
    verify_k_sequential,
    verify_recursive,
    verify_token,
)
from ramify.speculative.verify_joint import verify_block, verify_traversal
from ramify.speculative.verify_relaxed import verify_lossy, verify_priced, verify_typical

__all__ = ["LOOKUPS", "Draft", "Proposal", "Scheme", "Speculation", "Verdict", "chain", "speculate", "verify_block",
           "verify_coupled", "verify_greedy", "verify_k_sequential", "verify_lossy", "verify_priced",
           "verify_recursive", "verify_token", "verify_traversal", "verify_typical"]
