"""The stage that takes a contrast between two sets of texts out of a network.

    pairs of texts -> hidden states behind each chosen layer, mean over tokens -> differences -> V, their k directions
    weights that write into these states: W - V V^T W

It removes directions from what layers put out. It saves no bytes: a projected weight has as many numbers as before.

Reference: Yang et al., "Nullu", CVPR 2025, see ``fulgurite.transforms.projection``.
Differs from the paper: texts in place of images with true and false captions; any weights that write hidden states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from callbacks.stages.selection import select_weights
from callbacks.stages.stage import Aim
from callbacks.stages.structure import StructuralStage, Work
from callbacks.stages.texts import read_texts, text_batches
from fulgurite.calibration import evaluating
from fulgurite.models import unique_parameters
from fulgurite.transforms import contrast_directions, project_out


class ContrastStage(StructuralStage):
    """Project the difference between two sets of texts out of what some layers write into the hidden states.

    For causal language models and text encoders of transformers. Line ``i`` of both files makes a pair. The states
    that a weight of layer ``l`` is projected by are those behind that layer; behind the last one they have passed the
    final norm where the network has one.

    Args:
        positive: File with texts, one a line, as the network may treat them.
        negative: File with as many texts that show what is to go.
        select: Glob patterns over names of weights; a weight's layer is the first number in its name.
        layers: Numbers of the layers; all that ``select`` reaches by default.
        rank: Directions to remove in each layer.
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.

    Raises:
        ValueError: If a setting is out of range.
    """

    kind: ClassVar[str] = "contrast"
    aim: ClassVar[Aim] = "change"

    def __init__(
        self,
        positive: str,
        negative: str,
        select: str | list[str] = "*mlp.down_proj.weight",
        layers: list[int] | None = None,
        rank: int = 4,
        min_retention: float | None = None,
    ) -> None:
        super().__init__(min_retention)
        self._check_least(rank=(rank, 1))
        if layers is not None and (not layers or min(layers) < 0):
            raise ValueError(f"layers must be numbers from 0, got {layers}")
        self.positive = positive
        self.negative = negative
        self.select = [select] if isinstance(select, str) else list(select)
        self.layers = layers
        self.rank = rank

    @override
    def settings(self) -> dict[str, Any]:
        names = ("positive", "negative", "select", "layers", "rank")
        return {"codec": {"name": self.kind}, **{name: getattr(self, name) for name in names}}

    @override
    def build(self, work: Work, target: Path) -> Mapping[str, Any]:
        module: Any = work.subject
        texts = [read_texts(getattr(self, key), f"contrast.{key}") for key in ("positive", "negative")]
        if len(texts[0]) != len(texts[1]):
            raise ValueError(
                f"contrast: expected pairs, found {len(texts[0])} texts in {self.positive} "
                f"and {len(texts[1])} in {self.negative}"
            )
        network = deepcopy(module.network)
        chosen = self._chosen(network)
        states = [self._states(work, network, some, number) for number, some in enumerate(texts)]
        shares: dict[str, float] = {}
        with torch.no_grad():
            for layer, names in chosen.items():
                if layer + 1 >= len(states[0]):
                    raise ValueError(
                        f"contrast.layers: the network has {len(states[0]) - 1} layers, got {layer}"
                    )
                directions, shares[str(layer)] = contrast_directions(
                    states[1][layer + 1] - states[0][layer + 1], self.rank
                )
                for name in names:
                    self._project(network, name, directions)
        module.save_as(target, network)
        return {
            "kind": self.kind,
            "pairs": len(texts[0]),
            "rank": self.rank,
            "layers": sorted(chosen),
            "weights": sum(map(len, chosen.values())),
            "share_of_difference": shares,
            "bytes_saved": 0,
        }

    def _chosen(self, network: nn.Module) -> dict[int, list[str]]:
        """Names of weights by the number of their layer."""
        names = select_weights(unique_parameters(network), self.select, key="contrast.select")
        found: dict[int, list[str]] = {}
        for name in names:
            number = re.search(r"\.(\d+)\.", name)
            if number is None:
                raise ValueError(f"contrast.select: {name} is of no numbered layer")
            found.setdefault(int(number[1]), []).append(name)
        if self.layers is None:
            return found
        missing = sorted(set(self.layers) - set(found))
        if missing:
            raise ValueError(f"contrast.layers: expected some of {sorted(found)}, found {missing}")
        return {layer: found[layer] for layer in sorted(set(self.layers))}

    def _states(self, work: Work, network: nn.Module, texts: Sequence[str], number: int) -> list[Tensor]:
        """Mean hidden state of each text behind each layer, the embeddings first, ``[texts, width]`` each."""
        network.to(work.device)
        means: list[list[Tensor]] = []
        batches = text_batches(work.subject, texts, work.device)
        with evaluating(network), torch.no_grad():
            for done, batch in enumerate(batches, start=1):
                hidden = network(**batch, output_hidden_states=True).hidden_states
                mask = batch["attention_mask"][:, :, None].double()
                means.append([(state.double() * mask).sum(1) / mask.sum(1) for state in hidden])
                work.progress(("positive", "negative")[number], done, len(batches), None)
                work.check()
        return [torch.cat([batch[layer] for batch in means]) for layer in range(len(means[0]))]

    def _project(self, network: nn.Module, name: str, directions: Tensor) -> None:
        """Change one weight, and the bias beside it."""
        layer = network.get_submodule(name.rpartition(".")[0])
        outputs = 1 if type(layer).__name__ == "Conv1D" else 0
        try:
            weight = network.get_parameter(name)
            weight.copy_(project_out(weight, directions, outputs=outputs))
        except ValueError as error:
            raise ValueError(f"contrast.select: {name}: {error}") from error
        bias = getattr(layer, "bias", None)
        if isinstance(bias, Tensor):
            bias.copy_(project_out(bias, directions))
