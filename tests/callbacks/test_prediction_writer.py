"""``fulgurite predict`` on a small trained network."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fulgurite.cli.main import main


def test_predict_writes_and_prints_continuations(
    trained_network: Path,
    small_data: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = {
        "class_path": "LanguageModel",
        "init_args": {"source": str(trained_network), "predict_new_tokens": 4},
    }
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    recipe = tmp_path / "predict.yaml"
    recipe.write_text(yaml.safe_dump({"model": model, "data": small_data, "trainer": trainer}))
    folder = tmp_path / "run"
    assert main(["predict", "--config", str(recipe), "--output_dir", str(folder)]) == 0
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert lines
    assert capsys.readouterr().out.splitlines()[: len(lines)] == lines
    for line in lines:
        answer = json.loads(line)
        assert set(answer) == {"prompt", "continuation"}
        assert answer["prompt"]
