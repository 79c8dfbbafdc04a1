"""Clustered rows: exact where rows repeat, fair to rows that count, no worse for a metric."""

import pytest
import torch

from fulgurite.codecs import ClusterCodec, decode, nmse


def table(kinds: int, rows: int, columns: int = 24, noise: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(kinds, columns, generator=generator)
    chosen = torch.randint(kinds, (rows,), generator=generator)
    return centres[chosen] + noise * torch.randn(rows, columns, generator=generator)


def test_rows_that_repeat_are_kept_in_16_bits() -> None:
    weight = table(kinds=12, rows=500)
    encoded = ClusterCodec(clusters=64).encode(weight)
    assert nmse(weight, decode(encoded)) < 1e-6
    assert encoded.num_bytes == 64 * 24 * 2 + len(encoded.tensors["codes"])


def test_more_clusters_err_less_and_cost_more() -> None:
    weight = table(kinds=50, rows=600, noise=0.5)
    found = [ClusterCodec(clusters=count).encode(weight) for count in (8, 32, 128)]
    errors = [nmse(weight, decode(one)) for one in found]
    assert errors[0] > errors[1] > errors[2] > 0
    assert found[0].num_bytes < found[1].num_bytes < found[2].num_bytes


def test_rows_that_count_have_rows_of_their_own() -> None:
    weight = table(kinds=200, rows=200, noise=1.0)
    counts = torch.ones(200)
    counts[:10] = 1e4
    decoded = decode(ClusterCodec(clusters=20).encode(weight, row_weight=counts))
    assert nmse(weight[:10], decoded[:10]) < 1e-5
    assert nmse(weight[10:], decoded[10:]) > 0.3


def test_a_metric_is_what_rows_are_near_in() -> None:
    weight = table(kinds=40, rows=400, noise=1.0)
    costs = torch.ones(24)
    costs[:4] = 100.0
    plain, minded = (
        decode(ClusterCodec(clusters=32).encode(weight, hessian)) for hessian in (None, torch.diag(costs))
    )
    assert nmse(weight[:, :4], minded[:, :4]) < 0.7 * nmse(weight[:, :4], plain[:, :4])


def test_more_clusters_than_rows_keep_every_row() -> None:
    weight = table(kinds=5, rows=9, noise=1.0)
    encoded = ClusterCodec().encode(weight)
    assert encoded.meta["clusters"] == 9
    assert nmse(weight, decode(encoded)) < 1e-6


def test_retries_get_more_clusters() -> None:
    codec = ClusterCodec(clusters=4096)
    assert codec.relaxed(severe=False) == ClusterCodec(clusters=8192)
    assert codec.relaxed(severe=True) == ClusterCodec(clusters=16384)
    assert ClusterCodec(clusters=16384).relaxed(severe=False) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"clusters": 0}, "clusters must be in"), ({"iterations": 0}, "iterations must be at least 1")],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, int], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        ClusterCodec(**arguments)
