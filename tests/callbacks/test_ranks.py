"""Several processes: one that dies, ranks that are not alike, another number of them; with real ones over gloo."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_processes
import yaml
from rank_processes import finish

from callbacks.all_devices import AllDevices
from fulgurite.artifact.files import sha256_folder
from fulgurite.cli.main import main
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.reporting.record import read_record

STAGE = {
    "codec": {"class_path": "EcqCodec", "init_args": {"rate": 3.0}},
    "metric": "kl",
    "min_retention": 0.1,
}
CASCADE: dict[str, Any] = {
    "threads": 1,
    "limit_windows": 8,
    "report": False,
    "retries": 0,
    "allow_uninformative": True,
    "stages": {"rounded": STAGE},
}


@pytest.fixture(scope="module")
def recipe(small_data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that has learnt the commonest tokens: what the gate says of it is seldom asked for here."""
    folder = tmp_path_factory.mktemp("recipe")
    config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    settings = {**small_data["init_args"], "batch_size": 2}  # 8 calibration batches: a chunk each
    trained = {**small_data, "init_args": {**settings, "train_tokenizer_vocab": 300}}
    model: dict[str, Any] = {"class_path": "lightning_modules.LanguageModel"}
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    fit = {
        "model": {**model, "init_args": {"config": config, "learning_rate": 0.01}},
        "data": trained,
        "trainer": {**trainer, "max_steps": 150, "limit_val_batches": 0},
    }
    (folder / "fit.yaml").write_text(yaml.safe_dump(fit, sort_keys=False))
    assert main(["fit", "--config", str(folder / "fit.yaml"), "--output_dir", str(folder / "fit")]) == 0
    compress = {
        "model": {**model, "init_args": {"source": str(folder / "fit" / "network")}},
        "data": {**small_data, "init_args": settings},
        "cascade": {**CASCADE, "cache_dir": str(folder / "scores")},
        "trainer": trainer,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(compress, sort_keys=False))
    return path


def start(
    ranks: int, command: Callable[[int], list[str]], place: Path, strategy: str = "ddp"
) -> list[BaseProcess]:
    """Start each rank of a command."""
    more = ["--trainer.devices", str(ranks), "--trainer.strategy", strategy] if ranks > 1 else []
    return rank_processes.start(ranks, lambda rank: main([*command(rank), *more]), place)


