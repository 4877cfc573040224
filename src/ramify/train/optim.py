"""Muon for matrices, AdamW for the rest, and one learning-rate schedule for both."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn


def orthogonalise(matrices_BMN: Tensor, rounds: int = 5) -> Tensor:
    """Push the singular values of each matrix towards 1 by the quintic Newton-Schulz iteration (float32).

    Own implementation because `torch.optim.Muon` iterates in bfloat16, which CPUs without that type emulate.
    Singular values end up between about 0.7 and 1.2, which is all Muon needs.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices_BMN.size(1) > matrices_BMN.size(2)
    x = matrices_BMN.mT if tall else matrices_BMN
    x = x / (x.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per matrix (Jordan, 2024); matrices of one shape are iterated together."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(weight.shape, []).append(weight)
            for shape, weights in by_shape.items():
                updates = []
                for weight in weights:
                    buffer = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                    gradient = cast(Tensor, weight.grad)
                    buffer.lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(buffer, group["momentum"]))  # Nesterov
                steps = orthogonalise(torch.stack(updates))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for weight, update in zip(weights, steps, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)


def make_optimisers(model: nn.Module, *, matrix_lr: float, other_lr: float) -> list[torch.optim.Optimizer]:
    """Muon on the hidden matrices of `model`, AdamW on the rest; each remembers its peak rate."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        (matrices if "layers." in name and weight.ndim == 2 else others).append(weight)
    optimisers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=matrix_lr),
        torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak_lr"] = group["lr"]
    return optimisers


def schedule(step: int, total: int, *, warmup: int, decay: float) -> float:
    """Factor on the peak rate: linear warm-up, constant, then linear to zero over the last `decay` share."""
    if step < warmup:
        return (step + 1) / warmup
    left = (total - step) / max(1.0, decay * total)
    return min(1.0, max(0.0, left))
