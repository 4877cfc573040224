"""Threads that share a whole forward without meeting anybody between its operators.

Work is a row of phases, each of a known number of items. Every thread goes through all phases in order:

    while (item := claim(board, phase)) < count:
        ...                                   # the work of that item
        finish(board, phase)
    wait(board, phase, count)                 # until all items of the phase are done, whoever does them

`fork` starts the threads, and is called from compiled code. Nobody waits for a thread as such: one that comes late, or
never, finds its items done by others, so any number of threads is right, and a thread that the system stops costs no
more than the item that it holds. `board` is a zeroed int64 array of `2 * SPACING` numbers per phase, in which `wait`
also leaves the time, see `spent`.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ramify.models.kernels.jit import address, call_by_name, compiled

SPACING = 8  # numbers between two counters: a cache line, so that threads do not disturb each other by looking
WAITED, LEFT = 1, 2  # what stands beside the counter of what is done
SPINS = 4000  # looks at a counter before the processor is offered to others: some 100 microseconds
YIELDS = hasattr(os, "sched_yield")
TICKS = platform.machine().lower() in ("x86_64", "amd64")  # elsewhere programs may not look at the processor's clock
# Threads are those of torch's own GNU OpenMP: two pools would disturb each other.
OPENMP = torch.backends.openmp.is_available() and hasattr(ctypes.CDLL(None), "GOMP_parallel")

_LONG = ir.IntType(64)


@intrinsic
def _add(typing: Any, address: Any, more: Any) -> Any:
    """Add to an int64 and return what it was, as one step that all threads see in the same order."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], _LONG.as_pointer())
        return builder.atomic_rmw("add", place, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _look(typing: Any, address: Any) -> Any:
    """Read an int64 that others add to; what they wrote before is seen after."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], _LONG.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def _ticks(typing: Any) -> Any:
    """The processor's clock, 0 where it has none."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not TICKS:
            return _LONG(0)
        call = ir.FunctionType(_LONG, [])
        return builder.call(cgutils.get_or_insert_function(builder.module, call, "llvm.readcyclecounter"), [])

    return types.int64(), generate


@intrinsic
def _give_way(typing: Any) -> Any:
    """Offer the processor to another thread, where the system has a call for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if YIELDS:
            call = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, call, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def fork(typing: Any, threads: Any, function: Any, args: Any) -> Any:
    """Call `function(*args)`, which is linked, in up to `threads` threads at once, and return when all have.

    Once only, in the calling thread, where this torch brings no GNU OpenMP.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if not OPENMP:
            call_by_name(context, builder, function, args, values[2])
            return context.get_dummy_value()
        raw, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        name = builder.module.get_unique_name("share")
        body = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [raw]), name)
        body.linkage = "internal"
        inside = ir.IRBuilder(body.append_basic_block())
        place = cgutils.alloca_once_value(builder, values[2])
        call_by_name(context, inside, function, args, inside.load(inside.bitcast(body.args[0], place.type)))
        inside.ret_void()
        kind = ir.FunctionType(ir.VoidType(), [body.type, raw, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "GOMP_parallel")
        builder.call(call, [body, builder.bitcast(place, raw), builder.trunc(values[0], number), number(0)])
        return context.get_dummy_value()

    return types.void(types.int64, function, args), generate


def new_board(phases: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Counters for so many phases."""
    return np.zeros(2 * SPACING * phases, np.int64)


@compiled
def claim(board, phase):
    """The next item of a phase that nobody has."""
    return _add(address(board) + 16 * SPACING * phase, 1)


@compiled
def finish(board, phase):
    """Say that an item is done."""
    _add(address(board) + 16 * SPACING * phase + 8 * SPACING, 1)


@compiled
def wait(board, phase, count):
    """Return when `count` items of the phase are done."""
    spins, done, came = 0, address(board) + 16 * SPACING * phase + 8 * SPACING, _ticks()
    while _look(done) < count:
        spins += 1
        if spins > SPINS:
            _give_way()
    left = _ticks()
    _add(done + 8 * WAITED, left - came)
    board[2 * SPACING * phase + SPACING + LEFT] = left


def spent(board: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Per phase, of a board that threads went through: ticks of the processor's clock that they waited at its end, all
    of them together, and the tick at which it ended; 0 where nobody waited. [phases, 2]."""
    return board.reshape(-1, 2 * SPACING)[:, SPACING + WAITED : SPACING + LEFT + 1]
