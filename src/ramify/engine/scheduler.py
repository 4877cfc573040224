"""Which ids every model reads in the next step: a token budget, one-token rows first, and block accounting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from typing import TYPE_CHECKING

from ramify.engine.reading import agree

if TYPE_CHECKING:
    from ramify.engine.jobs import Job
    from ramify.engine.request import Request
    from ramify.engine.runner import Runner
    from ramify.engine.sequence import Context, Sequence

    Planned = tuple[list[Job], int]


WHILE = 8  # ids, of several texts that go on from one, that are worth a row before the texts part


class Scheduler:
    """Packs jobs into steps.

    Growing rows (one id each) go first, then prompts and rewards in chunks, oldest request first, until
    `step_tokens` ids are packed per model. When blocks run out, remembered prefixes go first, then what
    younger requests have read, then what others can spare; it is read again later. The first job always
    runs, so work never stalls.

    Jobs that read the same after the same text share a row as long as they do: candidates cost nothing until they
    differ, and a reward reads once what several answers begin with. Without `dedupe` they share what stands at a fork.
    """

    def __init__(self, step_tokens: int, dedupe: bool) -> None:
        self.step_tokens, self.dedupe = step_tokens, dedupe

    def plan(self, jobs: list[Job], requests: list[Request]) -> dict[Runner, list[Planned]]:
        """Rows per model: the jobs each is for, and how many of their ids it reads into the context that is theirs
        then. Blocks for them are free when this returns.

        requests: all that hold blocks, oldest first.
        """
        by_runner: dict[Runner, list[Job]] = defaultdict(list)
        for job in jobs:
            by_runner[job.runner].append(job)
        return {runner: rows for runner, waiting in by_runner.items()
                if (rows := self._fill(runner, waiting, requests))}

    def _fill(self, runner: Runner, jobs: list[Job], requests: list[Request]) -> list[Planned]:
        budget, reserved = self.step_tokens, 0
        rows: list[Planned] = []
        taken: set[Context] = set()
        readers: set[Request] = set()
        waiting = [(_common(alike), alike) for alike in self._rows(jobs)]
        waiting.sort(key=lambda entry: entry[0] > 1)  # stable: keeps the order of arrival
        for pending, alike in waiting:
            if budget == 0:
                break
            job = alike[0]
            if (context := job.context) in taken:
                continue
            if len(alike) < context.holders:
                context = context.split(len(alike))
                for each in alike:
                    each.sequence.contexts[runner] = context
            if not context.ids or len(context.ids) > job.most:
                job.restore()
                pending = _common(alike)
            count = min(pending, budget)
            if pending > 1 and job.lacks_prompt:
                if job.request in readers:
                    continue
                readers.add(job.request)
            need = context.table.blocks_needed(count)
            if runner.pool.available - reserved < need:
                busy = {job.context for job in jobs}
                _make_room(job, reserved + need, requests, taken | {context}, busy, alone=not rows)
                need = context.table.blocks_needed(count)
            if runner.pool.available - reserved < need:
                if rows:
                    continue
                # The oldest job alone: read as much as fits. A remembered prefix may hold its last block too.
                if runner.prefixes is not None:
                    runner.prefixes.clear()
                count = min(count, _room(job.context))
                need = job.context.table.blocks_needed(count)
            reserved += need
            budget -= count
            taken.add(context)
            rows.append((alike, count))
        return rows

    def _rows(self, jobs: list[Job]) -> list[list[Job]]:
        """The jobs of every row: those that go on alike in one context, for a while at least."""
        rows: list[list[Job]] = []
        shared: dict[Hashable, list[Job]] = {}
        seen: set[Sequence] = set()
        for job in jobs:
            context = job.context
            # One that was given up begins again with the prompt, whatever its holders go on with.
            if context.holders == 1 or not context.ids or not (self.dedupe or job.sequence.newborn):
                rows.append([job])
            elif job.sequence not in seen:  # another job of the same sequence waits
                seen.add(job.sequence)
                key = (context, job.want, *job.next_ids(WHILE))
                if key not in shared:
                    rows.append(shared.setdefault(key, []))
                shared[key].append(job)
        return rows


def _common(alike: list[Job]) -> int:
    """How many ids all of them read next."""
    pending = alike[0].pending
    if len(alike) == 1 or pending < WHILE:  # nobody has more
        return pending
    first, *others = (job.next_ids(job.pending) for job in alike)
    return min(agree(first, other) for other in others)


def _room(context: Context) -> int:
    """Ids that fit into the free blocks and the rest of the last one."""
    pool, table = context.runner.pool, context.table
    low, high = 0, pool.available * pool.block_size + pool.block_size
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if table.blocks_needed(middle) <= pool.available else (low, middle - 1)
    return low


def _make_room(job: Job, need: int, requests: list[Request], spared: set[Context], busy: set[Context],
               alone: bool) -> None:
    """Give up contexts, youngest first, until `need` blocks are free.

    A younger request loses everything. The job's own and older ones lose blocks that nobody shares, but not
    the prompt, which every candidate would read again, nor what older ones are `busy` with. Only a job that
    would run `alone` takes it all.
    """
    runner, pool = job.runner, job.runner.pool
    if _evict(runner, need):
        return
    if runner.role == "target":
        for request in requests:
            request.note_peak(runner)
    for everything in (False, True) if alone else (False,):
        for request in reversed(requests):
            root = request.root.contexts.get(runner)
            contexts = [at.contexts[runner] for at in reversed(request.sequences) if runner in at.contexts]
            whole = everything or (request.number > job.request.number and spared.isdisjoint(contexts))
            kept = busy if request.number < job.request.number and not everything else spared
            for context in contexts:
                own = context is not root and any(pool.refs[block] == 1 for block in context.table.blocks)
                if context.ids and context not in spared and context not in kept and (whole or own):
                    context.free()
                    if _evict(runner, need):
                        return


def _evict(runner: Runner, need: int) -> bool:
    """Whether `need` blocks are free, after giving up remembered prefixes if they were not."""
    if runner.prefixes is not None and runner.pool.available < need:
        runner.prefixes.evict(need - runner.pool.available)
    return runner.pool.available >= need
