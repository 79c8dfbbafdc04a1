"""A network as it is measured: in eval mode, without gradients, and afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def running(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients, and back: parts may have had a mode of their own."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
