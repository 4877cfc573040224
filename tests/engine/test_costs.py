"""Measured seconds by the size of a step."""

import pytest

from ramify.engine.costs import StepCosts

TARGET, DRAFT = "target", "draft"


def costs(**seconds):
    """Some measurements: ids as i4=[...]."""
    seen = StepCosts()
    for ids, times in seconds.items():
        for each in times:
            seen.note(TARGET, int(ids[1:]), each)
    return seen


def test_nothing_like_it_was_seen():
    seen = costs(i32=[3.0])
    assert StepCosts().seconds(TARGET, 4) is None and seen.seconds(DRAFT, 4) is None
    assert seen.seconds(TARGET, 15) is None and seen.seconds(TARGET, 16) == 3.0


def test_medians_and_straight_lines():
    seen = costs(i4=[1.0, 9.0, 1.0], i16=[3.0])
    assert [seen.seconds(TARGET, ids) for ids in (4, 8, 10, 16)] == [1.0, pytest.approx(5 / 3), 2.0, 3.0]


def test_beyond_the_largest_it_goes_on_as_before():
    """Thought to cost no more, steps of any size would seem worth trying."""
    seen = costs(i4=[1.0], i16=[3.0])
    assert seen.seconds(TARGET, 28) == pytest.approx(5.0)
    assert costs(i4=[1.0]).seconds(TARGET, 64) == 1.0


def test_a_smaller_step_is_not_slower():
    """A first, cold step of one id must not make drafts look good for ever."""
    seen = costs(i1=[9.0], i4=[2.0], i16=[3.0])
    assert seen.table(TARGET) == {1: 2.0, 4: 2.0, 16: 3.0} and seen.seconds(TARGET, 1) == 2.0


def test_only_the_latest_count():
    seen = costs(i4=[9.0] * 50 + [1.0] * 9)
    assert seen.seconds(TARGET, 4) == 1.0


def test_sizes_between_are_those_below():
    seen = costs(i5=[1.0], i7=[2.0])
    assert seen.table(TARGET) == {4: 1.0, 6: 2.0}


def test_steps_with_drafts_are_remembered_apart():
    seen = costs(i16=[3.0])
    seen.note(TARGET, 16, 5.0, drafts=True)
    assert seen.seconds(TARGET, 16) == 3.0 and seen.seconds(TARGET, 16, drafts=True) == 5.0
