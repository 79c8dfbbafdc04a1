"""Plain codes of a table's rows: scalar quantisation with entropy coding, and faiss product quantisation.

train rows -> axes, codebooks -> test rows -> codes -> bytes, errors by category
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules import FeatureDataModule
from fulgurite.coding.adaptive import AdaptiveEncoder
from fulgurite.vqvae.stream import BYTES, pack_codes


def plain_codes(data: FeatureDataModule, ours: dict[str, Any], codebook: int) -> dict[str, Any]:
    """Codes that know nothing of categories, in as many bytes for the test rows, or as many codes.

    Args:
        data: Whose test rows are coded; they learn from the train rows.
        ours: What the hierarchy has measured: ``bits_per_feature`` and ``codes`` of a row.
        codebook: Codes of a codebook, of product quantisation too.
    """
    train, test = data.sample("train", 1 << 30), data.rows("test").__getitems__(range(len(data.rows("test"))))
    categories = data.preparation.categories
    num_bytes = ours["bits_per_feature"] * test.numel() / 8
    mean = train.mean(0)
    centred = (train - mean).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)
    turn = axes.float()
    found: dict[str, Any] = {}
    for name, rotation in (("scalar", None), ("scalar on principal axes", turn)):
        rebuilt, coded = _scalar(test - mean, rotation, num_bytes)
        stored = 0 if rotation is None else BYTES * rotation.numel()
        found[name] = _measures(test, rebuilt + mean, categories, coded, stored + 2 * BYTES * test.shape[1])
    for name, rotated in (("faiss PQ", False), ("faiss OPQ", True)):
        rebuilt, coded, stored = _product(train, test, int(ours["codes"]), codebook, rotated)
        found[name] = _measures(test, rebuilt, categories, coded, stored + 2 * BYTES * test.shape[1])
    return found


def _measures(
    test: Tensor, rebuilt: Tensor, categories: dict[str, list[int]], coded: int, stored: int
) -> dict[str, float]:
    errors = (test - rebuilt).square().double()
    relative = [
        float(errors[:, places].sum() / test[:, places].double().square().sum())
        for places in categories.values()
    ]
    return {
        "error": float(errors.mean()),
        "worst": max(relative),
        "bits_per_feature": 8 * coded / test.numel(),
        "decoder_bytes": stored,
    }


def _scalar(rows: Tensor, rotation: Tensor | None, num_bytes: float) -> tuple[Tensor, int]:
    """Entropy-coded scalar quantisation: one step for all columns, counts of its own for each."""
    values = rows if rotation is None else rows @ rotation

    def coded(step: float) -> tuple[Tensor, int]:
        codes = torch.sign(values) * torch.floor(
            values.abs() / step + 0.4
        )  # a little towards zero: fewer bits
        symbols = torch.where(codes > 0, 2 * codes - 1, -2 * codes).long().numpy()
        encoder = AdaptiveEncoder()
        for column in symbols.T:
            encoder.put(column)
        return codes * step, len(encoder.finish())

    low, high = 1e-3, 20.0
    for _ in range(14):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if coded(middle)[1] <= num_bytes else (middle, high)
    rebuilt, size = coded(high)
    return (rebuilt if rotation is None else rebuilt @ rotation.T), size


def _product(
    train: Tensor, test: Tensor, codes: int, codebook: int, rotated: bool
) -> tuple[Tensor, int, int]:
    """Product quantisation in as many codes; OPQ turns the rows first."""
    import faiss

    width = -(-train.shape[1] // codes)
    padded = [np.zeros((len(rows), width * codes), np.float32) for rows in (train, test)]
    for target, rows in zip(padded, (train, test), strict=True):
        target[:, : rows.shape[1]] = rows.numpy()
    bits = codebook.bit_length() - 1
    stored = codebook * width * codes * BYTES
    turn = None
    if rotated:
        turn = faiss.OPQMatrix(width * codes, codes)
        turn.niter = 10
        turn.pq = faiss.ProductQuantizer(width * codes, codes, bits)
        turn.train(padded[0])
        padded = [turn.apply(rows) for rows in padded]
        stored += (width * codes) ** 2 * BYTES
    quantiser = faiss.ProductQuantizer(width * codes, codes, bits)
    quantiser.train(padded[0])
    packed = quantiser.compute_codes(padded[1])
    rebuilt = quantiser.decode(packed)
    digits = np.unpackbits(packed, axis=1, bitorder="little")[:, : codes * bits].reshape(
        len(packed), codes, bits
    )
    chosen = (digits.astype(np.int64) << np.arange(bits)).sum(2)
    if turn is not None:
        rebuilt = turn.reverse_transform(rebuilt)
    size = len(pack_codes(torch.from_numpy(chosen), codebook))
    return torch.from_numpy(rebuilt[:, : test.shape[1]].copy()), size, stored
