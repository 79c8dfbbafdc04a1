"""``python -m fulgurite.search.latency ARTIFACT FILE``: the time of a pass, measured in a process of its own."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

from fulgurite.artifact.files import write_file

BATCH, WINDOW = 8, 64  # items of a pass and tokens of each
REPEATS = 30


def measure_latency(artifact: Path) -> dict[str, float]:
    """Measure passes of an artefact over tokens drawn at random.

    Raises:
        ValueError: If its network does not read tokens alone.
    """
    import torch

    from fulgurite.artifact.loading import load
    from fulgurite.artifact.manifest import read_manifest
    from fulgurite.evaluation.benchmarks.efficiency import measure_efficiency

    network = load(artifact)
    size = getattr(getattr(network, "config", None), "vocab_size", None)
    reads = inspect.signature(network.forward).parameters
    if not isinstance(size, int) or "input_ids" not in reads or "pixel_values" in reads:
        raise ValueError(
            f"{artifact}: latency_ms is measured on networks that read tokens, got {type(network).__name__}"
        )
    tokens = torch.randint(size, (BATCH, WINDOW), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens}
    if "attention_mask" in reads:
        batch["attention_mask"] = torch.ones_like(tokens)
    num_bytes = read_manifest(artifact).num_bytes
    return measure_efficiency(network, batch, num_bytes=num_bytes, repeats=REPEATS).facts


def main(artifact: str, output: str) -> int:
    """Measure and write the numbers as JSON; an error is one sentence."""
    try:
        facts = measure_latency(Path(artifact))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_file(Path(output), json.dumps(facts, indent=1).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
