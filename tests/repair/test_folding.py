"""Folding and coding again: nearer to a target in no more bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fulgurite.codecs import Codec, EcqCodec, Float16Codec, SeedLMCodec, UniformCodec, VptqCodec, decode
from fulgurite.repair import fold, recode, recoder

CODECS: dict[str, Codec] = {
    "uniform": UniformCodec(bits=2, group_size=16),
    "uniform-symmetric": UniformCodec(bits=2, group_size=16, symmetric=True),
    "vptq": VptqCodec(vector_length=4, codebook_size=16, iterations=3),
    "seedlm": SeedLMCodec(),
    "ecq": EcqCodec(rate=2, states=4),
}
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment(width: int) -> Tensor:
    inputs = gaussian(200, width, seed=1) @ gaussian(width, width, seed=2) / width**0.5
    found: Tensor = inputs.T @ inputs / 200
    return found


def distance(decoded: Tensor, target: Tensor, hessian: Tensor) -> float:
    error = (decoded - target).double()
    return float(((error @ hessian.double()) * error).sum())


@codecs
def test_folding_moves_a_weight_to_a_target_without_a_byte(codec: Codec) -> None:
    weight, hessian = gaussian(24, 32), moment(32)
    encoded = codec.encode(weight)
    target = 1.25 * decode(encoded)  # what scales of any kind can follow; ecq's come in steps of 4 %
    folded, nearer = fold(encoded, target, hessian)
    assert nearer
    assert distance(decode(folded), target, hessian) < 0.01 * distance(decode(encoded), target, hessian)
    for name in set(encoded.tensors) - set(codec.continuous) - {"stream"}:
        assert torch.equal(folded.tensors[name], encoded.tensors[name]), name
    if codec.name != "ecq":  # whose scales are coded: they may come out a little dearer
        assert folded.num_bytes == encoded.num_bytes


def test_folding_scales_is_least_squares() -> None:
    weight, hessian = gaussian(6, 16), moment(16)
    encoded = UniformCodec(bits=2, group_size=16, symmetric=True).encode(weight)
    target = weight + 0.3 * gaussian(6, 16, seed=5)
    folded, _ = fold(encoded, target, hessian)
    shape = decode(encoded) / encoded.tensors["step"].float()[:, None]  # one step a row
    expected = ((shape @ hessian) * target).sum(1) / ((shape @ hessian) * shape).sum(1)
    torch.testing.assert_close(
        folded.tensors["step"].float(), expected, rtol=2e-3, atol=0
    )  # stored in 16 bits


def test_nothing_is_folded_where_nothing_comes_nearer() -> None:
    encoded = UniformCodec(bits=4, group_size=16).encode(gaussian(8, 16))
    same, nearer = fold(encoded, decode(encoded), torch.eye(16))
    assert not nearer
    assert same is encoded
    kept, nearer = fold(encoded, 2 * decode(encoded), torch.eye(16), fixed=("step", "zero"))
    assert not nearer
    assert kept is encoded


def test_a_weight_in_half_precision_is_folded_as_well() -> None:
    weight = gaussian(8, 16).half()
    encoded = UniformCodec(bits=2, group_size=16).encode(weight)
    folded, nearer = fold(encoded, 1.3 * weight.float(), torch.eye(16))
    assert nearer
    assert decode(folded).dtype == torch.float16


@codecs
def test_coding_again_takes_no_more_bytes(codec: Codec) -> None:
    weight, hessian = gaussian(48, 32), moment(32)  # of fewer rows side information decides
    encoded = codec.encode(weight, hessian)
    target = weight + 0.5 * gaussian(48, 32, seed=4)
    own = recoder(encoded, [Float16Codec(), codec])
    assert own is not None
    again = recode(encoded, own, target, hessian)
    assert again is not None
    assert again.num_bytes <= encoded.num_bytes
    assert distance(decode(again), target, hessian) < distance(decode(encoded), target, hessian)


def test_a_weight_that_would_grow_is_left() -> None:
    encoded = UniformCodec(bits=2, group_size=32).encode(gaussian(8, 32))
    assert recode(encoded, UniformCodec(bits=3, group_size=32), gaussian(8, 32), torch.eye(32)) is None


def test_a_shared_codebook_stays_as_it_is() -> None:
    codec = VptqCodec(vector_length=4, codebook_size=16, share=True, iterations=3)
    weights = {f"layers.{index}.up.weight": gaussian(32, 32, seed=index) for index in range(2)}
    bound = codec.bind(weights)
    encoded = bound["layers.0.up.weight"].encode(weights["layers.0.up.weight"])
    own = recoder(encoded, [codec], {"codebook"})
    assert own is not None
    again = own.encode(weights["layers.1.up.weight"])
    assert torch.equal(again.tensors["codebook"], encoded.tensors["codebook"])


def test_a_setting_that_cannot_be_told_is_none() -> None:
    encoded = UniformCodec(bits=2).encode(gaussian(8, 32))
    assert recoder(encoded, [UniformCodec(bits=2), UniformCodec(bits=3)]) is None
    assert recoder(encoded, [EcqCodec()]) is None
