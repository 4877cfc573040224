"""How long to draft: what a measured pace does with made-up times, and what a request tells it."""

from itertools import pairwise

import pytest
import torch

from ramify.exact import tabular_model
from ramify.sampling.draws import KeyedDraws
from ramify.speculative import Draft, Speculation, Verdict, chain, speculate
from ramify.speculative.drafter import Ask, ChainDrafter
from ramify.speculative.pace import HORIZON, LONGEST, PLAIN, PROBE, FixedPace, MeasuredPace
from ramify.types import SpeculationParams


class Times:
    """A target step takes base + slope per id, a draft step `draft`, None before it was seen, and what the draft has
    not read `late`."""

    def __init__(self, base=1.0, slope=0.0, draft=0.1, late=0.0):
        self.base, self.slope, self.step, self.late = base, slope, draft, late

    def catch_up(self):
        return self.late

    def target(self, ids):
        return None if self.base is None else self.base + self.slope * ids

    def verify(self, ids):
        return self.target(ids)

    def draft(self, ids):
        return self.step


def lengths(pace, times, steps, rows=1, accept=None):
    """What the pace says at every step; `accept` of the drafted tokens stand."""
    said = []
    for _ in range(steps):
        said.append(pace.length(rows, rows, times))
        if said[-1]:
            stood = said[-1] if accept is None else min(accept, said[-1])
            pace.observe(said[-1], stood, stood + 1)
    return said


def test_the_first_steps_are_plain_and_the_first_draft_is_short():
    pace = MeasuredPace()
    assert lengths(pace, Times(base=None), 3) == [0, 0, 0]
    assert pace.length(1, 1, Times(draft=None)) == 2


def test_drafts_grow_by_doubling_up_to_the_longest():
    said = lengths(MeasuredPace(), Times(draft=0.01), 12)
    assert said[:4] == [2, 4, 8, 16] and set(said[4:]) == {LONGEST}


def test_unknown_costs_are_no_reason_for_long_drafts():
    """The twin that knows no doubling starts at the longest: everything it has not seen seems free."""
    pace = MeasuredPace()
    pace._largest = LONGEST
    assert pace.length(1, 1, Times(draft=0.0)) == LONGEST > MeasuredPace().length(1, 1, Times(draft=0.0))


def test_a_wider_batch_begins_with_short_drafts():
    """What is known of one row's drafts tells little of many rows'."""
    pace, times = MeasuredPace(), Times(draft=0.01)
    assert lengths(pace, times, 12)[-1] == LONGEST
    assert lengths(pace, times, 5, rows=16) == [2, 4, 8, 16, 16]
    assert lengths(pace, times, 2, rows=1) == [LONGEST] * 2


def test_what_falls_is_not_drafted_again():
    said = lengths(MeasuredPace(), Times(draft=0.3), 60, accept=1)
    assert set(said[-20:]) <= {1, 2} and max(said[:5]) >= 2


def test_what_a_wide_batch_cannot_afford_is_not_drafted():
    """Time in proportion to ids: one more id costs what one more token brings."""
    assert set(lengths(MeasuredPace(), Times(base=0.01, slope=1.0), 30, rows=16, accept=0)) <= {0, 1, 2}
    assert max(lengths(MeasuredPace(), Times(base=1.0, slope=0.001), 20, rows=16)) > 4


def test_a_draft_that_does_not_pay_is_tried_ever_more_rarely():
    said = lengths(MeasuredPace(), Times(draft=5.0), 5000, accept=0)
    tried = [at for at, length in enumerate(said) if length]
    gaps = [later - earlier for earlier, later in pairwise(tried)]
    assert max(said) == 1 and gaps == sorted(gaps) and gaps[-1] > 4 * gaps[0]
    assert len(tried) < 10


@pytest.mark.parametrize("late", [0.0, 20.0])
def test_trying_takes_a_share_of_the_time(late):
    """A target step takes 1, trying 5 and what the draft has yet to read; the broken pace forgets the latter."""
    steps = 4000
    tried = sum(map(bool, lengths(MeasuredPace(), Times(draft=5.0, late=late), steps, accept=0)))
    assert 0 < tried * (5.0 + late) <= PROBE[0] * steps
    forgetful = sum(map(bool, lengths(MeasuredPace(), Times(draft=5.0), steps, accept=0)))
    assert late == 0 or forgetful > tried


