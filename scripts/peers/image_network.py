"""Image classifiers, judged by how often they are right."""

from __future__ import annotations

import io
import zipfile
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from peers.network import CALIBRATION, Network
from peers.resnet import ResNet
from torch import Tensor, nn


class ImageNetwork(Network):
    """A classifier of CIFAR-10: top-1 accuracy."""

    auto_class = "AutoModelForImageClassification"
    metric = "top-1, %"
    higher_is_better = True
    how = "top-1 accuracy in per cent over the 10,000 images of the CIFAR-10 test set, as JPEG"
    images: ClassVar[int] = 10_000

    def build(self, source: Path, dtype: torch.dtype) -> nn.Module:
        """The ResNet, from a state dict in a safetensors file."""
        from safetensors.torch import load_file

        network = ResNet()
        missing, unexpected = network.load_state_dict(
            load_file(source / f"{self.name}.safetensors"), strict=False
        )
        # batch counters are not stored; they do nothing in eval mode
        lost = [name for name in missing if not name.endswith("num_batches_tracked")]
        if lost or unexpected:
            raise ValueError(
                f"{source}: weights do not fit {self.name}: missing {lost}, unexpected {unexpected}"
            )
        return network.to(dtype).eval()

    def skeleton(self, folder: Path) -> nn.Module:
        """The ResNet; nothing about it has to be read."""
        return ResNet().eval()

    def read(self, data: Path, split: str, count: int) -> tuple[Tensor, Tensor]:
        """Normalised images ``[n, 3, 32, 32]`` and classes ``[n]``, all classes alike."""
        from PIL import Image

        with zipfile.ZipFile(data / "images/cifar10/cifar10_jpg.zip") as archive:
            names = [name for name in archive.namelist() if name.startswith(split) and name.endswith(".jpg")]
            classes = sorted({name.split("/")[1] for name in names})
            groups = [sorted(n for n in names if n.split("/")[1] == kind) for kind in classes]
            turns = zip_longest(*groups)  # a class at a time: any number of images has all classes
            chosen = [name for turn in turns for name in turn if name is not None][:count]
            pixels = [
                np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen
            ]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
        images = (images - mean[:, None, None]) / std[:, None, None]
        return images, torch.tensor([classes.index(name.split("/")[1]) for name in chosen])

    def calibration(self, source: Path, data: Path) -> list[dict[str, Tensor]]:
        """Images of the training set."""
        return [{"images": image[None]} for image in self.read(data, "train/", CALIBRATION)[0]]

    def score(self, network: nn.Module, source: Path, data: Path) -> float:
        """Share of right answers in per cent."""
        images, classes = self.read(data, "test/", self.images)
        with torch.inference_mode():
            found = torch.cat([network(images=part).argmax(1) for part in images.split(250)])
        return 100 * float((found == classes).float().mean())
