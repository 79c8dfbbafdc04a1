"""SeedLM: the register, the exactness of the search, the rate and the error."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fulgurite.codecs import Encoded, SeedLMCodec, decode, nmse
from fulgurite.codecs._hessian import weighted_error
from fulgurite.codecs._lfsr import TAPS, denominator, next_state, seed_matrix
from fulgurite.codecs._seed_fit import fit
from fulgurite.codecs._seed_search import search
from fulgurite.codecs._seed_tables import Layout, tile_from
from fulgurite.coding import pack_bits, unpack_bits

SMALL = SeedLMCodec(seed_bits=8)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def register(state: int, bits: int) -> int:
    """One step of the shift register, written with the list of its bits, the lowest first."""
    cells = [(state >> k) & 1 for k in range(bits)]
    entering = sum(cells[tap - 1] for tap in TAPS[bits]) % 2
    return sum(cell << k for k, cell in enumerate([entering, *cells[:-1]]))


def matrix_of(seed: int, rows: int, columns: int, bits: int) -> NDArray[np.float64]:
    states = list(
        itertools.accumulate(range(rows * columns - 1), lambda v, _: register(v, bits), initial=seed)
    )
    half = 2 ** (bits - 1)
    return np.array([(v - half) / (half - 1) for v in states]).reshape(rows, columns)


def slow_best(block: NDArray[np.float64], codec: SeedLMCodec) -> tuple[float, int, int, list[int]]:
    """The paper's loop over all seeds: error, seed, exponent and latents of the best."""
    half = 2 ** (codec.latent_bits - 1)
    best = (math.inf, 0, 0, [0])
    for seed in range(1, 2**codec.seed_bits):
        matrix = matrix_of(seed, codec.block_size, codec.latent_size, codec.seed_bits)
        latents = np.linalg.pinv(matrix) @ block
        exponent = math.ceil(math.log2(np.abs(latents).max() / (half - 0.5)))
        levels = np.clip(np.round(latents / 2.0**exponent), -half, half - 1)
        error = float(np.square(block - matrix @ levels * 2.0**exponent).sum())
        if error < best[0]:
            best = (error, seed, exponent, levels.astype(int).tolist())
    return best


@pytest.mark.parametrize("bits", TAPS)
def test_the_register_visits_every_state_that_is_not_zero(bits: int) -> None:
    # a permutation whose first return to 1 takes 2^K - 1 steps is one cycle through all of them
    everything = torch.arange(1, 1 << bits)
    after = [0, *next_state(everything, bits).tolist()]
    state, steps = after[1], 1
    while state != 1:
        state, steps = after[state], steps + 1
    assert steps == 2**bits - 1


def test_a_seed_fills_its_matrix_row_by_row_from_the_seed_itself() -> None:
    seeds = [1, 0xACE1, 65535]
    numerators = seed_matrix(torch.tensor(seeds), rows=8, columns=3, seed_bits=16)
    for index, seed in enumerate(seeds):
        expected = matrix_of(seed, 8, 3, 16)
        np.testing.assert_array_equal(numerators[..., index].numpy() / denominator(16), expected)
        assert expected[0, 0] == (seed - 32768) / 32767


@pytest.mark.parametrize(
    "codec",
    [
        SMALL,
        SeedLMCodec(12, 4, seed_bits=8),
        SeedLMCodec(4, 2, seed_bits=9, latent_bits=3),
    ],
    ids=["8-3", "12-4", "4-2-3bit"],
)
def test_the_search_finds_what_a_loop_over_all_seeds_finds(codec: SeedLMCodec) -> None:
    blocks = gaussian(24, codec.block_size)
    found = search(blocks, codec._layout, polish=False)
    for index, block in enumerate(blocks.double().numpy()):
        error, seed, exponent, levels = slow_best(block, codec)
        assert float(found.error[index]) == pytest.approx(error, rel=1e-9, abs=1e-20)
        assert int(found.seed[index]) == seed
        assert int(found.exponent[index]) - codec._layout.bias == exponent
        assert found.levels[index].tolist() == levels


@pytest.mark.parametrize("polish", [False, True])
@pytest.mark.parametrize("latent_bits", [1, 2, 4])
def test_no_seed_is_left_out_that_is_better(latent_bits: int, polish: bool) -> None:
    layout = Layout(block_size=8, latent_size=3, seed_bits=10, latent_bits=latent_bits)
    # rows of all sizes: far below the smallest step, at the largest, and zero
    blocks = gaussian(40, 8) * torch.logspace(-5, 2, 40)[:, None]
    blocks[7] = 0
    found = search(blocks, layout, polish)
    tile = tile_from(layout, 1, "cpu")
    count = len(tile.inverse)
    assert count == 2**10 - 1  # all seeds are in one tile, so this is the whole loop
    for index, block in enumerate(blocks.double()):
        errors, exponents, levels = fit(block.expand(count, 8), tile.inverse, tile.matrix, layout, polish)
        winner = int((errors == errors.min()).nonzero()[0])  # the lowest seed of those that tie
        if index == 7:
            winner = 0  # a block of zeros takes seed 1: latents of one bit have no zero, so seeds differ
        assert int(found.seed[index]) == winner + 1
        assert found.error[index] == errors[winner]
        assert found.exponent[index] == exponents[winner]
        assert torch.equal(found.levels[index].double(), levels[winner])


