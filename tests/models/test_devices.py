"""Which device a name stands for, on machines with GPUs and without."""

import pytest
import torch

from ramify.errors import ModelError
from ramify.models.devices import find_device, gpus

NAMES = ["NVIDIA H200", "NVIDIA L4"]


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs, the last of which is the current one."""

    def has(count):
        for name, value in {"is_available": lambda: count > 0, "device_count": lambda: count,
                            "current_device": lambda: count - 1, "get_device_name": lambda at: NAMES[at]}.items():
            monkeypatch.setattr(torch.cuda, name, value)

    return has


def check(find=find_device):
    assert [find(name) for name in ("cpu", "cuda:0", "cuda:1", "cuda")] == ["cpu", "cuda:0", "cuda:1", "cuda:1"]


def test_a_gpu_has_a_number(machine):
    machine(2)
    check()


def test_one_that_is_always_the_first_is_caught(machine):
    machine(2)
    with pytest.raises(AssertionError):
        check(lambda name: "cuda:0" if name == "cuda" else name)


@pytest.mark.parametrize("name", ["cuda:9", "cuda:2", "mps", "cuda:", "GPU", ""])
def test_what_is_there_is_told(machine, name):
    machine(2)
    with pytest.raises(ModelError) as caught:
        find_device(name)
    assert caught.value.needed == "a device among cpu, cuda:0 (NVIDIA H200), cuda:1 (NVIDIA L4)"
    assert caught.value.got == repr(name) and caught.value.do == "choose one of them"


@pytest.mark.parametrize("toolkit, do", [(None, "use cpu, or a PyTorch built for CUDA"), ("12.8", "use cpu")])
def test_without_a_gpu(machine, monkeypatch, toolkit, do):
    machine(0)
    monkeypatch.setattr(torch.version, "cuda", toolkit)
    with pytest.raises(ModelError) as caught:
        find_device("cuda")
    assert caught.value.needed == "a device among cpu" and caught.value.do == do
    assert gpus() == {} and find_device("cpu") == "cpu"
