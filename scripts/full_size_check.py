"""Networks of full size through encode, save and load, without their weights: prints a Markdown table.

    python scripts/full_size_check.py
    python scripts/full_size_check.py --network vit_b32 --codec uniform

open_clip's ViT-B-32 and transformers' BLIP-base (captioning) are built with random weights, so nothing is fetched.
Every matrix is encoded and at once overwritten by what it decodes to; the logits of that network are those that the
artefact must give once it is loaded, to the last bit. Each run is a process of its own, for a peak of memory
belongs to one process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite import load
from fulgurite._hooks import network_class_name
from fulgurite.artifact.reader import RAW
from fulgurite.artifact.writer import write_artifact
from fulgurite.codecs import Codec, EcqCodec, Encoded, Float16Codec, UniformCodec, decode
from fulgurite.models import (
    ImageTextAdapter,
    build_image_text,
    tied_names,
    train_caption_tokenizer,
    unique_parameters,
)
from fulgurite.models.open_clip_names import named_config

CODECS: dict[str, Codec] = {
    "uniform": UniformCodec(bits=4, group_size=128),
    "ecq": EcqCodec(rate=4.0, states=8),
}
SHOWN = {"uniform": "uniform, 4 bits, groups of 128", "ecq": "ecq, 4 bits, 8 states"}
NETWORKS = {"vit_b32": "open_clip ViT-B-32", "blip_base": "transformers BLIP-base, captioning"}
TEXTS = ("a red square on the left", "two dogs")
BLIP_BASE_VOCABULARY = 30524  # BlipConfig's own; of the tokenizer here only the special tokens matter


def build(name: str) -> tuple[nn.Module, ImageTextAdapter]:
    """A network of full size with random weights, in eval mode."""
    torch.manual_seed(0)
    if name == "vit_b32":
        network, adapter = build_image_text({"library": "open_clip", **named_config("ViT-B-32")})
    else:
        tokenizer = train_caption_tokenizer(TEXTS, 100, "bert")
        config = {"model_type": "blip_caption", "text_config": {"vocab_size": BLIP_BASE_VOCABULARY}}
        network, adapter = build_image_text({"library": "transformers", **config}, tokenizer)
    return network.eval(), adapter


@torch.no_grad()
def encode(network: nn.Module, codec: Codec) -> dict[str, Encoded]:
    """Encode a network and make it what it decodes to, weight by weight: matrices by the codec, the rest in 16 bits."""
    encoded: dict[str, Encoded] = {}
    parameters = unique_parameters(network)
    for name, weight in parameters.items():
        encoded[name] = (codec if weight.dim() == 2 else Float16Codec()).encode(weight.detach())
        weight.copy_(decode(encoded[name]))
    skipped = {*parameters, *tied_names(network)}
    for name, value in network.state_dict().items():
        if name not in skipped:
            dtype = str(value.dtype).removeprefix("torch.")
            encoded[name] = Encoded(RAW, tuple(value.shape), dtype, {"values": value})
    return encoded


@torch.no_grad()
def logits(network: Any, adapter: ImageTextAdapter) -> Tensor:
    """What a network says of two random pictures and two texts."""
    pixels = torch.randn(2, 3, *adapter.images.size, generator=torch.Generator().manual_seed(1))
    output = network(**adapter.batch(pixels, adapter.tokenize(TEXTS)))
    if not adapter.has_vectors:
        found: Tensor = output.logits
        return found
    images, texts = adapter.vectors_of(output)
    return adapter.scale_and_bias(network)[0] * images @ texts.T


def check(name: str, codec: str, folder: Path) -> dict[str, Any]:
    """Encode, write and load one network; what it took."""
    network, adapter = build(name)
    weights = sum(weight.numel() for weight in unique_parameters(network).values())
    seconds: dict[str, float] = {}
    clock = time.monotonic()

    def lap(step: str) -> None:
        nonlocal clock
        seconds[step], clock = time.monotonic() - clock, time.monotonic()

    encoded = encode(network, CODECS[codec])
    lap("encode")
    manifest = write_artifact(
        folder,
        encoded,
        model_class=network_class_name(network),
        aliases=tied_names(network),
        files=adapter.files(network),
    )
    lap("write")
    expected = logits(network, adapter)
    del network, encoded
    clock = time.monotonic()
    loaded = load(folder)
    lap("load")
    return {
        "weights": weights,
        "seconds": seconds,
        "bytes": manifest.num_bytes,
        "equal": torch.equal(logits(loaded, adapter), expected),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts in KiB
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status says whether all logits were equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, action="append", help="one of them; all by default")
    parser.add_argument("--codec", choices=CODECS, action="append", help="one of them; all by default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        with tempfile.TemporaryDirectory() as name:
            print(json.dumps(check(given.network[0], given.codec[0], Path(name) / "artifact")))
        return 0
    print(
        "| network | codec | weights | MB | x smaller than fp32 | encode s | write s | load s | peak GB | logits |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    whole = True
    for network in given.network or NETWORKS:
        for codec in given.codec or CODECS:
            command = [sys.executable, __file__, "--child", "--network", network, "--codec", codec]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True
            )  # its errors are seen
            found = json.loads(done.stdout.splitlines()[-1])
            whole = whole and found["equal"]
            print(row(network, codec, found), flush=True)
    return 0 if whole else 1


def row(network: str, codec: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [
        NETWORKS[network],
        SHOWN[codec],
        f"{found['weights'] / 1e6:.1f} M",
        f"{found['bytes'] / 1e6:.1f}",
        f"{4 * found['weights'] / found['bytes']:.2f}",
        *(f"{found['seconds'][step]:.0f}" for step in ("encode", "write", "load")),
        f"{found['peak'] / 1e9:.2f}",
        "equal" if found["equal"] else "DIFFERENT",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
