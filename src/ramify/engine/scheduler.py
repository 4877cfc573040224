"""Which ids every model reads in the next step: a token budget, one-token rows first, and block accounting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ramify.engine.jobs import Job
    from ramify.engine.runner import Runner
    from ramify.engine.sequence import Context, Sequence


class Scheduler:
    """Packs jobs into steps.

    Growing rows (one id each) go first, then prompts and rewards in chunks, oldest request first, until
    `step_tokens` ids are packed per model. When blocks run out, remembered prefixes go first, then the
    youngest contexts are given up and recomputed later; the oldest job always runs, so work never stalls.
    """

    def __init__(self, step_tokens: int) -> None:
        self.step_tokens = step_tokens

    def plan(self, jobs: list[Job], alive: Iterable[Sequence]) -> dict[Runner, list[tuple[Job, int]]]:
        """Rows per model: (job, how many of its ids to read). Blocks for them are free when this returns.

        alive: every sequence that holds blocks, oldest first.
        """
        by_runner: dict[Runner, list[Job]] = defaultdict(list)
        alive = list(alive)
        for job in jobs:
            by_runner[job.context.runner].append(job)
        return {runner: rows for runner, waiting in by_runner.items()
                if (rows := self._fill(runner, waiting, alive))}

    def _fill(self, runner: Runner, jobs: list[Job], alive: list[Sequence]) -> list[tuple[Job, int]]:
        budget, reserved = self.step_tokens, 0
        rows: list[tuple[Job, int]] = []
        taken: set[Context] = set()
        for job in jobs:
            job.restore()
        for job in sorted(jobs, key=lambda job: job.pending > 1):  # stable: keeps the order of arrival
            count = min(job.pending, budget)
            if count == 0 or job.context in taken:
                continue
            need = job.context.table.blocks_needed(count)
            if runner.pool.available - reserved < need:
                self._make_room(runner, reserved + need, alive, taken | {job.context}, alone=not rows)
                need = job.context.table.blocks_needed(count)
            if runner.pool.available - reserved < need:
                if rows:
                    continue
                # The oldest job alone: read as much as fits. A remembered prefix may hold its last block too.
                if runner.prefixes is not None:
                    runner.prefixes.clear()
                count = min(count, self._room(job.context))
                need = job.context.table.blocks_needed(count)
            reserved += need
            budget -= count
            taken.add(job.context)
            rows.append((job, count))
        return rows

    @staticmethod
    def _room(context: Context) -> int:
        """Ids that fit into the free blocks and the rest of the last one."""
        pool, table = context.runner.pool, context.table
        low, high = 0, pool.available * pool.block_size + pool.block_size
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if table.blocks_needed(middle) <= pool.available else (low, middle - 1)
        return low

    @staticmethod
    def _make_room(runner: Runner, need: int, alive: list[Sequence], protected: set[Context], alone: bool) -> None:
        """Free blocks until `need` are available: remembered prefixes, then contexts, youngest first.

        A prompt stays if it can, and so does a context without a block of its own: that would free nothing, and
        every candidate would read the prompt again. Only a job that would run `alone` takes it all.
        """
        pool = runner.pool
        if runner.prefixes is not None:
            runner.prefixes.evict(need - pool.available)
        for shared_too in (False, True) if alone else (False,):
            for sequence in reversed(alive):
                if pool.available >= need:
                    return
                context = sequence.contexts.get(runner)
                if context is None or context in protected or not context.ids:
                    continue
                if shared_too or (sequence.path and any(pool.refs[block] == 1 for block in context.table.blocks)):
                    context.free()
                    if runner.prefixes is not None:
                        runner.prefixes.evict(need - pool.available)
