"""Low rank, a quantiser, and both together at equal bits: weighted error of one network's layers.

python scripts/low_rank_table.py ../shared/data/models/stories260K ../shared/data/text/tinystories/train.txt

texts -> second moments of each layer's inputs -> every codec at each rate -> mean error over layers, by their size
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from fulgurite.calibration import gather_metrics
from fulgurite.codecs import Codec, EcqCodec, Float16Codec, LowRankCodec, LowRankPlusCodec, decode
from fulgurite.models import load_causal_lm, load_tokenizer

_ECQ = EcqCodec(states=8)
WAYS: dict[str, Codec] = {
    "ecq": _ECQ,
    "low rank, 16-bit factors": LowRankCodec(inner=Float16Codec(), bits_per_weight=2),
    "low rank, ecq factors of 4 bits": LowRankCodec(inner=EcqCodec(rate=4, states=8), bits_per_weight=2),
    "ecq and a correction of rank 2": LowRankPlusCodec(
        rank=2, inner=_ECQ, factors=EcqCodec(rate=5, states=8), bits_per_weight=2, iterations=1
    ),
}


def main() -> None:
    """Encode, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--select", default="model.layers.*.weight")
    parser.add_argument("--bits", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--tokens", type=int, default=8192)
    given = parser.parse_args()
    network: Any = load_causal_lm(given.model).eval()  # type: ignore[no-untyped-call]
    text = given.text.read_text(encoding="utf-8", errors="ignore")[: 8 * given.tokens]
    tokens = torch.tensor(load_tokenizer(given.model)(text)["input_ids"][: given.tokens // 256 * 256])
    batches = [{"input_ids": rows} for rows in torch.split(tokens.reshape(-1, 256), 8)]
    weights = {
        name: weight.detach()
        for name, weight in network.named_parameters()
        if weight.dim() == 2 and fnmatchcase(name, given.select)
    }
    metrics = gather_metrics(network, batches, list(weights), "input")
    print(
        f"{len(weights)} weights, {len(tokens):,} tokens of calibration; error over energy, in the metric input\n"
    )
    print("| way | " + " | ".join(f"{bits:g} bits" for bits in given.bits) + " |")
    print("| --- |" + " ---: |" * len(given.bits))
    for way, codec in WAYS.items():
        cells = []
        for bits in given.bits:
            asked = codec.at_rate(bits)
            assert asked is not None
            error = energy = stored = 0.0
            for name, weight in weights.items():
                encoded = asked.encode(weight, metrics[name].hessian, metrics[name].row_weight)
                share = metrics[name].cost(weight - decode(encoded)) / metrics[name].cost(weight)
                error += share * weight.numel()
                energy += weight.numel()
                stored += 8 * encoded.num_bytes
            cells.append(f"{error / energy:.4f} at {stored / energy:.2f}")
        print(f"| {way} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
