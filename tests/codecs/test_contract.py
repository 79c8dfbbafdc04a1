"""What every codec must do, whatever its technique."""

import dataclasses

import pytest
import torch

from fulgurite.codecs import CODECS, Codec, DareCodec, Encoded, SparseCodec, decode, nmse
from fulgurite.testing import CONTRACT_CASES

cases = pytest.mark.parametrize("codec", CONTRACT_CASES.values(), ids=CONTRACT_CASES.keys())


def gaussian(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype) * 0.05


def hessian_of(width: int) -> torch.Tensor:
    inputs = gaussian(4 * width, width) * torch.linspace(0.5, 2, width)
    return inputs.T @ inputs / len(inputs)


def test_every_codec_has_a_contract_case() -> None:
    assert {codec.name for codec in CONTRACT_CASES.values()} == set(CODECS)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_decode_restores_shape_and_dtype(codec: Codec, dtype: torch.dtype) -> None:
    weight = gaussian(24, 40, dtype=dtype)
    decoded = decode(codec.encode(weight))
    assert decoded.shape == weight.shape
    assert decoded.dtype == dtype
    assert nmse(weight, decoded) < 0.5  # the coarsest case, 2 bits, is far below: catches a scrambled order


@cases
@pytest.mark.parametrize(
    "shape",
    [(1, 172), (172, 1), (5,), (1,), (7, 13), (8, 3, 3, 3), (1, 1)],
    ids=str,
)
def test_any_shape_round_trips(codec: Codec, shape: tuple[int, ...]) -> None:
    weight = gaussian(*shape)
    decoded = decode(codec.encode(weight))
    assert decoded.shape == weight.shape
    assert torch.isfinite(decoded).all()


@cases
def test_encode_is_deterministic_and_leaves_its_input(codec: Codec) -> None:
    weight, hessian = gaussian(24, 40), hessian_of(40)
    kept, kept_hessian = weight.clone(), hessian.clone()
    first, second = codec.encode(weight, hessian), codec.encode(weight, hessian)
    assert torch.equal(weight, kept)
    assert torch.equal(hessian, kept_hessian)
    assert first.meta == second.meta
    assert first.tensors.keys() == second.tensors.keys()
    for name, part in first.tensors.items():
        assert torch.equal(part, second.tensors[name]), name


@cases
def test_parts_are_flat_facts(codec: Codec) -> None:
    encoded = codec.encode(gaussian(24, 40))
    assert encoded.codec in CODECS
    assert encoded.num_bytes == sum(part.nbytes for part in encoded.tensors.values())
    assert encoded.bits_per_weight == 8 * encoded.num_bytes / 960
    for name, part in encoded.tensors.items():
        assert part.is_contiguous(), name
        assert not part.requires_grad, name
    assert all(isinstance(value, bool | int | float | str) for value in encoded.meta.values())


@cases
def test_a_strided_view_encodes_like_its_copy(codec: Codec) -> None:
    view = gaussian(40, 24).T
    assert torch.equal(decode(codec.encode(view)), decode(codec.encode(view.contiguous())))


@cases
@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_a_constant_weight_comes_back_close(codec: Codec, value: float) -> None:
    weight = torch.full((16, 40), value)
    decoded = decode(codec.encode(weight))
    assert torch.isfinite(decoded).all()
    # zeros are what these are asked for
    dropped = (decoded == 0) & isinstance(codec, SparseCodec | DareCodec)
    # one level or one codeword fits it; SeedLM and 2-bit symmetric grids have none at exactly that value
    assert float(((decoded - weight) * ~dropped).abs().max()) <= 0.5 * abs(value)
    assert not dropped.all() or value == 0


@cases
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_error_does_not_depend_on_the_scale(codec: Codec, scale: float) -> None:
    weight = gaussian(24, 40)
    at_one = nmse(weight, decode(codec.encode(weight)))
    scaled = nmse(weight * scale, decode(codec.encode(weight * scale)))
    # fp16 scales lose bits below 6e-5; an absolute exponent range would lose everything
    assert scaled < 1.5 * at_one + 0.02


