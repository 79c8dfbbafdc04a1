"""The record: what the schema lets through, and that no write loses the old file."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulgurite.reporting import json_ready, load_schema, read_record, schema_markdown, write_record

Record = dict[str, Any]


def test_a_record_comes_back_as_it_was_written(record: Record, tmp_path: Path) -> None:
    path = write_record(tmp_path / "new" / "record.json", record)
    assert read_record(path) == record
    assert read_record(path.parent) == record  # the run's folder will do


def test_the_schema_is_a_valid_schema() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(load_schema())


def test_numbers_that_json_lacks_are_written_as_null(record: Record, tmp_path: Path) -> None:
    record["stages"][2]["retention"] = float("nan")
    record["stages"][2]["tries"][0]["layers"][0]["nmse"] = np.float32("inf")
    path = write_record(tmp_path / "record.json", record)
    stage = json.loads(path.read_text())["stages"][2]
    assert stage["retention"] is None
    assert stage["tries"][0]["layers"][0]["nmse"] is None


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ((), "level"),
        (("reference",), "num_bytes"),
        (("artifact",), "sha256"),
        (("stages", 0), "retention"),
        (("stages", 1, "tries", 1, "gate"), "needed"),
    ],
)
def test_a_missing_key_is_named_with_its_place(
    record: Record, tmp_path: Path, keys: tuple[Any, ...], name: str
) -> None:
    broken: Any = record
    for key in keys:
        broken = broken[key]
    del broken[name]
    place = {
        (): "the record",
        ("stages", 0): r"stages\[0\]",
        ("stages", 1, "tries", 1, "gate"): r"stages\[1\]\.tries\[1\]\.gate",
    }.get(keys, str(keys[0]) if keys else "")
    with pytest.raises(ValueError, match=rf"record\.json: {place} must have the key '{name}', got "):
        write_record(tmp_path / "record.json", record)


def test_a_wrong_type_is_named_with_what_was_expected_and_given(record: Record, tmp_path: Path) -> None:
    record["stages"][1]["num_bytes"] = "1.6 MB"
    with pytest.raises(ValueError, match=r'stages\[1\]\.num_bytes must be integer or null, got "1\.6 MB"'):
        write_record(tmp_path / "record.json", record)


def test_true_is_no_number(record: Record, tmp_path: Path) -> None:
    record["seconds"] = True  # Python takes it for 1
    with pytest.raises(ValueError, match="seconds must be number, got true"):
        write_record(tmp_path / "record.json", record)


def test_unknown_keys_are_refused_below_the_top_level_only(record: Record, tmp_path: Path) -> None:
    record["later"] = {"of": "another version"}
    write_record(tmp_path / "record.json", record)
    record["artifact"]["size"] = 1
    with pytest.raises(ValueError, match=r"artifact must have no keys but path, .*num_bytes.*, got size"):
        write_record(tmp_path / "record.json", record)


def test_another_version_is_refused(record: Record, tmp_path: Path) -> None:
    record["schema"] = "fulgurite-record/2"
    with pytest.raises(ValueError, match="schema must be 'fulgurite-record/1', got \"fulgurite-record/2\""):
        write_record(tmp_path / "record.json", record)


def test_statements_that_contradict_each_other_are_refused(record: Record, tmp_path: Path) -> None:
    wrong_level, wrong_success, wrong_parts = (copy.deepcopy(record) for _ in range(3))
    wrong_level["level"] = "hyper"  # it was rejected
    with pytest.raises(ValueError, match="level must be 'vptq2', the last accepted stage, got 'hyper'"):
        write_record(tmp_path / "record.json", wrong_level)
    wrong_success["artifact"] = None
    with pytest.raises(ValueError, match="success must be false where artifact is null, got true"):
        write_record(tmp_path / "record.json", wrong_success)
    wrong_parts["artifact"]["parts"]["manifest"] += 1
    with pytest.raises(ValueError, match=r"artifact\.parts must add up to .* 1650000, got 1650001"):
        write_record(tmp_path / "record.json", wrong_parts)


def test_a_refused_record_leaves_the_old_file_and_nothing_else(record: Record, tmp_path: Path) -> None:
    path = write_record(tmp_path / "record.json", record)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="success must be boolean, got null"):
        write_record(path, record | {"success": None})
    with pytest.raises(TypeError, match=r"recipe\.codec must have a JSON form, got object"):
        write_record(path, record | {"recipe": {"codec": object()}})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_record(tmp_path / "record.json", record)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_record(path, record | {"name": "other"})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("contents", [b'{"schema": "fulg', b"\xff\xfe", b""])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"record\.json: must be JSON, got: "):
        read_record(path)


def test_a_file_with_another_kind_of_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"record\.json: the record must be object, got list"):
        read_record(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"record\.json: no such record"):
        read_record(tmp_path)


def test_json_ready_refuses_keys_that_json_would_rename() -> None:
    assert json_ready({"path": Path("a/b"), "count": np.int64(3)}) == {"path": "a/b", "count": 3}
    with pytest.raises(TypeError, match=r"keys of layers\[1\] must be str, got 7"):
        json_ready({"layers": [{}, {7: "x"}]})


def test_the_page_on_the_record_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "record.md"
    assert page.read_text(encoding="utf-8") == schema_markdown()


def test_the_page_names_every_key() -> None:
    page = schema_markdown()
    names = [key for part in load_schema()["$defs"].values() for key in part["properties"]]
    assert {name for name in [*names, *load_schema()["properties"]] if f"`{name}`" not in page} == set()
