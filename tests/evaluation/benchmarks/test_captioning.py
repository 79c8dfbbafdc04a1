"""Captions against those of people: scores of pycocoevalcap, their chance, and what is left out without Java."""

import io
import json
import logging
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from fulgurite.evaluation.benchmarks import Captioning, View
from fulgurite.evaluation.benchmarks.caption_scores import (
    meteor_score,
    missing_for_meteor,
    missing_for_spice,
    score_captions,
    spice_score,
)
from fulgurite.evaluation.benchmarks.caption_tokens import find_java, tokenize_captions

PLAIN = Captioning(meteor="off", spice="off")
REFERENCES = [
    ["A cat sits on a red mat.", "The cat's on its mat."],
    ["A dog runs over the grass.", "One dog running."],
    ["Two ships at sea", "Some ships on blue water"],
    ["A man eats an apple.", "He is eating."],
    ["A train in the station", "The station has a train."],
]
WRITTEN = ["a cat on a mat", "the dog runs", "ships at sea", "a man with a dog", "a red train"]


@pytest.fixture
def captioned_view(adapter, captioned) -> Callable[..., View]:
    """A view of a network that knows its captions by heart."""

    def make(written: list[str], references: list[list[str]], network: nn.Module | None = None) -> View:
        values = torch.arange(float(len(written))).reshape(-1, 1, 1, 1)
        adapter.writes_captions = True
        adapter.generate = lambda network, pixels, **settings: [
            written[int(place)] for place in pixels.flatten().tolist()
        ]
        network = network if network is not None else nn.Linear(1, 1)
        return View(network, adapter, type(captioned)(references, values=values), batch_size=2)

    return make


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[list[str]]:
    path = shared_data / "images" / "coco_ccby" / "captions.json"
    if not path.is_file():
        pytest.skip("no real captions: images/coco_ccby is not there")
    images = json.loads(path.read_text())["images"][:40]
    return [[each["raw"] for each in image["sentences"]] for image in images]


@pytest.mark.skipif(find_java() is None, reason="no Java: pycocoevalcap cannot tokenize")
def test_scores_are_those_of_pycocoevalcap(photos: list[list[str]], captioned_view) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    written, references = [some[0] for some in photos], [some[1:] for some in photos]
    tokenizer = PTBTokenizer()
    known = tokenizer.tokenize({i: [{"caption": text} for text in some] for i, some in enumerate(references)})
    said = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(written)})
    found = PLAIN.evaluate(captioned_view(written, references))
    cider, rouge = found.measures
    for measure, scorer in ((cider, Cider()), (rouge, Rouge())):
        score, scores = scorer.compute_score(known, said)
        assert measure.value == pytest.approx(score, abs=1e-4)
        np.testing.assert_allclose(measure.items, scores, atol=1e-4)
    for order, score in enumerate(Bleu(4).compute_score(known, said)[0], start=1):
        assert found.facts[f"bleu_{order}"] == pytest.approx(score, abs=1e-4)
    assert cider.value > 5 * cider.chance  # people who see the picture say more alike


def test_cider_and_rouge_by_hand() -> None:
    scores = score_captions(["a b", "c d"], [["a b"], ["c e"]])
    # ROUGE-L with beta 1.2 of precision and recall 1/2 is 1/2
    np.testing.assert_allclose(scores.rouge_l, [1, 0.5])
    # of equal words of one and two letters: cosine 1 for n = 1, 2 and none for 3, 4, times 10 over 4 n
    np.testing.assert_allclose(scores.cider, [5, 10 / 4 * 0.5])
    # the clipped precision: 3 of 4 words
    assert scores.bleu[0] == pytest.approx(0.75)


def test_chance_is_the_caption_of_another_picture(captioned_view) -> None:
    cider, rouge = PLAIN.evaluate(captioned_view(WRITTEN, REFERENCES)).measures
    words = tokenize_captions([*WRITTEN[2:], *WRITTEN[:2]])  # two on of five
    references = [tokenize_captions(some) for some in REFERENCES]
    expected = score_captions(words, references)
    np.testing.assert_allclose(cider.chance_items, expected.cider)
    np.testing.assert_allclose(rouge.chance_items, expected.rouge_l)
    assert cider.value > cider.chance


def test_who_writes_the_same_of_all_pictures_is_at_chance(captioned_view) -> None:
    found = PLAIN.evaluate(captioned_view(["a cat on a mat"] * 5, REFERENCES))
    for measure in found.measures:
        assert measure.items.tolist() == measure.chance_items.tolist()
    assert found.facts["different_captions"] == pytest.approx(1 / 5)