@pytest.mark.parametrize("polish", [False, True])
def test_under_a_metric_no_seed_is_left_out_that_is_better(polish: bool) -> None:
    layout = Layout(block_size=8, latent_size=3, seed_bits=12, latent_bits=4)
    # a triangle with singular values from 0.002 to 4.5, in a unit of its own: that of the hessian is anyone's
    root = 1e-9 * (gaussian(8, 8, seed=1).double().tril() + torch.eye(8))
    blocks = gaussian(40, 8)
    found = search(blocks, layout, polish, root)
    seeds = torch.arange(1, 2**12)
    matrix = root @ seed_matrix(seeds, 8, 3, 12).permute(2, 0, 1)  # [seeds, C, P]
    inverse = torch.linalg.pinv(matrix, rtol=1e-12)
    for index, block in enumerate(blocks.double()):
        wanted = (root @ block).expand(len(seeds), 8)
        errors, _, _ = fit(wanted, inverse, matrix.mT.contiguous(), layout, polish)
        # another inverse may round a latent that lies between two levels the other way
        assert float(found.error[index]) == pytest.approx(float(errors.min()), rel=1e-6)


def test_the_error_that_the_search_reports_is_that_of_what_is_decoded() -> None:
    weight, place = gaussian(12, 40), torch.arange(40)
    hessian = 0.9 ** (place[:, None] - place).abs().float()
    unit = weight / SMALL._scale(weight).float()[:, None]
    found = SMALL._search_in_turn(unit, hessian)
    decoded = decode(SMALL.encode(weight, hessian)) / SMALL._scale(weight).float()[:, None]
    # no column is left to make up for the last block, so that the costs of all blocks are the whole error
    total = weighted_error(unit - decoded, hessian + 0.01 * torch.eye(40))
    assert float(found.error.sum()) == pytest.approx(total, rel=1e-4)


def test_candidates_are_the_layouts_of_the_paper() -> None:
    three, four = SeedLMCodec(polish=True).candidates()
    assert three == SeedLMCodec(12, 4, polish=True)
    assert four == SeedLMCodec(8, 3, polish=True)


def test_polishing_never_loses_and_gains_several_percent() -> None:
    blocks, layout = gaussian(512, 8), dataclasses.replace(SMALL._layout, seed_bits=10)
    plain, polished = search(blocks, layout, polish=False).error, search(blocks, layout, polish=True).error
    assert (polished <= plain).all()
    assert polished.sum() < 0.98 * plain.sum()  # 6 % with 16 bits of seed, less where seeds are few


def test_seeds_of_a_short_register_repeat_and_are_handled() -> None:
    # 3 states for 24 entries: the columns of U are equal, so that no least-squares latents are unique
    weight = gaussian(4, 40)
    decoded = decode(SeedLMCodec(seed_bits=2).encode(weight))
    assert torch.isfinite(decoded).all()
    assert nmse(weight, decoded) < 1  # no worse than storing nothing


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_and_their_share_do_not_change_a_byte(threads: int) -> None:
    weight, before = gaussian(90, 512), torch.get_num_threads()  # 5760 blocks
    try:
        torch.set_num_threads(1)
        alone = SMALL.encode(weight)
        torch.set_num_threads(threads)
        together = SMALL.encode(weight)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name, part in alone.tensors.items():
        assert torch.equal(part, together.tensors[name]), name


def test_a_lower_matmul_precision_changes_nothing_and_is_restored() -> None:
    weight, before = gaussian(16, 64), torch.get_float32_matmul_precision()
    plain = SMALL.encode(weight)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            low = SMALL.encode(weight)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(torch.equal(part, low.tensors[name]) for name, part in plain.tensors.items())


@pytest.mark.parametrize(("codec", "published"), [(SeedLMCodec(), 0.123), (SeedLMCodec(12, 4), 0.2256)])
def test_the_error_on_gaussian_weights_is_the_published_one(codec: SeedLMCodec, published: float) -> None:
    # the error of a block varies by about half of its mean, so that of 384 of them by 3 %;
    # the wrong exponent rule gives .191 for the first layout
    weight = gaussian(16, 24 * codec.block_size)
    assert nmse(weight, decode(codec.encode(weight))) == pytest.approx(published**2, rel=0.1)


