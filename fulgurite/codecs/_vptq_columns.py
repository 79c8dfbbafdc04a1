r"""The columns of one weight that share codebooks, in the encoder's working form.

    columns / scale -> vectors of v rows -> nearest (+ nearest to the residual) -> codes
                    \-> weighted k-means -> codebook, residual codebook

Everything here is laid out ``[in, out]``: one column of the weight is one row in memory, and its vectors
are consecutive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from fulgurite.codecs._kmeans import Choose, chooser, fit_codebook_of, nearest, segment_sums
from fulgurite.codecs.base import to_half

Values = Callable[[Tensor, Tensor], Tensor]

_CHUNK = 1 << 20


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
        codes: Of each stage, ``[n, ceil(out / v)]``, in the type of ``blank_codes``.
    """

    index: Tensor
    length: int
    codebooks: list[Tensor] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)

    def fit(
        self, values: Values, row_weight: Tensor, importance: Tensor, sizes: Sequence[int], **options: int
    ) -> None:
        """Fit a codebook, and one more to each residual.

        Args:
            values: Makes entries of the weight over their scales from places of rows and of columns.
            row_weight: What a squared error costs in each row, ``[out]``.
            importance: What it costs in each column of the weight, ``[in]``.
            sizes: Codewords of each stage.
            **options: ``iterations`` and ``seed`` of ``fit_codebook``.
        """
        rows = len(row_weight)
        per_column = -(-rows // self.length)
        count = len(self.index) * per_column

        def choose(chosen: Tensor | None) -> tuple[Tensor, Tensor]:
            chosen = torch.arange(count) if chosen is None else chosen
            chosen = chosen.to(self.index.device)
            column = self.index[chosen // per_column, None]
            row = (chosen % per_column * self.length)[:, None] + torch.arange(
                self.length, device=chosen.device
            )
            inside = row < rows  # zeros fill the last vector of a column
            row = row.clamp_max(rows - 1)
            vectors = torch.where(inside, values(row, column), 0)
            return vectors, torch.where(inside, row_weight[row], 0) * importance[column]

        self.codebooks = fit_stages_of(count, choose, sizes, **options)

    def slices(self, rows: int) -> Iterator[slice]:
        """Some of the columns at a time, about a million weights, for what need not see all at once."""
        some = max(1, _CHUNK // rows)
        for start in range(0, len(self.index), some):
            yield slice(start, min(start + some, len(self.index)))

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

    def image(self, codebooks: Sequence[Tensor], rows: int, some: slice = slice(None)) -> Tensor:
        """What the codes of some columns stand for under given codebooks, linear in them; ``[n, rows]``."""
        stages = zip(codebooks, self.codes, strict=True)
        total = sum(
            (book.float()[codes[some].int()] for book, codes in stages),
            torch.zeros((), device=self.index.device),
        )
        return total.flatten(1)[:, :rows]

    def adjoint(self, values: Tensor, some: slice = slice(None)) -> list[Tensor]:
        """The transpose of ``image``: for each codeword, the sum of the values in its places, float64."""
        vectors = as_vectors(values, self.length).flatten(0, 1)
        stages = zip(self.codebooks, self.codes, strict=True)
        return [segment_sums(vectors, codes[some].flatten().int(), len(book)) for book, codes in stages]

    def blank_codes(self, rows: int) -> list[Tensor]:
        """Room for the codes of each stage, two bytes each where that is enough."""
        shape = len(self.index), -(-rows // self.length)
        return [
            torch.zeros(shape, dtype=torch.int16 if len(book) <= 1 << 15 else torch.int32, device=book.device)
            for book in self.codebooks
        ]

    def snapshot(self) -> Columns:
        """As they are now. Codebooks and codes are replaced, never written to, once a round is over."""
        return Columns(self.index, self.length, list(self.codebooks), list(self.codes))

    def compact(self) -> None:
        """Drop the codewords that no code names."""
        for stage, codes in enumerate(self.codes):
            used = torch.zeros(len(self.codebooks[stage]), dtype=torch.bool, device=codes.device)
            parts = torch.split(codes.flatten(), _CHUNK)
            for some in parts:
                used[some.int()] = True
            if used.all():
                continue
            renamed = (used.cumsum(0) - 1).to(codes.dtype)
            self.codebooks[stage] = self.codebooks[stage][used]
            self.codes[stage] = torch.cat([renamed[some.int()] for some in parts]).reshape(codes.shape)


def fit_stages(
    vectors: Tensor, weights: Tensor, sizes: Sequence[int], iterations: int, seed: int
) -> list[Tensor]:
    """Codebooks of each stage, each fitted to what the ones before leave over, as they are stored."""
    return fit_stages_of(len(vectors), chooser(vectors, weights), sizes, iterations, seed)


def fit_stages_of(
    count: int, choose: Choose, sizes: Sequence[int], iterations: int, seed: int
) -> list[Tensor]:
    """The same for vectors of which only samples are made."""
    codebooks: list[Tensor] = []

    def left(chosen: Tensor | None) -> tuple[Tensor, Tensor]:
        vectors, weights = choose(chosen)
        for book in codebooks:
            vectors = vectors - book.float()[nearest(vectors, weights, book.float())]
        return vectors, weights

    for stage, size in enumerate(sizes):
        codebooks.append(to_half(fit_codebook_of(count, left, size, iterations, seed + stage)))
    return codebooks
