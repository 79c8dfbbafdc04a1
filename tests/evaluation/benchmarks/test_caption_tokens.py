"""Words of captions: by Java, by pycocoevalcap itself, and by the rules of our own."""

import json
from pathlib import Path

import pytest

from fulgurite.evaluation.benchmarks.caption_tokens import find_java, tokenize_captions

needs_java = pytest.mark.skipif(find_java() is None, reason="no Java: Stanford's tokenizer cannot run")


@pytest.fixture(scope="module")
def photo_captions(shared_data: Path) -> list[str]:
    path = shared_data / "images" / "coco_ccby" / "captions.json"
    if not path.is_file():
        pytest.skip("no real captions: images/coco_ccby is not there")
    return [each["raw"] for image in json.loads(path.read_text())["images"] for each in image["sentences"]]


@needs_java
def test_our_rules_agree_with_java_on_captions_by_people(photo_captions: list[str]) -> None:
    assert len(photo_captions) == 555
    assert tokenize_captions(photo_captions, java=False) == tokenize_captions(photo_captions, java=True)


@needs_java
def test_java_gives_what_pycocoevalcap_gives(photo_captions: list[str]) -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    given = {place: [{"caption": text}] for place, text in enumerate(photo_captions[:100])}
    expected = [words[0] for words in PTBTokenizer().tokenize(given).values()]
    assert tokenize_captions(photo_captions[:100], java=True) == expected


@pytest.mark.parametrize("java", [False, pytest.param(True, marks=needs_java)])
def test_forms_that_captions_have(java: bool) -> None:
    told = {
        "A man's dog isn't here.": "a man 's dog is n't here",
        "They can't; he'll go, won't he?": "they ca n't he 'll go wo n't he",
        "cannot gonna wanna 'tis": "can not gon na wan na 't is",
        "T-shirt, 2-year-old & black/white": "t-shirt 2-year-old & black/white",
        "1,000 ft. at 10:30 a.m. - 3.5 or 1/2": "1,000 ft. at 10:30 a.m. 3.5 or 1/2",
        "Mr. Smith of St. Louis, U.S., etc.": "mr. smith of st. louis u.s. etc.",
        'the "big" ‘dog’ – “dash” — em... -- end': "the big dog dash em end",
        "(a) [b] {c}": "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb-",
        "$5, £5 and 50% #1": "$ 5 # 5 and 50 % # 1",
        "what?! no;yes:maybe": "what ?! no yes maybe",
        "café über naïve": "café über naïve",
        "a smiling 😀 face": "a smiling face",
    }
    assert tokenize_captions(list(told), java=java) == list(told.values())


@pytest.mark.parametrize("java", [False, pytest.param(True, marks=needs_java)])
def test_line_ends_and_nothing_shift_no_caption(java: bool) -> None:
    captions = ["", "one\ntwo", "  ", "three\r\nfour\u2028five", ".", "six", ""]
    assert tokenize_captions(captions, java=java) == ["", "one two", "", "three four five", "", "six", ""]
    assert tokenize_captions([""], java=java) == [""]


def test_a_java_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(
        RuntimeError, match="expected 1 captions in tokens, found 0 and exit status 3: no memory"
    ):
        tokenize_captions(["a cat"])
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert find_java() is None
    assert tokenize_captions(["a Cat."]) == ["a cat"]  # by our own rules
