"""Speculation inside a step: what follows each growing candidate is drafted, read by the target at once, verified.

p is the draft's distribution, q the target's.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ramify.engine.batch import Tree
from ramify.engine.growth import commit
from ramify.engine.jobs import Job
from ramify.engine.reading import agree
from ramify.engine.runner import rows_of
from ramify.sampling.draws import ACCEPT, Draws, Key
from ramify.sampling.transforms import has_penalties, probabilities
from ramify.speculative.drafter import Ask, Drafter, Seen
from ramify.speculative.pace import Pace
from ramify.speculative.proposal import Path, Proposal
from ramify.speculative.speculation import Speculation
from ramify.speculative.translation import translation
from ramify.speculative.verify import Verdict

if TYPE_CHECKING:
    from ramify.engine.loop import Loop
    from ramify.engine.request import Request
    from ramify.engine.runner import Runner
    from ramify.models import Tokenizer

Drafts = dict[Job, tuple[Proposal, "_Branch | None"]]


def draft(loop: Loop, planned: list[tuple[Job, int]]) -> Drafts:
    """A proposal for every planned row that grows by one token and whose request speculates.

    The blocks that the target needs to read them are free when this returns. A drafter that fails ends speculation
    in its requests, with a warning; they go on without.
    """
    growing: dict[Speculation, list[Job]] = defaultdict(list)
    for job, count in planned:
        speculation = job.request.speculation
        if speculation and job.want == "grow" and count == job.pending == 1 and job.grow > 1:
            growing[speculation].append(job)
    if not growing:
        return {}
    lengths = _lengths(loop, growing, sum(count for _, count in planned))
    waiting: dict[Drafter, dict[Ask, Job]] = defaultdict(dict)
    for speculation, jobs in growing.items():
        length = lengths[speculation.pace]
        jobs[0].request.emit("draft", rows=len(jobs), length=length)
        waiting[speculation.drafter] |= {_ask(job, length): job for job in jobs if length}
    room = _Room(loop, planned)
    drafts: Drafts = {}
    for drafter, asks in waiting.items():
        try:
            drafts |= _drafts_of(loop, drafter, asks, room)
        except Exception as error:
            for request in {job.request for job in asks.values()}:
                request.speculation_failed(f"drafting failed and was given up: {type(error).__name__}: {error}")
    return drafts


def _lengths(loop: Loop, growing: dict[Speculation, list[Job]], ids: int) -> dict[Pace, int]:
    """What each pace says to all that share it, in a step that reads `ids` without drafts."""
    sharing: dict[Pace, list[Speculation]] = defaultdict(list)
    for speculation in growing:
        sharing[speculation.pace].append(speculation)
    lengths = {}
    for pace, some in sharing.items():
        jobs = [job for each in some for job in growing[each]]
        lengths[pace] = pace.length(len(jobs), ids, _Seconds(loop, some[0].drafter, jobs))
    return lengths


def _ask(job: Job, length: int) -> Ask:
    prompt, speculation = job.request.prompt, job.request.speculation
    assert speculation is not None
    ends = () if prompt.params.ignore_eos else job.context.runner.model.tokenizer.eos_ids
    return Ask(prompt.ids, job.sequence.tokens, min(length, job.grow - 1), job.sequence.stream, ends,
               memory=speculation.memory)


class _Room:
    """What is left of the step for drafted ids."""

    def __init__(self, loop: Loop, planned: list[tuple[Job, int]]) -> None:
        self.tokens = loop.scheduler.step_tokens - sum(count for _, count in planned)
        self.blocks = loop.target.pool.available - sum(job.context.table.blocks_needed(n) for job, n in planned)

    def take(self, job: Job, nodes: int) -> bool:
        """Whether `nodes` more ids of this row fit; then they are taken."""
        table = job.context.table
        need = table.blocks_needed(1 + nodes) - table.blocks_needed(1)
        if nodes > self.tokens or need > self.blocks:
            return False
        self.tokens, self.blocks = self.tokens - nodes, self.blocks - need
        return True


def _drafts_of(loop: Loop, drafter: Drafter, asks: dict[Ask, Job], room: _Room) -> Drafts:
    """The proposals of one drafter."""
    reader = None
    if drafter.model is not None:
        reader = Reader(loop, loop.runner(drafter.model, "draft"))
        reader.read_prompts({job.request for job in asks.values()})
        asks = reader.admit(asks, drafter.nodes(max(ask.most for ask in asks)))
    if not asks:
        return {}
    proposals = drafter.propose(list(asks), reader or _no_model, loop.draws)
    if reader:
        reader.mark()
    drafts: Drafts = {}
    for (ask, job), proposal in zip(asks.items(), proposals, strict=True):
        job.request.usage.role("draft").flops += ask.flops
        branch = reader.branches[ask] if reader and not reader.translation else None
        if len(proposal) and room.take(job, len(proposal)):
            drafts[job] = proposal, branch
        elif branch is not None:
            branch.job.context.rewind(branch.base)
    return drafts


class _Seconds:
    """What steps took; see `ramify.speculative.pace.Costs`."""

    def __init__(self, loop: Loop, drafter: Drafter, jobs: list[Job]) -> None:
        self.loop, self.jobs = loop, jobs
        self.runner = loop.runner(drafter.model, "draft") if drafter.model else None

    def target(self, ids: int) -> float | None:
        """See `Costs`."""
        return self.loop.costs.seconds(self.loop.target, ids)

    def draft(self, ids: int) -> float | None:
        """See `Costs`. Looking up is free beside any step."""
        return self.loop.costs.seconds(self.runner, ids) if self.runner else 0.0

    def catch_up(self) -> float:
        """See `Costs`."""
        if self.runner is None:
            return 0.0
        unread = sum(len(request.prefixes[self.runner]) - len(request.root.contexts[self.runner].ids)
                     for request in {job.request for job in self.jobs})
        for job in self.jobs:
            context = job.sequence.contexts.get(self.runner)
            read = len(context.ids) - len(job.request.prefixes[self.runner]) if context else 0
            unread += len(job.sequence.tokens) - read
        return max(0.0, (self.draft(unread) or 0.0) - (self.draft(len(self.jobs)) or 0.0))


def _no_model(asks: Sequence[tuple[Ask, Sequence[Path]]]) -> list[Seen]:
    raise TypeError("this drafter has no model to look at")


class _Branch:
    """What the draft model has read of one candidate beyond its committed text, in reading order."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.base = len(job.context.ids)  # of the drafted part, in the draft's context
        self.paths: list[Path] = []

    def tree(self, paths: Sequence[Path]) -> Tree | None:
        """How new ids, the last of each path, hang on what was read; None while it is one line of text."""
        everything = [*self.paths, *paths]
        if all(longer[: len(shorter)] == shorter and len(longer) == len(shorter) + 1
               for shorter, longer in zip([(), *everything], everything, strict=False)):
            return None
        place = {path: at for at, path in enumerate(everything)}
        sees = [[place[path[:size]] for size in range(1, len(path) + 1)] for path in paths]
        return Tree(self.base, [len(path) - 1 for path in everything], sees)


