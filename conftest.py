"""What every test and doctest starts from: a seed, and torch by name in doctests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed(doctest_namespace: dict[str, object]) -> Iterator[None]:
    doctest_namespace["torch"] = torch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
