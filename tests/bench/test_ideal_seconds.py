"""Idealized runtime beside the wall's in `bench search`: it counts steps, whatever the clock says."""

import pytest

from ramify.bench.costs import Costs, IdealClock
from ramify.bench.report import summary
from ramify.bench.run import Cell, measure
from ramify.bench.table import cell_columns, footnotes
from ramify.bench.watch import Watch
from ramify.theory.step_cost import StepCost

CELLS = [Cell("sample", 1), Cell("best_of_n", 3)]
SAMPLING = {"max_tokens": 5}
STEP = StepCost(1.0, 0.0, 0.0, 0.0, 0.0)  # a second a forward


def run(llm, questions, done, clock=True):
    costs = Costs({llm.model: STEP, llm.reward.model: STEP}, 0.0, 0.0)
    with Watch(llm.engine) as watch:
        measure(llm, CELLS, questions, seed=0, sampling=SAMPLING, done=done, write=lambda row: None,
                ideal=IdealClock(costs, watch) if clock else None)


def test_a_cells_ideal_seconds_are_its_forwards(llm, questions):
    done = {}
    run(llm, questions, done)
    plain, scored = ([row["ideal_seconds"] for row in done[cell.key].values()] for cell in CELLS)
    assert all(value == int(value) >= 0 for value in plain + scored)  # one may end in the step of another
    # The prompts, then a step for every token but the last; the judge reads prompts and answers.
    longest = max(row["answer_tokens"] for row in done[CELLS[0].key].values())
    assert sum(plain) == longest and sum(scored) > sum(plain)


def test_the_report_shows_them_where_every_row_has_them(llm, questions):
    done = {}
    run(llm, questions, done)
    report = summary(CELLS, done, len(questions), None)
    row = report["rows"][1]
    assert row["ideal_seconds"] == sum(each["ideal_seconds"] for each in done[CELLS[1].key].values()) / len(questions)
    assert f"({row['ideal_seconds']:.3f})" in cell_columns(report)[1][1][-1]
    assert any(note.startswith("Ideal seconds") for note in footnotes(report))
    del done[CELLS[1].key][0]["ideal_seconds"]  # as an earlier version wrote it
    report = summary(CELLS, done, len(questions), None)
    assert report["rows"][1]["ideal_seconds"] is None and "(" not in cell_columns(report)[1][1][-1]


def test_without_costs_there_are_none(llm, questions):
    done = {}
    run(llm, questions, done, clock=False)
    report = summary(CELLS, done, len(questions), None)
    assert {row["ideal_seconds"] for row in report["rows"]} == {None} and not footnotes(report)[1:]


def test_the_clock_only_moves_with_steps(llm):
    with Watch(llm.engine) as watch:
        clock = IdealClock(Costs({llm.model: STEP}, 0.0, 0.0), watch)
        assert clock() == clock() == 0
        result = llm.generate("ab", "sample", n=1, **SAMPLING)
        assert clock() == clock() == pytest.approx(result.usage.target.calls)