class Reader:
    """A draft model in one step; calling it is `Look`.

    One with another tokenizer keeps what it read, drafts too, and next time reads anew from where its text changed. Its
    paths and distributions are in its own tokens, as they come from the model.
    """

    def __init__(self, loop: Loop, runner: Runner) -> None:
        self.loop, self.runner = loop, runner
        self.translation = translation(runner.model, loop.target.model)
        self.branches: dict[Ask, _Branch] = {}
        self._ids, self._since = 0, 0.0

    def mark(self, ids: int = 0) -> None:
        """`ids` are about to be read. What happened since the last mark, drawing included, is what those ids cost."""
        now = perf_counter()
        if self._ids:
            self.loop.costs.note(self.runner, self._ids, now - self._since)
        self._ids, self._since = ids, now

    def read_prompts(self, requests: Iterable[Request]) -> None:
        """What the draft has not read of them, all together, a step's worth of ids at a time.

        One that finds no room is left for a later step.
        """
        waiting, free = [], self.runner.pool.available
        for request in requests:
            root = request.root.contexts[self.runner]
            job = Job(request, request.root, root, request.prefixes[self.runner], [], "none")
            if job.pending:
                job.restore()
                need = root.table.blocks_needed(job.pending)
                if free < need and self.runner.prefixes is not None:
                    free += self.runner.prefixes.evict(need - free)
                if free >= need:
                    free -= need
                    waiting.append(job)
                    # Every candidate will inherit the prompt; the one that is computed now is not saved.
                    request.usage.role("draft").cached -= 0 if root.lost else job.pending
        while waiting:
            room = self.loop.scheduler.step_tokens
            work: list[tuple[Job, list[int], Tree | None]] = []
            for job in waiting:
                ids = job.next_ids(min(job.pending, room))
                room -= len(ids)
                if ids:
                    work.append((job, ids, None))
            self._read(work)
            for job in waiting:
                if not job.pending:
                    self.runner.remember(job.context)
            waiting = [job for job in waiting if job.pending]

    @torch.inference_mode()
    def _read(self, work: list[tuple[Job, list[int], Tree | None]]) -> Tensor:
        """One forward of the draft model, entered into the ledgers."""
        self.mark(sum(len(ids) for _, ids, _ in work))
        starts = [len(job.context.ids) for job, _, _ in work]
        hidden_TD = self.runner.forward([(job.context, ids, tree) for job, ids, tree in work])
        for request in {job.request for job, _, _ in work}:
            request.usage.role("draft").calls += 1
        for (job, ids, _), start in zip(work, starts, strict=True):
            job.account(start, len(ids))
        return hidden_TD

    def admit(self, asks: dict[Ask, Job], nodes: int) -> dict[Ask, Job]:
        """Those that the draft's cache and context have room for, `nodes` drafted ids each; they get a context."""
        runner, free = self.runner, self.runner.pool.available
        for ask, job in asks.items():
            request, sequence = job.request, job.sequence
            if runner not in sequence.contexts:
                root = request.root.contexts[runner]
                sequence.contexts[runner] = root.fork()
                request.usage.role("draft").cached += len(root.ids)
            answer = self.translation.read(ask.prompt, ask.answer) if self.translation else ask.answer
            own = Job(request, sequence, sequence.contexts[runner], request.prefixes[runner], answer, "grow")
            own.restore()
            if self.translation:  # at least one id is read again, to know what follows
                text = own.prefix + answer
                own.context.rewind(min(agree(own.context.ids, text), len(text) - 1))
            need = own.context.table.blocks_needed(own.pending + nodes)
            if free < need and runner.prefixes is not None:
                free += runner.prefixes.evict(need - free)
            fits = len(own.prefix) + len(answer) + ask.most <= runner.model.decoder.config.max_positions
            if fits and free >= need and not own.lacks_prompt:
                free -= need
                self.branches[ask] = _Branch(own)
        return {ask: job for ask, job in asks.items() if ask in self.branches}

    @torch.inference_mode()
    def __call__(self, asks: Sequence[tuple[Ask, Sequence[Path]]]) -> list[Seen]:
        """See `ramify.speculative.Look`: one forward of the draft model."""
        work: list[tuple[Job, list[int], Tree | None]] = []
        for ask, paths in asks:
            branch = self.branches[ask]
            job, new = branch.job, [path for path in paths if path]
            ids = [path[-1] for path in new]
            if not new:  # what was committed since the last time
                ids = job.next_ids(job.pending)
                branch.base = len(job.context.ids) + len(ids)
            work.append((job, ids, branch.tree(new)))
            branch.paths += new
        hidden_TD = self._read(work)
        ends = itertools.accumulate(len(ids) for _, ids, _ in work)
        last = [at for end, (_, paths) in zip(ends, asks, strict=True) for at in range(end - len(paths), end)]
        last_RD = rows_of(hidden_TD, last)
        logits_RV = self.runner.model.decoder.logits(last_RD)
        p_RV = logits_RV.softmax(-1) if self.translation else self._distributions(asks, logits_RV)
        sizes = [len(paths) for _, paths in asks]
        return [Seen(*rows) for rows in zip(p_RV.split(sizes), last_RD.split(sizes), strict=True)]

    def _distributions(self, asks: Sequence[tuple[Ask, Sequence[Path]]], logits_RV: Tensor) -> Tensor:
        logits_RV = fit_vocabulary(logits_RV, self.loop.target.model.decoder.config.vocab_size)
        owners = [self.branches[ask].job.request for ask, paths in asks for _ in paths]
        return distributions(owners, logits_RV, [(ask.answer, path) for ask, paths in asks for path in paths])


