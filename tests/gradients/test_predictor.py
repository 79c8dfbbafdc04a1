"""Bits predicted from statistics: recorded in a real fit, learnt by another, judged on what was not seen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from callbacks.record_gradients import RecordGradients
from datamodules import GradientRecordsDataModule
from fulgurite.cli.main import main
from fulgurite.gradients import EntropyPredictor, GradientCodec, load_predictor, save_predictor
from fulgurite.gradients.records import GradientRecords, record
from lightning_modules import EntropyPredictorModule


def gradients(step: int) -> dict[str, torch.Tensor]:
    """Eight layers with heavier and heavier tails."""
    generator = torch.Generator().manual_seed(step)
    shapes = {f"layers.{number}.weight": 1 + number / 4 for number in range(8)}
    return {
        name: values.sign() * values.abs() ** tails
        for name, tails in shapes.items()
        for values in [torch.randn(24, 400, generator=generator) * torch.logspace(-1, 1, 24)[:, None]]
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "gradients.safetensors"
    parts = [record(gradients(step), step, (0.3, 1.0, 3.0), channels=12) for step in range(8)]
    GradientRecords.joined(parts).save(path)
    return path


def test_a_record_is_what_the_coder_took() -> None:
    one = record(gradients(0), 5, (1.0,), channels=3)
    assert len(one) == 8 * 3
    assert one.step.unique().tolist() == [5]
    # the last channel of the first layer is the widest: 10 of a mean square of 17, 2.4 steps
    rms = gradients(0)["layers.0.weight"].square().mean().sqrt()
    width = float(gradients(0)["layers.0.weight"][-1].std() / rms)
    expected = 0.5 * math.log2(2 * math.pi * math.e * width**2)
    assert float(one.bits[2]) == pytest.approx(expected, abs=0.25)


def test_a_trained_predictor_beats_the_formula_where_tails_are_heavy(recorded: Path, tmp_path: Path) -> None:
    data = GradientRecordsDataModule([str(recorded)])
    torch.manual_seed(0)
    module = EntropyPredictorModule(export_dir=str(tmp_path), learning_rate=0.01)
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=60, enable_model_summary=False, **settings)
    trainer.fit(module, data)
    found = trainer.test(module, data, verbose=False)
    scores = {key: value for part in found for key, value in part.items()}
    for held_out in ("unseen_layers", "unseen_steps"):
        assert scores[f"test/{held_out}/error"] < 0.6 * scores[f"test/{held_out}/error_gaussian"], held_out
    saved = load_predictor(tmp_path / "predictor.safetensors")
    statistics = GradientRecords.load(recorded).statistics
    torch.testing.assert_close(saved(statistics), module.predictor(statistics))


def test_a_codec_takes_a_predictor_and_any_receiver_reads_it() -> None:
    given = list(gradients(3).values())
    payload = GradientCodec(EntropyPredictor()).encode(given, 1.0)
    for sent, read in zip(payload.decoded, GradientCodec.decode(payload.data, given), strict=True):
        assert torch.equal(sent, read)


def test_recorded_and_learnt_by_commands(
    trained_network: Path, small_data: dict[str, Any], tmp_path: Path
) -> None:
    model = {"class_path": "lightning_modules.LanguageModel", "init_args": {"source": str(trained_network)}}
    callback = {"class_path": "callbacks.record_gradients.RecordGradients", "init_args": {"every": 2}}
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 1}
    first = {
        "model": model,
        "data": small_data,
        "trainer": {**trainer, "max_steps": 8, "callbacks": [callback]},
    }
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first))
    assert main(["fit", "--config", str(tmp_path / "first.yaml"), "--output_dir", str(tmp_path / "run")]) == 0
    file = tmp_path / "run" / "gradients.safetensors"
    records = GradientRecords.load(file)
    assert records.step.unique().tolist() == [0, 2, 4, 6]
    assert len(records.layers) == 15
    second = {
        "model": {"class_path": "lightning_modules.EntropyPredictorModule"},
        "data": {"class_path": "datamodules.GradientRecordsDataModule", "init_args": {"files": [str(file)]}},
        "trainer": {**trainer, "max_epochs": 1},
    }
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second))
    arguments = ["--config", str(tmp_path / "second.yaml"), "--output_dir", str(tmp_path / "learnt")]
    assert main(["fit", *arguments]) == 0
    load_predictor(tmp_path / "learnt" / "network" / "predictor.safetensors")


def test_what_is_no_predictor_is_refused(tmp_path: Path, recorded: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an entropy predictor, found nothing"):
        load_predictor(tmp_path / "none")
    with pytest.raises(ValueError, match="expected format 'fulgurite-entropy-predictor/1', got"):
        load_predictor(recorded)
    (tmp_path / "text").write_text("no")
    with pytest.raises(ValueError, match="no entropy predictor"):
        load_predictor(tmp_path / "text")
    save_predictor(EntropyPredictor(), tmp_path / "good", {"source": "test"})
    with pytest.raises(ValueError, match="expected format 'fulgurite-gradient-records/1'"):
        GradientRecords.load(tmp_path / "good")
    with pytest.raises(FileNotFoundError, match="RecordGradients writes them"):
        GradientRecords.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every": 0}, "every and channels must be at least 1"),
        ({"quantiser_steps": ()}, "quantiser_steps must be above 0"),
        ({"quantiser_steps": (0.0,)}, "quantiser_steps must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RecordGradients(**settings)


def test_too_few_records_are_refused(tmp_path: Path) -> None:
    record({"only": torch.randn(8, 128)}, 0, (1.0,), channels=8).save(tmp_path / "one")
    with pytest.raises(ValueError, match="expected gradients of 2 layers at least, got 1"):
        GradientRecordsDataModule([str(tmp_path / "one")]).setup("fit")
