"""Drafting inside a step: what may follow each growing candidate, as long as it pays and there is room to read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ramify.engine.draft_reader import Drafts, Reader
from ramify.engine.jobs import Job
from ramify.speculative.drafter import Ask, Drafter, Seen
from ramify.speculative.pace import Pace
from ramify.speculative.proposal import Path
from ramify.speculative.speculation import Speculation

if TYPE_CHECKING:
    from ramify.engine.loop import Loop
    from ramify.engine.scheduler import Planned


def draft(loop: Loop, planned: list[Planned]) -> Drafts:
    """A proposal for every planned row that grows one candidate by one token and whose request speculates.

    A row that stands for several candidates gets none: it yields several tokens as it is.
    The blocks that the target needs to read them are free when this returns. A drafter that fails ends speculation
    in its requests, with a warning; they go on without.
    """
    growing: dict[Speculation, list[Job]] = defaultdict(list)
    for (job, *others), count in planned:
        speculation = job.request.speculation
        if speculation and not others and job.want == "grow" and count == job.pending == 1 and job.grow > 1:
            growing[speculation].append(job)
    if not growing:
        return {}
    lengths = _lengths(loop, growing, sum(count for _, count in planned))
    waiting: dict[Drafter, dict[Ask, Job]] = defaultdict(dict)
    for speculation, jobs in growing.items():
        length = lengths[speculation.pace]
        jobs[0].request.emit("draft", rows=len(jobs), length=length)
        if length:
            waiting[speculation.drafter] |= {_ask(job, length): job for job in jobs}
    if not waiting:
        return {}
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

    def __init__(self, loop: Loop, planned: list[Planned]) -> None:
        self.tokens = loop.scheduler.step_tokens - sum(count for _, count in planned)
        self.blocks = loop.target.pool.available - sum(jobs[0].context.table.blocks_needed(n) for jobs, n in planned)

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

    def verify(self, ids: int) -> float:
        """See `Costs`. Steps with drafts are no faster than others; beyond those that were seen both kinds count."""
        costs, target = self.loop.costs, self.loop.target
        return max(costs.seconds(target, ids) or 0.0, costs.seconds(target, ids, drafts=True) or 0.0)

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
