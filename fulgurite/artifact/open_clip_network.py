r"""open_clip networks from their own configuration, without its registry of names.

    open_clip_config.json -> model_cfg checked -> CLIP | CustomTextCLIP, on any device, the meta device included

What a configuration may ask for is bounded here: nothing is downloaded, and nothing but the two classes is made.
open_clip is imported when a function is called: the core installs without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

CONFIG_FILE = "open_clip_config.json"
PREFIX = "open_clip."
"""What names of classes begin with in a manifest that are open_clip's."""

_KEYS = {
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
}
_TOKENIZER_KEYS = {"clean", "strip_sep_token", "reduction_mask", "additional_special_tokens"}
_LONGEST = 4096  # tokens: the mask of which token sees which grows with their square, and no weight bounds it
# what constructors make of bad sizes: all of these
_BAD = (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError, LookupError, AttributeError)


def check_model_cfg(model_cfg: Any, *, most_layers: int = 1000) -> dict[str, Any]:
    """A copy of an open_clip configuration that asks for nothing outside itself.

    Args:
        model_cfg: The ``model_cfg`` of an ``open_clip_config.json``.
        most_layers: Layers of a tower at most; building takes time for each, even without memory.

    Raises:
        ValueError: If it is not that of a CLIP, or asks for another library's tower or a download.
    """
    if not isinstance(model_cfg, Mapping):
        raise ValueError(f"model_cfg must be an object, got {type(model_cfg).__name__}")
    if "multimodal_cfg" in model_cfg:
        raise ValueError("model_cfg must be that of a CLIP, found multimodal_cfg: CoCa is not supported")
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in model_cfg:
            raise ValueError(f"model_cfg needs {key}, found {', '.join(map(str, model_cfg)) or 'nothing'}")
    if unknown := sorted(set(model_cfg) - _KEYS):
        raise ValueError(f"model_cfg has unknown settings {', '.join(unknown)}")
    checked: dict[str, Any] = deepcopy(dict(model_cfg))
    for tower in ("vision_cfg", "text_cfg"):
        if not isinstance(checked[tower], dict):
            raise ValueError(f"{tower} must be an object, got {type(checked[tower]).__name__}")
        layers = checked[tower].get("layers", 12)
        depth = sum(layers) if isinstance(layers, list | tuple) else layers
        if not isinstance(depth, int) or not 0 < depth <= most_layers:
            raise ValueError(f"{tower}.layers must be in [1, {most_layers}], got {layers!r}")
    length = checked["text_cfg"].get("context_length", 77)
    if not isinstance(length, int) or not 0 < length <= _LONGEST:
        raise ValueError(f"text_cfg.context_length must be in [1, {_LONGEST}], got {length!r}")
    if name := checked["text_cfg"].get("hf_model_name"):
        raise ValueError(
            f"text_cfg.hf_model_name must not be set, got {name!r}: text towers of another library "
            "are not in the folder and are not supported"
        )
    asked = checked["text_cfg"].get("tokenizer_kwargs") or {}
    if unknown := sorted(set(asked) - _TOKENIZER_KEYS):
        raise ValueError(
            f"text_cfg.tokenizer_kwargs may hold {', '.join(sorted(_TOKENIZER_KEYS))}, got {', '.join(unknown)}"
        )
    if name := checked["vision_cfg"].get("timm_model_name"):
        import timm

        if not timm.is_model(name):  # it would be fetched, or read from a folder
            raise ValueError(f"vision_cfg.timm_model_name must be one of timm's own networks, got {name!r}")
        checked["vision_cfg"]["timm_model_pretrained"] = False
    return checked


def make_network(model_cfg: Mapping[str, Any], device: torch.device | str = "cpu") -> nn.Module:
    """A network with random weights, or on the meta device with none.

    Args:
        model_cfg: As ``check_model_cfg`` gives it.
        device: Where to; all buffers lie there too.

    Raises:
        ValueError: If open_clip cannot build it.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    settings = deepcopy(dict(model_cfg))
    cls: Any = CustomTextCLIP if settings.pop("custom_text", False) else CLIP
    try:
        with quiet(), torch.device(device):
            network: nn.Module = cls(**settings)
    except _BAD as error:
        raise ValueError(f"open_clip cannot build the network: {error}") from error
    return network


def fill_buffers(network: nn.Module, model_cfg: Mapping[str, Any]) -> None:
    """Compute the buffers of a network on the meta device that are not part of its state, in place."""
    state = network.state_dict()
    lost = {name: buffer for name, buffer in network.named_buffers() if name not in state and buffer.is_meta}
    computed: dict[str, Tensor] = {}
    if set(lost) - {"attn_mask", "text.attn_mask"}:
        # some of timm's towers: their values follow from the sizes, so another one of the kind has them
        with torch.random.fork_rng(devices=[]):
            computed = dict(make_network(model_cfg).named_buffers())
    for name, buffer in lost.items():
        if name not in computed:  # open_clip's causal mask of texts
            computed[name] = torch.full(buffer.shape, float("-inf"), dtype=buffer.dtype).triu(1)
        owner, _, attribute = name.rpartition(".")
        network.get_submodule(owner)._buffers[attribute] = computed[name]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip and timm from logging: what fails is raised."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(before)
