"""The check at full size, on a small network: it sees what differs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fulgurite.codecs import UniformCodec, decode
from fulgurite.testing import small_image_text

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "full_size_check.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("full_size_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["full_size_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["open_clip", "blip_caption"])
def test_logits_are_equal_after_loading(
    script: ModuleType, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, adapter = small_image_text(kind)
    monkeypatch.setattr(script, "build", lambda name: (network, adapter))
    found: dict[str, Any] = script.check(kind, "uniform", tmp_path / "artifact")
    assert found["equal"]
    assert found["weights"] == sum(weight.numel() for weight in network.parameters())
    assert "| equal |" in script.row("vit_b32", "uniform", found)


def test_different_logits_are_seen(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, adapter = small_image_text("open_clip")
    monkeypatch.setattr(script, "build", lambda name: (network, adapter))
    plain = script.encode

    def encode_and_change(made: Any, codec: Any) -> Any:
        encoded = plain(made, codec)
        with torch.no_grad():
            made.ln_final.bias.add_(0.01)
        return encoded

    monkeypatch.setattr(script, "encode", encode_and_change)
    found = script.check("open_clip", "uniform", tmp_path / "artifact")
    assert not found["equal"]
    assert "| DIFFERENT |" in script.row("vit_b32", "uniform", found)


def test_a_network_becomes_what_it_decodes_to(script: ModuleType) -> None:
    network, _ = small_image_text("open_clip")
    encoded = script.encode(network, UniformCodec(bits=4, group_size=16))
    state = network.state_dict()
    assert set(encoded) == set(state)
    assert all(torch.equal(decode(encoded[name]), value) for name, value in state.items())
    assert {encoded[name].codec for name in state} == {"uniform", "fp16"}
