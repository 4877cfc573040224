"""Packed weights as the decoder's projections call them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ramify.models.kernels.linear import product
from ramify.models.kernels.packed import GROUP, Packed, pack_byte_weights, pack_bytes, pack_floats, pack_nibbles
from ramify.models.kernels.tiles import BYTES
from ramify.models.linear import quantise, quantise_groups

__all__ = ["BYTES", "PackedProduct", "byte_product", "byte_weights", "float_product", "nibbles"]


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


def byte_weights(weight: Tensor, bias: Tensor | None, stacked: int) -> PackedProduct:
    """int8 weights, float32 inputs."""
    codes, scales = quantise(weight)
    return PackedProduct(pack_byte_weights(codes.numpy(), scales.flatten().numpy(), _array(bias), stacked))


def nibbles(weight: Tensor, bias: Tensor | None, stacked: int) -> PackedProduct:
    """4-bit weights in groups, float32 inputs."""
    codes, scales = quantise_groups(weight, GROUP)
    return PackedProduct(pack_nibbles(codes.numpy(), scales.numpy(), _array(bias), stacked))


def _array(bias: Tensor | None) -> np.ndarray[Any, np.dtype[Any]] | None:
    return None if bias is None else bias.detach().numpy()
