r"""Tables of the search for seeds: projectors and pseudo-inverses, a tile of consecutive seeds at a time.

    seeds -> U(seed) -> Gram-Schmidt -> Q Q^T, for the lower bounds
                               \-> R^-1 Q^T, for the latents

A tile is at most some MB, and 32 are kept: all 65535 seeds of the paper's layouts, which every weight
of a network uses again. Wider registers make their tiles anew, and so does every metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fulgurite.codecs._lfsr import seed_matrix

EXPONENT_CODES = 16  # the shared exponent has 4 bits, as in the paper
LANE = 64  # seeds that share one maximum; a tile is a multiple of it


@dataclass(frozen=True)
class Layout:
    """The settings that fix what a seed and its latents mean."""

    block_size: int
    latent_size: int
    seed_bits: int
    latent_bits: int

    @property
    def bias(self) -> int:
        """Exponent code minus exponent. Blocks come from rows of unit rms.

        The largest latent, about ``2**(15 - bias + latent_bits - 1)`` = 256, leaves room for a row
        whose energy is in one weight of 20000; the floor is a thousandth of the rms.
        """
        return 6 + self.latent_bits

    @property
    def features(self) -> int:
        """Products ``w_i w_j`` of a block, ``i <= j``."""
        return self.block_size * (self.block_size + 1) // 2

    def levels(self, codes: Tensor) -> Tensor:
        """What codes of latents stand for: two's complement, or with one bit 0 for 1 and 1 for -1."""
        if self.latent_bits == 1:
            return 1 - 2 * codes
        half = 1 << (self.latent_bits - 1)
        return (codes ^ half) - half

    def codes(self, levels: Tensor) -> Tensor:
        """Invert ``levels``."""
        return (
            (levels < 0).to(levels.dtype) if self.latent_bits == 1 else levels & ((1 << self.latent_bits) - 1)
        )


@dataclass(frozen=True)
class Tile:
    """Tables of ``T`` consecutive seeds, of ``U`` or of ``root @ U``."""

    first: int
    projector: Tensor  # [C (C + 1) / 2, T] float32, off-diagonal entries doubled
    inverse: Tensor  # [T, P, C] float64, of the numerators
    matrix: Tensor  # [T, P, C] float64, numerators, transposed


def tile_width(layout: Layout) -> int:
    widest = 1 << ((1 << 18) // layout.features).bit_length() - 1  # projectors of at most 1 MB
    return max(LANE, min(widest, 4096, 1 << layout.seed_bits))


@lru_cache(maxsize=32)  # 65535 seeds of the 3-bit layout: 70 MB, which stay for the next weight
def tile_from(layout: Layout, first: int, device: str) -> Tile:
    """Tables of the seeds from ``first`` on, made on the CPU so that every device has the same."""
    seeds = torch.arange(first, min(first + tile_width(layout), 1 << layout.seed_bits))
    matrix = seed_matrix(seeds, layout.block_size, layout.latent_size, layout.seed_bits)  # [C, P, T]
    tile = _tile_of(matrix, first, tile_width(layout))
    return Tile(first, tile.projector.to(device), tile.inverse.to(device), tile.matrix.to(device))


def weighted_tile(tile: Tile, layout: Layout, root: Tensor) -> Tile:
    """The same seeds where an error ``e`` of a block costs ``|root e|^2``, ``root`` float64 ``[C, C]``.

    The plain search over these tables, for blocks ``root @ w``, is the search under that metric.
    """
    matrix = (tile.matrix @ root.T).permute(2, 1, 0).contiguous()  # [C, P, T]
    return _tile_of(matrix, tile.first, tile_width(layout))


def _tile_of(matrix: Tensor, first: int, width: int) -> Tile:
    """Tables for the matrices ``[C, P, T]`` of some seeds, filled up to a whole tile."""
    size, _, count = matrix.shape
    basis, inverse = _orthogonalise(matrix)
    left, right = torch.triu_indices(size, size, device=matrix.device)
    projector = torch.zeros(len(left), width, device=matrix.device)
    projector[left == right, count:] = -1  # the padding captures -1
    for column in basis.float():  # float32 from here on: the margin of the search allows for it
        projector[:, :count].addcmul_(column[left], column[right])
    projector[:, :count].mul_(torch.where(left == right, 1.0, 2.0)[:, None])
    return Tile(first, projector, inverse.permute(2, 0, 1).contiguous(), matrix.permute(2, 1, 0).contiguous())


def _orthogonalise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis ``[P, C, T]`` of the columns, and the inverse, in the same layout.

    Gram-Schmidt, twice against loss of orthogonality (condition numbers reach 5e5). A column that
    depends on those before it has a zero column in the basis and a latent of zero.
    """
    size, number, count = matrix.shape
    basis = torch.zeros(number, size, count, dtype=torch.float64, device=matrix.device)
    upper = torch.zeros(number, number, count, dtype=torch.float64, device=matrix.device)
    for p in range(number):
        column = matrix[:, p]
        rest = column.clone()
        for _ in range(2):
            for q in range(p):
                share = (basis[q] * rest).sum(0)
                upper[q, p] += share
                rest -= share * basis[q]
        norm = rest.square().sum(0).sqrt()  # torch's norm takes twenty times as long over a first dimension
        kept = norm > 1e-9 * column.square().sum(0).sqrt()
        upper[p, p] = torch.where(kept, norm, torch.inf)  # divides to zero
        basis[p] = rest / upper[p, p]
    inverse = torch.zeros_like(basis)
    for p in reversed(range(number)):
        rest = basis[p].clone()
        for q in range(p + 1, number):
            rest -= upper[p, q] * inverse[q]
        inverse[p] = rest / upper[p, p]
    return basis, inverse
