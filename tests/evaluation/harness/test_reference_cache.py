"""The second run of a recipe asks the reference nothing: no window, no item of a benchmark."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fulgurite.models import load_causal_lm
from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]


@contextmanager
def counted_rows(reference: Mapping[str, Tensor]) -> Iterator[dict[str, int]]:
    """Rows of tokens that pass through the reference, told by its weights, and through any other network."""
    rows = {"reference": 0, "others": 0}

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Embedding):  # once in every pass
            same = torch.equal(module.weight, reference["model.embed_tokens.weight"])
            rows["reference" if same else "others"] += len(inputs[0])

    hook = register_module_forward_pre_hook(count)
    try:
        yield rows
    finally:
        hook.remove()


@pytest.fixture
def first_and_second(
    compress: Compress, trained_network: Path, bench_data: Path, tmp_path: Path
) -> Callable[..., tuple[dict[str, int], dict[str, int]]]:
    """Rows of two runs that share a cache; what the second is given beside the first."""
    network: Any = load_causal_lm(trained_network)
    weights = {name: weight.detach().clone() for name, weight in network.named_parameters()}

    def run(*more: str) -> tuple[dict[str, int], dict[str, int]]:
        # turned down and not tried again: no sample is written by either network at the end
        codec = {"class_path": "UniformCodec", "init_args": {"bits": 1, "group_size": 32}}
        stages = {"one": {"codec": codec, "retries": 0}}
        found, scores = [], []
        for number, flags in enumerate(((), more)):
            with counted_rows(weights) as rows:
                status, folder = compress(
                    {"stages": stages},
                    f"--cascade.cache_dir={tmp_path / 'cache'}",
                    "--model.benchmarks.names=[arc_easy]",
                    f"--model.benchmarks.data_dir={bench_data}",
                    "--model.benchmarks.limit=4",
                    *flags,
                    name=f"run-{number}",
                )
            assert status == 3
            found.append(rows)
            scores.append(read_record(folder)["reference"]["scores"])
        assert more or scores[0] == scores[1]
        return found[0], found[1]

    return run


def test_the_second_run_of_a_recipe_spends_nothing_on_the_reference(
    first_and_second: Callable[..., tuple[dict[str, int], dict[str, int]]],
) -> None:
    first, second = first_and_second()
    assert first["reference"] >= 100 + 4, "100 windows and four questions"
    assert second["reference"] == 0
    assert second["others"] == first["others"] == first["reference"], "a try is asked all of it again"


def test_other_items_are_asked_anew(
    first_and_second: Callable[..., tuple[dict[str, int], dict[str, int]]],
) -> None:
    _, second = first_and_second("--model.benchmarks.limit=5")
    assert second["reference"] >= 100 + 5
