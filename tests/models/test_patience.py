"""Who waits for a compiler is told so, once."""

import threading
import time

import pytest

from ramify.models.kernels import patience
from ramify.models.kernels.patience import LINE, STEP


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 0.0)


def slow(*_):
    """Long enough for every timer to say its word."""
    deadline = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.001)


def test_it_is_said_once_however_deep(capfd):
    with patience.patience(), patience.patience():
        slow()
    assert capfd.readouterr().err == LINE
    with pytest.raises(ZeroDivisionError), patience.patience():
        raise ZeroDivisionError
    with patience.patience():
        slow()
    assert LINE in capfd.readouterr().err


def test_nothing_is_said_of_what_is_quick(capfd, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 60.0)
    with patience.patience():
        pass
    assert not capfd.readouterr().err


def test_steps_are_told_to_who_was_told_to_wait(capfd, monkeypatch):
    patience.step("too early")
    with patience.patience():
        slow()
        patience.step("plan")
    patience.step("too late")
    assert capfd.readouterr().err == LINE + STEP.format("plan")
    monkeypatch.setattr(patience, "PATIENCE", 60.0)
    with patience.patience():  # broken twin: nobody was told yet
        patience.step("plan")
    assert not capfd.readouterr().err
