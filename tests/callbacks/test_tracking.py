"""What loggers see: one dictionary of names, sent alike to CSV files, TensorBoard and Weights & Biases."""

import copy
import csv
import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callbacks.run_record import effect_of
from callbacks.tracking import (
    NAMES,
    Tracker,
    comparison_data,
    is_known,
    names_markdown,
    reference_metrics,
    run_metrics,
    try_metrics,
)
from fulgurite.evaluation import Evaluation, Gate, Measure

REPOSITORY = Path(__file__).parents[2]


def measure(name: str, kept: float, higher: bool) -> Measure:
    """Between a chance of 1 and a reference of 3, or the other way round."""
    chance, sign = (1.0, 1) if higher else (3.0, -1)
    items = np.full(50, chance + 2 * sign * kept) + np.linspace(-0.1, 0.1, 50)
    return Measure(name, items, np.ones(50), np.full(50, chance), higher, "points")


def outcome(number: int, kept: float, **more: Any) -> dict[str, Any]:
    reference = [measure("up", 1, True), measure("down", 1, False)]
    candidate = [measure("up", kept, True), measure("down", kept, False)]
    verdict = Gate().decide(reference, reference, candidate, 0)
    return {
        "number": number,
        "num_bytes": 1000 * number,
        "ratio": 8.0 / number,
        "bits_per_weight": 4.0 * number,
        "seconds": {"encode": 2.0, "refine": None, "evaluate": 3.0},
        "gate": verdict.to_dict(),
        **more,
    }


@pytest.fixture
def record() -> dict[str, Any]:
    stages = []
    for name, kept in (("eight", 0.99), ("two", 0.4)):
        tries = [outcome(1, kept)]
        gate = tries[0]["gate"]
        stages.append(
            {
                "name": name,
                "accepted": gate["accepted"],
                "verdict": gate["reason"],
                "num_bytes": 1000,
                "ratio": 8.0,
                "bits_per_weight": 4.0,
                "retention": gate["cumulative"],
                "retention_low": gate["cumulative_low"],
                "seconds": 5.0,
                "tries": tries,
            }
        )
    return {
        "success": True,
        "level": "eight",
        "seconds": 12.0,
        "reference": {"num_bytes": 8000},
        "artifact": {"num_bytes": 1000},
        "stages": stages,
    }


def test_every_number_of_a_try_has_a_name_with_a_meaning() -> None:
    checks = [
        {"name": "alignment", "value": 0.7, "passed": True, "state": "within", "rejects": False},
        {"name": "edge_of_chaos", "value": 0.6, "passed": False, "state": "below", "rejects": True},
    ]
    found = try_metrics(outcome(1, 0.9, checks=checks, looks={"seen": 25, "of": 50, "look": 1, "most": 4}), 2)
    assert all(is_known(name) for name in found)
    assert found["stage/index"] == 2
    assert (found["score/up"], found["score/down"]) == (pytest.approx(2.8), pytest.approx(1.2))
    # a tenth of a margin of 2, and worse is above 0 whatever the direction
    assert (found["degradation/up"], found["degradation/down"]) == (pytest.approx(0.2), pytest.approx(0.2))
    assert found["retention/up"] == pytest.approx(0.9)
    assert (found["gate/accepted"], found["gate/severity"], found["gate/needed"]) == (0, 2, 0.98)
    assert found["gate/items_seen"] == 0.5
    assert (found["time/encode_s"], found["time/try_s"]) == (2, 5)
    assert "time/refine_s" not in found, "what was not done is not sent"
    assert (found["check/alignment"], found["check_passed/alignment"]) == (0.7, 1)
    assert (found["check_state/edge_of_chaos"], found["check_rejects/edge_of_chaos"]) == (-1, 1)


def test_a_retry_tells_what_its_changes_did() -> None:
    first, second = outcome(1, 0.9), outcome(2, 0.99)
    assert "retry/bytes" not in try_metrics(first, 1)
    found = try_metrics(second | {"effect": effect_of(first, second)}, 1)
    assert (found["retry/number"], found["retry/bytes"]) == (2, 1000)
    assert found["retry/retention"] == pytest.approx(0.09)


