"""Lossless coding: exact round trips, and sizes close to the entropy."""

import math

import numpy as np
import pytest
import torch

from fulgurite.coding import decode_symbols, encode_symbols, pack_bits, stream, unpack_bits
from fulgurite.coding.stream import quantised_histogram


@pytest.mark.parametrize("bits", range(1, 25))
def test_unpack_inverts_pack(bits: int) -> None:
    codes = torch.randint(2**bits, (37,))  # 37: not a multiple of 8
    packed = pack_bits(codes, bits)
    assert packed.numel() == math.ceil(37 * bits / 8)
    assert torch.equal(unpack_bits(packed, bits, count=37).long(), codes)


def test_packed_bits_lie_as_the_format_says() -> None:
    """A slow, obvious loop over single bits."""
    codes, bits = torch.randint(32, (19,)), 5
    expected = [0] * math.ceil(19 * bits / 8)
    for index, code in enumerate(codes.tolist()):
        for bit in range(bits):
            place = index * bits + bit
            expected[place // 8] |= ((code >> bit) & 1) << (place % 8)
    assert pack_bits(codes, bits).tolist() == expected


@pytest.mark.parametrize("alphabet", [2, 3, 16, 257, 5000])
@pytest.mark.parametrize("count", [1, 2, 1000, 70001])
@pytest.mark.parametrize("skewed", [False, True])
def test_decode_inverts_encode(alphabet: int, count: int, skewed: bool) -> None:
    symbols = torch.randint(alphabet, (count,))
    if skewed:  # most symbols never occur, some once
        symbols = (symbols.double() / alphabet).pow(8).mul(alphabet).long()
    coded = encode_symbols(symbols, alphabet)
    assert torch.equal(decode_symbols(coded, alphabet, count).long(), symbols)
    assert coded.numel() <= math.ceil(count * max(1, (alphabet - 1).bit_length()) / 8) + 1


def test_chunks_do_not_show_in_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = torch.randn(10_000).mul(2).round().clamp(-8, 7).add(8).long()
    whole = encode_symbols(symbols, 16)
    monkeypatch.setattr(stream, "_CHUNK", 777)
    assert torch.equal(encode_symbols(symbols, 16), whole)
    assert torch.equal(decode_symbols(whole, 16, 10_000).long(), symbols)


def test_the_size_is_near_the_entropy() -> None:
    symbols = torch.randn(200_000).mul(1.5).round().clamp(-8, 7).add(8).long()
    share = symbols.bincount(minlength=16).double() / len(symbols)
    entropy = -(share * share.clamp_min(1e-30).log2()).sum()
    # 0.1 % for the 16-bit table's rounding and the last words, and the table itself
    assert encode_symbols(symbols, 16).numel() < float(entropy) * len(symbols) / 8 * 1.001 + 64


def test_a_histogram_keeps_every_symbol_and_its_sum() -> None:
    counts = np.array([1, 0, 10**9, 3, 1])
    table = quantised_histogram(counts)
    assert table.sum() == 65536
    assert ((table > 0) == (counts > 0)).all()
    many = quantised_histogram(np.ones(16384, dtype=np.int64))
    assert (many == 4).all()


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (torch.tensor([], dtype=torch.uint8), "at least 2 bytes"),
        (torch.tensor([9, 0, 0], dtype=torch.uint8), "mode must be 0, 1 or 2"),
        (torch.tensor([1, 0, 0], dtype=torch.uint8), "cannot have 2 bytes"),
        (torch.tensor([1] + [0] * 32, dtype=torch.uint8), "must sum to 65536"),
        (torch.tensor([2, 99, 0, 0, 0], dtype=torch.uint8), "one symbol below 16"),
        (torch.tensor([0, 1, 2], dtype=torch.uint8), "need 50 bytes"),
    ],
)
def test_damaged_streams_are_refused(damaged: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_symbols(damaged, alphabet=16, count=100)


def test_symbols_outside_the_alphabet_are_refused() -> None:
    with pytest.raises(ValueError, match=r"symbols must be in \[0, 15\], got \[3, 16\]"):
        encode_symbols(torch.tensor([3, 16]), 16)
    with pytest.raises(ValueError, match="must not be empty"):
        encode_symbols(torch.tensor([], dtype=torch.int64), 16)
    with pytest.raises(ValueError, match=r"codes must be in \[0, 7\] for 3 bits"):
        pack_bits(torch.tensor([8]), 3)
