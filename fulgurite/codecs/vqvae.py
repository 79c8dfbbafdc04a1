"""Rows of a weight by a hierarchical VQ-VAE, an autoencoder for each category of columns.

rows -> column means and one scale -> categories of columns -> principal axes, residual product codes in three levels
     -> AdamW through the codes -> entropy-coded codes | codebooks and linear decoders in 16 bits

For tables whose columns have something in common, such as token embeddings. The decoder is linear, since its bytes
count. On weights without structure no such code comes up to a scalar one: compare with `ecq` at equal bytes.

References: van den Oord et al., "Neural Discrete Representation Learning", 2017, https://arxiv.org/abs/1711.00937; see
``fulgurite.vqvae``. Differs from the paper: vectors, a residual in levels, linear decoders, no prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.codecs.base import Codec, Encoded, as_matrix, dtype_name, restore, to_half
from fulgurite.vqvae.autoencoder import LEVELS
from fulgurite.vqvae.hierarchy import Hierarchy
from fulgurite.vqvae.quantiser import QuantiserSettings
from fulgurite.vqvae.stream import pack_codes, unpack_codes

_SHARES = (0.5, 0.3, 0.2)
_SAMPLE = 8192  # rows that the start looks at
_BATCH = 1024
_RATE = 1e-3
_TOP = 8.0


@dataclass(frozen=True)
class VqvaeCodec(Codec):
    """Code rows by codebooks over groups of columns, in three levels.

    Args:
        bits_per_weight: Of the codes, before entropy coding; codebooks and decoders come beside them.
        codes: Size of a codebook; of a weight with fewer than four rows a code, fewer.
        steps: Training steps after the start.
        columns: Columns of each category; one category of all where empty.
        tokens: Codes of each level of each category; by ``bits_per_weight`` where empty.
        seed: Of samples and batches.

    Raises:
        ValueError: If a setting is out of range.
    """

    name: ClassVar[str] = "vqvae"
    continuous: ClassVar[tuple[str, ...]] = ("codebooks", "decoders", "mean")
    bits_per_weight: float = 1.0
    codes: int = 64
    steps: int = 50
    columns: tuple[tuple[int, ...], ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.bits_per_weight <= _TOP:
            raise ValueError(f"bits_per_weight must be in (0, {_TOP:g}], got {self.bits_per_weight}")
        if not 2 <= self.codes <= 4096:
            raise ValueError(f"codes must be in [2, 4096], got {self.codes}")
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}")
        if len(self.tokens) != len(self.columns) or any(len(one) != LEVELS for one in self.tokens):
            raise ValueError(
                f"tokens must have {LEVELS} numbers for each of {len(self.columns)} categories, got {self.tokens}"
            )

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight).cpu()  # the start is a sort and small matrices
        facts = (self.name, tuple(weight.shape), dtype_name(weight.dtype))
        size = min(self.codes, 1 << max(0, (len(matrix) // 4).bit_length() - 1))
        if size < 2:  # nothing to learn a codebook from
            return Encoded(*facts, {"mean": to_half(matrix.flatten()).to(weight.device)}, {"codes": 0})
        mean = to_half(matrix.mean(0))
        centred = matrix - mean.float()
        scale = float(centred.square().mean().sqrt().clamp_min(1e-30))
        settings = QuantiserSettings(codes=size)
        groups = self.columns or (tuple(range(matrix.shape[1])),)
        names = {str(number): list(places) for number, places in enumerate(groups)}
        tokens = self.tokens or (self._tokens(matrix.shape[1], settings.bits),)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed)
            rows = centred / scale
            sample = rows[torch.randperm(len(rows))[:_SAMPLE]]
            hierarchy = Hierarchy.start(
                sample,
                names,
                dict(zip(names, tokens, strict=True)),
                settings,
                hidden=0,
                rows=min(_BATCH, len(rows)),
            )
            _train(hierarchy, rows, self.steps)
        return _stored(hierarchy.eval(), rows, facts, mean, scale, weight.device)

    def _tokens(self, features: int, bits: float) -> tuple[int, ...]:
        total = max(1, round(self.bits_per_weight * features / bits))
        ends = [round(total * sum(_SHARES[: level + 1])) for level in range(LEVELS)]
        return (max(1, ends[0]), ends[1] - ends[0], ends[2] - ends[1])

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        parts = encoded.tensors
        mean, size = parts["mean"].float(), int(encoded.meta["codes"])
        if not size:
            return restore(mean, encoded)
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        matrix = mean.repeat(rows, 1)
        category_of, shapes = parts["category_of"].long(), parts["shapes"].long().view(-1, LEVELS, 2)
        books, decoders = _Reader(parts["codebooks"].float()), _Reader(parts["decoders"].float())
        scale = parts["scale"].float()
        for number, levels in enumerate(shapes.tolist()):
            places = torch.nonzero(category_of == number)[:, 0]
            tokens = [count for count, _ in levels]
            codes = unpack_codes(parts[f"codes{number}"], size, rows, sum(tokens)).to(mean.device)
            total, start = torch.zeros(rows, len(places), device=mean.device), 0
            for count, width in levels:
                if not count:
                    continue
                book = books.take(count, size, width)
                chosen = codes[:, start : start + count]
                start += count
                values = book[torch.arange(count, device=mean.device), chosen].flatten(1)
                total = (
                    total + values @ decoders.take(count * width, len(places)) + decoders.take(len(places))
                )
            matrix = matrix.index_add(1, places, scale * total)
        books.finish()
        decoders.finish()
        return restore(matrix, encoded)

    @override
    def relaxed(self, severe: bool) -> VqvaeCodec | None:
        factor = 2.0 if severe else 1.5
        bits = self.bits_per_weight * factor
        if bits > _TOP:
            return None
        tokens = tuple(tuple(round(count * factor) for count in levels) for levels in self.tokens)
        return replace(self, bits_per_weight=bits, tokens=tokens)


class _Reader:
    """Takes shapes off a flat part, one after the other."""

    def __init__(self, flat: Tensor) -> None:
        self._flat, self._place = flat, 0

    def take(self, *shape: int) -> Tensor:
        size = int(torch.Size(shape).numel())
        found = self._flat[self._place : self._place + size].view(shape)
        self._place += size
        return found

    def finish(self) -> None:
        if self._place != self._flat.numel():
            raise ValueError(f"expected {self._place} numbers, found {self._flat.numel()}")


def _train(hierarchy: Hierarchy, rows: Tensor, steps: int) -> None:
    """Squared error through the codes; codebooks follow by their moving means."""
    optimizer = torch.optim.AdamW(hierarchy.parameters(), _RATE, weight_decay=0.0)
    hierarchy.train()
    for step in range(steps):
        batch = rows[torch.randint(len(rows), (min(_BATCH, len(rows)),))]
        loss = torch.zeros(())
        for name, coded in hierarchy(batch).items():
            wanted = batch[:, hierarchy.categories[name]]
            loss = loss + (wanted - coded.levels[-1]).square().sum() / batch.numel() + coded.loss
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 - step / steps)
        optimizer.step()


@torch.no_grad()
def _stored(
    hierarchy: Hierarchy,
    rows: Tensor,
    facts: tuple[str, tuple[int, ...], str],
    mean: Tensor,
    scale: float,
    device: torch.device,
) -> Encoded:
    """Codes made with the rounded codebooks and decoders that a reader has."""
    shapes: list[Sequence[int]] = []
    books: list[Tensor] = []
    decoders: list[Tensor] = []
    category_of = torch.zeros(hierarchy.num_features, dtype=torch.int16)
    for number, (_, places, network) in enumerate(hierarchy.parts()):
        category_of[places] = number
        shapes += [list(shape) for shape in network.shapes]
        for coder in network.coders():
            book, decode = coder.quantiser.inner._codebook.embed, coder.decode_linear
            for values in (book, decode.weight, decode.bias):
                values.copy_(values.half().float())
            books.append(book.half().flatten())
            decoders += [decode.weight.T.half().flatten(), decode.bias.half()]
    codes = hierarchy.encode(rows)
    size = next(network.settings.size for _, _, network in hierarchy.parts())
    tensors = {
        "mean": mean,
        "scale": torch.tensor([scale]),
        "category_of": category_of,
        "shapes": torch.tensor(shapes, dtype=torch.int16),
        "codebooks": torch.cat(books),
        "decoders": torch.cat(decoders),
        **{f"codes{number}": pack_codes(found, size) for number, found in enumerate(codes.values())},
    }
    return Encoded(
        *facts, {name: part.contiguous().to(device) for name, part in tensors.items()}, {"codes": size}
    )
