"""Categories side by side: start, codes, and back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fulgurite.vqvae.hierarchy import Hierarchy
from fulgurite.vqvae.quantiser import QuantiserSettings
from fulgurite.vqvae.start import start_category
from fulgurite.vqvae.storing import load_hierarchy, save_hierarchy
from fulgurite.vqvae.stream import decoder_bytes, pack_codes, stream_bytes, unpack_codes

SETTINGS = QuantiserSettings(codes=16)
TOKENS = {"tied": [2, 1, 1], "free": [1, 0, 1]}


@pytest.fixture
def hierarchy(rows: torch.Tensor, categories: dict[str, list[int]]) -> Hierarchy:
    return Hierarchy.start(rows[:500], categories, TOKENS, SETTINGS, rows=100).eval()


def test_each_level_leaves_less(hierarchy: Hierarchy, rows: torch.Tensor) -> None:
    coded = hierarchy(rows[500:])
    for name, places, _ in hierarchy.parts():
        errors = [float((rows[500:, places] - level).square().mean()) for level in coded[name].levels]
        assert errors == sorted(errors, reverse=True), name
        assert errors[0] < 1, name  # the mean alone leaves the variance, which is 1


def test_the_start_is_near_what_the_bits_allow(rows: torch.Tensor, categories: dict[str, list[int]]) -> None:
    found = Hierarchy.start(rows[:500], categories, TOKENS, SETTINGS).eval()
    rebuilt = found.decode(found.encode(rows[500:]))
    # 16 bits for two causes: 2 ** -16 of a Gaussian's variance is far below the noise of a hundredth
    assert (rows[500:, :10] - rebuilt[:, :10]).square().mean() < 0.05
    # 8 bits for four features: D = 2 ** -4, and k-means on 500 rows of 16 codes loses some of it
    assert 2**-4 < (rows[500:, 10:] - rebuilt[:, 10:]).square().mean() < 4 * 2**-4


def test_codes_alone_rebuild_what_the_pass_gives(hierarchy: Hierarchy, rows: torch.Tensor) -> None:
    codes = hierarchy.encode(rows)
    assert {name: list(found.shape) for name, found in codes.items()} == {"tied": [700, 4], "free": [700, 2]}
    coded = hierarchy(rows)
    rebuilt = hierarchy.decode(codes)
    first = hierarchy.decode(codes, levels=1)
    for name, places, _ in hierarchy.parts():
        torch.testing.assert_close(rebuilt[:, places], coded[name].levels[-1])
        torch.testing.assert_close(first[:, places], coded[name].levels[0])


@pytest.mark.parametrize("kind", ["ema", "simvq", "fsq"])
@pytest.mark.parametrize("rotation", [False, True])
def test_every_kind_of_codebook_trains(
    kind: str, rotation: bool, rows: torch.Tensor, categories: dict[str, list[int]]
) -> None:
    settings = replace(SETTINGS, kind=kind, rotation_trick=rotation)  # type: ignore[arg-type]
    found = Hierarchy.start(rows, categories, TOKENS, settings, rows=200).train()
    optimizer = torch.optim.AdamW(found.parameters(), 3e-3)

    def error() -> torch.Tensor:
        coded = found(rows[:200])
        return sum(
            (
                (rows[:200, places] - coded[name].levels[-1]).square().sum() / 2800
                for name, places, _ in found.parts()
            ),
            coded["tied"].loss + coded["free"].loss,
        )

    first = error()
    for _ in range(15):
        loss = error()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    # EMA begins at its best; the others learn their scale first
    assert loss < (1.1 if kind == "ema" else 1.0) * first


def test_a_network_comes_back_from_its_folder(
    hierarchy: Hierarchy, rows: torch.Tensor, tmp_path: Path
) -> None:
    save_hierarchy(tmp_path, hierarchy)
    again = load_hierarchy(tmp_path)
    for name, codes in again.encode(rows).items():
        assert torch.equal(codes, hierarchy.encode(rows)[name])
    (tmp_path / "vqvae.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a HierarchicalVqvae, cannot be read"):
        load_hierarchy(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected vqvae.json"):
        load_hierarchy(tmp_path / "gone")


def test_streams_are_exact_and_near_the_entropy(hierarchy: Hierarchy, rows: torch.Tensor) -> None:
    codes = hierarchy.encode(rows)
    for name, found in codes.items():
        packed = pack_codes(found, 16)
        assert torch.equal(unpack_codes(packed, 16, len(found), found.shape[1]), found)
        assert stream_bytes(hierarchy, codes)[name] == len(packed)
        assert len(packed) <= found.numel() * 4 / 8 + 1  # 4 bits a code at most, and a byte that says how


def test_a_code_that_is_never_another_takes_no_bits() -> None:
    assert len(pack_codes(torch.full((10_000, 1), 5), 64)) < 100


def test_decoder_bytes_count_every_number_that_decoding_reads(hierarchy: Hierarchy) -> None:
    numbers = 2 * 14  # means and scales
    for _, _, network in hierarchy.parts():
        for coder in network.coders():
            tokens, width = coder.shape
            features, hidden = network.features, network.hidden
            numbers += tokens * 16 * width  # codebooks
            numbers += tokens * width * features + features  # linear
            numbers += tokens * width * hidden + hidden + hidden * features + features
    assert decoder_bytes(hierarchy) == 2 * numbers


def test_a_category_that_was_never_seen_is_refused(hierarchy: Hierarchy, rows: torch.Tensor) -> None:
    codes = hierarchy.encode(rows[:3])
    with pytest.raises(ValueError, match="category 'colour' was never seen; those that were are tied, free"):
        hierarchy.decode(codes | {"colour": codes["free"]})
    with pytest.raises(ValueError, match="those of free are missing"):
        hierarchy.decode({"tied": codes["tied"]})


def test_rows_and_codes_of_another_shape_are_refused(hierarchy: Hierarchy, rows: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected rows of 14 features"):
        hierarchy.encode(rows[:, :5])
    codes = hierarchy.encode(rows[:3])
    with pytest.raises(ValueError, match=r"expected codes \[rows, 4\]"):
        hierarchy.decode(codes | {"tied": codes["tied"][:, :2]})
    with pytest.raises(ValueError, match=r"codes must be in \[0, 15\]"):
        hierarchy.decode(codes | {"tied": codes["tied"] + 16})


def test_fewer_rows_than_codes_are_refused(rows: torch.Tensor, categories: dict[str, list[int]]) -> None:
    with pytest.raises(
        ValueError, match="category tied: expected at least as many train rows as codes, got 10 rows for 16"
    ):
        Hierarchy.start(rows[:10], categories, TOKENS, SETTINGS)


def test_no_code_at_all_is_refused(rows: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="the ratios leave no code for a category of 14 features"):
        start_category(rows, [0, 0, 0], SETTINGS)


def test_categories_must_have_each_column_once(rows: torch.Tensor) -> None:
    network = start_category(rows[:, :2], [1, 0, 0], SETTINGS)
    with pytest.raises(ValueError, match="each of the columns once"):
        Hierarchy({"a": [0, 2]}, [network])


@pytest.mark.parametrize(
    "setting", [{"kind": "gumbel"}, {"codes": 1}, {"decay": 1.0}, {"revive_below": 1.0}, {"commitment": -1.0}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        QuantiserSettings(**setting)  # type: ignore[arg-type]
