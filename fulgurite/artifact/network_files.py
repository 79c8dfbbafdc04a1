"""The files that make an artefact a transformers folder: configuration and tokenizer, as bytes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from fulgurite.artifact.manifest import FORMAT

# where it came from, and how it was read there, is no part of it
_LEFT_OUT = (
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "_commit_hash",
    "is_local",
    "local_files_only",
    "trust_remote_code",
)
_SETTINGS = (
    "generation_config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)


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
            _save(tokenizer, folder)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    config = _cleaned(files["config.json"])
    config["architectures"] = [type(network).__name__]
    # ``packed`` is here so that from_pretrained(folder, packed=True) is understood
    config["packed"] = False
    config["quantization_config"] = {"quant_method": "fulgurite", "format": FORMAT}
    files["config.json"] = _dump(config)
    return _without_origin(files)


def processor_files(processor: Any) -> dict[str, bytes]:
    """Files of a tokenizer or processor of transformers by name: the same for the same one, without paths."""
    with tempfile.TemporaryDirectory() as name:
        _save(processor, Path(name))
        return _without_origin(
            {path.name: path.read_bytes() for path in sorted(Path(name).iterdir()) if path.is_file()}
        )


def _save(processor: Any, folder: Path) -> None:
    """Save a tokenizer or processor as it was made: using it leaves how texts were last cut and padded in it."""
    tokenizer = getattr(processor, "tokenizer", processor)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()  # each call sets them anew
        backend.no_padding()
    processor.save_pretrained(folder)


def _without_origin(files: dict[str, bytes]) -> dict[str, bytes]:
    cleaned = {name: _dump(_cleaned(files[name])) for name in _SETTINGS if name in files}
    return {**files, **cleaned}


def _cleaned(data: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(data)
    return {key: value for key, value in parsed.items() if key not in _LEFT_OUT}


def _dump(config: dict[str, Any]) -> bytes:
    return json.dumps(config, separators=(",", ":"), sort_keys=True).encode()
