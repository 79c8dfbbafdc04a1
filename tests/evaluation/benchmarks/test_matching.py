"""Own captions against those of others."""

import numpy as np
import pytest
import torch
from torch import nn

from fulgurite.evaluation.benchmarks import Matching, View
from fulgurite.evaluation.benchmarks.matching import choose_texts

CAPTIONS = [[f"picture {place}", f"the {place}th"] for place in range(12)]


@pytest.fixture
def matching_view(adapter, captioned):
    """A view of a network whose log-odds are a function of the picture's place and the words of the text."""

    def make(odds, captions=CAPTIONS, **settings) -> View:
        values = torch.arange(float(len(captions))).reshape(-1, 1, 1, 1)
        adapter.tokenize = lambda texts: torch.tensor([int(text.split()[1].rstrip("th")) for text in texts])
        adapter.match = lambda network, pixels, tokens: torch.stack(
            [torch.zeros(len(tokens)), odds(pixels.flatten(), tokens)], 1
        )
        adapter.matches = True
        return View(
            nn.Identity(), adapter, type(captioned)(captions, values=values), batch_size=5, **settings
        )

    return make


def test_the_share_of_true_captions_above_all_others(matching_view) -> None:
    # pictures from 8 on are taken for the first
    view = matching_view(lambda picture, text: -(torch.where(picture < 8, picture, 0.0) - text).abs().float())
    (measure,) = Matching(negatives=3).evaluate(view).measures
    assert measure.items.tolist()[:8] == [1.0] * 8
    assert measure.value < 1
    assert measure.chance == 0.25
    assert (measure.name, measure.unit) == ("matching", "%")


def test_a_network_that_says_the_same_of_all_scores_at_chance(matching_view) -> None:
    (measure,) = Matching(negatives=2).evaluate(matching_view(lambda picture, text: 0.0 * picture)).measures
    np.testing.assert_allclose(measure.items, 1 / 3)
    assert measure.value == pytest.approx(measure.chance)


def test_a_network_that_diverged_gives_nan_items(matching_view) -> None:
    view = matching_view(lambda picture, text: torch.where(picture == 3, torch.nan, picture))
    (measure,) = Matching().evaluate(view).measures
    assert np.flatnonzero(np.isnan(measure.items)).tolist() == [3]


def test_others_are_drawn_by_the_seed_and_differ_from_all_of_its_own() -> None:
    captions = [["a", "b"], ["b"], ["c"], ["a"], ["d", "c"]]
    for seed in range(20):
        texts = choose_texts(captions, 2, seed)
        assert texts == choose_texts(captions, 2, seed)
        for own, (true, *others) in zip(captions, texts, strict=True):
            assert true == own[0]
            assert len(set(others) - set(own)) == 2
    assert len({str(choose_texts(captions, 2, seed)) for seed in range(20)}) > 1


def test_bad_settings_networks_and_data_are_refused(adapter, captioned) -> None:
    with pytest.raises(ValueError, match="negatives must be at least 1, got 0"):
        Matching(negatives=0)
    with pytest.raises(ValueError, match="Matching needs a network that scores .* together, got tiny"):
        Matching().check(adapter, captioned)
    adapter.matches = True
    Matching().check(adapter, captioned)
    with pytest.raises(ValueError, match="Matching needs 1 captions .* from those of picture 0, got 0"):
        Matching().check(adapter, type(captioned)([["a"], ["a"]]))
