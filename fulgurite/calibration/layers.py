r"""How layers multiply with their weights: what meets the rows of the matrix that a codec sees, and what the columns.

    layer              matrix             rows meet           columns meet
    nn.Linear          [out, in]          gradient            input
    nn.Conv2d          [out, in * h * w]  gradient            patch of the input, by group
    Conv1D             [in, out]          input               gradient           (transformers', of GPT-2)
    nn.Embedding       [tokens, width]    token               gradient

"Gradient" is that of a loss in the layer's output, bias or not. An error ``e`` of the weight changes the loss by
``sum_ij rows_i e_ij columns_j`` at each place, to first order.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def is_known(layer: nn.Module) -> bool:
    """Whether calibration can watch this layer."""
    return isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding) or is_transposed(layer)


def is_transposed(layer: nn.Module) -> bool:
    """Whether it is transformers' ``Conv1D``; known by name, as the core does not need transformers."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def num_groups(layer: nn.Module) -> int:
    """Equal parts of the rows with inputs of their own: 1 but for grouped convolutions."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def seen(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer that is no embedding multiplies its weight with.

    Args:
        layer: Known.
        inputs: As the layer gets them.

    Returns:
        Float32 ``[samples, places, groups, in]``: the loss's answers are drawn independently for two samples,
        not for two places.
    """
    if not isinstance(layer, nn.Conv2d):
        return _places(inputs)
    # the reversed list is what F.pad takes; it covers padding="same" too, where sides may differ
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    batch = inputs.float() if inputs.dim() == 4 else inputs.float()[None]
    padded = functional.pad(batch, layer._reversed_padding_repeated_twice, mode=mode)
    patches = functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return _by_group(patches, layer.groups)


def made(layer: nn.Module, outputs: Tensor) -> Tensor:
    """A layer's output, or a gradient in it, as float32 ``[samples, places, groups, out]``."""
    if not isinstance(layer, nn.Conv2d):
        return _places(outputs)
    batch = outputs.float() if outputs.dim() == 4 else outputs.float()[None]
    return _by_group(batch.flatten(2), layer.groups)


def _by_group(values: Tensor, groups: int) -> Tensor:
    """``[samples, groups * width, places]`` as ``[samples, places, groups, width]``."""
    samples, width, places = values.shape
    return values.reshape(samples, groups, width // groups, places).permute(0, 3, 1, 2)


def _places(values: Tensor) -> Tensor:
    """``[..., width]`` as ``[samples, places, 1, width]``, the first dimension being the samples."""
    values = values.float()
    samples = len(values) if values.dim() > 1 else 1
    return values.reshape(samples, -1, 1, values.shape[-1])
