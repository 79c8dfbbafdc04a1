"""Hooks that see what passes through layers, and the state of a network around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.calibration._shares import Batches
from fulgurite.calibration._sums import FisherSums, InputSums


@contextmanager
def watch_inputs(
    sums: Mapping[nn.Module, InputSums], batches: Batches
) -> Iterator[Callable[[Tensor | None], None]]:
    """Add up layers' inputs, unless a batch is idle; gives a function that takes a batch's ``attention_mask``."""
    mask: list[Tensor | None] = [None]

    def see_mask(now: Tensor | None) -> None:
        mask[0] = now.bool().flatten() if now is not None and now.dim() == 2 else None

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not batches.idle:
            sums[layer].add(_input_of(args, kwargs), mask[0])

    with _removed([layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in sums]):
        yield see_mask


@contextmanager
def watch_gradients(
    sums: Mapping[nn.Module, FisherSums], overwritten: set[nn.Module], batches: Batches
) -> Iterator[None]:
    """Add up layers' inputs together with the gradients of their outputs, in the backward pass; of none that is idle.

    The network's parameters may be frozen: the graph starts at the first watched layer, and holds no more than
    gradients of activations. A layer whose input is changed in place before the backward pass cannot be summed;
    it is added to ``overwritten``.
    """

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        inputs = _input_of(args, kwargs).detach()
        version = inputs._version
        if not output.requires_grad:
            # a copy, as a leaf must not be changed in place, and an activation after it might
            output = output.detach().requires_grad_().clone()

        def receive(gradient: Tensor) -> None:
            if batches.idle:
                return
            if inputs._version == version:
                sums[layer].add(inputs, gradient)
            else:
                overwritten.add(layer)

        output.register_hook(receive)
        return output

    with _removed([layer.register_forward_hook(hook, with_kwargs=True) for layer in sums]):
        yield


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards each module has the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients of parameters; afterwards each asks for them as it did."""
    asked = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, before in asked:
            parameter.requires_grad_(before)


@contextmanager
def _removed(handles: Iterable[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The one argument of a layer, by whichever name it goes."""
    found: Tensor = args[0] if args else next(iter(kwargs.values()))
    return found
