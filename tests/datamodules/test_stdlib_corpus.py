"""The corpus that needs no download."""

from pathlib import Path

from datamodules.stdlib_corpus import docstrings, split_of, stdlib_corpus, stdlib_files


def test_the_corpus_is_a_megabyte_of_prose_in_three_splits() -> None:
    corpus = stdlib_corpus()
    assert 0.8e6 < len(corpus["train"]) < 5e6  # 1.3 MB on Python 3.11; versions differ
    for split in ("validation", "test"):
        assert 3e4 < len(corpus[split]) < 1e6
    words = corpus["train"].lower().split()
    assert words.count("the") > 0.03 * len(words)  # English prose: about 5 %


def test_no_paragraph_is_in_two_splits() -> None:
    corpus = {split: set(text.split("\n\n")) for split, text in stdlib_corpus().items()}
    # shorter ones may be stock phrases: "The default is None."
    long = {split: {part for part in parts if len(part) > 100} for split, parts in corpus.items()}
    assert long["validation"] & long["train"] == set()
    assert long["test"] & long["train"] == set()


def test_files_come_in_a_fixed_order_without_tests() -> None:
    files = stdlib_files()
    assert files == stdlib_files()
    assert len({path.name for path in files} & {"textwrap.py", "datetime.py", "pathlib.py"}) > 1
    assert not any("test" in path.parts or "site-packages" in path.parts for path in files)


def test_the_split_is_a_function_of_the_name() -> None:
    names = [f"module_{number}.py" for number in range(1000)]
    splits = [split_of(name) for name in names]
    assert splits == [split_of(name) for name in names]
    assert 750 < splits.count("train") < 850  # 800 expected, standard deviation 13


def test_docstrings_are_found_at_every_level_and_bad_files_passed_over(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text(
        '"""Module."""\nclass A:\n    """Class.\n\n    More.\n    """\n    async def f(self):\n        "Def."\n'
    )
    assert list(docstrings(source)) == ["Module.", "Class.\n\nMore.", "Def."]
    source.write_text("def (:")
    assert list(docstrings(source)) == []
