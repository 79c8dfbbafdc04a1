"""Weighted k-means: near the published figures, and the same bits whatever the order of the work."""

from __future__ import annotations

import pytest
import torch

from fulgurite.codecs._kmeans import fit_codebook, nearest, segment_sums


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("length", "size", "published"),
    [
        (1, 4, 0.1175),  # Max, "Quantizing for minimum distortion", 1960, table I
        (1, 16, 0.009497),  # the same table
        (2, 16, 0.1074),  # 9.69 dB: Fischer and Dicharry, IEEE Trans. Commun. 1984
    ],
)
def test_distortion_on_a_gaussian_is_near_the_best_known(length: int, size: int, published: float) -> None:
    vectors = gaussian(50_000, length)
    codebook = fit_codebook(vectors, None, size, iterations=60, seed=0)
    distortion = float((vectors - codebook[nearest(vectors, None, codebook)]).square().mean())
    # the sample is finite and k-means stops at a local optimum
    assert 0.97 * published < distortion < 1.06 * published


def test_the_nearest_codeword_does_not_depend_on_the_chunk() -> None:
    vectors, weights, codebook = gaussian(999, 4), gaussian(999, 4).square(), gaussian(37, 4)
    whole = nearest(vectors, weights, codebook)
    # 1: one vector at a time; 370: ten, and a rest of nine
    assert torch.equal(nearest(vectors, weights, codebook, cells=1), whole)
    assert torch.equal(nearest(vectors, weights, codebook, cells=370), whole)
    difference = vectors.double()[:, None] - codebook.double()
    exact = (difference.square() * weights.double()[:, None]).sum(2)
    assert torch.equal(exact.argmin(1), whole)


def test_sums_do_not_depend_on_the_order() -> None:
    values = gaussian(5000, 3) * torch.logspace(-6, 6, 5000)[:, None]
    codes = torch.randint(7, (5000,), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(1))
    sums = segment_sums(values, codes, 7)
    assert torch.equal(segment_sums(values[order], codes[order], 7), sums)
    for code in range(7):
        torch.testing.assert_close(sums[code], values[codes == code].double().sum(0), rtol=1e-9, atol=1e-6)


def test_weights_pull_codewords_and_components_without_weight_have_no_say() -> None:
    vectors = torch.tensor([[0.0, 9.0], [1.0, -9.0], [10.0, 0.0]])
    weights = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 0.0]])
    codebook = fit_codebook(vectors, weights, 2, iterations=10, seed=0)
    assert sorted(codebook[:, 0].tolist()) == [0.75, 10.0]  # (0 * 1 + 1 * 3) / 4


def test_there_are_no_more_codewords_than_vectors_and_equal_vectors_are_no_problem() -> None:
    assert fit_codebook(gaussian(5, 3), None, 64, iterations=3, seed=0).shape == (5, 3)
    same = fit_codebook(torch.full((50, 2), 0.5), None, 8, iterations=3, seed=0)
    assert torch.equal(same, torch.full((8, 2), 0.5))


def test_codewords_that_lose_their_vectors_move_to_the_worst_coded_ones() -> None:
    # five places for eight codewords, one of them so light that seeding is sure to miss it at first
    places = torch.tensor([[-4.0], [-2.0], [0.0], [2.0], [1e3]])
    vectors = places.repeat(20, 1)
    weights = torch.tensor([[1.0], [1.0], [1.0], [1.0], [1e-9]]).repeat(20, 1)
    codebook = fit_codebook(vectors, weights, 5, iterations=20, seed=0)
    assert sorted(codebook.flatten().tolist()) == places.flatten().tolist()


def test_the_seed_decides() -> None:
    vectors = gaussian(4000, 4)
    first, again, other = (fit_codebook(vectors, None, 16, iterations=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
