"""Trials are drawn once, shared by workers, and kept through kills; no network is touched."""

import os
import shutil
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fulgurite.search.settings import SearchSettings
from fulgurite.search.study import Claimed, Study

Settings = Callable[..., SearchSettings]
Result = Callable[[Study, Claimed], None]
BITS = "cascade.stages.only.codec.bits"


@pytest.fixture
def folder(study_folder: Callable[..., Path]) -> Path:
    return study_folder()


def claim(study: Study) -> Claimed:
    claimed = study.claim()
    assert isinstance(claimed, Claimed), claimed
    return claimed


def test_no_more_trials_are_drawn_than_were_asked_for(
    settings: Settings, folder: Path, result: Result
) -> None:
    study = Study(settings(trials=3), folder)
    for _ in range(3):
        result(study, claim(study))
    assert study.claim() == "all 3 trials are drawn"
    assert [trial.number for trial in study.trials()] == [0, 1, 2]
    again = Study(settings(trials=4), folder)  # asked for one more
    assert claim(again).trial.number == 3


def test_a_trial_has_a_recipe_of_its_own(settings: Settings, folder: Path) -> None:
    study = Study(settings(overrides={"cascade.retries": 0}, early={"limit_windows": 8}), folder)
    claimed = claim(study)
    recipe = yaml.safe_load((claimed.folder / "recipe.yaml").read_text())
    assert recipe["cascade"]["stages"]["only"]["codec"]["init_args"]["bits"] == claimed.params[BITS]
    assert recipe["cascade"]["retries"] == 0
    assert "output_dir" not in recipe  # all trials would write to one folder
    early = yaml.safe_load((claimed.folder / "early.yaml").read_text())
    assert early["cascade"].pop("limit_windows") == 8
    assert early == recipe


def test_a_trial_that_was_cut_off_is_gone_on_with(settings: Settings, folder: Path) -> None:
    study = Study(settings(), folder)
    cut = claim(study)
    assert claim(study).trial.number == 1  # the first is still held
    cut.lock.release()  # as the system does when a worker is killed
    again = claim(Study(settings(), folder))
    assert (again.trial.number, again.resumed, again.params) == (0, True, cut.params)


def test_a_trial_that_was_cut_off_while_it_was_drawn_is_drawn_to_its_end(
    settings: Settings, folder: Path
) -> None:
    study = Study(settings(), folder)
    study.shared.ask()  # killed right after
    claimed = claim(study)
    assert (claimed.trial.number, claimed.resumed) == (0, False)
    assert (claimed.folder / "recipe.yaml").exists()


def test_a_search_that_was_cut_off_draws_what_a_whole_one_draws(
    settings: Settings, study_folder: Callable[..., Path], result: Result
) -> None:
    drawn = []
    for name, cut in (("whole", 0), ("cut", 2)):
        study = Study(settings(sampler={"type": "tpe", "n_startup_trials": 2}), study_folder(name))
        for number in range(5):
            if number == cut:
                study = Study(study.settings, study.folder)
            result(study, claim(study))
        drawn.append([trial.params for trial in study.trials()])
    assert drawn[0] == drawn[1]


def test_another_search_is_not_mixed_in(settings: Settings, folder: Path) -> None:
    Study(settings(), folder)
    space = {BITS: {"type": "int", "low": 2, "high": 4}}
    with pytest.raises(ValueError, match="study.db holds a study 'search' with another space"):
        Study(settings(space=space), folder)


def test_folders_of_a_lost_database_are_not_overwritten(
    settings: Settings, study_folder: Callable[..., Path]
) -> None:
    folder = study_folder()
    claim(Study(settings(), folder)).lock.release()
    study_folder()  # an empty one in its place
    with pytest.raises(ValueError, match="000 is of another study"):
        Study(settings(), folder).claim()


def test_a_grid_is_gone_through_once(settings: Settings, folder: Path, result: Result) -> None:
    space = {BITS: {"type": "int", "low": 2, "high": 4}, "cascade.retries": {"choices": [0, 1]}}
    study = Study(settings(space=space, sampler="grid", trials=50), folder)
    for number in range(6):
        if number == 3:
            study = Study(study.settings, folder)  # opened anew, its points are not put in again
        result(study, claim(study))
    assert study.claim() == "every point of the grid is drawn"
    points = {(trial.params[BITS], trial.params["cascade.retries"]) for trial in study.trials()}
    assert points == {(bits, retries) for bits in (2, 3, 4) for retries in (0, 1)}


