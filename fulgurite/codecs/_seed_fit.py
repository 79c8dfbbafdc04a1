r"""Quantised latents of a block for one given seed, in arithmetic that is the same everywhere.

    block -> least-squares latents -> shared exponent -> rounded levels -> error
                                            \-> polish: exponents and integers next to them -> error

All is float64, element by element, and sums run in a fixed order: neither the number of blocks in a call
nor the number of threads changes a bit of the result, so that comparing errors decides exactly.

Reference: Shafipour et al., "SeedLM", ICLR 2025, https://arxiv.org/abs/2410.10714, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fulgurite.codecs._lfsr import denominator
from fulgurite.codecs._seed_tables import EXPONENT_CODES, Layout

_SWEEPS = 2  # of the polish; a third gains less than 0.1 %


def fit(
    weights: Tensor, inverse: Tensor, matrix: Tensor, layout: Layout, polish: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantised latents of one given seed for each block, and their error.

    The latents are ``t = U^+ w``, the exponent is ``ceil(log2(max |t| / 7.5))`` for 4 bits (the paper's
    ``floor(log2 |t|)`` leaves half of the range unused: relative error .191 in place of .123), the
    levels are rounded half to even and clamped. ``polish`` also tries the exponents next to it, and
    moves one integer at a time to its best value.

    Args:
        weights: ``[n, C]`` float64.
        inverse: Pseudo-inverses of the numerators of ``U``, ``[n, P, C]`` float64.
        matrix: Numerators of ``U``, transposed, ``[n, P, C]`` float64.
        layout: What a seed and its latents mean.
        polish: Whether to look around the rounded latents.

    Returns:
        Squared error ``[n]``, exponent code ``[n]``, levels ``[n, P]``.
    """
    below = denominator(layout.seed_bits)
    latents = ordered_sum(inverse * weights[:, None]) * below  # [n, P]
    limit = max(1.5, (1 << (layout.latent_bits - 1)) - 0.5)
    mantissa, exponent = torch.frexp(latents.abs().amax(1) / limit)
    code = exponent.long() - (mantissa == 0.5).long() + layout.bias
    code = torch.where(mantissa == 0, 0, code)
    powers = [2.0 ** (code - layout.bias) for code in range(EXPONENT_CODES)]
    steps = torch.tensor(powers, dtype=torch.float64, device=weights.device)

    def quantise(code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = code.clamp(0, EXPONENT_CODES - 1)
        step = steps[code][:, None]
        levels = _round(latents / step, layout)
        residual = weights - ordered_sum((matrix * levels[:, :, None]).transpose(1, 2)) * (step / below)
        if polish:
            residual = _descend(levels, residual, matrix * (step / below)[:, None], layout)
        return ordered_sum(residual.square()), code, levels

    best = quantise(code)
    for offset in (-1, 1) if polish else ():
        other = quantise(code + offset)
        better = other[0] < best[0]
        best = (
            torch.where(better, other[0], best[0]),
            torch.where(better, other[1], best[1]),
            torch.where(better[:, None], other[2], best[2]),
        )
    return best


def _descend(levels: Tensor, residual: Tensor, columns: Tensor, layout: Layout) -> Tensor:
    """Coordinate descent over the integers: ``levels`` in place, and the residual that is left.

    Args:
        levels: ``[n, P]``.
        residual: ``[n, C]``.
        columns: What one unit of each level adds, ``[n, P, C]``.
        layout: For the range of the levels.
    """
    norms = ordered_sum(columns.square())
    norms = torch.where(norms > 0, norms, torch.inf)  # a column of zeros does not move
    for _ in range(_SWEEPS):
        for p in range(layout.latent_size):
            move = ordered_sum(columns[:, p] * residual) / norms[:, p]
            moved = _round(levels[:, p] + move, layout)
            residual = residual - columns[:, p] * (moved - levels[:, p])[:, None]
            levels[:, p] = moved
    return residual


def _round(values: Tensor, layout: Layout) -> Tensor:
    if layout.latent_bits == 1:
        return torch.where(values < 0, -1.0, 1.0).double()
    half = 1 << (layout.latent_bits - 1)
    return values.round().clamp_(-half, half - 1)


def ordered_sum(terms: Tensor) -> Tensor:
    """Sum over the last dimension, one after the other: the same bits whatever the other sizes."""
    first, *rest = terms.unbind(-1)
    total = first.clone()
    for term in rest:
        total += term
    return total
