"""Gates that learn what to keep."""

import pytest
import torch

from fulgurite.vqvae.gates import Price, TokenGates
from fulgurite.vqvae.hierarchy import Hierarchy
from fulgurite.vqvae.quantiser import QuantiserSettings


def test_gates_are_0_or_1_and_have_the_gradient_of_the_sigmoid() -> None:
    gates = TokenGates(3)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([1.0, -1.0, 0.5]))
    found = gates()
    assert found.tolist() == pytest.approx([1, 0, 1])
    found.sum().backward()
    slope = torch.sigmoid(gates.logits) * (1 - torch.sigmoid(gates.logits))
    torch.testing.assert_close(gates.logits.grad, slope.detach())
    assert gates.open_places().tolist() == [0, 2]


def test_keeping_closes_the_least_sure() -> None:
    gates = TokenGates(4)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([0.1, 3.0, -1.0, 2.0]))
    gates.keep(2)
    assert gates.open_places().tolist() == [1, 3]


def test_closed_tokens_have_no_code_and_decoding_needs_none(
    rows: torch.Tensor, categories: dict[str, list[int]]
) -> None:
    settings = QuantiserSettings(codes=16)
    found = Hierarchy.start(
        rows, categories, {"tied": [2, 1, 1], "free": [2, 0, 0]}, settings, gated=True
    ).eval()
    before = found.numbers_to_decode()
    found.networks[0].coders()[0].gates.keep(1)  # type: ignore[operator]
    codes = found.encode(rows)
    assert codes["tied"].shape[1] == 3
    assert found.bits_per_row() == 4 * 5
    assert found.numbers_to_decode() < before
    coded = found(rows)
    torch.testing.assert_close(found.decode(codes)[:, :10], coded["tied"].levels[-1])


def test_the_price_rises_above_the_budget_and_falls_below() -> None:
    price = Price(100)
    first = price.value
    assert price.update(150) > first
    high = price.value
    assert price.update(50) < high
    with pytest.raises(ValueError, match="budget must be above 0"):
        Price(0)
