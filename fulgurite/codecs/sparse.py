r"""Pruned weights: most are zero, and which ones is coded; the others have 16 bits or a few.

    weight -> score -> pattern -> mask -> pattern index | bitmap -> entropy coder -> mask
                                   \--> survivors -> 16-bit floats ----------------> values
                                               \--> sign and level on a row's grid -> codes, scale, floor

References: Han et al., "Deep Compression", ICLR 2016, https://arxiv.org/abs/1510.00149, for magnitudes and coded
masks; Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), ICLR 2024,
https://arxiv.org/abs/2306.11695; Frantar and Alistarh, "SparseGPT", ICML 2023, https://arxiv.org/abs/2301.00774, as
``_sparse_feedback`` says.
Differs from these: masks are entropy-coded, and few-bit survivors have no level near zero, which the mask has already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor
from typing_extensions import override

from fulgurite.codecs._hessian import input_costs
from fulgurite.codecs._sparse_feedback import choose_in_turn, quantise_survivors, solve_survivors
from fulgurite.codecs._sparse_grid import fit_grid
from fulgurite.codecs._sparse_mask import read_mask, write_mask
from fulgurite.codecs._survivors import check_bits, put_back, store_codes, store_values, with_places
from fulgurite.codecs.base import Codec, Encoded, Scalar, as_matrix, dtype_name
from fulgurite.codecs.pattern import Pattern

_DEFAULT = 0.5
_LADDER = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_MILD, _SEVERE = 0.05, 0.15  # what a retry takes off the sparsity


@dataclass(frozen=True)
class SparseCodec(Codec):
    """Set weights to zero by their score and code the others.

    Args:
        sparsity: Share of zeros in [0, 1), at most; 0.5 by default. A pattern N:M says its own, and takes none
            but that.
        pattern: Where zeros may lie: ``unstructured``; ``N:M`` such as "2:4" (in quotes in YAML), N kept of each M
            consecutive inputs; or blocks of outputs and inputs such as "4x4", those at an edge cut, by the mean
            of their scores.
        score: What a weight is worth: ``magnitude``, compared over the whole weight; ``wanda``, magnitude times the
            root mean square of its input, compared in each output's row; ``sparsegpt``, what losing it costs
            the layer's outputs once the others have made up for it, which they then do. Without a hessian
            each is ``magnitude``.
        bits: Of a survivor: 16, or 1 to 8 for a sign and even levels with a scale a row. ``sparsegpt`` feeds
            the error of each column's rounding onwards.
        damping: Share of the hessian's mean diagonal that ``sparsegpt`` adds to its diagonal.

    Raises:
        ValueError: If a setting is out of range; from ``encode``, if N:M does not divide the weight's rows.

    Example:
        >>> encoded = SparseCodec(pattern="2:4").encode(torch.randn(256, 256))
        >>> round(encoded.bits_per_weight, 2)  # 16 bits for each second weight, log2(6) for each four
        8.65
    """

    name: ClassVar[str] = "sparse"
    continuous: ClassVar[tuple[str, ...]] = ("values", "scale")
    sparsity: float | None = None
    pattern: str = "unstructured"
    score: Literal["magnitude", "wanda", "sparsegpt"] = "magnitude"
    bits: int = 16
    damping: float = 0.01

    def __post_init__(self) -> None:
        own = Pattern(self.pattern).share
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {self.sparsity}")
        if own is not None and self.sparsity is not None and abs(self.sparsity - own) > 1e-6:
            raise ValueError(
                f'pattern "{self.pattern}" has sparsity {own:g}, got {self.sparsity:g}: leave sparsity out'
            )
        if self.score not in ("magnitude", "wanda", "sparsegpt"):
            raise ValueError(f"score must be magnitude, wanda or sparsegpt, got {self.score!r}")
        check_bits(self.bits)
        if self.damping < 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")

    @property
    def share(self) -> float:
        """Share of zeros that is aimed at."""
        own = Pattern(self.pattern).share
        if own is not None:
            return own
        return _DEFAULT if self.sparsity is None else self.sparsity

    @property
    @override
    def uses_hessian(self) -> bool:
        return self.score != "magnitude"

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        pattern = Pattern(self.pattern)
        pattern.check(matrix.shape[1])
        feeds = self.score == "sparsegpt" and hessian is not None
        costs = None if hessian is None or not self.uses_hessian else input_costs(hessian)
        if feeds:
            assert hessian is not None
            kept = choose_in_turn(matrix, hessian, row_weight, pattern, self.share, self.damping)
            matrix = solve_survivors(matrix, hessian, kept, self.damping)
        else:
            scores = matrix.abs() if costs is None else matrix.abs() * costs.sqrt()
            kept = ~pattern.drop(scores, self.share, per_row=costs is not None)
        kept = _without_zeros(matrix, kept, pattern)
        meta: dict[str, Scalar] = {"pattern": self.pattern, "bits": self.bits}
        tensors = {"mask": write_mask(kept, pattern)}
        if feeds and self.bits < 16:
            assert hessian is not None
            scale, floor = fit_grid(matrix, kept, self.bits, costs)
            codes = quantise_survivors(matrix, hessian, kept, scale, floor, self.bits, self.damping)
            tensors |= store_codes(codes, kept, self.bits, scale, floor)
        else:
            tensors |= store_values(matrix, kept, self.bits, costs)
        return Encoded(self.name, tuple(weight.shape), dtype_name(weight.dtype), tensors, meta)

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        if "mask" in encoded.tensors:
            encoded = cls.expanded(encoded)
        return put_back(encoded)

    @override
    @classmethod
    def expanded(cls, encoded: Encoded) -> Encoded:
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        pattern = Pattern(str(encoded.meta["pattern"]))
        kept = read_mask(encoded.tensors["mask"], pattern, rows, encoded.numel // rows)
        return with_places(encoded, kept, int(encoded.meta["bits"]))

    @override
    def candidates(self) -> tuple[Codec, ...]:
        pattern = Pattern(self.pattern)
        if pattern.keep:
            kept = range(1, pattern.columns)
            return tuple(replace(self, sparsity=None, pattern=f"{n}:{pattern.columns}") for n in kept)
        # beyond, a mask takes more than the survivors that it saves: H(s) grows faster than the codes shrink
        least = 1 / (1 + 2.0 ** min(self.bits, 8))
        return tuple(replace(self, sparsity=share) for share in _LADDER if share > 1.5 * least)

    @override
    def relaxed(self, severe: bool) -> SparseCodec | None:
        pattern = Pattern(self.pattern)
        if pattern.keep:
            more = pattern.more(severe)
            return None if more is None else replace(self, sparsity=None, pattern=more.text)
        if self.share == 0:
            return None
        return replace(self, sparsity=max(0.0, round(self.share - (_SEVERE if severe else _MILD), 6)))


def _without_zeros(values: Tensor, kept: Tensor, pattern: Pattern) -> Tensor:
    """The mask without what is zero already; N:M stays as it is, and something is kept always."""
    if pattern.keep:
        return kept
    kept = kept & _busy(values, pattern)
    if not kept.any():  # a refinement has nothing to train in an empty part
        kept = kept.clone()
        kept[: pattern.rows, : pattern.columns] = True
    return kept


def _busy(values: Tensor, pattern: Pattern) -> Tensor:
    """Which weights lie in a block that is not all zero."""
    rows, columns = values.shape
    down, across = pattern.blocks(rows, columns)
    padded = values.new_zeros(down * pattern.rows, across * pattern.columns)
    padded[:rows, :columns] = values
    used = padded.reshape(down, pattern.rows, across, pattern.columns).ne(0).any(3).any(1)
    return used.repeat_interleave(pattern.rows, 0).repeat_interleave(pattern.columns, 1)[:rows, :columns]
