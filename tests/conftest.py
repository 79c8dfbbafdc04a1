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
from functools import partial
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


@pytest.fixture(scope="session")
def compress_in(trained_network: Path, small_data: dict[str, Any]) -> Callable[..., tuple[int, Path]]:
    """Run ``fulgurite compress`` in this process and a folder; returns its exit status and the run's folder."""
    from fulgurite.cli.main import main

    def run(place: Path, cascade: dict[str, Any], *arguments: str, name: str = "run") -> tuple[int, Path]:
        model = {
            "class_path": "lightning_modules.LanguageModel",
            "init_args": {"source": str(trained_network)},
        }
        recipe = place / "recipe.yaml"
        # one thread: the matrices are tiny; no report: its plots take longer than the run
        settings = {"threads": 1, "limit_windows": 100, "report": False, **cascade}
        settings["cache_dir"] = small_data["init_args"]["cache_dir"]
        content = {"model": model, "data": small_data, "cascade": settings, "trainer": {"accelerator": "cpu"}}
        recipe.write_text(yaml.safe_dump(content, sort_keys=False))  # the order of stages counts
        folder = place / name
        status = main(["compress", "--config", str(recipe), "--output_dir", str(folder), *arguments])
        return status, folder

    return run


@pytest.fixture
def compress(compress_in: Callable[..., tuple[int, Path]], tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """The same in the test's own folder."""
    return partial(compress_in, tmp_path)


ENCODER_WORDS = [
    *("red", "blue", "old", "new", "cat", "dog", "bird", "man", "girl", "boat"),
    *("tree", "house", "runs", "sits", "eats", "sees", "sings", "over", "under", "near"),
]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 20 thousand random weights with a WordPiece tokenizer, as sentence-transformers lays it out."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from fulgurite.models import Pooling

    folder = tmp_path_factory.mktemp("encoder")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *ENCODER_WORDS, "##s", "##er"])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.save_pretrained(str(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=72,  # no power of two, as real networks have
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            initializer_range=0.1,
        )
        BertModel(config).save_pretrained(folder)
    for name, data in Pooling(max_length=20).files(config.hidden_size).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def rated_sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of train.jsonl and test.jsonl: pairs of sentences, rated by the share of words in common."""
    folder = tmp_path_factory.mktemp("pairs")
    chance = random.Random(0)
    for split, count in (("train", 60), ("test", 150)):
        lines = []
        for _ in range(count):
            words = chance.sample(ENCODER_WORDS, chance.randint(4, 8))
            changed = chance.randint(0, len(words))
            other = words[changed:] + chance.sample(ENCODER_WORDS, changed)
            score = round(5 * (1 - changed / len(words)), 1)
            pair = {
                "sentence1": " ".join(words).capitalize() + ".",
                "sentence2": " ".join(other),
                "score": score,
            }
            lines.append(json.dumps(pair))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder
