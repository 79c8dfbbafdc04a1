"""What a codec is: a lossy map from one weight to bytes and back.

weight, hessian -> Codec.encode -> Encoded -> Codec.decode -> weight_hat
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Scalar = bool | int | float | str

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Encoded:
    """One weight in its compressed form: all that ``decode`` may see.

    Args:
        codec: Name of the codec in ``CODECS`` that decodes it.
        shape: Shape of the weight, any rank from 1.
        dtype: Name of the weight's dtype, a key of ``DTYPES``.
        tensors: The packed parts by name; their bytes are the size of the weight.
        meta: Settings that decoding needs; equal for all weights of one shape and codec.
    """

    codec: str
    shape: tuple[int, ...]
    dtype: str
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts, exactly as they lie in the file."""
        return sum(part.numel() * part.element_size() for part in self.tensors.values())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales and codebooks included."""
        return 8 * self.num_bytes / self.numel

    def with_tensors(self, **tensors: Tensor) -> Encoded:
        """The same weight with some parts replaced, as refinement does with scales."""
        unknown = sorted(set(tensors) - set(self.tensors))
        if unknown:
            raise ValueError(f"{self.codec} has parts {sorted(self.tensors)}, got {unknown}")
        return replace(self, tensors={**self.tensors, **tensors})

    def to(self, device: torch.device | str) -> Encoded:
        """The same weight with its parts on ``device``."""
        return replace(self, tensors={name: part.to(device) for name, part in self.tensors.items()})


class Assigner(Protocol):
    """Chooses the codes of one weight anew, with everything else of it unchanged and in about as many bytes."""

    def assign(self, target: Tensor) -> Tensor:
        """The values nearest to ``target`` by new codes; both as part ``values`` of the expanded form."""

    def finish(self, target: Tensor) -> Encoded:
        """The weight with codes for ``target`` in no more bits than it had."""


class Codec(ABC):
    """A lossy code for one weight. Settings are fields of a frozen dataclass.

    ``decode`` is made of differentiable operations in the parts named by ``continuous``, so that
    a refinement can train them with the codes frozen.
    """

    name: ClassVar[str]
    continuous: ClassVar[tuple[str, ...]] = ()
    """Names of the float parts that refinement may train."""

    rows_alike: ClassVar[bool] = True
    """Whether what some rows of a weight take and lose tells what all do; curves are measured on some then."""

    one_thread: ClassVar[bool] = False
    """Whether ``encode`` keeps to one thread on a CPU, so that several weights are best encoded side by side."""

    @property
    def uses_hessian(self) -> bool:
        """Whether ``encode`` does better with a ``hessian``; calibration runs only where one asks."""
        return False

    @abstractmethod
    def encode(
        self, weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None
    ) -> Encoded:
        """Compress one weight; no argument is modified.

        The error to make small is ``sum_i a_i e_i H e_i^T`` over the rows ``e_i`` of ``W - W_hat``.

        Args:
            weight: Finite floats, ``[out, in]``; other ranks are seen as ``as_matrix`` sees them.
            hessian: ``H``, second moment of the layer's inputs, ``[in, in]``; the identity where there is none.
            row_weight: ``a``, what an error in each row costs, ``[out]``, not negative; 1 where there is none.
                A codec that treats each row by itself has no use for it.

        Raises:
            ValueError: If ``weight`` is empty or not finite, or a metric does not fit its shape.
        """

    @classmethod
    @abstractmethod
    def decode(cls, encoded: Encoded) -> Tensor:
        """Rebuild the weight, in ``encoded.shape`` and ``encoded.dtype``, from its parts alone."""

    @classmethod
    def expanded(cls, encoded: Encoded) -> Encoded:
        """The same weight in a form that ``decode`` reads faster, for training what is continuous in it.

        Streams are unpacked and coded scales are floats; it is never stored.
        """
        return encoded

    @classmethod
    def compacted(cls, encoded: Encoded, trained: Mapping[str, Tensor]) -> Encoded:
        """``encoded`` with parts of its ``expanded`` form replaced, rounded to what is stored."""
        return encoded.with_tensors(
            **{
                name: part.detach().to(encoded.tensors[name].device, encoded.tensors[name].dtype)
                for name, part in trained.items()
            }
        )

    @classmethod
    def assigner(cls, encoded: Encoded) -> Assigner | None:
        """What chooses codes anew for changed values, for training the codes; ``None`` where nothing can."""
        return None

    def candidates(self) -> tuple[Codec, ...]:
        """Settings of this technique from few bits to many, for an allocator to choose from."""
        return (self,)

    def at_rate(self, bits_per_weight: float) -> Codec | None:
        """This codec at any real rate, or ``None`` for a codec whose rates come in steps."""
        return None

    def draft(self) -> Codec:
        """A codec with about this one's rate and error that encodes quicker, where there is one: for curves."""
        return self

    def relaxed(self, severe: bool) -> Codec | None:
        """The next setting with more bits and less error, or ``None`` at the top of the ladder.

        A gate that rejects a stage asks for it: a small step for a mild loss, a large one for a
        severe loss.
        """
        return None

    def bind(
        self,
        weights: Mapping[str, Tensor],
        hessians: Mapping[str, Tensor] | None = None,
        row_weights: Mapping[str, Tensor] | None = None,
    ) -> Mapping[str, Codec]:
        """The codec to use for each weight, after a look at all of them.

        Most codecs treat each weight by itself and return themselves. A codec that shares a
        codebook over weights fits it here and returns copies that hold it; identical parts are
        stored once in an artefact.
        """
        return dict.fromkeys(weights, self)