def test_a_search_ends_when_nothing_gets_better(settings: Settings, folder: Path) -> None:
    study = Study(settings(trials=50, early_stopping={"patience": 4}), folder)
    study.tell(claim(study), "done", metrics={"bytes": 10.0, "retention": 1.0})
    for _ in range(4):
        study.tell(claim(study), "done", metrics={"bytes": 20.0, "retention": 0.5})
    assert study.claim() == "no improvement in the last 4 trials"


def test_how_trials_ended_is_kept(settings: Settings, folder: Path) -> None:
    study = Study(settings(), folder)
    study.tell(claim(study), "failed", reason="exit status 1: no disk")
    study.tell(claim(study), "pruned", reason="only keeps 3 %", missed=1.0)
    study.tell(
        claim(study), "rejected", reason="only: ...", metrics={"bytes": 5.0, "retention": 0.1}, missed=0.4
    )
    found = Study(settings(), folder).trials()
    assert [trial.state for trial in found] == ["failed", "pruned", "rejected"]
    assert found[0].reason == "exit status 1: no disk"
    assert found[2].values == (5.0, 0.1)
    assert claim(study).trial.number == 3  # the sampler draws on after all of them


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_every_sampler_draws(settings: Settings, folder: Path, result: Result, sampler: str) -> None:
    study = Study(settings(sampler=sampler, trials=12), folder)
    for _ in range(12):  # 10 are drawn at random at first
        result(study, claim(study))
    assert {2, 8} >= {trial.params[BITS] for trial in study.trials()} - set(range(2, 9))


def test_a_setting_that_a_sampler_does_not_take_is_named(settings: Settings, folder: Path) -> None:
    study = Study(settings(sampler={"type": "random", "startup": 3}), folder)
    with pytest.raises(ValueError, match="sampler random: .*startup"):
        study.claim()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "storage must be an address such as sqlite:///study.db, got 'nonsense'"),
        ("oracel://x", "storage oracel://x: SQLAlchemy knows no such database"),
        (
            "postgresql+psycopg://u:secret@127.0.0.1:1/x",
            r"storage postgresql\+psycopg://u:\*\*\*@.*cannot be opened",
        ),
        ("sqlite:////nowhere/study.db", "storage sqlite:////nowhere/study.db: cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    settings: Settings, tmp_path: Path, url: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Study(settings(storage=url), tmp_path / "study")
    assert "secret" not in str(caught.value)


WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from conftest import give_result
from fulgurite.search.settings import read_search
from fulgurite.search.study import Study
study = Study(read_search(Path(sys.argv[1])), Path(sys.argv[2]))
done = 0
while not isinstance(claimed := study.claim(), str):
    time.sleep(0.1)  # a run: the other worker has its turn
    give_result(study, claimed)
    done += 1
print(done)
"""


def two_workers(search: Path, folders: tuple[Path, Path]) -> list[int]:
    command = [sys.executable, "-c", WORKER, str(search)]
    here = str(Path(__file__).parent)
    running = [
        subprocess.Popen(
            [*command, str(folder), here], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for folder in folders
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], [output[1] for output in outputs]
    return [int(output[0]) for output in outputs]


def test_two_processes_share_a_study_on_sqlite(
    write_search: Callable[..., Path], settings: Settings, folder: Path
) -> None:
    done = two_workers(write_search(trials=12), (folder, folder))
    assert sum(done) == 12
    assert min(done) > 0
    found = Study(settings(trials=12), folder).trials()
    assert [trial.number for trial in found] == list(range(12))
    assert Counter(trial.state for trial in found) == {"done": 12}
    assert len({repr(trial.params) for trial in found}) == 12  # nobody drew what the other had


@pytest.mark.parametrize("shared_folder", [True, False])
def test_two_processes_share_a_study_on_a_server(
    write_search: Callable[..., Path], settings: Settings, tmp_path: Path, shared_folder: bool
) -> None:
    url = os.environ.get("FULGURITE_TEST_DATABASE")
    if url is None:
        pytest.skip(
            "no database server: set FULGURITE_TEST_DATABASE to an address such as postgresql://user@host/db"
        )
    name = f"test-{uuid.uuid4().hex}"
    changes = {"trials": 12, "storage": url, "name": name}
    folders = (tmp_path / "one", tmp_path / ("one" if shared_folder else "two"))
    try:
        done = two_workers(write_search(**changes), folders)
        study = Study(settings(**changes), folders[0])
        found = study.trials()
        # with a folder each they take no turns: the last two may be drawn at one moment
        assert len(found) in ((12,) if shared_folder else (12, 13))
        assert sum(done) == len(found)
        assert min(done) > 0
        assert {trial.state for trial in found} == {"done"}
    finally:
        import optuna

        optuna.delete_study(study_name=name, storage=url)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
