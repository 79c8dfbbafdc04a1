"""What goes wrong ends with one clear sentence, the right exit status, and nothing lost."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from error_lines import Capture, eight, sentence
from safetensors.torch import load_file, save_file

from fulgurite.artifact.files import sha256_folder
from fulgurite.cli.main import main
from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command leaves in the current folder is left in the test's."""
    monkeypatch.chdir(tmp_path)


def coded(class_path: str = "UniformCodec", **arguments: Any) -> dict[str, Any]:
    return eight(codec={"class_path": class_path, "init_args": arguments})


@pytest.mark.parametrize(
    ("cascade", "expected"),
    [
        ({**eight(), "retrys": 1}, "cascade.retrys"),
        (eight(codek=1), "codek"),
        (coded(bitz=4), "bitz"),
        (coded("UnifromCodec"), "UnifromCodec"),
        (coded(bits="four"), "four"),
        (coded(bits=9), "bits must be in [1, 8], got 9"),
        (coded(group_size=0), "group_size must be at least 1, got 0"),
        (eight(refine={"step": 1}), "step"),
        (eight(refine={"steps": -1}), "refine.steps must be at least 0, got -1"),
        (eight(min_retention=1.5), "min_retention must be in [0, 1], got 1.5"),
        (eight(retries=-1), "retries must be at least 0, got -1"),
        ({**eight(), "gate": {"min_retentoin": 0.9}}, "cascade.gate.min_retentoin"),
        ({**eight(), "on_reject": "halt"}, "halt"),
        ({**eight(), "retries": -1}, "cascade.retries must be at least 0, got -1"),
        ({**eight(), "threads": 0}, "cascade.threads must be above 0, got 0"),
        ({**eight(), "time_budget_minutes": 0}, "cascade.time_budget_minutes must be above 0, got 0"),
        ({"stages": {}}, "cascade.stages is empty"),
        ({"stages": [1]}, "cascade.stages"),
        ({"stages": {"a/b": eight()["stages"]["eight"]}}, "got 'a/b'"),
        ({"stages": {"..": eight()["stages"]["eight"]}}, "got '..'"),
        ({"stages": {4: eight()["stages"]["eight"]}}, "letters, digits, _ and -"),  # YAML reads a number
    ],
)
def test_a_wrong_recipe_is_wrong_usage(
    compress: Compress, capsys: Capture, cascade: dict[str, Any], expected: str
) -> None:
    capsys.readouterr()  # the fixture's fit
    status, folder = compress(cascade)
    assert expected in sentence(capsys)
    assert status == 2
    assert not folder.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "recipe.yaml"),
        ("- 1\n- 2\n", "recipe.yaml"),
        ("model: [1, 2\n", "line 1"),
        ("nonsense: 1\n", "nonsense"),
        (b"\xff\xfe", "recipe.yaml"),
    ],
)
def test_a_recipe_that_is_none_is_named(
    tmp_path: Path, capsys: Capture, content: str | bytes, expected: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(content if isinstance(content, bytes) else content.encode())
    status = main(["compress", "--config", str(recipe), "--output_dir", str(tmp_path / "run")])
    assert expected in sentence(capsys)
    assert status == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compres"], "unknown verb 'compres'"),
        (["compress", "--config", "none.yaml"], "none.yaml"),
        (["compress"], "compress.model"),
    ],
)
def test_a_wrong_command_line_is_wrong_usage(
    tmp_path: Path, capsys: Capture, arguments: list[str], expected: str
) -> None:
    assert main(arguments) == 2
    assert expected in sentence(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["inspect", "evaluate", "report"])
@pytest.mark.parametrize("arguments", [[], ["one", "--bogus"]])
def test_argparse_errors_are_wrong_usage(verb: str, arguments: list[str], capsys: Capture) -> None:
    assert main([verb, *arguments]) == 2
    assert f"fulgurite {verb}: error:" in capsys.readouterr().err


def test_an_unknown_flag_names_near_ones(compress: Compress, capsys: Capture) -> None:
    capsys.readouterr()
    status, _ = compress(eight(), "--cascade.retrise", "3")
    assert status == 2
    assert "near: cascade.retries" in sentence(capsys)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"select": "model.leyers.*"}, 'select "model.leyers.*"; near: "model.layers.*"'),
        ({"exclude": ["foo.*"]}, 'exclude "foo.*"'),
        ({"exclude": ["*"]}, "leaves no matrix"),
        ({"overrides": {"foo": {"class_path": "Float16Codec"}}}, 'overrides "foo"'),
    ],
)
def test_a_pattern_without_a_weight_is_named(
    compress: Compress, capsys: Capture, settings: dict[str, Any], expected: str
) -> None:
    capsys.readouterr()
    status, folder = compress(eight(**settings))
    assert status in (1, 2)
    assert expected in sentence(capsys)
    assert not folder.exists()