@cases
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(codec: Codec, bad: float) -> None:
    weight = gaussian(24, 40)
    weight[3, 5] = bad
    with pytest.raises(ValueError, match="must be finite"):
        codec.encode(weight)


@cases
def test_empty_and_integer_weights_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="at least one element"):
        codec.encode(torch.empty(0, 4))
    with pytest.raises(ValueError, match="must be floating point"):
        codec.encode(torch.zeros(4, 4, dtype=torch.int64))


@cases
def test_a_hessian_of_another_width_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="to fit the weight's width"):
        codec.encode(gaussian(24, 40), hessian_of(41))


@cases
@pytest.mark.parametrize("wrong", [torch.ones(23), -torch.ones(24), torch.full((24,), torch.nan)])
def test_row_weights_that_cannot_be_are_refused(codec: Codec, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="row_weight must be"):
        codec.encode(gaussian(24, 40), hessian_of(40), wrong)


@cases
def test_expanding_changes_nothing_and_compacting_undoes_it(codec: Codec) -> None:
    encoded = codec.encode(gaussian(24, 40))
    expanded = codec.expanded(encoded)
    assert torch.equal(decode(expanded), decode(encoded))
    again = codec.compacted(encoded, {name: expanded.tensors[name] for name in parts_of(codec, expanded)})
    assert torch.equal(decode(again), decode(encoded))
    assert again.num_bytes == encoded.num_bytes


@cases
def test_candidates_go_from_few_bits_to_many(codec: Codec) -> None:
    weight = gaussian(64, 96)
    found = [candidate.encode(weight) for candidate in codec.candidates()]
    bits = [encoded.bits_per_weight for encoded in found]
    assert bits == sorted(bits)
    errors = [nmse(weight, decode(encoded)) for encoded in found]
    assert errors == sorted(errors, reverse=True)


def parts_of(codec: Codec, encoded: Encoded) -> list[str]:
    return [name for name in codec.continuous if name in encoded.tensors]


@cases
def test_continuous_parts_have_gradients(codec: Codec) -> None:
    encoded = codec.expanded(codec.encode(gaussian(24, 40)))
    names = [name for name in codec.continuous if name in encoded.tensors]
    assert names, "every codec has a part that refinement can train"
    trained = {name: encoded.tensors[name].float().requires_grad_() for name in names}
    decode(encoded.with_tensors(**trained)).square().sum().backward()
    for name, part in trained.items():
        assert part.grad is not None, name
        assert part.grad.abs().sum() > 0, name


@cases
def test_a_truncated_part_is_refused(codec: Codec) -> None:
    encoded = codec.encode(gaussian(24, 40))
    largest = max(encoded.tensors, key=lambda name: encoded.tensors[name].nbytes)
    cut = encoded.tensors[largest].reshape(-1)[:-1].clone()
    with pytest.raises((ValueError, RuntimeError)):
        decode(encoded.with_tensors(**{largest: cut}))


@cases
@pytest.mark.parametrize("severe", [False, True])
def test_the_relaxed_ladder_ends_and_does_not_lose(codec: Codec, severe: bool) -> None:
    weight = gaussian(64, 96)
    step, previous = codec.relaxed(severe), nmse(weight, decode(codec.encode(weight)))
    if step is None:
        return
    assert step != codec
    assert nmse(weight, decode(step.encode(weight))) < previous
    for _ in range(64):
        step = step.relaxed(severe)
        if step is None:
            break
    assert step is None, "relaxing must come to an end"


@cases
def test_settings_are_a_frozen_dataclass(codec: Codec) -> None:
    assert dataclasses.is_dataclass(codec)
    assert hash(codec) == hash(dataclasses.replace(codec))


@pytest.mark.gpu
@cases
def test_cpu_and_gpu_decode_agree(codec: Codec) -> None:
    encoded = codec.encode(gaussian(24, 40))
    torch.testing.assert_close(decode(encoded.to("cuda")).cpu(), decode(encoded))
