r"""Running sums over calibration data, one for each layer, and the metric that they come to.

Every layer gives its weight a Kronecker product ``rows (x) columns``, either of which may be a multiple of the
identity. A weight with several layers (an embedding tied to a head) has the sum of their products; the nearest single
product, in the first step of the power iteration from the identity, sums each side weighted by the other one's trace:

    columns = sum_u tr(rows_u) columns_u / rows        rows = sum_u tr(columns_u) rows_u, then to mean 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fulgurite.calibration._shares import Moments
from fulgurite.calibration.layers import is_transposed, made, num_groups, seen
from fulgurite.calibration.metric import Metric, MetricKind

_UNSEEN = 0.5
"""Occurrences that a token counts for that the data does not have: rare is not impossible."""


@dataclass(frozen=True)
class Part:
    """One layer's share of a metric, each side weighted by the other's trace; a number is that often ``I``."""

    columns: Tensor | float
    rows: Tensor | float


def combine(parts: Sequence[Part], kind: MetricKind) -> Metric:
    """The metric of a weight from the parts of its layers.

    Where all agree that one side is the identity, that side is ``None``.
    """
    hessian = _total([part.columns for part in parts])
    rows = _total([part.rows for part in parts])
    if hessian is not None:
        alike = sum(part.columns for part in parts if isinstance(part.columns, float))
        hessian.diagonal().add_(alike)
    if rows is not None:
        rows += sum(part.rows for part in parts if isinstance(part.rows, float))
        mean = rows.mean()
        rows /= mean if mean > 0 else 1.0  # zero and NaN are for ``Metric.problem`` to find
    return Metric(hessian, rows, kind)


class InputSums:
    """Second moments of a layer's inputs: errors cost what they add to the layer's own output, squared.

    A linear layer's side of the rows is the identity, a transposed one's and an embedding's that of the columns.
    An embedding's rows cost their token's frequency. Groups of a convolution have one hessian, their mean, and
    rows that cost the trace of their own group's: what one hessian for all rows can say.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._total: Tensor | None = None
        self._energy: Tensor | None = None
        self._count = 0

    def add(self, inputs: Tensor, mask: Tensor | None) -> None:
        """Count the inputs of one call, but for the positions of them where ``mask`` ``[positions]`` is false."""
        if isinstance(self._layer, nn.Embedding):
            tokens = inputs.flatten()
            tokens = tokens if mask is None or len(mask) != len(tokens) else tokens[mask]
            self._count += len(tokens)
            self._add(tokens.bincount(minlength=self._layer.num_embeddings).float())
            return
        values = seen(self._layer, inputs).flatten(0, 1)  # [positions, groups, in]
        # a layer that sees other positions, such as a pooled vector or an image's, is not masked
        if mask is not None and len(mask) == len(values) and not isinstance(self._layer, nn.Conv2d):
            values = values[mask]
        self._count += len(values)
        energy = values.square().sum(0)
        if is_transposed(self._layer):
            self._add(energy[0])
            return
        self._energy = energy.sum(1) if self._energy is None else self._energy + energy.sum(1)
        flat = values.flatten(0, 1)
        if self._total is None:
            self._total = flat.new_zeros(flat.shape[1], flat.shape[1])
        self._total.addmm_(flat.T, flat)  # in place: the hessians are all the memory there is

    def _add(self, values: Tensor) -> None:
        self._total = values if self._total is None else self._total.add_(values)

    def take(self) -> Moments | None:
        """The sums so far, which begin anew; ``None`` where no batch reached the layer."""
        total, energy, count = self._total, self._energy, self._count
        self._total, self._energy, self._count = None, None, 0
        return None if total is None else Moments([total] if energy is None else [total, energy], count)

    def put(self, moments: Moments) -> None:
        """Add sums that were taken."""
        self._add(moments.tensors[0])
        for energy in moments.tensors[1:]:
            self._energy = energy if self._energy is None else self._energy + energy
        self._count += moments.count

    def part(self) -> Part | None:
        """The layer's part, or ``None`` where no batch reached it."""
        total, count = self._total, self._count
        if total is None or count == 0:
            return None
        if isinstance(self._layer, nn.Embedding):
            share = total.clamp_min(_UNSEEN) / count
            return Part(float(share.sum()) / len(share), self._layer.embedding_dim * share)
        if is_transposed(self._layer):
            return Part(float(total.sum()) / (count * len(total)), self._out(1) * total / count)
        groups = num_groups(self._layer)
        assert self._energy is not None
        energy = self._energy / count
        rows = float(energy[0]) if groups == 1 else energy.repeat_interleave(self._out(groups))
        return Part(total / (count * groups), rows)

    def _out(self, groups: int) -> int:
        """Outputs of each group."""
        weight = self._layer.weight
        assert isinstance(weight, Tensor)
        return weight.shape[1] if is_transposed(self._layer) else weight.shape[0] // groups


