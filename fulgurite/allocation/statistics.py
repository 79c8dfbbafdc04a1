r"""Cheap statistics of a weight, from its spectrum: what strategies without measurements go by.

W, H, a -> A^(1/2) W H^(1/2) -> squared singular values -> energy, participation ratio, entropy power

References: participation ratio: Gao et al., "A theory of multineuronal dimensionality, dynamics and
measurement", 2017, https://doi.org/10.1101/214262, equation 4; entropy power of a Gaussian with a given
spectrum: Cover and Thomas, Elements of Information Theory, 2nd edition, theorems 10.3.3 and 12.5.1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

_MOST = 1024  # the spectrum is of so many rows and columns at most: it takes their cube
_FLOOR = 1e-6  # of the mean eigenvalue: null directions cost no bits, but their logarithm would decide all


@dataclass(frozen=True)
class Statistics:
    """What a weight is like.

    Args:
        variance: Mean square of the weights.
        dimensionality: Participation ratio ``(sum l)^2 / sum l^2`` of the weighted spectrum ``l``, as a share of
            the dimensions there are: 1 where all count alike.
        information: Entropy power per weight under the metric: the mean square times how flat the spectrum
            is, ``exp(mean ln l) / mean l``.
    """

    variance: float
    dimensionality: float
    information: float

    def to_dict(self) -> dict[str, float]:
        """For a file."""
        return asdict(self)


def statistics_of(
    weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
) -> Statistics:
    """Variance, dimensionality and information of one weight.

    Args:
        weight: ``[out, in]``; a vector is one row. Of more than 1024 rows evenly spaced ones are taken.
        hessian: ``[in, in]``; the identity where there is none.
        row_weight: ``[out]``; 1 where there is none.

    Returns:
        Zeros for an all-zero weight.
    """
    matrix = weight.detach().reshape(1, -1) if weight.dim() < 2 else weight.detach().flatten(1)
    variance = float(matrix.double().square().mean())
    rows = spread(len(matrix), _MOST, matrix.device)
    matrix = matrix[rows].double()
    if row_weight is not None:
        matrix = matrix * row_weight[rows].double().clamp_min(0).sqrt()[:, None]
    eigenvalues = _spectrum(matrix, None if hessian is None else hessian.double())
    mean = float(eigenvalues.mean())
    if mean <= 0:
        return Statistics(variance, 0.0, 0.0)
    shares = eigenvalues / mean
    flatness = float(shares.clamp_min(_FLOOR).log().mean().exp())
    return Statistics(
        variance=variance,
        dimensionality=float(1 / shares.square().mean()),  # (sum l)^2 / sum l^2 over the number of them
        information=float(eigenvalues.sum()) / matrix.numel() * flatness,
    )


def _spectrum(matrix: Tensor, hessian: Tensor | None) -> Tensor:
    """Eigenvalues of ``M H M^T`` on its smaller side, ``[min(out, in)]``, not negative."""
    if len(matrix) <= matrix.shape[1]:
        gram = matrix @ matrix.T if hessian is None else matrix @ hessian @ matrix.T
    else:
        gram = matrix.T @ matrix
        if (
            hessian is not None
        ):  # M^T M and H are both [in, in]: H^(1/2) G H^(1/2) has the spectrum and is symmetric
            values, vectors = torch.linalg.eigh(hessian)
            root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
            gram = root @ gram @ root
    spectrum: Tensor = torch.linalg.eigvalsh((gram + gram.T) / 2)
    return spectrum.clamp_min(0)


def spread(count: int, most: int, device: torch.device | str = "cpu") -> Tensor:
    """Indices of at most ``most`` of ``count`` rows, evenly spaced: the first of each share."""
    if count <= most:
        return torch.arange(count, device=device)
    return torch.arange(most, device=device) * count // most
