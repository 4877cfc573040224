"""The draft model in one step: its own caches of prompts and candidates, and what it sees after drafted paths.

p is the draft's distribution.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ramify.engine.batch import Tree
from ramify.engine.growth import distributions
from ramify.engine.jobs import Job
from ramify.engine.reading import agree
from ramify.engine.runner import rows_of
from ramify.engine.speculation import fit_vocabulary
from ramify.speculative.drafter import Ask, Seen
from ramify.speculative.proposal import Path, Proposal
from ramify.speculative.translation import translation

if TYPE_CHECKING:
    from ramify.engine.loop import Loop
    from ramify.engine.request import Request
    from ramify.engine.runner import Runner

Drafts = dict[Job, tuple[Proposal, "Branch | None"]]


class Branch:
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
        self.branches: dict[Ask, Branch] = {}
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
            root = request.root.own(self.runner)
            job = Job(request, request.root, self.runner, request.prefixes[self.runner], [], "none")
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
            request.context(sequence, runner)
            answer = self.translation.read(ask.prompt, ask.answer) if self.translation else ask.answer
            sequence.own(runner)
            own = Job(request, sequence, runner, request.prefixes[runner], answer, "grow")
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
                self.branches[ask] = Branch(own)
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
        rows = [(ask, path) for ask, paths in asks for path in paths]
        return distributions([self.branches[ask].job.request.prompt for ask, _ in rows], logits_RV,
                             lambda row: rows[row][0].answer + list(rows[row][1]))
