"""Language-model training learns, and stopping plus resuming changes nothing."""

import json
from dataclasses import replace

import pytest
import torch

from ramify.train.lm import lm_loss, train_lm
from ramify.train.loop import LoopConfig
from ramify.train.optim import orthogonalise, schedule

CONFIG = LoopConfig(steps=30, other_lr=0.02, warmup=3, save_seconds=0.0, log_every=10)


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def batch_of_step(rows):
    return lambda step: [rows[step % len(rows)], rows[(step * 3 + 1) % len(rows)]]


def test_loss_falls_and_is_logged(make_model, rows, tmp_path):
    model = make_model()
    before = lm_loss(model, rows, 0.0)[1]
    train_lm(model, lambda step: rows, CONFIG, tmp_path)
    assert lm_loss(model, rows, 0.0)[1] < 0.5 * before
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == [10, 20, 30]
    assert logged[-1]["answer_loss"] < logged[0]["answer_loss"]


class Stopped(Exception):
    """Stands for a killed process."""


def interrupted(model, rows, run, *, forget):
    """Stop before step 11, then start again from the files; optionally lose the optimisers' state."""
    batches = batch_of_step(rows)

    def killed(step):
        if step == 11:
            raise Stopped
        return batches(step)

    with pytest.raises(Stopped):
        train_lm(model, killed, CONFIG, run)
    if forget:
        state = torch.load(run / "checkpoint.pt", weights_only=True)
        for optimiser in state["optimisers"]:
            optimiser["state"] = {}
        torch.save(state, run / "checkpoint.pt")


@pytest.mark.parametrize("forget", [False, True])
def test_resume_is_exact_and_the_test_sees_lost_momentum(make_model, rows, tmp_path, forget):
    whole, first, second = make_model(), make_model(), make_model(seed=1)
    train_lm(whole, batch_of_step(rows), CONFIG, tmp_path / "whole")
    interrupted(first, rows, tmp_path / "cut", forget=forget)
    train_lm(second, batch_of_step(rows), CONFIG, tmp_path / "cut")
    assert same(whole, second) == (not forget)


def test_padding_changes_no_loss(make_model, rows):
    model = make_model()
    long = [*rows, replace(rows[0], ids=[0, 3, 3, 3, 3, 3, 3, 1])]
    single = [lm_loss(model, [row], 0.5)[0].item() * (len(row.ids) - row.prompt) for row in long]
    together = lm_loss(model, long, 0.5)[0].item() * sum(len(row.ids) - row.prompt for row in long)
    assert together == pytest.approx(sum(single), rel=1e-5)


def test_orthogonalise_evens_out_singular_values():
    torch.manual_seed(0)
    for shape in ((3, 8, 20), (3, 20, 8)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.6 and values.max() < 1.3


def test_schedule_warms_up_stays_and_cools_down():
    factors = [schedule(step, 100, warmup=10, decay=0.4) for step in range(101)]
    assert factors[0] == 0.1 and factors[9] == 1.0 and factors[60] == 1.0
    assert factors[80] == pytest.approx(0.5) and factors[100] == 0.0
