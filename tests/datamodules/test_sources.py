"""Each source gives one text, and says what is wrong where it cannot."""

import json
import lzma
from pathlib import Path

import pytest

from datamodules.sources import CorpusSource, FileSource, HubSource, named_split_exists, parse_source
from datamodules.splits import SplitTexts

TEXT = "Ünïcode, a line\r\nand a tab\t.\n"  # two-byte characters, and a line end that must stay


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_plain_and_packed_text_come_back_byte_for_byte(tmp_path: Path) -> None:
    assert FileSource(write(tmp_path / "a.txt", TEXT)).read() == TEXT
    assert FileSource(write(tmp_path / "a.txt.xz", lzma.compress(TEXT.encode()))).read() == TEXT


def test_jsonl_records_are_joined_by_blank_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in ("one\u2028two", "three")]
    assert FileSource(write(tmp_path / "a.jsonl", "\n".join([*lines, ""]))).read() == "one\u2028two\n\nthree"


def test_parquet_records_are_joined_by_blank_lines(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"story": ["one", None, "two"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert FileSource(tmp_path / "a.parquet", "story").read() == "one\n\ntwo"
    with pytest.raises(ValueError, match="no column 'text', got story"):
        FileSource(tmp_path / "a.parquet").read()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "a"}\n{"body": "b"}\n', "line 2 has no text field 'text', got body"),
        ('{"text": "a"}\n\n["b"]\n', "line 3 has no text field 'text', got list"),
        ('{"text": 5}\n', "line 1 has no text field"),
        ('{"text": "a"\n', "line 1 is not JSON"),
    ],
)
def test_a_bad_jsonl_line_is_named_by_number(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FileSource(write(tmp_path / "a.jsonl", lines)).read()


def test_bytes_that_are_no_text_are_located(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"byte 2 is not UTF-8 text \(0xff\)"):
        FileSource(write(tmp_path / "a.txt", b"ab\xffc")).read()
    with pytest.raises(ValueError, match="not an xz file, or cut short"):
        FileSource(write(tmp_path / "a.txt.xz", lzma.compress(TEXT.encode())[:-4])).read()


def test_the_fingerprint_follows_the_content_and_the_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}')
    before = FileSource(path).fingerprint()
    assert FileSource(path).fingerprint() == before
    assert FileSource(path, "body").fingerprint() != before
    write(path, '{"text": "b"}')
    assert FileSource(path).fingerprint() != before


def test_relative_paths_start_from_the_data_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXT)
    assert parse_source("a.txt", "train", tmp_path) == FileSource(path)
    assert parse_source(str(path), "train", tmp_path / "elsewhere") == FileSource(path)


def test_missing_files_and_unknown_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"validation text .*b\.txt does not exist"):
        parse_source("b.txt", "validation", tmp_path)
    with pytest.raises(
        ValueError, match=r"'b\.docx' must end in one of \.txt, \.txt\.xz, \.jsonl, \.parquet"
    ):
        parse_source("b.docx", "train", tmp_path)


def test_a_named_corpus_is_read_from_the_data_folder_or_the_hub(tmp_path: Path) -> None:
    (tmp_path / "wikitext2_raw").mkdir()
    path = write(tmp_path / "wikitext2_raw" / "test.txt", TEXT)
    assert parse_source("wikitext2", "test", tmp_path) == FileSource(path)
    hub = HubSource("Salesforce/wikitext/wikitext-2-raw-v1", "test")
    assert parse_source("wikitext2", "test", None) == hub
    with pytest.raises(
        FileNotFoundError, match=r"'wikitext2' is not in .*train_first5k.txt.*datasets:Salesforce"
    ):
        parse_source("wikitext2", "train", tmp_path)
    assert named_split_exists("wikitext2", "test", tmp_path)
    assert not named_split_exists("wikitext2", "validation", tmp_path)
    assert named_split_exists("wikitext2", "validation", None)
    assert not named_split_exists("tinystories", "test", None)  # it has train and validation only


def test_a_hub_dataset_is_asked_for_by_owner_name_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name: str, configuration: str | None, split: str) -> object:
        asked.append((name, configuration, split))
        return datasets.Dataset.from_dict({"text": ["one", "two"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = parse_source("datasets:owner/name/small", "train", None)
    assert source.read() == "one\n\ntwo"
    parse_source("datasets:owner/name", "test", None).read()
    assert asked == [("owner/name", "small", "train"), ("owner/name", None, "test")]
    with pytest.raises(ValueError, match="no column 'body', got text"):
        HubSource("owner/name", "train", "body").read()


def test_a_corpus_with_splits_of_its_own_serves_all_three() -> None:
    texts = SplitTexts("stdlib", None, None)
    assert "validation" in texts
    assert "test" in texts
    assert texts.fingerprint("train") != texts.fingerprint("test")
    assert parse_source("stdlib", "test", None) == CorpusSource("test")


def test_files_have_only_the_splits_they_were_given_for(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "b.txt", "two")
    texts = SplitTexts(["a.txt", "b.txt"], None, None, tmp_path)
    assert texts.read("train") == "one\n\ntwo"
    assert "validation" not in texts
    with pytest.raises(ValueError, match=r"there is no test text; give data\.test"):
        texts.read("test")


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", " \n")
    with pytest.raises(ValueError, match=r"train text a\.txt is empty"):
        SplitTexts("a.txt", None, None, tmp_path).read("train")
