"""The stage that brings the heads of attention to low rank: queries with keys, values with outputs.

    a head's queries and keys  -> basis of the singular pairs of their product -> the last pairs: rows of zeros
    a head's values and output -> likewise                                     -> rows, and columns, of zeros

A codec sees one weight at a time, and each of these four may have full rank while their products have not. Rows of
zeros cost an entropy-coded stage after this one next to nothing, and the network keeps its shape. With ``energy: 1``
nothing is left out: the network computes what it did, in a basis whose rows differ in energy as much as they can.

Queries and keys that are rotated by their position (Llama and its like) or normalised have no one product: their values
and outputs alone are taken then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from callbacks.stages.stage import Aim
from callbacks.stages.structure import StructuralStage, Work
from fulgurite.calibration import evaluating, gather_metrics
from fulgurite.models import Attention, attentions_of, unique_parameters
from fulgurite.transforms import Basis, damp, principal_basis, root_of

Product = Literal["queries_keys", "values_output"]
_PRODUCTS: tuple[Product, ...] = ("queries_keys", "values_output")


class AttentionRankStage(StructuralStage):
    """Truncate the products of weights in attention, head by head, in the metric of their inputs.

    The heads of a block compete: singular pairs are left out across all of them, the smallest first.

    Args:
        energy: Share of the energy of each block's products to keep, above 0 and at most 1.
        keep: Share of the singular pairs of each block to keep, in place of ``energy``.
        products: Which to truncate.
        select: Glob patterns over names of attention's modules.
        damping: Share of a hessian's mean diagonal that is added to its diagonal.
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.

    Raises:
        ValueError: If a setting is out of range.
    """

    kind: ClassVar[str] = "attention_rank"
    aim: ClassVar[Aim] = "change"

    def __init__(
        self,
        energy: float | None = None,
        keep: float | None = None,
        products: list[Product] | None = None,
        select: str | list[str] = "*",
        damping: float = 0.01,
        min_retention: float | None = None,
    ) -> None:
        super().__init__(min_retention)
        if energy is not None and keep is not None:
            raise ValueError(f"one of energy and keep may be given, got {energy} and {keep}")
        for name, value in (("energy", energy), ("keep", keep)):
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
        if damping < 0:
            raise ValueError(f"damping must not be negative, got {damping}")
        self.products = list(_PRODUCTS if products is None else products)
        if not self.products or set(self.products) - set(_PRODUCTS):
            raise ValueError(f"products must be some of {', '.join(_PRODUCTS)}, got {self.products}")
        self.energy = 0.99 if energy is None and keep is None else energy
        self.keep = keep
        self.select = [select] if isinstance(select, str) else list(select)
        self.damping = damping

    @override
    def settings(self) -> dict[str, Any]:
        names = ("energy", "keep", "products", "select", "damping")
        return {"codec": {"name": self.kind}, **{name: getattr(self, name) for name in names}}

    @override
    def build(self, work: Work, target: Path) -> Mapping[str, Any]:
        module: Any = work.subject
        network = deepcopy(module.network).to(work.device)
        blocks = self._chosen(network)
        self._check_same(work, network)
        roots = self._roots(work, network, blocks)
        pairs = {product: [0, 0] for product in self.products}
        lost: dict[str, float] = dict.fromkeys(self.products, 0.0)
        with torch.no_grad():
            for done, block in enumerate(blocks, start=1):
                for product in self._of(block):
                    kept, total, share = self._truncate(block, product, roots)
                    pairs[product][0] += kept
                    pairs[product][1] += total
                    lost[product] = max(lost[product], share)
                work.progress("rank", done, len(blocks), None)
                work.check()
        module.save_as(target, network.cpu())
        return {
            "kind": self.kind,
            "blocks": len(blocks),
            "pairs_kept": {product: kept for product, (kept, _) in pairs.items()},
            "pairs": {product: total for product, (_, total) in pairs.items()},
            "energy_lost_most": lost,
        }

    def _of(self, block: Attention) -> list[Product]:
        return [each for each in self.products if not (each == "queries_keys" and block.between)]

    def _chosen(self, network: nn.Module) -> list[Attention]:
        known = attentions_of(network)
        if not known:
            raise ValueError(
                f"attention_rank: {type(network).__name__} has no attention whose parts are known"
            )
        chosen = [each for each in known if any(fnmatchcase(each.name, glob) for glob in self.select)]
        if not chosen:
            names = ", ".join(each.name for each in known[:4])
            raise ValueError(
                f"attention_rank.select: no match for {self.select}; blocks are named {names}, ..."
            )
        usable = [each for each in chosen if self._of(each)]
        if not usable:
            raise ValueError(
                f"attention_rank.products: queries and keys of {type(network).__name__} are {chosen[0].between}, "
                "so that they have no one product; expected values_output"
            )
        return usable

    @torch.no_grad()
    def _check_same(self, work: Work, network: nn.Module) -> None:
        """Refuse a network that does not compute the same in another basis: something lies between the weights."""
        module: Any = work.subject
        turned = deepcopy(network)
        for block in self._chosen(turned):
            for product in self._of(block):
                for head in _heads(block, product):
                    basis = principal_basis(head.seen_left({}), head.seen_right({}))
                    head.turn(basis, torch.ones_like(basis.values, dtype=torch.bool))
        batch = next(iter(module.calibration_batches(work.datamodule)), None)
        if batch is None:
            return  # calibration says so
        inputs = {
            key: value.to(work.device) if isinstance(value, Tensor) else value for key, value in batch.items()
        }
        with evaluating(network), evaluating(turned):
            before, after = (_floats(each(**inputs)) for each in (network, turned))
        moved = float((after - before).norm() / before.norm().clamp_min(1e-30))
        limit = 1e-3 if next(network.parameters()).dtype == torch.float32 else 0.05
        if not moved <= limit:
            raise ValueError(
                f"attention_rank: {type(network).__name__} must compute the same with its heads in another basis, but "
                f"outputs move by {moved:.2g} of themselves: its attention does more than is known of it"
            )

    def _roots(self, work: Work, network: nn.Module, blocks: Sequence[Attention]) -> dict[Tensor, Tensor]:
        """For each weight that reads hidden states, ``S`` of the second moment ``S S^T`` of what it reads."""
        module: Any = work.subject
        names = {weight: name for name, weight in unique_parameters(network).items()}
        read = {names[part.weight] for block in blocks for part in (block.query, block.key, block.value)}
        metrics = gather_metrics(
            network,
            module.calibration_batches(work.datamodule),
            sorted(read),
            "input",
            text_mask=module.text_mask,
            progress=lambda done: work.check(),
        )
        parameters = dict(network.named_parameters(remove_duplicate=False))
        return {
            parameters[name]: root_of(damp(metric.hessian, self.damping))
            for name, metric in metrics.items()
            if metric.hessian is not None
        }

    def _truncate(
        self, block: Attention, product: Product, roots: Mapping[Tensor, Tensor]
    ) -> tuple[int, int, float]:
        """Turn the heads of a block into their basis, less what is left out; pairs kept, pairs, energy lost."""
        heads = _heads(block, product)
        bases = [principal_basis(head.seen_left(roots), head.seen_right(roots)) for head in heads]
        energies = torch.stack([basis.values.square() for basis in bases])
        keep = self._kept(energies)
        for head, basis, some in zip(heads, bases, keep, strict=True):
            head.turn(basis, some)
        total = float(energies.sum())
        share = float(energies[~keep].sum()) / total if total > 0 else 0.0
        return int(keep.sum()), keep.numel(), share

    def _kept(self, energies: Tensor) -> Tensor:
        """Which singular pairs to keep, ``[heads, head_dim]``."""
        order = energies.flatten().argsort(descending=True)
        if self.keep is not None:
            count = max(1, round(self.keep * len(order)))
        else:
            assert self.energy is not None
            held = energies.flatten()[order].cumsum(0) / energies.sum().clamp_min(1e-300)
            # rounding must not ask for one more where all of the energy is wanted
            count = min(len(order), int((held < self.energy - 1e-12).sum()) + 1)
        kept = torch.zeros(len(order), dtype=torch.bool, device=energies.device)
        kept[order[:count]] = True
        return kept.view_as(energies)


@dataclass(frozen=True)
class _Head:
    """Views of two weights that meet in the channels of a head; on the left of all that share the one on the right.

    Args:
        left: ``[head_dim, n]`` each.
        left_shift: What is added to the left side's channels, ``[head_dim]`` each, if anything.
        right: ``[head_dim, n]``.
        right_shift: Likewise, ``[head_dim]``.
        left_weight: The parameter that ``left`` is of, where it reads hidden states.
        right_weight: The one that ``right`` is of.
    """

    left: list[Tensor]
    left_shift: list[Tensor]
    right: Tensor
    right_shift: Tensor | None
    left_weight: Tensor | None
    right_weight: Tensor

    def seen_left(self, roots: Mapping[Tensor, Tensor]) -> Tensor:
        """The left side where errors cost alike, ``[head_dim, m]``."""
        root = None if self.left_weight is None else roots.get(self.left_weight)
        parts = [each.double() if root is None else each.double() @ root for each in self.left]
        return torch.cat([*parts, *(shift.double()[:, None] for shift in self.left_shift)], dim=1)

    def seen_right(self, roots: Mapping[Tensor, Tensor]) -> Tensor:
        """The right side, likewise."""
        root = roots.get(self.right_weight)
        part = self.right.double() if root is None else self.right.double() @ root
        # what keys have beside a query's own product adds the same to all of its scores; values' shifts do count
        shift = [] if self.right_shift is None or self.left_weight is not None else [self.right_shift]
        return torch.cat([part, *(each.double()[:, None] for each in shift)], dim=1)

    def turn(self, basis: Basis, keep: Tensor) -> None:
        """Put both sides into the basis, with zeros where a pair is not kept."""
        left, right = basis.left * keep[:, None], basis.right * keep[:, None]
        for each in self.left:
            each.copy_(left @ each.double())
        for shift in self.left_shift:
            shift.copy_(left @ shift.double())
        self.right.copy_(right @ self.right.double())
        if self.right_shift is not None:
            self.right_shift.copy_(right @ self.right_shift.double())


def _heads(block: Attention, product: Product) -> list[_Head]:
    """The heads of a block; the values' shift has gone into the output's."""
    if product == "queries_keys":
        return _queries_keys(block)
    _fold_shift(block)
    return _values_output(block)


def _floats(output: Any) -> Tensor:
    """All numbers of an output in a row, float64."""
    if isinstance(output, Tensor):
        return output.double().flatten() if output.is_floating_point() else output.new_zeros(0).double()
    parts = output.values() if isinstance(output, Mapping) else output
    found = [_floats(part) for part in parts if isinstance(part, Tensor | Mapping | tuple | list)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def _queries_keys(block: Attention) -> list[_Head]:
    queries, keys = torch.split(block.query.rows, block.head_dim), torch.split(block.key.rows, block.head_dim)
    query_shifts, key_shift = block.query.shift, block.key.shift
    shifts = [] if query_shifts is None else list(torch.split(query_shifts, block.head_dim))
    return [
        _Head(
            left=some,
            left_shift=shifts[head * block.group : (head + 1) * block.group],
            right=keys[head],
            right_shift=None if key_shift is None else torch.split(key_shift, block.head_dim)[head],
            left_weight=block.query.weight,
            right_weight=block.key.weight,
        )
        for head, some in enumerate(_groups(queries, block.group))
    ]


def _values_output(block: Attention) -> list[_Head]:
    columns, values = (
        torch.split(block.output.rows, block.head_dim, dim=1),
        torch.split(block.value.rows, block.head_dim),
    )
    shift = block.value.shift
    return [
        _Head(
            left=[each.T for each in some],
            left_shift=[],
            right=values[head],
            right_shift=None if shift is None else torch.split(shift, block.head_dim)[head],
            left_weight=None,
            right_weight=block.value.weight,
        )
        for head, some in enumerate(_groups(columns, block.group))
    ]


def _fold_shift(block: Attention) -> None:
    """Move the values' shift, which reaches the output whatever is attended to, into that of the output."""
    shift, out = block.value.shift, block.output.shift
    if shift is None or out is None:
        return
    by_head = torch.split(shift.double(), block.head_dim)
    seen = torch.cat([by_head[head] for head in range(block.key_value_heads) for _ in range(block.group)])
    out += (block.output.rows.double() @ seen).to(out.dtype)
    shift.zero_()


def _groups(parts: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    return [list(parts[first : first + size]) for first in range(0, len(parts), size)]
