r"""Tables of the search for seeds: projectors and pseudo-inverses, a tile of consecutive seeds at a time.

    seeds -> U(seed) -> Gram-Schmidt -> Q Q^T, for the lower bounds
                               \-> R^-1 Q^T, for the latents

A tile is at most some MB, and 32 are kept: all 65535 seeds of the paper's layouts, which every weight
of a network uses again. Wider registers make their tiles anew.
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
    """Tables of ``T`` consecutive seeds."""

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
    size, number = layout.block_size, layout.latent_size
    width = tile_width(layout)
    seeds = torch.arange(first, min(first + width, 1 << layout.seed_bits))
    matrix = seed_matrix(seeds, size, number, layout.seed_bits)  # [C, P, T]
    basis, inverse = _orthogonalise(matrix)
    left, right = torch.triu_indices(size, size)
    projector = (basis[left] * basis[right]).sum(1)
    projector[left != right] *= 2
    padding = torch.where(left == right, -1.0, 0.0)[:, None].expand(-1, width - len(seeds))  # captures -1
    return Tile(
        first,
        torch.cat([projector.float(), padding], 1).to(device),
        inverse.permute(2, 0, 1).contiguous().to(device),
        matrix.permute(2, 1, 0).contiguous().to(device),
    )


def _orthogonalise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis ``[C, P, T]`` of the columns, and the inverse ``[P, C, T]``.

    Gram-Schmidt, twice against loss of orthogonality (condition numbers reach 5e5). A column that
    depends on those before it has a zero column in the basis and a latent of zero.
    """
    size, number, count = matrix.shape
    basis = torch.zeros(number, size, count, dtype=torch.float64)
    upper = torch.zeros(number, number, count, dtype=torch.float64)
    for p in range(number):
        column = matrix[:, p]
        rest = column.clone()
        for _ in range(2):
            for q in range(p):
                share = (basis[q] * rest).sum(0)
                upper[q, p] += share
                rest -= share * basis[q]
        norm = rest.norm(dim=0)
        kept = norm > 1e-9 * column.norm(dim=0)
        upper[p, p] = torch.where(kept, norm, torch.inf)  # divides to zero
        basis[p] = rest / upper[p, p]
    inverse = torch.zeros_like(basis)
    for p in reversed(range(number)):
        rest = basis[p].clone()
        for q in range(p + 1, number):
            rest -= upper[p, q] * inverse[q]
        inverse[p] = rest / upper[p, p]
    return basis.transpose(0, 1).contiguous(), inverse
