"""Nothing opens a socket for inputs that lie here: whole runs in a process whose Python refuses every one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

GUARDED = """
import json, sys

opened = []


def refuse(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        opened.append(f"{event} {arguments[1:]}")
        raise OSError(f"a socket was opened: {event} {arguments[1:]}")


sys.addaudithook(refuse)  # before anything of ours is imported
from fulgurite.cli.main import main

commands = json.loads(sys.argv[1])
statuses = [main(command) for command in commands]
told = list(opened)
try:
    import socket
    socket.create_connection(("127.0.0.1", 9))
except OSError as error:
    print(json.dumps({"statuses": statuses, "opened": told, "refused": str(error)}))
"""


def run(*commands: list[str]) -> dict[str, Any]:
    """Exit statuses of commands, and the sockets that were asked for."""
    # no variable may be what keeps it offline
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    ended = subprocess.run(
        [sys.executable, "-c", GUARDED, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in kept.items() if key != "FULGURITE_OUTPUT_DIR"},
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert found["refused"].startswith("a socket was opened: socket."), "the guard guards"
    return found


def stage(**settings: Any) -> dict[str, Any]:
    codec = {"class_path": "UniformCodec", "init_args": {"bits": 8, "group_size": 32}}
    return {"stages": {"eight": {"codec": codec, "min_retention": 0.1, **settings}}, "threads": 1}


def test_fit_and_compress_of_a_language_model_open_no_socket(
    small_data: dict[str, Any], tmp_path: Path
) -> None:
    config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    data = {**small_data, "init_args": {**small_data["init_args"], "cache_dir": str(tmp_path / "cache")}}
    trained = {**data, "init_args": {**data["init_args"], "train_tokenizer_vocab": 300}}
    model: dict[str, Any] = {"class_path": "lightning_modules.LanguageModel"}
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    fit = {
        "model": {**model, "init_args": {"config": config}},
        "data": trained,
        "trainer": {**trainer, "max_steps": 2, "limit_val_batches": 1},
    }
    network = {"source": str(tmp_path / "fit" / "network")}
    compress = {
        "model": {**model, "init_args": network},
        "data": data,
        "cascade": {
            **stage(refine={"steps": 2, "batch_size": 2}),
            "limit_windows": 10,
            "cache_dir": str(tmp_path / "scores"),
            "allow_uninformative": True,  # two steps of training are no more than chance
        },
        "trainer": trainer,
    }
    commands = []
    for verb, content in (("fit", fit), ("compress", compress)):
        path = tmp_path / f"{verb}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        commands.append([verb, "--config", str(path), "--output_dir", str(tmp_path / verb)])
    found = run(*commands)
    assert found["opened"] == []
    assert found["statuses"][0] == 0
    assert found["statuses"][1] in (0, 3)  # what the gate says of such a network is nobody's concern
    assert (tmp_path / "compress" / "report.html").exists(), "it came to the end"


def test_compress_of_a_text_encoder_opens_no_socket(
    tiny_encoder: Path, rated_sentences: Path, tmp_path: Path
) -> None:
    content = {
        "model": {"class_path": "lightning_modules.TextEncoder", "init_args": {"source": str(tiny_encoder)}},
        "data": {
            "class_path": "datamodules.SentencesDataModule",
            "init_args": {
                "train": "train.jsonl",
                "test": "test.jsonl",
                "data_dir": str(rated_sentences),
                "evaluation_split": "test",
            },
        },
        "cascade": {
            **stage(),
            "limit_windows": 40,
            "report": False,
            "cache_dir": str(tmp_path / "scores"),
            "allow_uninformative": True,
        },
        "trainer": {"accelerator": "cpu"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    found = run(["compress", "--config", str(path), "--output_dir", str(tmp_path / "run")])
    assert found["opened"] == []
    assert found["statuses"][0] in (0, 3)
    assert (tmp_path / "run" / "record.json").exists()
