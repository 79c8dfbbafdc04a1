"""VPTQ: vectors, error feedback, codebooks that layers share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fulgurite.calibration import gather_metrics
from fulgurite.codecs import UniformCodec, VptqCodec, decode, nmse
from fulgurite.codecs._codebook_update import decode_parts, update_codebooks
from fulgurite.codecs._hessian import weighted_error
from fulgurite.codecs._vptq_columns import Columns
from fulgurite.codecs._vptq_share import weight_type
from fulgurite.codecs.vptq import BoundVptqCodec


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(width: int) -> Tensor:
    """Second moment of inputs of which neighbours have correlation 0.9."""
    place = torch.arange(width)
    return 0.9 ** (place[:, None] - place).abs().float()


def test_second_order_lowers_the_error_of_the_outputs() -> None:
    weight, hessian = gaussian(128, 96), correlated(96)
    codec = VptqCodec(codebook_size=64)
    errors = {
        order: weighted_error(
            weight - decode(dataclasses.replace(codec, second_order=order).encode(weight, hessian)), hessian
        )
        for order in (True, False)
    }
    assert errors[True] < 0.6 * errors[False]  # measured 0.42


@pytest.mark.parametrize("with_hessian", [False, True])
def test_row_weights_move_the_error_from_heavy_rows_to_light_ones(with_hessian: bool) -> None:
    weight, hessian = gaussian(128, 96), correlated(96) if with_hessian else None
    # vectors of 4 rows, two heavy and two light ones in each: a codeword must choose between them
    heavy = torch.arange(128) % 4 < 2
    row_weight = torch.where(heavy, 16.0, 1.0)
    codec = VptqCodec(codebook_size=64)
    errors = {}
    for name, given in {"plain": None, "weighted": row_weight}.items():
        error = weight - decode(codec.encode(weight, hessian, given))
        errors[name] = [weighted_error(error[rows], hessian) for rows in (heavy, ~heavy)]
    total = {name: 16 * first + second for name, (first, second) in errors.items()}
    # measured 0.25 of the error of the heavy rows, 4 to 5 times that of the light ones, half of the sum
    assert errors["weighted"][0] < 0.35 * errors["plain"][0]
    assert errors["weighted"][1] > 2 * errors["plain"][1]
    assert total["weighted"] < 0.7 * total["plain"]


def test_equal_row_weights_change_no_byte_whatever_their_unit() -> None:
    weight, hessian = gaussian(64, 48), correlated(48)
    codec = VptqCodec(codebook_size=32, outlier_share=0.1)
    plain = codec.encode(weight, hessian)
    # 2^-20: a power of two, whose root is exact; zeros are what a calibration without gradients leaves
    for row_weight in (torch.zeros(64), torch.full((64,), 2.0**-20)):
        again = codec.encode(weight, hessian, row_weight)
        for name, part in plain.tensors.items():
            assert torch.equal(part, again.tensors[name]), name


def test_a_row_without_weight_is_still_coded() -> None:
    weight, row_weight = gaussian(64, 96), torch.ones(64)
    row_weight[8:12] = 0  # a whole vector
    decoded = decode(VptqCodec(codebook_size=64).encode(weight, correlated(96), row_weight))
    assert nmse(weight[8:12], decoded[8:12]) < 0.6  # that of the others is 0.3, with feedback


def test_a_shared_codebook_heeds_the_weights_of_rows() -> None:
    weights = layers(2, 64, 64)
    rows = {name: torch.where(torch.arange(64) % 4 < 2, 16.0, 1.0) for name in weights}
    codec = VptqCodec(codebook_size=32, share=True)
    errors = []
    for given in ({}, rows):
        bound = codec.bind(weights, None, given)
        assert isinstance(next(iter(bound.values())), BoundVptqCodec)
        error = 0.0
        for name, weight in weights.items():
            decoded = decode(bound[name].encode(weight, None, rows[name]))
            error += float((weight - decoded).square().sum(1) @ rows[name])
        errors.append(error)
    assert errors[1] < 0.9 * errors[0]  # measured 0.82; the codes heed them with either codebook


def test_updated_codebooks_solve_the_least_squares_problem() -> None:
    # 8 rows, 30 columns, 4 codewords of length 1: 4 unknowns, for which 4 conjugate steps are exact
    weight, hessian = gaussian(8, 30), correlated(30)
    row, column = torch.linspace(0.5, 2, 8), torch.linspace(1, 2, 30)
    codes = torch.randint(4, (30, 8), generator=torch.Generator().manual_seed(0))
    part = Columns(torch.arange(30), 1, [gaussian(4, 1)], [codes])
    root = torch.linalg.cholesky(hessian).T  # |root E^T|^2 is tr(E H E^T)
    units = torch.eye(4)[:, :, None]
    basis = [(root @ decode_parts([part], [[unit]], row, column)).flatten() for unit in units]
    expected = torch.linalg.lstsq(torch.stack(basis, 1), (root @ weight.T).flatten()[:, None]).solution
    [[found]] = update_codebooks([part], weight.T, row, column, hessian)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_every_bit_is_counted() -> None:
    encoded = VptqCodec(codebook_size=64, residual_codebook_size=16).encode(gaussian(66, 96))
    vectors = 17 * 96  # 66 rows fill 16 vectors of 4 and a half
    assert encoded.tensors["codes"].nbytes == vectors * 6 // 8
    assert encoded.tensors["residual_codes"].nbytes == vectors * 4 // 8
    assert encoded.tensors["codebook"].nbytes == 64 * 4 * 2
    assert encoded.tensors["residual_codebook"].nbytes == 16 * 4 * 2
    assert encoded.tensors["scale"].nbytes == 66 * 2
    assert encoded.num_bytes == 1224 + 816 + 512 + 128 + 132


def test_codewords_that_no_code_names_are_not_stored() -> None:
    encoded = VptqCodec(codebook_size=256).encode(torch.ones(16, 40))
    assert encoded.tensors["codebook"].shape == (1, 1, 4)
    few = VptqCodec(vector_length=2, codebook_size=256).encode(gaussian(4, 10))
    assert few.tensors["codebook"].shape[1] <= 20  # there are no more vectors than that


def test_entropy_coding_keeps_the_values_and_saves_bytes() -> None:
    # most vectors are zero: 9 of 10 columns
    weight = gaussian(64, 400) * (torch.arange(400) % 10 == 0)
    plain = VptqCodec(codebook_size=32).encode(weight)
    coded = VptqCodec(codebook_size=32, entropy=True).encode(weight)
    assert torch.equal(decode(plain), decode(coded))
    # entropy of (0.9, 0.1 / 31 each) is 0.96 bit in place of 5
    assert coded.tensors["codes"].nbytes < 0.3 * plain.tensors["codes"].nbytes


def test_outliers_are_the_columns_with_the_largest_moment_and_are_coded_more_finely() -> None:
    weight, hessian = gaussian(64, 100), torch.eye(100)
    chosen = torch.tensor([3, 41, 97])
    hessian[chosen, chosen] = 50
    encoded = VptqCodec(codebook_size=32, outlier_share=0.03).encode(weight, hessian)
    mask = encoded.tensors["outlier_mask"]
    assert [j for j in range(100) if mask[j // 8] >> (j % 8) & 1] == chosen.tolist()
    error = (weight - decode(encoded)).square().mean(0)
    assert error[chosen].mean() < 0.2 * error.mean()  # 4 bits or more a weight beside 1.25


def test_groups_of_columns_have_codebooks_of_their_own() -> None:
    # two halves of which each takes 8 values: one codebook of 8 cannot hold both
    first, second = gaussian(8, 4), gaussian(8, 4, seed=1)
    pick = torch.randint(8, (16, 50), generator=torch.Generator().manual_seed(0))
    weight = torch.cat([book[pick].permute(0, 2, 1).reshape(64, 50) for book in (first, second)], dim=1)
    codec = VptqCodec(codebook_size=8, share=False)
    one = nmse(weight, decode(codec.encode(weight)))
    two = nmse(weight, decode(dataclasses.replace(codec, num_groups=2).encode(weight)))
    assert two < 0.5 * one


def test_column_norm_evens_out_columns_of_different_size() -> None:
    weight = gaussian(64, 96) * torch.logspace(-1, 1, 96)
    codec = VptqCodec(codebook_size=64, share=False)
    sizes = weight.square().sum(0)

    def relative(settings: VptqCodec) -> float:
        return float(((weight - decode(settings.encode(weight))).square().sum(0) / sizes).mean())

    assert relative(dataclasses.replace(codec, column_norm=True)) < 0.5 * relative(codec)


def test_an_input_that_is_always_zero_is_still_coded() -> None:
    weight, hessian = gaussian(64, 40), correlated(40)
    hessian[7], hessian[:, 7] = 0, 0
    decoded = decode(VptqCodec(codebook_size=128, damping=0.05).encode(weight, hessian))
    assert torch.isfinite(decoded).all()
    assert nmse(weight[:, 7], decoded[:, 7]) < 0.8  # near the others, not zeroed: calibration saw little


def test_a_milder_setting_has_less_error_until_every_vector_has_its_codeword() -> None:
    weight = gaussian(64, 96)  # 1536 vectors of 4
    codec, previous = VptqCodec(codebook_size=64), 1.0
    for size in (64, 128, 256, 512, 1024):
        assert codec.codebook_size == size
        now = nmse(weight, decode(codec.encode(weight)))
        assert now < previous
        codec, previous = codec.relaxed(severe=False) or codec, now
    severe = VptqCodec(codebook_size=16)
    for expected in ((16, 4), (16, 2), (16, 1)):  # a residual, then half the length, twice
        severe = severe.relaxed(severe=True) or severe
        assert (severe.residual_codebook_size, severe.vector_length) == expected
    assert severe.relaxed(severe=True) is None


def layers(count: int, *shape: int, kind: str = "q_proj") -> dict[str, Tensor]:
    return {f"model.layers.{i}.attn.{kind}.weight": gaussian(*shape, seed=i) * (i + 1) for i in range(count)}


def test_small_weights_of_one_type_share_one_codebook() -> None:
    # own: 16 * 64 * 4 / 16384 = 0.25 bits per weight; for three together 0.083, below the 0.1 of share_above
    weights = layers(3, 128, 128) | layers(3, 64, 256, kind="v_proj")
    bound = VptqCodec(codebook_size=64).bind(weights)
    encoded = {name: bound[name].encode(weight) for name, weight in weights.items()}
    books = {name: entry.tensors["codebook"] for name, entry in encoded.items()}
    assert len({book.data_ptr() for book in books.values()}) == 2  # one of each type
    first, *others = (book for name, book in books.items() if "q_proj" in name)
    assert all(torch.equal(first, book) for book in others)
    for name, weight in weights.items():
        # 1.5 bits: the bound 2^-3 is 0.125, a codebook of another layer's scale would miss it by far
        assert nmse(weight, decode(encoded[name])) < 0.26, name


def test_types_that_are_too_small_share_one_codebook_among_them() -> None:
    weights = layers(2, 64, 64) | layers(2, 64, 64, kind="v_proj")
    bound = VptqCodec(codebook_size=64).bind(weights)
    codec = next(iter(bound.values()))
    assert all(other is codec for other in bound.values())
    assert isinstance(codec, BoundVptqCodec)
    assert codec.group == "q_proj.weight + v_proj.weight"
    by_type = VptqCodec(codebook_size=64, share=True).bind(weights)
    assert len({id(codec) for codec in by_type.values()}) == 2


def test_large_weights_vectors_and_unshared_codecs_stay_by_themselves() -> None:
    codec = VptqCodec(codebook_size=16)  # 16 * 16 * 4 / 16384 = 0.06 bits per weight
    weights = layers(2, 128, 128)
    assert set(codec.bind(weights).values()) == {codec}
    never = VptqCodec(codebook_size=256, share=False)
    assert set(never.bind(weights).values()) == {never}
    small = VptqCodec(codebook_size=256)
    assert small.bind({"norm.weight": torch.ones(9), "a.weight": gaussian(8, 8)}) == {
        "norm.weight": small,
        "a.weight": small,
    }


def test_a_bound_codec_is_a_setting_that_relaxes_to_an_unbound_one() -> None:
    weights = layers(2, 64, 64)
    codec = VptqCodec(codebook_size=64, share=True).bind(weights, {next(iter(weights)): correlated(64)})[
        next(iter(weights))
    ]
    assert isinstance(codec, BoundVptqCodec)
    assert hash(codec) == hash(dataclasses.replace(codec))
    assert dataclasses.replace(codec, entropy=True).codebooks is codec.codebooks
    assert codec.relaxed(severe=False) == VptqCodec(codebook_size=128, share=True)
    assert codec.candidates() == VptqCodec(codebook_size=64, share=True).candidates()  # to be bound again


def test_the_type_of_a_weight_has_no_layer_number() -> None:
    assert weight_type("model.layers.11.mlp.up_proj.weight") == "up_proj.weight"
    assert weight_type("blocks.0.weight") == "blocks.weight"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vector_length": 0}, r"vector_length must be in \[1, 64\], got 0"),
        ({"codebook_size": 1}, r"codebook_size must be in \[2, 65536\], got 1"),
        ({"residual_codebook_size": 1}, r"residual_codebook_size must be in \[2, 65536\], got 1"),
        ({"num_groups": 0}, "num_groups must be at least 1, got 0"),
        ({"outlier_share": 1.0}, r"outlier_share must be in \[0, 1\), got 1.0"),
        ({"share": "all"}, "share must be true, false or 'auto', got 'all'"),
        ({"share": True, "num_groups": 2}, "num_groups must be 1 where a codebook is shared, got 2"),
        ({"damping": -0.1}, "must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VptqCodec(**settings)  # type: ignore[arg-type]


def test_codes_beyond_the_codebook_are_refused() -> None:
    encoded = VptqCodec(codebook_size=64).encode(gaussian(64, 64))
    book = encoded.tensors["codebook"]
    with pytest.raises(ValueError, match="codes must be below 33, got 63"):
        decode(encoded.with_tensors(codebook=book[:, :33]))  # still codes of 6 bits
    with pytest.raises(ValueError, match=r"codebook must be \[groups, k, v\]"):
        decode(encoded.with_tensors(codebook=book[0]))


def test_a_trained_network_loses_less_than_with_two_bit_rounding(shared_data: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shared_data / "models" / "stories260K"
    network = AutoModelForCausalLM.from_pretrained(folder)
    text = (shared_data / "text" / "tinystories" / "train_sample.txt").read_text(encoding="utf-8")[:20_000]
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
    weights = {
        name: weight.detach() for name, weight in network.named_parameters() if "gate_proj" in name
    }  # 5 of [172, 64]
    windows = ids[: len(ids) // 256 * 256].reshape(-1, 256)
    metrics = gather_metrics(network, [{"input_ids": windows}], weights, "input")
    hessians = {name: metric.hessian for name, metric in metrics.items() if metric.hessian is not None}
    bound = VptqCodec(codebook_size=128, share=True).bind(weights, hessians)
    uniform = UniformCodec(bits=2, group_size=64, symmetric=True, search=True)
    for name, weight in weights.items():
        ours = bound[name].encode(weight, hessians[name])
        theirs = uniform.encode(weight, hessians[name])
        book = 8 * ours.tensors["codebook"].nbytes / weight.numel()
        # 1.75 bits of codes, 0.25 of scales, a fifth of the codebook: 2.15 beside 2.25 bits
        assert ours.bits_per_weight - book + book / 5 < theirs.bits_per_weight
        errors = [weighted_error(weight - decode(entry), hessians[name]) for entry in (ours, theirs)]
        assert errors[0] < 0.85 * errors[1], name  # measured 0.67 to 0.79
