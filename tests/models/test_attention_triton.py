"""The Triton kernels in Triton's interpreter, against whole dense sequences."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from test_attention_kernels import LAYER, SCALE, Step

from ramify.cache import KVStore
from ramify.models.kernels.attention_plan import HIGH, Rows
from ramify.models.kernels.cuda import attention
from ramify.models.kernels.cuda import plan as device_plan
from ramify.models.kernels.cuda.plan import DevicePages, HostStep, unpacked
from ramify.models.kernels.cuda.rowwise import turn

CASES = [{"rows": 6, "group": 2, "head_dim": 16, "longest": 20}, {"rows": 3, "group": 3, "head_dim": 48, "longest": 9},
         {"rows": 3, "group": 1, "head_dim": 32, "block_size": 32, "longest": 40}]  # fmt: skip
OPTIONS = [(0, 0.0), (0, 1.5), (30, 0.0)]


def host(step, window=0):
    tokens, heads = range(step.tokens), step.kv_heads * step.group
    return HostStep(tokens, tokens, tokens, step.arrays(), [window], heads, step.kv_heads, step.block_size)


def found(step, made, softcap=0.0, sizes=None, dtype=torch.float32):
    """Attention of the queries in one layout or another; further ones of a larger layout are left out."""
    sizes, [window] = sizes or made.sizes, made.windows
    sent = unpacked(torch.from_numpy(made.packed(sizes)), sizes, made.windows)
    q_THd = torch.zeros(sizes.tokens, step.kv_heads * step.group, step.head_dim, dtype=dtype)
    q_THd.flatten(1)[: step.tokens] = torch.from_numpy(step.q[:, :-5])
    out_THd = attention.attend(q_THd, step.store.kv[:, LAYER], sent.plans[window], sent.tables_N, SCALE, softcap,
                               step.block_size, step.store.group)
    assert out_THd.isfinite().all()
    return out_THd[: step.tokens].flatten(1).float().numpy()


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Items of few keys, so that there are many."""
    monkeypatch.setattr(device_plan, "REACH", 64)


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("window, softcap", OPTIONS)
def test_equals_whole_sequences(case, window, softcap):
    step = Step(case, **CASES[case])
    np.testing.assert_allclose(found(step, host(step, window), softcap), step.wanted(window, softcap), atol=1e-5,
                               rtol=1e-5)


@pytest.mark.parametrize("window", [0, 30])
def test_a_larger_layout_changes_nothing(window):
    step = Step(1, rows=5, group=2, head_dim=16, longest=9)
    made = host(step, window)
    larger = made.sizes._replace(plans=(made.sizes.plans[0]._replace(items=made.sizes.plans[0].items + 1),)).rounded()
    assert larger.tokens > made.sizes.tokens and larger.plans[0].items > made.sizes.plans[0].items
    np.testing.assert_array_equal(found(step, made, sizes=larger), found(step, made))


