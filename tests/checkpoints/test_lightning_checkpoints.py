"""Checkpoints of a fit run, told by their names and by what torch has written into them."""

from pathlib import Path

import pytest
import torch

from fulgurite.checkpoints import read_lightning_checkpoints
from fulgurite.cli.main import main


def test_epochs_and_steps_are_read_from_names_and_from_the_pickle(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "epoch=0-step=70.ckpt").write_bytes(b"its name says all")
    # as Lightning writes it; 70000 needs four bytes, 3 one
    content = {"epoch": 3, "global_step": 70_000, "state_dict": {"weight": torch.ones(2)}}
    torch.save(content, folder / "last.ckpt")
    found = read_lightning_checkpoints(tmp_path)
    assert [(each.path.name, each.epoch, each.step) for each in found] == [
        ("epoch=0-step=70.ckpt", 0, 70),
        ("last.ckpt", 3, 70_000),
    ]
    assert found[1].num_bytes == (folder / "last.ckpt").stat().st_size


def test_a_cut_checkpoint_is_listed_without_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 cut")
    (found,) = read_lightning_checkpoints(tmp_path)
    assert (found.epoch, found.step) == (None, None)
    assert main(["checkpoints", "list", str(tmp_path)]) == 0
    assert "last.ckpt" in capsys.readouterr().out


def test_what_a_fit_run_leaves_is_listed(trained_network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "list", str(trained_network.parent)]) == 0
    shown = capsys.readouterr().out
    assert "last.ckpt" in shown
    assert "150" in shown  # steps that the fixture trains for
