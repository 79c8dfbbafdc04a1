"""Who gets how many codes: compression ratios by category and level.

ratio r of a level: n features of 32 bits in 32 n / r bits -> codes
auto: bits per feature -> levels by their shares -> categories by a strategy and the project's allocator -> Plan

| strategy | a category gets bits by |
| --- | --- |
| `uniform` | its number of features: one ratio for all |
| `variance` | its mean square |
| `dimensionality` | the share of its dimensions that it uses (participation ratio) |
| `information` | its entropy power |
| `balanced` | its relative error, modelled: all alike, as far as the mean is no worse than uniform's |
| `slope` | where a code saves most squared error, measured |
| `worst` | whose relative error is largest, measured |

The first four are models, see ``fulgurite.allocation.strategies``; they do not know that the error of a category of few
dimensions falls faster. `balanced` does: it takes the Gaussian curve of a category's spectrum, which holds variance,
dimensionality and information, see ``fulgurite.features.gaussian``. Of all that are given the same bits, `slope` has
the least error and `worst` the least error of the worst category, on the curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fulgurite.allocation import (
    STRATEGIES,
    Candidate,
    Curve,
    Statistics,
    Target,
    allocate,
    modelled,
    statistics_of,
)
from fulgurite.features.gaussian import gaussian_curves
from fulgurite.features.sharing import Errors, balanced, least_worst, split_levels
from fulgurite.vqvae.autoencoder import LEVELS

FLOAT_BITS = 32
WORST, BALANCED = "worst", "balanced"
NAMES = (*STRATEGIES, WORST)
MEASURED = ("slope", WORST)
"""Strategies that need measured curves."""

Ratios = str | Sequence[float] | Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Profile:
    """What a category is like.

    Args:
        features: Their number.
        statistics: Variance, dimensionality and information.
        correlation: Mean absolute correlation between two of its features.
        directions: Principal directions that hold nine tenths of its variance.
        spectrum: Variances along its principal directions.
    """

    features: int
    statistics: Statistics
    correlation: float
    directions: int
    spectrum: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """Codes of each level of each category.

    Args:
        tokens: By category, three numbers.
        bits: Of one code.
        decisions: A row for each category and level, plain values: what was decided and why.
    """

    tokens: dict[str, tuple[int, ...]]
    bits: float
    decisions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def num_codes(self) -> int:
        """Of a row."""
        return sum(map(sum, self.tokens.values()))


def analyse(sample: Tensor, categories: Mapping[str, Sequence[int]]) -> dict[str, Profile]:
    """Statistics of each category of standardised rows ``[n, features]``."""
    found = {}
    for name, places in categories.items():
        part = sample[:, list(places)].double()
        centred = part - part.mean(0)
        covariance = centred.T @ centred / len(part)
        spectrum = torch.linalg.eigvalsh(covariance).flip(0).clamp_min(0)
        held = spectrum.cumsum(0) / spectrum.sum().clamp_min(1e-300)
        deviations = covariance.diagonal().clamp_min(1e-12).sqrt()
        correlation = (covariance / torch.outer(deviations, deviations)).abs()
        count = len(places)
        others = (float(correlation.sum()) - count) / (count * (count - 1)) if count > 1 else 0.0
        directions = min(count, int((held < 0.9).sum()) + 1)
        found[name] = Profile(count, statistics_of(part), others, directions, tuple(spectrum.tolist()))
    return found


def plan_codes(
    profiles: Mapping[str, Profile],
    bits: float,
    *,
    ratios: Ratios = "auto",
    strategy: str | Sequence[str] = "balanced",
    bits_per_feature: float = 0.5,
    shares: Sequence[float] = (0.5, 0.3, 0.2),
    errors: Errors | None = None,
) -> Plan:
    """Decide how many codes each level of each category has.

    Args:
        profiles: Of the categories.
        bits: Of one code.
        ratios: ``auto``; a ratio for each level; or such by category.
        strategy: For ``auto``: one for all levels, or one for each.
        bits_per_feature: For ``auto``: of all levels together.
        shares: For ``auto``: of the codes, by level.
        errors: Measured errors, for `slope` and `worst`.

    Raises:
        ValueError: If a strategy, ratio or category is not known, or ratios leave a category no code.
    """
    if isinstance(ratios, str):
        if ratios != "auto":
            raise ValueError(
                f"compression_ratios must be auto, three ratios or ratios by category, got {ratios!r}"
            )
        strategies = [strategy] * LEVELS if isinstance(strategy, str) else list(strategy)
        return _auto(profiles, bits, strategies, bits_per_feature, shares, errors)
    return _of_ratios(profiles, bits, ratios)


def _of_ratios(
    profiles: Mapping[str, Profile], bits: float, ratios: Sequence[float] | Mapping[str, Sequence[float]]
) -> Plan:
    given = dict(ratios) if isinstance(ratios, Mapping) else dict.fromkeys(profiles, ratios)
    unknown = [name for name in given if name not in profiles]
    missing = [name for name in profiles if name not in given]
    if unknown or missing:
        raise ValueError(
            f"compression_ratios must name the categories {', '.join(profiles)}, "
            + (f"got {unknown[0]!r}" if unknown else f"{missing[0]!r} is missing")
        )
    tokens = {}
    for name, levels in given.items():
        if len(levels) != LEVELS or min(levels) <= 0:
            raise ValueError(
                f"compression_ratios of {name} must be {LEVELS} numbers above 0, got {list(levels)}"
            )
        features = profiles[name].features
        tokens[name] = tuple(min(features, round(FLOAT_BITS * features / (ratio * bits))) for ratio in levels)
        if not any(tokens[name]):
            raise ValueError(
                f"compression_ratios {list(levels)} leave {name} no code: a code has {bits:g} bits, and all of its "
                f"{features} features would get {FLOAT_BITS * features / min(levels):.3g}"
            )
    names = {name: ["given"] * LEVELS for name in tokens}
    return Plan(tokens, bits, _decisions(profiles, tokens, bits, names))


def _auto(
    profiles: Mapping[str, Profile],
    bits: float,
    strategies: Sequence[str],
    bits_per_feature: float,
    shares: Sequence[float],
    errors: Errors | None,
) -> Plan:
    unknown = [name for name in strategies if name not in NAMES]
    if unknown or len(strategies) != LEVELS:
        raise ValueError(
            f"strategy must be one or {LEVELS} of {', '.join(NAMES)}, got {', '.join(strategies)}"
        )
    if any(name in MEASURED for name in strategies) and errors is None:
        raise ValueError(f"strategies {', '.join(MEASURED)} need measured errors")
    if len(shares) != LEVELS or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"level_shares must be {LEVELS} numbers not below 0, not all 0, got {list(shares)}")
    features = sum(profile.features for profile in profiles.values())
    total = math.floor(bits_per_feature * features / bits)
    if total < len(profiles):
        raise ValueError(
            f"{bits_per_feature:g} bits per feature leave no code for some of {len(profiles)} categories: "
            f"{features} features make {total} codes of {bits:g} bits"
        )
    ends = [round(total * sum(shares[: level + 1]) / sum(shares)) for level in range(LEVELS)]
    ends = [max(end, len(profiles)) for end in ends]  # a code for each at the least, at the first level
    if len(set(strategies)) == 1:  # no level decides for itself: each category splits its codes alike
        nothing, most = _from_nothing(profiles)
        whole = _spread(profiles, nothing, most, ends[-1], bits, strategies[0], errors, first=True)
        tokens = {name: split_levels(count, shares, profiles[name].features) for name, count in whole.items()}
    else:
        tokens = _by_level(profiles, ends, bits, strategies, errors)
    found = {name: tuple(given) for name, given in tokens.items()}
    return Plan(found, bits, _decisions(profiles, found, bits, {key: list(strategies) for key in found}))


def _by_level(
    profiles: Mapping[str, Profile],
    ends: Sequence[int],
    bits: float,
    strategies: Sequence[str],
    errors: Errors | None,
) -> dict[str, list[int]]:
    """Each level by its strategy, on top of what those before have."""
    tokens: dict[str, list[int]] = {name: [] for name in profiles}
    limit = {category: profile.features for category, profile in profiles.items()}
    for level, (name, end) in enumerate(zip(strategies, ends, strict=True)):
        before = {category: sum(given) for category, given in tokens.items()}
        after = _spread(profiles, before, limit, end, bits, name, errors, first=level == 0)
        for category in tokens:
            tokens[category].append(after[category] - before[category])
    return tokens


def _from_nothing(profiles: Mapping[str, Profile]) -> tuple[dict[str, int], dict[str, int]]:
    """Codes that categories have before the first level, and may have after the last."""
    return dict.fromkeys(profiles, 0), {name: LEVELS * one.features for name, one in profiles.items()}


def _spread(
    profiles: Mapping[str, Profile],
    before: Mapping[str, int],
    limit: Mapping[str, int],
    total: int,
    bits: float,
    strategy: str,
    errors: Errors | None,
    first: bool,
) -> dict[str, int]:
    """Codes of each category up to a level, all in all ``total`` where the limits allow it."""
    lowest = {name: max(1, before[name]) if first else before[name] for name in profiles}
    highest = {name: min(before[name] + limit[name], lowest[name] + total) for name in profiles}
    total = min(total, sum(highest.values()))
    if strategy == WORST:
        assert errors is not None
        return least_worst(lowest, highest, total, errors)
    if strategy == BALANCED:
        nothing, most = _from_nothing(profiles)
        uniform = _spread(profiles, nothing, most, total, bits, "uniform", None, first=True)
        sizes = {name: one.features * one.statistics.variance for name, one in profiles.items()}
        modelled_errors = gaussian_curves({name: one.spectrum for name, one in profiles.items()}, bits)
        return balanced(lowest, highest, total, modelled_errors, sizes, uniform)
    # eight rows: a code of `bits` bits is as many bytes
    curves = []
    for name, profile in profiles.items():
        counts = range(lowest[name], highest[name] + 1)
        values = _falling([errors[name](count) if errors else 1.0 for count in counts])
        size = profile.features * profile.statistics.variance
        candidates = [
            Candidate(count, math.ceil(count * bits), size * value)
            for count, value in zip(counts, values, strict=True)
        ]
        if strategy != "slope":  # the model sees the bytes alone; all of them are on its hull
            candidates = [
                Candidate(one.codec, one.num_bytes, 4.0 ** (-one.num_bytes / profile.features))
                for one in candidates
            ]
        curves.append(Curve(name, 8 * profile.features, tuple(candidates)))
    statistics = {name: profile.statistics for name, profile in profiles.items()}
    searched = modelled(curves, strategy, statistics)  # type: ignore[arg-type]
    chosen = allocate(searched, Target(num_bytes=total * math.ceil(bits)))
    found = {name: int(choice.candidate.codec) for name, choice in chosen.choices.items()}
    _fill(found, highest, total, profiles)
    return found


def _falling(values: list[float]) -> list[float]:
    """Measured errors without the noise by which a code more seems to do harm."""
    least = math.inf
    found = []
    for value in values:
        least = min(least, value)
        found.append(least)
    return found


def _fill(
    found: dict[str, int], highest: Mapping[str, int], total: int, profiles: Mapping[str, Profile]
) -> None:
    """Codes that are left where a hull has long steps, to those with the fewest for their features."""
    while sum(found.values()) < total:
        open_names = [name for name in found if found[name] < highest[name]]
        name = min(open_names, key=lambda one: found[one] / profiles[one].features)
        found[name] += 1


def _decisions(
    profiles: Mapping[str, Profile],
    tokens: Mapping[str, Sequence[int]],
    bits: float,
    strategies: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    rows = []
    for name, profile in profiles.items():
        for level, count in enumerate(tokens[name]):
            rows.append(
                {
                    "category": name,
                    "level": level,
                    "strategy": strategies[name][level],
                    "codes": count,
                    "bits_per_feature": count * bits / profile.features,
                    "ratio": FLOAT_BITS * profile.features / (count * bits) if count else None,
                    "features": profile.features,
                    "correlation": profile.correlation,
                    "directions": profile.directions,
                    **profile.statistics.to_dict(),
                }
            )
    return rows
