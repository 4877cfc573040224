"""A cache in bytes changes no law: what is read is a function of the text, however it came to be in the cache."""

from functools import cache, partial

import pytest
import torch
from chaos import same
from matrix import KINDS
from test_matrix import ahead_of, texts
from test_twin import FAMILY, REQUESTS_OF_ALL, TIGHT, expected, play

from ramify.cache import KVStore
from ramify.cache.store import as_bytes
from ramify.models import DenseAttention

BYTES = torch.int8
ENGINES = [{}, TIGHT, {"block_size": 16, "step_tokens": 3}, {"prefix_cache": False, "step_tokens": 1}]


class Rounded(DenseAttention):
    """Attention over whole sequences, every key and value rounded by itself."""

    def __call__(self, layer, q_THd, k_TGd, v_TGd):
        return super().__call__(layer, q_THd, *(self.rounded(x) for x in (k_TGd, v_TGd)))

    def rounded(self, x_TGd):
        codes_TGd, scales_TG = as_bytes(x_TGd.float())
        return (codes_TGd * scales_TG[..., None]).to(x_TGd.dtype)


def dense(decoder, ids):
    return decoder.decoder(torch.tensor(ids), torch.arange(len(ids)), Rounded(decoder.config, [len(ids)]))


@pytest.fixture
def rounded_twin(monkeypatch):
    for model in FAMILY:
        monkeypatch.setattr(model.decoder, "dense", cache(partial(dense, model.decoder)))


def engine_equals_twin(**engine):
    logs, _ = play(REQUESTS_OF_ALL, kv_dtype=BYTES, **engine)
    assert same(logs, expected(REQUESTS_OF_ALL))
    return logs


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_forks_rewinds_and_recomputation_read_what_a_whole_forward_reads(rounded_twin, engine):
    logs = engine_equals_twin(**engine)
    assert not same(logs, play(REQUESTS_OF_ALL)[0], 1e-4), "rounding is seen"


def one_scale_for_all(x_TGd):
    """As if tokens that come together were rounded together."""
    _, scales_TG = as_bytes(x_TGd)
    scales_TG = scales_TG.amax(0, keepdim=True).expand_as(scales_TG)
    return (x_TGd / scales_TG[..., None]).round().to(BYTES), scales_TG


def without_scales(method):
    """Numbers go somewhere else and leave their scales where they were."""
    def broken(store, *args):
        before = store._scales.clone()
        method(store, *args)
        store._scales.copy_(before)
    return broken


def test_tokens_that_are_rounded_together_are_caught(rounded_twin, monkeypatch):
    monkeypatch.setattr("ramify.cache.store.as_bytes", one_scale_for_all)
    with pytest.raises(AssertionError):
        engine_equals_twin(**TIGHT)


def test_forks_that_leave_their_scales_behind_are_caught(rounded_twin, monkeypatch):
    monkeypatch.setattr(KVStore, "copy", without_scales(KVStore.copy))
    with pytest.raises(AssertionError):
        engine_equals_twin(**TIGHT)


@cache
def plain():
    return texts(lambda: None, BYTES)


def drafts_change_nothing(kind):
    assert texts(ahead_of("coupled", kind), BYTES) == plain()


@pytest.mark.parametrize("kind", ["chain", "`2x2`", "`beam:2x3`", "suffix+model"])
def test_refused_drafts_leave_no_trace(kind):
    assert kind in KINDS
    drafts_change_nothing(kind)


def test_branches_that_leave_their_scales_behind_are_caught(monkeypatch):
    plain()
    monkeypatch.setattr(KVStore, "move", without_scales(KVStore.move))
    with pytest.raises(AssertionError):
        drafts_change_nothing("`2x2`")
