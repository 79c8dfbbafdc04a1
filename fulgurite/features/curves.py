"""What a category's error is at so many codes, measured on autoencoders that are started and not trained.

sample -> start with 1, 2, 3, 4, 6, 8, ... 32, 64, ... codes -> error on held-out rows -> log-linear between them
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fulgurite.features.sharing import split_levels
from fulgurite.vqvae.quantiser import QuantiserSettings
from fulgurite.vqvae.start import start_category

_ROWS = 2048
_DENSE = 4  # counts of three times a power of 2 up to 24: further on curves are smooth, and starts dear


def measure_errors(
    train: Tensor,
    held: Tensor,
    categories: Mapping[str, Sequence[int]],
    settings: QuantiserSettings,
    most: int,
    shares: Sequence[float] = (0.5, 0.3, 0.2),
    check: Callable[[], None] = lambda: None,
) -> dict[str, Callable[[int], float]]:
    """Relative error of each category by its number of codes.

    Args:
        train: Rows to start on, ``[n, features]``; some of them are enough.
        held: Rows to measure on.
        categories: Their columns.
        settings: Of the quantisers.
        most: Codes that one category may get.
        shares: Of the levels.
        check: Called now and then.
    """
    found = {}
    for name, places in categories.items():
        part, unseen = train[: max(_ROWS, settings.size), list(places)], held[:, list(places)]
        energy = float((unseen - part.mean(0)).square().mean().clamp_min(1e-12))
        counts, values = [0], [1.0]
        share = 3 * math.ceil(most * len(places) / train.shape[1]) + 2  # more than that no strategy gives it
        for count in _grid(min(most, share, 3 * len(places))):
            tokens = split_levels(count, shares, len(places))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(count)
                network = start_category(part, tokens, settings, hidden=0).eval()
            rebuilt = network.decode(network.encode(unseen))
            check()
            error = max(1e-9, float((unseen - rebuilt).square().mean()) / energy)
            if error >= values[-1]:
                break  # more codes only fit the sample
            counts.append(sum(tokens))
            values.append(error)
        found[name] = _between(counts, values)
    return found


def _grid(most: int) -> list[int]:
    found = [2**power for power in range(16)] + [3 * 2**power for power in range(_DENSE)]
    return sorted({count for count in found if count <= most} | {max(1, most)})


def _between(counts: list[int], values: list[float]) -> Callable[[int], float]:
    def error(count: int) -> float:
        if count in counts:
            return values[counts.index(count)]
        if count > counts[-1]:
            return values[-1]
        place = bisect.bisect(counts, count)
        low, high = counts[place - 1], counts[place]
        share = (count - low) / (high - low)
        return math.exp((1 - share) * math.log(values[place - 1]) + share * math.log(values[place]))

    return error
