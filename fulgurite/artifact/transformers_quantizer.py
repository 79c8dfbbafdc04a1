"""What makes ``from_pretrained`` read an artefact: our quantizer, registered with transformers.

    model.safetensors -> transformers' own loading puts each packed tensor where the weight belongs
                      -> decoded there at once, or on each use (packed)

Every packed weight is stored under the weight's own name, as bytes of another shape. A transformers that
does not know this format therefore stops at the shape instead of starting from random weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import (
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import MANIFEST_FILE
from fulgurite.artifact.packed import pack_module_
from fulgurite.artifact.reader import Artifact

METHOD = "fulgurite"
Places = Mapping[str, Sequence[tuple[nn.Module, str]]]
"""Each parameter name with the modules and attributes that hold it."""


class FulguriteConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of an artefact; all else stands in its manifest."""

    def __init__(self, format: str = "", **_: Any) -> None:
        self.quant_method: Any = METHOD  # their enumeration holds the built-in ones only
        self.format = format


class FulguriteQuantizer(HfQuantizer):
    """Load all weights of an artefact or fail."""

    requires_calibration = True

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._artifact: Artifact | None = None
        self._packed_names: set[str] = set()
        self._dtypes: dict[str, torch.dtype] = {}

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is needed but torch."""

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kwargs: Any) -> bool:
        """Let packed bytes take the place of a weight of another shape."""
        return param_name in self._packed_names

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> Any:
        if not checkpoint_files:
            raise ArtifactError("an artefact is loaded from its folder, not from a state_dict")
        self._artifact = Artifact(_artifact_folder(Path(checkpoint_files[0]), model))
        manifest = self._artifact.manifest
        state = model.state_dict(keep_vars=True)
        _check_names(manifest, state)
        if self._artifact.base is not None and getattr(model.config, "packed", False):
            raise ArtifactError(
                f"{manifest.folder}: a delta is added to its base's weights: packed must be false"
            )
        self._packed_names = {name for name in manifest.weights if not manifest.layout(name).native}
        self._dtypes = {name: state[name].dtype for name in manifest.weights}
        ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or set()
        # a list in some versions of transformers, a set in others
        model._keys_to_ignore_on_load_unexpected = type(ignored)([*ignored, r"^fulgurite\.shared\."])
        return model

    @torch.no_grad()
    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        artifact = self._artifact
        if artifact is None:
            raise ArtifactError("transformers did not call the quantizer before loading the weights")
        packed = bool(getattr(model.config, "packed", False))
        places = _places(model)
        if artifact.base is None:
            self._decode(artifact, places, packed=packed)
        else:
            self._add_to_base(artifact, places)
        if hasattr(model.config, "packed"):
            del model.config.packed
        if not packed:  # now an ordinary network: it trains, saves and moves as one
            self.remove_quantization_config(model)  # type: ignore[no-untyped-call]
            for module in model.modules():
                if hasattr(module, "config") and hasattr(module.config, "_is_quantized"):
                    module.config._is_quantized = False
        return model

    def _decode(self, artifact: Artifact, places: Places, *, packed: bool) -> None:
        """Put each weight where its bytes are now."""
        for name in sorted(self._packed_names):
            module, attribute = places[name][0]
            # an older transformers casts the bytes to the network's dtype: each of 0..255 survives that
            data = module.get_parameter(attribute).data.to(torch.uint8)
            encoded = artifact.unpack(name, data)
            dtype = self._dtypes[name]
            if packed:
                for module, attribute in places[name]:
                    pack_module_(module, attribute, encoded, dtype)
            else:
                _place(places[name], artifact.decode_packed(name, encoded).to(dtype))
        for name in artifact.manifest.weights.keys() & places.keys() - self._packed_names:
            # tying a head to packed bytes has cut or padded the head's bias to as many
            module, attribute = places[name][0]
            parameter = module.get_parameter(attribute)
            if tuple(parameter.shape) != artifact.manifest.layout(name).shape:
                parameter.data = artifact.decode(name).to(parameter.device, parameter.dtype)

    def _add_to_base(self, artifact: Artifact, places: Places) -> None:
        """Put the sum where a delta's bytes or values are now."""
        for name in artifact.manifest.weights.keys() & places.keys():
            module, attribute = places[name][0]
            device = module.get_parameter(attribute).device
            _place(places[name], artifact.whole(name).to(device, self._dtypes[name]))

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """A packed network is copied as its folder, not saved again."""
        return False

    @property
    def is_trainable(self) -> bool:
        """A decoded network trains like any other; a packed one does not."""
        return False


def register() -> None:
    """Make transformers know artefacts; once."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(METHOD)(FulguriteConfig)
        register_quantizer(METHOD)(FulguriteQuantizer)


def _artifact_folder(weights_file: Path, model: Any) -> Path:
    local = Path(str(model.config.name_or_path)).is_dir()
    if (
        not local and not (weights_file.parent / MANIFEST_FILE).exists()
    ):  # a hub's cache holds what was asked for
        from transformers.utils.hub import cached_file

        cached_file(model.config.name_or_path, MANIFEST_FILE)
    return weights_file.parent


def _check_names(manifest: Any, state: dict[str, Any]) -> None:
    """Every entry of the network is in the artefact, in the right shape, and the other way round."""
    where = manifest.folder / MANIFEST_FILE
    known = {*manifest.weights, *manifest.aliases}
    if missing := sorted(set(state) - known):
        raise ArtifactError(
            f"{where}: the network has {missing[0]!r} and {len(missing) - 1} more, not listed there"
        )
    if extra := sorted(set(manifest.weights) - set(state)):
        raise ArtifactError(f"{where}: lists {extra[0]!r} and {len(extra) - 1} more, which the network lacks")
    for name in manifest.weights:
        found, expected = manifest.layout(name).shape, tuple(state[name].shape)
        if found != expected:
            raise ArtifactError(
                f"{where}: weight {name!r} has shape {list(found)}, the network's is {list(expected)}"
            )


def _place(places: Sequence[tuple[nn.Module, str]], weight: torch.Tensor) -> None:
    """Make a decoded weight the parameter of all modules that share it."""
    # contiguous: save_pretrained cannot write a transposed view
    parameter = nn.Parameter(weight.contiguous(), requires_grad=weight.is_floating_point())
    for module, attribute in places:
        module._parameters[attribute] = parameter


def _places(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Each parameter name with every module and attribute that hold that same parameter."""
    by_identity: dict[int, list[tuple[nn.Module, str]]] = {}
    names: dict[str, int] = {}
    for prefix, module in model.named_modules(remove_duplicate=True):
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                by_identity.setdefault(id(parameter), []).append((module, attribute))
                names[f"{prefix}.{attribute}" if prefix else attribute] = id(parameter)
    return {name: by_identity[identity] for name, identity in names.items()}


register()
