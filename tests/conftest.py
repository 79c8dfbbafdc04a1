"""Fixtures for whole runs: a little text, and a small network trained on it by the command itself."""

import argparse
import collections
import contextlib
import inspect
import io
import json
import os
import pathlib
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real weights and texts, where they are; the test is skipped where they are not."""
    folder = Path(os.environ.get("FULGURITE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set FULGURITE_DATA to a folder with models/ and text/")
    return folder


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 100 kB of English: the documentation of some modules that every Python has."""
    modules = (argparse, collections, contextlib, inspect, io, json, pathlib, random, string)
    documented = [
        inspect.getdoc(member) or ""
        for module in modules
        for _, member in sorted(vars(module).items())
        if inspect.isclass(member) or inspect.isroutine(member)
    ]
    methods = [
        inspect.getdoc(member) or ""
        for owner in (
            Path,
            collections.Counter,
            collections.OrderedDict,
            argparse.ArgumentParser,
            str,
            int,
            io.TextIOWrapper,
        )
        for _, member in sorted(vars(owner).items())
        if callable(member)
    ]
    path = tmp_path_factory.mktemp("text") / "documentation.txt"
    path.write_text("\n\n".join(dict.fromkeys(documented + methods)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_data(small_text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The data group of a recipe over the small text."""
    return {
        "class_path": "datamodules.TextDataModule",
        "init_args": {
            "train": str(small_text),
            "window": 64,
            "batch_size": 16,
            "calibration_windows": 16,
            "validation_share": 0.2,
            "cache_dir": str(tmp_path_factory.mktemp("cache")),
        },
    }


@pytest.fixture(scope="session")
def trained_network(small_data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 40 thousand weights, trained by ``fulgurite fit`` until it is well above chance."""
    from fulgurite.cli.main import main

    folder = tmp_path_factory.mktemp("fit")
    data = {**small_data, "init_args": {**small_data["init_args"], "train_tokenizer_vocab": 300}}
    model = {
        "class_path": "lightning_modules.LanguageModel",
        "init_args": {
            "config": {
                "model_type": "llama",
                "hidden_size": 48,
                "intermediate_size": 88,  # no power of two, as real networks have
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
            },
            "learning_rate": 0.01,
        },
    }
    trainer = {"max_steps": 150, "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 2}
    recipe = folder / "fit.yaml"
    recipe.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    status = main(["fit", "--config", str(recipe), "--output_dir", str(folder / "run")])
    assert status == 0
    return folder / "run" / "network"


@pytest.fixture
def compress(
    trained_network: Path, small_data: dict[str, Any], tmp_path: Path
) -> Callable[..., tuple[int, Path]]:
    """Run ``fulgurite compress`` in this process; returns its exit status and the run's folder."""
    from fulgurite.cli.main import main

    def run(cascade: dict[str, Any], *arguments: str, name: str = "run") -> tuple[int, Path]:
        model = {
            "class_path": "lightning_modules.LanguageModel",
            "init_args": {"source": str(trained_network)},
        }
        recipe = tmp_path / "recipe.yaml"
        # one thread: the matrices are tiny; no report: its plots take longer than the run
        settings = {"threads": 1, "limit_windows": 100, "report": False, **cascade}
        settings["cache_dir"] = small_data["init_args"]["cache_dir"]
        content = {"model": model, "data": small_data, "cascade": settings, "trainer": {"accelerator": "cpu"}}
        recipe.write_text(yaml.safe_dump(content, sort_keys=False))  # the order of stages counts
        folder = tmp_path / name
        status = main(["compress", "--config", str(recipe), "--output_dir", str(folder), *arguments])
        return status, folder

    return run