def coded(folder: Path) -> str:
    """The bytes of the only try; with a network like this the gate may well reject it."""
    return sha256_folder(folder / "stages" / "rounded" / "try-1" / "artifact")


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bytes of one process."""
    place = tmp_path_factory.mktemp("alone")
    command = ["compress", "--config", str(recipe), "--output_dir", str(place / "run")]
    ((status, said),) = finish(start(1, lambda rank: command, place), place)
    assert status in (0, 3), said
    return coded(place / "run")


@pytest.mark.parametrize(("killed", "strategy"), [(0, "ddp"), (1, "ddp"), (0, "sharded"), (1, "sharded")])
def test_when_a_rank_is_killed_the_other_says_so_and_the_next_start_goes_on(
    recipe: Path, alone: str, killed: int, strategy: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = ["compress", "--config", str(recipe), "--output_dir", str(folder)]
    processes = start(2, lambda rank: list(command), tmp_path, strategy)
    while not (folder / "stages").exists():  # from now on both gather, then both encode
        assert all(process.is_alive() for process in processes), finish(processes, tmp_path)
        time.sleep(0.01)
    processes[killed].kill()
    status, said = finish(processes, tmp_path)[1 - killed]
    assert status == 1, said
    assert f"error: rank {1 - killed}: another rank has ended, so the run ends here" in said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    ((status, said),) = finish(start(1, lambda rank: list(command), tmp_path), tmp_path)
    assert status in (0, 3), said
    assert "processes: 1, before 2; the bytes do not depend on it" in read_record(folder)["notes"]
    assert "processes: 1, before 2" in said
    assert coded(folder) == alone


def test_four_processes_make_the_bytes_of_one(recipe: Path, alone: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["compress", "--config", str(recipe), "--output_dir", str(folder)]
    ended = finish(start(4, lambda rank: list(command), tmp_path), tmp_path)
    assert {status for status, _ in ended} <= {0, 3}, ended
    assert coded(folder) == alone


@pytest.fixture(scope="module")
def thorough(recipe: Path) -> Path:
    """With all that a cascade asks of a network: refinement, slopes, scores by looks, samples."""
    settings = yaml.safe_load(recipe.read_text())
    codecs = [
        {"class_path": "UniformCodec", "init_args": {"bits": bits, "group_size": 16}} for bits in (3, 8)
    ]
    limit = {"bits_per_weight": 7.0, "probe_windows": 4, "candidates": codecs}
    allocated = {**STAGE, "allocate": limit, "source": "previous", "min_retention": 0.01, "codec": codecs[0]}
    refined = {"refine": {"steps": 4, "batch_size": 4, "reassign_every": 2, "reassign_below": 9}}
    settings["cascade"] |= {
        "stages": {"first": {**STAGE, **refined, "min_retention": 0.01}, "rounded": allocated},
        "gate": {"looks": 2, "stage_retention": [0.01], "cumulative": 0.01, "floor": 0.01},
        "prompts": ["import"],
        "report": True,
    }
    path = recipe.with_name("thorough.yaml")
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def test_a_network_in_parts_comes_to_what_a_whole_one_does(thorough: Path, tmp_path: Path) -> None:
    folders = {"whole": tmp_path / "whole", "parts": tmp_path / "parts"}

    def run(name: str, count: int) -> None:
        own = ["--output_dir", str(folders[name]), "--cascade.cache_dir", str(tmp_path / f"{name}-scores")]
        command = ["compress", "--config", str(thorough), *own]
        for status, said in finish(start(count, lambda rank: list(command), tmp_path, "sharded"), tmp_path):
            assert status == 0, said

    run("whole", 1)
    run("parts", 3)
    assert coded(folders["parts"]) == coded(folders["whole"])
    whole, parts = read_record(folders["whole"]), read_record(folders["parts"])
    assert parts["samples"] == whole["samples"] != []
    assert parts["level"] == whole["level"] == "first"
    trained, other = (record["stages"][0]["tries"][0]["refine"] for record in (whole, parts))
    assert other["steps"] == trained["steps"] == 4
    assert other["loss_first"] == pytest.approx(trained["loss_first"], rel=1e-4)
    assert other["loss_last"] == pytest.approx(trained["loss_last"], rel=1e-3)
    scores = [
        Evaluation.load(folder / "stages" / "rounded" / "try-1" / "scores.npz").measures
        for folder in folders.values()
    ]
    for one, other in zip(*scores, strict=True):
        np.testing.assert_allclose(other.items, one.items, rtol=1e-5)
    assert "latency is not measured: the network is shared out over several devices" in parts["notes"]


def test_a_rank_that_fails_while_it_follows_says_why(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(rank: int) -> list[str]:
        if rank == 1:  # in the forked process alone

            def fail(*inputs: Any) -> None:
                raise RuntimeError("out of memory")

            monkeypatch.setattr(AllDevices, "call", fail)
        own = ["--output_dir", str(tmp_path / "run"), "--cascade.cache_dir", str(tmp_path / "scores")]
        return ["compress", "--config", str(recipe), *own]

    (status, said), (failed, why) = finish(start(2, command, tmp_path, "sharded"), tmp_path)
    assert failed == 1
    assert "error: rank 1: out of memory" in why
    assert status == 1
    assert "error: rank 0: another rank has ended" in said


@pytest.mark.parametrize("stopped", [[0], [0, 1]])
def test_ranks_that_follow_stop_with_the_one_that_leads(
    recipe: Path, stopped: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(rank: int) -> list[str]:
        before = AllDevices.call

        def slowly(self: AllDevices, *given: Any) -> Any:
            (tmp_path / "calls").touch()
            time.sleep(0.2)
            return before(self, *given)

        monkeypatch.setattr(AllDevices, "call", slowly)  # in the forked processes alone
        own = ["--output_dir", str(tmp_path / "run"), "--cascade.cache_dir", str(tmp_path / "scores")]
        return ["compress", "--config", str(recipe), *own]

    processes = start(2, command, tmp_path, "sharded")
    while not (tmp_path / "calls").exists():
        assert all(process.is_alive() for process in processes), finish(processes, tmp_path)
        time.sleep(0.01)
    for rank in stopped:
        os.kill(processes[rank].pid or 0, signal.SIGINT)
    for status, said in finish(processes, tmp_path):
        assert status == 130, said
        assert "Traceback" not in said


def test_a_rank_with_another_recipe_ends_the_run_on_all_of_them(recipe: Path, tmp_path: Path) -> None:
    def command(rank: int) -> list[str]:
        own = ["--cascade.retries", str(rank)]
        return ["compress", "--config", str(recipe), "--output_dir", str(tmp_path / f"run-{rank}"), *own]

    for rank, (status, said) in enumerate(finish(start(2, command, tmp_path), tmp_path)):
        assert status == 1, said
        assert (
            f"error: rank {rank}: rank 1 (on {socket.gethostname()}) has cascade.retries 1, rank 0 " in said
        )
        assert (
            "has 0: start all ranks with the same code and the same command" in said
        )  # the folder may differ


def test_a_rank_with_other_code_ends_the_run_on_all_of_them(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules import same_ranks

    (tmp_path / "of_rank_1").mkdir()
    (tmp_path / "of_rank_1" / "__init__.py").write_text("# a checkout of its own\n")

    def command(rank: int) -> list[str]:
        if rank == 1:  # in the forked process alone
            monkeypatch.syspath_prepend(str(tmp_path))
            monkeypatch.setattr(same_ranks, "_PACKAGES", (*same_ranks._PACKAGES, "of_rank_1"))
        return ["compress", "--config", str(recipe), "--output_dir", str(tmp_path / "run")]

    for rank, (status, said) in enumerate(finish(start(2, command, tmp_path), tmp_path)):
        assert status == 1, said
        assert f"error: rank {rank}: rank 1 (on {socket.gethostname()}) has code " in said


def test_the_digest_of_the_code_changes_with_a_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules import same_ranks

    package = tmp_path / "a_package_of_the_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(same_ranks, "_PACKAGES", (package.name,))
    before = same_ranks.code_digest()
    assert same_ranks.code_digest() == before
    (package / "__init__.py").write_text("# changed\n")
    assert same_ranks.code_digest() != before


def test_facts_of_ranks_leave_out_what_the_first_one_decides() -> None:
    from lightning_modules.same_ranks import rank_facts

    stages = {"one": {"codec": {"class_path": "UniformCodec", "init_args": {"bits": 4}}}, "two": {}}
    recipe = {"output_dir": "runs/a", "cascade": {"stages": stages}, "metrics": "runs/a/metrics"}
    facts = rank_facts(recipe, "runs/a")
    assert facts["cascade.stages.one.codec.bits"] == 4
    elsewhere = {**recipe, "output_dir": "runs/b", "metrics": "runs/b/metrics"}
    assert rank_facts(elsewhere, "runs/b") == facts
    turned = {**recipe, "cascade": {"stages": dict(reversed(stages.items()))}}
    assert rank_facts(turned, "runs/a") != facts, "stages in another order are another recipe"


def test_the_launcher_names_the_process_that_was_killed() -> None:
    from lightning_modules.ranks import _Watch

    children = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    try:
        watch = _Watch(children)
        assert watch._look() == ""
        children[1].kill()
        assert watch.which() == "rank 2 was killed by SIGKILL"
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.parametrize(("status", "seen"), [(0, ""), (3, ""), (130, ""), (1, "rank 1 ended with status 1")])
def test_processes_that_are_done_are_not_lost(status: int, seen: str) -> None:
    from lightning_modules.ranks import _Watch

    child = subprocess.Popen(["sh", "-c", f"exit {status}"])
    child.wait()
    assert _Watch([child])._look() == seen


def test_a_rank_whose_launcher_has_gone_knows_it() -> None:
    from lightning_modules.ranks import _Watch

    assert _Watch([], os.getppid())._look() == ""
    assert _Watch([], os.getpid())._look() == "the process that started it has ended"  # it is not our parent


@pytest.mark.slow
def test_the_launcher_s_own_process_ends_with_a_sentence(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "fulgurite.cli.main", "compress", "--config", str(recipe)]
    command += ["--output_dir", str(folder), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = {key: value for key, value in os.environ.items() if key != "FULGURITE_OUTPUT_DIR"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    while not (folder / "stages").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 1
    assert "error: rank 0: rank 1 was killed by SIGKILL, so the run ends here" in output


def test_strategies_that_share_out_a_network_in_another_way_are_refused() -> None:
    from lightning.pytorch.strategies import ModelParallelStrategy

    from lightning_modules.trainer import Trainer

    with pytest.raises(ValueError, match=r"sharded \(FSDP2.*got ModelParallelStrategy"):
        Trainer(strategy=ModelParallelStrategy(), accelerator="cpu", devices=2, logger=False)
