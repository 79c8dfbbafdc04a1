"""How far the subspaces that two networks work in are turned against each other.

    weight of the reference, of the compressed network -> top-k singular vectors -> subspaces
    second moments of a layer's inputs in both         -> top-k eigenvectors     -> subspaces
    two subspaces -> principal angles -> distances on the Grassmannian, overlap

References: Björck and Golub, "Numerical Methods for Computing Angles Between Linear Subspaces", 1973,
https://doi.org/10.1090/S0025-5718-1973-0348991-3 (as scipy has it); Ye and Lim, "Schubert Varieties and Distances
between Subspaces of Different Dimensions", 2016, https://arxiv.org/abs/1407.0900, tables 2 and 3 for the distances.
Differs from the latter: where one subspace has fewer dimensions, each missing one counts as an angle of 90 degrees in
every distance, which is the paper's rule for the geodesic one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.evaluation.statistics import Floats

_ROUNDING = 1e-6  # singular values below that share of the largest are zero in float32 weights


@dataclass(frozen=True)
class Distances:
    """Distances on the Grassmannian, by the angles ``t`` in radians.

    Args:
        geodesic: ``sqrt(sum t^2)``, the length of the shortest way.
        chordal: ``sqrt(sum sin^2 t)``, of the projections in the Frobenius norm, over ``sqrt(2)``.
        projection: ``sin max t``, of the projections in the spectral norm.
    """

    geodesic: float
    chordal: float
    projection: float


@dataclass(frozen=True)
class Closeness:
    """Two subspaces of one space.

    Args:
        rank: Dimensions of the reference's.
        other_rank: Of the other's, at most as many.
        dimensions: Of the space.
        angles: Principal angles in radians, the largest first; ``[rank]``.
    """

    rank: int
    other_rank: int
    dimensions: int
    angles: Floats

    @property
    def distances(self) -> Distances:
        """On the Grassmannian."""
        return grassmann_distances(self.angles)

    @property
    def overlap(self) -> float:
        """Share of the reference's subspace that lies in the other, 0 to 1: the mean of ``cos^2``."""
        return float((np.cos(self.angles) ** 2).mean())

    @property
    def chance(self) -> float:
        """Overlap to be expected of a subspace drawn at random."""
        return self.other_rank / self.dimensions

    @property
    def mean_degrees(self) -> float:
        """Mean of the angles."""
        return math.degrees(float(self.angles.mean()))

    @property
    def largest_degrees(self) -> float:
        """The largest of the angles."""
        return math.degrees(float(self.angles[0]))

    def to_dict(self) -> dict[str, float | list[float]]:
        """Plain JSON, angles in degrees."""
        return {
            "rank": self.rank,
            "other_rank": self.other_rank,
            "dimensions": self.dimensions,
            "overlap": self.overlap,
            "chance": self.chance,
            "mean_degrees": self.mean_degrees,
            "largest_degrees": self.largest_degrees,
            **vars(self.distances),
            "angles": [math.degrees(float(angle)) for angle in self.angles],
        }


@dataclass(frozen=True)
class WeightSubspaces:
    """One weight in both networks.

    Args:
        name: Of the weight.
        energy: Share of the reference's squared singular values that the subspaces hold.
        error: Squared error of the other weight, as a share of the reference's energy.
        left: Spaces of the outputs; rows of the weight as it is stored.
        right: Spaces of the inputs; columns.
    """

    name: str
    energy: float
    error: float
    left: Closeness
    right: Closeness


def principal_angles(basis: NDArray[np.floating], other: NDArray[np.floating]) -> Floats:
    """Angles between the spaces that the columns of two matrices span.

    Args:
        basis: ``[n, k]``.
        other: ``[n, l]``.

    Returns:
        Radians, the largest first, ``[min(k, l)]``.

    Raises:
        ValueError: If the two do not lie in one space, or one has no columns.
    """
    from scipy.linalg import subspace_angles

    if (
        basis.ndim != 2
        or other.ndim != 2
        or basis.shape[0] != other.shape[0]
        or 0 in basis.shape + other.shape
    ):
        raise ValueError(
            f"bases must be [n, k] and [n, l] with columns, got {list(basis.shape)}, {list(other.shape)}"
        )
    found: Floats = subspace_angles(basis.astype(np.float64), other.astype(np.float64))
    return found


def grassmann_distances(angles: Floats) -> Distances:
    """Distances by principal angles in radians."""
    sines = np.sin(angles)
    return Distances(
        float(np.linalg.norm(angles)), float(np.linalg.norm(sines)), float(sines.max(initial=0.0))
    )


