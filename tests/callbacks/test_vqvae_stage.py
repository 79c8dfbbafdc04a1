"""Token embeddings by a VQ-VAE, behind the gate."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fulgurite
from callbacks.stages import VqvaeStage
from fulgurite.artifact.reader import Artifact
from fulgurite.codecs import VqvaeCodec, decode, nmse
from fulgurite.reporting.record import read_record

Run = Callable[..., tuple[int, Path]]
LENIENT = {"stage_retention": [0.05], "cumulative": 0.05, "floor": 0.01}


def _table() -> torch.Tensor:
    """300 rows: twelve columns of one cause, four of another that explains a third of them."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(300, 2, generator=generator)
    noise = torch.randn(300, 16, generator=generator)
    return torch.cat([causes[:, :1] + 0.05 * noise[:, :12], 0.7 * causes[:, 1:] + noise[:, 12:]], dim=1)


def _codec(strategy: str) -> VqvaeCodec:
    stage = VqvaeStage(2.0, strategy, categories=2, codes=16, steps=0, select="table")  # type: ignore[arg-type]
    (codec,) = stage.plan({"table": _table()}, key="cascade.stages.table", network="Tiny").values()
    assert isinstance(codec, VqvaeCodec)
    return codec


def test_codes_go_to_the_columns_that_need_them() -> None:
    uniform, slope = _codec("uniform"), _codec("slope")
    sizes = [len(places) for places in slope.columns]
    assert sizes == [12, 4]
    assert [sum(levels) for levels in uniform.tokens] == [6, 2]  # two bits a column, four a code
    assert sum(map(sum, slope.tokens)) == 8
    assert sum(slope.tokens[1]) > 2
    table = _table()
    errors = {
        name: nmse(table[:, 12:], decode(codec.encode(table))[:, 12:])
        for name, codec in (("uniform", uniform), ("slope", slope))
    }
    assert errors["slope"] < 0.7 * errors["uniform"]


def test_a_relaxed_stage_has_more_codes() -> None:
    codec = _codec("balanced")
    finer = codec.relaxed(severe=True)
    assert finer is not None
    assert sum(map(sum, finer.tokens)) == 2 * sum(map(sum, codec.tokens))


def test_bits_that_leave_no_code_name_the_weight() -> None:
    stage = VqvaeStage(0.2, "uniform", categories=2, codes=16, select="table")
    with pytest.raises(
        ValueError, match="table: 0.2 bits per feature leave no code for some of 2 categories"
    ):
        stage.plan({"table": _table()}, key="cascade.stages.table", network="Tiny")


def test_a_small_weight_is_kept_in_16_bits() -> None:
    weight = torch.randn(3, 8)
    assert torch.equal(decode(VqvaeCodec().encode(weight)), weight.half().float())


@pytest.mark.parametrize(
    "setting",
    [{"bits_per_weight": 9.0}, {"codes": 1}, {"steps": -1}, {"columns": ((0,),)}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tokens" if "columns" in setting else next(iter(setting))):
        VqvaeCodec(**setting)  # type: ignore[arg-type]


def test_a_cascade_judges_it_and_its_artefact_loads(compress: Run) -> None:
    stage = {
        "class_path": "callbacks.stages.VqvaeStage",
        "init_args": {
            "bits_per_weight": 2.0,
            "codes": 16,
            "steps": 2,
            "categories": 2,
            "select": "*embed_tokens*",
        },
    }
    status, folder = compress({"stages": {"table": stage}, "gate": LENIENT})
    assert status == 0
    artefact = Artifact(folder / "artifact")
    name = next(name for name in artefact if "embed_tokens" in name)
    encoded = artefact.encoded(name)
    assert encoded.codec == "vqvae"
    loaded = dict(fulgurite.load(folder / "artifact").named_parameters())
    assert torch.equal(loaded[name], decode(encoded))
    tries = read_record(folder / "record.json")["stages"][0]["tries"]
    assert tries[-1]["gate"]["accepted"]
