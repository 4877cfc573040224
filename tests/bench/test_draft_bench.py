"""What a draft is worth: counts against the engine's own, expectations against enumeration and theory, a made clock."""

import itertools
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ramify.api import LLM
from ramify.bench.speculative import PLAIN, Cell, Run, Stopwatch, Workload, alternate
from ramify.bench.speculative_report import by_position, sentence, summary
from ramify.bench.speculative_text import (
    compare,
    expected_rounds,
    expected_speedup,
    mean_over_tokens,
    read,
    tokens_per_call,
)
from ramify.engine import Engine
from ramify.errors import OptionError, PromptError
from ramify.exact import output_law, tabular_model
from ramify.search import sample
from ramify.speculative import Draft, speculate
from ramify.theory import speculative as rejections
from ramify.theory import speculative_cost as costs
from ramify.types import SamplingParams, SpeculationParams

TARGET, DRAFT = tabular_model(3, 1), tabular_model(3, 2)
MOST = 6
CELLS = [PLAIN, Cell("token", 2), Cell("block", 3), Cell("coupled"), Cell("traversal", None, "2x1")]


@pytest.fixture
def llm():
    return LLM(Engine(TARGET, capacity=1024, block_size=4), None, Draft(DRAFT))


def workload(rows=2, **options):
    return Workload(["a", "ab", "ba", "bb", "aab"], rows, {"max_tokens": MOST, "temperature": 1.0}, **options)


def readings(runs, prompts):
    return [read(TARGET, DRAFT, TARGET.tokenizer.encode(prompts[at % len(prompts)]), result.candidates[0].token_ids,
                 SamplingParams()) for at, result in enumerate(result for run in runs for result in run.results)]


@pytest.fixture
def measured(llm):
    load = workload()
    runs, watch = alternate(llm, load, CELLS, 4)
    texts = readings(runs[PLAIN], load.prompts)
    return runs, watch, texts, summary(runs, watch, texts, load.rows, MOST)


# Counts


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_counts_are_those_of_the_results(llm, cell):
    load = workload()
    run = load.run(llm, cell, 0)
    assert len(run.results) == len(load.prompts)
    assert run.tokens == sum(len(result.candidates[0].token_ids) for result in run.results)
    assert run.calls == sum(result.usage.target.calls for result in run.results)
    blocks = [result.speculative for result in run.results if result.speculative]
    assert bool(blocks) == (cell is not PLAIN)
    assert len(run.verified) == sum(block["num_verifications"] for block in blocks)
    assert sum(drafted for drafted, _ in run.verified) == sum(block["num_draft_tokens"] for block in blocks)
    assert sum(accepted for _, accepted in run.verified) == sum(block["num_accepted_draft_tokens"] for block in blocks)
    assert sum(result.usage.target.verify for result in run.results) == sum(drafted for drafted, _ in run.verified)


def test_plain_calls_are_its_tokens(llm):
    run = workload().run(llm, PLAIN, 0)
    assert run.calls == run.tokens


def test_answers_do_not_depend_on_how_many_run_together(llm):
    for cell in CELLS[:3]:
        alone, together = (workload(rows).run(llm, cell, 0) for rows in (1, 5))
        assert [r.candidates[0].token_ids for r in alone.results] == [r.candidates[0].token_ids
                                                                      for r in together.results]


def test_repeats_draw_afresh_and_cells_alike(llm):
    load = workload()
    texts = [[r.text for r in load.run(llm, cell, repeat).results] for cell in (PLAIN, Cell("coupled"))
             for repeat in (0, 1)]
    assert texts[0] == texts[2] != texts[1] == texts[3]


def test_the_report_adds_up(measured):
    runs, _, _, report = measured
    for cell, row in zip(CELLS[1:], report["cells"], strict=True):
        results = [result for run in runs[cell] for result in run.results]
        assert row["num_rejections"] == sum(result.speculative["num_rejections"] for result in results)
        assert row["tokens_per_call"] == row["tokens"] / row["target_calls"]
        assert row["rejections_per_100_tokens"] == 100 * row["num_rejections"] / row["tokens"]
        committed = sum(r.speculative["num_verifications"] * r.speculative.get("mean_acceptance_length", 0)
                        for r in results)
        verified = row["num_verifications"]  # a measured length may be 0 throughout
        assert row["acceptance_length"] == (pytest.approx(committed / verified) if verified else None)
    json.dumps(report)


