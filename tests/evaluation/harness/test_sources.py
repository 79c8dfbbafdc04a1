"""Files of benchmarks: found where they may lie, checked item by item, and what is wrong is named."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.harness import LanguageSuite
from fulgurite.evaluation.harness.sources import (
    BenchmarkDataError,
    documents,
    find_file,
    read_rows,
    rows,
    with_shots,
)

FIELDS = {
    "question": "text",
    "choices.text": "texts",
    "choices.label": "texts",
    "answerKey": "one of choices.label",
}
Write = Callable[[Path, Sequence[Any]], Path]
Item = Callable[[int], dict[str, Any]]


@pytest.mark.parametrize("below", ["", "bench", "text"])
def test_files_lie_in_the_folder_or_one_below(tmp_path: Path, lines: Write, below: str) -> None:
    path = lines(tmp_path / below / "arc_easy" / "test_500.jsonl", [{"question": "?"}])
    assert find_file(tmp_path, "arc_easy/test*") == path


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        BenchmarkDataError, match=r"expected a file arc_easy/test\*, found none; looked .*bench/arc"
    ):
        find_file(tmp_path, "arc_easy/test*")
    with pytest.raises(BenchmarkDataError, match="nowhere: expected a folder of benchmarks"):
        find_file(tmp_path / "nowhere", "arc_easy/test*")


def test_items_are_read_by_split(tmp_path: Path, lines: Write, item: Item) -> None:
    lines(tmp_path / "arc_easy" / "test.jsonl", [item(0), item(1)])
    lines(tmp_path / "arc_easy" / "validation.jsonl", [item(2)])
    files = {"test": "arc_easy/test*", "validation": "arc_easy/validation*"}
    found = rows(files=files, fields=FIELDS, data_dir=str(tmp_path), version=1.0)
    assert {split: len(items) for split, items in found.items()} == {"test": 2, "validation": 1}
    assert found["test"][1] == item(1)


def test_parquet_as_the_hub_has_it(tmp_path: Path, item: Item) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([item(0)]), tmp_path / "test-00000-of-00001.parquet")
    assert read_rows(tmp_path / "test-00000-of-00001.parquet") == [item(0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answerKey": None}, "item 2: expected field 'answerKey' to be one of choices.label, found 'None'"),
        ({"answerKey": "E"}, "item 2: expected field 'answerKey' to be one of choices.label, found 'E'"),
        ({"question": 3}, "item 2: expected field 'question' to be text, found '3'"),
        (
            {"choices": {"text": [], "label": []}},
            r"item 2: expected field 'choices.text' to be texts, found '\[\]'",
        ),
        (
            {"choices": {"text": ["a"]}},
            "item 2: expected a field 'choices.label', found the fields answerKey, choices",
        ),
        ({"choices": ["a", "b"]}, "item 2: expected a field 'choices.text'"),
    ],
)
def test_an_item_of_another_form_names_file_item_and_field(
    tmp_path: Path, lines: Write, item: Item, change: dict[str, Any], message: str
) -> None:
    path = lines(tmp_path / "arc_easy" / "test.jsonl", [item(0), {**item(1), **change}])
    with pytest.raises(BenchmarkDataError, match=message) as error:
        rows(files={"test": "arc_easy/test*"}, fields=FIELDS, data_dir=str(tmp_path))
    assert str(path) in str(error.value)


def test_a_missing_field_names_those_that_there_are(tmp_path: Path, lines: Write) -> None:
    lines(tmp_path / "arc_easy" / "test.jsonl", [{"query": "?", "answerKey": "A"}])
    with pytest.raises(
        BenchmarkDataError, match="expected a field 'question', found the fields answerKey, query"
    ):
        rows(files={"test": "arc_easy/test*"}, fields=FIELDS, data_dir=str(tmp_path))


@pytest.mark.parametrize("answer", [4, -1, "four", None, 1.0])
def test_an_index_must_be_that_of_a_choice(tmp_path: Path, lines: Write, answer: Any) -> None:
    lines(tmp_path / "q" / "test.jsonl", [{"choices": ["a", "b", "c", "d"], "answer": answer}])
    fields = {"choices": "texts", "answer": "the index of one of choices"}
    with pytest.raises(BenchmarkDataError, match="expected field 'answer' to be the index of one of choices"):
        rows(files={"test": "q/test*"}, fields=fields, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a list of items, found none"),
        (b'{"question": "?"}\n{"quest', "line 2: expected JSON"),
        (b"[1, 2]\n", "item 1: expected an object, found list"),
        (b"\xff\xfe", "expected items in JSON lines"),
    ],
)
def test_a_file_that_is_no_list_of_items(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "arc_easy" / "test.jsonl"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(BenchmarkDataError, match=message):
        rows(files={"test": "arc_easy/test*"}, fields=FIELDS, data_dir=str(tmp_path))


def test_an_answer_that_is_no_number_of_an_option_is_named(tmp_path: Path) -> None:
    path = tmp_path / "winogrande" / "validation.jsonl"
    path.parent.mkdir()
    item = {"sentence": "Anna saw _.", "option1": "Tom", "option2": "Max", "answer": "2"}
    path.write_text(json.dumps(item) + "\n" + json.dumps({**item, "answer": ""}))  # as the hub's test split
    with pytest.raises(
        BenchmarkDataError, match="item 2: expected field 'answer' to be number 1 to 2, found ''"
    ):
        LanguageSuite.load(["winogrande"], data_dir=tmp_path)


def test_an_object_instead_of_a_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text('{"data": []}')
    with pytest.raises(BenchmarkDataError, match="expected a list of items, found dict"):
        read_rows(tmp_path / "items.json")


def test_solved_items_of_the_same_group_come_along() -> None:
    splits = {
        "dev": [{"s": "a", "q": 1}, {"s": "b", "q": 2}, {"s": "a", "q": 3}, {"s": "a", "q": 4}],
        "test": [{"s": "a", "q": 9}],
    }
    made = with_shots(splits, split="dev", into="test", by="s", count=2, fields=["q"])
    assert made["test"] == [{"s": "a", "q": 9, "shots": [{"q": 1}, {"q": 3}]}]
    with pytest.raises(BenchmarkDataError, match="split dev: expected 2 items whose s is 'b', found 1"):
        with_shots(
            {**splits, "test": [{"s": "b", "q": 9}]}, split="dev", into="test", by="s", count=2, fields=["q"]
        )


def test_without_a_folder_the_hub_is_asked_and_its_refusal_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(BenchmarkDataError, match="could not be read from the hub .* by --bench_data DIR"):
        rows(files={"test": "q/test*"}, fields={}, hub=["nobody-has/this-one"])
    with pytest.raises(BenchmarkDataError, match=r"expected --bench_data DIR \(benchmarks.data_dir"):
        rows(files={"test": "q/test*"}, fields={})


def test_a_given_text_stands_for_the_folder(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_bytes(b"one two three four\r\nfive six " * 40)
    found = documents(
        files={"test": None}, cut="documents", settings={"num_bytes": 100}, text=[str(text)], any_text=True
    )
    assert "".join(found["test"]["page"]).startswith("one two three four\nfive")
    with pytest.raises(BenchmarkDataError, match="expected --text FILE, found none"):
        documents(files={"test": None}, cut="documents", any_text=True)
    with pytest.raises(BenchmarkDataError, match="none.txt: expected a text in UTF-8"):
        documents(files={"test": None}, cut="documents", text=str(tmp_path / "none.txt"), any_text=True)
    text.write_text("too short")
    with pytest.raises(BenchmarkDataError, match="a.txt: text must have sentences"):
        documents(files={"test": None}, cut="last_words", text=str(text), any_text=True)
