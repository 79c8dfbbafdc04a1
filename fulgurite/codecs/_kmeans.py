"""Weighted k-means over short vectors, with the same bits on every run.

    vectors, weights -> k-means++ -> nearest codeword <-> weighted mean -> codebook

References: Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 1982; Arthur and
Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
Differs from both: every component of every vector has a weight of its own (a weight's row scale and
its input's second moment), and nothing depends on the order of a sum. Distances are element-wise
differences, so a vector's code does not depend on the chunk it was in; means are sums of 64-bit
integers, which are exact, so threads and atomic additions do not change them either.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Choose = Callable[[Tensor | None], tuple[Tensor, Tensor]]

_CELLS = (1 << 15) - 1  # distances at a time: they stay in cache, and torch runs so few on one thread
_SEEDING = 16  # vectors per codeword that k-means++ looks at; 4 or 256 change the error by 2 % either way
_SAMPLES = 256  # vectors per codeword that Lloyd's iterations look at; 64 cost 4 % of error, 1024 win 0.1 %
_FEWEST = 1 << 14  # costs nothing for a small codebook


def nearest(vectors: Tensor, weights: Tensor | None, codebook: Tensor, cells: int = _CELLS) -> Tensor:
    """Index of the codeword with the least weighted squared distance; the first of equal ones.

    Args:
        vectors: ``[n, v]``.
        weights: Weight of each component, ``[n, v]``, or anything that expands to it; ``None``: all equal.
        codebook: ``[k, v]``.
        cells: Distances held at a time; the result does not depend on it.

    Returns:
        ``int64`` codes, ``[n]``.
    """
    count, length = vectors.shape
    codes = torch.empty(count, dtype=torch.int64, device=vectors.device)
    words = codebook.T.contiguous()  # [v, k]
    expanded = None if weights is None else weights.expand(count, length)
    chunk = max(1, cells // words.shape[1])
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        distance: Tensor | None = None
        for r in range(length):  # one component after another: a matrix product would round by tile
            term = vectors[part, r, None] - words[r]  # [chunk, k]
            term.mul_(term)
            if expanded is not None:
                term.mul_(expanded[part, r, None])
            distance = term if distance is None else distance.add_(term)
        assert distance is not None  # v >= 1
        codes[part] = distance.argmin(1)
    return codes


def segment_sums(values: Tensor, codes: Tensor, size: int) -> Tensor:
    """Sum of the values of each code, exact up to one rounding of each value to 62 bits.

    Args:
        values: ``[n, v]``, finite.
        codes: ``[n]``, integers in ``[0, size)``.
        size: Number of codes.

    Returns:
        ``float64``, ``[size, v]``.
    """
    count, length = values.shape
    bound = float(values.abs().max()) * count
    sums = torch.zeros(size, length, dtype=torch.float64, device=values.device)
    if bound == 0:
        return sums
    unit = 2.0**62 / bound  # no sum of count values can leave 63 bits
    for r in range(length):  # one component at a time keeps the 64-bit copy small
        whole = (values[:, r].double() * unit).round_().to(torch.int64)
        total = torch.zeros(size, dtype=torch.int64, device=values.device)
        sums[:, r] = total.index_add_(0, codes, whole).double() / unit
    return sums


def fit_codebook(vectors: Tensor, weights: Tensor | None, size: int, iterations: int, seed: int) -> Tensor:
    """Fit ``size`` codewords to weighted vectors.

    Args:
        vectors: Float32, ``[n, v]``, at least one.
        weights: Non-negative weight of each component, ``[n, v]``, or anything that expands to it.
        size: Codewords wanted; no more than there are vectors are made.
        iterations: Rounds of assignment and mean; stops before when no code changes.
        seed: Of the sample and of the k-means++ draws.

    Returns:
        Float32 codebook, ``[min(size, n), v]``.
    """
    weights = torch.ones(1, 1, device=vectors.device) if weights is None else weights
    return fit_codebook_of(
        len(vectors), chooser(vectors, weights.expand(vectors.shape)), size, iterations, seed
    )


def chooser(vectors: Tensor, weights: Tensor) -> Choose:
    """Vectors that exist as something to choose from."""
    return lambda chosen: (
        (vectors, weights)
        if chosen is None
        else (vectors[chosen.to(vectors.device)], weights[chosen.to(vectors.device)])
    )


def fit_codebook_of(count: int, choose: Choose, size: int, iterations: int, seed: int) -> Tensor:
    """Fit codewords to vectors of which only a sample is ever made.

    Args:
        count: Vectors there are.
        choose: Makes some of them, with their weights; ``None``: all.
        size: As for ``fit_codebook``, as are the next two.
        iterations: Rounds.
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(size, count)
    vectors, weights = choose(_draw(count, sample_size(size), generator))
    codebook = _seed(*sample(vectors, weights, _SEEDING * size, generator), size, generator)
    previous = None
    for _ in range(iterations):
        codes = nearest(vectors, weights, codebook)
        if previous is not None and torch.equal(codes, previous):
            break
        previous = codes
        mass = segment_sums(weights, codes, size)
        moment = segment_sums(weights * vectors, codes, size)
        mean = (moment / mass.clamp_min(1e-300)).float()
        codebook = torch.where(mass > 0, mean, codebook)  # a component without weight keeps its value
        _revive(codebook, vectors, weights, codes)
    return codebook


def sample_size(size: int) -> int:
    """Vectors that suffice to fit ``size`` codewords."""
    return max(_SAMPLES * size, _FEWEST)


def sample(vectors: Tensor, weights: Tensor, bound: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most ``bound`` of the vectors and their weights, drawn without repetition, in order."""
    return chooser(vectors, weights)(_draw(len(vectors), bound, generator))


def _draw(count: int, bound: int, generator: torch.Generator) -> Tensor | None:
    if count <= bound:
        return None
    return torch.randperm(count, generator=generator)[:bound].sort().values


def _seed(vectors: Tensor, weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """k-means++ on the CPU: each codeword is a vector drawn in proportion to its error so far."""
    device, vectors, weights = vectors.device, vectors.cpu(), weights.cpu()
    chosen = torch.empty(size, dtype=torch.int64)
    draws = torch.rand(size, generator=generator, dtype=torch.float64)
    error = weights.sum(1)  # the first is drawn by weight alone
    for index in range(size):
        total = error.double().cumsum(0)
        if total[-1] <= 0:  # every distinct vector is a codeword: the rest are copies
            chosen[index:] = chosen[0] if index else 0
            break
        pick = torch.searchsorted(total, draws[index] * total[-1], right=True).clamp_max(len(vectors) - 1)
        chosen[index] = pick
        distance = ((vectors - vectors[pick]).square_() * weights).sum(1)
        error = distance if index == 0 else torch.minimum(error, distance)
    return vectors[chosen].to(device)


def _revive(codebook: Tensor, vectors: Tensor, weights: Tensor, codes: Tensor) -> None:
    """Move each codeword that no vector uses to one of the worst coded vectors, in place."""
    used = torch.zeros(len(codebook), dtype=torch.bool, device=codes.device)
    used[codes] = True
    empty = (~used).nonzero()[:, 0]
    if len(empty) == 0:
        return
    error = ((vectors - codebook[codes]).square_() * weights).sum(1)
    worst = error.sort(descending=True, stable=True)
    count = min(len(empty), int((worst.values > 0).sum()))
    codebook[empty[:count]] = vectors[worst.indices[:count]]
