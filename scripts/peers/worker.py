"""One method on one network, in a process of its own: what it prints last is JSON.

    python -m peers.worker compress --method hqq --network books6m --settings '{"bits": 4}' ...
    python -m peers.worker measure ... (the same arguments)

``compress`` is timed from the original's folder to the compressed one; ``measure`` sees only the latter. Quality is
that of the reloaded weights: each layer of the reloaded network is asked what it multiplies with, and these weights
are put into a float32 network, the same for all methods, so that nobody gains or loses by its arithmetic.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peers.method import Job, Method
from peers.network import Network
from peers.networks import NETWORKS
from peers.stored import folder_bytes, layer_bytes, tensor_bytes
from torch import Tensor, nn

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

MOST_DEVIATION = 0.1
"""Relative difference of outputs between a reloaded network and the float32 one with its weights: fp16 and 8-bit
activations stay well below; more says that the weights were not understood."""


def resident(key: str) -> int:
    """``VmRSS`` or ``VmHWM``, its peak, in bytes; as Linux counts."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Set the peak back to what is resident now, and return that."""
    gc.collect()
    _CLEAR.write_text("5")
    return resident("VmRSS")


def compress(method: Method, job: Job) -> dict[str, float]:
    """Compress, with time and peak memory beyond what was there before."""
    _prepare(method, job)
    before, began = reset_peak(), time.perf_counter()
    cpu = time.process_time()
    own = method.compress(job)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "peak_bytes": resident("VmHWM") - before,
        **(own or {}),
    }


def measure(method: Method, job: Job) -> dict[str, Any]:
    """Reload, and judge what has come back."""
    _prepare(method, job)
    original = job.network.build(job.source, torch.float32)
    method.load(job)  # what is compiled on first use has been compiled after this
    began = time.perf_counter()
    reloaded = method.load(job)
    load_s = time.perf_counter() - began
    layers = job.network.layers(original)
    item = job.network.calibration(job.source, job.data)[0]
    answer = output(reloaded, item)  # first: some formats unpack themselves in the first pass
    network = dense(reloaded, job.network, job.source)
    known = output(network, item)
    apart = float((answer - known).norm() / known.norm())
    if not apart <= MOST_DEVIATION:
        raise ValueError(
            f"the reloaded network's outputs are {apart:.0%} from those of its weights in float32"
        )
    found = job.network.layers(network)
    error = sum(float((found[name] - weight).double().square().sum()) for name, weight in layers.items())
    energy = sum(float(weight.double().square().sum()) for weight in layers.values())
    bits = layer_bytes(stored_bytes(method, job), layers)
    numel = {name: weight.numel() for name, weight in layers.items()}
    whole = folder_bytes(job.out)
    weights = sum(weight.numel() for weight in original.parameters())
    return {
        "bytes": whole,
        "weights": weights,
        "bits": 8 * whole / weights,
        "layer_weights": sum(numel.values()),
        "layer_bits": 8 * sum(bits.values()) / sum(numel.values()),
        "kept": sum(numel[name] for name in layers if 8 * bits[name] >= 16 * numel[name])
        / sum(numel.values()),
        "error": (error / energy) ** 0.5,
        "load_s": load_s,
        "deviation": apart,
        "quality": job.network.score(network, job.source, job.data),
    }


def stored_bytes(method: Method, job: Job) -> dict[str, int]:
    """Bytes of each stored tensor; a method whose file is not one tensor a name says itself."""
    own = getattr(method, "tensor_bytes", None)
    return own(job) if own is not None else tensor_bytes(job.out)


def dense(reloaded: nn.Module, network: Network, source: Path) -> nn.Module:
    """A float32 network with all weights of the reloaded one."""
    plain = network.build(source, torch.float32)
    layers = network.layers(plain)
    with torch.no_grad():
        for name, weight in layers.items():
            weight.copy_(layer_weight(reloaded.get_submodule(name), weight.shape))
        for name, value in [*plain.named_parameters(), *plain.named_buffers()]:
            if name.removesuffix(".weight") not in layers:
                owner, _, key = name.rpartition(".")
                value.copy_(getattr(reloaded.get_submodule(owner), key))
    return plain


def layer_weight(layer: nn.Module, shape: torch.Size) -> Tensor:
    """What a layer multiplies with, ``shape``, float32: asked by the identity, whatever the layer is made of."""
    if len(shape) != 2:
        return layer.weight.dequantize().float()  # type: ignore[operator, union-attr, no-any-return]
    bias, layer.bias = layer.bias, None  # beside a bias, small weights would be rounded away
    kinds = [value.dtype for value in [*layer.parameters(), *layer.buffers()] if value.is_floating_point()]
    dtype = next((kind for kind in kinds if kind in (torch.float16, torch.bfloat16)), None)
    try:
        unit = torch.eye(shape[1], dtype=dtype or getattr(layer, "compute_dtype", None) or torch.float32)
        with torch.no_grad():
            found: Tensor = layer(unit)
    finally:
        layer.bias = bias
    return found.float().T


def output(network: nn.Module, item: Mapping[str, Tensor]) -> Tensor:
    """What a network says to one item, in float32."""
    kind = next(value.dtype for value in network.parameters() if value.is_floating_point())
    floats = {key: value.to(kind) if value.is_floating_point() else value for key, value in item.items()}
    with torch.no_grad():  # some tensors of peers cannot be used in inference mode
        found = network(**floats)
    if not isinstance(found, Tensor):
        found = found.logits if "logits" in found else found.last_hidden_state
    return found.float()


def _prepare(method: Method, job: Job) -> None:
    """Import what is needed and read the original once: neither imports nor a cold disk count."""
    torch.manual_seed(0)
    for name in method.modules:
        importlib.import_module(name)
    job.network.build(job.source, torch.float32)


def parser() -> argparse.ArgumentParser:
    """Arguments of both verbs."""
    found = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found.add_argument("verb", choices=("compress", "measure"))
    found.add_argument("--method", required=True)
    found.add_argument("--network", choices=NETWORKS, required=True)
    found.add_argument("--settings", type=json.loads, required=True)
    for name in ("source", "data", "out"):
        found.add_argument(f"--{name}", type=Path, required=True)
    found.add_argument("--threads", type=int, default=1)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Do it and print the figures, or the reason why there are none."""
    from peers.methods import METHODS

    given = parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    job = Job(NETWORKS[given.network], given.source, given.data, given.out, given.settings)
    verb = compress if given.verb == "compress" else measure
    try:
        found = verb(METHODS[given.method], job)
    except Exception as error:
        print(json.dumps({"reason": f"{type(error).__name__}: {error}"}), flush=True)
        raise
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
