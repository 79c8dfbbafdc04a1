"""Methods that see calibration data: GPTQModel, llm-compressor (GPTQ and AWQ), auto-round.

All get the same items of the training data.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import Any

import torch
from peers.method import Job, Method
from torch import nn
from typing_extensions import override

_HALF = torch.float16


class GptqModel(Method):
    """GPTQ (Frantar et al. 2022), symmetric."""

    name, title, environment = "gptqmodel", "GPTQModel", "gptqmodel"
    packages, modules = ("gptqmodel",), ("gptqmodel",)
    link = "https://github.com/ModelCloud/GPTQModel"

    @override
    def compress(self, job: Job) -> None:
        # on two cores its own default gives the loader fewer workers than the loader demands
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
        from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

        bits, group = job.settings["bits"], job.settings["group_size"]
        config = QuantizeConfig(
            bits=bits, group_size=group, sym=True, desc_act=False, offload_to_disk=False, device="cpu"
        )
        network = GPTQModel.load(str(job.source), config, dtype=torch.bfloat16)
        items = [{key: value[0].tolist() for key, value in item.items()} for item in _items(job)]
        network.quantize(items, batch_size=4, backend=BACKEND.TORCH)
        network.save(str(job.out))

    @override
    def load(self, job: Job) -> nn.Module:
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
        from gptqmodel import BACKEND, GPTQModel

        # the backend of plain torch: others compile code for minutes first
        found = GPTQModel.load(str(job.out), device="cpu", backend=BACKEND.TORCH, dtype=torch.bfloat16)
        network: nn.Module = found.model
        return network.eval()


class LlmCompressor(Method):
    """GPTQ by llm-compressor: symmetric at 4 bits, with a zero point below."""

    name, title, environment = "llmcompressor-gptq", "llm-compressor GPTQ", "llmcompressor"
    packages, modules = ("llmcompressor", "compressed-tensors"), ("llmcompressor", "datasets")
    link = "https://github.com/vllm-project/llm-compressor"
    dtype = _HALF

    def modifier(self, network: nn.Module, bits: int, group: int) -> Any:
        """What is done to the layers; those of another width than whole groups get a scale a row."""
        from llmcompressor.modifiers.quantization import GPTQModifier

        return GPTQModifier(
            config_groups=_groups(network, bits, group, symmetric=bits >= 4), ignore=["lm_head"]
        )

    @override
    def compress(self, job: Job) -> None:
        from datasets import Dataset
        from llmcompressor import oneshot

        network = job.network.build(job.source, self.dtype)
        items = [{key: value[0].tolist() for key, value in item.items()} for item in _items(job)]
        oneshot(
            model=network,
            recipe=[self.modifier(network, job.settings["bits"], job.settings["group_size"])],
            dataset=Dataset.from_list(items),
            processor=job.tokenizer(),
            num_calibration_samples=len(items),
            max_seq_length=max(len(next(iter(item.values()))) for item in items),
        )
        network.save_pretrained(job.out, save_compressed=True)  # type: ignore[operator]

    @override
    def load(self, job: Job) -> nn.Module:
        found: nn.Module = job.auto().from_pretrained(job.out, dtype=self.dtype)
        return found.eval()


class LlmCompressorAwq(LlmCompressor):
    """AWQ (Lin et al. 2023) by llm-compressor, with a zero point."""

    name, title = "llmcompressor-awq", "llm-compressor AWQ"
    dtype = torch.bfloat16  # in fp16 its search meets values that are not numbers

    @override
    def modifier(self, network: nn.Module, bits: int, group: int) -> Any:
        from llmcompressor.modifiers.awq import AWQModifier

        if not torch.cuda.is_available():
            # it pins its cache's memory whether or not there is an accelerator to pin it for
            torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign, assignment]
        return AWQModifier(config_groups=_groups(network, bits, group, symmetric=False), ignore=["lm_head"])


class AutoRound(Method):
    """Rounding learned by signed gradients (Cheng et al. 2023), its own default of 200 steps a block."""

    name, title, environment = "autoround", "auto-round", "autoround"
    packages, modules = ("auto-round",), ("auto_round",)
    link = "https://github.com/intel/auto-round"

    @override
    def compress(self, job: Job) -> None:
        from auto_round import AutoRound as Rounding

        bits, group = job.settings["bits"], job.settings["group_size"]
        items = _equally_long([item["input_ids"] for item in _items(job)])
        rounding = Rounding(
            job.network.build(job.source, _HALF),
            job.tokenizer(),
            bits=bits,
            group_size=group,
            sym=bits >= 4,
            iters=job.settings["iters"],
            nsamples=len(items),
            seqlen=items[0].shape[1],
            dataset=items,
            device_map="cpu",
        )
        rounding.quantize_and_save(str(job.out), format="auto_round")
        for folder in [path for path in job.out.iterdir() if path.is_dir()]:  # it makes a folder of its own
            for path in folder.iterdir():
                shutil.move(path, job.out / path.name)
            folder.rmdir()

    @override
    def load(self, job: Job) -> nn.Module:
        found: nn.Module = job.auto().from_pretrained(job.out, dtype=_HALF)
        return found.eval()


class _Published(Method):
    """A format that transformers reads and the package only runs: asked to quantise all the same."""

    config: str

    @override
    def label(self, settings: Any) -> str:
        return self.title

    @override
    def compress(self, job: Job) -> None:
        import transformers

        config = getattr(transformers, self.config)()
        network = job.auto().from_pretrained(job.source, dtype=_HALF, quantization_config=config)
        network.save_pretrained(job.out)

    @override
    def load(self, job: Job) -> nn.Module:
        found: nn.Module = job.auto().from_pretrained(job.out, dtype=_HALF)
        return found.eval()


class Vptq(_Published):
    """VPTQ (Liu et al. 2024)."""

    name, title, packages, modules, config = "vptq", "VPTQ", ("vptq",), ("vptq",), "VptqConfig"
    link = "https://github.com/microsoft/VPTQ"


class Aqlm(_Published):
    """AQLM (Egiazarian et al. 2024)."""

    name, title, packages, modules, config = "aqlm", "AQLM", ("aqlm",), ("aqlm",), "AqlmConfig"
    link = "https://github.com/Vahe1994/AQLM"


def _items(job: Job) -> list[dict[str, torch.Tensor]]:
    return job.network.calibration(job.source, job.data)


def _equally_long(items: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tokens one after the other in rows ``[1, t]`` of one length, which auto-round stacks; without the rest."""
    length = max(item.shape[1] for item in items)
    if all(item.shape[1] == length for item in items):
        return items
    tokens = torch.cat(items, dim=1)
    return list(tokens[:, : tokens.shape[1] // length * length].reshape(-1, 1, length))


def _groups(network: nn.Module, bits: int, group: int, symmetric: bool) -> dict[str, Any]:
    """Groups of inputs for the layers that they fit, a scale a row for the others."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    linear = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    linear.pop("lm_head", None)
    whole = [name for name, layer in linear.items() if layer.in_features % group == 0]
    found = {}
    for kind, names, size in (
        ("group", whole, group),
        ("channel", [name for name in linear if name not in whole], None),
    ):
        weights = QuantizationArgs(
            num_bits=bits, type="int", symmetric=symmetric, strategy=kind, group_size=size
        )
        if names:
            targets = [f"re:^{re.escape(name)}$" for name in names]
            found[kind] = QuantizationScheme(targets=targets, weights=weights)
    return found
