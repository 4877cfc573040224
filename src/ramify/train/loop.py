"""The one training loop: gradient steps on batches that are a function of their number, with exact resume."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ramify.train.optim import make_optimisers, schedule

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How long and how fast to train. Rates are peaks; `decay` is the share of steps spent cooling down."""

    steps: int
    stop: int | None = None  # the step to end at, if the schedule should not be run to its end
    matrix_lr: float = 0.02
    other_lr: float = 0.003
    warmup: int = 20
    decay: float = 0.35
    clip: float = 1.0
    seed: int = 0
    save_seconds: float = 120.0
    log_every: int = 20


LossOfStep = Callable[[int], tuple[Tensor, dict[str, float]]]  # step number -> loss to minimise, numbers to log


def train(model: nn.Module, loss_of_step: LossOfStep, config: LoopConfig, run: Path,
          after_save: Callable[[int], None] | None = None) -> None:  # fmt: skip
    """Minimise `loss_of_step` in place, from the checkpoint in folder `run` if there is one.

    The batch of a step must depend on the step number alone; then stopping and resuming gives the same parameters
    as never stopping. Writes run/checkpoint.pt (model, optimisers, step, RNG) and run/metrics.jsonl.
    """
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    optimisers = make_optimisers(model, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    start = load_checkpoint(run, model, optimisers)
    model.train()
    saved = began = time.monotonic()
    last = config.stop or config.steps
    for step in range(start, last):
        factor = schedule(step, config.steps, warmup=config.warmup, decay=config.decay)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = group["peak_lr"] * factor
        loss, numbers = loss_of_step(step)
        loss.backward()
        average_gradients(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for optimiser in optimisers:
            optimiser.step()
        done = step + 1
        if worker()[0]:
            continue
        if done % config.log_every == 0 or done == last:
            row = {"step": done, "loss": round(loss.item(), 5), "grad_norm": round(norm.item(), 4), **numbers}
            row["seconds"] = round(time.monotonic() - began, 1)
            with (run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            progress = " ".join(f"{name}={value}" for name, value in row.items())
            log.info("%s %d/%d %s", run.name, done, last, progress)
        if time.monotonic() - saved > config.save_seconds or done == last:
            save_checkpoint(run, model, optimisers, done)
            saved = time.monotonic()
            if after_save is not None:
                after_save(done)
    model.eval()


def worker() -> tuple[int, int]:
    """Rank and number of the processes that train together: (0, 1) without torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over all workers; nothing to do for one worker."""
    if worker()[1] == 1:
        return
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= worker()[1]
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def save_checkpoint(run: Path, model: nn.Module, optimisers: list[torch.optim.Optimizer], step: int) -> None:
    """Write run/checkpoint.pt in one rename, so that a kill never leaves half a file."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "rng": torch.get_rng_state(),
    }
    torch.save(state, run / "checkpoint.tmp")
    os.replace(run / "checkpoint.tmp", run / "checkpoint.pt")


def load_checkpoint(run: Path, model: nn.Module, optimisers: list[torch.optim.Optimizer]) -> int:
    """Restore run/checkpoint.pt and return its number of finished steps; 0 if there is none."""
    if not (run / "checkpoint.pt").exists():
        return 0
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    torch.set_rng_state(state["rng"])
    return int(state["step"])