def test_a_network_that_diverged_sends_no_number_for_its_scores() -> None:
    lost = outcome(1, float("nan"))
    found = try_metrics(lost, 1)
    assert not [name for name in found if name.startswith(("score/", "retention/", "degradation/"))]
    assert found["gate/severity"] == 2
    assert all(np.isfinite(value) for value in found.values())


def test_reference_and_end_of_a_run(record: dict[str, Any]) -> None:
    scores = Evaluation([measure("up", 1, True)])
    found = reference_metrics(scores, 8000, {"up": True})
    assert found == {
        "reference/bytes": 8000,
        "reference/up": pytest.approx(3),
        "chance/up": 1,
        "informative/up": 1,
    }
    record["efficiency"] = {"reference": {"latency_p50_ms": 8.0}, "artifact": {"latency_p50_ms": 4.0}}
    end = run_metrics(record)
    assert (end["run/bytes"], end["run/ratio"], end["run/accepted_stages"], end["run/tries"]) == (
        1000,
        8,
        1,
        2,
    )
    assert end["run/latency_ratio"] == 2
    nothing = copy.deepcopy(record) | {"success": False, "level": "reference", "artifact": None, "stages": []}
    assert (run_metrics(nothing)["run/bytes"], run_metrics(nothing)["run/ratio"]) == (8000, 1)
    assert all(is_known(name) for name in {**found, **end})


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match=r"callbacks.tracking.NAMES, got rate/bites"):
        Tracker([]).metrics({"rate/bites": 1.0}, 0)


def send(logger: Any, record: dict[str, Any]) -> None:
    tracker = Tracker([logger])
    tracker.recipe({"cascade": {"retries": 1}})
    for step, stage in enumerate(record["stages"], 1):
        tracker.metrics(try_metrics(stage["tries"][0], step), step)
    tracker.metrics(run_metrics(record), 2)
    tracker.table(record, 2)


def test_csv_files_hold_the_numbers_and_a_markdown_table_lies_beside_them(
    record: dict[str, Any], tmp_path: Path
) -> None:
    from lightning.pytorch.loggers import CSVLogger

    send(CSVLogger(str(tmp_path), name=None, version=""), record)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["gate/accepted"] for row in rows if row["gate/accepted"]] == ["1.0", "0.0"]
    assert [row["run/ratio"] for row in rows if row["run/ratio"]] == ["8.0"]
    table = (tmp_path / "comparison.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["reference", "eight", "two"]


def test_tensorboard_holds_the_same_and_the_table_as_text(record: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), name=None, version="")
    send(logger, record)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("gate/accepted")] == [1, 0]
    (text,) = events.Tensors("comparison/text_summary")
    assert b"| eight |" in text.tensor_proto.string_val[0]


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """Records of a ``.wandb`` file: a LevelDB log after a header of 7 bytes.

    Blocks of 32 KiB hold parts of records, each behind checksum (4 bytes), length (2) and kind (1): whole, first,
    middle, last. Fewer than 7 bytes at a block's end are padding.
    """
    place, record = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_weights_and_biases_needs_no_account_offline(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    send(WandbLogger(save_dir=str(tmp_path), project="fulgurite"), record)
    wandb.finish()
    (file,) = tmp_path.rglob("run-*.wandb")
    sent: dict[str, list[Any]] = {}
    configuration = ""
    for data in leveldb_records(file.read_bytes()):
        entry = wandb_internal_pb2.Record()
        entry.ParseFromString(data)
        for item in entry.history.item:
            name = item.key or "/".join(item.nested_key)
            sent.setdefault(name, []).append(json.loads(item.value_json))
        configuration += "".join(update.key for update in (*entry.run.config.update, *entry.config.update))
    assert sent["gate/accepted"] == [1, 0]
    assert sent["run/ratio"] == [8]
    assert "cascade" in configuration
    assert "table-file" in sent["comparison/_type"]
    (table,) = tmp_path.rglob("comparison*.table.json")
    content = json.loads(table.read_text())
    columns, rows = comparison_data(record)
    assert content["columns"] == columns
    assert [row[0] for row in content["data"]] == [row[0] for row in rows] == ["reference", "eight", "two"]


def test_the_page_is_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("tracking_page", REPOSITORY / "scripts/tracking_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (REPOSITORY / "docs/tracking.md").read_text() == module.page()
    assert names_markdown().count("\n") == len(NAMES) + 1