def as_matrix(weight: Tensor, hessian: Tensor | None = None, row_weight: Tensor | None = None) -> Tensor:
    """See a weight as float32 ``[out, in]`` and check what every codec must check.

    A vector is one row; a convolution's kernel ``[out, in, h, w]`` becomes ``[out, in * h * w]``.

    Raises:
        ValueError: If the weight is empty, not floating point, has NaN or infinity, if the hessian does
            not fit its width, or the row weights its rows.
    """
    if weight.numel() == 0:
        raise ValueError(f"weight must have at least one element, got shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"weight must be floating point, got {weight.dtype}")
    low, high = torch.aminmax(weight.detach())  # passes NaN on, and needs no copy of the weight
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ValueError("weight must be finite, got NaN or infinity")
    matrix = weight.detach().reshape(1, -1) if weight.dim() < 2 else weight.detach().flatten(1)
    if hessian is not None and hessian.shape != (matrix.shape[1], matrix.shape[1]):
        raise ValueError(
            f"hessian must be {[matrix.shape[1], matrix.shape[1]]} to fit the weight's width, "
            f"got {list(hessian.shape)}"
        )
    if row_weight is not None:
        if row_weight.shape != (matrix.shape[0],):
            raise ValueError(
                f"row_weight must be {[matrix.shape[0]]}, one for each row, got {list(row_weight.shape)}"
            )
        if not (torch.isfinite(row_weight).all() and (row_weight >= 0).all()):
            raise ValueError("row_weight must be finite and not negative")
    return matrix.float()


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype as ``Encoded.dtype`` and the file format spell it.

    Raises:
        ValueError: If codecs do not take this dtype.
    """
    for name, known in DTYPES.items():
        if known == dtype:
            return name
    raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype}")


def restore(matrix: Tensor, encoded: Encoded) -> Tensor:
    """Give a decoded float matrix the shape and dtype of the weight it stands for."""
    return matrix.reshape(encoded.shape).to(DTYPES[encoded.dtype])


def nmse(weight: Tensor, decoded: Tensor) -> float:
    """Normalised mean squared error ``|W - W_hat|^2 / |W|^2``; 0 for an all-zero weight kept as zero.

    Raises:
        ValueError: If the shapes differ.
    """
    if weight.shape != decoded.shape:
        raise ValueError(f"decoded must have shape {list(weight.shape)}, got {list(decoded.shape)}")
    error = energy = 0.0
    for known, found in zip(_chunks(weight), _chunks(decoded), strict=True):
        error += float((known.double() - found.double()).square().sum())
        energy += float(known.double().square().sum())
    return error / energy if energy > 0 else error


def to_half(values: Tensor) -> Tensor:
    """Round floats to 16 bits: fp16, or bf16 where fp16's range would lose more than bf16's precision."""
    half, brain = values.half(), values.bfloat16()
    half_error = brain_error = 0.0
    for known, as_half, as_brain in zip(_chunks(values), _chunks(half), _chunks(brain), strict=True):
        exact = known.float()
        # beyond fp16's range the error is infinite, and so is the sum
        half_error += float((as_half.float() - exact).abs_().sum(dtype=torch.float64))
        brain_error += float((as_brain.float() - exact).abs_().sum(dtype=torch.float64))
    return half if half_error <= brain_error else brain


def _chunks(values: Tensor) -> tuple[Tensor, ...]:
    """The values a million at a time: what is computed from them stays small beside a large weight."""
    return torch.split(values.detach().reshape(-1), 1 << 20)
