"""Items cut from running text."""

import random

import pytest

from fulgurite.evaluation.harness.text_items import cut_choices, cut_documents, cut_last_words

ORIGINAL = " = Cats = \n \n Cats sleep . \n They eat . \n \n = = Food = = \n \n Fish . \n = Dogs = \n \n Dogs run . \n"


def story(paragraphs: int = 40) -> str:
    draw = random.Random(0)
    names = ["Anna", "Tom", "Lily", "Max", "Sue", "Ben"]
    things = ["garden", "kitchen", "window", "river", "market", "school"]
    sentences = [
        f"{draw.choice(names)} went to the {draw.choice(things)} number {index}."
        for index in range(5 * paragraphs)
    ]
    return "\n\n".join(" ".join(sentences[index : index + 5]) for index in range(0, len(sentences), 5))


def test_articles_begin_at_titles_and_not_at_sections() -> None:
    pages = [item["page"] for item in cut_documents([ORIGINAL], titles=True)]
    assert [page.split("\n", 1)[0] for page in pages] == [" = Cats = ", " = Dogs = "]
    assert "".join(pages) == ORIGINAL


def test_rows_joined_by_two_line_ends_become_the_original() -> None:
    kept = ["" if line == " " else line + "\n" for line in ORIGINAL.rstrip("\n").split("\n")]
    joined = "\n\n".join(["", *kept])  # as the hub's rows are when they are joined for perplexity
    assert "".join(item["page"] for item in cut_documents([joined], titles=True)) == ORIGINAL


def test_a_text_without_titles_is_refused() -> None:
    with pytest.raises(ValueError, match="expected titles"):
        cut_documents(["no titles here"], titles=True)


def test_short_documents_stay_whole_and_long_ones_are_cut() -> None:
    short, long = "one two three", "word " * 100
    pages = [item["page"] for item in cut_documents([short, long], num_bytes=50)]
    assert pages[0] == short
    assert all(len(page) <= 50 for page in pages)
    assert [page.count("word") for page in pages[1:]] == [10] * 9  # the rest, which may be short, is left out


def test_continuations_have_the_true_one_at_its_place_and_others_of_its_length() -> None:
    text = story()
    items = cut_choices([text], count=30)
    assert len(items) == 30
    for item in items:
        true = item["choices"][item["answer"]]
        assert f"{item['context']} {true}" in text
        assert len(set(item["choices"])) == 4
        assert all(
            abs(len(other) - len(true)) <= 6 for other in item["choices"]
        )  # names and things differ by three
    assert len({item["answer"] for item in items}) == 4  # no place is always the right one
    assert cut_choices([text], count=30) == items


def test_too_little_text_for_a_choice_is_said() -> None:
    with pytest.raises(
        ValueError, match="expected a text with 40 sentences, and paragraphs of 4, found 5 sentences"
    ):
        cut_choices([story(1)])


def test_no_passage_reaches_from_one_text_into_the_next() -> None:
    # paragraphs of two sentences in a text each: no place has three sentences of its own paragraph in front
    texts = [
        "\n\n".join(
            f"The old cat number {n} sat on mat {k}. Two dogs saw cat {n} run over {k} hills." for k in (1, 2)
        )
        for n in range(200)
    ]
    with pytest.raises(ValueError, match="found 800 sentences and 0 such places"):
        cut_choices(texts)


def test_last_words_are_questions_of_the_harness() -> None:
    text = "Anna went with Tom to the river. Lily went with Max to the house. Sue went with Ben to the plant."
    (first, *_) = cut_last_words([text], count=5)
    assert set(first) == {"context", "choices", "answer"}
    assert len(first["choices"]) == 4
