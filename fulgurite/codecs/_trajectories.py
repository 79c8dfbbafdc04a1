r"""The curves that hyper-compression draws through weight space, and the search for a point on them.

    step i -> winding -> point in the cube (-1, 1)^K          "ergodic", "grid"
    positions -> basis -> orthonormal columns [block, degree + 1]   "polynomial", "fourier"

Everything here is rebuilt by the decoder from two or three integers, so it must come out alike on
every machine: the windings are integer arithmetic, the polynomials use only operations that IEEE 754
rounds correctly (``+ * /``, ``sqrt`` and ``math.fsum``), and no linear-algebra library is involved.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

WINDINGS = ("ergodic", "grid")
CURVES = ("polynomial", "fourier")

# round(2**32 / g**k), k = 1..K, where g > 1 solves g**(K + 1) = g + 1 (K = 1 would give the golden ratio).
# g has degree K + 1 over the rationals, so 1, 1/g .. 1/g**K are rationally independent: the winding is dense.
_DIRECTIONS = {2: (0xC13FA9A9, 0x91E10DA6), 3: (0xD1B54A33, 0xABC98389, 0x8CB92BA7)}
_DISTANCES = 1 << 18  # distances held at a time: 1 MB, so that they stay in the cache
_PLACED = 1 << 18  # vectors placed at a time, about
_ROUNDED = (1 << 15) - 1  # coefficients rounded at a time: torch runs so few on one thread
_HALVES = [0.5 * 1.12**k for k in range(25)]  # of the inner cube's side, in row rms: 0.5 to 7.6
_SAMPLE = 1 << 16  # vectors that choose among them; a few thousand would miss the tails
_SHARES = [0.9**k for k in range(18)]  # of a coefficient's range: 1 down to 1/6


@lru_cache(maxsize=32)
def winding(trajectory: str, dimension: int, num_points: int) -> Tensor:
    """Points that a line visits as it winds around the torus, seen as the cube ``(-1, 1)^K``.

    ``ergodic``: step i is at ``frac(i * a + 1/2)`` with the irrational direction a of the R_K sequence
    (Roberts 2018, http://extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences/).
    It fills the cube evenly at each ``num_points``, where square roots of primes leave stripes:
    at 400 points in the plane its squared error is a third of theirs. Integers modulo 2**32 stand for
    the fractions; the top 24 bits become a float exactly.

    ``grid``: direction ``(1, m, m**2) / N`` with ``N = m**K``, a rational line that closes after N steps.
    Its points are a sheared grid of m to the side.

    Args:
        trajectory: One of ``WINDINGS``.
        dimension: K, 2 or 3.
        num_points: N; for ``grid`` a K-th power.

    Returns:
        Float32 ``[num_points, dimension]``, shared between calls: do not write to it.
    """
    steps = torch.arange(num_points, dtype=torch.int64)[:, None]
    if trajectory == "ergodic":
        turns = (steps * torch.tensor(_DIRECTIONS[dimension]) + (1 << 31)) & 0xFFFFFFFF
        return ((turns >> 8) - (1 << 23)).float() / (1 << 23)
    side = side_of(num_points, dimension)
    slopes = torch.tensor([side**k for k in range(dimension)])
    # twice the step plus one slope is the middle of a cell, in units of 1 / 2N
    return (2 * (steps * slopes % num_points) + slopes - num_points).float() / num_points


def side_of(num_points: int, dimension: int) -> int:
    """Points along one side of a cube of ``num_points`` points, rounded to the nearest integer."""
    return round(math.pow(num_points, 1 / dimension))


def outward(points: Tensor) -> Tensor:
    """Steps in order of their point's distance from the centre, ``[num_points]``.

    A bell-shaped source uses the inner points more often: numbered outwards, all that an entropy coder
    can gain is in the high bits.
    """
    squares = points.double().square()  # exact: 24-bit numbers
    radius = squares[:, 0]
    for column in squares.T[1:]:
        radius = radius + column
    return radius.argsort(stable=True)


def nearest(vectors: Tensor, points: Tensor) -> Tensor:
    """Step of the point nearest to each vector, by comparing with all of them; ``[n]``.

    Args:
        vectors: ``[n, K]``.
        points: ``[num_points, K]``.
    """
    norms = points.square().sum(1)
    chunks = torch.split(vectors, _chunk(points))
    # |v - p|^2 less |v|^2, which is the same for all points
    return torch.cat([torch.addmm(norms, chunk, points.T, alpha=-2).argmin(1) for chunk in chunks])


def _chunk(points: Tensor) -> int:
    return max(1, _DISTANCES // len(points))


def fit_extents(vectors: Tensor, num_points: int, num_classes: int, entropy: bool) -> Tensor:
    """Half the side of each class's cube, the inner one first, ``[num_classes + 1]`` in fp16.

    The last cube reaches the farthest weight and those between grow geometrically. The inner one is the
    best of 25 by an estimate that needs no search: N points in a cube of half side s leave the squared
    error ``s**2 / (3 * N**(2 / K))`` a weight, and a single cube also cuts off what lies outside.
    With ``entropy`` a wider cube costs fewer bits, ``log2(s)`` a weight: what counts is ``D * 2**(2 R)``.
    """
    farthest = torch.stack(torch.aminmax(vectors)).abs().max().clamp_min(1)
    sizes = vectors[:: -(-len(vectors) // _SAMPLE)].abs()
    dimension, largest = sizes.shape[1], sizes.amax(1)
    shares = torch.arange(num_classes + 1, device=vectors.device) / max(1, num_classes)
    candidates, errors = [], []
    for half in _HALVES:
        inner = farthest.clamp_max(half)
        extents = (inner * (farthest / inner) ** shares).half()
        squares = extents.float().square()[classes_of(largest, extents)]
        error = squares.sum() * dimension / (3 * math.pow(num_points, 2 / dimension))
        if num_classes == 0:
            error = error + (sizes - extents.float()).clamp_min(0).square().sum()
        candidates.append(extents)
        errors.append(error / squares.log().mean().exp() if entropy else error)
    return candidates[int(torch.stack(errors).argmin())]


def place(vectors: Tensor, points: Tensor, extents: Tensor) -> tuple[Tensor, Tensor]:
    """Class of each vector, the smallest cube that holds it, and the nearest step there.

    Returns:
        uint8 and int32, ``[n]`` each.
    """
    classes = torch.empty(len(vectors), dtype=torch.uint8, device=vectors.device)
    steps = torch.empty(len(vectors), dtype=torch.int32, device=vectors.device)
    # whole chunks of ``nearest``, so that a large weight costs only its codes
    count = -(-_PLACED // _chunk(points)) * _chunk(points)
    for start in range(0, len(vectors), count):
        some = vectors[start : start + count]
        found = classes_of(some.abs().amax(1), extents)
        classes[start : start + count] = found
        steps[start : start + count] = nearest(some / extents.float()[found, None], points)
    return classes, steps


def classes_of(largest: Tensor, extents: Tensor) -> Tensor:
    """Smallest class whose cube holds a vector with this largest entry, the last for all beyond; int64."""
    classes = torch.zeros_like(largest, dtype=torch.int64)
    for bound in extents.float()[:-1]:
        classes += largest > bound
    return classes


@lru_cache(maxsize=32)
def basis(trajectory: str, block_size: int, degree: int) -> Tensor:
    """Orthonormal curves over the positions of a block, lowest degree first.

    ``polynomial``: Legendre polynomials made orthonormal on the ``block_size`` evenly spaced positions
    of [-1, 1] themselves (Gram polynomials), so that least squares is a product with the transpose.
    Built by multiplying with the position and orthogonalising twice (Arnoldi; Brubeck, Nakatsukasa and
    Trefethen, https://arxiv.org/abs/1911.10988): the Vandermonde matrix never appears, and even
    ``degree = block_size - 1`` is orthonormal to rounding.

    ``fourier``: cosines of the discrete cosine transform (DCT-II). A Fourier series would jump from a
    block's end to its start; the cosines are the series of the block and its mirror image, which does not.

    Returns:
        Float32 ``[block_size, degree + 1]``, shared between calls: do not write to it.
    """
    if trajectory == "polynomial":
        columns = _gram_polynomials(block_size, degree)
    else:
        columns = [
            [
                math.sqrt((2 if k else 1) / block_size)
                * math.cos(math.pi * k * (2 * j + 1) / (2 * block_size))
                for j in range(block_size)
            ]
            for k in range(degree + 1)
        ]
    return torch.tensor(columns, dtype=torch.float64).T.float().contiguous()


def _gram_polynomials(block_size: int, degree: int) -> list[list[float]]:
    positions = [(2 * j + 1 - block_size) / block_size for j in range(block_size)]
    columns = [[1 / math.sqrt(block_size)] * block_size]
    for _ in range(degree):
        column = [position * value for position, value in zip(positions, columns[-1], strict=True)]
        for _ in range(2):  # once leaves an error that grows with the degree; twice is enough
            for known in columns:
                share = _dot(known, column)
                column = [value - share * other for value, other in zip(column, known, strict=True)]
        norm = math.sqrt(_dot(column, column))
        columns.append([value / norm for value in column])
    return columns


def _dot(left: list[float], right: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def fit_steps(coefficients: Tensor, top: int) -> Tensor:
    """Width of a rounding step for each degree, the one of eighteen that loses the least; fp16.

    Args:
        coefficients: ``[blocks, degree + 1]``.
        top: Highest level; the levels are ``-top .. top`` steps, zero among them.
    """
    full = torch.stack(torch.aminmax(coefficients, dim=0)).abs().amax(0) / top
    best, least = full.half(), torch.full_like(full, torch.inf, dtype=torch.float64)
    for share in _SHARES:
        steps = (full * share).half()
        error = torch.zeros_like(full, dtype=torch.float64)
        for some in torch.split(coefficients, max(1, _ROUNDED // len(full))):
            rounded = round_to(some, steps, top).mul_(steps.float())
            error += rounded.sub_(some).square_().sum(0)
        better = error < least
        least, best = torch.where(better, error, least), torch.where(better, steps, best)
    return best


def round_to(coefficients: Tensor, steps: Tensor, top: int) -> Tensor:
    """Nearest level of each coefficient, a float in ``-top .. top``."""
    # a step of 0 has only coefficients near 0: any divisor will do
    return (coefficients / steps.float().clamp_min(1e-30)).round_().clamp_(-top, top)