def compare_subspaces(basis: NDArray[np.floating], other: NDArray[np.floating]) -> Closeness:
    """Two subspaces by bases in their columns; dimensions that the other lacks count as at a right angle.

    Args:
        basis: The reference's, ``[n, k]``.
        other: ``[n, l]``, ``l`` at most ``k``; may have no columns.

    Raises:
        ValueError: If the two do not lie in one space.
    """
    angles = principal_angles(basis, other) if other.shape[1] else np.zeros(0)
    missing = np.full(basis.shape[1] - len(angles), math.pi / 2)
    return Closeness(
        basis.shape[1], other.shape[1], basis.shape[0], np.concatenate([missing, np.sort(angles)[::-1]])
    )


def choose_rank(energies: Floats, energy: float, rank: int | None = None) -> int:
    """How many directions hold a share of the energy.

    Args:
        energies: Squared singular values, the largest first.
        energy: The share, above 0 and at most 1.
        rank: Take so many instead.

    Raises:
        ValueError: If a setting is out of range.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be above 0 and at most 1, got {energy}")
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if rank is not None:
        return min(rank, len(energies))
    total = float(energies.sum())
    if total <= 0:
        return 1
    reached = np.cumsum(energies) >= energy * total * (1 - 1e-12)
    return int(reached.argmax()) + 1 if reached.any() else len(energies)


def weight_subspaces(
    reference: Mapping[str, Tensor],
    compressed: Mapping[str, Tensor],
    *,
    energy: float = 0.9,
    rank: int | None = None,
) -> list[WeightSubspaces]:
    """Compare the top singular vectors of each matrix.

    Args:
        reference: Weights by name, of two dimensions or more; kernels are flattened behind their first.
        compressed: The same weights of the other network.
        energy: Share of the reference's squared singular values that says how many directions count.
        rank: Take so many instead.

    Raises:
        ValueError: If names or shapes differ, or a weight is not finite.
    """
    check_alike(reference, compressed)
    found = []
    for name in reference:
        matrix, other = (_matrix(name, one[name]) for one in (reference, compressed))
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        energies = values.square().cpu().numpy()
        count = choose_rank(energies, energy, rank)
        near_left, near_values, near_right = torch.linalg.svd(other, full_matrices=False)
        near = min(count, int((near_values > _ROUNDING * near_values[0]).sum()))
        total = max(float(energies.sum()), 1e-300)
        found.append(
            WeightSubspaces(
                name=name,
                energy=float(energies[:count].sum()) / total,
                error=float((matrix - other).square().sum()) / total,
                left=compare_subspaces(left[:, :count].cpu().numpy(), near_left[:, :near].cpu().numpy()),
                right=compare_subspaces(right[:count].T.cpu().numpy(), near_right[:near].T.cpu().numpy()),
            )
        )
    return found


def moment_subspaces(
    reference: Floats, other: Floats, *, energy: float = 0.9, rank: int | None = None
) -> Closeness:
    """Compare the directions in which inputs have most energy.

    Args:
        reference: Second moments ``[d, d]`` of the inputs in the reference.
        other: In the other network.
        energy: Share of the reference's energy that says how many directions count.
        rank: Take so many instead.
    """
    values, vectors = np.linalg.eigh(reference)
    near_values, near_vectors = np.linalg.eigh(other)
    values, near_values = np.maximum(values[::-1], 0), np.maximum(near_values[::-1], 0)
    count = choose_rank(values, energy, rank)
    # eigenvalues are squares, and exact to float32's rounding at best
    near = min(count, int((near_values > _ROUNDING * near_values[0]).sum())) if near_values[0] > 0 else 0
    return compare_subspaces(vectors[:, ::-1][:, :count], near_vectors[:, ::-1][:, :near])


def check_alike(reference: Mapping[str, Tensor], compressed: Mapping[str, Tensor]) -> None:
    """Make sure that two networks have the same weights, value apart.

    Raises:
        ValueError: If there is none, or names or shapes differ; says which.
    """
    if not reference:
        raise ValueError("expected at least one weight to compare, found none")
    missing = [name for name in reference if name not in compressed]
    added = [name for name in compressed if name not in reference]
    if missing or added:
        parts = [
            f"{names[0]} only {where}" for names, where in ((missing, "here"), (added, "there")) if names
        ]
        raise ValueError(
            f"both networks must have the same weights, {len(missing) + len(added)} are in one alone: "
            f"{', '.join(parts)}"
        )
    for name, weight in reference.items():
        if weight.shape != compressed[name].shape:
            raise ValueError(
                f"{name}: both networks must have the same shape, got {list(weight.shape)} and "
                f"{list(compressed[name].shape)}; subspaces and layers of another network cannot be compared"
            )


def _matrix(name: str, weight: Tensor) -> Tensor:
    if weight.dim() < 2 or weight.numel() == 0:
        raise ValueError(f"{name}: expected a matrix, got shape {list(weight.shape)}")
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return weight.detach().flatten(1).double()
