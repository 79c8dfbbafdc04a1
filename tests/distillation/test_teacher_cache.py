"""A teacher reads each row once, whatever happens in between, and its outputs belong to it and its text."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fulgurite.distillation import TeacherCache, teacher_cache

ROWS = torch.arange(50)[:, None] * torch.ones(1, 4, dtype=torch.long)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "_PART_BYTES", 8 * 16)  # 16 rows of four halves


def answer(asked: list[int], rows: Tensor) -> dict[str, Tensor]:
    asked += rows[:, 0].tolist()
    return {"vectors": rows.float() / 4, "index": rows[:, :1]}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("batch_size", [4, 7, 50])
def test_every_row_has_its_own_outputs(tmp_path: Path, batch_size: int) -> None:
    cache = TeacherCache(tmp_path, "a teacher", ROWS)
    cache.fill(lambda rows: answer([], rows), batch_size=batch_size)
    chosen = torch.tensor([49, 0, 17, 17, 31])
    found = cache.at(chosen)
    assert torch.equal(found["vectors"], chosen[:, None] / 4 * torch.ones(1, 4))
    assert torch.equal(found["index"][:, 0], chosen)


@pytest.mark.usefixtures("small_parts")
def test_what_was_asked_before_a_stop_is_not_asked_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def stop(done: int) -> None:
        if done > 24:
            raise KeyboardInterrupt

    cache = TeacherCache(tmp_path, "a teacher", ROWS)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(lambda rows: answer(asked, rows), batch_size=4, progress=stop)
    kept = len(list(tmp_path.glob("part-*.safetensors")))
    assert kept >= 1
    asked.clear()
    again = TeacherCache(tmp_path, "a teacher", ROWS)
    again.fill(lambda rows: answer(asked, rows), batch_size=3)  # parts keep their size whatever the batch
    assert 0 not in asked
    assert torch.equal(again.at(torch.arange(50))["index"][:, 0], torch.arange(50))
    asked.clear()
    TeacherCache(tmp_path, "a teacher", ROWS).fill(lambda rows: answer(asked, rows))
    assert not asked


def test_another_teacher_or_text_is_refused(tmp_path: Path) -> None:
    TeacherCache(tmp_path, "a teacher", ROWS)
    with pytest.raises(ValueError, match="holds outputs for another teacher; give another folder"):
        TeacherCache(tmp_path, "another", ROWS)
    with pytest.raises(ValueError, match="holds outputs for another text; give another folder"):
        TeacherCache(tmp_path, "a teacher", ROWS + 1)
    one, other = (TeacherCache.within(tmp_path / "all", name, ROWS) for name in ("one", "other"))
    assert one._folder != other._folder