@pytest.mark.parametrize("dtype, close", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_halves_are_near(dtype, close):
    """Queries in 16 bits too; or in 32 over a cache of 16, which is as exact as ever."""
    step = Step(2, rows=3, group=2, head_dim=16, longest=9, dtype=dtype)
    made, wanted = host(step), step.wanted()
    np.testing.assert_allclose(found(step, made, dtype=dtype), wanted, atol=close, rtol=close)
    np.testing.assert_allclose(found(step, made), wanted, atol=1e-5, rtol=1e-5)


def in_bytes(case, together):
    """A step over a cache in bytes, laid out as on a GPU (1) or as on a CPU."""
    step = Step(case, **CASES[case] | {"rows": 3}, dtype=torch.int8)
    step.store = KVStore(2, 600, step.block_size, step.kv_heads, step.head_dim, torch.int8, together=together)
    step.fill()
    return step


@pytest.mark.parametrize("case, together, window, softcap", [(0, 1, 0, 0.0), (1, 16, 0, 1.5), (2, 1, 30, 0.0)])
def test_bytes_are_read_with_their_scales(case, together, window, softcap):
    step = in_bytes(case, together)
    np.testing.assert_allclose(found(step, host(step, window), softcap), step.wanted(window, softcap), atol=1e-5,
                               rtol=1e-5)


@pytest.mark.parametrize("dtype, close", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_bytes_meet_queries_in_halves(dtype, close):
    step = in_bytes(0, 1)
    np.testing.assert_allclose(found(step, host(step), dtype=dtype), step.wanted(), atol=close, rtol=close)


@pytest.mark.parametrize("side", [0, 1], ids=["keys", "values"])
def test_the_scale_of_another_token_is_caught(side):
    step = in_bytes(0, 1)
    wanted, scales = step.wanted(), step.store._scales[:, :, side]
    scales.copy_(scales.roll(1, -2))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found(step, host(step)), wanted, atol=1e-5, rtol=1e-5)


def new_tokens(dtype, width=24):
    """Keys and values of five tokens: of any size, far apart in size, halves of a step, none, and as good as none."""
    x = torch.randn(5, 3, 2, width)
    x[1] *= torch.logspace(-6, 3, width)
    x[2] = torch.arange(width) - 12.5
    x[2, :, :, 0] = 127
    x[3, :, 0], x[4, :, 1] = 0, 1e-31
    return x.to(dtype)


SLOTS = torch.tensor([3, 33, 16, -1, 31], dtype=torch.int32)


def written(store, fused):
    """What the store itself makes of them, in float32."""
    real = SLOTS >= 0
    store.write(1, SLOTS[real].long(), fused[real, 1], fused[real, 2])
    assert store.kv.any()
    return store.kv


@pytest.mark.parametrize("together", [16, 1])
@pytest.mark.parametrize("dtype, kept", [(torch.float32, torch.float16), (torch.float32, torch.int8),
                                         (torch.bfloat16, torch.int8)])
def test_writes_what_the_store_would_write(together, dtype, kept):
    stores = [KVStore(2, 4, 16, 2, 24, kept, together=together) for _ in range(2)]
    fused = new_tokens(dtype)
    attention.write(stores[0].kv[:, 1], fused[:, 1], fused[:, 2], SLOTS, 16, together)
    assert torch.equal(stores[0].kv, written(stores[1], fused))


@pytest.mark.parametrize("kept", [torch.float32, torch.int8])
def test_rotation_writes_what_the_store_would_write(kept):
    """Without angles, as in layers without positions: keys as they come."""
    stores = [KVStore(2, 4, 16, 2, 24, kept, together=1) for _ in range(2)]
    fused = new_tokens(torch.float32)
    pages = DevicePages(SimpleNamespace(slots_T=SLOTS), stores[0].kv, 16, 1)
    q_THd = turn(fused.flatten(1), None, None, 1e-6, 2, 1, pages)
    assert torch.equal(stores[0].kv, written(stores[1], fused)) and torch.equal(q_THd, fused[:, 0])


def test_another_rounding_is_caught(monkeypatch):
    """Halves that all go up."""
    monkeypatch.setattr("ramify.cache.store.torch.Tensor.round", lambda x: (x + 0.5).floor())
    with pytest.raises(AssertionError):
        test_writes_what_the_store_would_write(1, torch.float32, torch.int8)


def test_a_cache_of_more_numbers_than_32_bits_can_count(monkeypatch):
    """One token in its last block, which alone takes memory."""
    # It copies what a kernel was called with onto itself.
    monkeypatch.setattr("triton.runtime.interpreter.GridExecutor._restore_args_dev", lambda *_: None)
    store, small = (KVStore(1, blocks, 16, 2, 252, torch.int8, together=1) for blocks in ((1 << 17) + 2, 1))
    assert store.kv.numel() > 1 << 31
    last, [k, v, q] = store.kv.shape[0] - 1, torch.randn(3, 1, 2, 252)
    attention.write(store.kv[:, 0], k, v, torch.tensor([16 * last], dtype=torch.int32), 16, 1)
    small.write(0, torch.tensor([0]), k, v)
    assert torch.equal(store.kv[last], small.kv[0])
    one, none = np.ones(1, np.int64), np.zeros(1, np.int64)
    rows = Rows(last * one, one, none, one, none, none, none[:0], np.zeros(0, np.uint8))
    made = HostStep([0], [0], [16 * last], rows, [0], 2, 2, 16)
    step = unpacked(torch.from_numpy(made.packed(made.sizes)), made.sizes, [0])
    out = attention.attend(q, store.kv[:, 0], step.plans[0], step.tables_N, SCALE, 0.0, 16, 1)
    torch.testing.assert_close(out[0], small.read(0, torch.tensor([[0]]))[1][0, 0])


@pytest.mark.parametrize("head_dim, dtype, lines, keys", [
    (64, torch.bfloat16, 64, 64), (128, torch.float16, 64, 64), (256, torch.bfloat16, 32, 32),
    (64, torch.float32, 32, 32), (128, torch.float32, 32, 16), (256, torch.float32, 16, 16)])
def test_wide_heads_go_through_fewer_at_a_time(head_dim, dtype, lines, keys):
    """Products need 16 of either at least; what compiles for chips is tested with these numbers."""
    assert device_plan.lines_together(head_dim, dtype.itemsize) == lines
    assert attention.keys_together(dtype, head_dim) == keys


BROKEN = {
    "sees one key too many": lambda sight, begins: sight[:, HIGH].__iadd__(1),
    "forgets the last item of a query": lambda sight, begins: begins[1:].__isub__(1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plan_is_caught(name):
    step = Step(0, **CASES[0])
    made = host(step)
    _, _, sight, _, _, begins = made.plans[0]
    BROKEN[name](sight, begins)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found(step, made), step.wanted(), atol=1e-5, rtol=1e-5)
