"""Rows of two kinds: many features with few causes, and few that have nothing in common."""

import pytest
import torch


@pytest.fixture
def rows() -> torch.Tensor:
    """Standardised, ``[700, 14]``: ten features of two causes, four of their own."""
    generator = torch.Generator().manual_seed(1)
    causes = torch.randn(700, 2, generator=generator)
    tied = causes @ torch.randn(2, 10, generator=generator) + 0.1 * torch.randn(700, 10, generator=generator)
    found = torch.cat([tied, torch.randn(700, 4, generator=generator)], dim=1)
    return (found - found.mean(0)) / found.std(0)


@pytest.fixture
def categories() -> dict[str, list[int]]:
    """Columns of the two."""
    return {"tied": list(range(10)), "free": list(range(10, 14))}