@pytest.mark.parametrize(("block_size", "latent_size", "bits"), [(8, 3, 4.0), (12, 4, 3.0)])
def test_the_layouts_of_the_paper_take_their_bits(block_size: int, latent_size: int, bits: float) -> None:
    weight = gaussian(1, 96)  # a multiple of both block sizes and of whole bytes
    encoded = SeedLMCodec(block_size, latent_size).encode(weight)
    assert encoded.bits_per_weight == bits + 16 / 96


def test_every_part_is_counted_and_only_the_last_block_is_padded() -> None:
    encoded = SMALL.encode(gaussian(7, 13))
    blocks = 12  # 91 weights in blocks of 8, the last of 3; rows that were padded would take 14
    assert encoded.tensors["seeds"].numel() == blocks  # 8 bits each
    assert encoded.tensors["exponents"].numel() == math.ceil(blocks * 4 / 8)
    assert encoded.tensors["latents"].numel() == math.ceil(blocks * 12 / 8)
    assert encoded.num_bytes == 12 + 6 + 18 + 7 * 2


def test_a_block_that_straddles_rows_takes_the_scale_of_each() -> None:
    weight = gaussian(6, 12)  # blocks of 8: every other one lies in two rows
    weight[1::2] *= 1000
    assert nmse(weight[::2], decode(SMALL.encode(weight))[::2]) < 0.1  # with 8 bits of seed


def test_the_error_does_not_depend_on_the_scale_of_a_row() -> None:
    weight, powers = gaussian(8, 64), torch.tensor([2.0**k for k in range(-12, 4, 2)])
    plain, scaled = SMALL.encode(weight), SMALL.encode(weight * powers[:, None])
    for name in ("seeds", "exponents", "latents"):
        # powers of two within fp16's normal range: the same codes to the bit
        assert torch.equal(plain.tensors[name], scaled.tensors[name]), name


def test_one_scale_for_all_rows_costs_two_bytes() -> None:
    weight = gaussian(6, 16)
    encoded = dataclasses.replace(SMALL, row_scale=False).encode(weight)
    assert encoded.tensors["scale"].shape == (1,)
    assert nmse(weight, decode(encoded)) < 0.1


def test_entropy_coding_saves_bytes_and_changes_no_weight() -> None:
    weight = gaussian(64, 256)
    packed, coded = SMALL.encode(weight), dataclasses.replace(SMALL, entropy=True).encode(weight)
    assert torch.equal(decode(packed), decode(coded))
    assert coded.tensors["exponents"].numel() < 0.6 * packed.tensors["exponents"].numel()
    assert coded.tensors["latents"].numel() < packed.tensors["latents"].numel()


def test_a_zero_row_comes_back_as_zeros() -> None:
    weight = gaussian(3, 16)
    weight[1] = 0
    assert decode(SMALL.encode(weight))[1].abs().max() == 0


def test_more_bits_or_smaller_blocks_up_to_the_top() -> None:
    coarse = SeedLMCodec(8, 3, latent_bits=3)
    assert coarse.relaxed(severe=False) == SeedLMCodec(8, 3, latent_bits=4)
    assert SeedLMCodec(8, 3).relaxed(severe=False) == SeedLMCodec(7, 3)
    assert SeedLMCodec(12, 4).relaxed(severe=True) == SeedLMCodec(9, 4)
    assert SeedLMCodec(4, 4).relaxed(severe=True) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 33}, r"block_size must be in \[1, 32\], got 33"),
        ({"latent_size": 9}, r"latent_size must be in \[1, block_size = 8\], got 9"),
        ({"seed_bits": 21}, r"seed_bits must be in \[2, 20\], got 21"),
        ({"latent_bits": 5}, r"latent_bits must be in \[1, 4\], got 5"),
        ({"damping": -0.1}, "damping must not be negative, got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SeedLMCodec(), **settings)


def changed(encoded: Encoded, **meta: int) -> Encoded:
    return dataclasses.replace(encoded, meta={**encoded.meta, **meta})


def test_parts_that_no_encoder_writes_are_refused() -> None:
    encoded = SMALL.encode(gaussian(4, 16))
    seeds = unpack_bits(encoded.tensors["seeds"], 8, count=8)
    seeds[3] = 0  # the register would never leave zero
    with pytest.raises(ValueError, match=r"seeds must be in \[1, 255\], got 0"):
        decode(encoded.with_tensors(seeds=pack_bits(seeds, 8)))
    with pytest.raises(ValueError, match=r"scale must have shape \[4\] or \[1\], got \[3\]"):
        decode(encoded.with_tensors(scale=encoded.tensors["scale"][:3]))
    with pytest.raises(ValueError, match="need"):
        decode(changed(encoded, block_size=4))
    with pytest.raises(ValueError, match="seed_bits must be in"):
        decode(changed(encoded, seed_bits=40))
