"""The stages of a run that the command has made: read, shown, restored, damaged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fulgurite.artifact.files import sha256_folder
from fulgurite.artifact.lock import FolderLock
from fulgurite.checkpoints import read_checkpoints, restore_checkpoint, select_checkpoint
from fulgurite.cli.main import main
from fulgurite.reporting.events import read_events
from fulgurite.reporting.record import read_record

UNIFORM = "UniformCodec"
CASCADE: dict[str, Any] = {
    "threads": 1,
    "limit_windows": 40,
    "report": False,
    "retries": 0,
    "stages": {
        "eight": {"codec": {"class_path": UNIFORM, "init_args": {"bits": 8}}, "min_retention": 0.5},
        "six": {"codec": {"class_path": UNIFORM, "init_args": {"bits": 6}}, "min_retention": 0.5},
        # nothing of one bit a weight keeps 99 %: rejected, whatever the machine
        "one": {"codec": {"class_path": UNIFORM, "init_args": {"bits": 1}}, "min_retention": 0.99},
    },
}


@pytest.fixture(scope="module")
def made(
    trained_network: Path, small_data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A finished run, and the command that goes on with it."""
    folder = tmp_path_factory.mktemp("stages")
    model = {"class_path": "lightning_modules.LanguageModel", "init_args": {"source": str(trained_network)}}
    recipe = {"model": model, "data": small_data, "cascade": CASCADE, "trainer": {"accelerator": "cpu"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    arguments = ["compress", "--config", str(folder / "recipe.yaml"), "--output_dir"]
    assert main([*arguments, str(folder / "run")]) == 0
    return folder / "run", arguments


@pytest.fixture
def run(made: tuple[Path, list[str]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "run"))


def test_a_run_is_read_stage_by_stage(run: Path) -> None:
    found = read_checkpoints(run)
    assert [(each.stage, each.number, each.state) for each in found] == [
        ("eight", 1, "accepted"),
        ("six", 1, "accepted"),
        ("one", 1, "rejected"),
    ]
    assert [each.is_result for each in found] == [False, True, False]
    assert {each.checksums for each in found} == {"good"}
    record = read_record(run)
    assert [each.sha256 for each in found[:2]] == [stage["sha256"] for stage in record["stages"][:2]]
    times = [event["time"] for event in read_events(run) if event["event"] == "try"]
    assert [each.when for each in found] == times
    assert all(each.disk_bytes > each.artifact_bytes > each.outcome["num_bytes"] for each in found)


def test_list_and_show_do_without_torch(run: Path) -> None:
    code = (
        "import sys; from fulgurite.cli.main import main\n"
        "assert main(['checkpoints', 'list', sys.argv[1]]) == 0\n"
        "assert main(['checkpoints', 'show', sys.argv[1], 'six']) == 0\n"
        "print('heavy:', sorted({'torch', 'lightning', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "* the result: six, try 1" in done.stdout


def test_a_program_reads_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "list", str(run), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    stages = read_record(run)["stages"]
    assert [each["num_bytes"] for each in listed["stages"]] == [stage["num_bytes"] for stage in stages]
    assert listed["stages"][2]["verdict"] == stages[2]["verdict"]
    assert listed["lightning"] == []
    assert main(["checkpoints", "show", str(run), "one", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["outcome"]["settings"]["codec"]["bits"] == 1


def test_restoring_makes_an_earlier_stage_the_result(run: Path) -> None:
    done = restore_checkpoint(run, "eight")
    assert (done.before, done.changed, done.kept) == ("six", True, None)
    assert sha256_folder(run / "artifact") == sha256_folder(run / "stages" / "eight" / "try-1" / "artifact")
    record = read_record(run)
    assert record["level"] == "eight"
    assert record["restored"]["from"] == "six"
    assert record["artifact"]["num_bytes"] == record["stages"][0]["num_bytes"]
    assert record["artifact"]["sha256"] == record["stages"][0]["sha256"]
    event = read_events(run)[-1]
    assert (event["event"], event["stage"], event["previous"]) == ("restored", "eight", "six")


def test_restoring_the_last_accepted_stage_leaves_the_record_as_the_run_had_it(run: Path) -> None:
    before = read_record(run)
    restore_checkpoint(run, "eight")
    restore_checkpoint(run, "six")
    assert read_record(run) == {**before, "artifact": {**before["artifact"], "path": str(run / "artifact")}}


def test_a_rejected_stage_is_restored_only_when_asked(run: Path) -> None:
    result = sha256_folder(run / "artifact")
    with pytest.raises(ValueError, match=r"one, try 1 was rejected \(retained .*--rejected"):
        restore_checkpoint(run, "one")
    assert sha256_folder(run / "artifact") == result
    restore_checkpoint(run, "one", rejected=True)
    record = read_record(run)
    assert (record["level"], record["restored"]["accepted"]) == ("one", False)
    assert main(["report", str(run)]) == 0  # the pages of such a record can be written


def test_a_damaged_stage_is_named_and_not_restored(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "stages" / "eight" / "try-1" / "artifact" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    result = sha256_folder(run / "artifact")
    assert main(["checkpoints", "list", str(run)]) == 1
    assert "damaged" in capsys.readouterr().out
    with pytest.raises(ValueError, match="eight, try 1 cannot be restored: .*model.safetensors"):
        restore_checkpoint(run, "eight")
    assert sha256_folder(run / "artifact") == result


def test_a_result_that_no_stage_has_is_kept(run: Path) -> None:
    (run / "artifact" / "note.txt").write_text("put here by hand")
    done = restore_checkpoint(run, "eight")
    assert done.kept is not None
    assert (done.kept / "note.txt").read_text() == "put here by hand"
    assert not (run / "artifact" / "note.txt").exists()


def test_a_copy_leaves_the_run_as_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sha256_folder(run)
    target = tmp_path / "copy"
    arguments = ["checkpoints", "restore", str(run), "one", "--rejected", "--to", str(target)]
    assert main(arguments) == 0
    assert sha256_folder(target) == sha256_folder(run / "stages" / "one" / "try-1" / "artifact")
    assert sha256_folder(run) == before
    capsys.readouterr()
    assert main(arguments) == 1  # what is there may be somebody's work
    assert "expected a new or an empty folder" in capsys.readouterr().err


def test_a_run_that_goes_on_is_not_touched(run: Path) -> None:
    with FolderLock(run) as lock:
        assert lock.held
        with pytest.raises(ValueError, match="another process is working there"):
            restore_checkpoint(run, "eight")


def test_compress_goes_on_behind_a_restored_stage(made: tuple[Path, list[str]], run: Path) -> None:
    """Nothing is made again, and the result is the last accepted stage's."""
    restore_checkpoint(run, "eight")
    assert main([*made[1], str(run)]) == 0
    record = read_record(run)
    assert record["level"] == "six"
    assert "restored" not in record
    assert sha256_folder(run / "artifact") == record["stages"][1]["sha256"]


def test_a_stage_that_was_cut_off_is_shown_as_unfinished(run: Path) -> None:
    (run / "stages" / "six" / "try-1" / "try.json").unlink()
    found = select_checkpoint(read_checkpoints(run), run, "six")
    assert found.state == "unfinished"
    with pytest.raises(ValueError, match="not finished"):
        restore_checkpoint(run, "six")


@pytest.mark.parametrize(
    ("stage", "number", "message"),
    [("sicks", None, "no try of a stage 'sicks'.*six"), ("six", 4, "stage six has no try 4; it has 1")],
)
def test_what_is_not_there_is_answered_with_what_is(
    run: Path, stage: str, number: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select_checkpoint(read_checkpoints(run), run, stage, number)


def test_a_folder_of_something_else_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="expected the folder of a compress run.*thesis.tex"):
        read_checkpoints(tmp_path)
