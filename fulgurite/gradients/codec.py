r"""Gradients to bytes and back: each channel quantised to the bits that are predicted for it, then entropy-coded.

channel -> / its step -> below the threshold: 0; else rounded -> codes
        \-> six statistics -> predicted bits -> class of the channel: limit of its codes, or dropped
codes of all channels of a class -> adaptive coder -> bytes, with the classes, a scale a tensor and a level

A channel's step is ``step * rms of the tensor * (rms of the channel / rms of the tensor) ** balance``. With balance 0
all channels have one step, which leaves out the least energy; but Adam divides each gradient by its own size, so what
is small matters as much as what is large, and quiet channels, such as rare tokens', would come rarely and in bursts.

A class tells the coder how wide a channel's values are, so each class has a model of its own: that is what
prediction is for. It is sent with the codes (a few bits a channel), so that a receiver needs neither the sender's
statistics nor its predictor. In the fixed mode each channel has the same bits and a 16-bit scale of its own, and all
share one model.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.coding.adaptive import AdaptiveDecoder, AdaptiveEncoder
from fulgurite.gradients.entropy import Gaussian, bits_of, zigzag

Predictor = Callable[[Tensor], Tensor]

_CLASSES = 16
_HEADER = struct.Struct("<Bff")  # mode, step, balance
_LOUDEST, _QUIETEST = 16, -47  # of a channel, in half octaves of its tensor's root mean square
_SCALES = struct.Struct("<fe")  # of a tensor: root mean square, level of the codes 1 and -1
_ADAPTIVE, _FIXED, _NOT_FINITE = range(3)
_FIRST = 1.0  # level where no code is 1


@dataclass(frozen=True)
class Payload:
    """What is sent of some tensors.

    Args:
        data: ``uint8`` on the CPU.
        decoded: What a receiver makes of it, in the order and shapes of what was given.
        error: ``|p - decoded|^2 / |p|^2`` over all; 0 where all is zero.
    """

    data: Tensor
    decoded: list[Tensor]
    error: float

    @property
    def num_bytes(self) -> int:
        """Bytes on the wire, once."""
        return self.data.numel()


class GradientCodec:
    """Code a list of tensors in one payload.

    Args:
        predictor: Statistics ``[c, 6]`` in units of the step to bits per value ``[c]``: ``EntropyPredictor`` or
            ``Gaussian``.
        threshold: In [0.5, 1], in units of the step: what is smaller is pruned. Half a step is plain rounding.
        balance: In [0, 1]: how much a channel's step follows the channel's size.
        fixed_bits: Give all channels so many bits, 2 to 8, and a scale each: what the adaptive code is compared with.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> payload = GradientCodec().encode([torch.randn(64, 256)], step=1.0)
        >>> 64 * 256 * 4 / payload.num_bytes > 12, payload.error < 0.15
        (True, True)
    """

    def __init__(
        self,
        predictor: Predictor | None = None,
        threshold: float = 0.6,
        fixed_bits: int | None = None,
        balance: float = 0.0,
    ) -> None:
        if not 0 <= balance <= 1:
            raise ValueError(f"balance must be in [0, 1], got {balance}")
        if not 0.5 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0.5, 1] steps, got {threshold}")
        if fixed_bits is not None and not 2 <= fixed_bits <= 8:
            raise ValueError(f"fixed_bits must be in [2, 8], got {fixed_bits}")
        self.predictor = predictor or Gaussian()
        self.threshold = threshold
        self.fixed_bits = fixed_bits
        self.balance = balance

    @torch.no_grad()
    def encode(self, tensors: Sequence[Tensor], step: float) -> Payload:
        """Code tensors; where one is not finite, that alone is said and all decode to NaN.

        Args:
            tensors: Floats of any shape, rows being channels; a vector is one channel. Some may be empty.
            step: Of the quantiser, in units of each tensor's root mean square; in the fixed mode, of the pruning
                threshold alone.
        """
        full = [tensor for tensor in tensors if tensor.numel()]
        if len(full) < len(tensors):
            payload = self.encode(full, step)
            return replace(payload, decoded=_with_empty(payload.decoded, tensors))
        matrices = [_as_channels(tensor) for tensor in tensors]
        energies = [matrix.double().square().sum() for matrix in matrices]
        if not all(torch.isfinite(energy) for energy in energies):
            decoded = [torch.full_like(tensor, torch.nan) for tensor in tensors]
            return Payload(_bytes(_HEADER.pack(_NOT_FINITE, step, 0.0)), decoded, math.nan)
        scales = [
            math.sqrt(float(energy) / matrix.numel())
            for energy, matrix in zip(energies, matrices, strict=True)
        ]
        if self.fixed_bits is None:
            data, decoded = self._adaptive(matrices, scales, step)
        else:
            data, decoded = self._fixed(matrices, scales, step, self.fixed_bits)
        shaped = [
            value.reshape(tensor.shape).to(tensor.dtype)
            for value, tensor in zip(decoded, tensors, strict=True)
        ]
        lost = sum(float((m - d).double().square().sum()) for m, d in zip(matrices, decoded, strict=True))
        whole = sum(map(float, energies))
        return Payload(data, shaped, lost / whole if whole > 0 else 0.0)

    def _adaptive(
        self, matrices: list[Tensor], scales: list[float], step: float
    ) -> tuple[Tensor, list[Tensor]]:
        encoder, levels = AdaptiveEncoder(), []
        classes, codes, sizes = [], [], []
        head = _HEADER.pack(_ADAPTIVE, step, self.balance)
        _, step, balance = _HEADER.unpack(head)  # as they are read
        for matrix, scale in zip(matrices, scales, strict=True):
            size = _sizes(matrix, scale) if balance else torch.zeros(len(matrix), dtype=torch.long)
            sizes.append(size)
            units = matrix / (_steps(size, balance).to(matrix.device) * max(scale * step, 1e-38)).clamp_min(
                1e-38
            )
            of_channels = _class_of(bits_of(units, self.predictor))
            found = _rounded(units, self.threshold)
            limits = _LIMITS.to(found.device)[of_channels][:, None]
            found = found.clamp(-limits, limits)
            ones = found.abs() == 1
            level = _half(float(units.abs()[ones].mean()) if bool(ones.any()) else _FIRST)
            classes.append(of_channels.cpu())
            codes.append(found)
            levels.append(level)
        if classes:
            if balance:
                encoder.put((_LOUDEST - torch.cat(sizes)).numpy(), escape=_LOUDEST - _QUIETEST + 1)
            encoder.put(torch.cat(classes).numpy(), escape=_CLASSES)
        symbols = [zigzag(found).to(torch.int32).cpu() for found in codes]
        for number in range(1, _CLASSES):
            chosen = [part[of == number].reshape(-1) for part, of in zip(symbols, classes, strict=True)]
            if any(part.numel() for part in chosen):
                encoder.put(torch.cat(chosen).numpy(), escape=_alphabet(number))
        head += b"".join(_SCALES.pack(*pair) for pair in zip(scales, levels, strict=True))
        data = torch.cat([_bytes(head), encoder.finish()])
        single = [struct.unpack("<f", struct.pack("<f", scale))[0] for scale in scales]
        decoded = [
            _values(found, level) * (_steps(size, balance).to(found.device) * (scale * step))
            for found, level, scale, size in zip(codes, levels, single, sizes, strict=True)
        ]
        return data, decoded

    def _fixed(
        self, matrices: list[Tensor], scales: list[float], step: float, bits: int
    ) -> tuple[Tensor, list[Tensor]]:
        most = (1 << (bits - 1)) - 1
        encoder, widths, decoded = AdaptiveEncoder(), [], []
        for matrix, scale in zip(matrices, scales, strict=True):
            width = matrix.abs().amax(1).to(torch.bfloat16)  # fp16 would lose small gradients
            single = width.float()[:, None].clamp_min(1e-38)
            codes = (matrix / single * most).round().clamp(-most, most).long()
            codes = codes * (matrix.abs() >= self.threshold * step * scale)
            encoder.put(zigzag(codes).to(torch.int32).cpu().numpy().reshape(-1), escape=2 * most + 1)
            widths.append(width.cpu().view(torch.uint8))
            decoded.append(codes * (single / most))
        head = _HEADER.pack(_FIXED, float(bits), 0.0)
        return torch.cat([_bytes(head), *widths, encoder.finish()]), decoded

    @staticmethod
    @torch.no_grad()
    def decode(data: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """Invert ``encode``.

        Args:
            data: Of a payload, on the CPU.
            like: Tensors of the same shapes, in the same order, whose dtype and device the result has.

        Raises:
            ValueError: If the payload cannot be one of such tensors.
        """
        full = [tensor for tensor in like if tensor.numel()]
        if len(full) < len(like):
            return _with_empty(GradientCodec.decode(data, full), like)
        raw = data.numpy().tobytes()
        if len(raw) < _HEADER.size:
            raise ValueError(f"a payload has {_HEADER.size} bytes at least, got {len(raw)}")
        mode, step, balance = _HEADER.unpack_from(raw)
        if mode == _NOT_FINITE:
            return [torch.full_like(tensor, torch.nan) for tensor in like]
        shapes = [
            (1, tensor.numel()) if tensor.dim() < 2 else (len(tensor), tensor[0].numel()) for tensor in like
        ]
        if mode == _ADAPTIVE:
            values = _read_adaptive(data, raw, (step, balance), shapes)
        elif mode == _FIXED:
            values = _read_fixed(data, int(step), shapes)
        else:
            raise ValueError(f"mode of a payload must be below {_NOT_FINITE + 1}, got {mode}")
        return [value.reshape(t.shape).to(t.device, t.dtype) for value, t in zip(values, like, strict=True)]


def _read_adaptive(
    data: Tensor, raw: bytes, settings: tuple[float, float], shapes: list[tuple[int, int]]
) -> list[Tensor]:
    step, balance = settings
    start = _HEADER.size
    if len(raw) < start + _SCALES.size * len(shapes):
        raise ValueError(f"a payload of {len(shapes)} tensors is longer than {len(raw)} bytes")
    scales = [_SCALES.unpack_from(raw, start + _SCALES.size * place) for place in range(len(shapes))]
    decoder = AdaptiveDecoder(data[start + _SCALES.size * len(shapes) :])
    channels = sum(rows for rows, _ in shapes)
    sizes = torch.zeros(channels, dtype=torch.long)
    if balance and shapes:
        sizes = _LOUDEST - torch.from_numpy(
            decoder.get(channels, escape=_LOUDEST - _QUIETEST + 1).astype(np.int64)
        )
    classes = decoder.get(channels, escape=_CLASSES)
    if classes.max(initial=0) >= _CLASSES:
        raise ValueError(f"classes of channels must be below {_CLASSES}, got {int(classes.max())}")
    bounds = np.cumsum([0, *(rows for rows, _ in shapes)])
    of_tensors = [classes[low:high] for low, high in itertools.pairwise(bounds)]
    codes = [np.zeros(shape, dtype=np.int64) for shape in shapes]
    for number in range(1, _CLASSES):
        counts = [
            int((of == number).sum()) * columns for of, (_, columns) in zip(of_tensors, shapes, strict=True)
        ]
        if not sum(counts):
            continue
        symbols = _unzigzag(decoder.get(sum(counts), escape=_alphabet(number)))
        ends = np.cumsum([0, *counts])
        for of, found, low, high in zip(of_tensors, codes, ends, ends[1:], strict=False):
            found[of == number] = symbols[low:high].reshape(-1, found.shape[1])
    decoder.finish()
    of_channels = sizes.split([rows for rows, _ in shapes])  # type: ignore[no-untyped-call]
    return [
        _values(torch.from_numpy(found), level) * (_steps(size, balance) * (scale * step))
        for found, (scale, level), size in zip(codes, scales, of_channels, strict=True)
    ]


def _read_fixed(data: Tensor, bits: int, shapes: list[tuple[int, int]]) -> list[Tensor]:
    if not 2 <= bits <= 8:
        raise ValueError(f"bits of a payload must be in [2, 8], got {bits}")
    most = (1 << (bits - 1)) - 1
    ends = np.cumsum([_HEADER.size, *(2 * rows for rows, _ in shapes)])
    decoder = AdaptiveDecoder(data[int(ends[-1]) :])
    values = []
    for (rows, columns), low, high in zip(shapes, ends, ends[1:], strict=False):
        width = data[int(low) : int(high)].clone().view(torch.bfloat16).float()[:, None].clamp_min(1e-38)
        codes = _unzigzag(decoder.get(rows * columns, escape=2 * most + 1)).reshape(rows, columns)
        values.append(torch.from_numpy(codes) * (width / most))
    decoder.finish()
    return values


def _with_empty(values: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Values with what is empty in its place again."""
    rest = iter(values)
    return [next(rest) if tensor.numel() else tensor.clone() for tensor in like]


