r"""Vector post-training quantisation: the weight's vectors become indices into a codebook.

    weight -> / scale -> vectors of v rows -> error feedback, column by column -> pack_bits | ANS -> codes
                            hessian -> weighted k-means -> codebook <- least squares <-/

Reference: Liu et al., "VPTQ: Extreme Low-bit Vector Post-Training Quantization for Large Language
Models", EMNLP 2024, https://arxiv.org/abs/2409.17066, sections 3.1 to 3.4; the codebook update is that of
GPTVQ, https://arxiv.org/abs/2402.15319, section 3.3.
Differs from the paper: a 16-bit scale per row in place of a scale and a bias per column; the nearest
codeword counts each row by its scale; the codes are put in the weight's own order, so that no permutation
is stored; small layers of one type may share one codebook; k-means has the same result on every run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.codecs._vptq_encode import Plan, Solution, solve
from fulgurite.codecs._vptq_share import fit_shared
from fulgurite.codecs.base import Codec, Encoded, Scalar, as_matrix, dtype_name, restore
from fulgurite.coding import decode_symbols, encode_symbols, pack_bits, unpack_bits

_TOP_BITS = 12.0  # index bits per weight at which the ladder ends: little is left to win above fp16's 11
_TOP_SIZE = 4096
# vector length and codewords for 1 to 4 bits: pairs from 1.5 on, whose codebooks a small weight can bear too
_LADDER = ((4, 16), (2, 8), (2, 16), (2, 32), (2, 64), (2, 128), (2, 256))


@dataclass(frozen=True)
class VptqCodec(Codec):
    """Code vectors of weights by the nearest of ``codebook_size`` learned codewords.

    A code costs ``log2(codebook_size) / vector_length`` bits per weight, the codebook
    ``16 * codebook_size * vector_length`` bits per layer or per group of layers that share it, and the
    scale 16 bits per row.

    Args:
        vector_length: Rows of one column that share a code; no longer than the weight has rows.
        codebook_size: Codewords; a weight with fewer vectors gets fewer.
        residual_codebook_size: Codewords for what the first leaves over; 0 for none.
        num_groups: Consecutive parts of the columns with a codebook each.
        outlier_share: Share of the columns, those with the largest second moment, with their own codebook.
        outlier_vector_length: ``vector_length`` of these.
        outlier_codebook_size: ``codebook_size`` of these.
        share: True: one codebook for all weights of one type, once ``bind`` has seen them. "auto": only
            where the codebook would cost too much; over all types where sharing by type is not enough.
        share_above: Bits per weight for codebooks that "auto" bears.
        column_norm: A 16-bit scale per column too.
        iterations: Rounds of k-means.
        second_order: Correct the columns not yet coded for each column's error, where there is a hessian.
        damping: Share of the hessian's mean diagonal that is added to it.
        entropy: Code the codes by their histogram (ANS) where that takes fewer bytes.
        seed: Of the k-means draws.

    Raises:
        ValueError: If a setting is out of range, or groups are to be shared.

    Example:
        >>> codec = VptqCodec(vector_length=4, codebook_size=16)
        >>> encoded = codec.encode(torch.randn(64, 64))
        >>> encoded.bits_per_weight  # 4 / 4, scale 64 * 16 / 4096, codebook 16 * 4 * 16 / 4096
        1.5
    """

    name: ClassVar[str] = "vptq"
    continuous: ClassVar[tuple[str, ...]] = (
        "scale",
        "codebook",
        "residual_codebook",
        "outlier_codebook",
        "column_scale",
    )
    vector_length: int = 4
    codebook_size: int = 256
    residual_codebook_size: int = 0
    num_groups: int = 1
    outlier_share: float = 0.0
    outlier_vector_length: int = 2
    outlier_codebook_size: int = 256
    share: bool | Literal["auto"] = "auto"
    share_above: float = 0.1
    column_norm: bool = False
    iterations: int = 20
    second_order: bool = True
    damping: float = 0.01
    entropy: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("vector_length", "outlier_vector_length"):
            if not 1 <= getattr(self, name) <= 64:
                raise ValueError(f"{name} must be in [1, 64], got {getattr(self, name)}")
        for name in ("codebook_size", "outlier_codebook_size", "residual_codebook_size"):
            size = getattr(self, name)
            if not 2 <= size <= 65536 and not (name == "residual_codebook_size" and size == 0):
                raise ValueError(f"{name} must be in [2, 65536], got {size}")
        if self.num_groups < 1:
            raise ValueError(f"num_groups must be at least 1, got {self.num_groups}")
        if not 0 <= self.outlier_share < 1:
            raise ValueError(f"outlier_share must be in [0, 1), got {self.outlier_share}")
        if self.share not in (True, False, "auto"):
            raise ValueError(f"share must be true, false or 'auto', got {self.share!r}")
        if self.share is True and self.num_groups > 1:
            raise ValueError(f"num_groups must be 1 where a codebook is shared, got {self.num_groups}")
        if self.share_above < 0 or self.iterations < 0 or self.damping < 0:
            values = (self.share_above, self.iterations, self.damping)
            raise ValueError(f"share_above, iterations and damping must not be negative, got {values}")

    @property
    @override
    def uses_hessian(self) -> bool:
        return True

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        return self._encode(weight, hessian, row_weight, shared=())

    def _encode(
        self,
        weight: Tensor,
        hessian: Tensor | None,
        row_weight: Tensor | None,
        shared: Sequence[Tensor],
    ) -> Encoded:
        found = solve(as_matrix(weight, hessian, row_weight), hessian, self.plan, shared, row_weight)
        codes, tensors = _parts(found)
        packed = {name: pack_bits(values, _width(size)) for name, (values, size) in codes.items()}
        entropy = False
        if self.entropy:
            streams = {name: encode_symbols(values, size) for name, (values, size) in codes.items()}
            entropy = _num_bytes(streams) < _num_bytes(packed)
            packed = {name: part.to(weight.device) for name, part in streams.items()} if entropy else packed
        meta: dict[str, Scalar] = {"entropy": entropy}
        return Encoded(self.name, tuple(weight.shape), dtype_name(weight.dtype), {**packed, **tensors}, meta)

    @property
    def plan(self) -> Plan:
        """The settings that the search for codes and codebooks needs."""
        names = {spec.name for spec in fields(Plan)} - {"sizes"}
        sizes = (self.codebook_size, self.residual_codebook_size)[: 2 if self.residual_codebook_size else 1]
        return Plan(sizes=sizes, **{name: getattr(self, name) for name in names})

    @override
    def bind(
        self,
        weights: Mapping[str, Tensor],
        hessians: Mapping[str, Tensor] | None = None,
        row_weights: Mapping[str, Tensor] | None = None,
    ) -> Mapping[str, Codec]:
        bound: dict[str, Codec] = dict.fromkeys(weights, self)
        if self.share is False or self.num_groups > 1:
            return bound
        limit = self.share_above if self.share == "auto" else None
        settings = {spec.name: getattr(self, spec.name) for spec in fields(VptqCodec)}
        found = fit_shared(weights, hessians or {}, self.plan, limit, row_weights or {})
        for group, members, codebooks in found:
            codec = BoundVptqCodec(**settings, group=group, codebooks=codebooks)
            bound.update(dict.fromkeys(members, codec))
        return bound

    @override
    def candidates(self) -> tuple[Codec, ...]:
        return tuple(
            replace(self, vector_length=length, codebook_size=size, residual_codebook_size=0)
            for length, size in _LADDER
        )

    @override
    def relaxed(self, severe: bool) -> VptqCodec | None:
        first, second, length = self.codebook_size, self.residual_codebook_size, self.vector_length
        bits = (_width(first) + (_width(second) if second else 0)) / length
        if bits >= _TOP_BITS:
            return None
        if not severe and first < _TOP_SIZE:
            return replace(self, codebook_size=min(2 * first, _TOP_SIZE))
        if not severe and second < _TOP_SIZE:
            return replace(self, residual_codebook_size=min(2 * second, _TOP_SIZE) if second else 16)
        if second == 0:
            return replace(self, residual_codebook_size=first)
        return replace(self, vector_length=length // 2) if length > 1 else None

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        columns = encoded.numel // rows
        tensors, entropy = encoded.tensors, bool(encoded.meta["entropy"])
        mask = None
        inner = columns
        if "outlier_mask" in tensors:
            mask = unpack_bits(tensors["outlier_mask"], 1, columns).bool()
            inner -= int(mask.sum())
        values = _lookup(tensors, "", inner, rows, entropy)
        if "residual_codebook" in tensors:
            values = values + _lookup(tensors, "residual_", inner, rows, entropy)
        if mask is not None:
            outliers = _lookup(tensors, "outlier_", columns - inner, rows, entropy)
            order = torch.cat([(~mask).nonzero()[:, 0], mask.nonzero()[:, 0]])
            values = torch.cat([values, outliers])[order.argsort()]
        matrix = values.T * _vector(tensors, "scale", rows)[:, None]
        if "column_scale" in tensors:
            matrix = matrix * _vector(tensors, "column_scale", columns)
        return restore(matrix, encoded)


@dataclass(frozen=True)
class BoundVptqCodec(VptqCodec):
    """A ``VptqCodec`` that holds the codebooks of a group of weights, made by ``bind``.

    Args:
        group: The weights' common type, such as ``q_proj.weight``.
        codebooks: Of each stage, ``[k, v]``, 16-bit; put as they are into each ``Encoded``.
    """

    group: str = ""
    codebooks: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        return self._encode(
            weight, hessian, row_weight, tuple(book.to(weight.device) for book in self.codebooks)
        )

    @property
    def _unbound(self) -> VptqCodec:
        return VptqCodec(**{spec.name: getattr(self, spec.name) for spec in fields(VptqCodec)})

    @override
    def candidates(self) -> tuple[Codec, ...]:
        return self._unbound.candidates()  # other codebooks: to be bound again

    @override
    def relaxed(self, severe: bool) -> VptqCodec | None:
        return self._unbound.relaxed(severe)


def _parts(found: Solution) -> tuple[dict[str, tuple[Tensor, int]], dict[str, Tensor]]:
    """The codes with their alphabets, and the parts that are stored as they are."""
    codes: dict[str, tuple[Tensor, int]] = {}
    tensors = {"scale": found.scale}
    for stage, prefix in zip(range(len(found.main[0].codebooks)), ("", "residual_"), strict=False):
        books = [part.codebooks[stage] for part in found.main]
        size = max(len(book) for book in books)
        # a group that names fewer codewords than another is filled with zeros that no code names
        padded = [functional.pad(book, (0, 0, 0, size - len(book))) for book in books]
        # a shared codebook must stay bit for bit the same, so it is not copied
        tensors[prefix + "codebook"] = torch.stack(padded) if len(padded) > 1 else books[0][None]
        whole = [part.codes[stage] for part in found.main]
        codes[prefix + "codes"] = torch.cat(whole) if len(whole) > 1 else whole[0], size
    if found.outliers is not None:
        mask = torch.zeros(found.num_columns, dtype=torch.int32, device=found.scale.device)
        mask[found.outliers.index] = 1
        tensors["outlier_mask"] = pack_bits(mask, 1)
        tensors["outlier_codebook"] = found.outliers.codebooks[0][None]
        codes["outlier_codes"] = found.outliers.codes[0], len(found.outliers.codebooks[0])
    if found.column_scale is not None:
        tensors["column_scale"] = found.column_scale
    return codes, tensors


def _lookup(tensors: Mapping[str, Tensor], prefix: str, count: int, rows: int, entropy: bool) -> Tensor:
    """Decoded columns before scaling, ``[count, rows]``, differentiable in the codebook."""
    codebook = tensors[prefix + "codebook"]
    if codebook.dim() != 3 or codebook.numel() == 0:
        raise ValueError(f"{prefix}codebook must be [groups, k, v], got {list(codebook.shape)}")
    groups, size, length = codebook.shape
    per_column = -(-rows // length)
    read, width = (decode_symbols, size) if entropy else (unpack_bits, _width(size))
    codes = read(tensors[prefix + "codes"], width, count * per_column).reshape(count, per_column).long()
    if codes.numel() and int(codes.max()) >= size:
        raise ValueError(f"{prefix}codes must be below {size}, got {int(codes.max())}")
    if groups > 1:
        group = torch.arange(count, device=codes.device) * groups // max(1, count)
        codes = codes + size * group[:, None]
    values = functional.embedding(codes, codebook.float().reshape(-1, length))  # [count, per_column, v]
    return values.reshape(count, -1)[:, :rows]


def _vector(tensors: Mapping[str, Tensor], name: str, size: int) -> Tensor:
    if tensors[name].numel() != size:
        raise ValueError(f"{name} must have {size} elements, got {tensors[name].numel()}")
    return tensors[name].float().reshape(-1)


def _width(size: int) -> int:
    return max(1, (size - 1).bit_length())


def _num_bytes(parts: Mapping[str, Tensor]) -> int:
    return sum(part.numel() for part in parts.values())
