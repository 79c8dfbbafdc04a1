"""Allocate bits to the weights of one try and encode them: the order of things, on every rank.

    each rank: curves of its share of the weights -> stages/<name>/curves/<weight>.json
    rank 0: search -> try-<k>/allocation.json
    each rank: its share of the weights -> layers/<weight>.safetensors
    rank 0: are the artefact's bytes right? -> final, or a correction -> allocation.json -> encode again

A correction first removes the files of the weights that it changes and is written then: a run that is killed in
between encodes them as before, finds the same bytes and corrects the same.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from callbacks.all_devices import LedProbe
from callbacks.stages.allocating import Decision
from callbacks.stages.curves import measure_curves, read_curves
from callbacks.stages.encoding import encoded_path, read_encoded
from callbacks.stages.fitting import Fitting
from callbacks.stages.metric_file import Metrics
from callbacks.stages.stage import Stage
from fulgurite.allocation import Probe
from fulgurite.codecs import CODECS, Codec, Encoded

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun

DECISION_NAME = "allocation.json"

_BATCHES = 8  # that the probed windows are spread over: so many values tell the error of their mean
_SAMPLE_ROWS = 16  # of each weight, for what manifest and headers take
_TRAINED = 0.03  # relative change of scales by a refinement of a few hundred steps
_NATS = 0.5  # a unit of the metric ``kl``: half its cost is a divergence, to second order


class AllocationRun:
    """Carry out the allocation of one try.

    Args:
        run: The run it belongs to.
        name: Of the stage.
        stage: With an allocation.
        folder: Of the try; its parent keeps the curves.
        weights: What is to be coded, by name.
        ladders: The candidates of each.
        metrics: What an error in each costs.
        complete: Adds all other entries of the network, as they will be stored; called on rank 0.
        network: Gives the network that the weights are of; called where slopes are measured.
        offsets: What to add to a decoded weight before it stands in that network, by name; none for some.
        encode: Encodes the weights by the codecs given, on all ranks; a weight whose file is there is kept.
    """

    def __init__(
        self,
        run: CascadeRun,
        name: str,
        stage: Stage,
        folder: Path,
        *,
        weights: Mapping[str, Tensor],
        ladders: Mapping[str, tuple[Codec, ...]],
        metrics: Metrics,
        complete: Callable[[Mapping[str, Encoded]], Mapping[str, Encoded]],
        network: Callable[[], nn.Module],
        offsets: Mapping[str, Tensor],
        encode: Callable[[Mapping[str, Codec]], None],
    ) -> None:
        if stage.allocate is None:
            raise ValueError(f"{name}: allocate must be set, got none")
        self._run, self._name, self._folder = run, name, folder
        self._settings, self._refines = stage.allocate, stage.refine.steps > 0
        self._weights, self._ladders, self._metrics = weights, ladders, metrics
        self._complete, self._network, self._encode = complete, network, encode
        self._offsets = offsets
        self._barrier = run.trainer.strategy.barrier

    def execute(self) -> Decision:
        """Leave an encoded file of every weight; gives what was decided.

        Raises:
            ValueError: If the limit cannot be met, on every rank.
        """
        decision = Decision.load(self._path)
        if decision is None:
            self._measure()
            self._on_rank_0(self._decide)
            decision = self._decided()
        self._run.console.allocated(decision, self._numel)
        self._encode(decision.codecs(self._ladders))
        while not decision.final:
            self._on_rank_0(self._correct)
            decision = self._decided()
            if decision.final:
                self._run.record.allocated(self._name, decision)
            else:
                self._run.console.corrected(decision)
                self._encode(decision.codecs(self._ladders))
        return decision

    @property
    def _numel(self) -> dict[str, int]:
        return {name: weight.numel() for name, weight in self._weights.items()}

    @property
    def _path(self) -> Path:
        return self._folder / DECISION_NAME

    @property
    def _curves(self) -> Path:
        return self._folder.parent / "curves"

    def _decided(self) -> Decision:
        decision = Decision.load(self._path)
        if decision is None:
            raise RuntimeError(f"{self._path}: not there; is the folder shared by all ranks?")
        return decision

    def _on_rank_0(self, work: Callable[[], None]) -> None:
        """Do it there; what goes wrong goes wrong on every rank, and none waits for another."""
        failure = ""
        if self._run.rank == 0:
            try:
                work()
            except ValueError as error:
                failure = str(error)
        failure = self._run.trainer.strategy.broadcast(failure)
        if failure:
            raise ValueError(failure)

    def _measure(self) -> None:
        run = self._run
        with run.console.measuring(len(self._weights), self._curves) as progress:

            def advance(name: str) -> None:
                progress(name)
                run.stop.check()

            def measure(rank: int, ranks: int) -> None:
                measure_curves(
                    self._ladders,
                    self._weights,
                    self._metrics,
                    self._settings,
                    self._curves,
                    probe=self._probe,
                    rank=rank,
                    world_size=ranks,
                    device=run.device,
                    progress=advance,
                )

            if run.devices.in_step and self._settings.strategy == "slope":
                # it takes all ranks to see what one weight does
                run.devices.lead(lambda: measure(0, 1))
            else:
                measure(run.rank, run.world_size)
            self._barrier("measured")

    def _probe(self) -> Probe:
        run = self._run
        rows = run.module.refinement_windows(run.datamodule, self._settings.probe_windows).to(run.device)
        parts = rows.tensor_split(min(_BATCHES, len(rows)))
        kind = LedProbe if run.devices.in_step else Probe
        return kind(
            self._network(),
            [run.module.as_batch(part) for part in parts],
            run.module.divergence,
            offsets=self._offsets,
        )

    def _fitting(self) -> Fitting:
        curves = read_curves(self._ladders, self._weights, self._settings, self._curves)
        kinds = {self._metrics[name].kind if name in self._metrics else "identity" for name in self._weights}
        return Fitting(self._settings, self._ladders, curves, _NATS if kinds == {"kl"} else None)

    def _decide(self) -> None:
        """Search twice: what manifest and headers take depends on how many kinds of codecs there are."""
        fitting = self._fitting()
        decision = fitting.first(
            self._reserved(self._sample({name: ladder[0] for name, ladder in self._ladders.items()}))
        )
        reserved = self._reserved(self._sample(decision.codecs(self._ladders)))
        fitting.again(decision, reserved).save(self._path)

    def _sample(self, codecs: Mapping[str, Codec]) -> dict[str, Encoded]:
        """A few rows of each weight."""
        return {
            name: codecs[name].encode(weight if weight.dim() < 2 else weight[:_SAMPLE_ROWS])
            for name, weight in self._weights.items()
        }

    def _correct(self) -> None:
        layers = self._folder / "layers"
        encoded = read_encoded(layers, list(self._weights))
        if self._refines:
            encoded = {name: _as_if_trained(entry) for name, entry in encoded.items()}
        sizes = {name: entry.num_bytes for name, entry in encoded.items()}
        before = self._decided()
        after = self._fitting().corrected(before, sizes, self._reserved(encoded))
        for name, choice in after.choices.items():
            if choice != before.choices[name]:
                encoded_path(layers, name).unlink()
        after.save(self._path)

    def _reserved(self, encoded: Mapping[str, Encoded]) -> dict[str, int]:
        """Bytes of the artefact beside the weights' own parts, by what they are spent on."""
        entries = self._complete(encoded)
        kept = {
            f"{name} (not coded)": entry.num_bytes
            for name, entry in entries.items()
            if name not in self._weights
        }
        scratch = self._folder / f".scratch.new-{os.getpid()}"  # a name that a restarted run clears away
        try:
            whole = self._run.write(scratch, entries).num_bytes
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        # less than the sum of parts where some are shared, such as a codebook: then this is below zero
        files = whole - sum(entry.num_bytes for entry in entries.values())
        return {**kept, "manifest, headers and configuration": files}


def _as_if_trained(entry: Encoded) -> Encoded:
    """The entry with its continuous parts changed about as much as refinement will: some take more bytes then."""
    codec = CODECS[entry.codec]
    expanded = codec.expanded(entry)
    generator = torch.Generator().manual_seed(0)
    changed = {
        name: part * (1 + _TRAINED * torch.randn(part.shape, generator=generator).to(part))
        for name, part in expanded.tensors.items()
        if name in codec.continuous
    }
    return codec.compacted(entry, changed)
