"""The summary of rows whose numbers are known, its sentences, its tables, its picture and its page."""

import math
import re
from itertools import pairwise

import pytest

from ramify.bench.page import page
from ramify.bench.report import findings, summary
from ramify.bench.run import Cell
from ramify.bench.table import footnotes, match_columns, reach_columns, tables

COUNT = 4


def row(index, reward, correct, tokens, **more):
    return {"question": index, "reward": reward, "correct": correct, "judged": False, "answer_tokens": 10,
            "generated_tokens": tokens, "tokens": {"target": tokens + 5, "reward": tokens},
            "flops": {"target": 2.0 * tokens, "reward": 1.0 * tokens}, "peak_kv_tokens": 50, "seconds": 0.5, **more}


@pytest.fixture
def measured():
    """Best-of-4 earns reward 2 for 40 tokens; the rival 1 for 10 and 3 for 40, so 2 for 20."""
    cells = [Cell("sample", 1), Cell("best_of_n", 4), Cell("rival", 2), Cell("rival", 8),
             Cell("best_of_n", 4, pool=True)]
    pool = [[0.0, False, 10], [1.0, False, 10], [2.0, True, 10], [2.5, True, 10]]
    values = {
        cells[0].key: [row(i, 0.0, i == 0, 10, judged=True) for i in range(COUNT)],
        cells[1].key: [row(i, 2.0, i < 3, 40) for i in range(COUNT)],
        cells[2].key: [row(i, 1.0, i < 2, 10) for i in range(COUNT)],
        cells[3].key: [row(i, 3.0, i < 2, 40) for i in range(COUNT)],
        cells[4].key: [row(i, 2.5, True, 40, pool=pool) for i in range(COUNT)],
    }
    return cells, {key: dict(enumerate(rows)) for key, rows in values.items()}


@pytest.fixture
def report(measured):
    cells, results = measured
    setup = {"model": "m", "reward": "r", "sampling": {"max_tokens": 96}, "seed": 0, "command": "ramify bench search"}
    report = {**setup, **summary(cells, results, COUNT, cells[1])}
    return {**report, "findings": findings(report)}


def test_means_and_gains(report):
    sample, best, *_ = report["rows"]
    assert (sample["accuracy"], best["accuracy"]) == (0.25, 0.75)
    assert best["flops"] == {"target": 80.0, "reward": 40.0, "total": 120.0}
    assert best["gain"] == 0.5 and "gain" not in sample
    assert best["reward_interval"] == (2.0, 2.0)
    assert sample["reward_judged_afterwards"] and not best["reward_judged_afterwards"]
    assert len(report["rows"]) == 4  # the pool is not shown


def test_compute_to_reach_the_reference(report):
    rival = next(entry for entry in report["to_reach"] if entry["method"] == "rival")
    assert rival["reward"]["flops"] == pytest.approx(math.sqrt(30 * 120))
    assert rival["reward"]["share_of_flops"] == pytest.approx(0.5)
    assert rival["reward"]["share_of_flops_interval"] == pytest.approx((0.5, 0.5))
    assert rival["accuracy"] is None
    assert "Rival reaches Best-of-4's mean reward of 2.000 with 0.50 (0.50 to 0.50) of its FLOPs." in report["findings"]
    assert any("Rival does not reach Best-of-4's accuracy of 75.0%" in line for line in report["findings"])


def test_head_to_head_at_equal_generated_tokens(report):
    small, large = (row["head_to_head"] for row in report["rows"] if row["method"] == "rival")
    assert small["matched_n"] == 1.0 and small["reward"] == 0.25 + 0.125
    assert large["matched_n"] == 4.0 and large["reward"] == 1.0
    assert large["accuracy"] == 0.25  # Best-of-4 of the pool is always right; the rival ties twice in four


def test_without_reward_or_reference_there_is_less_to_say(measured):
    cells, results = measured
    results[cells[0].key][0]["reward"] = None
    report = summary(cells[:1], results, COUNT, None)
    assert report["rows"][0]["reward"] is None and report["to_reach"] == [] and findings(report) == []


def test_tables(report):
    assert len(tables(report)) == 4
    _, lines = reach_columns(report)
    assert lines[-1][0] == "Rival" and lines[-1][1] == "not reached" and lines[-1][7] == "0.50"
    _, lines = match_columns(report)
    assert lines[-1][:4] == ["Rival", "8", "4.0", "100.0%"]
    assert any("outside its ledger" in note for note in footnotes(report))


def test_page_stands_alone(report):
    text = page(report, "<svg></svg>")
    assert text.count("<table>") == 3 and "ramify bench search" in text
    assert not re.search(r"""(src|href)\s*=|@import|url\(""", text)


def test_names_keep_their_distance_and_their_order():
    from ramify.bench.plot import spread

    placed = spread([0.5, 0.51, 0.9, 0.49, 0.0], 0.1)
    in_order = sorted(placed)
    assert all(b - a >= 0.1 - 1e-12 for a, b in pairwise(in_order))
    assert placed.index(in_order[0]) == 4 and placed[3] < placed[0] < placed[1] < placed[2] == 0.9
    assert sum(placed[at] for at in (0, 1, 3)) / 3 == pytest.approx(0.5)


def test_picture(report):
    pytest.importorskip("matplotlib")
    from ramify.bench.plot import draw, headline

    png, svg = draw(report)
    assert png.startswith(b"\x89PNG") and svg.startswith("<svg") and "<metadata>" not in svg
    assert headline(report, "reward") == "Rival reaches Best-of-4's mean reward with 50% of its FLOPs"
    assert headline(report, "accuracy") == ("Best-of-4 gains 50 points over one sample; no other method reaches "
                                            "Best-of-4's accuracy")
    assert not re.search(r"""(src|href)="(?!#)""", page(report, svg))
