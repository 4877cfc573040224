"""Rows that begin alike read their common blocks once, and nothing else changes."""

import pytest
import torch
from test_twin import REQUESTS_OF_ALL, expected, play, same

from ramify.engine import padded
from ramify.models.attention import attention

ROWS, HEADS, GROUPS, WIDTH, SHARED, OWN = 5, 6, 3, 4, 8, 7


def tensors(seed):
    source = torch.Generator().manual_seed(seed)
    q, *keys = (torch.randn(shape, generator=source, dtype=torch.float64) for shape in (
        (ROWS, 1, HEADS, WIDTH), *[(1, SHARED, GROUPS, WIDTH)] * 2, *[(ROWS, OWN, GROUPS, WIDTH)] * 2))
    mask = torch.arange(OWN) <= torch.tensor([[0], [2], [6], [3], [1]])
    return q, tuple(keys[:2]), tuple(keys[2:]), mask[:, None]


def at_once(q, shared, own, mask, scale, softcap):
    """Every row reads its whole sequence."""
    k, v = (torch.cat([begin.expand(ROWS, -1, -1, -1), rest], 1) for begin, rest in zip(shared, own, strict=True))
    everything = torch.cat([torch.ones(ROWS, 1, SHARED, dtype=torch.bool), mask], -1)
    return attention(q, k, v, everything, scale, softcap)


def halves(q, shared, own, mask, scale, softcap):
    """A wrong twin: two softmaxes, averaged."""
    everything = torch.ones(ROWS, 1, SHARED, dtype=torch.bool)
    begin = tuple(x.expand(ROWS, -1, -1, -1) for x in shared)
    return (attention(q, *begin, everything, scale, softcap) + attention(q, *own, mask, scale, softcap)) / 2


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_shared_attention_is_attention(softcap):
    q, shared, own, mask = tensors(1)
    wanted = at_once(q, shared, own, mask, 0.7, softcap)
    torch.testing.assert_close(padded.shared_attention(q, shared, own, mask, 0.7, softcap), wanted)
    assert (halves(q, shared, own, mask, 0.7, softcap) - wanted).abs().max() > 0.01


@pytest.fixture
def always(monkeypatch):
    """Share whatever can be shared, and count how often."""
    calls, real = [], padded.shared_attention
    monkeypatch.setattr(padded, "CALL", -1)
    monkeypatch.setattr(padded, "shared_attention", lambda *args: calls.append(args[0].shape[0]) or real(*args))
    return calls


@pytest.mark.parametrize("engine", [{}, {"block_size": 2, "step_tokens": 16}, {"block_size": 1}])
def test_searches_come_out_the_same(always, engine):
    logs, _ = play(REQUESTS_OF_ALL, **engine)
    assert same(logs, expected(REQUESTS_OF_ALL))
    assert max(always) > 2


def test_sharing_a_block_too_many_is_caught(always, monkeypatch):
    common = padded._common
    monkeypatch.setattr(padded, "_common", lambda rows, size: common(rows, size) + (len(rows) > 1))
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        assert same(play(REQUESTS_OF_ALL)[0], expected(REQUESTS_OF_ALL))