def test_a_network_without_finite_weights_gives_nan_items(captioned_view) -> None:
    network = nn.Linear(1, 1)
    with torch.no_grad():
        network.weight.fill_(float("nan"))
    found = PLAIN.evaluate(captioned_view(WRITTEN, REFERENCES, network))
    assert [measure.num_not_finite for measure in found.measures] == [5, 5]
    assert set(found.facts.values()) == {None}


def test_captions_are_written_once_for_equal_settings(captioned_view) -> None:
    view = captioned_view(WRITTEN, REFERENCES)
    first = view.captions_written(num_beams=2)
    assert first == WRITTEN
    assert view.captions_written(num_beams=2) is first
    assert view.captions_written(num_beams=1) is not first
    assert view.captions_written(num_beams=2, places=[3, 1]) == [WRITTEN[3], WRITTEN[1]]


def test_captions_of_some_pictures_are_written_for_these_alone(captioned_view) -> None:
    view = captioned_view(WRITTEN, REFERENCES)
    asked: list[int] = []
    written = view.adapter.generate
    view.adapter.generate = lambda network, pixels, **settings: (
        asked.append(len(pixels)) or written(network, pixels)
    )
    assert view.captions_written(places=[4, 0, 2]) == [WRITTEN[4], WRITTEN[0], WRITTEN[2]]
    assert asked == [2, 1]  # in batches of two
    assert view.captions_written() == WRITTEN


@pytest.mark.slow  # not minutes, but up to 15 seconds of Java reading its tables
@pytest.mark.skipif(find_java() is None, reason="no Java: METEOR cannot run")
def test_meteor_is_that_of_the_jar_and_nothing_is_printed(captioned_view, capfd) -> None:
    view = captioned_view(["A cat on a mat.", "the dog"], [["A cat sits on a mat.", "a cat"], ["A dog!"]])
    facts = Captioning(meteor="on", spice="off").evaluate(view).facts
    # what pycocoevalcap.meteor.meteor.Meteor().compute_score gave for the same words; a Java takes seconds to start
    assert facts["meteor"] == pytest.approx(0.3573882, abs=1e-6)
    assert capfd.readouterr() == ("", "")


def test_what_java_is_needed_for_is_left_out_without_it(
    captioned_view, monkeypatch, tmp_path, caplog
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    view = captioned_view(WRITTEN, REFERENCES)
    with caplog.at_level(logging.INFO):
        facts = Captioning().evaluate(view).facts
    assert facts["meteor"] is None
    assert facts["spice"] is None
    assert facts["bleu_1"] > 0
    assert "meteor is left out: no Java is found" in caplog.text
    with pytest.raises(ValueError, match="meteor must be auto or off here, got 'on', but no Java is found"):
        Captioning(meteor="on").check(view.adapter, view.split)
    with pytest.raises(RuntimeError, match="METEOR needs Java and its jars, but no Java is found"):
        meteor_score(WRITTEN, REFERENCES)
    assert Captioning().settings["java"] is False


@pytest.mark.skipif(find_java() is None, reason="no Java: nothing is looked for")
def test_spice_says_which_models_it_lacks_and_fetches_none() -> None:
    if missing_for_spice() is None:
        pytest.skip("SPICE's models are here")
    assert missing_for_meteor() is None
    assert "comes without lib/stanford-corenlp-3.6.0.jar" in str(missing_for_spice())
    with pytest.raises(
        RuntimeError, match="SPICE needs Java and its jars, but pycocoevalcap comes without lib"
    ):
        spice_score(WRITTEN, REFERENCES)


def test_pycocoevalcap_prints_nothing_through_us(captioned_view) -> None:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        PLAIN.evaluate(captioned_view(WRITTEN, REFERENCES))
    assert out.getvalue() == err.getvalue() == ""


def test_yaml_may_say_on_and_off_without_quotes() -> None:
    settings = yaml.safe_load("{meteor: off, spice: on}")
    assert settings == {"meteor": False, "spice": True}
    assert Captioning(**settings) == Captioning(meteor="off", spice="on")


def test_bad_settings_networks_and_data_are_refused(adapter, captioned, captioned_view) -> None:
    with pytest.raises(ValueError, match="num_beams must be at least 1, got 0"):
        Captioning(num_beams=0)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got -1"):
        Captioning(max_new_tokens=-1)
    with pytest.raises(ValueError, match="spice must be auto, off or on, got 'yes'"):
        Captioning(spice="yes")
    with pytest.raises(ValueError, match="Captioning needs a network that writes captions, got tiny"):
        PLAIN.check(adapter, captioned)
    with pytest.raises(ValueError, match="Captioning needs two pictures or more, got 1"):
        PLAIN.evaluate(captioned_view(["a"], [["a"]]))
    with pytest.raises(ValueError, match="references must have words, got none but empty ones"):
        PLAIN.evaluate(captioned_view(["a", "b"], [["."], ["!"]]))