def test_a_prompt_that_an_answer_cannot_pay_for_is_not_read():
    saved = 1.0 - (1 + 2 * 0.01) / 3  # at most, per token of a first draft of two
    assert MeasuredPace().length(1, 1, Times(draft=0.01, late=0.1 * saved * HORIZON)) == 2
    assert MeasuredPace().length(1, 1, Times(draft=0.01, late=2 * saved * HORIZON)) == 0


def test_it_comes_back_when_drafts_pay_again():
    pace, times = MeasuredPace(), Times(draft=5.0)
    lengths(pace, times, 1000, accept=0)
    times.step = 0.01
    assert max(lengths(pace, times, 1500)) == LONGEST


def test_now_and_then_a_step_is_plain():
    said = lengths(MeasuredPace(), Times(draft=0.01), 3 * PLAIN)
    assert [at for at, length in enumerate(said, 1) if not length] == [PLAIN, 2 * PLAIN, 3 * PLAIN]


@pytest.mark.parametrize(("slower", "cut"), [(1.0, 0), (1.5, 0), (1.0, 1)])
def test_promises_that_are_not_kept_count(slower, cut):
    """Every other draft of one stands, for nothing. Where steps take longer than their parts, or answers end among
    drafted tokens, that is given up but for a try now and then."""
    pace, said = MeasuredPace(), []
    for at in range(400):
        said.append(pace.length(1, 1, Times(draft=1e-6)))
        if said[-1]:
            stood = at % 2
            pace.observe(said[-1], stood, 1 + stood * (1 - cut))
            pace.took(slower)
    assert (sum(map(bool, said[200:])) > 150) == (slower == 1.0 and not cut)


def test_ids_that_others_read_count():
    """Beside a long prompt one more draft is cheap; alone it doubles the step."""

    class Stairs(Times):
        def target(self, ids):
            return 1.0 + ids // 8

    assert MeasuredPace().length(4, 4, Stairs(draft=0.5)) == 0
    assert MeasuredPace().length(4, 200, Stairs(draft=0.5)) > 0


def test_a_fixed_pace_is_fixed():
    assert lengths(FixedPace(3), Times(), 3, accept=0) == [3, 3, 3]


# Requests


def test_requests_of_one_draft_share_a_pace_by_verifier():
    draft, coupled = Draft(tabular_model(3, 2)), SpeculationParams()
    first, second = speculate(coupled, draft), speculate(coupled, draft)
    assert first.pace is second.pace is not speculate(SpeculationParams(verifier="block"), draft).pace
    assert speculate(coupled, Draft(draft.model)).pace is not first.pace
    assert draft == Draft(draft.model)  # what was learnt makes no difference to what it is


class Noted(FixedPace):
    """Remembers what it was told."""

    def observe(self, drafted, accepted, committed):
        TOLD.append((drafted, accepted))


TOLD = []


@pytest.mark.parametrize(("path", "committed", "rejections", "told", "counts"), [
    ([0], 2, 1, (3, 1), (1, 1)), ([0, 1, 2], 4, 0, (3, 3), (3, 0)),
    ([0, 1], 1, 1, (1, 1), (1, 0)), ([0, 1, 2], 3, 0, (3, 3), (3, 0))], ids=str)
def test_nothing_behind_an_answers_end_counts(path, committed, rejections, told, counts):
    """The last two answers ended among the drafted tokens; what fell behind the end is no rejection."""
    speculation = Speculation(ChainDrafter(tabular_model(3, 2)), None, Noted(3))
    TOLD.clear()
    speculation.note(chain([0, 1, 0], torch.full((3, 3), 1 / 3)), Verdict(path, 0, rejections), committed)
    assert (speculation.accepted, speculation.rejections) == counts and [told] == TOLD
    assert speculation.drafted == 3 and speculation.committed == committed


@pytest.mark.parametrize(("ends", "drafted"), [((), 4), ((1,), 2)])
def test_nothing_is_drafted_behind_an_answers_end(ends, drafted):
    from ramify.speculative.drafter import Seen

    def look(asks):  # 0 follows the text, 1 follows 0, 0 follows 1
        return [Seen(torch.eye(3)[[len(path) % 2 for path in paths]].double(), torch.zeros(len(paths), 1))
                for _, paths in asks]

    [proposal] = ChainDrafter(tabular_model(3, 2)).propose([Ask([0], [], 4, 7, ends)], look, KeyedDraws())
    assert proposal.tokens == [0, 1, 0, 1][:drafted]
