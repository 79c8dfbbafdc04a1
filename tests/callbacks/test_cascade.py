"""Whole runs of ``fulgurite compress`` on a small trained network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fulgurite.artifact.files import sha256_folder
from fulgurite.reporting.events import read_events
from fulgurite.reporting.record import read_record

Compress = Callable[..., tuple[int, Path]]


def uniform(bits: int, **settings: Any) -> dict[str, Any]:
    arguments = {"bits": bits, "group_size": 32, "entropy": True}
    return {"codec": {"class_path": "UniformCodec", "init_args": arguments}, **settings}


EASY = {"stages": {"eight": uniform(8), "six": uniform(6, min_retention=0.5)}}


def test_a_run_leaves_all_that_it_promises(compress: Compress, capsys: pytest.CaptureFixture[str]) -> None:
    status, folder = compress({**EASY, "report": True})
    assert status == 0
    for name in (
        "artifact",
        "stages",
        "record.json",
        "events.jsonl",
        "report.md",
        "report.html",
        "config.yaml",
    ):
        assert (folder / name).exists(), name
    record = read_record(folder)
    assert (record["success"], record["level"]) == (True, "six")
    assert [stage["accepted"] for stage in record["stages"]] == [True, True]
    assert record["stages"][1]["num_bytes"] < record["stages"][0]["num_bytes"]
    printed = capsys.readouterr().out
    assert "level six" in printed
    assert "eight" in printed


def test_the_bytes_in_the_record_are_the_bytes_on_disk(compress: Compress) -> None:
    _, folder = compress(EASY)
    record = read_record(folder)
    sizes = {path.name: path.stat().st_size for path in (folder / "artifact").iterdir()}
    tokenizer = sum(size for name, size in sizes.items() if name.startswith("tokenizer"))
    assert record["artifact"]["num_bytes"] == sum(sizes.values()) - tokenizer
    assert record["artifact"]["tokenizer_bytes"] == tokenizer
    assert record["artifact"]["sha256"] == sha256_folder(folder / "artifact")
    weights = record["model"]["num_weights"]
    assert record["reference"]["num_bytes"] == 4 * weights
    assert record["artifact"]["bits_per_weight"] == pytest.approx(
        8 * record["artifact"]["num_bytes"] / weights
    )


def test_the_artifact_loads_by_transformers_and_is_the_judged_network(
    compress: Compress, trained_network: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import fulgurite

    _, folder = compress(EASY)
    tokens = AutoTokenizer.from_pretrained(folder / "artifact")("Return the", return_tensors="pt")
    loaded = AutoModelForCausalLM.from_pretrained(folder / "artifact")
    packed = AutoModelForCausalLM.from_pretrained(folder / "artifact", packed=True)
    ours = fulgurite.load(folder / "artifact")
    reference = AutoModelForCausalLM.from_pretrained(trained_network)
    with torch.no_grad():
        logits = loaded(**tokens).logits
        # equal weights; the order of sums may depend on where a matrix lies in memory
        torch.testing.assert_close(packed(**tokens).logits, logits)
        torch.testing.assert_close(ours(**tokens).logits, logits)
        # 6 bits of a range of about 5 sigma: well within a tenth of the logits' spread
        assert (logits - reference(**tokens).logits).std() < 0.1 * logits.std()


def test_a_second_start_keeps_what_is_there(compress: Compress) -> None:
    _, folder = compress(EASY)
    before = sha256_folder(folder / "artifact")
    touched = (folder / "stages/eight/try-1/artifact/model.safetensors").stat().st_mtime_ns
    status, _ = compress(EASY)
    assert status == 0
    assert sha256_folder(folder / "artifact") == before
    assert (folder / "stages/eight/try-1/artifact/model.safetensors").stat().st_mtime_ns == touched
    events = [event["event"] for event in read_events(folder)]
    assert events.count("try") == 2, "no try is made or told twice"
    assert events.count("resume") == 1


def test_another_recipe_in_the_same_folder_is_refused(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = compress(EASY)
    before = sha256_folder(folder)
    changed = {"stages": {"eight": uniform(7), "six": uniform(6, min_retention=0.5)}}
    status, _ = compress(changed)
    assert status == 1
    message = capsys.readouterr().err
    assert "was made by another recipe (cascade.stages.eight.codec.bits 8, now 7)" in message
    assert "--restart" in message
    assert message.count("\n") == 1
    assert sha256_folder(folder) == before


def test_another_order_of_stages_is_another_recipe(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    compress(EASY)
    turned = {"stages": {name: EASY["stages"][name] for name in ("six", "eight")}}
    assert compress(turned)[0] == 1
    assert "order of stages" in capsys.readouterr().err


def test_what_nothing_has_come_of_may_be_changed(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    eight, allocated = (
        EASY["stages"]["eight"],
        {"codec": {"class_path": "UniformCodec"}, "min_retention": 0.1},
    )
    beyond = {**allocated, "allocate": {"budget": "1kB"}}
    status, folder = compress({"stages": {"eight": eight, "small": beyond}})
    assert status == 1
    assert "a budget of 1,000 bytes cannot be met" in capsys.readouterr().err
    judged = (folder / "stages/eight/try-1/try.json").stat().st_mtime_ns
    mended = {"eight": eight, "small": {**allocated, "allocate": {"bits_per_weight": 6}}}
    assert compress({"stages": mended})[0] == 0
    assert [stage["accepted"] for stage in read_record(folder)["stages"]] == [True, True]
    # a run that has ended takes a further stage
    status, _ = compress({"stages": {**mended, "five": uniform(5, min_retention=0.1)}})
    assert status == 0
    assert [stage["name"] for stage in read_record(folder)["stages"]] == ["eight", "small", "five"]
    assert (folder / "stages/eight/try-1/try.json").stat().st_mtime_ns == judged
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert list(kept["cascade"]["stages"]) == ["eight", "small", "five"]
    # what is judged stays
    assert compress({"stages": {"eight": eight, "five": uniform(5, min_retention=0.1)}})[0] == 1
    assert "cascade.stages.small removed" in capsys.readouterr().err


def test_restart_throws_away_what_is_there(compress: Compress) -> None:
    compress(EASY)
    status, folder = compress({"stages": {"five": uniform(5, min_retention=0.1)}}, "--restart")
    assert status == 0
    assert [path.name for path in (folder / "stages").iterdir()] == ["five"]
    assert read_record(folder)["level"] == "five"


def test_a_rejected_stage_is_tried_again_then_rolled_back(compress: Compress) -> None:
    cascade = {
        "stages": {
            "eight": uniform(8),
            # 1 bit retains little, and neither does 2: both tries fail
            "one": uniform(1, min_retention=0.99),
        }
    }
    status, folder = compress(cascade)
    record = read_record(folder)
    assert status == 0
    assert record["level"] == "eight"
    assert [stage["accepted"] for stage in record["stages"]] == [True, False]
    tries = record["stages"][1]["tries"]
    assert [attempt["number"] for attempt in tries] == [1, 2]
    assert "bits 1 -> 2" in tries[1]["changes"]
    assert tries[0]["gate"]["severity"] == "severe"
    assert tries[0]["diagnosis"]
    assert sha256_folder(folder / "artifact") == record["stages"][0]["sha256"], (
        "the accepted stage is untouched"
    )


def test_where_nothing_passes_the_reference_is_the_result(compress: Compress, trained_network: Path) -> None:
    before = sha256_folder(trained_network)
    cascade = {"retries": 0, "stages": {"one": uniform(1, min_retention=0.99)}}
    status, folder = compress(cascade)
    record = read_record(folder)
    assert status == 3
    assert (record["success"], record["level"], record["artifact"]) == (False, "reference", None)
    assert not (folder / "artifact").exists()
    assert sha256_folder(trained_network) == before


def test_a_stage_that_saves_nothing_is_turned_down(compress: Compress) -> None:
    cascade = {"stages": {"six": uniform(6, min_retention=0.5), "eight": uniform(8, min_retention=0.5)}}
    status, folder = compress(cascade)
    record = read_record(folder)
    assert (status, record["level"]) == (0, "six")
    assert record["stages"][1]["verdict"].startswith("saves nothing")
    assert len(record["stages"][1]["tries"]) == 1, "no retry: more bits would not make it smaller"


def test_on_reject_stop_ends_the_cascade(compress: Compress) -> None:
    cascade = {
        "retries": 0,
        "on_reject": "stop",
        "stages": {"one": uniform(1, min_retention=0.99), "eight": uniform(8)},
    }
    status, folder = compress(cascade)
    assert status == 3
    assert [stage["name"] for stage in read_record(folder)["stages"]] == ["one"]


def test_source_previous_codes_what_the_last_stage_left(compress: Compress) -> None:
    """Coding 4-bit values in 8 bits keeps the 4-bit error: the previous stage, not the reference, was the source."""
    from fulgurite import Artifact

    cascade = {
        "stages": {
            "four": uniform(4, min_retention=0.1),
            "eight": uniform(8, min_retention=0.1, source="previous"),
            "fresh": uniform(8, min_retention=0.1),
        }
    }
    _, folder = compress(cascade)
    name = "model.layers.0.mlp.up_proj.weight"
    four, eight, fresh = (
        Artifact(folder / f"stages/{stage}/try-1/artifact").decode(name)
        for stage in ("four", "eight", "fresh")
    )
    assert (eight - four).norm() < 0.1 * (fresh - four).norm()


def test_unselected_weights_keep_the_codes_of_the_stage_before(compress: Compress) -> None:
    from fulgurite import Artifact

    cascade = {
        "stages": {
            "all": uniform(8),
            "mlp": uniform(5, min_retention=0.1, select="*.mlp.*"),
        }
    }
    _, folder = compress(cascade)
    artifact = Artifact(folder / "artifact")
    bits = {name: artifact.manifest.layout(name).meta.get("bits") for name in artifact}
    assert bits["model.layers.0.mlp.up_proj.weight"] == 5
    assert bits["model.layers.0.self_attn.q_proj.weight"] == 8
    assert bits["model.norm.weight"] is None


def test_refinement_lowers_the_loss_at_equal_bytes(compress: Compress) -> None:
    sizes = {}
    for steps in (0, 60):
        refine = {"steps": steps, "learning_rate": 0.003}
        cascade = {"retries": 0, "stages": {"three": uniform(3, min_retention=0.01, refine=refine)}}
        _, folder = compress(cascade, name=f"refined-{steps}")
        sizes[steps] = read_record(folder)["stages"][0]["tries"][0]
    assert sizes[60]["refine"]["loss_last"] < sizes[60]["refine"]["loss_first"]
    assert sizes[60]["gate"]["retention"] > sizes[0]["gate"]["retention"]
    # entropy-coded codes do not change in refinement, so neither do their bytes
    assert sizes[60]["num_bytes"] == sizes[0]["num_bytes"]


def test_metrics_go_to_the_loggers(compress: Compress) -> None:
    _, folder = compress(EASY)
    header = (folder / "metrics" / "metrics.csv").read_text().splitlines()[0]
    for name in ("rate/bytes", "gate/retention_low", "score/bits_per_byte", "time/encode_s"):
        assert name in header


def test_a_pattern_that_matches_nothing_names_near_ones(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    status, folder = compress({"stages": {"eight": uniform(8, select="model.layer.*")}})
    assert status == 1
    message = capsys.readouterr().err
    assert 'no weight of LlamaForCausalLM matches cascade.stages.eight.select "model.layer.*"' in message
    assert '"model.layers.*" (' in message
    assert not (folder / "artifact").exists()


def test_nan_weights_are_named(
    compress: Compress, trained_network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(trained_network, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    status, _ = compress(EASY, "--model.source", str(broken))
    assert status == 1
    assert "model.layers.1.mlp.down_proj.weight has 1 NaN or infinite values" in capsys.readouterr().err


def test_settings_of_a_stage_are_flags_too(compress: Compress) -> None:
    _, folder = compress(EASY, "--cascade.stages.six.codec.bits=5", "--cascade.stages.six.min_retention=0.3")
    assert read_record(folder)["stages"][1]["tries"][0]["settings"]["codec"]["bits"] == 5


def test_an_unknown_key_is_named_with_near_ones(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = compress({"stages": {"eight": uniform(8)}, "retrys": 3})
    assert status == 2
    message = capsys.readouterr().err
    assert "retrys" in message
    assert "cascade.retries" in message
    assert message.count("\n") == 1


def test_the_time_budget_ends_a_run_with_what_is_accepted(compress: Compress) -> None:
    _, folder = compress({**EASY, "time_budget_minutes": 1e-6})
    record = read_record(folder)
    assert record["stages"] == []
    assert "time budget" in record["notes"][0]


def test_the_resolved_recipe_is_kept(compress: Compress) -> None:
    _, folder = compress(EASY)
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert kept["cascade"]["stages"]["eight"]["init_args"]["codec"]["init_args"]["bits"] == 8
    assert json.loads((folder / "state.json").read_text())["recipe"]["cascade"]["stages"]
