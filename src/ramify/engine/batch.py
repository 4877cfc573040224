"""Ragged rows of one forward: what each reads, and where it stands in its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ramify.engine.sequence import Context


@dataclass(slots=True)
class Tree:
    """How the new ids of a row branch. Slots from position `base` on hold a tree of ids instead of a text.

    depths: of every slot since `base`, the new ids' last; its position in the text is base + depth.
    sees: for every new id the slots since `base` that it attends to, itself included.
    """

    base: int
    depths: list[int]
    sees: list[list[int]]


@dataclass(slots=True)
class Row:
    """New ids of one context, to be read in this step."""

    context: Context
    ids: list[int]
    start: int
    slots: list[int]
    tree: Tree | None = None

    @property
    def positions(self) -> list[int]:
        """Where in the text each new id stands."""
        if self.tree is None:
            return list(range(self.start, self.start + len(self.ids)))
        return [self.tree.base + depth for depth in self.tree.depths[-len(self.ids) :]]


def flatten(rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Token ids and positions of all rows, one after another: ids_T, positions_T."""
    ids = [token for row in rows for token in row.ids]
    positions = [at for row in rows for at in row.positions]
    return torch.from_numpy(np.array(ids)), torch.from_numpy(np.array(positions))
