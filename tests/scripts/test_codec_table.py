"""The codec table: what it counts, what it writes."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from fulgurite.codecs import CODECS, Float16Codec, HyperCodec, UniformCodec, VptqCodec

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "codec_table.py"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("codec_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["codec_table"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_gap_is_zero_on_the_bound_and_grows_by_6_db_for_a_wasted_bit(table: ModuleType) -> None:
    assert table.Point(bits=3, nmse=4.0**-3).gap_db == pytest.approx(0)
    assert table.Point(bits=4, nmse=4.0**-3).gap_db == pytest.approx(20 * math.log10(2))
    assert table.Point(bits=4, nmse=0.0).gap_db == -math.inf


def test_weights_count_by_their_size(table: ModuleType) -> None:
    wide, narrow = gaussian(8, 96), gaussian(8, 32, seed=1)
    point = table.measure(UniformCodec(bits=4, group_size=32), {"wide": wide, "narrow": narrow})
    assert point.bits == 5.0  # 4 bits, fp16 step and zero for 32 weights
    alone = [table.measure(UniformCodec(bits=4, group_size=32), {"w": w}).nmse for w in (wide, narrow)]
    assert point.nmse == pytest.approx(0.75 * alone[0] + 0.25 * alone[1])


def test_a_part_that_two_weights_share_is_counted_once(table: ModuleType) -> None:
    weights = {
        "model.layers.0.up.weight": gaussian(32, 64),
        "model.layers.1.up.weight": gaussian(32, 64, seed=1),
    }
    codec = VptqCodec(vector_length=4, codebook_size=16, share=True)
    # 4 bits for 4 weights, a 16-bit scale per row of 64, one codebook of 16 x 4 fp16 for 4096 weights
    assert table.measure(codec, weights).bits == 1 + 16 / 64 + 16 * 4 * 16 / 4096


def test_a_sample_takes_rows_of_each_weight_and_keeps_their_shares(table: ModuleType) -> None:
    small, large = torch.ones(4, 8), gaussian(1000, 8)
    point = table.measure(HyperCodec("polynomial", block_size=8, degree=3), {"a": small, "b": large}, 400)
    # ones are a polynomial of degree 0; noise loses half its energy; 32 of 8032 weights are ones
    assert point.nmse == pytest.approx(0.5, abs=0.12)
    everything = table.measure(Float16Codec(), {"a": small, "b": large}, 10**9)
    assert everything.bits == 16


def test_student_t_weights_have_unit_variance_in_the_limit(table: ModuleType) -> None:
    sources = table.synthetic(quick=False, seed=0)
    for weights in sources.values():
        # 262,144 draws; a fourth moment that does not exist makes the estimate rough
        assert weights["weight"].square().mean().item() == pytest.approx(1, abs=0.05)


def test_a_folder_without_weights_is_named(table: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold \*\.safetensors files, got none"):
        table.network_matrices(tmp_path)


def test_the_quick_table_shows_every_codec_and_a_plot(table: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_file(
        {"up.weight": gaussian(16, 128).half(), "norm.weight": torch.ones(16)},
        folder / "model.safetensors",
    )
    output = tmp_path / "docs" / "codecs.md"
    table.main(["--quick", "--model", str(folder), "--output", str(output)])
    text = output.read_text(encoding="utf-8")
    for codec in CODECS:
        assert f"\n## {codec}\n" in text
    assert "| Gaussian: bits | Gaussian: NMSE | Gaussian: gap, dB | Student-t (4): bits |" in text
    assert "tiny: NMSE" in text
    assert "| fp16 | 16.00 |" in text
    assert str(tmp_path) not in text  # the page names no folder of the machine that made it
    assert "--quick --model tiny" in text
    plot = output.with_name("codecs_rate_distortion.png")
    assert plot.name in text
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert plot.stat().st_size < 150_000


def test_a_new_codec_is_measured_with_its_defaults(
    table: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "SETTINGS", {})
    monkeypatch.setattr(table, "CODECS", {"uniform": UniformCodec})
    (row,) = table.measure_all(table.synthetic(quick=True, seed=0), quick=True)
    assert (row.curve, row.setting) == ("uniform", "defaults")
    assert row.points["Gaussian"].bits > 4


def test_some_codecs_are_measured_anew_and_the_others_stay(table: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "codecs.md"
    table.main(["--quick", "--output", str(output)])
    before = table.sections_of(output.read_text(encoding="utf-8"))
    marked = output.read_text(encoding="utf-8").replace("uniform: 2 bits", "uniform: two bits")
    output.write_text(marked.replace("fp16 | 16.00", "fp16 | 15.00"), encoding="utf-8")
    table.main(["--quick", "--output", str(output), "--only", "fp16"])
    after = table.sections_of(output.read_text(encoding="utf-8"))
    assert list(after) == list(CODECS) == list(before)
    assert after["fp16"] == before["fp16"]  # measured
    assert "uniform: two bits" in after["uniform"]  # as it was
    assert ", fp16 later than the others, fulgurite" in output.read_text(encoding="utf-8")


def test_rows_come_back_from_a_page_as_far_as_its_digits_go(table: ModuleType) -> None:
    points = {"Gaussian": table.Point(2.0, 0.25), "Student-t (4)": table.Point(16.0, 0.0)}
    row = table.Row("uniform", "uniform, searched", "2 bits", table._SAMPLE, points)
    section = table.sections_of(table.page([row], "plot.png", "command", 0))["uniform"]
    assert table.rows_of("uniform", section) == [row]


def test_adding_to_a_page_that_is_not_there_is_refused(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        table.main(["--quick", "--output", str(tmp_path / "none.md"), "--only", "fp16"])
    assert "--only needs a page to add to" in capsys.readouterr().err
