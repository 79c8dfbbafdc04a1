"""A record as a cascade of three stages over a six-million-weight Llama leaves it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

WEIGHTS = 6_015_360
FP32 = 4 * WEIGHTS  # 24.06 MB
PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def layers(bits: float) -> list[dict[str, Any]]:
    """The embedding, 6 blocks of 7 matrices and a norm: 44 weights with an error that falls 6 dB a bit."""
    base = 4.0**-bits
    found = [("model.embed_tokens.weight", "uniform", 0.4 * base, bits)]
    for block in range(6):
        for place, name in enumerate(PROJECTIONS):
            error = base * (1 + 0.5 * math.sin(3 * block + place))
            found.append((f"model.layers.{block}.{name}.weight", "vptq", error, bits))
    found.append(("model.norm.weight", "fp16", 0.0, 16.0))
    return [
        {"weight": name, "codec": codec, "num_bytes": 18432, "bits_per_weight": width, "nmse": error}
        for name, codec, error, width in found
    ]


def measure(name: str, retention: float, *, informative: bool = True) -> dict[str, Any]:
    """bits/byte between a chance of 4.8 and a reference of 1.9; accuracy between 0.12 and 0.36."""
    chance, reference, unit = (4.8, 1.9, "bits/byte") if name == "bits_per_byte" else (0.12, 0.36, "%")
    value = chance + retention * (reference - chance)
    return {
        "name": name,
        "value": value,
        "reference": reference,
        "chance": chance,
        "retention": retention,
        "low": retention - 0.006,
        "high": retention + 0.006,
        "raw_ratio": value / reference if unit == "%" else reference / value,
        "informative": informative,
        "unit": unit,
    }


def attempt(
    number: int, num_bytes: int, retention: float, needed: float, changes: list[str], **more: Any
) -> dict[str, Any]:
    low = retention - 0.004
    accepted = low >= needed
    said = f"retained {100 * retention:.1f} % (at least {100 * low:.1f} %), needs {100 * needed:.0f} %"
    bits = 8 * num_bytes / WEIGHTS
    return {
        "number": number,
        "settings": {"bits": round(bits), "codebook_size": 256},
        "changes": changes,
        "num_bytes": num_bytes,
        "ratio": FP32 / num_bytes,
        "bits_per_weight": bits,
        "seconds": {"encode": 41.2, "refine": 63.0 if more.get("refine") else None, "evaluate": 12.5},
        "refine": None,
        "gate": {
            "accepted": accepted,
            "needed": needed,
            "retention": retention + 0.008,
            "retention_low": low + 0.008,
            "cumulative": retention,
            "cumulative_low": low,
            "cumulative_needed": 0.84,
            "severity": "none" if accepted else "severe",
            "reason": said,
            "per_measure": [
                measure("bits_per_byte", retention - 0.002),
                measure("next_token_accuracy", retention + 0.002),
                measure("winogrande", 0.4, informative=False),
            ],
        },
        "diagnosis": None if accepted else "Core failure, weakest in attention: more bits there.",
        "layers": layers(bits),
        **more,
    }


def stage(name: str, codec: str, tries: list[dict[str, Any]]) -> dict[str, Any]:
    last = tries[-1]
    accepted = last["gate"]["accepted"]
    return {
        "name": name,
        "codec": codec,
        "source": "reference",
        "accepted": accepted,
        "verdict": last["gate"]["reason"],
        "num_bytes": last["num_bytes"],
        "ratio": last["ratio"],
        "bits_per_weight": last["bits_per_weight"],
        "retention": last["gate"]["cumulative"],
        "retention_low": last["gate"]["cumulative_low"],
        "seconds": sum(spent or 0 for each in tries for spent in each["seconds"].values()),
        "sha256": "91c2" * 16 if accepted else None,
        "path": f"runs/books6m/stages/{name}" if accepted else None,
        "tries": tries,
    }


@pytest.fixture(scope="session")
def complete() -> dict[str, Any]:
    refine = {"steps": 200, "loss_first": 0.31, "loss_last": 0.12, "grokfast": True}
    return {
        "schema": "fulgurite-record/1",
        "success": True,
        "level": "vptq2",
        "name": "books6m",
        "command": "fulgurite compress --config configs/recipes/books6m.yaml",
        "recipe": {"cascade": {"stages": {"seedlm4": {"select": "model.layers.*"}, "vptq2": {"bits": 2}}}},
        "started": "2026-03-01T10:00:00+00:00",
        "finished": "2026-03-01T10:09:21+00:00",
        "seconds": 561.0,
        "environment": {
            "fulgurite": "0.1.0",
            "torch": "2.15.0",
            "transformers": "5.23.0",
            "lightning": "2.6.6",
            "python": "3.11.9",
            "platform": "linux x86_64",
            "cpu_count": 2,
            "device": "cpu",
            "world_size": 1,
        },
        "model": {"source": "models/books6m", "class": "LlamaForCausalLM", "num_weights": WEIGHTS},
        "data": {"description": "books, held out", "windows": 512, "tokens": 131072, "bytes": 412_331},
        "reference": {
            "num_bytes": FP32,
            "checkpoint_bytes": 12_040_112,
            "scores": {
                "bits_per_byte": {
                    "value": 1.9,
                    "chance": 4.8,
                    "unit": "bits/byte",
                    "higher_is_better": False,
                },
                "next_token_accuracy": {"value": 0.36, "chance": 0.12, "unit": "%", "higher_is_better": True},
            },
            "perplexity": 63.2,
        },
        "artifact": {
            "path": "runs/books6m/artifact",
            "num_bytes": 1_650_000,
            "tokenizer_bytes": 210_000,
            "ratio": FP32 / 1_650_000,
            "bits_per_weight": 8 * 1_650_000 / WEIGHTS,
            "sha256": "07fe" * 16,
            "parts": {"weights": 1_400_000, "codebooks": 220_000, "tables": 12_000, "manifest": 18_000},
        },
        "stages": [
            stage("seedlm4", "seedlm", [attempt(1, 3_100_000, 0.991, 0.98, [])]),
            stage(
                "vptq2",
                "vptq",
                [
                    attempt(1, 1_520_000, 0.931, 0.95, []),
                    attempt(2, 1_650_000, 0.961, 0.95, ["codebook_size 256 -> 512"], refine=refine),
                ],
            ),
            stage(
                "hyper",
                "hyper",
                [
                    attempt(1, 900_000, 0.61, 0.90, []),
                    attempt(2, 1_100_000, 0.74, 0.90, ["degree 3 -> 4"]),
                ],
            ),
        ],
        "samples": [
            {
                "prompt": "The old house",
                "reference": " stood at the end of the lane,\nand no one had lived in it for years.",
                "artifact": " stood at the end of the road,\nand no one had been in it.",
            }
        ],
        "notes": ["Samples are greedy."],
    }


@pytest.fixture
def record(complete: dict[str, Any]) -> dict[str, Any]:
    """The complete record, for a test to change."""
    return copy.deepcopy(complete)


@pytest.fixture
def rejected(record: dict[str, Any]) -> dict[str, Any]:
    """The same run where no stage passed: the reference is the result, nothing was sampled."""
    stages = [stage("hyper", "hyper", [attempt(1, 900_000, 0.61, 0.90, [])])]
    stages[0]["tries"][0]["layers"] = []
    gone = {"success": False, "level": "reference", "artifact": None, "samples": [], "stages": stages}
    return record | gone
