"""Pruned weights in a cascade: refined, written and loaded as sparse as asked; a gate's no means fewer zeros."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fulgurite import Artifact
from fulgurite.analysis.sparsity import analyze_sparsity
from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]


def pruned(settings: dict[str, Any], **stage: Any) -> dict[str, Any]:
    return {"codec": {"class_path": "SparseCodec", "init_args": settings}, "select": "*.layers.*", **stage}


def test_a_pruned_stage_keeps_its_zeros_and_one_that_asks_too_much_is_relaxed(compress: Compress) -> None:
    cascade = {
        "gate": {"stage_retention": [0.01], "cumulative": 0.01, "floor": 0.01},
        "stages": {
            "pairs": pruned({"pattern": "2:4", "score": "sparsegpt", "bits": 4}, refine={"steps": 8}),
            "few": pruned({"sparsity": 0.95, "score": "wanda", "bits": 4}, min_retention=0.999, retries=1),
        },
    }
    status, folder = compress(cascade)
    record = read_record(folder)
    assert (status, record["level"]) == (0, "pairs")
    first, second = record["stages"]
    assert first["tries"][0]["refine"]["steps"] == 8
    assert "sparsity 0.95 -> 0.8" in second["tries"][1]["changes"]  # a severe loss takes the large step
    artifact = Artifact(folder / "artifact")
    rows = {row.weight: row for row in analyze_sparsity(artifact)}
    layers = [row for name, row in rows.items() if ".layers." in name]
    assert len(layers) == 14  # two layers of seven matrices
    for row in layers:
        assert row.patterns["2:4"] == 1.0
        # few-bit survivors are never zero, unless a row of them is
        assert row.zeros == 0.5
        # four bits for each second weight, log2(6) bits for each four, 24 bits a row of 48 or more
        assert artifact.encoded(row.weight).bits_per_weight < 2 + 0.65 + 0.5 + 0.15
