r"""The columns of one weight that share codebooks, in the encoder's working form.

    columns / scale -> vectors of v rows -> nearest (+ nearest to the residual) -> codes
                    \-> weighted k-means -> codebook, residual codebook

Everything here is laid out ``[in, out]``: one column of the weight is one row in memory, and its vectors
are consecutive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from fulgurite.codecs._kmeans import fit_codebook, nearest, segment_sums
from fulgurite.codecs.base import to_half


def as_vectors(values: Tensor, length: int) -> Tensor:
    """Cut rows ``[n, out]`` into ``[n, ceil(out / length), length]``; zeros fill the last vector."""
    return functional.pad(values, (0, -values.shape[1] % length)).reshape(len(values), -1, length)


@dataclass
class Columns:
    """Columns that share codebooks; the decoded columns are sums of one codeword of each codebook.

    Args:
        index: The columns' places in the weight, ``[n]``.
        length: Rows in one vector, ``v``.
        codebooks: Of each stage, ``[k, v]`` in the 16-bit type in which they are stored.
        codes: Of each stage, ``[n, ceil(out / v)]``.
    """

    index: Tensor
    length: int
    codebooks: list[Tensor] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)

    def fit(
        self, values: Tensor, row_weight: Tensor, importance: Tensor, sizes: Sequence[int], **options: int
    ) -> None:
        """Fit a codebook, and one more to each residual.

        Args:
            values: The columns over their scales, ``[n, out]``.
            row_weight: What a squared error costs in each row, ``[out]``.
            importance: What it costs in each column, ``[n]``.
            sizes: Codewords of each stage.
            **options: ``iterations`` and ``seed`` of ``fit_codebook``.
        """
        vectors = as_vectors(values, self.length)
        weights = as_vectors(row_weight[None], self.length) * importance[:, None, None]
        vectors, weights = vectors.flatten(0, 1), weights.flatten(0, 1)  # [n * ceil(out / v), v]
        self.codebooks = fit_stages(vectors, weights, sizes, **options)

    def code(self, values: Tensor, row_weight: Tensor) -> tuple[list[Tensor], Tensor]:
        """Codes and decoded values of some of the columns.

        Args:
            values: Over their scales, ``[m, out]``.
            row_weight: ``[out]``, as for ``fit``. What a column costs plays no part within it.

        Returns:
            Codes of each stage, ``[m, ceil(out / v)]``, and the decoded values, ``[m, out]``.
        """
        vectors = as_vectors(values, self.length)
        shape = vectors.shape
        weights = as_vectors(row_weight[None], self.length).expand(shape).flatten(0, 1)
        left = vectors.flatten(0, 1)
        decoded = torch.zeros_like(left)
        codes = []
        for codebook in self.codebooks:
            stage = nearest(left - decoded, weights, codebook.float())
            decoded += codebook.float()[stage]
            codes.append(stage.reshape(shape[:2]))
        return codes, decoded.reshape(len(values), -1)[:, : values.shape[1]]

    def image(self, codebooks: Sequence[Tensor], rows: int) -> Tensor:
        """What the codes stand for under given codebooks: linear in them, ``[n, rows]``."""
        stages = zip(codebooks, self.codes, strict=True)
        total = sum(
            (book.float()[codes] for book, codes in stages), torch.zeros((), device=self.index.device)
        )
        return total.flatten(1)[:, :rows]

    def adjoint(self, values: Tensor) -> list[Tensor]:
        """The transpose of ``image``: for each codeword, the sum of the values in its places, float64."""
        vectors = as_vectors(values, self.length).flatten(0, 1)
        stages = zip(self.codebooks, self.codes, strict=True)
        return [segment_sums(vectors, codes.flatten(), len(book)) for book, codes in stages]

    def compact(self) -> None:
        """Drop the codewords that no code names."""
        for stage, codes in enumerate(self.codes):
            used, renamed = torch.unique(codes, return_inverse=True)
            self.codebooks[stage], self.codes[stage] = self.codebooks[stage][used], renamed


def fit_stages(
    vectors: Tensor, weights: Tensor, sizes: Sequence[int], iterations: int, seed: int
) -> list[Tensor]:
    """Codebooks of each stage, each fitted to what the ones before leave over, as they are stored."""
    codebooks: list[Tensor] = []
    left = vectors
    for stage, size in enumerate(sizes):
        if stage:
            last = codebooks[-1].float()
            left = left - last[nearest(left, weights, last)]
        codebooks.append(to_half(fit_codebook(left, weights, size, iterations, seed + stage)))
    return codebooks
