"""Every Triton kernel, compiled to machine code of real chips: that needs no GPU. In a process without interpreter."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

COMPILE = """
import sys
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ramify.models.kernels.cuda import attention, linear, rowwise

FLOATS = {"fp32": tl.float32, "fp16": tl.float16, "bf16": tl.bfloat16}


def build(kernel, kinds, numbers, constants, **options):
    names = kernel.arg_names
    kinds = {name: kinds[name] if name in kinds else numbers for name in names if name not in constants}
    source = ASTSource(fn=kernel, signature=kinds | dict.fromkeys(constants, "constexpr"),
                       constexprs={(names.index(name),): value for name, value in constants.items()})
    made = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)
    assert made.asm["cubin"] and made.metadata.shared <= 99 * 1024, (kernel, made.metadata.shared)
    print(kernel.fn.__name__, made.metadata.shared)


kind, ints = sys.argv[2], "i32"
inner, numbers = FLOATS[kind], f"*{kind}"
ids = dict.fromkeys(("tables", "items", "tokens", "sight", "seen", "uses", "begins", "slots"), "*i32")
floats = {"means": "*fp32", "logs": "*fp32", "scale": "fp32", "eps": "fp32", "cosines": "*fp32", "sines": "*fp32",
          "x_scales": "*fp32", "scales": "*fp32", "weight": "*i8", "codes": "*i8"}
tensors = dict.fromkeys(("q", "kv", "k", "v", "out", "x", "y", "bias", "more", "qkv", "both", "q_weight", "k_weight"),
                        numbers)
kinds = ids | floats | tensors
store = {"BLOCK": 16, "TOGETHER": 1, "WIDTH": 64, "DEEP": 64}
WARPS = {"fp32": 8}.get(kind, 4)
for cap, trees, lines in ((0.0, False, 64), (30.0, True, 16)):
    build(attention._work, kinds, ints, store | {
        "CAP": cap, "GROUP": 4, "LINES": lines, "WIDE": 32 if kind == "fp32" else 64, "TREES": trees,
        "INNER": inner}, num_stages=2, num_warps=WARPS)
build(attention._merge, kinds, ints, {"GROUP": 4, "LINES": 4, "WIDTH": 64, "DEEP": 64}, num_warps=1)
build(attention._write, kinds, ints, store)
deep, stages = (32, 3) if kind == "fp32" else (128, 4)
for tall, wide in ((64, 16), (64, 64)):
    build(linear._product, kinds | {"tokens": ints}, ints, {
        "INPUTS": 2048, "BIAS": True, "BYTES": False, "TALL": tall, "WIDE": wide, "DEEP": deep, "INNER": inner,
        "SUMS": tl.float32}, num_stages=stages, num_warps=WARPS)
build(linear._product, kinds | {"tokens": ints, "x": "*i8"}, ints, {
    "INPUTS": 2048, "BIAS": True, "BYTES": True, "TALL": 64, "WIDE": 16, "DEEP": 128, "INNER": tl.int8,
    "SUMS": tl.int32}, num_stages=4)
build(linear._round, kinds, ints, {"WIDTH": 2048, "DEEP": 2048, "HALF": linear.HALVES})
build(rowwise._norm, kinds | {"weight": numbers}, ints, {"ADD": True, "WIDTH": 2048, "DEEP": 2048}, num_warps=8)
build(rowwise._turn, kinds, ints, store | {"NORM": True, "TURNED": 64}, num_warps=1)
build(rowwise._gate, kinds, ints, {"WIDTH": 8192, "DEEP": 1024})
"""


@pytest.mark.slow
@pytest.mark.parametrize("chip, kind", [("90", "bf16"), ("90", "fp32"), ("80", "fp16")])
def test_kernels_become_machine_code(chip, kind):
    outside = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE, chip, kind], env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
