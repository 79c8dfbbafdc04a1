"""The metric of a stage: it reaches the codec, the record says what it was, and what had to be left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.artifact.files import sha256_folder
from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]


def three_bits(metric: str) -> dict[str, Any]:
    """Vectors of two in 64 codes: the codec's columns go by the hessian, its codebook by row weights too."""
    arguments = {"vector_length": 2, "codebook_size": 64, "share": False}
    codec = {"class_path": "VptqCodec", "init_args": arguments}
    return {"retries": 0, "stages": {"three": {"codec": codec, "metric": metric, "min_retention": 0.01}}}


def test_each_metric_makes_other_codes_and_the_record_says_which_it_was(compress: Compress) -> None:
    runs = {kind: compress(three_bits(kind), name=kind)[1] for kind in ("identity", "input", "kl")}
    tries = {kind: read_record(folder)["stages"][0]["tries"][0] for kind, folder in runs.items()}
    assert tries["identity"]["metric"] is None
    assert all(layer["weighted_error"] is None for layer in tries["identity"]["layers"])
    for kind in ("input", "kl"):
        assert tries[kind]["metric"] == {"kind": kind, "fallbacks": []}
        assert tries[kind]["settings"]["metric"] == kind
        errors = [layer["weighted_error"] for layer in tries[kind]["layers"]]
        assert len(errors) == 15
        # 3 bits of a Gaussian weight leave 3 to 5 % of the energy, and a metric lowers its own error
        assert all(0 < error < 0.1 for error in errors)
    assert len({sha256_folder(folder / "artifact") for folder in runs.values()}) == 3
    assert not list(runs["kl"].glob("stages/**/metrics.safetensors")), "it is there while it is needed"


def test_a_metric_that_cannot_be_had_is_replaced_told_and_recorded(
    compress: Compress, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_modules.language_compression import LanguageCompression

    sampled = LanguageCompression.sampled_loss

    def broken(self: LanguageCompression, *arguments: Any) -> torch.Tensor:
        return sampled(self, *arguments) * float("nan")

    monkeypatch.setattr(LanguageCompression, "sampled_loss", broken)
    status, folder = compress(three_bits("kl"), name="fallen")
    assert status == 0
    metric = read_record(folder)["stages"][0]["tries"][0]["metric"]
    assert metric["kind"] == "kl"
    assert len(metric["fallbacks"]) == 15
    assert {(entry["kind"], entry["reason"]) for entry in metric["fallbacks"]} == {
        ("input", "kl: has NaN or infinite values")
    }
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("metric")]
    assert len(lines) == 1
    assert "input instead of kl for model.embed_tokens.weight" in lines[0]
    assert lines[0].endswith("and 14 more")
    _, plain = compress(three_bits("input"), name="plain")
    assert sha256_folder(folder / "artifact") == sha256_folder(plain / "artifact")


def test_no_text_to_calibrate_on_is_said(
    compress: Compress, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_modules.language_compression import LanguageCompression

    monkeypatch.setattr(LanguageCompression, "calibration_batches", lambda *_: iter(()))
    status, _ = compress(three_bits("kl"))
    assert status == 1
    message = capsys.readouterr().err
    assert "calibration needs at least one batch, got none" in message
    assert message.count("\n") == 1


def test_an_unknown_metric_is_refused_with_the_known_ones(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = compress(three_bits("hessian"))
    assert status == 2
    message = capsys.readouterr().err
    assert "metric" in message
    assert "kl" in message
