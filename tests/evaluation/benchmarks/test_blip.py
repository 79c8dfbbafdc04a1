"""Captioning and matching of small BLIPs of transformers, against what the networks themselves give."""

import numpy as np
import pytest
import torch

from fulgurite.evaluation.benchmarks import Captioning, Matching, Retrieval, View, run_benchmarks
from fulgurite.evaluation.benchmarks.caption_scores import score_captions
from fulgurite.evaluation.benchmarks.caption_tokens import tokenize_captions
from fulgurite.evaluation.benchmarks.matching import choose_texts

SCENES = [
    *(
        "a cat sits on a mat",
        "two dogs run over the grass",
        "a red car in the street",
        "people eat at a table",
    ),
    *("a train in the station", "the ship at sea", "a man holds a phone", "birds over a house"),
]
CAPTIONS = [[scene, f"here is {scene}"] for scene in SCENES]


@pytest.fixture(scope="module")
def blip():
    """Build a network with random weights that knows the words of the scenes."""
    from fulgurite.models import build_image_text, train_caption_tokenizer

    tokenizer = train_caption_tokenizer([text for texts in CAPTIONS for text in texts], 300, "bert")
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {
        "library": "transformers",
        "vision_config": {**width, "image_size": 32, "patch_size": 8, "initializer_range": 0.2},
        "text_config": {**width, "encoder_hidden_size": 32, "initializer_range": 0.2},
    }

    def build(kind: str):
        torch.manual_seed(0)
        return build_image_text({**config, "model_type": kind}, tokenizer)

    return build


def test_captions_are_scored_as_the_network_generates_them(blip, captioned) -> None:
    network, adapter = blip("blip_caption")
    split = type(captioned)(CAPTIONS)
    benchmark = Captioning(num_beams=2, max_new_tokens=8, meteor="off", spice="off")
    view = View(network, adapter, split, batch_size=3)
    cider, rouge = run_benchmarks([benchmark], view).measures
    assert network.training  # as it was built
    network.eval()
    with torch.no_grad():
        said = adapter.generate(network, split.values, num_beams=2, max_new_tokens=8)
    assert len(set(said)) > 1  # it does look at the pictures
    expected = score_captions(tokenize_captions(said), [tokenize_captions(texts) for texts in CAPTIONS])
    np.testing.assert_allclose(cider.items, expected.cider)
    np.testing.assert_allclose(rouge.items, expected.rouge_l)
    assert rouge.value > 0  # words in common there are


def test_matching_is_that_of_the_matching_head(blip, captioned) -> None:
    network, adapter = blip("blip_matching")
    split = type(captioned)(CAPTIONS)
    found = run_benchmarks(
        [Matching(negatives=3), Retrieval((1,))], View(network, adapter, split, batch_size=3)
    )
    network.eval()
    expected = []
    for place, texts in enumerate(choose_texts(CAPTIONS, 3, seed=0)):
        pixels = split.values[place : place + 1].expand(4, -1, -1, -1)
        with torch.no_grad():
            odds = network(**adapter.batch(pixels, adapter.tokenize(texts))).itm_score.softmax(1)[:, 1]
        expected.append(float(odds.argmax() == 0))
    assert found.measures[0].items.tolist() == expected
    assert 0 < found.measures[0].value < 1


def test_a_network_that_has_no_captions_or_matches_is_refused(blip, captioned) -> None:
    (_, writes), (_, matches) = blip("blip_caption"), blip("blip_matching")
    with pytest.raises(
        ValueError, match="Captioning needs a network that writes captions, got blip_matching"
    ):
        Captioning().check(matches, captioned)
    with pytest.raises(ValueError, match="Matching needs .* together, got blip_caption"):
        Matching().check(writes, captioned)
    with pytest.raises(ValueError, match="Retrieval needs a network with vectors .*, got blip_caption"):
        Retrieval().check(writes, captioned)
