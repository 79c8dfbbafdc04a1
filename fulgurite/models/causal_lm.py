"""Causal language models of transformers: load them whole or not at all, build them from settings.

    folder or hub id -> config.json checked -> weights, none missing -> network in eval mode

transformers is imported when a function is called: the core installs without it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from fulgurite.models.pretrained import from_hub, listing, load_whole, local_folder, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_causal_lm(source: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a trained causal language model; never one with random weights in it.

    Args:
        source: Folder with ``config.json`` and weights, or an id on the Hugging Face hub. A local
            folder needs no network.
        dtype: Type of the weights in memory, whatever the file holds.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        FileNotFoundError: If the folder does not exist, or has no ``config.json`` or no weights.
        ValueError: If it is no causal language model, or weights are missing or of another shape.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    folder = local_folder(source, "config.json with a causal language model")
    if folder is not None:
        _check_config(folder, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    config = from_hub(AutoConfig, source, "model", local=folder is not None)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"{source}: expected a causal language model, found model_type {config.model_type!r}"
        )
    network, _ = load_whole(
        AutoModelForCausalLM,
        str(source),
        what="causal language model",
        dtype=dtype,
        local=folder is not None,
    )
    return cast("PreTrainedModel", network)


def save_causal_lm(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: str | Path
) -> Path:
    """Save a network so that ``load_causal_lm`` and ``load_tokenizer`` read it.

    The files are written beside ``folder`` and moved there when all are whole; a folder of that name
    is replaced.

    Args:
        network: Saved in its own dtype, tied weights once.
        tokenizer: Saved beside it where given.
        folder: Where to.

    Returns:
        The folder.
    """
    target = Path(folder).expanduser()
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with quiet():
        network.save_pretrained(partial)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(partial))
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def build_causal_lm(config: Mapping[str, Any], vocab_size: int | None = None) -> PreTrainedModel:
    """Make a network with random weights from settings; the global seed decides the weights.

    Args:
        config: ``model_type`` and the settings of its transformers configuration.
        vocab_size: Used where ``config`` has none.

    Returns:
        The network in float32.

    Raises:
        ValueError: If ``model_type`` is missing or unknown, or no vocabulary size is given.

    Example:
        >>> sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        >>> network = build_causal_lm({"model_type": "llama", "num_attention_heads": 2, **sizes}, 64)
        >>> network.config.vocab_size
        64
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"config.model_type must be a causal language model such as 'llama', got {model_type!r}"
        )
    if settings.get("vocab_size") is None:
        if vocab_size is None:
            raise ValueError("config needs vocab_size where no data module gives one")
        settings["vocab_size"] = vocab_size
    built = AutoConfig.for_model(model_type, **settings)
    auto: Any = AutoModelForCausalLM
    return cast("PreTrainedModel", auto.from_config(built, dtype=torch.float32))


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub id.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no tokenizer.
        ValueError: If a hub id names none.
    """
    from transformers import AutoTokenizer

    folder = local_folder(source, "a tokenizer")
    if folder is not None and not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
        raise FileNotFoundError(f"{folder}: expected tokenizer.json, found {listing(folder)}")
    return cast(
        "PreTrainedTokenizerBase", from_hub(AutoTokenizer, source, "tokenizer", local=folder is not None)
    )


def unique_parameters(network: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, each once: of tied ones the name that comes first is kept."""
    return dict(network.named_parameters(remove_duplicate=True))


def tied_names(network: nn.Module) -> dict[str, str]:
    """Names that ``unique_parameters`` leaves out, with the name that each stands for.

    Example:
        >>> network = torch.nn.ModuleDict({"embed": torch.nn.Embedding(4, 2), "head": torch.nn.Linear(2, 4)})
        >>> network["head"].weight = network["embed"].weight
        >>> tied_names(network)
        {'head.weight': 'embed.weight'}
    """
    first: dict[int, str] = {}
    alias: dict[str, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        kept = first.setdefault(id(parameter), name)
        if kept != name:
            alias[name] = kept
    return alias


def _check_config(folder: Path, causal: Mapping[str, object]) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: expected config.json with a causal language model, found {listing(folder)}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        raise ValueError(f"{path}: not JSON ({error})") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in causal:
        raise ValueError(
            f"{path}: expected a causal language model such as model_type 'llama', found {model_type!r}"
        )
