"""Methods without calibration: 16-bit floats, HQQ, optimum-quanto, torchao, bitsandbytes.

Each is called as its own documentation says; what the network is not made of ``nn.Linear`` stays in 16 bits.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import torch
from peers.image_network import ImageNetwork
from peers.method import Job, Method
from peers.text_network import TextNetwork
from torch import nn
from typing_extensions import override

_HALF = torch.float16


class Original(Method):
    """The network as it was, in a float type."""

    name, title = "original", "original"

    @override
    def label(self, settings: Mapping[str, Any]) -> str:
        return f"original, {settings['dtype']}"

    @override
    def compress(self, job: Job) -> None:
        network = job.network.build(job.source, getattr(torch, job.settings["dtype"]))
        if isinstance(job.network, ImageNetwork):
            from safetensors.torch import save_file

            save_file(_stateful(network), job.out / f"{job.network.name}.safetensors")
        else:
            network.save_pretrained(job.out)  # type: ignore[operator]

    @override
    def load(self, job: Job) -> nn.Module:
        return job.network.build(job.out, getattr(torch, job.settings["dtype"]))


class Hqq(Method):
    """Half-quadratic quantisation (Badri and Shaji 2023)."""

    name, title, packages, modules = "hqq", "HQQ", ("hqq",), ("hqq.models.hf.base", "hqq.core.quantize")
    link = "https://github.com/dropbox/hqq"

    @override
    def compress(self, job: Job) -> None:
        from hqq.core.quantize import BaseQuantizeConfig, HQQBackend, HQQLinear
        from hqq.models.hf.base import AutoHQQHFModel

        HQQLinear.set_backend(HQQBackend.PYTORCH)
        config = BaseQuantizeConfig(nbits=job.settings["bits"], group_size=job.settings["group_size"], axis=1)
        network = job.network.build(job.source, _HALF)
        if isinstance(job.network, TextNetwork):
            AutoHQQHFModel.quantize_model(network, quant_config=config, compute_dtype=_HALF, device="cpu")
            AutoHQQHFModel.save_quantized(network, str(job.out))
            return
        # its loop over layers knows language models only; the layer itself takes any nn.Linear
        for name in _linears(job, network):
            layer = HQQLinear(network.get_submodule(name), config, compute_dtype=_HALF, device="cpu")
            network.set_submodule(name, layer)
        torch.save(network.state_dict(), job.out / "qmodel.pt")
        _save_config(network, job)

    @override
    def load(self, job: Job) -> nn.Module:
        from hqq.core.quantize import HQQBackend, HQQLinear
        from hqq.models.hf.base import AutoHQQHFModel

        HQQLinear.set_backend(HQQBackend.PYTORCH)
        if isinstance(job.network, TextNetwork):
            found: nn.Module = AutoHQQHFModel.from_quantized(str(job.out), compute_dtype=_HALF, device="cpu")
            return found.eval()
        network = job.network.skeleton(job.out).to(_HALF)
        state = torch.load(job.out / "qmodel.pt", map_location="cpu", weights_only=False)
        for name in _linears(job, network):
            own = {
                key.removeprefix(f"{name}."): state.pop(key)
                for key in list(state)
                if key.startswith(f"{name}.")
            }
            layer = HQQLinear(None, None, compute_dtype=_HALF, device="cpu", initialize=False)
            layer.load_state_dict(own)
            network.set_submodule(name, layer)
        network.load_state_dict(state, strict=False)
        return network.eval()


class Quanto(Method):
    """Symmetric int8, or affine int4 and int2 in groups that quanto picks itself."""

    name, title, packages, modules = "quanto", "optimum-quanto", ("optimum-quanto",), ("optimum.quanto",)
    link = "https://github.com/huggingface/optimum-quanto"

    def _wrapper(self, job: Job) -> Any:
        from optimum.quanto import QuantizedTransformersModel

        return type("Quantized", (QuantizedTransformersModel,), {"auto_class": job.auto()})

    @override
    def compress(self, job: Job) -> None:
        from optimum import quanto

        network = job.network.build(job.source, _HALF)
        kind = getattr(quanto, f"qint{job.settings['bits']}")
        if isinstance(job.network, ImageNetwork):
            quanto.quantize(network, weights=kind)
            quanto.freeze(network)
            _save(network, job)
        else:
            head = {"exclude": "lm_head"} if isinstance(job.network, TextNetwork) else {}
            self._wrapper(job).quantize(network, weights=kind, **head).save_pretrained(job.out)

    @override
    def load(self, job: Job) -> nn.Module:
        from optimum import quanto

        if not isinstance(job.network, ImageNetwork):
            network = self._wrapper(job).from_pretrained(job.out)
            # the wrapper passes calls on, but is no module
            return network._wrapped.eval()  # type: ignore[no-any-return]
        import json

        from safetensors.torch import load_file

        kinds = json.loads((job.out / "quanto_qmap.json").read_text())
        network = job.network.skeleton(job.out).to(_HALF)
        quanto.requantize(network, load_file(job.out / "model.safetensors"), kinds)
        return network.eval()


class TorchAo(Method):
    """Affine integers of any width in groups."""

    name, title, packages, modules = "torchao", "torchao intx", ("torchao",), ("torchao.quantization",)
    link = "https://github.com/pytorch/ao"

    def _config(self, job: Job) -> Any:
        from torchao.quantization import IntxWeightOnlyConfig
        from torchao.quantization.granularity import PerGroup

        kind = getattr(torch, f"int{job.settings['bits']}")
        return IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerGroup(job.settings["group_size"]))

    @override
    def compress(self, job: Job) -> None:
        if isinstance(job.network, ImageNetwork):
            from torchao.quantization import quantize_

            network = job.network.build(job.source, _HALF)
            quantize_(network, self._config(job))
            torch.save(network.state_dict(), job.out / "model.pt")
            return
        from transformers import TorchAoConfig

        config = TorchAoConfig(self._config(job))
        job.auto().from_pretrained(job.source, dtype=_HALF, quantization_config=config).save_pretrained(
            job.out
        )

    @override
    def load(self, job: Job) -> nn.Module:
        if isinstance(job.network, ImageNetwork):
            network = job.network.skeleton(job.out).to(_HALF)
            state = torch.load(job.out / "model.pt", map_location="cpu", weights_only=False)
            network.load_state_dict(state, assign=True)
            return network.eval()
        found: nn.Module = job.auto().from_pretrained(job.out, dtype=_HALF)
        return found.eval()


class BitsAndBytes(Method):
    """NF4 (with 8-bit scales where asked) and LLM.int8."""

    name, title, packages, modules = "bitsandbytes", "bitsandbytes", ("bitsandbytes",), ("bitsandbytes",)
    link = "https://github.com/bitsandbytes-foundation/bitsandbytes"

    @override
    def label(self, settings: Mapping[str, Any]) -> str:
        return f"{self.title} {settings['kind']}" + ", double" * settings.get("double", False)

    @override
    def compress(self, job: Job) -> None:
        from transformers import BitsAndBytesConfig

        config = (
            BitsAndBytesConfig(load_in_8bit=True)
            if job.settings["kind"] == "int8"
            else BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=job.settings["kind"],
                bnb_4bit_use_double_quant=job.settings["double"],
                bnb_4bit_compute_dtype=_HALF,
            )
        )
        network = job.auto().from_pretrained(
            job.source, dtype=_HALF, device_map="cpu", quantization_config=config
        )
        network.save_pretrained(job.out)

    @override
    def load(self, job: Job) -> nn.Module:
        found: nn.Module = job.auto().from_pretrained(job.out, dtype=_HALF, device_map="cpu")
        return found.eval()


def _linears(job: Job, network: nn.Module) -> list[str]:
    return [
        name for name in job.network.layers(network) if isinstance(network.get_submodule(name), nn.Linear)
    ]


def _stateful(network: nn.Module) -> dict[str, torch.Tensor]:
    state = network.state_dict()
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _save(network: nn.Module, job: Job) -> None:
    import json

    from optimum.quanto import quantization_map
    from safetensors.torch import save_file

    save_file(network.state_dict(), job.out / "model.safetensors")
    (job.out / "quanto_qmap.json").write_text(json.dumps(quantization_map(network)))


def _save_config(network: nn.Module, job: Job) -> None:
    config = job.source / "config.json"
    if config.is_file():
        shutil.copy(config, job.out / "config.json")
