"""Pruning against brute force: the papers' rules on small matrices, exact optima, masks and their sizes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fulgurite.codecs import SparseCodec, decode, nmse
from fulgurite.codecs._hessian import weighted_error
from fulgurite.codecs._sparse_feedback import choose_in_turn, solve_survivors
from fulgurite.codecs._sparse_grid import codes_of, fit_grid, units_of
from fulgurite.codecs._sparse_mask import read_mask, write_mask
from fulgurite.codecs.pattern import Pattern

SCORES = ("magnitude", "wanda", "sparsegpt")


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment(width: int) -> Tensor:
    """Second moment of inputs of different sizes with 12 common factors."""
    loadings = gaussian(12, width, seed=1)
    size = torch.linspace(0.5, 2, width)
    return (loadings.T @ loadings / 12 + 0.3 * torch.eye(width)) * torch.outer(size, size)


def entropy(share: float) -> float:
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)


def test_magnitude_drops_the_smallest_of_all() -> None:
    weight = gaussian(6, 10)
    decoded = decode(SparseCodec(sparsity=0.7).encode(weight))
    smallest = sorted(weight.abs().flatten().tolist())[:42]  # 0.7 * 60
    assert sorted(weight[decoded == 0].abs().tolist()) == smallest


def test_wanda_is_the_papers_rule() -> None:
    inputs = gaussian(50, 10, seed=2) * torch.linspace(0.1, 3, 10)
    weight = gaussian(6, 10)
    decoded = decode(SparseCodec(0.5, score="wanda").encode(weight, inputs.T @ inputs / 50))
    for row, kept in zip(weight, decoded != 0, strict=True):
        # |W_ij| * |X_j|, compared within an output, the smaller half of its 10 removed
        scores = [abs(float(row[j])) * float(inputs[:, j].norm()) for j in range(10)]
        gone = sorted(range(10), key=scores.__getitem__)[:5]
        assert sorted((~kept).nonzero().flatten().tolist()) == sorted(gone)


def test_sparsegpt_removes_one_weight_as_the_optimal_brain_surgeon_does() -> None:
    weight, hessian = gaussian(1, 24), moment(24)
    codec = SparseCodec(1 / 24, score="sparsegpt", damping=0.0)
    inverse = torch.linalg.inv(hessian.double())
    row = weight[0].double()
    best = int((row.square() / inverse.diagonal()).argmin())
    expected = row - row[best] / inverse[best, best] * inverse[:, best]
    expected[best] = 0
    found = decode(codec.encode(weight, hessian))[0].double()
    assert int((found == 0).sum()) == 1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)  # stored in 16 bits


def test_survivors_are_the_least_squares_solution() -> None:
    weight, hessian = gaussian(5, 40), moment(40)
    kept = gaussian(5, 40, seed=3) > 0
    found = solve_survivors(weight, hessian, kept, damping=0.0)
    assert torch.equal(found != 0, kept)
    for row, values, mask in zip(weight.double(), found.double(), kept, strict=True):
        second = hessian.double()
        exact = torch.linalg.solve(second[mask][:, mask], second[mask] @ row)
        torch.testing.assert_close(values[mask], exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8", "4x4"])
@pytest.mark.parametrize("bits", [16, 3])
def test_what_knows_more_of_the_inputs_loses_less(pattern: str, bits: int) -> None:
    order = gaussian(160, seed=7).argsort()  # neighbours in a group of 2:4 would have inputs of one size
    weight, hessian = (
        gaussian(64, 160),
        moment(160)[order][:, order],
    )  # 160: more than one block of 128 columns
    codecs = [SparseCodec(pattern=pattern, score=score, bits=bits) for score in SCORES]
    decoded = [decode(codec.encode(weight, hessian)) for codec in codecs]
    zeros = [float((one == 0).float().mean()) for one in decoded]
    assert zeros == pytest.approx([0.5] * 3, abs=1e-3)
    magnitude, wanda, sparsegpt = (weighted_error(weight - one, hessian) for one in decoded)
    assert wanda < magnitude
    assert sparsegpt < 0.5 * magnitude  # inputs share 12 factors: the survivors can make up for most


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (3, 5)])
def test_n_of_m_is_exact_in_every_group(score: str, n: int, m: int) -> None:
    weight, hessian = gaussian(12, 160), moment(160)
    codec = SparseCodec(pattern=f"{n}:{m}", score=score)  # type: ignore[arg-type]
    decoded = decode(codec.encode(weight, hessian))
    assert ((decoded != 0).reshape(-1, m).sum(1) == n).all()


def test_n_of_m_by_magnitude_keeps_the_best_of_all_ways() -> None:
    weight = gaussian(3, 8)
    decoded = decode(SparseCodec(pattern="2:4").encode(weight))
    for known, found in zip(weight.reshape(-1, 4).tolist(), decoded.reshape(-1, 4).tolist(), strict=True):
        best = max(itertools.combinations(range(4), 2), key=lambda two: sum(abs(known[j]) for j in two))
        assert tuple(j for j in range(4) if found[j]) == best


@pytest.mark.parametrize("score", SCORES)
def test_blocks_go_whole_and_those_at_an_edge_are_cut(score: str) -> None:
    weight, hessian = (
        gaussian(10, 30),
        moment(30),
    )  # 3 x 8 blocks, the last row of them 2 high, the last column 2 wide
    decoded = decode(SparseCodec(0.5, "4x4", score).encode(weight, hessian))  # type: ignore[arg-type]
    for top, left in itertools.product(range(0, 10, 4), range(0, 30, 4)):
        zeros = decoded[top : top + 4, left : left + 4] == 0
        assert zeros.all() or not zeros.any()
    # at most the share asked for, and the next block would have been beyond it: 16 of 300 weights
    assert 0.5 - 16 / 300 * 3 < float((decoded == 0).float().mean()) <= 0.5


def test_blocks_by_magnitude_are_those_of_the_least_mean() -> None:
    weight = gaussian(8, 8)
    decoded = decode(SparseCodec(0.5, "4x4").encode(weight))
    means = {(i, j): float(weight[i : i + 4, j : j + 4].abs().mean()) for i in (0, 4) for j in (0, 4)}
    gone = {place for place in means if not decoded[place[0], place[1]]}
    assert gone == set(sorted(means, key=means.__getitem__)[:2])


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3, 0.57, 0.95])
@pytest.mark.parametrize("score", ["magnitude", "sparsegpt"])
def test_the_share_of_zeros_is_the_one_asked_for(sparsity: float, score: str) -> None:
    weight = gaussian(20, 150)
    decoded = decode(SparseCodec(sparsity, score=score).encode(weight, moment(150)))  # type: ignore[arg-type]
    assert int((decoded == 0).sum()) == math.floor(3000 * sparsity + 1e-6)


def test_without_a_hessian_every_score_is_magnitude() -> None:
    weight = gaussian(24, 40)
    decoded = [decode(SparseCodec(score=score).encode(weight)) for score in SCORES]
    assert torch.equal(decoded[0], decoded[1])
    assert torch.equal(decoded[0], decoded[2])


def test_rows_that_cost_more_keep_more() -> None:
    weight, hessian = gaussian(20, 64), moment(64)
    costs = torch.ones(20)
    costs[10:] = 9.0
    kept = choose_in_turn(weight, hessian, costs, Pattern(), 0.5, 0.01)
    assert kept[10:].float().mean() > kept[:10].float().mean() + 0.2
    assert float(kept.float().mean()) == 0.5


def test_zeros_that_are_there_already_are_not_stored_again() -> None:
    weight = gaussian(32, 64)
    pruned = decode(SparseCodec(0.8).encode(weight))
    encoded = SparseCodec(0.5).encode(pruned)
    assert encoded.tensors["values"].numel() == 2048 - math.floor(0.8 * 2048)
    assert nmse(pruned, decode(encoded)) < 1e-6


def test_an_empty_weight_keeps_one_place() -> None:
    for codec in (SparseCodec(), SparseCodec(bits=4), SparseCodec(pattern="4x4")):
        assert not decode(codec.encode(torch.zeros(8, 12))).any()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_a_mask_takes_the_entropy_of_its_bitmap(share: float) -> None:
    kept = torch.rand(512, 512, generator=torch.Generator().manual_seed(4)) < share
    found = 8 * write_mask(kept, Pattern()).numel() / kept.numel()
    assert found <= 1.02 * entropy(float(kept.float().mean()))


def test_a_mask_whose_columns_differ_takes_less() -> None:
    odds = torch.rand(1, 512, generator=torch.Generator().manual_seed(5)).expand(512, 512)
    kept = torch.rand(512, 512, generator=torch.Generator().manual_seed(6)) < odds
    found = 8 * write_mask(kept, Pattern()).numel() / kept.numel()
    # the mean of H(p) over even p is 1 / (2 ln 2) = 0.72 bits, where the whole bitmap has 1
    assert found < 1.03 / (2 * math.log(2))
    assert torch.equal(read_mask(write_mask(kept, Pattern()), Pattern(), 512, 512), kept)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4)])
def test_a_mask_of_n_of_m_takes_the_logarithm_of_its_ways(n: int, m: int) -> None:
    pattern = Pattern(f"{n}:{m}")
    kept = ~pattern.drop(gaussian(512, 512))
    found = 8 * write_mask(kept, pattern).numel() / (512 * 512 / m)
    assert found <= 1.02 * math.log2(math.comb(m, n))


@pytest.mark.parametrize("text", ["unstructured", "2:4", "1:16", "3x5", "8x1"])
@pytest.mark.parametrize("shape", [(1, 16), (3, 48), (50, 64), (1, 1), (7, 13)], ids=str)
def test_masks_round_trip(text: str, shape: tuple[int, int]) -> None:
    pattern = Pattern(text)
    if pattern.keep and shape[1] % pattern.columns:
        return
    kept = ~pattern.drop(gaussian(*shape).abs(), 0.4)
    assert torch.equal(read_mask(write_mask(kept, pattern), pattern, *shape), kept)


@pytest.mark.parametrize("stream", [[], [0], [2, 0, 0], [0, 1, 7], [1, 255, 255, 255, 255, 0]], ids=str)
def test_a_mask_that_cannot_be_is_refused(stream: list[int]) -> None:
    with pytest.raises(ValueError, match=r"mask|stream"):
        read_mask(torch.tensor(stream, dtype=torch.uint8), Pattern(), 40, 40)


def test_patterns_beyond_the_last_are_refused() -> None:
    packed = torch.tensor([0, 0b111], dtype=torch.uint8)  # mode 0, one code of 3 bits: 7, of 6 ways
    with pytest.raises(ValueError, match="below 6, got 7"):
        read_mask(packed, Pattern("2:4"), 1, 4)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_survivors_are_the_nearest(bits: int) -> None:
    values = gaussian(6, 50)
    kept = values.abs() > 0.6
    scale, floor = fit_grid(values, kept, bits, None)
    codes = codes_of(values, scale, floor, bits)
    assert int(codes.max()) < 2**bits
    all_codes = torch.arange(2**bits, dtype=torch.uint8)
    for row in range(6):
        levels = units_of(all_codes, floor[row].expand(len(all_codes)), bits) * scale[row].float()
        wanted = values[row][kept[row]]
        nearest = (wanted[:, None] - levels).abs().amin(1)
        found = (wanted - levels[codes[row][kept[row]].long()]).abs()
        torch.testing.assert_close(found, nearest, rtol=1e-4, atol=1e-5)


def test_few_bits_of_survivors_have_no_levels_in_the_gap() -> None:
    weight = gaussian(64, 256)
    encoded = SparseCodec(0.7, bits=3).encode(weight)
    decoded = decode(encoded)
    gap = float(weight.abs().flatten().sort().values[int(0.7 * weight.numel())])
    smallest = decoded[decoded != 0].abs().min()
    assert smallest > 0.9 * gap
    # mask, 3 bits for each survivor at most, 16 + 8 bits a row
    assert encoded.bits_per_weight < 1.02 * entropy(0.3) + 3 * 0.3 + 24 / 256 + 0.01


def test_rounding_within_the_feedback_loses_less_than_rounding_after_it() -> None:
    weight, hessian = gaussian(32, 160), moment(160)
    exact = SparseCodec(0.5, score="sparsegpt")
    pruned = decode(exact.encode(weight, hessian))
    after = SparseCodec(0.5, bits=3).encode(pruned)  # the mask is that of the zeros
    within = replace(exact, bits=3).encode(weight, hessian)
    assert within.tensors["mask"].equal(after.tensors["mask"])
    errors = [weighted_error(weight - decode(encoded), hessian) for encoded in (within, after)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"sparsity": -0.1}, r"sparsity must be in \[0, 1\), got -0.1"),
        ({"sparsity": math.nan}, r"sparsity must be in \[0, 1\), got nan"),
        ({"pattern": "2-4"}, "pattern must be unstructured, N:M .* got '2-4'"),
        ({"pattern": 124}, "pattern must be unstructured, N:M .* got 124"),  # what YAML reads of 2:4
        ({"pattern": "4:4"}, "1 <= N < M <= 16, got '4:4'"),
        ({"pattern": "0:4"}, "1 <= N < M <= 16"),
        ({"pattern": "2:32"}, "1 <= N < M <= 16"),
        ({"pattern": "0x4"}, r"sides must be in \[1, 1024\], got '0x4'"),
        ({"pattern": "2:4", "sparsity": 0.6}, 'pattern "2:4" has sparsity 0.5, got 0.6'),
        ({"score": "random"}, "score must be magnitude, wanda or sparsegpt, got 'random'"),
        ({"bits": 12}, r"bits must be 16 or in \[1, 8\], got 12"),
        ({"damping": -1.0}, "damping must not be negative"),
    ],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseCodec(**settings)  # type: ignore[arg-type]


def test_n_of_m_that_does_not_divide_the_row_is_refused() -> None:
    with pytest.raises(ValueError, match='"2:4" needs rows of a multiple of 4 weights, got rows of 43'):
        SparseCodec(pattern="2:4").encode(gaussian(8, 43))


def test_ladders_of_n_of_m_count_what_is_kept() -> None:
    codec = SparseCodec(pattern="2:4", bits=4)
    assert [vars(candidate)["pattern"] for candidate in codec.candidates()] == ["1:4", "2:4", "3:4"]
    milder = codec.relaxed(severe=False)
    assert milder is not None
    assert (milder.pattern, milder.share, milder.bits) == ("3:4", 0.25, 4)
    assert milder.relaxed(severe=True) is None


def test_relaxing_lowers_the_sparsity_to_none() -> None:
    codec: SparseCodec | None = SparseCodec(0.5, score="wanda")
    shares = []
    while codec is not None:
        shares.append(codec.share)
        codec = codec.relaxed(severe=True)
    assert shares == [0.5, 0.35, 0.2, 0.05, 0.0]


@pytest.mark.parametrize("bits", [16, 4, 2])
def test_candidates_of_few_bits_stop_where_a_mask_takes_more_than_it_saves(bits: int) -> None:
    weight = gaussian(128, 256)
    sizes = [codec.encode(weight).num_bytes for codec in SparseCodec(bits=bits).candidates()]
    assert sizes == sorted(sizes)
    assert len(sizes) >= 7
