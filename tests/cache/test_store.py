"""What a store holds: how much it takes, what rounding does, and that scales go where their numbers go."""

import pytest
import torch

from ramify.cache import DTYPES, KVStore, bytes_per_token
from ramify.cache.store import as_bytes
from ramify.errors import OptionError

LAYERS, HEADS, DIM = 3, 2, 16
SLOTS = [0, 5, 17, 33, 47]


def store_of(name, block_size=16):
    return KVStore(LAYERS, 64 // block_size, block_size, HEADS, DIM, DTYPES[name])


def filled(store, seed=0):
    """Numbers of very different sizes in every layer at SLOTS; returns them by layer."""
    source = torch.Generator().manual_seed(seed)
    size = torch.logspace(-6, 3, len(SLOTS))[:, None, None]
    written = [tuple(torch.randn(len(SLOTS), HEADS, DIM, generator=source) * size for _ in "kv") for _ in range(LAYERS)]
    for layer, (k_TGd, v_TGd) in enumerate(written):
        store.write(layer, torch.tensor(SLOTS), k_TGd, v_TGd)
    return written


def at(store, layer, slots):
    whole = torch.arange(store.kv.shape[0])[None]
    return [x[0, slots] for x in store.read(layer, whole)]


@pytest.mark.parametrize("name", list(DTYPES))
@pytest.mark.parametrize("block_size", [4, 16, 32])
def test_takes_what_is_told_of_it(name, block_size):
    store = store_of(name, block_size)
    assert store.kv.numel() * store.kv.element_size() == 64 * bytes_per_token(LAYERS, HEADS, DIM, name)
    assert store.kv.data_ptr() % 64 == 0 and store.kv.dtype == DTYPES[name]


def test_bytes_are_a_quarter_and_a_scale():
    whole, packed = (bytes_per_token(30, 3, 64, name) for name in ("float32", "int8"))
    assert (whole, packed) == (46080, 12240)


def within_half_a_step(store):
    for layer, written in enumerate(filled(store)):
        for x, found in zip(written, at(store, layer, SLOTS), strict=True):
            step = x.abs().amax(-1, keepdim=True) / 127
            assert ((x - found).abs() <= step * (0.5 + 1e-5)).all()


@pytest.mark.parametrize("block_size", [4, 16, 32])
def test_bytes_are_within_half_a_step(block_size):
    within_half_a_step(store_of("int8", block_size))


class WrongScale(KVStore):
    """Reads every token by the scale of its neighbour."""

    def read(self, layer, tables_RB):
        self._scales, right = self._scales.roll(1, -1), self._scales
        try:
            return super().read(layer, tables_RB)
        finally:
            self._scales = right


class CodesAlone(KVStore):
    """Moves numbers and leaves their scales behind."""

    def move(self, sources, slots):
        self._scales, right = None, self._scales
        try:
            super().move(sources, slots)
        finally:
            self._scales = right


def test_a_wrong_scale_is_caught():
    with pytest.raises(AssertionError):
        within_half_a_step(WrongScale(LAYERS, 4, 16, HEADS, DIM, torch.int8))


def moves(store):
    filled(store)
    for layer in range(LAYERS):
        assert not any(x.any() for x in at(store, layer, [60, 18]))
    store.move([47, 0], [60, 18])
    for layer in range(LAYERS):
        for there, here in zip(at(store, layer, [60, 18]), at(store, layer, [47, 0]), strict=True):
            assert here.any() and torch.equal(there, here)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8"])
def test_a_move_and_a_copy_take_everything(name):
    store = store_of(name)
    moves(store)
    store.copy([(3, 1)])
    assert torch.equal(store.kv[1].view(torch.uint8), store.kv[3].view(torch.uint8))


def test_scales_left_behind_are_caught():
    with pytest.raises(AssertionError):
        moves(CodesAlone(LAYERS, 4, 16, HEADS, DIM, torch.int8))


def test_what_was_rounded_rounds_to_itself():
    codes, scales = as_bytes(torch.randn(50, 3, DIM) * torch.logspace(-20, 20, 50)[:, None, None])
    again, same = as_bytes(codes * scales[..., None])
    assert torch.equal(codes, again) and codes.abs().amax(-1).eq(127).all()
    torch.testing.assert_close(scales, same, rtol=1e-6, atol=0)


def test_nothing_and_next_to_nothing_become_zeros():
    codes, scales = as_bytes(torch.tensor([[[0.0] * 4, [1e-40, 0.0, -1e-38, 1e-31]]]))
    assert not codes.any() and scales.isfinite().all()


def test_heads_of_odd_size_are_refused():
    with pytest.raises(OptionError, match="multiple of 4"):
        KVStore(1, 1, 4, 1, 6, torch.int8)
