r"""Folders of open_clip networks: read so that nothing is left random, written so that open_clip reads them.

open_clip_config.json        -> network, how pictures become pixels
open_clip_model.safetensors  -> every weight, or the names of those that do not fit
tokenizer.json, ...          -> the tokenizer; open_clip's own where the configuration names none

open_clip itself would resize or start anew what does not fit; here that is an error.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.artifact.network_files import processor_files
from fulgurite.artifact.open_clip_network import CONFIG_FILE, check_model_cfg, make_network, quiet
from fulgurite.models.adapter import ImageSettings
from fulgurite.models.image_settings import preprocess_of_settings

WEIGHTS_FILE = "open_clip_model.safetensors"
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A folder's ``model_cfg``, checked, and its ``preprocess_cfg``, empty where there is none.

    Raises:
        FileNotFoundError: If the folder has no configuration.
        ValueError: If it is not JSON, or not that of a CLIP.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: expected {CONFIG_FILE}, found {listing(folder)}")
    try:
        parsed = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("preprocess_cfg", {}), dict):
        raise ValueError(f"{path}: expected an object with model_cfg and preprocess_cfg")
    try:
        return check_model_cfg(parsed.get("model_cfg")), parsed.get("preprocess_cfg", {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def find_weights(folder: Path) -> Path:
    """The file of a folder that open_clip would take the weights from.

    Raises:
        FileNotFoundError: If there is none.
    """
    from open_clip.factory import _find_checkpoint_in_dir

    with quiet():
        found = _find_checkpoint_in_dir(folder)
    if found is None:
        raise FileNotFoundError(f"{folder}: expected weights ({WEIGHTS_FILE}), found {listing(folder)}")
    return Path(found)


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a checkpoint: every weight, each in its shape.

    Raises:
        ValueError: If the file cannot be read, or weights are missing, unexpected or of another shape.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.factory import load_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: expected a checkpoint of {', '.join(_SUFFIXES)}, found {path.suffix!r}")
    try:
        state: dict[str, Tensor] = load_state_dict(str(path))
        if not state or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it holds no tensors by name")
        state = convert_state_dict(network, state)
        if "positional_embedding" in state and not hasattr(network, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)  # of a CLIP, into a CustomTextCLIP
    except Exception as error:  # each format has errors of its own, cut files end in many of them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: the weights cannot be read, are they cut short? ({reason})") from error
    expected = network.state_dict()
    for name in ("logit_scale", "logit_bias"):  # a number in some checkpoints, a vector of one in others
        if name in state and name in expected and state[name].numel() == expected[name].numel() == 1:
            state[name] = state[name].reshape(expected[name].shape)
    problems = _problems(
        expected, {name: value for name, value in state.items() if "position_ids" not in name}
    )
    if problems:
        raise ValueError(f"{path}: the checkpoint does not fit: {'; '.join(problems)}")
    with torch.no_grad():
        for name, value in expected.items():  # the network's own tensors
            value.copy_(state[name])


def check_fits(network: nn.Module, model_cfg: Mapping[str, Any]) -> None:
    """Make sure that a configuration describes a network: saved with another, it could not be loaded.

    Raises:
        ValueError: With the names of weights that the configuration has otherwise.
    """
    from fulgurite.artifact.packed import is_packed

    if is_packed(network):
        raise ValueError(
            "a packed network is copied as its folder, not saved again; load it with packed=False"
        )
    expected = make_network(check_model_cfg(model_cfg), "meta").state_dict()
    if problems := _problems(expected, network.state_dict()):
        raise ValueError(f"the network is not what its configuration says: {'; '.join(problems)}")


def folder_files(model_cfg: Mapping[str, Any], images: ImageSettings, tokenizer: Any) -> dict[str, bytes]:
    """All files of a folder but the weights, by name: the same for the same network, without paths."""
    settings = {**model_cfg, "text_cfg": dict(model_cfg["text_cfg"])}
    files: dict[str, bytes] = {}
    if is_transformers_tokenizer(tokenizer):
        # open_clip takes the tokenizer from a local folder itself, whatever name stands here
        settings["text_cfg"].setdefault("hf_tokenizer_name", ".")
        files |= processor_files(tokenizer.tokenizer)
    config = {"model_cfg": settings, "preprocess_cfg": preprocess_of_settings(images)}
    files[CONFIG_FILE] = json.dumps(config, separators=(",", ":"), sort_keys=True).encode()
    return files


def load_folder_tokenizer(folder: Path, model_cfg: Mapping[str, Any]) -> Any:
    """The tokenizer that open_clip takes for a folder.

    Raises:
        FileNotFoundError: If the configuration names one of transformers and the folder has none.
        ValueError: If it cannot be read.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = model_cfg["text_cfg"]
    settings = dict(text.get("tokenizer_kwargs") or {})
    length = text.get("context_length", 77)
    if not text.get("hf_tokenizer_name"):
        return SimpleTokenizer(context_length=length, **settings)
    if not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
        raise FileNotFoundError(
            f"{folder}: expected a tokenizer (tokenizer.json), as text_cfg.hf_tokenizer_name says, "
            f"found {listing(folder)}"
        )
    try:
        tokenizer = HFTokenizer(
            str(folder),
            context_length=length,
            tokenizer_mode=text.get("tokenizer_mode"),
            local_files_only=True,
            trust_remote_code=False,
            **settings,
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: the tokenizer cannot be read: {str(error).splitlines()[0]}") from error
    if tokenizer.tokenizer.pad_token_id is None:
        raise ValueError(f"{folder}: expected a tokenizer with a token to pad with, found none")
    return tokenizer


def wrap_tokenizer(tokenizer: Any, model_cfg: Mapping[str, Any]) -> Any:
    """A tokenizer of transformers as open_clip would read it back from a folder."""
    with tempfile.TemporaryDirectory() as name:
        for file, data in processor_files(tokenizer).items():
            (Path(name) / file).write_bytes(data)
        return load_folder_tokenizer(Path(name), model_cfg)


def attach_images(network: Any, images: ImageSettings) -> None:
    """Tell the network how its pictures become pixels, where open_clip's own functions look for it."""
    from open_clip.model import set_model_preprocess_cfg

    set_model_preprocess_cfg(network, preprocess_of_settings(images))


def is_transformers_tokenizer(tokenizer: Any) -> bool:
    """Whether one of open_clip's tokenizers is one of transformers in its clothes."""
    return hasattr(tokenizer, "tokenizer")


def decode_simple(tokenizer: Any, row: list[int]) -> str:
    """Text of a row of open_clip's own tokenizer: what stands before the end."""
    start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
    if end in row:
        row = row[: row.index(end)]
    text: str = tokenizer.decode([token for token in row if token != start])
    return text.strip()


def listing(folder: Path) -> str:
    """Names of a folder's first files, for messages."""
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:5]) + (", ..." if len(names) > 5 else "")) or "an empty folder"


def _problems(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unexpected, or of another shape, in a few words each."""
    shapes = [
        f"{name} is {list(found[name].shape)}, not {list(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    kinds = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "of another shape": shapes,
    }
    return [f"{len(names)} {kind}: {_few(names)}" for kind, names in kinds.items() if names]


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
