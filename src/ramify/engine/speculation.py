"""What the target makes of drafts inside a step: how it reads them, verifies them and commits what stands.

p is the draft's distribution, q the target's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.engine.batch import Tree
from ramify.engine.growth import commit, distributions, logprobs_of
from ramify.engine.jobs import Job
from ramify.sampling.draws import ACCEPT, Draws, Key
from ramify.speculative.proposal import Proposal
from ramify.speculative.verify import Verdict

if TYPE_CHECKING:
    from ramify.engine.draft_reader import Branch, Drafts
    from ramify.models import Tokenizer


def fit_vocabulary(logits_RV: Tensor, size: int) -> Tensor:
    """Logits over the first `size` tokens: rows padded in training are cut off, tokens that are missing impossible."""
    missing = size - logits_RV.shape[-1]
    return F.pad(logits_RV, (0, missing), value=-torch.inf) if missing > 0 else logits_RV[:, :size]


def verify_tree(proposal: Proposal, base: int) -> Tree | None:
    """How the target reads the last committed id, at position `base`, and the proposal behind it; None for a chain."""
    if proposal.is_chain:
        return None
    depths, sees = [0], [[0]]
    for at, parent in enumerate(proposal.parents):
        depths.append(depths[parent + 1] + 1)
        sees.append([*sees[parent + 1], at + 1])
    return Tree(base, depths, sees)


def settle(drafted: list[Job], drafts: Drafts, logits_TV: Tensor, draws: Draws, tokenizer: Tokenizer) -> None:
    """Verify every row's proposal, commit what came of it, and forget the rest of what both models read.

    logits_TV: after the last committed id and each node of the proposals, row after row.
    """
    sizes = [1 + len(drafts[job][0]) for job in drafted]
    rows = [(job.sequence, path) for job in drafted for path in ((), *drafts[job][0].paths)]
    q_TV = distributions([sequence.prompt for sequence, _ in rows], logits_TV,
                         lambda row: rows[row][0].tokens + list(rows[row][1]))
    verdicts, places, tokens, first = [], [], [], 0
    for job, size in zip(drafted, sizes, strict=True):
        proposal, sequence, speculation = drafts[job][0], job.sequence, job.request.speculation
        assert speculation is not None
        verdict = speculation.verify(proposal, q_TV[first : first + size], draws,
                                     Key(sequence.stream, len(sequence.tokens), ACCEPT))
        verdicts.append(verdict)
        places += [first, *(first + 1 + node for node in verdict.path)]
        tokens += verdict.text(proposal)
        first += size
    logprobs = iter(logprobs_of(tokens, logits_TV[places]))
    for job, verdict in zip(drafted, verdicts, strict=True):
        proposal = drafts[job][0]
        _settle(job, proposal, drafts[job][1], verdict,
                [(token, next(logprobs)) for token in verdict.text(proposal)], tokenizer)


def _settle(job: Job, proposal: Proposal, branch: Branch | None, verdict: Verdict, text: list[tuple[int, float]],
            tokenizer: Tokenizer) -> None:
    """Commit the tokens and log-probabilities of a verdict up to an end of the answer, and prune both contexts."""
    request, sequence, context = job.request, job.sequence, job.context
    speculation = request.speculation
    assert speculation is not None
    committed, base = 0, len(context.ids) - len(proposal)
    for token, logprob in text:
        commit(sequence, token, logprob, tokenizer)
        committed += 1
        if not sequence.live:
            break
    job.grow -= committed
    context.prune(base, verdict.path[: committed - 1])
    if branch is not None:
        place, paths = {path: at for at, path in enumerate(branch.paths)}, proposal.paths
        kept = [place[paths[node]] for node in verdict.path[: committed - 1] if paths[node] in place]
        branch.job.context.prune(branch.base, kept)
    speculation.note(proposal, verdict, committed)
    request.emit("verify", sequence, drafted=len(proposal), accepted=min(len(verdict.path), committed))
