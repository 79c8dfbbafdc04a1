"""The CIFAR-10 ResNet of He et al., with option-A shortcuts: no weights in the shortcuts.

    images [n, 3, 32, 32] -> 3 stages of 2 k + ... convolutions of 16, 32, 64 channels -> mean -> 10 classes

Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
https://arxiv.org/abs/1512.03385, section 4.2. Names of the parameters as in the weights of the shared data.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two convolutions and a shortcut.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
        stride: 2 where the picture shrinks.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.extra = stride, channels - channels_in

    def forward(self, images: Tensor) -> Tensor:
        """``[n, c, h, w]`` to ``[n, c', h / stride, w / stride]``."""
        kept = images
        if self.stride > 1 or self.extra:  # option A: every second pixel, new channels are zero
            half = self.extra // 2
            kept = functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        hidden = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(hidden)) + kept)


class ResNet(nn.Module):
    """The network of depth ``6 blocks + 2``.

    Args:
        blocks: Blocks of each of the three stages: 3 for ResNet-20.
    """

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``[n, 3, 32, 32]`` to logits ``[n, 10]``."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(hidden.mean((2, 3)))
        return logits


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels, stride)
    return nn.Sequential(first, *[Block(channels, channels, 1) for _ in range(blocks - 1)])
