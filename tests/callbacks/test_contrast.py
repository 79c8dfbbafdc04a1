"""The contrast between two sets of texts, taken out of a network by a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule

from callbacks.stages import ContrastStage
from callbacks.stages.structure import Work
from fulgurite.models import load_causal_lm
from lightning_modules import LanguageModel


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    positive, negative = tmp_path / "positive.txt", tmp_path / "negative.txt"
    positive.write_text("The girl was happy.\nTom had a red ball.\nThey went home.\nA cat sat down.\n")
    negative.write_text("The girl was sad.\nTom lost a red ball.\nThey got lost.\nA cat ran away.\n")
    return {"positive": str(positive), "negative": str(negative)}


@pytest.fixture
def work(shared_data: Path, tmp_path: Path) -> Work:
    source = shared_data / "models" / "stories260K"
    if not source.is_dir():
        pytest.skip(f"no network at {source}")
    module: Any = LanguageModel(source=str(source))
    module.configure_model()

    def silent(what: str, done: int, total: int, loss: float | None) -> None: ...

    return Work(
        subject=module,
        reference=module,
        datamodule=LightningDataModule(),
        folder=tmp_path / "scratch",
        device=torch.device("cpu"),
        cache=tmp_path / "cache",
        progress=silent,
        check=lambda: None,
    )


def test_chosen_weights_put_nothing_out_along_the_contrast(
    work: Work, texts: dict[str, str], tmp_path: Path
) -> None:
    stage = ContrastStage(texts["positive"], texts["negative"], layers=[1], rank=2)
    before = {name: weight.detach().clone() for name, weight in work.subject.network.named_parameters()}
    facts = stage.build(work, tmp_path / "network")
    assert (facts["pairs"], facts["rank"], facts["layers"], facts["weights"]) == (4, 2, [1], 1)
    assert facts["bytes_saved"] == 0
    assert 0.3 < facts["share_of_difference"]["1"] <= 1  # two of at most four directions
    for name, weight in work.subject.network.named_parameters():
        assert torch.equal(weight, before[name]), "the network that it was made of is as it was"
    after = dict(load_causal_lm(tmp_path / "network").named_parameters())
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["model.layers.1.mlp.down_proj.weight"]
    old, new = before[changed[0]].double(), after[changed[0]].detach().double()
    left, values, _ = torch.linalg.svd(old - new)
    assert int((values > 1e-5 * values[0]).sum()) == 2  # two directions are gone
    gone = left[:, :2]
    assert float((gone.T @ new).abs().max()) < 1e-5 * float(old.abs().max())
    torch.testing.assert_close(new, old - gone @ gone.T @ old, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("negative", "settings", "message"),
    [
        ("only one\n", {}, "contrast: expected pairs, found 4 texts in .* and 1 in"),
        ("\n \n", {}, "contrast.negative: .* holds no text"),
        (None, {"layers": [9]}, r"contrast.layers: expected some of \[0, 1, 2, 3, 4\], found \[9\]"),
        (None, {"rank": 5}, r"rank must be in \[1, 4\], of 4 differences, got 5"),
        (None, {"select": "*gate_proj.weight"}, "directions have 64 dimensions, the weight puts out 172"),
    ],
    ids=["pairs", "empty", "layers", "rank", "outputs"],
)
def test_what_does_not_fit_is_refused(
    work: Work,
    texts: dict[str, str],
    tmp_path: Path,
    negative: str | None,
    settings: dict[str, Any],
    message: str,
) -> None:
    if negative is not None:
        Path(texts["negative"]).write_text(negative)
    with pytest.raises(ValueError, match=message):
        ContrastStage(texts["positive"], texts["negative"], **settings).build(work, tmp_path / "network")


def test_settings_out_of_range_are_refused(texts: dict[str, str]) -> None:
    positive, negative = texts["positive"], texts["negative"]
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        ContrastStage(positive, negative, rank=0)
    with pytest.raises(ValueError, match="layers must be numbers from 0, got"):
        ContrastStage(positive, negative, layers=[-1])
