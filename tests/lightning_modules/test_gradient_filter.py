"""The filter is a low-frequency boost, equal to the paper's algorithms step by step."""

import pytest
import torch

from lightning_modules import GradientFilter


def filtered(gradient_filter: GradientFilter, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    parameter = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    results = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        gradient_filter.apply_([("weight", parameter)])
        results.append(parameter.grad.clone())
    return results


def reference(
    gradients: list[torch.Tensor], kind: str, alpha: float, lamb: float, window: int, warmup: bool
) -> list[torch.Tensor]:
    """The paper's algorithms 1 and 2 with explicit sums over the whole history."""
    results = []
    for step in range(len(gradients)):
        history = gradients[: step + 1]
        if kind == "ema":
            slow = alpha**step * history[0]
            for age, gradient in enumerate(reversed(history[1:])):
                slow = slow + (1 - alpha) * alpha**age * gradient
        else:
            recent = history[-window:]
            full = len(recent) == window or not warmup
            slow = torch.stack(recent).mean(0) if full else torch.zeros_like(history[0])
        results.append(gradients[step] + lamb * slow)
    return results


@pytest.mark.parametrize("kind", ["ema", "ma"])
@pytest.mark.parametrize("warmup", [True, False])
def test_the_filter_equals_the_papers_algorithm(kind: str, warmup: bool) -> None:
    gradients = list(torch.randn(25, 3, 2, dtype=torch.float64))  # 25 steps: the ring of 7 wraps three times
    ours = filtered(GradientFilter(kind, alpha=0.9, lamb=1.5, window=7, warmup=warmup), gradients)
    theirs = reference(gradients, kind, 0.9, 1.5, 7, warmup)
    torch.testing.assert_close(ours, theirs)


def test_a_constant_gradient_comes_out_one_plus_lamb_times_as_large() -> None:
    gradients = [torch.full((4,), 0.5)] * 12
    for result in filtered(GradientFilter("ema", alpha=0.98, lamb=2.0), gradients):
        torch.testing.assert_close(result, torch.full((4,), 1.5))  # m_0 = g_0: from the first step on
    averaged = filtered(GradientFilter("ma", lamb=5.0, window=10), gradients)
    assert torch.equal(averaged[8], gradients[0])  # 9 of 10: still warming up
    assert torch.equal(averaged[9], torch.full((4,), 3.0))


def test_a_constant_gradient_is_reached_from_another_start() -> None:
    gradients = [torch.full((4,), -3.0)] + [torch.ones(4)] * 600
    last = filtered(GradientFilter("ema", alpha=0.98, lamb=2.0), gradients)[-1]
    torch.testing.assert_close(last, torch.full((4,), 3.0), atol=1e-3, rtol=0)  # 0.98^600 = 5e-6


def test_an_alternating_gradient_is_nearly_unchanged() -> None:
    gradients = [torch.full((4,), 1.0 if step % 2 else -1.0) for step in range(601)]
    result = filtered(GradientFilter("ema", alpha=0.98, lamb=2.0), gradients)[-1]
    # gain at the highest frequency: 1 + lamb (1 - alpha) / (1 + alpha) = 1.0202
    torch.testing.assert_close(result / gradients[-1], torch.full((4,), 1.0202), atol=1e-4, rtol=0)
    averaged = filtered(GradientFilter("ma", lamb=5.0, window=100), gradients)[-1]
    torch.testing.assert_close(averaged, gradients[-1])  # an even window cancels it exactly


@pytest.mark.parametrize("kind", ["ema", "ma"])
def test_a_restored_filter_goes_on_exactly(kind: str) -> None:
    gradients = list(torch.randn(20, 5))
    whole = filtered(GradientFilter(kind, window=6), gradients)
    first = GradientFilter(kind, window=6)
    filtered(first, gradients[:9])
    second = GradientFilter(kind, window=6)
    second.load_state_dict(first.state_dict())
    rest = filtered(second, gradients[9:])
    assert all(torch.equal(one, other) for one, other in zip(rest, whole[9:], strict=True))


def test_a_parameter_without_a_gradient_is_passed_over() -> None:
    gradient_filter = GradientFilter()
    parameter = torch.nn.Parameter(torch.zeros(2))
    gradient_filter.apply_([("weight", parameter)])
    assert parameter.grad is None
    assert gradient_filter.state_dict()["slow"] == {}


def test_a_state_of_another_filter_is_refused() -> None:
    moving = GradientFilter("ma", window=4)
    filtered(moving, [torch.ones(2)])
    with pytest.raises(ValueError, match="the checkpoint's filter is 'ma', now 'ema'"):
        GradientFilter("ema").load_state_dict(moving.state_dict())
    with pytest.raises(ValueError, match="the checkpoint's window is 4 for weight, now 5"):
        GradientFilter("ma", window=5).load_state_dict(moving.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filter": "fir"}, "filter must be one of ema, ma, got 'fir'"),
        ({"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ({"lamb": -1.0}, "lamb must be at least 0 and finite, got -1.0"),
        ({"window": 0}, "window must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientFilter(**settings)  # type: ignore[arg-type]
