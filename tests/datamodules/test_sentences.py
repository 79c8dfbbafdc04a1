"""SentencesDataModule: pairs and calibration texts, tokenised as the network wants them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import SentencesDataModule
from fulgurite.models import load_encoder_tokenizer


@pytest.fixture
def tokenizer(tiny_encoder: Path) -> Any:
    return load_encoder_tokenizer(str(tiny_encoder))


def data_of(folder: Path, tokenizer: Any, **settings: Any) -> SentencesDataModule:
    given = {"train": "train.jsonl", "test": "test.jsonl", "evaluation_split": "test", "batch_size": 4}
    data = SentencesDataModule(**{"data_dir": str(folder), **given, **settings})
    data.use_tokenizer(tokenizer)
    return data


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pairs_are_those_of_the_file(rated_sentences: Path, tokenizer: Any) -> None:
    data = data_of(rated_sentences, tokenizer)
    pairs, lines = data.evaluation_pairs(), lines_of(rated_sentences / "test.jsonl")
    assert pairs.scores.tolist() == [line["score"] for line in lines]
    for key, rows in (("sentence1", pairs.first), ("sentence2", pairs.second)):
        for row, line in zip(rows, lines, strict=True):
            text = row[row != 0].tolist()
            assert text == tokenizer(line[key])["input_ids"]
            assert row[len(text) :].tolist() == [0] * (len(row) - len(text)), "padding stands at the end"
    assert pairs.first.shape == pairs.second.shape


def test_the_shorter_of_two_limits_cuts_a_text(rated_sentences: Path, tokenizer: Any) -> None:
    assert data_of(rated_sentences, tokenizer, max_length=4).evaluation_pairs().first.shape[1] == 4
    tokenizer.model_max_length = 3
    data = data_of(rated_sentences, tokenizer, max_length=4)
    assert data.rows(["red cat runs over tree"]).tolist() == [[2, tokenizer.convert_tokens_to_ids("red"), 3]]


def test_calibration_reads_the_train_sentences_in_batches_of_one_length(
    rated_sentences: Path, tokenizer: Any
) -> None:
    data = data_of(rated_sentences, tokenizer, calibration_texts=50)
    batches = list(data.calibration_batches())
    assert [len(batch["input_ids"]) for batch in batches] == [8] * 6 + [2]
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches]).tolist()
    assert lengths == sorted(lengths)
    for batch in batches:
        assert int(batch["attention_mask"].sum(1).max()) == batch["input_ids"].shape[1], "no column is empty"
        assert torch.equal(batch["attention_mask"], (batch["input_ids"] != 0).long())
    again = list(data.calibration_batches())
    assert all(
        torch.equal(old["input_ids"], new["input_ids"]) for old, new in zip(batches, again, strict=True)
    )


def test_training_rows_are_distinct_sentences_evenly_spaced(rated_sentences: Path, tokenizer: Any) -> None:
    data = data_of(rated_sentences, tokenizer)
    every, some = data.training_rows(), data.training_rows(30)
    lines = lines_of(rated_sentences / "train.jsonl")
    texts = dict.fromkeys(line[key] for line in lines for key in ("sentence1", "sentence2"))
    assert len(every) == len(texts)
    known = {tuple(row[row != 0].tolist()) for row in every}
    assert len(some) == 30
    assert all(tuple(row[row != 0].tolist()) in known for row in some)
    assert some[0].tolist()[: len(every[0])] == every[0].tolist()[: some.shape[1]]


def test_a_text_file_takes_the_place_of_train_pairs(
    rated_sentences: Path, tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("red cat\n\n  blue dog  \nred cat\n")
    data = data_of(rated_sentences, tokenizer, train=None, calibration_text=str(tmp_path / "lines.txt"))
    words = [tokenizer.decode(row, skip_special_tokens=True) for row in data.training_rows()]
    assert words == ["red cat", "blue dog"]
    data = data_of(rated_sentences, tokenizer, train=None)
    with pytest.raises(ValueError, match=r"give data\.train or data\.calibration_text"):
        data.training_rows()


def test_training_batches_have_scores_as_shares(rated_sentences: Path, tokenizer: Any) -> None:
    data = data_of(rated_sentences, tokenizer)
    batches = list(data.train_dataloader())
    assert sum(len(batch["score"]) for batch in batches) == 60
    scores = sorted(line["score"] / 5 for line in lines_of(rated_sentences / "train.jsonl"))
    found = torch.cat([batch["score"] for batch in batches]).sort().values
    torch.testing.assert_close(found, torch.tensor(scores))


def test_other_keys_are_read_where_they_are_given(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "red cat", "b": "blue cat", "similarity": 1}\n\n')
    fields = ("a", "b", "similarity")
    data = data_of(tmp_path, tokenizer, train=None, test="a.jsonl", fields=fields)
    assert data.evaluation_pairs().sentences == [("red cat", "blue cat")]
    assert data.describe() == "test pairs a.jsonl"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        (
            "[1, 2, 3]",
            r"line 2 must have texts 'sentence1' and 'sentence2' and a number 'score', got \[1, 2, 3\]",
        ),
        ('{"sentence1": "a", "sentence2": "b"}', "line 2 must have texts"),
        ('{"sentence1": "a", "sentence2": "b", "score": "5"}', "line 2 must have texts"),
        ('{"sentence1": "a", "sentence2": "b", "score": NaN}', "line 2 must have texts"),
        ('{"sentence1": 1, "sentence2": "b", "score": 5}', "line 2 must have texts"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str, tokenizer: Any, tmp_path: Path) -> None:
    good = '{"sentence1": "a", "sentence2": "b", "score": 5}'
    (tmp_path / "test.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=rf"test\.jsonl: {message}"):
        data_of(tmp_path, tokenizer).evaluation_pairs()


def test_files_that_are_missing_empty_or_no_text_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    data = data_of(tmp_path, tokenizer)
    with pytest.raises(FileNotFoundError, match=r"test\.jsonl: no such file"):
        data.evaluation_pairs()
    (tmp_path / "test.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="expected pairs of sentences, a JSON object a line, found none"):
        data.evaluation_pairs()
    (tmp_path / "test.jsonl").write_bytes(b'{"sentence1": "caf\xe9"}')
    with pytest.raises(ValueError, match="byte 18 is not UTF-8 text"):
        data.evaluation_pairs()
    with pytest.raises(ValueError, match=r"there are no validation pairs; give data\.validation"):
        data.pairs("validation")


@pytest.mark.parametrize("name", ["batch_size", "max_length", "calibration_texts", "max_score"])
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0, got 0"):
        SentencesDataModule(**{name: 0})  # type: ignore[arg-type]


def test_without_a_network_there_is_no_tokenizer(rated_sentences: Path) -> None:
    data = SentencesDataModule(test=str(rated_sentences / "test.jsonl"))
    with pytest.raises(ValueError, match="there is no tokenizer"):
        data.pairs("test")
