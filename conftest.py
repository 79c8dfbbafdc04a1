"""What every test and doctest starts from: a seed, and torch by name in doctests."""

import os
from collections.abc import Iterator

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # several at once: each with its core, before torch asks how many there are
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed(doctest_namespace: dict[str, object]) -> Iterator[None]:
    doctest_namespace["torch"] = torch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
