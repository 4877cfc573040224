"""How a decoder's forward is run: chosen once when it is loaded, the fastest exact way unless told otherwise."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ramify.errors import OptionError
from ramify.models.decoder import Decoder
from ramify.models.linear import ByteProduct, MklProduct, Packer, packable

EXECUTORS = ("auto", "torch", "compiled", "int8", "int8-weights", "int4-weights")
PATIENCE = 2.0  # seconds
ROWS, OUTPUTS, INPUTS, REPEATS = 16, 2048, 1024, 8  # of the measurement: a small batch, where products differ most
SLOWER = 2.0  # times as slow as torch's product, from which on kernels are not worth it


def prepare(decoder: Decoder, executor: str = "auto") -> Decoder:
    """Pack a decoder's projections for an executor, and set `decoder.executor` to the one that was chosen.

    "torch" runs operator by operator, with MKL's packed products where there are any. "compiled" runs all layers in
    one call of machine code, in float32 as well. "int8" is the same with weights of one byte, and the inputs of every
    product rounded to bytes as they come; "int8-weights" and "int4-weights" round weights only. These three change
    results beyond the rounding of float32, so "auto" never takes them: it takes "compiled" where there is it, unless
    a short measurement says that its products are slow here.

    Raises:
        OptionError: an unknown executor, or one that this model, its dtype or this machine does not have.
    """
    with _patience():
        return _prepare(decoder, executor)


def _prepare(decoder: Decoder, executor: str) -> Decoder:
    if executor not in EXECUTORS:
        raise OptionError(f"an executor among {', '.join(EXECUTORS)}", repr(executor), "choose one of them")
    weight = decoder.embed.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    if executor.startswith("int") and not plain:
        got = f"{weight.dtype} on {weight.device.type}"
        raise OptionError(f"float32 weights on a CPU for executor={executor}", got, "use executor=torch")
    if executor == "compiled" and not (plain and compilable(decoder)):
        got = f"{decoder.config.model_type}, {weight.dtype} on {weight.device.type}"
        raise OptionError("a model and a processor that there are kernels for", got, "use executor=torch")
    if executor == "auto":
        executor = "compiled" if plain and compilable(decoder) and worthwhile() else "torch"
    decoder.executor = executor
    packer = _packer(executor, plain)
    if packer is not None:
        decoder.pack(packer)
    if executor != "torch" and packer is not ByteProduct and compilable(decoder):
        from ramify.models.kernels.fused import Fused

        decoder.fused = Fused(decoder)
        decoder.fused.warm()
    return decoder


@contextmanager
def _patience() -> Iterator[None]:
    """Say what is going on if it takes long: only compiling does."""
    line = "Compiling kernels for this processor; the result is kept for the next time.\n"
    timer = threading.Timer(PATIENCE, sys.stderr.write, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def compilable(decoder: Decoder) -> bool:
    """Whether there are kernels for this model on this processor."""
    from ramify.models.kernels.fused import covered
    from ramify.models.kernels.tiles import FUSED

    return FUSED and covered(decoder.config)


def _packer(executor: str, plain: bool) -> Packer | None:
    """What lays projections out, if anything does."""
    if executor == "torch":
        return MklProduct if plain and packable(torch.empty(1)) else None
    from ramify.models.kernels.products import BYTES, byte_product, byte_weights, float_product, nibbles

    if executor == "int8":
        return byte_product if BYTES else ByteProduct
    return {"compiled": float_product, "int8-weights": byte_weights, "int4-weights": nibbles}[executor]


@functools.cache
def worthwhile() -> bool:
    """Whether the kernels' product of a few rows is not much slower here than torch's.

    What they save is elsewhere. The weight is large enough that calling does not count, and the same for every model:
    a choice that is not close is the same every time.
    """
    if not packable(torch.empty(1)):
        return True
    from ramify.models.kernels.products import float_product

    weight, x = torch.zeros(OUTPUTS, INPUTS), torch.zeros(ROWS, INPUTS)
    return _seconds(float_product, weight, x) < SLOWER * _seconds(MklProduct, weight, x)


def _seconds(packer: Packer, weight: Tensor, x: Tensor) -> float:
    """The least time of a product."""
    product, seconds = packer(weight, None, 1), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        product(x)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
