"""The YAML fragments are what LightningCLI takes, and are what their first line says."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from datamodules import TextDataModule
from lightning_modules import LanguageModel

CONFIGS = Path(__file__).parents[2] / "configs"
DATA = sorted((CONFIGS / "data").glob("*.yaml"))
TEXT = [path for path in DATA if "datamodules.TextDataModule" in path.read_text()]


def parse(data: Path, model: Path) -> LightningCLI:
    return LightningCLI(
        LanguageModel,
        TextDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        args=["--config", str(data), "--config", str(model), "--trainer.logger", "false"],
    )


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_a_fragment_opens_with_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", TEXT, ids=lambda path: path.stem)
def test_a_data_fragment_makes_a_data_module(path: Path) -> None:
    cli = parse(path, CONFIGS / "model" / "tiny_llama.yaml")
    assert isinstance(cli.datamodule, TextDataModule)
    assert cli.datamodule.has_split("train")
    assert cli.datamodule.has_split("validation")


@pytest.mark.parametrize(
    ("name", "vocab_size", "weights"),
    # the embedding (tied) and, a layer, 4 h^2 + 3 h i + 2 h; then the last norm's h
    [
        ("small_llama", 1024, 1024 * 128 + 4 * (4 * 128**2 + 3 * 128 * 384 + 2 * 128) + 128),
        ("tiny_llama", 512, 512 * 32 + 2 * (4 * 32**2 + 3 * 32 * 96 + 2 * 32) + 32),
    ],
)
def test_a_model_fragment_has_the_size_it_names(name: str, vocab_size: int, weights: int) -> None:
    module = parse(CONFIGS / "data" / "stdlib.yaml", CONFIGS / "model" / f"{name}.yaml").model
    assert isinstance(module, LanguageModel)
    assert module.config is not None
    module.config["vocab_size"] = vocab_size
    module.configure_model()
    assert sum(weight.numel() for weight in module.parameters()) == weights
    assert module(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, vocab_size)
