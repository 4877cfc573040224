"""Every Triton kernel, compiled to machine code of real chips: that needs no GPU. In a process without interpreter."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

COMPILE = """
import sys
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ramify.models.kernels.cuda import attention, linear, rowwise
from ramify.models.kernels.cuda.plan import lines_together

# Bytes of shared memory: of Hopper, and the least of those that run what is compiled for Ampere.
SHARED = {"90": 227 * 1024, "80": 99 * 1024}
FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def build(kernel, kinds, numbers, constants, **options):
    names = kernel.arg_names
    kinds = {name: kinds[name] if name in kinds else numbers for name in names if name not in constants}
    aligned = [name for name in kinds if kinds[name].startswith("*") or "pitch" in name]
    source = ASTSource(fn=kernel, signature=kinds | dict.fromkeys(constants, "constexpr"),
                       constexprs={(names.index(name),): value for name, value in constants.items()},
                       attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned})
    made = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)
    assert made.asm["cubin"] and made.metadata.shared <= SHARED[sys.argv[1]], (kernel, made.metadata.shared)
    print(kernel.fn.__name__, made.metadata.shared)


kind, ints = sys.argv[2], "i32"
dtype, numbers = FLOATS[kind], f"*{kind}"
inner, warps = attention.INNER[dtype], attention.WARPS[dtype]
ids = dict.fromkeys(("tables", "items", "tokens", "sight", "seen", "uses", "begins", "slots"), "*i32")
floats = {"means": "*fp32", "logs": "*fp32", "scale": "fp32", "eps": "fp32", "cosines": "*fp32", "sines": "*fp32",
          "x_scales": "*fp32", "scales": "*fp32", "weight": "*i8", "codes": "*i8"}
tensors = dict.fromkeys(("q", "kv", "k", "v", "out", "x", "y", "bias", "more", "qkv", "both", "q_weight", "k_weight"),
                        numbers)
kinds = ids | floats | tensors
for kept, lead in ((numbers, 0), ("*i8", attention.SCALE)):
    here = kinds | {"kv": kept}
    for width, deep, cap, trees in ((64, 64, 0.0, False), (96, 128, 30.0, True), (128, 128, 0.0, False),
                                    (256, 256, 50.0, True)):
        store = {"BLOCK": 16, "TOGETHER": 1, "WIDTH": width, "DEEP": deep, "LEAD": lead}
        build(attention._work, here, ints, store | {
            "CAP": cap, "GROUP": 4, "LINES": lines_together(width, dtype.itemsize), "TREES": trees,
            "WIDE": attention.keys_together(dtype, deep), "INNER": inner}, num_stages=2, num_warps=warps)
    build(attention._write, here, ints, store, enable_fp_fusion=False)
    build(rowwise._turn, here, ints, store | {"NORM": True, "TURNED": 64}, num_warps=1, enable_fp_fusion=False)
build(attention._merge, kinds, ints, {"GROUP": 4, "LINES": 4, "WIDTH": 64, "DEEP": 64}, num_warps=1)
deep, stages = (32, 3) if kind == "fp32" else (128, 4)
for tall, wide in ((16, 16), (64, 16), (64, 64)):
    build(linear._product, kinds | {"tokens": ints}, ints, {
        "INPUTS": 2048, "BIAS": True, "BYTES": False, "TALL": tall, "WIDE": wide, "DEEP": deep, "INNER": inner,
        "SUMS": tl.float32}, num_stages=stages, num_warps=warps)
    build(linear._product, kinds | {"tokens": ints, "x": "*i8"}, ints, {
        "INPUTS": 2048, "BIAS": True, "BYTES": True, "TALL": tall, "WIDE": wide, "DEEP": 128, "INNER": tl.int8,
        "SUMS": tl.int32}, num_stages=4)
build(linear._round, kinds, ints, {"WIDTH": 14336, "DEEP": 16384}, num_warps=8, enable_fp_fusion=False)
build(rowwise._norm, kinds | {"weight": numbers}, ints, {"ADD": True, "WIDTH": 2048, "DEEP": 2048}, num_warps=8)
build(rowwise._gate, kinds, ints, {"WIDTH": 8192, "DEEP": 1024})
"""


@pytest.mark.slow
@pytest.mark.parametrize("chip, kind", [("90", "bf16"), ("90", "fp32"), ("80", "fp16")])
def test_kernels_become_machine_code(chip, kind):
    outside = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE, chip, kind], env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
