"""Carry out a repair in a try's folder: group after group of layers, each kept on disk, so that a restart goes on.

level's artefact -> network with its weights; for each group: moments -> repaired -> layers/<weight>, repair.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from callbacks.level import Level
from callbacks.stages.encoding import encoded_path
from callbacks.stages.fitting import without_growth
from callbacks.stages.repair import RepairStage
from callbacks.stages.selection import select_weights
from callbacks.stages.texts import read_texts, text_batches
from fulgurite.artifact.encoded_file import load_encoded, save_encoded
from fulgurite.artifact.files import write_file
from fulgurite.artifact.manifest import checksum
from fulgurite.artifact.reader import RAW
from fulgurite.calibration import Metric, PairedMoments, call_groups, gather_metrics, gather_paired
from fulgurite.codecs import Encoded, Float16Codec, as_matrix, decode
from fulgurite.codecs.low_rank_plus import LowRankPlusCodec, corrected
from fulgurite.repair import fold, null_space, output_error, recode, recoder, solve, too_few_rows

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun

_FACTS_NAME = "repair.json"
_LEAST_SHARED = 16  # elements: shorter parts are not stored once for several weights


@dataclass
class _State:
    """What has become of the weights so far."""

    encoded: dict[str, Encoded]
    network: nn.Module
    told: list[dict[str, Any]] = field(default_factory=list)

    def replace(self, name: str, entry: Encoded) -> None:
        self.encoded[name] = entry
        with torch.no_grad():
            self.network.get_parameter(name).copy_(decode(entry.to("cpu")))


def repair_network(
    run: CascadeRun, index: int, name: str, stage: RepairStage, level: Level, folder: Path
) -> tuple[dict[str, Encoded], dict[str, Any]]:
    """Repair what the level has; on this rank alone.

    Args:
        run: Whose network it is.
        index: Place of the stage in the cascade.
        name: Of the stage.
        stage: The stage.
        level: The last accepted one, which has an artefact.
        folder: Of the try.

    Returns:
        All entries, and facts for the record.

    Raises:
        ValueError: If there are fewer calibration rows than a layer has inputs.
    """
    before = level.complete(run.subject, {})
    state = _State(dict(before), deepcopy(run.network))
    for parameter in run.parameters:
        state.replace(parameter, before[parameter])
    repair = _Repair(run, stage, level, before, state, folder)
    with run.console.building(index, name) as progress:
        repair.execute(progress)
    undone: list[str] = []
    if not stage.may_grow:
        state.encoded, undone = _within(run, folder, before, state.encoded)
    told = [entry | {"kept": entry["kept"] and entry["weight"] not in undone} for entry in state.told]
    return state.encoded, {
        "how": stage.how,
        "goal": stage.goal,
        "keep": stage.keep,
        "weights": told,
        "skipped": repair.skipped,
    }


class _Repair:
    """One pass over the layers of a network."""

    def __init__(
        self,
        run: CascadeRun,
        stage: RepairStage,
        level: Level,
        before: Mapping[str, Encoded],
        state: _State,
        folder: Path,
    ) -> None:
        self._run, self._stage, self._level, self._state = run, stage, level, state
        self._folder = folder
        self._shared = _shared_parts(before)
        self.skipped: list[dict[str, str]] = []
        self._weights = self._chosen(before)
        self._calibration = list(run.module.calibration_batches(run.datamodule))
        self._targets = self._calibration
        if stage.targets is not None:
            texts = read_texts(stage.targets, "repair.targets")
            self._targets = text_batches(run.module, texts, run.device)
        self._metrics: Mapping[str, Metric] = {}

    def _chosen(self, before: Mapping[str, Encoded]) -> list[str]:
        names = select_weights(self._run.parameters, self._stage.select, self._stage.exclude)
        chosen = []
        for name in names:
            reason = self._why_not(name, before[name])
            if reason is None:
                chosen.append(name)
            else:
                self.skipped.append({"weight": name, "reason": reason})
        return chosen

    def _why_not(self, name: str, entry: Encoded) -> str | None:
        """Why a weight cannot be repaired; ``None`` where it can."""
        if entry.codec in (RAW, Float16Codec.name):
            return "in 16 bits: there is nothing to repair"
        layer = self._run.network.get_submodule(_layer(name))
        plain = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        if not plain or not name.endswith(".weight"):
            return (
                f"of {type(layer).__name__}: only linear layers and convolutions without groups are repaired"
            )
        if self._stage.how == "side" and entry.codec in ("low_rank", LowRankPlusCodec.name):
            return f"{entry.codec} holds other codecs, and no correction can be put beside it"
        return None

    def execute(self, progress: Any) -> None:
        """Repair all groups, or those that an earlier start has left."""
        layers = {_layer(name): name for name in self._weights}
        if not self._calibration or not layers:
            return
        groups = call_groups(self._run.network, layers, self._calibration[0])
        reached = {layer for group in groups for layer in group}
        self.skipped += [
            {"weight": name, "reason": "its layer is not called, or more than once"}
            for layer, name in layers.items()
            if layer not in reached
        ]
        if self._stage.how == "recode" and self._stage.metric == "kl":
            # before anything is repaired: a restart must come to the same
            self._metrics = self._gathered([layers[layer] for layer in reached])
        self._resume()
        done = {entry["weight"] for entry in self._state.told}
        for number, group in enumerate(groups, start=1):
            if any(layers[layer] not in done for layer in group):
                self._repair_group(group, [layers[layer] for layer in group])
            progress("repair", number, len(groups), None)
            self._run.stop.check()

    def _gathered(self, names: Sequence[str]) -> dict[str, Metric]:
        run = self._run
        return gather_metrics(
            self._state.network,
            self._calibration,
            names,
            "kl",
            sampled_loss=run.module.sampled_loss,
            count_places=run.module.count_places,
            text_mask=run.module.text_mask,
        )

    def _repair_group(self, group: Sequence[str], names: Sequence[str]) -> None:
        moments = self._moments(group, self._targets)
        width = len(moments.own)
        if (wrong := too_few_rows(names[0], width, moments.count)) is not None:
            raise ValueError(f"{wrong} (data.calibration_windows, or more texts)")
        basis = None
        if self._stage.keep > 0:
            kept = moments if self._targets is self._calibration else self._moments(group, self._calibration)
            if (wrong := too_few_rows(names[0], width, kept.count)) is not None:
                raise ValueError(f"{wrong} (data.calibration_windows)")
            basis = null_space(kept.own, self._stage.keep)
        for name in names:
            fresh = self._repair_weight(name, moments, basis)
            self._state.told.append(fresh)
        for name in names:
            self._keep(name)
        write_file(self._folder / _FACTS_NAME, json.dumps(self._state.told, indent=1).encode())

    def _moments(self, group: Sequence[str], batches: Iterable[Mapping[str, Tensor]]) -> PairedMoments:
        found = gather_paired(self._run.network, self._state.network, group, batches)
        self._run.stop.check()
        return found

    def _repair_weight(self, name: str, moments: PairedMoments, basis: Tensor | None) -> dict[str, Any]:
        stage, state = self._stage, self._state
        entry, bias_name = state.encoded[name], _layer(name) + ".bias"
        weight = as_matrix(self._run.parameters[name]).double().cpu()
        coded = as_matrix(decode(entry)).double()
        bias = None
        if stage.bias and bias_name in self._run.parameters and state.encoded[bias_name].codec == "fp16":
            bias = (
                self._run.parameters[bias_name].detach().double().cpu(),
                decode(state.encoded[bias_name]).double(),
            )
        own = stage.goal == "own"
        update = solve(weight, coded, moments, bias=bias, basis=basis, ridge=stage.ridge, own_inputs=own)
        used = moments if bias is None else moments.centred()
        hessian = used.own.clone()
        hessian.diagonal().add_(stage.ridge * hessian.diagonal().mean())
        fresh = self._carried(name, entry, weight, coded + update.delta, moments, hessian, basis)
        reason = ""
        if fresh is None:
            fresh, reason = entry, "no code of as few bytes came nearer"
        fresh_bias = bias
        values = as_matrix(decode(fresh)).double()
        if bias is not None:
            wanted = weight @ (moments.own_mean if own else moments.reference_mean) + bias[0]
            stored = Float16Codec().encode((wanted - values @ moments.own_mean).float())
            fresh_bias = (bias[0], decode(stored).double())
        goal = _own(moments) if own else moments
        before = output_error(weight, coded, goal, bias)
        after = output_error(weight, values, goal, fresh_bias)
        kept = after < before
        if kept:
            state.replace(name, fresh)
            if bias is not None:
                state.replace(bias_name, stored)
        elif not reason:
            reason = "its outputs came no nearer"
        return {
            "weight": name,
            "rows": moments.count,
            "null_share": update.null_share,
            "importance": max(0.0, update.error_before - update.error_after),
            "error_before": before,
            "error_possible": update.error_after,
            "error_after": after if kept else before,
            "kept": kept,
            "reason": "" if kept else reason,
        }

    def _carried(
        self,
        name: str,
        entry: Encoded,
        weight: Tensor,
        target: Tensor,
        moments: PairedMoments,
        hessian: Tensor,
        basis: Tensor | None,
    ) -> Encoded | None:
        """The weight nearer to its target, in the way that the stage says."""
        stage = self._stage
        if stage.how == "side":
            rest = (target - as_matrix(decode(entry)).double()).float()
            return corrected(entry, rest.reshape(entry.shape), stage.rank, stage.factors, hessian.float())
        if stage.how == "fold":
            found, nearer = fold(entry, target, hessian, fixed=self._shared.get(name, ()))
            return found if nearer else entry
        codec = recoder(entry, self._level.ladders.get(name, ()), self._shared.get(name, ()))
        if codec is None:
            return None
        # from the weight itself, not from what coding left of it: directions without inputs stay as they were meant
        own = stage.goal == "own"
        wanted = weight + solve(weight, weight, moments, basis=basis, ridge=stage.ridge, own_inputs=own).delta
        metric = self._metrics.get(name, Metric(moments.own.float()))
        seen = metric.hessian if metric.hessian is not None else moments.own
        return recode(entry, codec, wanted.reshape(entry.shape), seen.cpu(), _on_cpu(metric.row_weight))

    # what is kept on disk

    def _keep(self, name: str) -> None:
        for each in (name, _layer(name) + ".bias"):
            if each in self._state.encoded:
                path = encoded_path(self._folder / "layers", each)
                path.parent.mkdir(parents=True, exist_ok=True)
                save_encoded(path, self._state.encoded[each])

    def _resume(self) -> None:
        """Take over what an earlier start has repaired."""
        try:
            told = json.loads((self._folder / _FACTS_NAME).read_text())
        except FileNotFoundError:
            return
        for entry in told:
            for each in (entry["weight"], _layer(entry["weight"]) + ".bias"):
                if each in self._state.encoded:
                    self._state.replace(each, load_encoded(encoded_path(self._folder / "layers", each)))
        self._state.told = told


def _within(
    run: CascadeRun, folder: Path, before: Mapping[str, Encoded], after: dict[str, Encoded]
) -> tuple[dict[str, Encoded], list[str]]:
    """The repaired entries in no more bytes than the artefact had: weights that grew the most are as they were."""
    limit = run.write(folder / "artifact", before).num_bytes
    given_up: list[str] = []
    while (excess := run.write(folder / "artifact", after).num_bytes - limit) > 0:
        after, undone = without_growth(before, after, excess)
        if not undone:
            break
        given_up += undone
        biases = [_layer(name) + ".bias" for name in undone]
        after |= {bias: before[bias] for bias in biases if bias in before}
    return after, given_up


def _shared_parts(encoded: Mapping[str, Encoded]) -> dict[str, set[str]]:
    """For each weight the parts that another one has too: they are stored once, and must stay alike."""
    homes: dict[str, list[tuple[str, str]]] = {}
    for name, entry in encoded.items():
        for part, values in entry.tensors.items():
            if values.numel() > _LEAST_SHARED:
                content = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                homes.setdefault(checksum(content), []).append((name, part))
    shared: dict[str, set[str]] = {}
    for places in homes.values():
        for name, part in places if len(places) > 1 else ():
            shared.setdefault(name, set()).add(part)
    return shared


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]


def _own(moments: PairedMoments) -> PairedMoments:
    """Moments as if the reference saw what the other network does."""
    own, mean = moments.own, moments.own_mean
    return PairedMoments(own, own, own, mean, mean, moments.count)


def _on_cpu(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.cpu()