@pytest.fixture
def broken_network(trained_network: Path, tmp_path: Path) -> Path:
    """A copy of the network to break."""
    return Path(shutil.copytree(trained_network, tmp_path / "network"))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def not_a_number(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def small_vocabulary(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    table = weights["model.embed_tokens.weight"][:200].clone()  # the tokenizer has 300 pieces
    save_file(
        {**weights, "model.embed_tokens.weight": table},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))


def not_causal(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vit"}')


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shutil.rmtree, "found nothing"),
        (no_weights, "expected weights (model.safetensors)"),
        (cut_weights, "network"),  # says which folder
        (no_tokenizer, "expected tokenizer.json"),
        (not_causal, "found 'vit'"),
        (not_a_number, "model.norm.weight has 1 NaN or infinite values"),
        (small_vocabulary, "200"),
    ],
)
def test_a_network_that_is_none_is_refused_before_anything_is_written(
    compress: Compress, broken_network: Path, capsys: Capture, damage: Callable[[Path], None], expected: str
) -> None:
    damage(broken_network)
    capsys.readouterr()
    status, folder = compress(eight(), "--model.source", str(broken_network))
    assert status == 1
    assert expected in sentence(capsys)
    assert not folder.exists()


def test_a_vocabulary_larger_than_the_tokenizer_is_fine(compress: Compress, broken_network: Path) -> None:
    weights = load_file(broken_network / "model.safetensors")
    table = weights["model.embed_tokens.weight"]
    wide = torch.cat([table, torch.zeros(20, table.shape[1])])  # as tables padded to a round size have
    save_file(
        {**weights, "model.embed_tokens.weight": wide},
        broken_network / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((broken_network / "config.json").read_text())
    (broken_network / "config.json").write_text(json.dumps({**config, "vocab_size": len(wide)}))
    assert compress(eight(), "--model.source", str(broken_network))[0] == 0


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.txt", b"", "is empty"),
        ("short.txt", b"Once upon a time.", "tokens"),
        ("none.txt", None, "does not exist"),
        ("text.doc", b"x", "must end in one of .txt"),
        ("latin.txt", b"\xe9" * 1000, "is not UTF-8 text"),
        ("broken.txt.xz", b"x" * 1000, "not an xz file"),
        ("broken.parquet", b"x" * 1000, "broken.parquet"),
    ],
)
def test_text_that_is_none_is_named(
    compress: Compress, tmp_path: Path, capsys: Capture, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    capsys.readouterr()
    status, folder = compress(eight(), "--data.train", str(tmp_path / name))
    assert status == 1
    assert expected in sentence(capsys)
    assert not folder.exists()


def test_an_output_dir_that_is_a_file_stays_as_it_is(
    compress: Compress, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "run").write_text("keep")
    capsys.readouterr()
    assert compress(eight())[0] == 1
    assert str(tmp_path / "run") in sentence(capsys)
    assert (tmp_path / "run").read_text() == "keep"


@pytest.mark.parametrize("arguments", [[], ["--restart"]])
def test_other_files_in_output_dir_are_never_touched(
    compress: Compress, tmp_path: Path, capsys: Capture, arguments: list[str]
) -> None:
    kept = [tmp_path / "run" / name for name in ("thesis.tex", "plots/one.png", "artifact/mine.txt")]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    capsys.readouterr()
    assert compress(eight(), *arguments)[0] == 1
    assert "holds other files and no run" in sentence(capsys)
    assert all(path.exists() for path in kept), "--restart throws away a run, nothing else"


def test_an_output_dir_may_look_like_markup(compress: Compress) -> None:
    assert compress(eight(), name="run[/bold]")[0] == 0


def test_an_output_dir_in_the_recipe_is_used(
    trained_network: Path, small_data: dict[str, Any], tmp_path: Path
) -> None:
    model = {"class_path": "lightning_modules.LanguageModel", "init_args": {"source": str(trained_network)}}
    cascade = {"threads": 1, "limit_windows": 20, "report": False, **eight()}
    content = {"output_dir": "chosen", "model": model, "data": small_data, "cascade": cascade}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, "trainer": {"accelerator": "cpu"}}))
    assert main(["compress", "--config", "recipe.yaml"]) == 0
    assert (tmp_path / "chosen/record.json").exists()
    assert not (tmp_path / "runs").exists()


def test_all_rejected_is_status_three(compress: Compress) -> None:
    cascade = {**coded(bits=1, group_size=64), "retries": 0}
    cascade["stages"]["eight"]["min_retention"] = 0.99
    status, folder = compress(cascade)
    assert status == 3
    assert not (folder / "artifact").exists()


