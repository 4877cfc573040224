"""How a step is read on a GPU: planned on the host, sent in one piece, and replayed where it is like many others.

A step of one new token per row is rounded up to sizes that many steps share (`plan.Sizes`) and read from buffers that
stay where they are. When the same sizes have come a few times, the forward is recorded as a CUDA graph, and replayed
from then on. Shapes: T tokens of all rows together, D hidden; H query heads, G kv heads, d head dimension.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ramify.engine.batch import Row
from ramify.engine.paged import rows_of
from ramify.models.executors import FLOATS, has_triton

if TYPE_CHECKING:
    from ramify.cache import KVStore
    from ramify.models import ModelConfig
    from ramify.models.decoder import Decoder
    from ramify.models.kernels.cuda.plan import DevicePages, DeviceStep, HostStep, Sizes

WIDEST = 512  # rows that are recorded at most
AGAIN = 3  # a step's sizes are recorded when they come this many times
KEPT = 64  # recordings, of some megabytes each

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[], Tensor]
Record = Callable[[Run], tuple[Callable[[], object], Tensor]]


def served(store: KVStore, dtype: torch.dtype) -> bool:
    """Whether the steps of a model of some type are read here: on CUDA, where there is Triton that knows the types."""
    return store.kv.is_cuda and dtype in FLOATS and store.kv.dtype in (*FLOATS, torch.int8) and has_triton()


class DeviceAttention:
    """The attention of one step by Triton: writes new keys and values, then reads each row's blocks.

    Called by the decoder once per layer with (layer, q_THd, k_TGd, v_TGd); returns o_THd.
    """

    def __init__(self, config: ModelConfig, store: KVStore, step: DeviceStep) -> None:
        self.config, self.store, self.step = config, store, step

    def pages(self) -> DevicePages:
        """Everything that kernels need to know of the step."""
        from ramify.models.kernels.cuda.plan import DevicePages

        return DevicePages(self.step, self.store.kv, self.store.block_size, self.store.group)

    def __call__(self, layer: int, q_THd: Tensor, k_TGd: Tensor, v_TGd: Tensor) -> Tensor:
        """Attention of one layer."""
        from ramify.models.kernels.cuda.attention import attend, write

        config, store, kv = self.config, self.store, self.store.kv[:, layer]
        write(kv, k_TGd, v_TGd, self.step.slots_T, store.block_size, store.group)
        return attend(q_THd.contiguous(), kv, self.step.plans[config.windows[layer] or 0], self.step.tables_N,
                      config.attention_scale, config.attention_softcap or 0.0, store.block_size, store.group)


class Recording(NamedTuple):
    """A forward that can be run again: from `buffer`, which holds a packed step, to hidden_TD."""

    buffer: Tensor
    replay: Callable[[], object]
    hidden_TD: Tensor


class DeviceReader:
    """Reads the rows of a step on a model's device: rows -> hidden_TD. One transfer goes to the device per step.

    Args:
        decoder: the model.
        store: its cache.
        record: makes a forward that can be run again; see `recorder`.
    """

    def __init__(self, decoder: Decoder, store: KVStore, record: Record | None = None) -> None:
        self.decoder, self.store = decoder, store
        self.record = record or recorder(store.kv.device)
        self.seen: Counter[Sizes] = Counter()
        self.recordings: dict[Sizes, Recording] = {}

    def __call__(self, rows: list[Row]) -> Tensor:
        """hidden_TD of the new ids, row after row."""
        with torch.cuda.device_of(self.store.kv):  # where Triton launches, and graphs are
            return self._read(host_step(self.decoder.config, self.store.block_size, rows, self.decoder.dtype), rows)

    def _read(self, step: HostStep, rows: list[Row]) -> Tensor:
        tokens = step.sizes.tokens
        steady = len(rows) == tokens <= WIDEST and not any(row.tree for row in rows)
        sizes = step.sizes.rounded() if steady else step.sizes
        buffer = sent(step.packed(sizes), self.store.kv.device)
        if not steady:
            return self._forward(buffer, sizes)
        if (recording := self.recordings.get(sizes)) is None:
            hidden_TD = self._forward(buffer, sizes)
            self.seen[sizes] += 1
            if self.seen[sizes] == AGAIN and len(self.recordings) < KEPT:
                replay, output = self.record(lambda: self._forward(buffer, sizes))
                self.recordings[sizes] = Recording(buffer, replay, output)
            return hidden_TD[:tokens]
        recording.buffer.copy_(buffer)
        recording.replay()
        return recording.hidden_TD[:tokens].clone()  # the next replay writes over it

    def _forward(self, buffer: Tensor, sizes: Sizes) -> Tensor:
        attend = _attention(self.decoder.config, self.store, buffer, sizes)
        return self.decoder(attend.step.ids_T, attend.step.positions_T, attend)


def attention_of(config: ModelConfig, store: KVStore, rows: list[Row], dtype: torch.dtype) -> DeviceAttention:
    """The attention of one step by itself, for queries of some type."""
    step = host_step(config, store.block_size, rows, dtype)
    return _attention(config, store, sent(step.packed(step.sizes), store.kv.device), step.sizes)


def _attention(config: ModelConfig, store: KVStore, buffer: Tensor, sizes: Sizes) -> DeviceAttention:
    from ramify.models.kernels.cuda.plan import unpacked

    return DeviceAttention(config, store, unpacked(buffer, sizes, config.distinct_windows))


def host_step(config: ModelConfig, block_size: int, rows: list[Row], dtype: torch.dtype) -> HostStep:
    """What a step's rows are as integers, for queries of some type."""
    from ramify.models.kernels.cuda.plan import HostStep, lines_together

    ids, positions, slots = (list(chain.from_iterable(numbers)) for numbers in zip(
        *((row.ids, row.positions, row.slots) for row in rows), strict=True))
    return HostStep(ids, positions, slots, rows_of(rows), config.distinct_windows, config.num_heads,
                    config.num_kv_heads, block_size, lines_together(config.head_dim, dtype.itemsize))


def sent(packed: Array, device: torch.device) -> Tensor:
    """A packed step on a device. The host does not wait: a GPU fetches it from where it cannot be swapped out."""
    tensor = torch.from_numpy(packed)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def recorder(device: torch.device) -> Record:
    """Records forwards on a device as CUDA graphs, which share the memory of what comes up inside them.

    A forward ran before with the same sizes, so whatever is compiled or chosen once is; its result is read before
    another one is replayed.
    """
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def record(run: Run) -> tuple[Callable[[], object], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            hidden_TD = run()
        return graph.replay, hidden_TD

    return record
