"""Packed weights multiply as the weights they were packed from, in any number of threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba import njit

from ramify.models.kernels.jit import compiled
from ramify.models.kernels.linear import BLOCK, DEPTH, SCRATCH, gated
from ramify.models.kernels.packed import GROUP, pack_bytes, panel_rows
from ramify.models.kernels.products import BYTES, byte_product, byte_weights, float_product, nibbles
from ramify.models.kernels.rowwise import exponential
from ramify.models.kernels.team import TICKS, claim, finish, new_board, spent, wait
from ramify.models.linear import ByteProduct, quantise, quantise_groups

# Outputs that end within a panel and with one; inputs that end within a group of four, and beyond one depth.
SHAPES = [(100, 30), (64, 256), (65, DEPTH + 133)]
ROWS = [1, 5, 6, 7, BLOCK + 1]
GENERATOR = torch.Generator().manual_seed(0)


def random(*shape):
    return 0.3 * torch.randn(shape, generator=GENERATOR)


@pytest.fixture(params=[1, 2, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr("ramify.models.kernels.linear.ALONE", 0)  # or one thread would do all of these
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_floats(shape, rows, bias, threads):
    weight, x, b = random(*shape), random(rows, shape[1]), random(shape[0]) if bias else None
    assert (float_product(weight, b, 1)(x) - F.linear(x, weight, b)).abs().max() <= 1e-4


@pytest.mark.skipif(not BYTES, reason="this processor has no sums of byte products")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_equal_the_same_quantisation_in_torch(shape, rows, bias, threads):
    weight, x, b = random(*shape), random(rows, shape[1]), random(shape[0]) if bias else None
    packed, expected = byte_product(weight, b, 1)(x), ByteProduct(weight, b, 1)(x)
    assert (packed - expected).abs().max() <= 1e-4
    assert (packed - F.linear(x, weight, b)).abs().max() > 1e-3, "rounding to bytes must show"


def rounded(weight, bits):
    """The weights that the codes stand for."""
    if bits == 8:
        codes, scales = quantise(weight)
        return codes * scales
    codes, scales = quantise_groups(weight, GROUP)
    return codes * scales.repeat_interleave(GROUP, 1)[:, : weight.shape[1]]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rounded_weights(shape, rows, bits, threads):
    weight, x, b = random(*shape), random(rows, shape[1]), random(shape[0])
    packed = (byte_weights if bits == 8 else nibbles)(weight, b, 1)
    assert (packed(x) - F.linear(x, rounded(weight, bits), b)).abs().max() <= 1e-4
    assert (packed(x) - F.linear(x, weight, b)).abs().max() > 1e-3, "rounding must show"


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_is_to_the_nearest(bits):
    weight = random(70, 130)
    error, step = (rounded(weight, bits) - weight).abs(), weight.abs().amax(1, keepdim=True) / (127 if bits == 8 else 7)
    assert (error <= 0.5001 * step).all()


def test_the_comparison_sees_one_wrong_number():
    weight, x = random(100, 30), random(3, 30)
    wrong = weight.clone()
    wrong[70, 29] += 0.01
    assert (float_product(wrong, None, 1)(x) - F.linear(x, weight)).abs().max() > 1e-4


@pytest.mark.skipif(not BYTES, reason="this processor has no sums of byte products")
def test_a_row_of_zeros_is_a_row_of_zeros():
    weight, x = random(64, 32), torch.zeros(2, 32)
    assert torch.equal(byte_product(weight, None, 1)(x), torch.zeros(2, 64))


@pytest.mark.parametrize("half", [64, 40])
def test_halves_are_padded_by_themselves(half):
    weight, x = random(2 * half, 32), random(5, 32)
    assert (float_product(weight, None, 2)(x) - F.linear(x, weight)).abs().max() <= 1e-4


@pytest.mark.parametrize("half", [64, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_gates(half, bias):
    weight, x, b = random(2 * half, 32), random(5, 32).numpy(), random(2 * half) if bias else None
    packed, y = float_product(weight, b, 2).packed, np.zeros((5, half), np.float32)
    scratch = np.empty(SCRATCH, np.float32)
    gated(packed.spec, 0, -(-half // 64), 0, 5, x.ctypes.data, 0, y.ctypes.data, scratch)
    gates, values = F.linear(torch.from_numpy(x), weight, b).chunk(2, -1)
    assert (torch.from_numpy(y) - F.silu(gates) * values).abs().max() <= 1e-4


def test_rows_are_rounded_to_the_nearest_byte():
    x = random(7, 33)
    codes, scales = quantise(x)
    assert codes.abs().amax(1).tolist() == [127] * 7
    assert (codes * scales - x).abs().amax(1).le(scales[:, 0] * 0.5001).all()


def test_bytes_are_kept_as_bytes():
    codes, scales = quantise(random(128, 64))
    coded = [(codes[own].numpy(), scales[own].flatten().numpy()) for own in panel_rows(128)]
    packed = pack_bytes((128, 64), coded)
    assert packed.panels.nbytes == 128 * 64
    assert packed.nbytes == 128 * 64 + 128 * 8
    assert byte_weights(random(128, 64), None, 1).packed.nbytes == 128 * 64 + 128 * 4
    assert nibbles(random(128, 64), None, 1).packed.nbytes == 128 * 64 // 2 + 128 * 4


@pytest.mark.parametrize("inputs", [64, 30])
@pytest.mark.parametrize("packer", [float_product, byte_weights, ByteProduct, *([byte_product] if BYTES else [])])
def test_rows_are_read_out_of_panels(packer, inputs):
    weight, ids = random(150, inputs), torch.tensor([[0, 149, 63], [64, 7, 7]])
    found, kept = packer(weight, None, 1).rows(ids), weight if packer is float_product else rounded(weight, 8)
    assert torch.equal(found, kept[ids])
    with pytest.raises(AssertionError):  # broken twin: the next row
        assert torch.equal(found, kept[ids - 1])


def test_exponentials():
    x = torch.linspace(-80, 80, 4001)
    ours = torch.tensor([exponential(np.float32(number)) for number in x.tolist()], dtype=torch.float64)
    exact = x.double().exp()
    near = x.abs() <= 10
    assert ((ours - exact).abs() / exact)[near].max() <= 1e-6
    assert ((ours - exact).abs() / exact).max() <= 1e-5
    assert 0 < exponential(np.float32(-1e4)) < 1e-37
    assert 1e37 < exponential(np.float32(1e4)) < float("inf")


def test_items_are_given_out_once():
    board = new_board(2)
    assert [claim(board, 1) for _ in range(3)] == [0, 1, 2]
    assert claim(board, 0) == 0
    finish(board, 1)
    assert claim(board, 1) == 3


def twice(number):
    return 2 * number


@pytest.mark.parametrize("decorator, kinds", [(compiled, 1), (njit, 2)])  # the second is the broken twin
def test_constants_are_no_types_of_their_own(decorator, kinds):
    inner = decorator(twice)
    assert njit(lambda: inner(3) + inner(4))() == 14
    assert len(inner.signatures) == kinds


def test_a_board_knows_when_phases_ended():
    board = new_board(3)
    for phase in range(2):
        finish(board, phase)
        wait(board, phase, 1)
    waited, ends = spent(board).T
    assert (waited >= 0).all() and ends[2] == 0
    assert 0 < ends[0] <= ends[1] or not TICKS


@pytest.mark.parametrize("features", ["+avx2,+fma,+avx,+sse4.2", "+sse4.2"], ids=["avx2", "sse"])
def test_processors_without_wide_vectors(features, tmp_path):
    """The same products, compiled for less than this machine has."""
    program = (
        "import torch, torch.nn.functional as F\n"
        "from ramify.models.kernels.products import BYTES, float_product\n"
        "w, x = torch.randn(70, 33), torch.randn(9, 33)\n"
        "assert not BYTES\n"
        "assert (float_product(w, None, 1)(x) - F.linear(x, w)).abs().max() <= 1e-4\n"
    )
    environment = {**os.environ, "NUMBA_CPU_FEATURES": features, "NUMBA_CPU_NAME": "x86-64",
                   "NUMBA_CACHE_DIR": str(tmp_path)}  # fmt: skip
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)
