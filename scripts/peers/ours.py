"""Fulgurite's own rows: through the command where there is a recipe, through the library otherwise.

    recipe, one stage of it, overrides -> fulgurite compress -> record.json, artefact of its last try
    network, codec, budget             -> metrics, curves, allocation -> artefact within the budget

The gate judges by few windows here and never decides about a row: what a stage makes is measured as it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers.image_network import ImageNetwork
from peers.method import Job, Method
from peers.network import Network
from peers.stored import folder_bytes
from torch import Tensor, nn
from typing_extensions import override

REPOSITORY = Path(__file__).resolve().parents[2]
DATA_IN_RECIPES = "../shared/data"
_CORRECTIONS, _CLOSE = 6, 0.005  # tries to meet a budget; how far below it is near enough


class Ours(Method):
    """What both ways have in common: an artefact, read as its users read it."""

    environment, packages = "own", ("fulgurite",)
    modules = (
        "fulgurite.artifact.reader",
        "fulgurite.artifact.loading",
        "fulgurite.artifact.transformers_quantizer",
    )

    @override
    def load(self, job: Job) -> nn.Module:
        import fulgurite
        from fulgurite.artifact.reader import Artifact

        if not isinstance(job.network, ImageNetwork):
            found: nn.Module = fulgurite.load(job.out)
            return found.eval()
        artifact, network = Artifact(job.out), job.network.skeleton(job.out)
        network.load_state_dict({name: artifact.decode(name) for name in artifact}, strict=False)
        return network

    def tensor_bytes(self, job: Job) -> dict[str, int]:
        """Bytes of each weight; a part that several share counts in equal shares for each."""
        from fulgurite.artifact.manifest import read_manifest

        manifest = read_manifest(job.out)
        found = {name: float(_stored(manifest, name)) for name in manifest.weights}
        users: dict[str, list[str]] = {}
        for name in manifest.weights:
            for part in {part.shared for part in manifest.layout(name).parts if part.shared}:
                users.setdefault(part, []).append(name)
        for part, names in users.items():
            for name in names:
                found[name] += _stored(manifest, part) / len(names)
        return {name: round(size) for name, size in found.items()}


class OursByCommand(Ours):
    """``fulgurite compress`` with one stage of a recipe."""

    name, title = "ours", "fulgurite"
    modules = (*Ours.modules, "fulgurite.cli.lightning_cli", "callbacks.cascade_run", "datamodules")

    @override
    def label(self, settings: Mapping[str, Any]) -> str:
        recipe, changed = Path(settings["recipe"]).stem, settings.get("overrides", {})
        told = [f", {key.rpartition('.')[2]} {value}" for key, value in changed.items()]
        return f"fulgurite, {recipe} {settings['stage']}" + "".join(told)

    @override
    def compress(self, job: Job) -> dict[str, float]:
        """Run the command.

        Raises:
            RuntimeError: If it ends otherwise than with a verdict.
        """
        from fulgurite.cli.main import main

        run = job.out.with_name(job.out.name + ".run")
        recipe = run.with_suffix(".yaml")
        recipe.write_text(json.dumps(one_stage(job)))  # JSON is YAML
        status = main(
            ["compress", "--config", str(recipe), "--output_dir", str(run), "--restart", *_flags(job)]
        )
        if status not in (0, 3):  # 3: the gate has rejected it, by its few windows
            raise RuntimeError(f"fulgurite compress ended with status {status}")
        record = json.loads((run / "record.json").read_text())
        (stage,) = record["stages"]
        last = stage["tries"][-1]
        artifact = run / "stages" / stage["name"] / f"try-{last['number']}" / "artifact"
        shutil.copytree(artifact, job.out, dirs_exist_ok=True)
        return {"seconds": last["seconds"]["encode"] + last["seconds"]["refine"]}


class OursByLibrary(Ours):
    """A codec over all matrices and kernels of a network, within a budget; no stage, no refinement."""

    name, title = "ours-library", "fulgurite"
    modules = (*Ours.modules, "fulgurite.codecs", "fulgurite.calibration", "fulgurite.artifact.writer")

    @override
    def label(self, settings: Mapping[str, Any]) -> str:
        codec = settings["codec"].removesuffix("Codec").lower()
        return f"fulgurite, {codec} by metric {settings['metric']}, {settings['budget'] / 1000:g} kB"

    @override
    def compress(self, job: Job) -> None:
        compress_ours(job, job.settings["budget"])


def compress_ours(job: Job, budget: int) -> None:
    """Write an artefact of at most ``budget`` bytes into ``job.out``, allocated over all matrices and kernels.

    Every one of them may become any of the codec's candidates, or stay in 16 bits as everything else does.

    Args:
        job: Its settings name the codec, with its own settings as ``arguments``, and the metric.
        budget: Bytes of the folder.

    Raises:
        ValueError: If nothing fits.
    """
    from fulgurite import codecs
    from fulgurite.allocation import Curve, Probe, Target, allocate, measure, settle
    from fulgurite.calibration import Metric, gather_metrics

    network = job.network.build(job.source, torch.float32)
    chosen = {name: weight.detach() for name, weight in network.named_parameters() if weight.dim() >= 2}
    items = job.network.calibration(job.source, job.data)
    metrics = gather_metrics(network, items, list(chosen), job.settings["metric"], **_loss(job.network))
    codec: codecs.Codec = getattr(codecs, job.settings["codec"])(**job.settings.get("arguments", {}))
    hessians = {name: metric.hessian for name, metric in metrics.items() if metric.hessian is not None}
    rows = {name: metric.row_weight for name, metric in metrics.items() if metric.row_weight is not None}
    bound = [each.bind(chosen, hessians, rows) for each in (*codec.candidates(), codecs.Float16Codec())]
    probe = Probe(network, items, _divergence)
    curves, effects = [], {}
    bits = 8 * budget / sum(map(torch.numel, chosen.values()))
    for name, weight in chosen.items():
        losses = partial(probe.losses, name)
        ladder = [each[name] for each in bound]
        found = measure(weight, ladder, metrics.get(name, Metric()), losses=losses, probe_bits=bits)
        curves.append(Curve(name, weight.numel(), found.candidates))
        effects[name] = found.effects
    slopes = settle(effects).values
    curves = [replace(curve, slope=slopes[curve.name]) for curve in curves]
    spare = budget
    for _ in range(_CORRECTIONS):  # the files beside the weights, and what a curve did not foresee
        found = allocate(curves, Target(num_bytes=spare))
        codecs_of = {name: choice.candidate.codec for name, choice in found.choices.items()}
        excess = _write(job, network, codecs_of, metrics) - budget
        if -_CLOSE * budget <= excess <= 0:
            return
        spare -= excess + (1 if excess > 0 else 0)
    if excess > 0:
        raise ValueError(f"budget of {budget} bytes was not met in {_CORRECTIONS} tries, {excess} over it")


def _divergence(outputs: Tensor, reference: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    exact, other = reference.log_softmax(-1), outputs.log_softmax(-1)
    return nn.functional.kl_div(other, exact, log_target=True, reduction="batchmean")


def _write(job: Job, network: nn.Module, codecs: Mapping[str, Any], metrics: Mapping[str, Any]) -> int:
    """Write the artefact with the codec of each weight; its bytes."""
    from fulgurite.artifact.network_files import network_files
    from fulgurite.artifact.writer import write_artifact
    from fulgurite.codecs import Float16Codec
    from fulgurite.models import tied_names

    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    weights |= {name: value for name, value in network.named_buffers() if name.endswith(("mean", "var"))}
    hessians = {name: metric.hessian for name, metric in metrics.items()}
    rows = {name: metric.row_weight for name, metric in metrics.items()}
    encoded = {
        name: codecs.get(name, Float16Codec()).encode(weight, hessians.get(name), rows.get(name))
        for name, weight in weights.items()
    }
    image = isinstance(job.network, ImageNetwork)
    write_artifact(
        job.out,
        encoded,
        model_class=type(network).__name__,
        aliases={} if image else tied_names(network),
        files={} if image else network_files(network),
    )
    return folder_bytes(job.out)


def _loss(network: Network) -> dict[str, Any]:
    """What ``gather_metrics`` has to know of a network that is no language model."""
    if not isinstance(network, ImageNetwork):
        return {}
    from fulgurite.calibration import softmax_curvature

    return {
        "sampled_loss": lambda net, batch, generator: softmax_curvature(net(**batch), generator),
        "count_places": lambda batch: len(batch["images"]),
    }


def one_stage(job: Job) -> dict[str, Any]:
    """The recipe with one of its stages, its data where they are, and a gate that takes no time.

    Raises:
        ValueError: If the recipe has no such stage.
    """
    import yaml

    path = REPOSITORY / job.settings["recipe"]
    text = path.read_text().replace(DATA_IN_RECIPES, str(job.data))
    recipe: dict[str, Any] = yaml.safe_load(text)
    stages = recipe["cascade"]["stages"]
    if job.settings["stage"] not in stages:
        raise ValueError(f"{path}: must have a stage {job.settings['stage']!r}, has {', '.join(stages)}")
    recipe["cascade"] |= {
        "stages": {job.settings["stage"]: stages[job.settings["stage"]]},
        "retries": 0,
        "limit_windows": 16,
        "report": False,
    }
    return recipe


def _flags(job: Job) -> list[str]:
    threads = {"cascade.threads": torch.get_num_threads()}  # as many as the row may use
    return [f"--{key}={value}" for key, value in {**threads, **job.settings.get("overrides", {})}.items()]


def _stored(manifest: Any, name: str) -> int:
    tensor = manifest.stored[name]
    return int(tensor.stop - tensor.start)
