"""Gates that learn what to keep."""

import pytest
import torch

from fulgurite.vqvae.gates import Price, TokenGates
from fulgurite.vqvae.hierarchy import Hierarchy
from fulgurite.vqvae.quantiser import QuantiserSettings


def _gates(logits: list[float]) -> TokenGates:
    gates = TokenGates(len(logits))
    with torch.no_grad():
        gates.slow_logits.mul_(torch.tensor(logits) / gates.logits)
    return gates


def test_gates_are_0_or_1_and_have_the_gradient_of_the_sigmoid() -> None:
    gates = _gates([1.0, -1.0, 0.5])
    found = gates()
    assert found.tolist() == pytest.approx([1, 0, 1])
    logits = gates.logits.detach().requires_grad_()
    logits.sigmoid().sum().backward()
    found.sum().backward()
    speed = gates.logits.detach() / gates.slow_logits.detach()
    torch.testing.assert_close(gates.slow_logits.grad, logits.grad * speed)
    assert gates.open_places().tolist() == [0, 2]


def test_drawn_gates_are_open_as_often_as_the_sigmoid_says() -> None:
    gates = _gates([0.0, 2.0])
    torch.manual_seed(0)
    shares = gates.drawn(4000).mean(0)
    # three deviations of 4000 draws are below 0.024
    torch.testing.assert_close(shares.detach(), torch.tensor([0.5, 0.881]), atol=0.024, rtol=0)


def test_a_drawn_gate_learns_what_its_token_is_worth_to_a_decoder_at_its_best() -> None:
    gates = TokenGates(2)
    torch.manual_seed(0)
    worth = torch.tensor([1.0, 0.1])  # of what the tokens say: error where they are missing
    ((1 - gates.drawn(4000)) * worth).square().mean(0).sum().backward()
    first, second = gates.slow_logits.grad.tolist()
    assert first < 10 * second < 0  # missing the second costs a hundredth
    gates.slow_logits.grad = None
    ((1 - gates()) * worth).square().sum().backward()
    assert gates.slow_logits.grad.abs().max() == 0  # without chance nothing is learned


def test_settled_gates_are_not_drawn_and_learn_no_more() -> None:
    gates = TokenGates(4)
    gates.settle([1, 3])
    assert gates.open_places().tolist() == [1, 3]
    drawn = gates.drawn(5)
    assert drawn.tolist() == [[0, 1, 0, 1]] * 5
    drawn.sum().backward()
    assert gates.slow_logits.grad.abs().max() == 0


def test_closed_tokens_have_no_code_and_decoding_needs_none(
    rows: torch.Tensor, categories: dict[str, list[int]]
) -> None:
    settings = QuantiserSettings(codes=16)
    found = Hierarchy.start(
        rows, categories, {"tied": [2, 1, 1], "free": [2, 0, 0]}, settings, gated=True
    ).eval()
    before = found.numbers_to_decode()
    found.networks[0].coders()[0].gates.settle([0])  # type: ignore[operator]
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
