"""Codes as bytes, exactly.

codes of a category [n, tokens] -> a group for each token, adaptively entropy-coded | packed bits -> uint8

A byte says which: of few rows an adaptive table costs more to learn than it saves.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fulgurite.coding.adaptive import AdaptiveDecoder, AdaptiveEncoder
from fulgurite.coding.bits import pack_bits, unpack_bits
from fulgurite.vqvae.hierarchy import Hierarchy

_ADAPTIVE, _PACKED = 0, 1
BYTES = 2
"""Of a number of the decoder: it is stored in 16 bits."""


def pack_codes(codes: Tensor, alphabet: int) -> Tensor:
    """Entropy-code ``[n, tokens]``, each token by counts of its own; ``uint8``.

    Example:
        >>> codes = torch.randint(64, (500, 3))
        >>> bool((unpack_codes(pack_codes(codes, 64), 64, 500, 3) == codes).all())
        True
    """
    encoder = AdaptiveEncoder()
    for column in codes.cpu().numpy().astype(np.int64).T:
        encoder.put(column, escape=alphabet)  # no code is the escape
    coded, width = encoder.finish(), _width(alphabet)
    if 8 * len(coded) <= width * codes.numel():
        return torch.cat([torch.tensor([_ADAPTIVE], dtype=torch.uint8), coded])
    return torch.cat([torch.tensor([_PACKED], dtype=torch.uint8), pack_bits(codes.T.cpu(), width)])


def unpack_codes(stream: Tensor, alphabet: int, rows: int, tokens: int) -> Tensor:
    """Invert ``pack_codes``, ``[rows, tokens]``.

    Raises:
        ValueError: If the stream is not of so many codes.
    """
    mode = int(stream[0]) if len(stream) else -1
    if mode == _PACKED:
        found = unpack_bits(stream[1:].cpu(), _width(alphabet), rows * tokens).view(tokens, rows).T.long()
    elif mode == _ADAPTIVE:
        decoder = AdaptiveDecoder(stream[1:])
        columns = [decoder.get(rows, escape=alphabet) for _ in range(tokens)]
        decoder.finish()
        found = torch.from_numpy(np.stack(columns, axis=1).astype(np.int64))
    else:
        raise ValueError(f"a stream of codes begins with {_ADAPTIVE} or {_PACKED}, got {mode}")
    if found.numel() and int(found.max()) >= alphabet:
        raise ValueError(f"a stream of codes below {alphabet} holds {int(found.max())}")
    return found


def _width(alphabet: int) -> int:
    return max(1, (alphabet - 1).bit_length())


def stream_bytes(hierarchy: Hierarchy, codes: Mapping[str, Tensor]) -> dict[str, int]:
    """Bytes of each category's codes."""
    size = next(network.settings.size for _, _, network in hierarchy.parts())
    return {name: len(pack_codes(found, size)) for name, found in codes.items()}


def decoder_bytes(hierarchy: Hierarchy) -> int:
    """Bytes of what decoding needs beside the codes, in 16 bits: decoders, codebooks, means and scales of features."""
    return BYTES * (hierarchy.numbers_to_decode() + 2 * hierarchy.num_features)