class FisherSums:
    """Second moments of the gradient in a layer's weight, as a Kronecker product.

    One step of the power iteration from the identity on both sides (see ``gather_metrics``). A convolution's are
    those of the gradient of each image: its places have most of it in common. Other layers' have the shape that
    they would have if tokens were independent of each other, which is less noisy, and the scale of whole samples:
    the mean squared norm of the gradient with all that tokens have in common.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._sum: _Product | None = None
        self._occurrences = 0

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """Count one call: its inputs, and the gradient of a sampled loss in its output."""
        other = made(self._layer, gradient)
        if isinstance(self._layer, nn.Embedding):
            for tokens, columns in zip(inputs.reshape(len(other), -1), other[:, :, 0], strict=True):
                self._add_tokens(tokens, columns)
            return
        met = seen(self._layer, inputs)
        rows, columns = (met, other) if is_transposed(self._layer) else (other, met)
        if rows.shape[1] == 1 and rows.shape[2] == 1:  # one place a sample: all samples at once
            self._add_places(rows[:, 0], columns[:, 0], alone=True)
            return
        add = self._add_whole if isinstance(self._layer, nn.Conv2d) else self._add_places
        for each_rows, each_columns in zip(rows, columns, strict=True):  # one sample's temporaries at a time
            add(each_rows, each_columns)

    def _add_places(self, rows: Tensor, columns: Tensor, *, alone: bool = False) -> None:
        """Places by themselves, from ``[places, groups, rows]`` and ``[places, groups, columns]``."""
        row_energy, column_energy = rows.square().sum(-1), columns.square().sum(-1)  # [places, groups]
        weighted = (columns * row_energy.sqrt()[..., None]).flatten(0, 1)
        each_row = torch.einsum("pgr,pg->gr", rows.square(), column_energy).flatten()
        total = self._started(len(each_row), weighted)
        total.columns.addmm_(weighted.T, weighted)
        total.rows += each_row
        total.together += each_row.sum() if alone else _together(rows, columns)

    def _add_whole(self, rows: Tensor, columns: Tensor) -> None:
        """The gradient of one sample, from ``[places, groups, rows]`` and ``[places, groups, columns]``."""
        gradient = (rows.permute(1, 2, 0) @ columns.transpose(0, 1)).flatten(0, 1)  # [rows, columns]
        each_row = gradient.square().sum(1)
        total = self._started(len(each_row), gradient)
        total.columns.addmm_(gradient.T, gradient)
        total.rows += each_row
        total.together += each_row.sum()

    def _add_tokens(self, tokens: Tensor, columns: Tensor) -> None:
        """``[places]``, ``[places, columns]``: the rows meet a one at the token, else zeros."""
        assert isinstance(self._layer, nn.Embedding)
        energy = columns.square().sum(1)
        total = self._started(self._layer.num_embeddings, columns)
        total.columns.addmm_(columns.T, columns)
        total.rows.index_add_(0, tokens, energy)
        found, place = torch.unique(tokens, return_inverse=True)
        gradient = columns.new_zeros(len(found), columns.shape[1]).index_add_(0, place, columns)
        total.together += gradient.square().sum()
        self._occurrences += int((energy != 0).sum())  # padding has no gradient

    def _started(self, rows: int, columns: Tensor) -> _Product:
        if self._sum is None:
            width = columns.shape[-1]
            self._sum = _Product(
                columns.new_zeros(width, width), columns.new_zeros(rows), columns.new_zeros(())
            )
        return self._sum

    def take(self) -> Moments | None:
        """The sums so far, which begin anew; ``None`` where no batch's loss depends on the layer."""
        found, occurrences = self._sum, self._occurrences
        self._sum, self._occurrences = None, 0
        return None if found is None else Moments([found.columns, found.rows, found.together], occurrences)

    def put(self, moments: Moments) -> None:
        """Add sums that were taken."""
        if self._sum is None:
            self._sum = _Product(*moments.tensors)
        else:
            for total, part in zip(
                (self._sum.columns, self._sum.rows, self._sum.together), moments.tensors, strict=True
            ):
                total += part
        self._occurrences += moments.count

    def part(self, places: int) -> Part | None:
        """The layer's part per place, or ``None`` where no batch's loss depends on the layer."""
        if self._sum is None:
            return None
        columns, rows = self._sum.columns, self._sum.rows
        apart = float(rows.sum())
        if apart == 0:
            return Part(columns, rows)
        scale = float(self._sum.together) / apart / places
        columns, rows = columns * (scale / len(rows)), rows * scale
        if isinstance(self._layer, nn.Embedding):
            # an unseen token has no gradient of its own: it gets half an occurrence of the mean one
            raised = rows.clamp_min(_UNSEEN * float(rows.sum()) / self._occurrences)
            columns *= float(raised.sum() / rows.sum())
            rows = raised
        return Part(columns, rows)


@dataclass
class _Product:
    """Running sums of both sides, each over the places' whole energy on the other one.

    Args:
        columns: ``[columns, columns]``.
        rows: ``[rows]``; their sum is the energy of all places by themselves.
        together: The energy of all samples, a scalar.
    """

    columns: Tensor
    rows: Tensor
    together: Tensor


def _together(rows: Tensor, columns: Tensor) -> Tensor:
    """Squared norm of the gradient of one sample, ``|sum_p rows_p (x) columns_p|^2``, over its groups."""
    places, (height, width) = len(rows), (rows.shape[2], columns.shape[2])
    rows, columns = rows.transpose(0, 1), columns.transpose(0, 1)  # [groups, places, ...]
    if places * (height + width) < height * width:  # the inner products are fewer than the gradient's entries
        return ((rows @ rows.mT) * (columns @ columns.mT)).sum()
    return (rows.mT @ columns).square().sum()


def _total(sides: Sequence[Tensor | float]) -> Tensor | None:
    """The sum of those that are no multiple of the identity."""
    tensors = [side for side in sides if isinstance(side, Tensor)]
    return torch.stack(tensors).sum(0) if len(tensors) > 1 else tensors[0].clone() if tensors else None
