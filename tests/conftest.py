"""What every test may use. One thread for torch: the machines are small and shared."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for every process that a test starts
os.environ["HF_HUB_OFFLINE"] = "1"
if "RAMIFY_TEST_GPU" not in os.environ:  # set it for the tests marked gpu
    os.environ["TRITON_INTERPRET"] = "1"  # Triton decides when it is imported, which torch may do

import resource
from contextlib import contextmanager

import pytest
from hypothesis import settings

# No test asserts a time, and the default deadline of hypothesis would.
settings.register_profile("ramify", deadline=None)
settings.load_profile("ramify")


@pytest.fixture
def disk_of():
    """`with disk_of(size):` no file can grow beyond so many bytes, as if the disk were full."""

    @contextmanager
    def limited(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
