"""Uniform rounding: its error feedback against GPTQ as published, its ladder."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fulgurite.codecs import UniformCodec, decode, nmse
from fulgurite.codecs._hessian import weighted_error
from fulgurite.coding import unpack_bits


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment(width: int) -> Tensor:
    """Second moment of inputs of different sizes with 12 common factors."""
    loadings = gaussian(12, width, seed=1)
    size = torch.linspace(0.5, 2, width)
    return (loadings.T @ loadings / 12 + 0.3 * torch.eye(width)) * torch.outer(size, size)


def gptq(weight: Tensor, hessian: Tensor, codec: UniformCodec) -> Tensor:
    """Codes by algorithm 1 of the GPTQ paper, with its ``act_order`` on grids of the weight as given."""
    groups = weight.double().reshape(len(weight), -1, codec.group_size)
    low, high = groups.amin(2), groups.amax(2)
    step = ((high - low) / (2**codec.bits - 1)).half().double()
    zero = low.half().double()
    order = hessian.diagonal().argsort(descending=True)
    inner = hessian.double()[order][:, order]
    inner += 0.01 * inner.diagonal().mean() * torch.eye(len(inner))
    factor = torch.linalg.cholesky(torch.linalg.inv(inner), upper=True)
    work, codes = weight.double()[:, order], torch.empty(weight.shape, dtype=torch.int64)
    for j, column in enumerate(order.tolist()):
        own_step, own_zero = step[:, column // codec.group_size], zero[:, column // codec.group_size]
        level = ((work[:, j] - own_zero) / own_step).round().clamp(0, 2**codec.bits - 1)
        codes[:, column] = level.long()
        error = (work[:, j] - level * own_step - own_zero) / factor[j, j]
        work[:, j:] -= torch.outer(error, factor[j, j:])
    return codes


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_error_feedback_is_gptq(bits: int) -> None:
    # 192 columns: more than one block of 128, and groups that straddle the two
    weight, hessian = gaussian(40, 192), moment(192)
    codec = UniformCodec(bits=bits, group_size=48, error_feedback=True)
    encoded = codec.encode(weight, hessian)
    codes = unpack_bits(encoded.tensors["codes"], bits, weight.numel()).reshape(weight.shape)
    expected = gptq(weight, hessian, codec)
    # float32 beside float64 decides a near tie the other way now and then, and what follows in that row with it
    assert (codes == expected).float().mean() > 0.99
    step = encoded.tensors["step"].float().reshape(40, -1).repeat_interleave(48, 1)
    zero = encoded.tensors["zero"].float().reshape(40, -1).repeat_interleave(48, 1)
    ours = weighted_error(weight - decode(encoded), hessian)
    assert ours == pytest.approx(weighted_error(weight - expected * step - zero, hessian), rel=0.01)


def test_feedback_moves_codes_and_nothing_else() -> None:
    weight, hessian = gaussian(24, 100), moment(100)
    codec = UniformCodec(bits=3, group_size=32, search=True)
    plain = codec.encode(weight, hessian)
    ours = dataclasses.replace(codec, error_feedback=True).encode(weight, hessian)
    for name in ("step", "zero"):
        assert torch.equal(plain.tensors[name], ours.tensors[name]), name
    assert plain.meta == ours.meta
    assert plain.num_bytes == ours.num_bytes
    assert not torch.equal(plain.tensors["codes"], ours.tensors["codes"])


def test_without_a_hessian_feedback_has_nothing_to_feed_on() -> None:
    weight = gaussian(24, 100)
    plain, ours = (UniformCodec(error_feedback=on).encode(weight) for on in (False, True))
    assert torch.equal(plain.tensors["codes"], ours.tensors["codes"])


def test_search_under_a_hessian_without_inputs_is_the_plain_search() -> None:
    weight, codec = gaussian(8, 64), UniformCodec(bits=2, group_size=64, search=True)
    plain, blind = codec.encode(weight), codec.encode(weight, torch.zeros(64, 64))
    assert torch.equal(plain.tensors["step"], blind.tensors["step"])
    with pytest.raises(ValueError, match="hessian must be finite"):
        codec.encode(weight, torch.full((64, 64), torch.nan))


def test_candidates_keep_the_settings_and_gain_six_decibels_a_bit() -> None:
    codec = UniformCodec(bits=3, group_size=64, symmetric=True)
    candidates = codec.candidates()
    assert candidates == tuple(dataclasses.replace(codec, bits=bits) for bits in range(2, 9))
    weight = gaussian(64, 256)
    errors = [nmse(weight, decode(candidate.encode(weight))) for candidate in candidates]
    # the step halves with each bit, or nearly: 2^b - 1 of them span the range
    assert all(after < before / 3.5 for before, after in pairwise(errors))
