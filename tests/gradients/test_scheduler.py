"""The threshold follows CAQ within its bounds."""

from __future__ import annotations

import math

import pytest
import torch

from fulgurite.gradients import CaqScheduler, GradientCodec, caq


def run(scheduler: CaqScheduler, steps: int, seconds: float = 0.0, scale: float = 1.0) -> list[float]:
    """CAQ over some steps on gradients whose shape drifts."""
    codec, found = GradientCodec(), []
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        tails = 1 + step / steps
        values = torch.randn(64, 128, generator=generator)
        gradient = scale * values * values.abs() ** tails
        payload = codec.encode([gradient], scheduler.step)
        found.append(caq(4 * gradient.numel() / payload.num_bytes, seconds))
        scheduler.update(found[-1], payload.error)
    return found


@pytest.mark.parametrize("target", [6.0, 20.0, 60.0])
def test_a_target_is_reached_and_held(target: float) -> None:
    found = run(CaqScheduler(target), 80)
    held = found[40:]
    assert sum(held) / len(held) == pytest.approx(target, rel=0.02)


def test_cpu_time_is_paid_for_with_coarser_codes() -> None:
    free, dear = CaqScheduler(10), CaqScheduler(10)
    run(free, 60)
    run(dear, 60, seconds=1.0)  # the same CAQ needs twice the ratio
    assert dear.step > 1.3 * free.step


def test_the_error_allowed_is_not_exceeded_whatever_is_asked() -> None:
    scheduler = CaqScheduler(1e6, most_error=0.9)
    run(scheduler, 120)
    codec = GradientCodec()
    values = torch.randn(64, 128, generator=torch.Generator().manual_seed(3))
    # 0.25 in the logarithm is the largest step beyond the bound, and is taken back at once
    assert codec.encode([values * values.abs() ** 2], scheduler.step / math.exp(0.25)).error < 0.95


def test_what_was_not_sent_changes_nothing() -> None:
    scheduler = CaqScheduler(10)
    before = scheduler.state_dict()
    scheduler.update(math.nan, 0.5)
    scheduler.update(0.0, 0.5)
    assert scheduler.state_dict() == before


def test_a_resumed_one_goes_on() -> None:
    one, other = CaqScheduler(10), CaqScheduler(10)
    run(one, 20)
    other.load_state_dict(one.state_dict())
    one.update(7.0, 0.1)
    other.update(7.0, 0.1)
    assert one == other


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": 0.0}, "target must be above 0, got 0.0"),
        ({"target": 8.0, "step": 100.0}, "expected 0 < least <= step <= most"),
        ({"target": 8.0, "most_error": 1.0}, r"most_error must be in \(0, 1\), got 1.0"),
        ({"target": 8.0, "gain": 0.0}, "gain must be in"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CaqScheduler(**settings)
