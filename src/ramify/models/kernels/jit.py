"""How kernels are compiled, and where the result is kept.

Numba looks at the source file of a compiled function to know whether what it kept is still right, but not at the
files of the functions that it calls. So the folder for compiled code is named after the sources of all kernels.

It also compiles what a function calls into that function again, at every level. Where that would cost seconds, a
function is linked instead: `link` compiles it and gives it a name, `native` calls it by that name.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ramify.models.kernels.patience import step

# Sums may be reordered, so that they become vector operations; infinities and NaNs keep their meaning.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


def _digest() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def cache_folder() -> Path:
    """Where compiled kernels are kept: in NUMBA_CACHE_DIR if that is set, else in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(config.CACHE_DIR or home) / "ramify" / f"kernels-{_digest()}"


FOLDER = cache_folder()


def compiled(function: Callable[..., Any] | None = None, *, parallel: bool = False) -> Any:
    """Decorator: machine code without the GIL, kept for the next process. Where FOLDER cannot be written, Numba
    falls back to places of its own."""
    if function is None:
        return lambda function: compiled(function, parallel=parallel)
    before, config.CACHE_DIR = config.CACHE_DIR, str(FOLDER)
    try:
        made = njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH, parallel=parallel,
                    no_cfunc_wrapper=True)(function)
    finally:
        config.CACHE_DIR = before
    # A constant among the arguments would be a type of its own, and the function compiled once more for it.
    template = made.get_call_template
    made.get_call_template = lambda args, kws: template(_plain(args), kws)
    return made


def _plain(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Types without the values of constants."""
    return tuple(types.unliteral(kind) for kind in kinds)


@compiled
def address(array):
    """Where an array's numbers begin; Numba's own answer has no sign, and turns into a float when it is added to."""
    return np.int64(array.ctypes.data)


def _symbol(function: Any, kinds: tuple[Any, ...]) -> str:
    """The name of a function for arguments of these types, the same in every process."""
    return f"ramify.{function.py_func.__qualname__}.{zlib.crc32(str(kinds).encode()):x}"


def link(function: Any, kinds: tuple[Any, ...]) -> None:
    """Compile a function that returns nothing, for arguments of these types, so that `native` can call it.

    Do this before anything that calls it runs: even if that was compiled long ago.
    """
    step(f"{function.__module__.rpartition('.')[2]}.{function.__name__.strip('_')}")
    function.compile(kinds)
    found = function.overloads[kinds]
    binding.add_symbol(_symbol(function, kinds), found.library.get_pointer_to_function(found.fndesc.llvm_func_name))


def call_by_name(context: Any, builder: Any, function: Any, kinds: Any, values: Any) -> None:
    """Emit a call of a linked function; `values` is the tuple of its arguments, `kinds` the tuple's type."""
    plain = _plain(kinds)
    signature = context.call_conv.get_function_type(types.none, plain)
    callee = cgutils.get_or_insert_function(builder.module, signature, _symbol(function.dispatcher, plain))
    parts = [context.cast(builder, value, kind, to) for value, kind, to
             in zip(cgutils.unpack_tuple(builder, values, len(plain)), kinds, plain, strict=True)]
    context.call_conv.call_function(builder, callee, types.none, plain, parts)


@intrinsic
def native(typing: Any, function: Any, args: Any) -> Any:
    """function(*args) for a linked function, in compiled code."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        call_by_name(context, builder, function, args, values[1])
        return context.get_dummy_value()

    return types.void(function, args), generate


def fetch(builder: Any, address: Any, level: int) -> None:
    """Emit a request for the line of memory at an address, into the cache of this level. Any address will do."""
    raw, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [raw, number, number, number])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # To read, as data; what LLVM calls 3 is the first level.
    builder.call(call, [builder.inttoptr(address, raw), number(0), number(4 - level), number(1)])


def each_count(builder: Any, rows: Any, most: int) -> Iterator[int]:
    """Every number of rows up to the most that a tile may have; what is built for it in the loop's body runs when
    `rows` is it."""
    after = builder.append_basic_block("end")
    switch = builder.switch(rows, after)
    for count in range(1, most + 1):
        block = builder.append_basic_block(f"rows{count}")
        switch.add_case(ir.IntType(64)(count), block)
        builder.position_at_end(block)
        yield count
        builder.branch(after)
    builder.position_at_end(after)


def _features() -> str:
    """The instruction sets that Numba compiles for, as LLVM writes them: "+avx2,-avx512f,..."."""
    return str(config.CPU_FEATURES) if config.CPU_FEATURES is not None else binding.get_host_cpu_features().flatten()


def has(feature: str) -> bool:
    """Whether kernels may use an instruction set, by LLVM's name."""
    return f"+{feature}" in _features().split(",")
