"""Vectors against the reference's."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fulgurite.evaluation.benchmarks import Drift, TowerVectors, View
from fulgurite.evaluation.measure import retention


def test_a_reference_is_faithful_to_itself(clip, adapter, captioned) -> None:
    for measure in Drift().evaluate(View(clip, adapter, captioned)).measures:
        np.testing.assert_allclose(measure.items, measure.weights, atol=1e-12)
        assert measure.chance < 0.999


def test_fidelity_is_the_mean_cosine_over_pictures_and_over_captions(clip, adapter, captioned) -> None:
    own = View(clip, adapter, captioned).tower_vectors()
    moved = TowerVectors(*(each + 0.1 * torch.randn_like(each) for each in (own.images, own.captions)))
    images, texts = Drift().evaluate(View(clip, adapter, captioned, reference=moved)).measures
    for measure, ours, theirs in (
        (images, own.images, moved.images),
        (texts, own.captions, moved.captions),
    ):
        expected = functional.cosine_similarity(ours, theirs).mean()
        assert measure.value == pytest.approx(float(expected), abs=1e-6)
        assert len(measure.items) == 20  # pictures, also where there are several captions


def test_chance_is_the_reference_of_another(clip, adapter, captioned) -> None:
    reference = View(clip, adapter, captioned).tower_vectors()
    images, _ = Drift().evaluate(View(clip, adapter, captioned, reference=reference)).measures
    other = torch.cat([reference.images[10:], reference.images[:10]])  # half of the 20 further on
    expected = functional.cosine_similarity(reference.images, other)
    np.testing.assert_allclose(images.chance_items, expected, atol=1e-6)


def test_a_tower_that_mixes_its_pictures_up_retains_nothing(looked_up) -> None:
    texts = {str(place): vector for place, vector in enumerate(torch.randn(8, 16))}
    images, captions = torch.randn(8, 16), [[str(place)] for place in range(8)]
    view = looked_up(images, texts, captions)
    mixed = looked_up(images.roll(-4, 0), texts, captions, reference=view.tower_vectors())
    before, after = (Drift().evaluate(each).measures for each in (view, mixed))
    assert retention(before[0], after[0]) == pytest.approx(0, abs=1e-12)
    assert retention(before[1], after[1]) == pytest.approx(1, abs=1e-12)


def test_vectors_of_other_pictures_are_refused(clip, adapter, captioned) -> None:
    reference = View(clip, adapter, captioned, limit=10).tower_vectors()
    with pytest.raises(
        ValueError, match=r"image_fidelity: .* \[20, 32\], of the same split .* got \[10, 32\]"
    ):
        Drift().evaluate(View(clip, adapter, captioned, reference=reference))
    with pytest.raises(ValueError, match="Drift needs two pictures or more, got 1"):
        Drift().evaluate(View(clip, adapter, captioned, limit=1))
