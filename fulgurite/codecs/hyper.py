r"""Hyper-compression: a few weights are one number, the place of a point on a curve.

    weight / row rms -> K at a time -> class by size -> nearest point of a winding -> step
                     -> blocks -> least squares on smooth curves -> coefficients -> rounding
                           ^- hessian <- error of the block          codes -> pack_bits | ANS

Reference: Fan et al., "Hyper-Compression: Model Compression via Hyperfunction",
https://arxiv.org/abs/2409.00592, and its code, https://github.com/Juntongkuki/Hyper-Compression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from fulgurite.codecs._hyper_feedback import place_in_turn, round_in_turn
from fulgurite.codecs._trajectories import (
    CURVES,
    WINDINGS,
    basis,
    fit_extents,
    fit_steps,
    outward,
    place,
    round_to,
    side_of,
    winding,
)
from fulgurite.codecs.base import Codec, Encoded, Scalar, as_matrix, dtype_name, restore, to_half
from fulgurite.coding import decode_symbols, encode_symbols, pack_bits, unpack_bits

Trajectory = Literal["ergodic", "grid", "polynomial", "fourier"]

_MAX_POINTS = 1 << 14  # every vector is compared with every point
_MAX_BLOCK = 128
# numbers at a time: no second copy of a large weight, and torch runs so few on one thread
_CHUNK = (1 << 15) - 1
_SHELLS = 64  # histogram entries a class; finer ones cost more table than they save


@dataclass(frozen=True)
class HyperCodec(Codec):
    r"""Store the place on a trajectory instead of the weights it passes by.

    **The idea.** A line that winds around the unit torus in a direction a whose entries are rationally
    independent comes near every point: for each (w_1 .. w_K) and each eps there is a theta with
    ``|frac(theta * a) - w| < eps`` (Kronecker). So one number theta stands for K weights, and the paper
    stores the integer i of ``theta = i * step``. Here::

        point_i = 2 * frac(i * a + 1/2) - 1,   0 <= i < num_points          "ergodic"
        weight  = scale[row] * extents[class] * point_i[k],   k = 0 .. K-1

    ``grid`` is what the released code runs: a rational direction, whose points are a sheared
    ``m x m`` grid, ``num_points = m**K``. See ``_trajectories`` for both directions.

    **Outliers.** A cube around all weights would waste its points on the few large ones. Weights with
    all K entries inside the inner cube are class 0; larger ones are shrunk into it by the factor of
    their class, up to ``num_classes`` more classes, the last of which reaches the farthest weight.

    **No free bits.** theta is as long as what it replaces. To come within eps of every point of the cube
    the line must make about ``eps**-K`` steps, since each covers only a volume of ``(2 eps)**K``; so theta
    has ``K * log2(1 / eps)`` bits, exactly those of K weights rounded to eps (pigeonhole: N names cannot
    tell more than N cells apart). The codec is a uniform vector quantiser in 2 or 3 dimensions, and even
    the best such lattice gains 0.17 or 0.26 dB over rounding. The paper's ratios come from fp32 or fp16
    weights at 6 to 6.5 bits each. The measured rate and distortion of all codecs are in ``docs/codecs.md``.

    **polynomial, fourier** replace the winding by a smooth curve through a block of weights: the first
    ``degree + 1`` Legendre polynomials or cosines, by least squares, each coefficient rounded to
    ``coefficient_bits``::

        weight = scale[row] * sum_k steps[k] * q_k * basis_k(position in the block),   k = 0 .. degree

    A curve pays where neighbours resemble each other; trained weights are close to noise along a row, so
    that dropping a share of the coefficients drops that share of the energy. At
    ``degree = block_size - 1`` nothing is dropped and only the rounding is left.

    **Storage.** ``scale``: 16 bits a row. Windings: ``extents``, 16 bits a class, and per K weights one
    code ``class * num_points + i`` of ``ceil(log2(num_points * (num_classes + 1)))`` bits; with
    ``entropy``, where smaller, an ANS stream of shells (the points numbered outwards, high bits) and the
    low bits as they are. Curves: ``steps``, 16 bits a degree, and ``degree + 1`` codes a block.

    **Differs from the paper:** rows are brought to unit variance first, so one trajectory fits all, and
    their centre is zero, not stored; the inner cube is chosen for the squared error (with ``entropy``, for
    the error at its rate), not 0.1 wide; a class is a cube, not a ring, and radii grow geometrically, not
    evenly (Student-t weights at 6.5 bits: 2.1 dB less error); the direction is ``1/g, 1/g**2, 1/g**3`` in
    place of ``1/(pi + k)``; any tensor is encoded, however small or ill-fitting (the released code keeps
    those as fp32); entropy coding; the hessian. ``polynomial`` and ``fourier`` are not in it.

    Args:
        trajectory: ``ergodic``, ``grid``, ``polynomial`` or ``fourier``.
        dimension: Weights a point stands for, 2 or 3; windings only, as are the next two.
        num_points: Steps of the winding, 2 to 16384; for ``grid`` a square (cube, if ``dimension`` is 3).
        num_classes: Classes of outliers beside the inner cube, 0 to 3.
        block_size: Weights a curve runs through, 2 to 128; curves only, as are the next two.
        degree: Highest degree of the curve, 0 to ``block_size - 1``.
        coefficient_bits: Bits of a coefficient, 2 to 8.
        entropy: Code the codes by their histogram (ANS) where that takes fewer bytes. A winding then has
            a wider inner cube: at one ``num_points`` more error for far fewer bits.
        second_order: Correct the weights not yet coded for the error of those before, where there is a
            hessian and whole blocks (``dimension`` or ``block_size`` weights) fill a row. Without
            ``entropy`` the size is the same.
        damping: Share of the hessian's mean diagonal that is added to it.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> encoded = HyperCodec("grid", num_points=1024, num_classes=3).encode(torch.randn(64, 256))
        >>> encoded.bits_per_weight  # 12 bits a pair, 16 bits a row of 256, 4 extents of 16 bits
        6.06640625
    """

    name: ClassVar[str] = "hyper"
    continuous: ClassVar[tuple[str, ...]] = ("scale", "extents", "steps")
    trajectory: Trajectory = "ergodic"
    dimension: int = 2
    num_points: int = 1600  # 1600 points and 3 classes: the released code's setting for language models
    num_classes: int = 3
    block_size: int = 16
    degree: int = 11
    coefficient_bits: int = 8
    entropy: bool = False
    second_order: bool = True
    damping: float = 0.01

    def __post_init__(self) -> None:
        if self.trajectory not in get_args(Trajectory):
            raise ValueError(
                f"trajectory must be one of {', '.join(get_args(Trajectory))}, got {self.trajectory!r}"
            )
        if self.dimension not in (2, 3):
            raise ValueError(f"dimension must be 2 or 3, got {self.dimension}")
        for name, value, low, high in (
            ("num_points", self.num_points, 2, _MAX_POINTS),
            ("num_classes", self.num_classes, 0, 3),
            ("block_size", self.block_size, 2, _MAX_BLOCK),
            ("degree", self.degree, 0, self.block_size - 1),
            ("coefficient_bits", self.coefficient_bits, 2, 8),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], got {value}")
        if self.damping < 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")
        side = side_of(self.num_points, self.dimension)
        if self.trajectory == "grid" and side**self.dimension != self.num_points:
            raise ValueError(
                f"num_points of a grid must be a {'square' if self.dimension == 2 else 'cube'}, for instance "
                f"{side**self.dimension}, got {self.num_points}"
            )

    @property
    @override
    def uses_hessian(self) -> bool:
        return True

    @override
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        matrix = as_matrix(weight, hessian, row_weight)
        some = torch.split(matrix, max(1, _CHUNK // matrix.shape[1]))
        squares = torch.cat([rows.square().mean(1) for rows in some])
        scale = to_half(squares.sqrt())  # as stored: the codes fit the rounded scale
        meta: dict[str, Scalar] = {"trajectory": self.trajectory}
        block = self.dimension if self.trajectory in WINDINGS else self.block_size
        metric = hessian if self.second_order and matrix.shape[1] % block == 0 else None
        if self.trajectory in WINDINGS:
            names = ("dimension", "num_points", "num_classes")
            tensors = self._encode_winding(*self._place(matrix, scale, metric))
        else:
            names = ("block_size", "degree", "coefficient_bits")
            tensors = self._encode_curve(*self._round(matrix, scale, metric))
        meta.update({name: getattr(self, name) for name in names})
        meta["entropy"] = "codes" not in tensors
        tensors["scale"] = scale
        return Encoded(self.name, tuple(weight.shape), dtype_name(weight.dtype), tensors, meta)

    def _place(
        self, matrix: Tensor, scale: Tensor, metric: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class and step of each vector, the points and the extents."""
        vectors = _blocks(_unit(matrix, scale), self.dimension)
        points = winding(self.trajectory, self.dimension, self.num_points).to(vectors.device)
        extents = fit_extents(vectors, self.num_points, self.num_classes, self.entropy)
        if metric is None:
            return *place(vectors, points, extents), points, extents
        unit = vectors.reshape(matrix.shape)
        found = place_in_turn(unit, metric, points, extents, self.damping, any_class=not self.entropy)
        return *found, points, extents

    def _encode_winding(
        self, classes: Tensor, steps: Tensor, points: Tensor, extents: Tensor
    ) -> dict[str, Tensor]:
        codes = pack_bits(classes.int().mul_(self.num_points).add_(steps), self._code_bits)
        if self.entropy:
            low = self._place_bits
            rank = outward(points).argsort().int()
            shells = (rank >> low)[steps].add_(classes, alpha=_SHELLS)
            stream = encode_symbols(shells, _SHELLS * (self.num_classes + 1))
            coded = {"shells": stream.to(codes.device), "extents": extents}
            if low:
                coded["places"] = pack_bits((rank & ((1 << low) - 1))[steps], low)
            if sum(coded[name].numel() for name in coded if name != "extents") < codes.numel():
                return coded
        return {"codes": codes, "extents": extents}

    @property
    def _code_bits(self) -> int:
        return (self.num_points * (self.num_classes + 1) - 1).bit_length()

    @property
    def _place_bits(self) -> int:
        return max(0, (self.num_points - 1).bit_length() - (_SHELLS.bit_length() - 1))

    def _round(self, matrix: Tensor, scale: Tensor, metric: Tensor | None) -> tuple[Tensor, Tensor]:
        """The coefficients of each block as symbols, uint8 ``[blocks, degree + 1]``, and the steps."""
        blocks = _blocks(_unit(matrix, scale), self.block_size)
        curves = basis(self.trajectory, self.block_size, self.degree).to(blocks.device)
        coefficients = blocks @ curves
        top = self._top
        steps = fit_steps(coefficients, top)
        if metric is not None:
            levels = round_in_turn(blocks.reshape(matrix.shape), metric, curves, steps, top, self.damping)
            return levels.add_(top).to(torch.uint8), steps
        symbols = torch.empty(coefficients.shape, dtype=torch.uint8, device=blocks.device)
        count = max(1, _CHUNK // coefficients.shape[1])
        for part, some in zip(torch.split(symbols, count), torch.split(coefficients, count), strict=True):
            part.copy_(round_to(some, steps, top).add_(top))
        return symbols, steps

    @property
    def _top(self) -> int:
        return (1 << (self.coefficient_bits - 1)) - 1  # levels -top .. top: zero is one of them

    def _encode_curve(self, symbols: Tensor, steps: Tensor) -> dict[str, Tensor]:
        codes = pack_bits(symbols, self.coefficient_bits)
        if self.entropy:
            stream = encode_symbols(symbols, 1 << self.coefficient_bits)
            if stream.numel() < codes.numel():
                return {"stream": stream.to(codes.device), "steps": steps}
        return {"codes": codes, "steps": steps}

    @override
    def candidates(self) -> tuple[Codec, ...]:
        if (
            self.trajectory in CURVES
        ):  # all degrees: a coefficient that is dropped loses more than a coarse one
            last = self.block_size - 1
            return tuple(replace(self, degree=last, coefficient_bits=bits) for bits in range(2, 9))
        counts = [side**self.dimension for side in (4, 8, 16, 32, 64)]
        return tuple(replace(self, num_points=count) for count in counts if count <= _MAX_POINTS)

    @override
    def relaxed(self, severe: bool) -> HyperCodec | None:
        if self.trajectory in CURVES:
            last = self.block_size - 1
            if self.degree < last:
                more = max(1, self.block_size // (4 if severe else 16))
                return replace(self, degree=min(last, self.degree + more))
            finer = min(8, self.coefficient_bits + (2 if severe else 1))
            return replace(self, coefficient_bits=finer) if finer > self.coefficient_bits else None
        more = min(_MAX_POINTS, self.num_points * (4 if severe else 2))
        if self.trajectory == "grid":
            side = int(more ** (1 / self.dimension) + 1e-9)  # downwards, so as not to pass the limit
            more = max(side, side_of(self.num_points, self.dimension) + 1) ** self.dimension
        return replace(self, num_points=more) if self.num_points < more <= _MAX_POINTS else None

    @override
    @classmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        settings: dict[str, Any] = dict(encoded.meta)
        try:
            codec = cls(**settings)
        except TypeError as error:
            raise ValueError(f"meta of hyper does not hold its settings: {settings}") from error
        rows = 1 if len(encoded.shape) < 2 else encoded.shape[0]
        scale = _vector(encoded.tensors["scale"], "scale", rows)
        decode_blocks = codec._decode_winding if codec.trajectory in WINDINGS else codec._decode_curve
        flat = decode_blocks(encoded).reshape(-1)[: encoded.numel]
        return restore(flat.reshape(rows, -1) * scale[:, None], encoded)

    def _decode_winding(self, encoded: Encoded) -> Tensor:
        tensors, count = encoded.tensors, -(-encoded.numel // self.dimension)
        points = winding(self.trajectory, self.dimension, self.num_points)
        if self.entropy:
            shells = decode_symbols(tensors["shells"], _SHELLS * (self.num_classes + 1), count)
            ranks = (shells % _SHELLS) << self._place_bits
            if self._place_bits:
                ranks = ranks | unpack_bits(tensors["places"], self._place_bits, count)
            points = points[outward(points)]
            classes, steps = shells // _SHELLS, ranks
        else:
            codes = unpack_bits(tensors["codes"], self._code_bits, count)
            classes, steps = codes // self.num_points, codes % self.num_points
        if int(steps.max()) >= self.num_points or int(classes.max()) > self.num_classes:
            raise ValueError(f"codes must name {self.num_points} points in {self.num_classes + 1} classes")
        extents = _vector(tensors["extents"], "extents", self.num_classes + 1)
        return points.to(extents.device)[steps] * extents[classes][:, None]

    def _decode_curve(self, encoded: Encoded) -> Tensor:
        blocks = -(-encoded.numel // self.block_size)
        count = blocks * (self.degree + 1)
        if self.entropy:
            symbols = decode_symbols(encoded.tensors["stream"], 1 << self.coefficient_bits, count)
        else:
            symbols = unpack_bits(encoded.tensors["codes"], self.coefficient_bits, count)
        steps = _vector(encoded.tensors["steps"], "steps", self.degree + 1)
        coefficients = (symbols.reshape(blocks, -1) - self._top) * steps
        return coefficients @ basis(self.trajectory, self.block_size, self.degree).to(steps.device).T


def _unit(matrix: Tensor, scale: Tensor) -> Tensor:
    """The weights in units of their row's scale, ``[out * in]``."""
    # a zero row has scale 0: any divisor will do, since it decodes to zero exactly
    return (matrix / scale.float().clamp_min(1e-30)[:, None]).reshape(-1)


def _blocks(flat: Tensor, size: int) -> Tensor:
    """Cut into rows of ``size``; only the tail is filled, with zeros."""
    return functional.pad(flat, (0, -flat.numel() % size)).reshape(-1, size)


def _vector(part: Tensor, name: str, length: int) -> Tensor:
    if part.shape != (length,):
        raise ValueError(f"{name} must have shape {(length,)}, got {tuple(part.shape)}")
    return part.float()
