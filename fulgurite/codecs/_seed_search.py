r"""Exact search for the seed and latents that rebuild a block of weights best.

    blocks -> w w^T -> one GEMM with the projectors of a tile of seeds -> lower bounds of the errors
                            \-> bound below the best error so far -> quantise in float64 -> best seed

For a seed with matrix ``U`` no latents, quantised or not, can beat the least-squares fit, whose error
is ``|w|^2 - w^T Q Q^T w`` with ``Q`` an orthonormal basis of the columns of ``U``. That is linear in the
``C (C + 1) / 2`` products ``w_i w_j``, so one matrix product bounds a tile of seeds for a chunk of
blocks. Only a seed whose bound lies below the block's best error so far is quantised, some tens of the
65535. A seed that is left out has a bound, hence an error, above an error already reached: the result is
the argmin over all seeds, ties going to the lowest seed.

The product is rounded in float32; ``margin`` bounds what that may hide and goes to the safe side. What
decides, ``fit``, is float64 arithmetic element by element in a fixed order: neither the number of
threads nor the size of the chunks changes a seed.

Under a metric, where an error ``e`` costs ``|R e|^2``, all of this holds for ``R w`` and ``R U``: the same
search over tables made for that metric.

Memory: a workspace of tens of MB a thread (about 1 GB on a GPU) whatever the size of the weight, and 18 to
20 bytes a block; with the scaled blocks, an encoding holds fewer than 3 copies of a float32 weight.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fulgurite.codecs._seed_fit import fit, ordered_sum
from fulgurite.codecs._seed_tables import LANE, Layout, Tile, tile_from, tile_width, weighted_tile
from fulgurite.threads import side_by_side

_CANDIDATES = 1 << 13  # pairs of block and seed quantised at a time: 2 to 4 MB for each temporary
_HITS = 1 << 12  # lanes of a block looked through at a time
_SHARE = 256  # blocks for which another thread is worth its calls
_LOCK = threading.Lock()  # a search changes settings of torch that threads share


@dataclass(frozen=True)
class Choice:
    """The best seed of each block so far, ``[n]``, with its levels ``[n, P]``; written in place."""

    error: Tensor
    seed: Tensor
    exponent: Tensor
    levels: Tensor

    def part(self, some: slice) -> Choice:
        """Some of the blocks, in the same memory."""
        return Choice(self.error[some], self.seed[some], self.exponent[some], self.levels[some])

    def write(self, other: Choice) -> None:
        """Take over the values of another."""
        self.error.copy_(other.error)
        self.seed.copy_(other.seed)
        self.exponent.copy_(other.exponent)
        self.levels.copy_(other.levels)

    @classmethod
    def interleaved(cls, parts: Sequence[Choice]) -> Choice:
        """Block ``i`` of each part in turn, then block ``i + 1`` of each."""
        return cls(
            torch.stack([part.error for part in parts], 1).flatten(),
            torch.stack([part.seed for part in parts], 1).flatten(),
            torch.stack([part.exponent for part in parts], 1).flatten(),
            torch.stack([part.levels for part in parts], 1).flatten(0, 1),
        )


@dataclass(frozen=True)
class _Blocks:
    """Some blocks ``[n, C]`` float64, their energy ``[n]`` and what was found for them."""

    weights: Tensor
    energy: Tensor
    best: Choice


@dataclass(frozen=True)
class _Rule:
    """How a seed is judged."""

    layout: Layout
    polish: bool
    root: Tensor | None = None

    def weigh(self, weights: Tensor) -> Tensor:
        """``R w`` of each block, ``[n, C]``."""
        return weights if self.root is None else ordered_sum(weights[:, None] * self.root)

    def tile(self, first: int, device: str) -> Tile:
        """Tables of the seeds from ``first`` on, under the metric."""
        tile = tile_from(self.layout, first, device)
        return tile if self.root is None else weighted_tile(tile, self.layout, self.root)

    @property
    def margin(self) -> float:
        """Share of a block's energy by which a bound in float32 may be too high.

        A dot product is off by less than ``(terms + P + 5) 2^-24 |x| |y|``, ``P + 5`` for the rounding of
        its inputs, with ``|x| <= 1`` and ``|y| <= sqrt(2 P)``; doubled, because it costs nothing.
        """
        number = self.layout.latent_size
        return 2 * (self.layout.features + number + 5) * 2.0**-24 * math.sqrt(2 * number)

    def threshold(self, blocks: _Blocks) -> Tensor:
        """Share of its energy that a seed must capture to be worth quantising, ``[n]`` float32."""
        share = 1 - blocks.best.error / blocks.energy - self.margin
        # -0.5 is below every seed and above the padding of the last tile; a zero block is done
        return torch.where(blocks.energy > 0, share.clamp_min(-0.5), 2.0).float()

    def judge(self, weights: Tensor, columns: Tensor, tile: Tile) -> Choice:
        """Quantise seed ``columns[i]`` of the tile for block ``weights[i]``."""
        inverse, matrix = tile.inverse.index_select(0, columns), tile.matrix.index_select(0, columns)
        error, exponent, levels = fit(weights, inverse, matrix, self.layout, self.polish)
        return Choice(error, (columns + tile.first).int(), exponent.to(torch.int8), levels.to(torch.int8))


def search(blocks: Tensor, layout: Layout, polish: bool, root: Tensor | None = None) -> Choice:
    """Find the best seed and latents of each block.

    Args:
        blocks: Finite floats, ``[n, C]``, of rows with unit rms.
        layout: What a seed and its latents mean.
        polish: Whether ``fit`` tries other exponents and integers around the rounded ones.
        root: ``R``, nonsingular float64 ``[C, C]``; an error ``e`` costs ``|R e|^2``. ``None``: the identity.

    Returns:
        The argmin over all seeds of ``fit``'s error, the lowest seed of those that tie; seed 1 for a
        block of zeros. Exponents are codes in ``[0, 16)``.
    """
    on_gpu = blocks.device.type != "cpu"
    chunk = 16384 if on_gpu else 2048  # fewer than 2048 pay more calls: 5 % of the time
    threads = 1 if on_gpu else torch.get_num_threads()
    most = max(chunk, (1 << (25 if on_gpu else 20)) // layout.features)  # products w_i w_j of 4 to 128 MB
    share = min(most, max(_SHARE, -(-len(blocks) // threads)))
    count, device = len(blocks), blocks.device
    # one result for all groups: small ones between the workspaces would keep the allocator from reusing those
    best = Choice(
        torch.empty(count, dtype=torch.float64, device=device),
        torch.empty(count, dtype=torch.int32, device=device),
        torch.empty(count, dtype=torch.int8, device=device),
        torch.empty(count, layout.latent_size, dtype=torch.int8, device=device),
    )
    groups = [(blocks[some], best.part(some)) for some in _slices(count, share)]
    with _LOCK, _full_precision():
        work = partial(_search_group, rule=_Rule(layout, polish, root), chunk=chunk)
        for _ in side_by_side(lambda group: work(*group), groups, threads):
            pass
    return best


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _search_group(group: Tensor, best: Choice, rule: _Rule, chunk: int) -> None:
    """Search for some blocks and write what is found to their part of the result."""
    layout, device = rule.layout, str(group.device)
    weights = rule.weigh(group.double())
    energy = ordered_sum(weights.square())
    unit = (weights * torch.where(energy > 0, energy, 1).rsqrt()[:, None]).float()
    left, right = torch.triu_indices(layout.block_size, layout.block_size, device=device)
    features = unit[:, left] * unit[:, right]  # [n, C (C + 1) / 2]
    width = tile_width(layout)
    products = torch.empty(min(chunk, len(group)), width, device=device)
    for first in range(1, 1 << layout.seed_bits, width):
        tile = rule.tile(first, device)
        for some in _slices(len(group), chunk):
            if first == 1:
                first_seed = torch.zeros(some.stop - some.start, dtype=torch.int64, device=device)
                best.part(some).write(rule.judge(weights[some], first_seed, tile))
            blocks = _Blocks(weights[some], energy[some], best.part(some))
            with torch.autocast(group.device.type, enabled=False):  # the caller's would round to bfloat16
                captured = torch.mm(features[some], tile.projector, out=products[: len(blocks.energy)])
            _search_tile(blocks, captured, tile, rule)


def _search_tile(blocks: _Blocks, captured: Tensor, tile: Tile, rule: _Rule) -> None:
    """Quantise the seeds of a tile that can be better than the best so far.

    Args:
        blocks: ``n`` blocks; what is found is written to their ``best``.
        captured: Share of each block's energy in the span of each seed, ``[n, T]``; overwritten.
        tile: The seeds.
        rule: How to judge them.
    """
    lanes = captured.view(len(captured), -1, LANE)
    tops = lanes.amax(2)  # [n, T / LANE]
    top, lane = tops.max(1)
    rows = (top > rule.threshold(blocks)).nonzero()[:, 0]
    if len(rows) == 0:
        return
    # the most promising seed first: its error rules out nearly all others
    lane = lane[rows]
    inside = lanes[rows, lane].argmax(1)
    _update(blocks, rows, lane * LANE + inside, tile, rule)
    lanes[rows, lane, inside] = -1
    threshold = rule.threshold(blocks)
    hits = (tops > threshold[:, None]).nonzero()
    for hit in torch.split(hits, _HITS):
        rows, lane = hit.T
        pair, inside = (lanes[rows, lane] > threshold[rows, None]).nonzero(as_tuple=True)
        seeds = lane[pair] * LANE + inside
        for row, seed in zip(
            torch.split(rows[pair], _CANDIDATES), torch.split(seeds, _CANDIDATES), strict=True
        ):
            _update(blocks, row, seed, tile, rule)


def _update(blocks: _Blocks, rows: Tensor, columns: Tensor, tile: Tile, rule: _Rule) -> None:
    """Judge seed ``columns[i]`` of the tile for block ``rows[i]``, and keep what is better."""
    if len(rows) == 0:
        return
    best, new = blocks.best, rule.judge(blocks.weights.index_select(0, rows), columns, tile)
    least = best.error.scatter_reduce(0, rows, new.error, "amin")
    # a block that does not improve keeps its seed as a rival of equal error; one that does has none
    rival = torch.where(least < best.error, torch.iinfo(torch.int32).max, best.seed)
    tied = (new.error == least[rows]).nonzero()[:, 0]
    rows, seeds = rows[tied], new.seed[tied]
    lowest = seeds == rival.scatter_reduce(0, rows, seeds, "amin")[rows]
    rows, winners = rows[lowest], tied[lowest]
    best.error[rows], best.seed[rows] = new.error[winners], new.seed[winners]
    best.exponent[rows], best.levels[rows] = new.exponent[winners], new.levels[winners]


@contextmanager
def _full_precision() -> Iterator[None]:
    """Float32 products in float32: TF32 or bfloat16 would break the bound's margin."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
