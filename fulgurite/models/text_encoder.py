"""Text encoders: load them whole or not at all, with what their folder says of pooling.

    folder | hub id | package:NAME -> network, tokenizer, pooling

Reads folders of transformers and of sentence-transformers (https://www.sbert.net), whose ``modules.json``
lists what comes after the network.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from fulgurite.models.pooling import MODES, Pooling
from fulgurite.models.pretrained import from_hub, listing, load_whole, local_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = "package:"
"""What a source begins with that names an installed Python package with weights in it."""

_ENDLESS = 1_000_000  # tokenizers without a limit say 1e30


def find_source(source: str) -> str:
    """The folder that ``package:NAME`` stands for; any other source as it is.

    Args:
        source: A folder, a hub id, or ``package:`` and the name of an installed Python package that brings
            one folder with ``config.json`` and ``model.safetensors``.

    Raises:
        FileNotFoundError: If the package is not installed, or has no such folder.
        ValueError: If it has several.
    """
    if not source.startswith(PACKAGE):
        return source
    name = source.removeprefix(PACKAGE)
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"{source}: expected an installed package, found none; pip install {name}"
        ) from error
    places = {Path(str(file.locate())) for file in files}
    folders = sorted(
        path.parent
        for path in places
        if path.name == "config.json" and path.with_name("model.safetensors") in places
    )
    if not folders:
        raise FileNotFoundError(
            f"{source}: expected a folder with config.json and model.safetensors among its "
            f"{len(places)} files, found none"
        )
    if len(folders) > 1:
        raise ValueError(
            f"{source}: expected one network, found {len(folders)}: give one of the folders "
            f"{', '.join(map(str, folders))}"
        )
    return str(folders[0])


def load_text_encoder(source: str, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a trained text encoder; never one with random weights in it.

    Args:
        source: Folder, hub id, or ``package:NAME``; see ``find_source``.
        dtype: Type of the weights in memory, whatever the file holds.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        FileNotFoundError: If there is no such folder, or no weights in it.
        ValueError: If weights are missing or of another shape, or the network gives no token vectors.
    """
    from transformers import AutoModel

    found = find_source(source)
    folder = _transformer_folder(found)
    if folder is not None:
        for pattern in ("config.json", "*.safetensors"):
            if not any(folder.glob(pattern)):
                raise FileNotFoundError(
                    f"{folder}: expected a text encoder with {pattern}, found {listing(folder)}"
                )
    network, _ = load_whole(
        AutoModel,
        found if folder is None else str(folder),
        what="text encoder",
        dtype=dtype,
        local=folder is not None,
        shown=source,
    )
    if network.config.is_encoder_decoder:
        raise ValueError(
            f"{source}: expected an encoder, found {type(network).__name__}, an encoder with a decoder"
        )
    return cast("PreTrainedModel", network)


def load_encoder_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer; texts are cut by ``Pooling.max_length`` and padded at their end.

    Raises:
        FileNotFoundError: If the folder holds no tokenizer.
        ValueError: If a hub id names none, or it has no token to pad with.
    """
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    found = find_source(source)
    folder = _transformer_folder(found)
    place = found if folder is None else str(folder)
    if folder is not None and not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
        raise FileNotFoundError(f"{folder}: expected tokenizer.json, found {listing(folder)}")
    tokenizer: Any = from_hub(AutoTokenizer, place, "tokenizer", local=folder is not None)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{source}: expected a tokenizer with a token to pad with, found none")
    if _read(folder, "sentence_bert_config.json").get("do_lower_case"):
        known = tokenizer.backend_tokenizer.normalizer
        lower = normalizers.Lowercase()
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([lower, known] if known else [lower])
    tokenizer.padding_side = "right"
    return cast("PreTrainedTokenizerBase", tokenizer)


def read_pooling(source: str, network: Any, tokenizer: Any) -> Pooling:
    """What a folder says of pooling; the mean, normalised, where it says nothing.

    Args:
        source: As ``load_text_encoder`` takes it.
        network: Its network, for the positions that it knows.
        tokenizer: Its tokenizer, for the length that it cuts at.

    Raises:
        ValueError: If the folder asks for what cannot be done here, such as a further dense layer.
    """
    found = find_source(source)
    root = local_folder(found, "a text encoder")
    limits = [tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", _ENDLESS)]
    limits.append(_read(_transformer_folder(found), "sentence_bert_config.json").get("max_seq_length"))
    length = min(int(limit) for limit in limits if limit is not None)
    if length >= _ENDLESS:
        length = Pooling.max_length
    modules = _modules(root)
    if not modules:
        return Pooling(max_length=length)
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(
            f"{root}/modules.json: expected Transformer, Pooling and at most Normalize, found {', '.join(kinds)}"
        )
    assert root is not None  # there are modules
    place = root / modules[1][1]
    modes = _modes(_read(place, "config.json"))
    if len(modes) != 1 or modes[0] not in MODES:
        raise ValueError(
            f"{place}/config.json: expected one pooling mode of {', '.join(MODES)}, found {', '.join(modes)}"
        )
    return Pooling(cast(Any, modes[0]), "Normalize" in kinds, length)


def _transformer_folder(source: str) -> Path | None:
    """The folder with the network itself, which older sentence-transformers put one level down."""
    root = local_folder(source, "a text encoder")
    modules = _modules(root)
    return root / modules[0][1] if root is not None and modules else root


def _modules(root: Path | None) -> list[tuple[str, str]]:
    """Kind and folder of each of sentence-transformers' modules; empty where the folder lists none."""
    path = None if root is None else root / "modules.json"
    if path is None or not path.is_file():
        return []
    try:
        listed = json.loads(path.read_bytes())
        return [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in listed]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a list of modules with type and path ({error!r})") from error


def _modes(config: dict[str, Any]) -> list[str]:
    """Pooling modes of a configuration, new or old."""
    named = config.get("pooling_mode")
    if named is not None:
        return [named] if isinstance(named, str) else [str(mode) for mode in named]
    switched = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    known = {switch: mode for mode, switch in MODES.items()}
    return [known.get(key, key) for key in switched] or ["mean"]


def _read(folder: Path | None, name: str) -> dict[str, Any]:
    """A JSON object of the folder; empty where there is no such file."""
    path = None if folder is None else folder / name
    if path is None or not path.is_file():
        return {}
    try:
        parsed = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(parsed).__name__}")
    return parsed
