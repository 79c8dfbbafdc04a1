r"""SeedLM: a block of weights as the seed of a pseudo-random matrix and a few latents.

    weight -> / scale of its row -> blocks of C -> best seed of 2^K - 1 -> seeds (K bits)
                     \                ^        \         \-> latents of P -> exponent (4 bits), levels
                      \                \- hessian <- error of the block
                       \-> rms of the row -> scale (fp16)

Reference: Shafipour et al., "SeedLM: Compressing LLM Weights into Seeds of Pseudo-Random Generators",
ICLR 2025, https://arxiv.org/abs/2410.10714, sections 3 and 4.
Differs from the paper: rows are scaled to unit rms first, because 4 bits of exponent are an absolute
range that real weights fall out of; the exponent is ``ceil(log2(max |t| / 7.5))``, which uses all levels;
the search (``_seed_search``) gives the same argmin over all seeds but quantises only those that can win;
with a hessian the blocks of a row go one after another, the later ones make up for the earlier ones' errors
(block LDL feedback, Tseng et al., "QuIP#", https://arxiv.org/abs/2402.04396, section 4.1), and the seed is the
best under what an error of the block then costs, not under the plain square.

What decoding computes, for a block of seed ``s``, exponent code ``e`` and levels ``q``:
``w[c] = (sum_p V[c, p] q[p]) * (2^(e - 6 - B) / (2^(K-1) - 1)) * scale[row]``, with ``V`` the whole numbers
of ``_lfsr`` (its docstring is the definition), ``B`` the bits of a latent, the sum exact and the rest in
float32 from left to right. Blocks run over the weight in row-major order, across the ends of rows; the last
one is cut. Parts: ``seeds``, ``exponents``, ``latents`` (``P`` of a block together, two's complement; with one
bit 0 is +1 and 1 is -1), each packed for itself, and ``scale``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.codecs._hessian import block_feedback
from fulgurite.codecs._lfsr import TAPS, denominator, next_state
from fulgurite.codecs._seed_search import Choice, search
from fulgurite.codecs._seed_tables import EXPONENT_CODES, Layout
from fulgurite.codecs.base import Codec, Encoded, as_matrix, dtype_name, restore, to_half
from fulgurite.coding import decode_symbols, encode_symbols, pack_bits, unpack_bits

_EXPONENT_BITS = 4
_MAX_BLOCK = 32  # the bound of the search costs C (C + 1) / 2 products a seed


@dataclass(frozen=True)
class SeedLMCodec(Codec):
    """Write each block of weights as ``U(seed) @ latents`` and store no matrix.

    Bits per weight: ``(seed_bits + 4 + latent_size * latent_bits) / block_size``, plus 16 per row. The
    paper's layouts are (8, 3, 16) for 4 bits and (12, 4, 16) for 3 bits. On Gaussian weights they leave a
    relative error of .123 and .226, far from the best codes of that size; what is unique is that
    nothing but the codes is stored, and that the matrix is made by a shift register. Encoding
    looks at all seeds of each block: time is proportional to ``2**seed_bits``, and grows where few
    ``latent_bits`` leave a wide gap between the bound and the error.

    Args:
        block_size: Weights of a block, 1 to 32.
        latent_size: Latents of a block, 1 to ``block_size``.
        seed_bits: Width of the shift register, 2 to 20.
        latent_bits: Width of one latent, 1 to 4.
        row_scale: One scale for each row; otherwise one for the whole weight.
        polish: Search over the neighbours of the rounded latents too; the seed is then the best of
            all by the polished error. Same size, about 6 % less squared error, slower.
        entropy: Code exponents and latents by their histograms (ANS). Seeds have no redundancy.
        second_order: Correct the blocks not yet coded for each block's error, where there is a hessian and
            ``block_size`` divides the row. Same size, two to five times slower.
        damping: Share of the hessian's mean diagonal that is added to it.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> encoded = SeedLMCodec(block_size=8, latent_size=3, seed_bits=8).encode(torch.randn(4, 64))
        >>> encoded.bits_per_weight  # (8 + 4 + 3 * 4) / 8, plus fp16 scales for rows of 64
        3.25
    """

    name: ClassVar[str] = "seedlm"
    continuous: ClassVar[tuple[str, ...]] = ("scale",)
    block_size: int = 8
    latent_size: int = 3
    seed_bits: int = 16
    latent_bits: int = 4
    row_scale: bool = True
    polish: bool = False
    entropy: bool = False
    second_order: bool = True
    damping: float = 0.01

    def __post_init__(self) -> None:
        if not 1 <= self.block_size <= _MAX_BLOCK:
            raise ValueError(f"block_size must be in [1, {_MAX_BLOCK}], got {self.block_size}")
        if not 1 <= self.latent_size <= self.block_size:
            raise ValueError(
                f"latent_size must be in [1, block_size = {self.block_size}], got {self.latent_size}"
            )
        if self.seed_bits not in TAPS:
            raise ValueError(f"seed_bits must be in [{min(TAPS)}, {max(TAPS)}], got {self.seed_bits}")
        if not 1 <= self.latent_bits <= 4:
            raise ValueError(f"latent_bits must be in [1, 4], got {self.latent_bits}")
        if self.damping < 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")

    @property
    @override
    def uses_hessian(self) -> bool:
        return True

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        layout = self._layout
        scale = self._scale(matrix)
        divisor = scale.float()[:, None]
        unit = matrix / torch.where(divisor > 0, divisor, torch.inf)
        if self.second_order and hessian is not None and matrix.shape[1] % self.block_size == 0:
            best = self._search_in_turn(unit, hessian)
        else:
            padding = -unit.numel() % self.block_size
            flat = functional.pad(unit.reshape(-1), (0, padding)) if padding else unit
            del unit
            best = search(flat.reshape(-1, self.block_size), layout, self.polish)
        codes = layout.codes(best.levels.int())  # [blocks, P]
        tensors = {"seeds": pack_bits(best.seed, self.seed_bits), "scale": scale}
        if self.entropy:
            tensors["exponents"] = encode_symbols(best.exponent, EXPONENT_CODES).to(weight.device)
            tensors["latents"] = encode_symbols(codes, 1 << self.latent_bits).to(weight.device)
        else:
            tensors["exponents"] = pack_bits(best.exponent, _EXPONENT_BITS)
            tensors["latents"] = pack_bits(codes, self.latent_bits)
        meta = {
            "block_size": self.block_size,
            "latent_size": self.latent_size,
            "seed_bits": self.seed_bits,
            "latent_bits": self.latent_bits,
            "entropy": self.entropy,
        }
        return Encoded(self.name, tuple(weight.shape), dtype_name(weight.dtype), tensors, meta)

    def _search_in_turn(self, unit: Tensor, hessian: Tensor) -> Choice:
        """The blocks of a row one after another, each corrected for the errors of those before.

        Args:
            unit: The weight over its scales, ``[out, in]``.
            hessian: ``[in, in]``.

        Returns:
            What ``search`` returns, in row-major order.
        """
        found: dict[int, Choice] = {}

        def quantise(number: int, blocks: Tensor, root: Tensor) -> Tensor:
            found[number] = best = search(blocks, self._layout, self.polish, root)
            return _rebuild(best.seed, best.exponent.int(), best.levels.int(), self._layout)

        block_feedback(unit, hessian, quantise, self.block_size, self.damping)
        return Choice.interleaved([found[number] for number in range(len(found))])

    @property
    def _layout(self) -> Layout:
        return Layout(self.block_size, self.latent_size, self.seed_bits, self.latent_bits)

    def _scale(self, matrix: Tensor) -> Tensor:
        """The rms of each row, or of all rows, as stored, ``[out]`` or ``[1]``."""
        rows = matrix if self.row_scale else matrix.reshape(1, -1)
        some = max(1, (1 << 20) // rows.shape[1])  # at a time: bounds the float64 copies
        squares = [part.double().square().mean(1) for part in torch.split(rows, some)]
        return to_half(torch.cat(squares).sqrt().float())

    @override
    def candidates(self) -> tuple[Codec, ...]:
        # the layouts of the paper, whatever the width of the register
        layouts = ((12, 4), (8, 3))
        return tuple(replace(self, block_size=c, latent_size=p, latent_bits=4) for c, p in layouts)

    @override
    def relaxed(self, severe: bool) -> SeedLMCodec | None:
        if self.latent_bits < 4:
            return replace(self, latent_bits=4 if severe else self.latent_bits + 1)
        smaller = max(self.latent_size, self.block_size - (max(2, self.block_size // 4) if severe else 1))
        return replace(self, block_size=smaller) if smaller < self.block_size else None

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        meta, tensors = encoded.meta, encoded.tensors
        codec = cls(  # raises where a setting is out of range
            block_size=int(meta["block_size"]),
            latent_size=int(meta["latent_size"]),
            seed_bits=int(meta["seed_bits"]),
            latent_bits=int(meta["latent_bits"]),
        )
        layout = codec._layout
        count = math.ceil(encoded.numel / codec.block_size)
        seeds = unpack_bits(tensors["seeds"], codec.seed_bits, count)
        if int(seeds.min()) < 1:
            raise ValueError(f"seeds must be in [1, {(1 << codec.seed_bits) - 1}], got 0")
        if meta["entropy"]:
            exponents = decode_symbols(tensors["exponents"], EXPONENT_CODES, count)
            codes = decode_symbols(tensors["latents"], 1 << codec.latent_bits, count * codec.latent_size)
        else:
            exponents = unpack_bits(tensors["exponents"], _EXPONENT_BITS, count)
            codes = unpack_bits(tensors["latents"], codec.latent_bits, count * codec.latent_size)
        values = _rebuild(seeds, exponents, layout.levels(codes).reshape(count, -1), layout)
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        scale = tensors["scale"].float()
        if scale.shape not in ((rows,), (1,)):
            raise ValueError(f"scale must have shape [{rows}] or [1], got {list(scale.shape)}")
        return restore(values.reshape(-1)[: encoded.numel].reshape(rows, -1) * scale[:, None], encoded)


def _rebuild(seeds: Tensor, exponents: Tensor, levels: Tensor, layout: Layout) -> Tensor:
    """Blocks of unit scale, ``[n, C]`` float32, running the registers of all blocks side by side."""
    sums = torch.zeros(len(seeds), layout.block_size, dtype=torch.int32, device=seeds.device)
    centre, state = 1 << (layout.seed_bits - 1), seeds
    for c in range(layout.block_size):
        for p in range(layout.latent_size):
            sums[:, c] += (state - centre) * levels[:, p]  # below 2^27: exact
            state = next_state(state, layout.seed_bits)
    steps = [2.0 ** (code - layout.bias) / denominator(layout.seed_bits) for code in range(EXPONENT_CODES)]
    return sums.float() * torch.tensor(steps, dtype=torch.float32, device=seeds.device)[exponents][:, None]
