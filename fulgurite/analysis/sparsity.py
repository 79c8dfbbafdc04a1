"""How sparse the weights of a network are, and whether hardware could make use of it.

    artefact | network -> each matrix -> zeros, spread over rows, groups of N:M, blocks -> table

A share of zeros saves bytes wherever it lies. Time is saved by patterns: groups of 2:4 that sparse tensor cores
take, or blocks that are all zero and need not be computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fulgurite.artifact.reader import Artifact
from fulgurite.codecs.pattern import Pattern

PATTERNS = ("2:4", "4:8", "4x4")
"""Looked for where none are named."""


@dataclass(frozen=True)
class WeightSparsity:
    """Zeros of one weight, seen as a matrix ``[out, in]``; all shares are from 0 to 1.

    Args:
        weight: Its name; ``total`` for all together.
        shape: Its shape; empty for the total.
        num_weights: Entries.
        zeros: Share of entries that are zero.
        row_least: The least share of zeros in a row.
        row_most: The largest.
        row_deviation: Standard deviation of the rows' shares.
        patterns: By pattern: of N:M the share of groups with N or fewer that are not zero; of blocks the share that
            has any. ``None`` where N:M does not divide the rows.
    """

    weight: str
    shape: tuple[int, ...]
    num_weights: int
    zeros: float
    row_least: float
    row_most: float
    row_deviation: float
    patterns: Mapping[str, float | None]


def weight_sparsity(name: str, weight: Tensor, patterns: Sequence[str] = PATTERNS) -> WeightSparsity:
    """Zeros of one weight.

    Args:
        name: What to call it.
        weight: Any rank from 1; a vector is one row, a kernel is flattened behind its first dimension.
        patterns: ``N:M`` or ``RxC``; blocks at an edge are cut.

    Raises:
        ValueError: If the weight is empty, or a pattern is none of these.

    Example:
        >>> weight_sparsity("w", torch.tensor([[1.0, 0, 2, 0], [0, 0, 0, 3]])).patterns["2:4"]
        1.0
    """
    if weight.numel() == 0:
        raise ValueError(f"{name}: weight must have at least one element, got shape {list(weight.shape)}")
    zero = (weight.reshape(1, -1) if weight.dim() < 2 else weight.flatten(1)) == 0
    rows = zero.double().mean(1)
    return WeightSparsity(
        weight=name,
        shape=tuple(weight.shape),
        num_weights=weight.numel(),
        zeros=int(zero.sum()) / weight.numel(),
        row_least=float(rows.min()),
        row_most=float(rows.max()),
        row_deviation=float(rows.std(correction=0)),
        patterns={text: _share(zero, _known(text)) for text in patterns},
    )


def analyze_sparsity(
    source: Artifact | nn.Module | Mapping[str, Tensor] | Path | str,
    patterns: Sequence[str] = PATTERNS,
) -> list[WeightSparsity]:
    """Zeros of every matrix, in the network's order, and of all together as the last entry.

    Args:
        source: An artefact or its folder, whose weights are decoded one at a time; a network, tied weights once; or
            weights by name. Vectors are left out.
        patterns: As ``weight_sparsity`` takes them.

    Raises:
        ValueError: If there is no matrix, or a pattern is not known.
        ArtifactError: If the folder is no artefact.
    """
    for text in patterns:
        _known(text)
    found = [weight_sparsity(name, weight, patterns) for name, weight in _matrices(source)]
    if not found:
        raise ValueError("expected a network with at least one matrix, found none")
    return [*found, _total(found, patterns)]


def sparsity_table(rows: Sequence[WeightSparsity]) -> str:
    """The same as a Markdown table, in per cent."""
    patterns = list(rows[0].patterns) if rows else []
    heads = [f"blocks {text} used" if "x" in text else f"groups of {text}" for text in patterns]
    lines = [["weight", "shape", "zeros", "rows: least", "rows: most", "rows: deviation", *heads]]
    lines.append(["---", "---", *["---:"] * (len(lines[0]) - 2)])
    for row in rows:
        shares = [row.zeros, row.row_least, row.row_most, row.row_deviation, *row.patterns.values()]
        cells = ["does not divide" if share is None else f"{100 * share:.1f} %" for share in shares]
        lines.append([f"`{row.weight}`" if row.shape else row.weight, "x".join(map(str, row.shape)), *cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _known(text: str) -> Pattern:
    if text == "unstructured":
        raise ValueError(
            'patterns to look for must be N:M such as "2:4" or blocks such as "4x4", got unstructured'
        )
    return Pattern(text)


def _share(zero: Tensor, pattern: Pattern) -> float | None:
    rows, columns = zero.shape
    if pattern.keep:
        if columns % pattern.columns:
            return None
        used = (~zero).reshape(-1, pattern.columns).sum(1)
        return int((used <= pattern.keep).sum()) / len(used)
    down, across = pattern.blocks(rows, columns)
    padded = torch.zeros(down * pattern.rows, across * pattern.columns, dtype=torch.bool, device=zero.device)
    padded[:rows, :columns] = ~zero
    blocks = padded.reshape(down, pattern.rows, across, pattern.columns).any(3).any(1)
    return int(blocks.sum()) / blocks.numel()


def _matrices(
    source: Artifact | nn.Module | Mapping[str, Tensor] | Path | str,
) -> Iterator[tuple[str, Tensor]]:
    if isinstance(source, Path | str):
        source = Artifact(source)
    if isinstance(source, Artifact):
        for name in source:
            layout = source.manifest.layout(name)
            if len(layout.shape) >= 2 and layout.dtype.startswith(("float", "bfloat")):
                yield name, source.decode(name)
        return
    weights = source.named_parameters() if isinstance(source, nn.Module) else source.items()
    for name, weight in weights:
        if weight.dim() >= 2 and weight.is_floating_point():
            yield name, weight.detach()


def _total(found: Sequence[WeightSparsity], patterns: Sequence[str]) -> WeightSparsity:
    """All weights together; rows and groups of large weights count by their entries."""
    total = sum(row.num_weights for row in found)

    def mean(pairs: Sequence[tuple[float, int]]) -> float:
        return sum(share * count for share, count in pairs) / sum(count for _, count in pairs)

    zeros = mean([(row.zeros, row.num_weights) for row in found])
    squares = [(row.row_deviation**2 + (row.zeros - zeros) ** 2, row.num_weights) for row in found]
    shares: dict[str, float | None] = {}
    for text in patterns:
        known = [(share, row.num_weights) for row in found if (share := row.patterns[text]) is not None]
        shares[text] = mean(known) if known else None
    return WeightSparsity(
        weight="total",
        shape=(),
        num_weights=total,
        zeros=zeros,
        row_least=min(row.row_least for row in found),
        row_most=max(row.row_most for row in found),
        row_deviation=mean(squares) ** 0.5,
        patterns=shares,
    )
