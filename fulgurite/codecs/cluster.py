r"""Clustered rows: many rows of a table are one learned row.

    rows -> / Cholesky factor of the metric -> weighted k-means -> codes, one a row -> pack_bits | ANS
                                                             \--> means of the rows themselves -> codebook

For tables of token vectors, whose rare tokens need no row of their own: the tokenizer stays as it is, and the table
takes ``16 * clusters / rows + ceil(log2(clusters)) / columns`` bits per weight at most.

References: Suzuki and Nagata, "Learning Compact Neural Word Embeddings by Parameter Space Sharing", IJCAI 2016, share
parts of rows; Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 1982.
Differs from the first: whole rows are shared, and found from a trained table, whose rows count as much as their tokens
occur. Refinement trains the shared rows. From the second: the rows that count most are the first means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.codecs._hessian import definite
from fulgurite.codecs._kmeans import segment_sums
from fulgurite.codecs.base import Codec, Encoded, as_matrix, dtype_name, restore, to_half
from fulgurite.coding import decode_symbols, encode_symbols, pack_bits, unpack_bits

_CELLS = 1 << 22  # distances at a time
_NEAREST = 2  # of the rounded distances, looked at exactly
_DAMPING = 0.01  # of the mean diagonal, as elsewhere
_TOP = 1 << 14  # clusters; a retry goes no further


@dataclass(frozen=True)
class ClusterCodec(Codec):
    """Let the rows of a table share ``clusters`` learned rows.

    Args:
        clusters: Learned rows; a table with fewer rows keeps its own.
        iterations: Rounds of k-means.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> encoded = ClusterCodec(clusters=16).encode(torch.randn(256, 32))
        >>> encoded.bits_per_weight  # 16 * 16 / 256, and 4 bits for each 32 weights
        1.125
    """

    name: ClassVar[str] = "cluster"
    continuous: ClassVar[tuple[str, ...]] = ("codebook",)
    rows_alike: ClassVar[bool] = False
    clusters: int = 4096
    iterations: int = 12

    def __post_init__(self) -> None:
        if not 1 <= self.clusters <= 1 << 24:
            raise ValueError(f"clusters must be in [1, {1 << 24}], got {self.clusters}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    @property
    @override
    def uses_hessian(self) -> bool:
        return True

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        counts = torch.ones(len(matrix), device=matrix.device) if row_weight is None else row_weight.float()
        counts = counts + counts.mean() * 1e-3 + 1e-12  # a row that nothing was seen of still has a place
        points = matrix if hessian is None else matrix @ definite(hessian, _DAMPING)[1].float()
        size = min(self.clusters, len(matrix))
        codes = _cluster(points, counts, size, self.iterations)
        codebook = to_half(_means(matrix, counts, codes, size))
        bits = _width(size)
        packed = pack_bits(codes, bits)
        stream = encode_symbols(codes, size)
        if entropy := stream.numel() < packed.numel():
            packed = stream
        return Encoded(
            self.name,
            tuple(weight.shape),
            dtype_name(weight.dtype),
            {"codes": packed, "codebook": codebook},
            {"clusters": size, "entropy": entropy},
        )

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        codebook, codes = encoded.tensors["codebook"].float(), _codes(encoded)
        if int(codes.max()) >= len(codebook):
            raise ValueError(
                f"codes must be below the codebook's {len(codebook)} rows, got {int(codes.max())}"
            )
        return restore(codebook[codes], encoded)

    @override
    def candidates(self) -> tuple[Codec, ...]:
        return tuple(replace(self, clusters=1 << power) for power in range(6, 14))

    @override
    def relaxed(self, severe: bool) -> ClusterCodec | None:
        larger = self.clusters * (4 if severe else 2)
        return replace(self, clusters=larger) if larger <= _TOP else None


def _codes(encoded: Encoded) -> Tensor:
    """Which learned row each row is, ``[rows]``."""
    rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
    size = int(encoded.meta["clusters"])
    packed = encoded.tensors["codes"]
    if encoded.meta["entropy"]:
        return decode_symbols(packed, size, rows).long()
    return unpack_bits(packed, _width(size), rows).long()


def _width(size: int) -> int:
    """Bits of a code."""
    return max(1, (size - 1).bit_length())


def _cluster(points: Tensor, counts: Tensor, size: int, iterations: int) -> Tensor:
    """Weighted k-means; codes ``[n]``, each of ``size`` used.

    Args:
        points: ``[n, d]``.
        counts: What each is worth, ``[n]``, positive.
        size: Clusters, at most ``n``.
        iterations: Rounds.
    """
    if size == len(points):
        return torch.arange(size, device=points.device)
    centres = points[counts.argsort(descending=True, stable=True)[:size]]
    codes = torch.full((len(points),), -1, device=points.device)
    for _ in range(iterations):
        found, distances = _nearest(points, centres)
        _fill(found, distances * counts, size)
        if torch.equal(found, codes):
            break
        codes = found
        centres = _means(points, counts, codes, size)
    return codes


def _means(values: Tensor, counts: Tensor, codes: Tensor, size: int) -> Tensor:
    """Weighted mean of each cluster, ``[size, d]``; sums that do not depend on their order."""
    total = segment_sums(counts[:, None], codes, size)
    return (segment_sums(values * counts[:, None], codes, size) / total.clamp_min(1e-300)).float()


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each point, and the squared distance to it.

    Products of matrices are rounded by how they are tiled; so the nearest few by them are compared once more.
    """
    norms = centres.square().sum(1)
    few = min(_NEAREST, len(centres))
    codes, distances = [], []
    for some in torch.split(points, max(1, _CELLS // len(centres))):
        rough = norms - 2 * some @ centres.T
        candidates = rough.topk(few, largest=False).indices.sort(1).values
        exact = (some[:, None] - centres[candidates]).square().sum(-1)
        best = exact.argmin(1, keepdim=True)
        codes.append(candidates.gather(1, best)[:, 0])
        distances.append(exact.gather(1, best)[:, 0])
    return torch.cat(codes), torch.cat(distances)


def _fill(codes: Tensor, costs: Tensor, size: int) -> None:
    """Give clusters without a row the rows that cost most, in place."""
    used = codes.bincount(minlength=size)
    empty = (used == 0).nonzero()[:, 0].tolist()
    for row in costs.argsort(descending=True, stable=True).tolist():
        if not empty:
            return
        if used[codes[row]] > 1:
            used[codes[row]] -= 1
            codes[row] = empty.pop()
