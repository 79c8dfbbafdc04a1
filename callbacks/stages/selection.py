"""Which weights a stage codes, and how they are shared out."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor


def select_weights(
    weights: Mapping[str, Tensor],
    select: Sequence[str],
    exclude: Sequence[str] = (),
    *,
    key: str = "select",
    network: str = "the network",
) -> list[str]:
    """Names of the matrices that match a pattern, in the network's order.

    Vectors (norms, biases) match only a pattern that names them without a wildcard.

    Args:
        weights: The network's parameters by name.
        select: Glob patterns; a name must match one.
        exclude: Glob patterns; a name must match none.
        key: Where the patterns stand in the recipe, for the error.
        network: Class name of the network, for the error.

    Raises:
        ValueError: If a pattern matches nothing; names patterns that would.
    """
    patterns = [(key, pattern) for pattern in select]
    patterns += [(key.replace(".select", ".exclude"), pattern) for pattern in exclude]
    for place, pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in weights):
            raise ValueError(
                f'no weight of {network} matches {place} "{pattern}"; near: {_near(pattern, list(weights))}'
            )
    chosen = [
        name
        for name, weight in weights.items()
        if (weight.dim() >= 2 and any(fnmatchcase(name, pattern) for pattern in select)) or name in select
    ]
    chosen = [name for name in chosen if not any(fnmatchcase(name, pattern) for pattern in exclude)]
    if not chosen:
        raise ValueError(
            f"{key} {list(select)} without exclude {list(exclude)} leaves no matrix of {network}"
        )
    return chosen


def share_out(costs: Mapping[str, float], ranks: int) -> list[list[str]]:
    """Spread work over ranks: the dearest first, each to the rank with the least so far.

    Returns:
        The names for each rank; every name once, the same on all ranks.
    """
    shares: list[list[str]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        rank = loads.index(min(loads))
        shares[rank].append(name)
        loads[rank] += costs[name]
    return shares


def _near(pattern: str, names: Sequence[str]) -> str:
    """The patterns most like the given one that do match, with the number of weights of each."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = re.sub(r"\.\d+\.", ".*.", name).split(".")
        counts[".".join(parts)] += 1
        if "*" in parts:
            counts[".".join(parts[: parts.index("*") + 1])] += 1
    close = difflib.get_close_matches(pattern, list(counts), n=2, cutoff=0) or list(counts)[:2]
    return ", ".join(f'"{match}" ({counts[match]} weights)' for match in close)
