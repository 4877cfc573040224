"""The Triton kernels in Triton's interpreter, against whole dense sequences."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from test_attention_kernels import LAYER, SCALE, Step

from ramify.cache import KVStore
from ramify.models.kernels.attention_plan import HIGH
from ramify.models.kernels.cuda import attention
from ramify.models.kernels.cuda import plan as device_plan
from ramify.models.kernels.cuda.plan import HostStep, unpacked

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


@pytest.mark.parametrize("together", [16, 1])
def test_writes_what_the_store_would_write(together):
    stores = [KVStore(2, 4, 16, 2, 24, torch.float16, together=together) for _ in range(2)]
    slots, fused = torch.tensor([3, 33, 16, -1, 31], dtype=torch.int32), torch.randn(5, 3, 2, 24)
    k, v = fused[:, 1], fused[:, 2]
    attention.write(stores[0].kv[:, 1], k, v, slots, 16, together)
    real = slots >= 0
    stores[1].write(1, slots[real].long(), k[real], v[real])
    assert torch.equal(*(store.kv for store in stores)) and stores[0].kv.any()


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