def fit_vocabulary(logits_RV: Tensor, size: int) -> Tensor:
    """Logits over the first `size` tokens: rows padded in training are cut off, tokens that are missing impossible."""
    missing = size - logits_RV.shape[-1]
    return F.pad(logits_RV, (0, missing), value=-torch.inf) if missing > 0 else logits_RV[:, :size]


def distributions(owners: Sequence[Request], logits_RV: Tensor, rows: Sequence[tuple[list[int], Path]]) -> Tensor:
    """What is sampled from after each (answer, path) of its owner, with that request's own transforms: p_RV or q_RV."""
    requests = dict.fromkeys(owners)
    if len(requests) == 1:
        return _distribution(owners[0], logits_RV, rows)
    probs_RV = torch.empty_like(logits_RV)
    for request in requests:
        mine = [at for at, owner in enumerate(owners) if owner is request]
        probs_RV[mine] = _distribution(request, logits_RV[mine], [rows[at] for at in mine])
    return probs_RV


def _distribution(request: Request, logits_RV: Tensor, rows: Sequence[tuple[list[int], Path]]) -> Tensor:
    params = request.prompt.params
    answers = [answer + list(path) for answer, path in rows] if has_penalties(params) else None
    return probabilities(logits_RV, params, answers, request.prompt.ids)


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
    owners = [job.request for job, size in zip(drafted, sizes, strict=True) for _ in range(size)]
    rows = [(job.sequence.tokens, path) for job in drafted for path in ((), *drafts[job][0].paths)]
    q_TV = distributions(owners, logits_TV, rows)
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
    token_K1 = torch.tensor(tokens, device=logits_TV.device)[:, None]
    logprobs = iter(logits_TV[places].log_softmax(-1).gather(-1, token_K1)[:, 0].tolist())
    for job, verdict in zip(drafted, verdicts, strict=True):
        proposal = drafts[job][0]
        _settle(job, proposal, drafts[job][1], verdict,
                [(token, next(logprobs)) for token in verdict.text(proposal)], tokenizer)


def _settle(job: Job, proposal: Proposal, branch: _Branch | None, verdict: Verdict, text: list[tuple[int, float]],
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
