"""Tokens of a few numbers to the nearest codes, by vector-quantize-pytorch.

latents [n, tokens, width] -> quantiser -> codes [n, tokens], values [n, tokens, width], commitment loss

| kind | codebook |
| --- | --- |
| `ema` | one for each token; means of what chose a code, over steps (VQ-VAE with EMA); rare codes are revived |
| `simvq` | one for all tokens: a frozen one through a learned matrix; https://arxiv.org/abs/2411.02038 |
| `fsq` | none: each number is bounded and rounded; https://arxiv.org/abs/2309.15505 |

References: van den Oord et al., "Neural Discrete Representation Learning", 2017, https://arxiv.org/abs/1711.00937,
appendix A.1; the rotation trick: Fifty et al., 2024, https://arxiv.org/abs/2410.06424; the library:
https://github.com/lucidrains/vector-quantize-pytorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Kind = Literal["ema", "simvq", "fsq"]
_FSQ: dict[int, list[int]] = {
    8: [8], 16: [4, 4], 25: [5, 5], 64: [8, 8], 125: [5, 5, 5], 240: [8, 6, 5], 512: [8, 8, 8], 1000: [8, 5, 5, 5],
}  # fmt: skip
_KMEANS = 10  # iterations
_CHUNK = 1 << 12  # rows that are compared with a codebook at once where no gradient is needed


@dataclass(frozen=True)
class QuantiserSettings:
    """How tokens become codes.

    Args:
        kind: ``ema``, ``simvq`` or ``fsq``.
        codes: Size of a codebook; for ``fsq`` the product of its levels, at most this.
        decay: Of the moving means of ``ema``.
        revive_below: A code of ``ema`` used less than this share of even use is put on an input of the batch; 0 is off.
        rotation_trick: Gradients through codes by a rotation and not straight through; not for ``fsq``.
        commitment: Weight of the distance between latents and their codes.

    Raises:
        ValueError: If a setting is out of range.
    """

    kind: Kind = "ema"
    codes: int = 64
    decay: float = 0.99
    revive_below: float = 0.1
    rotation_trick: bool = True
    commitment: float = 0.25

    def __post_init__(self) -> None:
        if self.kind not in ("ema", "simvq", "fsq"):
            raise ValueError(f"kind must be ema, simvq or fsq, got {self.kind!r}")
        if not 2 <= self.codes <= 1 << 14:
            raise ValueError(f"codes must be in [2, 16384], got {self.codes}")
        if self.kind == "fsq" and self.codes < min(_FSQ):
            raise ValueError(f"codes must be at least {min(_FSQ)} for fsq, got {self.codes}")
        if not 0 < self.decay < 1:
            raise ValueError(f"decay must be in (0, 1), got {self.decay}")
        if not 0 <= self.revive_below < 1:
            raise ValueError(f"revive_below must be in [0, 1), got {self.revive_below}")
        if self.commitment < 0:
            raise ValueError(f"commitment must not be negative, got {self.commitment}")

    @property
    def size(self) -> int:
        """Codes there are."""
        return max(size for size in _FSQ if size <= self.codes) if self.kind == "fsq" else self.codes

    @property
    def bits(self) -> float:
        """Of one code where all are used alike."""
        return math.log2(self.size)


_shared: ContextVar[bool] = ContextVar("shared", default=False)


@contextmanager
def shared_codebooks(shared: bool = True) -> Iterator[None]:
    """Codebooks that are built here follow the rows of all processes, which train them together; by default not."""
    token = _shared.set(shared)
    try:
        yield
    finally:
        _shared.reset(token)


class Quantised(NamedTuple):
    """Values ``[n, tokens, width]``, codes ``[n, tokens]`` and a loss."""

    values: Tensor
    codes: Tensor
    loss: Tensor


class Quantiser(nn.Module):
    """All tokens of one level of one category.

    Args:
        tokens: Codes of a row.
        width: Numbers that one code stands for.
        settings: Kind and size.
        rows: Of a training step: what even use is.
    """

    def __init__(self, tokens: int, width: int, settings: QuantiserSettings, rows: int = 1024) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ, SimVQ, VectorQuantize

        self.tokens, self.width, self.settings = tokens, width, settings
        inner: Any
        if settings.kind == "ema":
            inner = VectorQuantize(
                dim=tokens * width,
                heads=tokens,
                codebook_dim=width,
                separate_codebook_per_head=True,
                codebook_size=settings.codes,
                decay=settings.decay,
                threshold_ema_dead_code=settings.revive_below * rows / settings.codes,
                rotation_trick=settings.rotation_trick and width > 1,
                commitment_weight=settings.commitment,
                # the library would ask whether there are several processes, once, and keep the answer: one that
                # trains a codebook by itself while others do other work would wait for them
                sync_codebook=_shared.get(),
            )
        elif settings.kind == "simvq":
            inner = SimVQ(
                dim=width,
                codebook_size=settings.codes,
                rotation_trick=settings.rotation_trick and width > 1,
                commitment_weight=settings.commitment,
            )
        else:
            inner = FSQ(_FSQ[settings.size], dim=width)
        self.inner = inner

    @property
    def whitens(self) -> bool:
        """Whether latents should have deviations of 1 at the start."""
        return self.settings.kind != "ema"

    def forward(self, latents: Tensor) -> Quantised:
        """Quantise ``[n, tokens, width]``; in training mode codebooks move."""
        count = len(latents)
        if self.settings.kind == "ema":
            values, codes, loss = self.inner(latents.reshape(1, count, -1))
            return Quantised(values.view_as(latents), codes.reshape(count, self.tokens), loss.sum())
        if self.settings.kind == "simvq":
            return Quantised(*self.inner(latents))
        values, codes = self.inner(latents)
        return Quantised(values, codes, latents.new_zeros(()))

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """Codes ``[n, tokens]`` of latents; nothing moves."""
        mode = self.training
        self.eval()
        try:
            parts = [self(part).codes for part in torch.split(latents, _CHUNK)]
        finally:
            self.train(mode)
        return torch.cat(parts).long()

    def values_of(self, codes: Tensor) -> Tensor:
        """What codes ``[n, tokens]`` stand for, ``[n, tokens, width]``.

        Raises:
            ValueError: If one is beyond the codebook.
        """
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.settings.size:
            raise ValueError(
                f"codes must be in [0, {self.settings.size - 1}], got [{codes.min()}, {codes.max()}]"
            )
        if self.settings.kind == "ema":
            books = self.inner.codebook  # [tokens, codes, width]
            chosen: Tensor = books[torch.arange(self.tokens, device=codes.device), codes]
            return chosen
        found: Tensor = self.inner.indices_to_codes(codes)
        return found

    @torch.no_grad()
    def start(self, latents: Tensor) -> None:
        """Put the codebooks of ``ema`` on the means that k-means finds; the others need no start.

        Args:
            latents: ``[n, tokens, width]``, at least as many as codes.
        """
        if self.settings.kind != "ema":
            return
        from vector_quantize_pytorch.vector_quantize_pytorch import kmeans

        book = self.inner._codebook
        means, counts = kmeans(latents.transpose(0, 1).contiguous(), self.settings.codes, _KMEANS)
        # as if one step had seen them: reviving goes by counts of a step
        share = counts.float() / max(len(latents), 1) * self.rows_seen
        book.embed.copy_(means)
        book.cluster_size.copy_(share.clamp_min(1e-3))
        book.embed_avg.copy_(means * book.cluster_size[..., None])

    @property
    def rows_seen(self) -> float:
        """Rows of a step."""
        threshold = self.settings.revive_below
        return (
            self.inner._codebook.threshold_ema_dead_code * self.settings.codes / threshold
            if threshold
            else 1024.0
        )

    def numbers_to_decode(self) -> int:
        """Floats that ``values_of`` needs."""
        if self.settings.kind == "ema":
            return int(self.inner.codebook.numel())
        if self.settings.kind == "simvq":
            # the frozen codebook is drawn, but not from a seed of its own: it is stored
            learned = sum(int(parameter.numel()) for parameter in self.inner.parameters())
            return int(self.inner.frozen_codebook.numel()) + learned
        return sum(int(parameter.numel()) for parameter in self.inner.project_out.parameters())
