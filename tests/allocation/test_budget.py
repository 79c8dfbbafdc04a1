"""Amounts of bytes as people write them, and targets."""

import pytest

from fulgurite.allocation import Target, parse_bytes


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("0.4MB", 400_000),
        ("400kB", 400_000),
        ("380 KiB", 389_120),  # 380 * 1024
        ("1.5 MiB", 1_572_864),
        (" 2gb ", 2_000_000_000),
        ("0.29kB", 290),  # 0.29 * 1000 is 289.99999999999994 in floating point
        ("1e6", 1_000_000),
        ("17", 17),
        (123_456, 123_456),
    ],
)
def test_amounts_of_bytes(amount: str | int, expected: int) -> None:
    assert parse_bytes(amount) == expected


@pytest.mark.parametrize("amount", ["", "MB", "0.4 megabytes", "-3kB", "4Mb/s", "nan", "0.4,MB", True])
def test_what_is_no_amount_is_named(amount: str) -> None:
    with pytest.raises(ValueError, match=r"stages\.two\.budget must be bytes, .* got") as caught:
        parse_bytes(amount, "stages.two.budget")
    assert repr(amount) in str(caught.value)


@pytest.mark.parametrize("amount", ["0", "0.2B", "1e400", 0])
def test_less_than_a_byte_or_more_than_any_is_refused(amount: str | int) -> None:
    with pytest.raises(ValueError, match="budget must be at least 1 byte, and finite"):
        parse_bytes(amount)


def test_exactly_one_target() -> None:
    with pytest.raises(ValueError, match="exactly one of .* got none"):
        Target()
    with pytest.raises(ValueError, match="exactly one of .* got num_bytes, max_loss"):
        Target(num_bytes=10, max_loss=0.1)
    for bad in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="bits_per_weight must be above 0"):
            Target(bits_per_weight=bad)
