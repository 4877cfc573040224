"""Packed weights as the decoder's projections call them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ramify.models.kernels.linear import look_up, product
from ramify.models.kernels.packed import (
    GROUP,
    INPUTS,
    Array,
    Packed,
    pack_byte_weights,
    pack_bytes,
    pack_floats,
    pack_nibbles,
    panel_rows,
)
from ramify.models.kernels.tiles import BYTES
from ramify.models.linear import Rows, quantise, quantise_groups

__all__ = ["BYTES", "PackedProduct", "byte_product", "byte_weights", "float_product", "nibbles"]


class PackedProduct:
    """x W^T + b for a packed weight."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed

    def __call__(self, x: Tensor) -> Tensor:
        rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]).numpy())
        y = torch.from_numpy(product(self.packed, rows, torch.get_num_threads()))
        return y.view(*x.shape[:-1], y.shape[-1])

    def rows(self, ids: Tensor) -> Tensor:
        """Weights of some outputs, of a weight that is not stacked and has no groups."""
        found = np.empty((ids.numel(), self.packed.spec[INPUTS]), np.float32)
        look_up(self.packed.spec, ids.flatten().numpy(), found)
        return torch.from_numpy(found).view(*ids.shape, -1)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        return self.packed.nbytes


def float_product(weight: Rows, bias: Tensor | None, stacked: int) -> PackedProduct:
    """float32 weights."""
    rows = (weight[own].numpy() for own in panel_rows(weight.shape[0], stacked))
    return PackedProduct(pack_floats(weight.shape, rows, _array(bias), stacked))


def byte_product(weight: Rows, bias: Tensor | None, stacked: int) -> PackedProduct:
    """int8 weights and inputs."""
    return PackedProduct(pack_bytes(weight.shape, _bytes(weight, stacked), _array(bias), stacked))


def byte_weights(weight: Rows, bias: Tensor | None, stacked: int) -> PackedProduct:
    """int8 weights, float32 inputs."""
    return PackedProduct(pack_byte_weights(weight.shape, _bytes(weight, stacked), _array(bias), stacked))


def nibbles(weight: Rows, bias: Tensor | None, stacked: int) -> PackedProduct:
    """4-bit weights in groups, float32 inputs."""
    rows = (quantise_groups(weight[own], GROUP) for own in panel_rows(weight.shape[0], stacked))
    coded = ((codes.numpy(), scales.numpy()) for codes, scales in rows)
    return PackedProduct(pack_nibbles(weight.shape, coded, _array(bias), stacked))


def _bytes(weight: Rows, stacked: int) -> Iterator[tuple[Array, Array]]:
    """Codes and scales of every panel."""
    for own in panel_rows(weight.shape[0], stacked):
        codes, scales = quantise(weight[own])
        yield codes.numpy(), scales.flatten().numpy()


def _array(bias: Tensor | None) -> Array | None:
    return None if bias is None else bias.detach().numpy()
