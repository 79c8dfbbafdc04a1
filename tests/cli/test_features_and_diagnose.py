"""Features of a network, a fit on them, and its diagnosis: the commands as a user gives them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fulgurite.cli.main import main
from fulgurite.features.tables import open_table


def _texts(folder: Path) -> Path:
    path = folder / "texts.txt"
    path.write_text("\n".join(f"red cat {'runs over old boat ' * (number % 4 + 1)}" for number in range(90)))
    return path


def test_features_of_an_encoder_become_a_fit_and_a_diagnosis(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.safetensors"
    command = ["features", str(tiny_encoder), "--texts", str(_texts(tmp_path)), "--layers", "encoder.layer.?"]
    assert main([*command, "--limit", "400", "--output", str(table)]) == 0
    assert "400 rows" in capsys.readouterr().out
    assert len(np.concatenate(list(open_table(str(table)).blocks()))) == 400

    recipe = tmp_path / "recipe.yaml"
    model = {
        "class_path": "lightning_modules.HierarchicalVqvae",
        "init_args": {"strategy": "uniform", "bits_per_feature": 1.0, "quantiser": {"codes": 8}},
    }
    data = {
        "class_path": "datamodules.FeatureDataModule",
        "init_args": {
            "table": str(table),
            "categories": "source",
            # tokens of few texts repeat: features of this network then go together
            "cleaning": {"max_correlation": 1.0},
            "batch_size": 64,
            "cache_dir": str(tmp_path / "cache"),
        },
    }
    trainer = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
    trainer |= {"callbacks": [{"class_path": "callbacks.codebook_health.CodebookHealth"}]}
    recipe.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    run = tmp_path / "run"
    assert main(["fit", "--config", str(recipe), "--output_dir", str(run)]) == 0
    assert "codebook/dead" in (run / "metrics" / "metrics.csv").read_text()

    capsys.readouterr()
    assert main(["diagnose", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["categories"]) == {"encoder.layer.0", "encoder.layer.1"}
    assert facts["worst"] >= facts["mean"]
    assert main(["diagnose", str(run)]) == 0
    for name in ("diagnosis.md", "diagnosis.png", "codebooks.md", "codebooks.png", "diagnosis.html"):
        assert (run / "diagnosis" / name).stat().st_size > 500, name
    assert "relative error" in (run / "diagnosis" / "diagnosis.md").read_text()
    assert "<svg" in (run / "diagnosis" / "diagnosis.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--layers", "third"], "layers 'third' matches no module"),
        (["--layers", "encoder", "--limit", "0"], "--limit must be at least 1, got 0"),
        (["--layers", "encoder", "--pictures", "."], "not allowed with argument"),
    ],
)
def test_wrong_features_are_refused(
    arguments: list[str], says: str, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "features",
        str(tiny_encoder),
        "--texts",
        str(_texts(tmp_path)),
        "--output",
        str(tmp_path / "t.npz"),
    ]
    assert main([*command, *arguments]) != 0
    assert says in capsys.readouterr().err


def test_a_folder_that_is_no_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(tmp_path)]) == 1
    assert "expected vqvae.json, as a fit of HierarchicalVqvae writes it" in capsys.readouterr().err
