"""The engine's step: drain the searches, plan, run one ragged forward per model, settle."""

from __future__ import annotations

from collections import defaultdict
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ramify.engine.batch import Tree
from ramify.engine.costs import StepCosts
from ramify.engine.draft_reader import Drafts
from ramify.engine.drafting import draft
from ramify.engine.growth import logprobs_of, sample
from ramify.engine.handlers import HANDLERS
from ramify.engine.jobs import Job
from ramify.engine.runner import Runner, rows_of
from ramify.engine.scheduler import Scheduler
from ramify.engine.speculation import settle, verify_tree
from ramify.sampling.draws import Draws

if TYPE_CHECKING:
    from ramify.engine.request import Request
    from ramify.engine.scheduler import Planned
    from ramify.engine.sequence import Context
    from ramify.models import Model
    from ramify.types import Role


def unfinished(jobs: list[Job]) -> list[Job]:
    """Those not done; the others note their results."""
    left = []
    for job in jobs:
        if job.done:
            job.keep()
        else:
            left.append(job)
    return left


def _reading(job: Job, count: int, drafts: Drafts) -> tuple[list[int], Tree | None]:
    """The ids that a row reads, and how they branch: what is pending, and a draft behind it."""
    ids = job.next_ids(count)
    if not drafts or job not in drafts:
        return ids, None
    proposal, _ = drafts[job]
    return ids + proposal.tokens, verify_tree(proposal, len(job.context.ids))


class Loop:
    """All live requests and the models that serve them."""

    def __init__(self, target: Runner, scheduler: Scheduler, draws: Draws) -> None:
        self.target, self.scheduler, self.draws = target, scheduler, draws
        self.requests: list[Request] = []
        self.costs = StepCosts()
        self._runners: dict[tuple[int, Role], Runner] = {}

    def runner(self, model: Model, role: Role) -> Runner:
        """The runner of a companion model, with a cache as large as the target's; made at first use."""
        key = (id(model), role)
        if key not in self._runners:
            self._runners[key] = Runner(model, role, self.target.capacity, self.target.pool.block_size,
                                        self.target.prefixes is not None, self.target.kv_dtype)
        return self._runners[key]

    def step(self) -> list[Request]:
        """One engine step. Returns the requests that ended in it."""
        for request in self.requests:
            self._drain(request)
        began = perf_counter()
        jobs = [job for request in self.requests for job in request.jobs]
        for runner, rows in self.scheduler.plan(jobs, self.requests).items():
            planned = perf_counter()
            drafts = draft(self, rows) if runner is self.target else {}
            drafting = perf_counter() - planned
            work = [(jobs[0].context, *_reading(jobs[0], count, drafts)) for jobs, count in rows]
            for request in {jobs[0].request for jobs, _ in rows}:
                request.usage.role(runner.role).calls += 1
            hidden_TD = runner.forward(work)
            rows = [(jobs, len(ids)) for (jobs, _), (_, ids, _) in zip(rows, work, strict=True)]  # drafts included
            self._settle(runner, rows, hidden_TD, drafts)
            now = perf_counter()
            self.costs.note(runner, len(hidden_TD), now - began - drafting, bool(drafts))  # drafts have their own
            for pace in {job.request.speculation.pace for job in drafts if job.request.speculation}:
                pace.took(now - began)
            began = now
        ended = [request for request in self.requests if request.finished]
        self.requests = [request for request in self.requests if not request.finished]
        return ended

    def _drain(self, request: Request) -> None:
        """Resume a request whose jobs are done until it has new ones or ends."""
        request.jobs = unfinished(request.jobs)
        reply = None
        if not request.jobs:  # only steps take blocks
            request.note_peak(self.target)
        while not request.jobs and not request.finished:
            try:
                reply = self._resume(request, reply)
            except Exception as error:  # it ends this request; the others never notice
                request.fail(error)

    def _resume(self, request: Request, reply: Any) -> Any:
        """Hand `reply` to the topmost generator. Returns the reply for the one that is topmost then."""
        try:
            item = request.stack[-1].send(reply)
        except StopIteration as stop:
            request.stack.pop()
            if not request.stack:
                request.complete(stop.value)
            return stop.value
        if isinstance(item, list):
            self._grow_read([job for job in item if job.want == "grow" and job.pending == 0 and not job.done])
            request.jobs = unfinished(item)
        elif type(item) in HANDLERS:
            request.stack.append(HANDLERS[type(item)](self, request, item))
        else:
            raise TypeError(f"a search yields commands such as Fork and Extend, not {item!r}")
        return None

    @torch.inference_mode()
    def _settle(self, runner: Runner, rows: list[Planned], hidden_TD: Tensor, drafts: Drafts) -> None:
        """Hand the jobs of every row what its new hidden states, so many per row, were for."""
        decoder = runner.model.decoder
        ends: dict[str, list[list[Job]]] = defaultdict(list)
        places: dict[str, list[int]] = defaultdict(list)
        end = 0
        for jobs, count in rows:
            job, first, end = jobs[0], end, end + count
            nodes = len(drafts[job][0]) if drafts and job in drafts else 0
            read = len(job.context.ids)
            job.account(read - count, count, nodes, len(jobs) - 1)
            job.return_prompt()
            if nodes:
                ends["verify"].append(jobs)
                places["verify"] += range(first, end)
            elif job.want == "logprobs":
                self._collect(runner, jobs, hidden_TD[first:end])
            elif done := [job for job in jobs if job.length == read]:
                ends[job.want].append(done)
                places[job.want].append(end - 1)
        if drafted := ends["verify"]:
            logits_TV = decoder.logits(rows_of(hidden_TD, places["verify"]))
            settle([job for job, in drafted], drafts, logits_TV, self.draws, runner.model.tokenizer)
        if grown := ends["grow"]:
            self._grow(grown, decoder.logits(rows_of(hidden_TD, places["grow"])))
        if ends["logits"]:
            for jobs, logits_V in zip(ends["logits"], decoder.logits(hidden_TD[places["logits"]]), strict=True):
                jobs[0].context.logits = logits_V
        if ends["value"]:
            head = runner.model.head
            assert head is not None  # load_model(head=True) saw to it
            for jobs, value in zip(ends["value"], head(hidden_TD[places["value"]]).tolist(), strict=True):
                jobs[0].context.value = value

    def _collect(self, runner: Runner, jobs: list[Job], hidden_QD: Tensor) -> None:
        """Log-probabilities of the answer tokens that follow the ids just read; of all jobs as many are known."""
        first, end = len(jobs[0].prefix) - 1, len(jobs[0].context.ids)
        unknown = max(end - len(hidden_QD), first + len(jobs[0].sequence.known[runner]))
        if unknown >= end:
            return
        logits_QV = runner.model.decoder.logits(hidden_QD[unknown - end :])
        for job in jobs:
            follow = job.sequence.tokens[unknown - first : end - first]
            job.sequence.known[runner] += logprobs_of(follow, logits_QV)

    def _grow_read(self, jobs: list[Job]) -> None:
        """Of jobs that have nothing to read, grow those for which it is known already what follows."""
        rows: dict[Context, list[Job]] = defaultdict(list)
        for job in jobs:
            rows[job.context].append(job)
        known = {context: context.logits for context in rows if context.logits is not None}
        if known:
            self._grow([rows[context] for context in known], torch.stack(list(known.values())))

    def _grow(self, rows: list[list[Job]], logits_RV: Tensor) -> None:
        """Sample one token for every job of every row and commit it."""
        sample(rows, logits_RV, self.draws, self.target.model)
