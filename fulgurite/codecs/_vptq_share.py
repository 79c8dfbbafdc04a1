"""One codebook for many small weights.

names -> types -> dear codebooks -> unit-scaled vectors of all members -> k-means -> codebook
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fulgurite.codecs._hessian import input_costs
from fulgurite.codecs._kmeans import sample, sample_size
from fulgurite.codecs._vptq_columns import as_vectors, fit_stages
from fulgurite.codecs._vptq_encode import Plan, emphasis_of, over, row_weights, scales_of
from fulgurite.codecs.base import as_matrix


def weight_type(name: str) -> str:
    """What weights of different layers have in common: the name's last two parts that are no numbers.

    Example:
        >>> weight_type("model.layers.3.self_attn.q_proj.weight")
        'q_proj.weight'
    """
    return ".".join([part for part in name.split(".") if not part.isdigit()][-2:])


def fit_shared(
    weights: Mapping[str, Tensor],
    hessians: Mapping[str, Tensor],
    plan: Plan,
    limit: float | None,
    rows: Mapping[str, Tensor],
) -> Iterator[tuple[str, list[str], tuple[Tensor, ...]]]:
    """Group weights and fit each group's codebooks.

    Args:
        weights: By parameter name.
        hessians: Second moments of some or all of their inputs.
        plan: Settings.
        limit: Bits per weight that codebooks may cost; a type whose own codebooks cost more shares one,
            and types for which that is still too much share one among them. ``None``: share by type.
        rows: Row weights of some or all.

    Yields:
        A name for the group, its members and its codebooks in 16 bits, each ``[k, v]``.
    """
    types: dict[str, list[str]] = {}
    for name, weight in weights.items():
        if weight.dim() >= 2 and weight.shape[0] >= plan.vector_length:  # shorter ones have shorter vectors
            types.setdefault(weight_type(name), []).append(name)
    pooled: list[str] = []
    for kind, members in types.items():
        numel = sum(weights[name].numel() for name in members)
        bits = 16 * plan.vector_length * sum(plan.sizes)
        if limit is not None and bits * len(members) / numel <= limit:
            continue
        if limit is not None and bits / numel > limit:
            pooled += members
        elif len(members) > 1:
            yield kind, members, _fit(members, weights, hessians, plan, rows)
    if len(pooled) > 1:
        kinds = dict.fromkeys(weight_type(name) for name in pooled)
        yield " + ".join(kinds), pooled, _fit(pooled, weights, hessians, plan, rows)


def _fit(
    members: Sequence[str],
    weights: Mapping[str, Tensor],
    hessians: Mapping[str, Tensor],
    plan: Plan,
    rows: Mapping[str, Tensor],
) -> tuple[Tensor, ...]:
    """Fit codebooks to a sample of all members, each in proportion to its size."""
    total = sum(weights[name].numel() for name in members)
    bound = sample_size(max(plan.sizes))
    vectors, costs = [], []
    for index, name in enumerate(members):
        part = _vectors(weights[name], hessians.get(name), plan, rows.get(name))
        generator = torch.Generator().manual_seed(plan.seed + index)
        chosen = sample(*part, -(-bound * weights[name].numel() // total), generator)
        vectors.append(chosen[0])
        costs.append(chosen[1])
    return tuple(fit_stages(torch.cat(vectors), torch.cat(costs), plan.sizes, plan.iterations, plan.seed))


def _vectors(
    weight: Tensor, hessian: Tensor | None, plan: Plan, row_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Vectors over their scales and the cost of an error in each component, 1 on average."""
    matrix = as_matrix(weight, hessian, row_weight)
    scale, column = scales_of(matrix, plan.column_norm)
    factor = torch.ones(matrix.shape[1], device=matrix.device) if column is None else column.float()
    importance = torch.ones_like(factor) if hessian is None else input_costs(hessian).to(factor)
    importance = importance * factor.square()
    emphasis = emphasis_of(row_weight, len(matrix), plan.damping, matrix.device)
    weights = row_weights(scale.float() * emphasis)
    cost = as_vectors(weights[None], plan.vector_length) * importance[:, None, None]
    cost = cost / cost.mean().clamp_min(1e-38)
    values = over(over(matrix.T, factor[:, None]), scale.float())
    return as_vectors(values, plan.vector_length).flatten(0, 1), cost.flatten(0, 1)
