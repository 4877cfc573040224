"""How a decoder's forward is run: chosen once when it is loaded, the fastest exact way unless told otherwise."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

from ramify.errors import CapacityError, OptionError
from ramify.models.config import ModelConfig
from ramify.models.decoder import Decoder
from ramify.models.kernels.patience import patience
from ramify.models.linear import ByteProduct, MklProduct, Packer, Packers, Rows, packable
from ramify.models.memory import free_bytes

EXECUTORS = ("auto", "torch", "compiled", "int8", "int8-weights", "int4-weights")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # that Triton's kernels know
SMALLER = {"int8": 1, "int8-weights": 1, "int4-weights": 0.5}  # bytes of a weight, at least
ROWS, OUTPUTS, INPUTS, REPEATS = 16, 2048, 1024, 8  # of the measurement: a small batch, where products differ most
_SIMULATION = Packers(ByteProduct, ByteProduct)
SLOWER = 2.0  # times as slow as torch's product, from which on kernels are not worth it


def assemble(decoder: Decoder, sources: MutableMapping[str, Rows], executor: str = "auto") -> None:
    """Fill a decoder out of `sources`, packed as its executor wants it, and set `decoder.executor` to the one chosen.

    "torch" runs operator by operator, with MKL's packed products where there are any. "compiled" runs all layers in
    one call of machine code, in float32 as well; on a GPU by Triton's kernels, in the type that the weights have.
    "int8" is the same with weights of one byte, and the inputs of every product rounded to bytes as they come;
    "int8-weights" and "int4-weights" round weights only, the latter on a CPU alone. These three round the embedding
    table to bytes, too; they change results beyond the rounding of float32, so "auto" never takes them: it takes
    "compiled" where there is it, unless on a CPU a short measurement says that its products are slow here.

    Raises:
        OptionError: an unknown executor, or one that this model, its dtype or this machine does not have.
        CapacityError: weights larger than the memory that is free.
    """
    with patience():
        table = sources["embed.weight"]
        plain = table.device.type == "cpu" and table.dtype == torch.float32
        decoder.executor = _chosen(decoder.config, table, plain, executor)
        _must_fit(decoder, table)
        packers = _packers(decoder.executor, plain)
        with one_thread():
            decoder.fill(sources, packers)
        if not plain:
            if decoder.executor != "torch" and launchable(decoder.config, table):
                from ramify.models.kernels.cuda.forward import DeviceForward

                decoder.fused = DeviceForward(decoder)
        elif decoder.executor != "torch" and packers is not _SIMULATION and compilable(decoder.config):
            from ramify.models.kernels.fused import Fused

            decoder.fused = Fused(decoder)
            decoder.fused.warm()


@contextmanager
def one_thread() -> Iterator[None]:
    """torch by itself: weights are packed a few rows at a time, and a second thread that others keep busy would be
    waited for at each of them, 20 times as long as one alone takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _must_fit(decoder: Decoder, table: Rows) -> None:
    """Refuse to read weights that there is no room for."""
    itemsize = SMALLER.get(decoder.executor, table.dtype.itemsize)
    needed, free = decoder.num_parameters * itemsize, free_bytes(str(table.device))
    if needed > free:
        do = "use a smaller model" if decoder.executor in SMALLER else "use executor=int8, or a smaller model"
        raise CapacityError(f"{needed / 1e9:.2f} GB for weights of {itemsize:g} bytes", f"{free / 1e9:.2f} GB free", do)


def _chosen(config: ModelConfig, table: Rows, plain: bool, executor: str) -> str:
    """The executor; `plain`: float32 on a CPU."""
    if executor not in EXECUTORS:
        raise OptionError(f"an executor among {', '.join(EXECUTORS)}", repr(executor), "choose one of them")
    on_gpu = known_to_triton(table)
    if executor.startswith("int") and not (plain or (on_gpu and executor != "int4-weights")):
        got = f"{table.dtype} on {table.device.type}"
        other = "" if executor == "int4-weights" else ", or of 16 or 32 bits on a GPU with Triton,"
        raise OptionError(f"float32 weights on a CPU{other} for executor={executor}", got, "use executor=torch")
    compiles = compilable(config) if plain else launchable(config, table)
    if executor == "compiled" and not compiles:
        got = f"{config.model_type}, {table.dtype} on {table.device.type}"
        raise OptionError("a model and a processor that there are kernels for", got, "use executor=torch")
    if executor == "auto":
        return "compiled" if compiles and (on_gpu or worthwhile()) else "torch"
    return executor


def compilable(config: ModelConfig) -> bool:
    """Whether there are kernels for a model of this config on this processor."""
    from ramify.models.kernels.fused import covered
    from ramify.models.kernels.tiles import FUSED

    return FUSED and covered(config)


def has_triton() -> bool:
    """Whether Triton is installed: PyTorch brings it along where it knows CUDA, on Linux."""
    return find_spec("triton") is not None


def known_to_triton(table: Rows) -> bool:
    """Whether kernels in Triton know the type of these weights, and where they are."""
    return table.device.type == "cuda" and table.dtype in FLOATS and has_triton()


def launchable(config: ModelConfig, table: Rows) -> bool:
    """Whether there are kernels for a model of this config and such weights on this GPU."""
    if not known_to_triton(table):
        return False
    from ramify.models.kernels.cuda.forward import covered

    return covered(config)


def _packers(executor: str, plain: bool) -> Packers | None:
    """What lays weights out, if anything does."""
    if not plain and executor in ("torch", "compiled"):
        return None
    if not plain:
        from ramify.models.kernels.cuda.linear import Bytes, ByteWeights

        packer = Bytes if executor == "int8" else ByteWeights
        return Packers(packer, packer)
    if executor == "torch":
        return Packers(MklProduct) if packable(torch.empty(1)) else None
    from ramify.models.kernels.products import BYTES, byte_product, byte_weights, float_product, nibbles

    if executor == "int8":
        return Packers(byte_product, byte_product) if BYTES else _SIMULATION
    return {"compiled": Packers(float_product, float_product), "int8-weights": Packers(byte_weights, byte_weights),
            "int4-weights": Packers(nibbles, byte_weights)}[executor]


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
