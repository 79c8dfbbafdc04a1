"""Zeros of weights, counted by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fulgurite.analysis.sparsity import analyze_sparsity, sparsity_table, weight_sparsity
from fulgurite.artifact.network_files import network_files
from fulgurite.artifact.writer import write_artifact
from fulgurite.codecs import Codec, Float16Codec, SparseCodec
from fulgurite.models import build_causal_lm, unique_parameters


def gaussian(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_shares_are_those_counted_by_hand() -> None:
    weight = torch.tensor(
        [
            [1.0, 0.0, 2.0, 0.0, 1.0, 1.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0],
        ]
    )
    found = weight_sparsity("w", weight, ["2:4", "1:4", "4:8", "1x4", "2x2", "2x3"])
    assert (found.num_weights, found.zeros) == (16, 10 / 16)
    assert (found.row_least, found.row_most, found.row_deviation) == (3 / 8, 7 / 8, 0.25)
    assert found.patterns == {
        "2:4": 3 / 4,  # the second group of the first row has three
        "1:4": 2 / 4,
        "4:8": 1 / 2,
        "1x4": 3 / 4,
        "2x2": 1.0,
        "2x3": 1.0,  # 3 + 3 + 2 columns: the last block is cut
    }


@pytest.mark.parametrize("text", ["4x4", "3x5", "1x8"])
def test_used_blocks_are_those_that_a_loop_finds(text: str) -> None:
    weight = gaussian(10, 22) * (gaussian(10, 22) > 1.5)
    high, wide = map(int, text.split("x"))
    corners = list(itertools.product(range(0, 10, high), range(0, 22, wide)))
    used = sum(bool(weight[top : top + high, left : left + wide].any()) for top, left in corners)
    assert weight_sparsity("w", weight, [text]).patterns[text] == used / len(corners)


def test_rows_that_a_pattern_does_not_divide_have_no_share() -> None:
    assert weight_sparsity("w", gaussian(3, 10), ["2:4"]).patterns["2:4"] is None


def test_the_total_counts_entries_and_leaves_vectors_out() -> None:
    first, second = torch.ones(4, 8), torch.zeros(2, 4)
    rows = analyze_sparsity({"first": first, "norm": torch.zeros(8), "second": second})
    assert [row.weight for row in rows] == ["first", "second", "total"]
    total = rows[-1]
    assert (total.num_weights, total.zeros, total.row_least, total.row_most) == (40, 0.2, 0.0, 1.0)
    # 4 rows of 8 entries without zeros, 2 of 4 with nothing else
    assert total.row_deviation == pytest.approx((0.8 * 0.2**2 + 0.2 * 0.8**2) ** 0.5)
    assert total.patterns["2:4"] == pytest.approx(0.2)


def test_tied_weights_of_a_network_count_once() -> None:
    network = nn.ModuleDict({"embed": nn.Embedding(4, 8), "head": nn.Linear(8, 4, bias=False)})
    network["head"].weight = network["embed"].weight
    assert [row.weight for row in analyze_sparsity(network)] == ["embed.weight", "total"]


def test_an_artefact_is_as_sparse_as_its_codec_made_it(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = build_causal_lm({"model_type": "llama", "vocab_size": 40, **sizes})
    kept: Codec = Float16Codec()
    encoded = {
        name: (SparseCodec(pattern="2:4", bits=4) if ".mlp." in name else kept).encode(weight)
        for name, weight in unique_parameters(network).items()
    }
    write_artifact(
        tmp_path / "artifact", encoded, files=network_files(network), model_class="LlamaForCausalLM"
    )
    for source in (tmp_path / "artifact", str(tmp_path / "artifact")):
        rows = {row.weight: row for row in analyze_sparsity(source)}
        pruned = [row for name, row in rows.items() if ".mlp." in name]
        assert len(pruned) == 3
        for row in pruned:
            assert (row.zeros, row.patterns["2:4"], row.row_deviation) == (0.5, 1.0, 0.0)
        assert rows["model.embed_tokens.weight"].zeros < 0.01


def test_the_table_is_markdown_in_per_cent() -> None:
    text = sparsity_table(analyze_sparsity({"up": torch.tensor([[1.0, 0, 0, 2, 0, 0]])}))
    lines = text.splitlines()
    assert lines[0].endswith("| groups of 2:4 | groups of 4:8 | blocks 4x4 used |")
    assert lines[2].startswith("| `up` | 1x6 | 66.7 % | 66.7 % | 66.7 % | 0.0 % | does not divide |")
    assert lines[3].startswith("| total |  | 66.7 % |")
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


@pytest.mark.parametrize(
    ("source", "patterns", "message"),
    [
        ({}, ["2:4"], "at least one matrix"),
        ({"norm": torch.ones(4)}, ["2:4"], "at least one matrix"),
        ({"w": torch.ones(2, 4)}, ["2/4"], "pattern must be"),
        ({"w": torch.ones(2, 4)}, ["unstructured"], "patterns to look for must be"),
        ({"w": torch.ones(0, 4)}, ["2:4"], "w: weight must have at least one element"),
    ],
)
def test_bad_input_is_refused(source: dict[str, Tensor], patterns: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyze_sparsity(source, patterns)
