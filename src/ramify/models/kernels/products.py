"""Packed weights as the decoder's projections call them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ramify.models.kernels.linear import Packed, pack_bytes, pack_floats, product
from ramify.models.kernels.tiles import BYTES
from ramify.models.linear import quantise

__all__ = ["BYTES", "PackedProduct", "byte_product", "float_product"]


class PackedProduct:
    """x W^T + b for a packed weight."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed

    def __call__(self, x: Tensor) -> Tensor:
        rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]).numpy())
        y = torch.from_numpy(product(self.packed, rows, torch.get_num_threads()))
        return y.view(*x.shape[:-1], y.shape[-1])


def float_product(weight: Tensor, bias: Tensor | None, stacked: int) -> PackedProduct:
    """float32 weights."""
    return PackedProduct(pack_floats(weight.numpy(), _array(bias), stacked))


def byte_product(weight: Tensor, bias: Tensor | None, stacked: int) -> PackedProduct:
    """int8 weights and inputs."""
    codes, scales = quantise(weight)
    return PackedProduct(pack_bytes(codes.numpy(), scales.flatten().numpy(), _array(bias), stacked))


def _array(bias: Tensor | None) -> np.ndarray[Any, np.dtype[Any]] | None:
    return None if bias is None else bias.detach().numpy()
