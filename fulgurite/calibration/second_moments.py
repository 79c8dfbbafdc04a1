"""Second moments of the inputs of layers, gathered in one pass over calibration data.

    batches -> network, a hook before each layer -> sum of x x^T -> / positions -> hessian

For a layer ``y = W x`` the mean squared error of its outputs under a changed weight is ``tr(E H E^T)``
with ``H`` the second moment of ``x``; it is what codecs take as ``hessian``.
Reference: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, https://arxiv.org/abs/2210.17323, section 3. Differs from the paper: no factor 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class _Moment:
    """A running sum, ``[in, in]`` float32, and the positions in it."""

    total: Tensor
    count: int = 0

    def add(self, inputs: Tensor) -> None:
        """Count ``[positions, in]``."""
        inputs = inputs.to(self.total)
        self.total.addmm_(inputs.T, inputs)  # in place: the hessians are all the memory there is
        self.count += len(inputs)


def second_moments(
    network: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    names: Collection[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Run the network over the batches and gather ``X^T X / n`` of each named weight's inputs.

    Weights of ``nn.Linear`` and ungrouped ``nn.Conv2d`` have one, ``[in, in]`` in the weight's own column
    order. An embedding tied to a linear head has the head's. All others are left out: biases, norms,
    untied embeddings, the transposed weights of transformers' ``Conv1D``, layers that no batch reached.

    Args:
        network: Called as ``network(**batch)``, in eval mode; its training mode comes back.
        batches: Keyword arguments, moved to the network's device. Positions where a batch's
            ``attention_mask`` ``[batch, positions]`` is 0 are not counted.
        names: Of parameters, as ``network.named_parameters`` spells them, tied ones by either name.
        progress: Called with the number of batches done after each.

    Returns:
        Float32 moments on the network's device by name; tied names hold one tensor.

    Raises:
        ValueError: If a name is no parameter, or ``batches`` is empty though a weight has a moment.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for name in names:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, cutoff=0.3)
            raise ValueError(f"names has {name!r}, which is no parameter; near: {', '.join(near)}")
    wanted = {parameters[name] for name in names}
    layers = [layer for layer in network.modules() if _takes(layer) and layer.weight in wanted]
    if not layers:
        return {}
    moments: dict[Tensor, _Moment] = {}
    done = 0
    device = next(network.parameters()).device
    with _watched(layers, moments) as see_mask, _evaluating(network), torch.no_grad():
        for batch in batches:
            moved = {
                key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()
            }
            see_mask(moved.get("attention_mask"))
            network(**moved)
            done += 1
            if progress is not None:
                progress(done)
    if not done:
        raise ValueError("batches must hold at least one batch, got none")
    for moment in moments.values():
        moment.total /= max(1, moment.count)  # in place, once for each weight
    gathered = {name: moments.get(parameters[name]) for name in names}
    return {name: moment.total for name, moment in gathered.items() if moment is not None and moment.count}


def _takes(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


@contextmanager
def _watched(
    layers: Iterable[nn.Module], moments: dict[Tensor, _Moment]
) -> Iterator[Callable[[Tensor | None], None]]:
    """Hook the layers; gives a function that says which positions of the next batch count."""
    mask: list[Tensor | None] = [None]

    def see_mask(now: Tensor | None) -> None:
        mask[0] = now.bool().flatten() if now is not None and now.dim() == 2 else None

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        inputs = _rows(layer, args[0] if args else kwargs["input"])
        # a layer that sees other positions, such as a pooled vector or an image's, is not masked
        if mask[0] is not None and isinstance(layer, nn.Linear) and len(mask[0]) == len(inputs):
            inputs = inputs[mask[0]]
        if weight not in moments:
            width = inputs.shape[1]
            moments[weight] = _Moment(torch.zeros(width, width, device=inputs.device))
        moments[weight].add(inputs)

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield see_mask
    finally:
        for handle in handles:
            handle.remove()


def _rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What the weight's rows are multiplied with: ``[positions, in]``."""
    if not isinstance(layer, nn.Conv2d):
        return inputs.reshape(-1, inputs.shape[-1])
    # the reversed list is what F.pad takes; it covers padding="same" too, where sides may differ
    padded = functional.pad(inputs, layer._reversed_padding_repeated_twice)
    patches = functional.unfold(
        padded if inputs.dim() == 4 else padded[None], layer.kernel_size, layer.dilation, 0, layer.stride
    )
    return patches.transpose(1, 2).flatten(0, 1)  # [images * places, in * h * w]


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards each module has the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
