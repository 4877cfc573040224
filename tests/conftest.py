"""One thread for torch, here and in every process that a test starts: the machines are small and shared."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
