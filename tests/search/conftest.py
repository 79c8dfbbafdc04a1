"""Studies over a recipe that is never run, and a worker that gives made-up results in no time."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fulgurite.search.settings import SearchSettings, read_search
from fulgurite.search.storage import open_storage
from fulgurite.search.study import Claimed, Study

RECIPE = {
    "cascade": {"stages": {"only": {"codec": {"class_path": "UniformCodec", "init_args": {"bits": 4}}}}},
    "output_dir": "runs/another",
}
SEARCH: dict[str, Any] = {
    "recipe": "recipe.yaml",
    "space": {
        "cascade.stages.only.codec.bits": {"type": "int", "low": 2, "high": 8},
        "cascade.stages.only.refine.learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
    },
    "objectives": ["bytes", "retention"],
    "trials": 5,
}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optuna's tables, made once: a slow disk takes seconds for them."""
    path = tmp_path_factory.mktemp("database") / "study.db"
    open_storage(f"sqlite:///{path}").engine.dispose()
    return path


@pytest.fixture
def study_folder(tmp_path: Path, empty_database: Path) -> Callable[..., Path]:
    """A study's folder with no trial yet."""

    def make(name: str = "study") -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copy(empty_database, tmp_path / name / "study.db")
        return tmp_path / name

    return make


@pytest.fixture
def write_search(tmp_path: Path) -> Callable[..., Path]:
    """Write a search file, with some keys changed; ``None`` leaves one out."""

    def write(**changes: Any) -> Path:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        content = {key: value for key, value in {**SEARCH, **changes}.items() if value is not None}
        path = tmp_path / "search.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture
def settings(write_search: Callable[..., Path]) -> Callable[..., SearchSettings]:
    """Settings as a search file gives them."""
    return lambda **changes: read_search(write_search(**changes))


def give_result(study: Study, claimed: Claimed) -> None:
    """A result that depends on what was drawn alone: more bits, more bytes and more quality."""
    bits = claimed.params["cascade.stages.only.codec.bits"]
    study.tell(claimed, "done", metrics={"bytes": 1000.0 * bits, "retention": 1 - 2.0**-bits})


@pytest.fixture
def result() -> Callable[[Study, Claimed], None]:
    """See ``give_result``."""
    return give_result