@pytest.mark.parametrize(
    "name", ["artifact", "artifact/config.json", "reference.npz", "record.json", "stages"]
)
def test_what_is_deleted_from_a_finished_run_is_made_again(compress: Compress, name: str) -> None:
    _, folder = compress(eight())
    before = sha256_folder(folder / "artifact")
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert compress(eight())[0] == 0
    assert sha256_folder(folder / "artifact") == before
    assert read_record(folder)["success"]


@pytest.mark.parametrize("name", ["try.json", "artifact", "artifact/model.safetensors", "scores.npz"])
def test_a_damaged_try_is_made_again(compress: Compress, name: str) -> None:
    _, folder = compress(eight())
    before = sha256_folder(folder / "artifact")
    path = folder / "stages/eight/try-1" / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(path.read_bytes()[:-50])  # cut short, as by a disk that was full
    assert compress(eight())[0] == 0
    assert sha256_folder(folder / "artifact") == before


@pytest.mark.parametrize("name", ["state.json", "reference.npz", "record.json"])
def test_a_cut_file_is_named_or_made_again(compress: Compress, capsys: Capture, name: str) -> None:
    _, folder = compress(eight())
    path = folder / name
    path.write_bytes(path.read_bytes()[:-50])
    capsys.readouterr()
    if compress(eight())[0] != 0:
        assert str(path) in sentence(capsys)


def test_a_start_that_fails_leaves_the_finished_record(
    compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    from callbacks.run_folder import RunFolder

    def fail(*_: Any) -> None:
        raise OSError("the disk is gone")

    _, folder = compress(eight())
    monkeypatch.setattr(RunFolder, "load_try", fail)
    assert compress(eight())[0] == 1
    assert read_record(folder)["success"], "its stages were judged; a failed start does not unmake that"


def test_another_recipe_does_not_touch_a_finished_run(compress: Compress, capsys: Capture) -> None:
    _, folder = compress(eight())
    before = sha256_folder(folder)
    capsys.readouterr()
    assert compress(coded(bits=6, group_size=32))[0] == 1
    assert "codec.bits 8, now 6" in sentence(capsys)
    assert sha256_folder(folder) == before


@pytest.mark.parametrize(
    "change", [("--cascade.time_budget_minutes", "9"), ("--cascade.cache_dir", "elsewhere")]
)
def test_settings_that_change_no_byte_do_not_forbid_going_on(
    compress: Compress, change: tuple[str, str]
) -> None:
    compress(eight())
    assert compress(eight(), *change)[0] == 0


def test_the_reference_is_measured_again_for_another_train_text(
    compress: Compress, small_text: Path, tmp_path: Path
) -> None:
    """The chance level is that of the train text: scores kept for another one would be wrong."""
    (tmp_path / "other.txt").write_text("zq xj kv wy " * 4000)
    (tmp_path / "judge.txt").write_text(small_text.read_text()[:20000])
    judge = ("--data.validation", str(tmp_path / "judge.txt"))
    cascade = {**eight(), "limit_windows": 20}
    _, one = compress(cascade, *judge, name="one")
    _, two = compress(cascade, *judge, "--data.train", str(tmp_path / "other.txt"), name="two")
    chances = [read_record(run)["reference"]["scores"]["bits_per_byte"]["chance"] for run in (one, two)]
    assert chances[1] > chances[0] + 0.1  # bits per byte: letters that English does not have predict it badly


def test_the_way_to_go_on_does_not_restart(
    compress: Compress, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from callbacks.interrupt import RunStopped, StopOnSignal

    def stop(self: StopOnSignal) -> None:
        raise RunStopped("stopped on request")

    monkeypatch.setattr(StopOnSignal, "check", stop)
    capsys.readouterr()
    status, folder = compress(eight(), "--restart", "--cascade.cache_dir", str(Path(os.devnull) / "none"))
    assert status == 130
    printed = capsys.readouterr().err
    assert f"To go on: fulgurite compress --config {folder.parent / 'recipe.yaml'}" in printed
    assert "--restart" not in printed, "it would throw away what is to be gone on with"


def test_evaluate_refuses_a_reference_with_another_tokenizer(
    trained_network: Path, broken_network: Path, small_text: Path, capsys: Capture
) -> None:
    path = broken_network / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = content["model"]["merges"][:5]  # another way to cut the same text
    path.write_text(json.dumps(content))
    capsys.readouterr()
    command = ["evaluate", str(trained_network), "--text", str(small_text), "--window", "64", "--limit", "2"]
    assert main([*command, "--reference", str(broken_network)]) == 1
    assert "tokenizer" in sentence(capsys)
