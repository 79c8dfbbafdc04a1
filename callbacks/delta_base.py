"""The base that a cascade's weights are coded against: what is stored is the difference.

base artefact -> decoded weights ------------------------------> what a delta is added to
base artefact | the network that it was made of -> weights ----> what a delta is taken from
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fulgurite.artifact.base import refer_to
from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import MANIFEST_FILE
from fulgurite.artifact.manifest import BaseReference
from fulgurite.artifact.reader import Artifact
from fulgurite.models import load_like, unique_parameters


@dataclass(frozen=True)
class DeltaBase:
    """A base, opened.

    Args:
        reference: What the delta's manifest says of it.
        num_bytes: Of the base, which all deltas over it share.
        weights: What deltas are added to, float32 by name.
        origin: What they are taken from, float32 by name.
    """

    reference: BaseReference
    num_bytes: int
    weights: Mapping[str, Tensor]
    origin: Mapping[str, Tensor]

    def deltas(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What fine-tuning has changed, float32 by name."""
        return {name: weight.float() - self.origin[name] for name, weight in parameters.items()}


def open_base(folder: str, source: str | None, network: Any, parameters: Mapping[str, Tensor]) -> DeltaBase:
    """Open the base of a fine-tuned network.

    Args:
        folder: An artefact, or a run's folder with one.
        source: The network that it was made of; ``None`` to take deltas from what the artefact decodes to.
        network: The fine-tuned one.
        parameters: Its weights, tied ones once.

    Raises:
        ValueError: If there is no such artefact or network, or names or shapes differ from the fine-tuned one's.
    """
    place = Path(folder)
    if not (place / MANIFEST_FILE).exists() and (place / "artifact" / MANIFEST_FILE).exists():
        place = place / "artifact"
    try:
        artifact = Artifact(place)
        _check_alike(
            {name: artifact.manifest.layout(name).shape for name in artifact},
            {name: tuple(value.shape) for name, value in network.state_dict().items()},
            set(artifact.manifest.aliases),
            f"cascade.base: {place}",
        )
        weights = {name: artifact.whole(name).float() for name in parameters}
    except ArtifactError as error:
        raise ValueError(f"cascade.base: {error}") from error
    origin = weights
    if source is not None:
        try:
            made_of = unique_parameters(load_like(network, source))
        except (OSError, ValueError) as error:
            raise ValueError(f"cascade.base_source: {error}") from error
        origin = {name: weight.detach().float() for name, weight in made_of.items()}
        shapes = {name: tuple(weight.shape) for name, weight in parameters.items()}
        found = {name: tuple(weight.shape) for name, weight in origin.items()}
        _check_alike(found, shapes, set(), f"cascade.base_source: {source}")
    device = next(iter(parameters.values())).device
    return DeltaBase(
        refer_to(place),
        artifact.manifest.num_bytes,
        {name: weight.to(device) for name, weight in weights.items()},
        {name: weight.to(device) for name, weight in origin.items()},
    )


def _check_alike(
    base: Mapping[str, tuple[int, ...]], tuned: Mapping[str, tuple[int, ...]], tied: set[str], where: str
) -> None:
    if lacking := [name for name in tuned if name not in base and name not in tied]:
        raise ValueError(
            f"{where}: expected the weights of the fine-tuned network, found no {_listed(lacking)}"
        )
    if extra := [name for name in base if name not in tuned]:
        raise ValueError(f"{where}: has {_listed(extra)}, which the fine-tuned network has not")
    unlike = [name for name in base if base[name] != tuned[name]]
    if unlike:
        name = unlike[0]
        raise ValueError(
            f"{where}: {name} has shape {list(base[name])}, the fine-tuned network's is {list(tuned[name])}"
            + (f", and {len(unlike) - 1} more differ" if len(unlike) > 1 else "")
        )


def _listed(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