def _as_channels(tensor: Tensor) -> Tensor:
    return (tensor.reshape(1, -1) if tensor.dim() < 2 else tensor.flatten(1)).float()


def _sizes(matrix: Tensor, scale: float) -> Tensor:
    """Root mean square of each channel in half octaves of the tensor's, on the CPU."""
    share = matrix.square().mean(1).sqrt() / max(scale, 1e-38)
    return (2 * share.clamp_min(1e-20).log2()).round().clamp(_QUIETEST, _LOUDEST).long().cpu()


def _steps(sizes: Tensor, balance: float) -> Tensor:
    """Step of each channel in units of the tensor's, float32 ``[c, 1]``; the same on every machine's CPU."""
    return torch.exp2(0.5 * balance * sizes.float())[:, None]


def _rounded(units: Tensor, threshold: float) -> Tensor:
    """Nearest integers, but 0 below the threshold and away from 0 from there on."""
    size = units.abs()
    codes = size.round().clamp_min(1) * (size >= threshold)
    return (codes.clamp_max(1 << 20) * units.sign()).long()


def _values(codes: Tensor, level: float) -> Tensor:
    """Codes as multiples of the step; 1 stands for the mean of what became 1."""
    values = codes.float()
    return torch.where(codes.abs() == 1, level * values, values)


def _class_of(bits: Tensor) -> Tensor:
    """Classes 0 to 15 of predicted bits: finer where they are few; 0 from about 0.015 bits downwards."""
    return (3 * (1 + 8 * bits).log2()).round().clamp(0, _CLASSES - 1).long()


def _limit(number: int) -> int:
    """Largest code of a class: two bits more than its channels are predicted to take, and none for class 0."""
    if number == 0:
        return 0
    if number == _CLASSES - 1:
        return 1 << 20
    most = (2 ** ((number + 0.5) / 3) - 1) / 8
    return 1 << (math.ceil(most) + 1)


_LIMITS = torch.tensor([_limit(number) for number in range(_CLASSES)])


def _alphabet(number: int) -> int:
    return min(2 * _limit(number) + 1, 256)


def _unzigzag(symbols: NDArray[np.integer]) -> NDArray[np.int64]:
    wide = symbols.astype(np.int64)
    return np.where(wide & 1, -((wide + 1) >> 1), wide >> 1)


def _half(value: float) -> float:
    return float(np.float16(value))


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