def test_by_position():
    assert by_position([(3, 3), (3, 1), (3, 0), (1, 1), (2, 2)]) == [4 / 5, 2 / 3, 1.0]
    assert by_position([]) == []


# Expectations


def joint_law(length):
    """P(text, target calls after the prompt's) on the real engine."""
    return output_law(TARGET, "ab", partial(sample, n=1), max_tokens=4, outcome=lambda result: (
        tuple(result.candidates[0].token_ids), result.usage.target.calls - 1),
        speculation=lambda: speculate(SpeculationParams(draft_length=length, verifier="token"), Draft(DRAFT)))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_rounds_given_the_text_are_exact(length):
    """E[calls | text] is what the enumerated engine does; a count without the target's own token is not."""
    masses, calls = {}, {}
    for (text, count), mass in joint_law(length).items():
        masses[text] = masses.get(text, 0.0) + mass
        calls[text] = calls.get(text, 0.0) + mass * count
    caught = False
    for text, mass in masses.items():
        stands_L = read(TARGET, DRAFT, TARGET.tokenizer.encode("ab"), list(text), SamplingParams()).token_L
        assert expected_rounds(stands_L, length, 4).calls == pytest.approx(calls[text] / mass, abs=1e-9)
        caught |= abs(1 + (1 - stands_L[1:]).sum() - calls[text] / mass) > 1e-3
    assert caught


@pytest.mark.parametrize(("length", "most"), [(2, 6), (2, 9), (4, 30)])
def test_rounds_by_every_outcome(length, most):
    """The recursion against all ways that drafts stand or fall."""
    stands = np.array([0.3, 0.8, 0.5, 0.9, 0.6, 0.7])
    total = drafts = 0.0
    for outcome in itertools.product((False, True), repeat=len(stands)):
        chance = np.prod([p if stood else 1 - p for p, stood in zip(stands, outcome, strict=True)])
        at, rounds = 1, 0
        while at < len(stands):
            rounds += 1
            drafted = range(at, at + min(length, most - at - 1))
            ended = at + len(drafted) > len(stands) and all(outcome[at:])
            drafts += chance * (len(stands) - at if ended else len(drafted))
            at = next((place + 1 for place in drafted if place >= len(stands) or not outcome[place]),
                      at + len(drafted) + 1)
        total += chance * rounds
    assert expected_rounds(stands, length, most) == pytest.approx((total, drafts), abs=1e-12)


def test_a_reading_is_total_variation_and_overlap():
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.3, 0.5]])
    for token, stands, overlap in ((0, 1.0, 1.0), (1, 1.0, 0.0), (2, 0.4, 0.4)):
        reading = compare(p, q, [token])
        assert reading.tv_L == pytest.approx(rejections.tv(p[0], q[0]))
        assert reading.token_L == pytest.approx(stands)
        assert reading.coupled_L == pytest.approx(overlap, abs=1e-6)
        assert reading.stands("block") is reading.token_L and reading.stands("coupled") is reading.coupled_L


def test_total_variation_on_the_targets_text_is_the_expected_number_of_rejections():
    """The mean over the law of the texts is the closed form of theory, which knows no models."""
    law, prompt = output_law(TARGET, "ab", partial(sample, n=1), max_tokens=3, ignore_eos=True), [0, 1]
    mean = sum(mass * read(TARGET, DRAFT, prompt, list(text), SamplingParams()).tv_L.sum()
               for text, mass in law.items())

    def table(model):
        return lambda prefix: np.array(model.decoder.table((*prompt, *prefix)))

    assert mean == pytest.approx(rejections.expected_rejections(table(DRAFT), table(TARGET), 3), abs=1e-9)
    # The same distances on the draft's text, a common mistake, are another number.
    assert abs(mean - rejections.expected_rejections(table(TARGET), table(DRAFT), 3)) > 1e-3


