"""The one place every projection and every embedding table goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramify.models.memory import give_back

# Rows that MKL is told to expect when it packs a weight; any number can follow. Packed for 128, products of 4 to
# 256 rows ran 1.2 to 1.6 times as fast as F.linear here; packed for 8 they were slower beyond 32 rows.
PACK_ROWS = 128


class Rows(Protocol):
    """A matrix that is read some rows at a time: a tensor, or one that still lies in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


class Product(Protocol):
    """y = x W^T + b for rows x. nbytes: what it holds besides the bias."""

    @property
    def nbytes(self) -> int: ...

    def __call__(self, x: Tensor, /) -> Tensor: ...


class TableProduct(Product, Protocol):
    """One that can also be asked for rows of W."""

    def rows(self, ids: Tensor, /) -> Tensor: ...


# From a weight, its bias, and how many it stacks.
Packer = Callable[[Rows, Tensor | None, int], Product]
TablePacker = Callable[[Rows, Tensor | None, int], TableProduct]


class Packers(NamedTuple):
    """How weights are laid out: those of projections, and the embedding table, None if that stays as it is.

    A tied vocabulary projection has the table's form, and where that is packed both are one.
    """

    projections: Packer
    table: TablePacker | None = None


def packable(weight: Tensor) -> bool:
    """Whether MKL can hold this weight packed: float32 on a CPU, in a PyTorch built with MKL and oneDNN."""
    built = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return bool(built and weight.device.type == "cpu" and weight.dtype == torch.float32)


class Linear(nn.Module):
    """y = x W^T + b, with W as a plain parameter or, after `pack`, in a form of the packer's own.

    `stacked` says how many weights of one size W consists of.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, stacked: int = 1) -> None:
        super().__init__()
        self.weight: Tensor = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.stacked = stacked
        self.product: Product | None = None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) if self.product is None else self.product(x)

    def pack(self, packer: Packer, weight: Rows | None = None) -> None:
        """Replace the weight by the packed form of the one given, or of its own: inference only from here on.

        No second copy is kept.
        """
        weight = self.weight.detach() if weight is None else weight
        self.product = packer(weight, self.bias, self.stacked)
        del self.weight
        self.weight = _shape_of(weight)


class Table(nn.Module):
    """Rows to look up, as a plain parameter or, after `pack`, in the form of a projection."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight: Tensor = nn.Parameter(torch.empty(rows, size))
        self.product: TableProduct | None = None

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight) if self.product is None else self.product.rows(ids)

    def pack(self, packer: TablePacker, weight: Rows) -> None:
        """Look rows up in the packed form of a weight from here on."""
        self.product = packer(weight, None, 1)
        del self.weight
        self.weight = _shape_of(weight)

    @property
    def nbytes(self) -> int:
        """What the rows take, as they lie in memory."""
        return self.weight.nbytes if self.product is None else self.product.nbytes


def _shape_of(weight: Rows) -> Tensor:
    """What stays of a weight that was packed: its shape, type and device."""
    return torch.empty(1, dtype=weight.dtype, device=weight.device).expand(weight.shape)


class MklProduct:
    """float32 products by MKL, which lays the weight out as it likes best."""

    def __init__(self, weight: Rows, bias: Tensor | None, stacked: int) -> None:
        self.shape, self.bias = torch.empty(1).expand(weight.shape), bias  # MKL reads its shape only
        self.packed = torch.ops.mkl._mkl_reorder_linear_weight(weight[:], PACK_ROWS)
        give_back()  # the weight, or its place would lie empty between packed ones

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkl._mkl_linear(x, self.packed, self.shape, self.bias, x.numel() // x.shape[-1])

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.shape.itemsize


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as int8 and one float32 scale each: the largest number of a row becomes 127 or -127."""
    scales = x.abs().amax(-1, keepdim=True)
    codes = (x * torch.where(scales > 0, 127 / scales, 0)).round().to(torch.int8)
    return codes, scales / 127


def quantise_groups(weight_OI: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Weights of 4 bits, -7 to 7, and one float32 scale for every output and `size` inputs."""
    missing = -weight_OI.shape[1] % size
    grouped_OJi = F.pad(weight_OI, (0, missing)).unflatten(1, (-1, size))
    scales_OJ1 = grouped_OJi.abs().amax(-1, keepdim=True) / 7
    codes_OJi = (grouped_OJi / torch.where(scales_OJ1 > 0, scales_OJ1, 1)).round().to(torch.int8)
    return codes_OJi.flatten(1)[:, : weight_OI.shape[1]].contiguous(), scales_OJ1[..., 0]


class ByteProduct:
    """Products of bytes: weights quantised once per output, inputs per row as they come."""

    def __init__(self, weight: Rows, bias: Tensor | None, stacked: int) -> None:
        self.codes, self.scales = quantise(weight[:])
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        codes, scales = quantise(x)
        out = torch._int_mm(codes, self.codes.T).to(x.dtype) * (scales * self.scales.T)
        return out if self.bias is None else out + self.bias

    def rows(self, ids: Tensor) -> Tensor:
        """Weights of some outputs."""
        return self.codes[ids] * self.scales[ids]

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes
