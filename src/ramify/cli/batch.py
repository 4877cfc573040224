"""A file of prompts: results written as they finish, and a next run that does only what is missing."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ramify.cli.output import complain, notes, say_json
from ramify.cli.prompts import Job, result_row, unfinished
from ramify.errors import RamifyError, UserError
from ramify.trace import RowWriter, Trace

if TYPE_CHECKING:
    from ramify.cli.generate import Setup


@dataclass(slots=True)
class Tally:
    """How a batch went."""

    total: int
    before: int
    done: int = 0
    failed: list[tuple[Job, RamifyError]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """130 after an interrupt; 2 if all that failed were prompts at fault, 1 if anything else did."""
        if self.interrupted:
            return 130
        return min((2 if isinstance(error, UserError) else 1 for _, error in self.failed), default=0)

    def note(self, out: Path | None) -> str:
        """One line for people."""
        parts = [f"{self.done} of {self.total} prompts answered"]
        parts += [f"{self.before} by earlier runs"] * bool(self.before)
        parts += [f"{len(self.failed)} failed"] * bool(self.failed)
        place = f"; the results are in {out}" if out else ""
        again = ", and the same command goes on from there" if out and self.interrupted else ""
        return ("interrupted: " if self.interrupted else "") + ", ".join(parts) + place + again

    def to_dict(self) -> dict[str, Any]:
        """One object for machines."""
        return {"prompts": self.total, "answered": self.done, "answered_before": self.before,
                "interrupted": self.interrupted,
                "failed": [{"id": job.id, "line": job.line, "error": str(error)} for job, error in self.failed]}


def run_batch(setup: Setup, jobs: list[Job], out: Path | None, trace: Path | None) -> Tally:
    """Answer every job that `out` has no result for; without `out` the rows go to standard output.

    A prompt that fails is reported and left out, so that a next run tries it again. An interrupt ends the
    batch; what is finished is written already.

    Raises:
        StorageError: a result or the trace cannot be written. DataError: `out` holds a damaged line.
        ModelError, OptionError: before the first prompt.
    """
    todo = unfinished(jobs, out, setup.stated)
    tally = Tally(total=len(jobs), before=len(jobs) - len(todo))
    if not todo:
        return tally
    columns = (TextColumn(setup.method), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with ExitStack() as opened:
        # Open what will be written before the slow part: a bad path should not cost a model load.
        sink = opened.enter_context(RowWriter(out, append=True)) if out else None
        events = opened.enter_context(Trace(trace, append=tally.before > 0)) if trace else None
        try:
            llm = setup.load()
            progress = opened.enter_context(Progress(*columns, console=notes(), transient=True))
            bar = progress.add_task("", total=len(jobs), completed=tally.before)
            for index, outcome in setup.stream(llm, [job.prompt for job in todo], events):
                job = todo[index]
                if isinstance(outcome, RamifyError):
                    tally.failed.append((job, outcome))
                    complain(outcome, f"prompt {job.id!r} (line {job.line}): ")
                else:
                    row = result_row(job, setup.stated, outcome.to_dict())
                    sink.write([row]) if sink else say_json(row)
                    tally.done += 1
                progress.advance(bar)
        except KeyboardInterrupt:
            tally.interrupted = True
    return tally
