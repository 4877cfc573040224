"""The Triton kernels in Triton's interpreter, against whole dense sequences."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from test_attention_kernels import LAYER, SCALE, Step

from ramify.models.kernels import attention_triton
from ramify.models.kernels.attention_plan import HIGH

CASES = [{"rows": 6, "group": 2, "head_dim": 16, "longest": 20}, {"rows": 3, "group": 3, "head_dim": 48, "longest": 9},
         {"rows": 3, "group": 1, "head_dim": 32, "block_size": 32, "longest": 40}]  # fmt: skip


def found(step, a_plan, softcap=0.0):
    heads = step.kv_heads * step.group
    q_THd = torch.from_numpy(step.q[:, :-5].copy()).view(step.tokens, heads, step.head_dim)
    plan = attention_triton.device_plan(a_plan, "cpu")
    out_THd = attention_triton.attend(q_THd, torch.from_numpy(step.kv), LAYER, plan, SCALE, softcap)
    return out_THd.flatten(1).numpy()


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("window, softcap", [(0, 0.0), (0, 1.5), (30, 0.0)])
def test_equals_whole_sequences(case, window, softcap):
    step = Step(case, **CASES[case])
    np.testing.assert_allclose(found(step, step.plan(window), softcap), step.wanted(window, softcap), atol=1e-5,
                               rtol=1e-5)


def test_a_broken_plan_is_caught():
    step = Step(0, **CASES[0])
    made = step.plan()
    made.sight_T4[:, HIGH] += 1
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found(step, made), step.wanted(), atol=1e-5, rtol=1e-5)
