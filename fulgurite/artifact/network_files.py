"""The files that make an artefact a transformers folder: configuration and tokenizer, as bytes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from fulgurite.artifact.manifest import FORMAT

_LEFT_OUT = ("_name_or_path", "transformers_version", "_commit_hash")  # where it came from is no part of it


def network_files(network: Any, tokenizer: Any | None = None) -> dict[str, bytes]:
    """Configuration, generation settings and tokenizer of a transformers network, by file name.

    Args:
        network: A ``PreTrainedModel``.
        tokenizer: Its tokenizer, or processor; ``None`` where it has none.

    Returns:
        File names and bytes, the same for the same network, without paths of this machine.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network.config.save_pretrained(folder)
        if getattr(network, "generation_config", None) is not None and network.can_generate():
            network.generation_config.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    config = _cleaned(files["config.json"])
    config["architectures"] = [type(network).__name__]
    # ``packed`` is here so that from_pretrained(folder, packed=True) is understood
    config["packed"] = False
    config["quantization_config"] = {"quant_method": "fulgurite", "format": FORMAT}
    files["config.json"] = _dump(config)
    for name in ("generation_config.json", "tokenizer_config.json"):
        if name in files:
            files[name] = _dump(_cleaned(files[name]))
    return files


def _cleaned(data: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(data)
    return {key: value for key, value in parsed.items() if key not in _LEFT_OUT}


def _dump(config: dict[str, Any]) -> bytes:
    return json.dumps(config, separators=(",", ":"), sort_keys=True).encode()