def test_expectations_are_those_of_theory(measured):
    _, _, texts, report = measured
    text, seconds = report["text"], report["costs"]["target_seconds"]
    assert text["acceptance"] == 1 - mean_over_tokens([reading.tv_L for reading in texts])[0]
    for row in report["cells"]:
        if not row["length"]:
            assert row["expected_acceptance_length"] is row["expected_speedup"] is None
            continue
        acceptance, length = text["acceptance"], row["length"]
        assert row["expected_acceptance_length"] == costs.expected_tokens(acceptance, length)
        assert row["expected_rejections_per_100_tokens"] == 100 * costs.rejections_per_token(acceptance, length)
        assert row["expected_tokens_per_call"] == tokens_per_call(texts, row["verifier"], length, MOST)
        if row["expected_speedup"] is not None:
            assert row["expected_speedup"] == expected_speedup(
                texts, row["verifier"], length, MOST, 2, report["costs"]["draft_step"], seconds)


def test_measured_tokens_per_call_agree_with_the_text(llm):
    """Many answers under the token rule against the exact count on plain decoding's."""
    load = Workload(["a", "ab", "ba"] * 40, 32, {"max_tokens": MOST}, 5)
    run, plain = load.run(llm, Cell("token", 2), 0), load.run(llm, PLAIN, 0)
    expected = tokens_per_call(readings([plain], load.prompts), "token", 2, MOST)
    assert run.tokens / run.calls == pytest.approx(expected, rel=0.1)


# Wall clock


def test_the_clock_is_read_around_every_run(llm):
    ticks = iter(range(0, 1000, 3))
    run = workload(clock=lambda: float(next(ticks))).run(llm, PLAIN, 0)
    assert run.seconds == 3.0


def fake(seconds, tokens, **block):
    """A run of one answer."""
    usage = SimpleNamespace(target=SimpleNamespace(calls=tokens // 2))
    answer = SimpleNamespace(candidates=[SimpleNamespace(tokens=tokens)], usage=usage, speculative=block)
    return Run(seconds, [answer], [(2, 1)])


def test_speed_is_the_median_ratio_of_seconds_per_token():
    """One slow run of three moves nothing; different numbers of tokens are made even."""
    block = {"num_draft_tokens": 2, "num_accepted_draft_tokens": 1, "num_rejections": 1, "num_verifications": 1,
             "mean_acceptance_length": 2.0}
    cell, watch = Cell("token", 1), Stopwatch()
    for role, ids, seconds in (("target", 2, 1.0), ("target", 4, 1.5), ("draft", 2, 0.2)):
        for _ in range(3):
            watch.seen[role][ids].append(seconds)
    runs = {PLAIN: [fake(10.0, 10), fake(90.0, 10), fake(12.0, 12)],
            cell: [fake(4.0, 8, **block), fake(5.0, 10, **block), fake(70.0, 10, **block)]}
    reading = compare(torch.tensor([[0.5, 0.5]] * 3), torch.tensor([[0.9, 0.1]] * 3), [0, 0, 1])
    report = summary(runs, watch, [reading], 2, 10)
    row = report["cells"][0]
    assert report["plain"]["seconds_per_token"] == 1.0 and row["seconds_per_token"] == 0.5 and row["speedup"] == 2.0
    assert report["costs"]["draft_over_target"] == pytest.approx(0.2)
    # Three tokens; the prompt's call gives the first, and drafts of one stand with a chance of 5/9 and then .1/.5.
    assert row["expected_speedup"] == pytest.approx(3 / (1 + (1 + 4 / 9) * (1.5 + 0.2)))
    assert report["sentence"] == ("acceptance 0.60, a draft step costs 0.20 of a target step at 2 rows: draft 1, "
                                  "expected 0.9x, measured 2.0x")
    row["speedup"] = 0.8
    assert "do not draft: even draft 1, expected 0.9x, measured 0.8x" in sentence(report, 2)


def test_sizes_seen_seldom_are_left_out():
    watch = Stopwatch()
    watch.seen["target"] |= {4: [1.0, 9.0, 2.0], 2: [1.0, 1.0]}
    assert watch.medians("target") == {4: 2.0}


# Mistakes


@pytest.mark.parametrize("make", [lambda: Workload([], 1, {}), lambda: Workload(["a"], 0, {})])
def test_an_empty_workload_is_refused(make):
    with pytest.raises(OptionError):
        make()


def test_what_a_request_raises_is_raised_and_nothing_is_left(llm):
    with pytest.raises(PromptError):
        Workload(["a", ""], 2, {"max_tokens": MOST}).run(llm, PLAIN, 0)
    assert not llm.engine.loop.requests
