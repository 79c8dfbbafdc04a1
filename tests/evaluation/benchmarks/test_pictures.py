"""What a reader sees of two networks: the same examples, as plain data."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from fulgurite.evaluation.benchmarks import Captioning, PictureComparison, View, ZeroShot, compare_views
from fulgurite.evaluation.benchmarks.pictures import Confusion


@pytest.fixture
def other(clip):
    """The network with another image tower."""
    changed = deepcopy(clip)
    with torch.no_grad():
        changed.visual.proj.copy_(changed.visual.proj.roll(1, 1))
    return changed


def test_texts_with_the_pictures_nearest_to_them(clip, other, adapter, captioned) -> None:
    before, after = (View(network, adapter, captioned) for network in (clip, other))
    comparison = compare_views(before, after, count=4, shown=3)
    assert [each.text for each in comparison.retrieved] == [
        f"picture {place} seen 0"
        for place in (0, 5, 10, 15)  # evenly spaced over 20
    ]
    scores = before.text_vectors(["picture 5 seen 0"]) @ before.image_vectors().T
    first = comparison.retrieved[1]
    assert [found.index for found in first.before] == scores[0].argsort(descending=True)[:3].tolist()
    assert [found.score for found in first.before] == pytest.approx(sorted(scores[0].tolist())[:-4:-1])
    assert [found.name for found in first.before] == [f"{found.index}.png" for found in first.before]
    assert [found.right for found in first.before] == [found.index == 5 for found in first.before]
    assert first.before != first.after
    assert comparison.captions == ()
    assert comparison.confusion is None


def test_indices_are_those_of_the_split(clip, other, adapter, labelled) -> None:
    before, after = (View(network, adapter, labelled, limit=10) for network in (clip, other))
    found = compare_views(before, after, count=2, shown=10).retrieved[0].before
    assert sorted(each.index for each in found) == list(range(0, 70, 7))
    assert [each.right for each in found] == ["cat" in labelled.captions[each.index] for each in found]


def test_confusion_matrices_are_those_of_zero_shot(clip, other, adapter, labelled) -> None:
    before, after = (View(network, adapter, labelled) for network in (clip, other))
    zero_shot = ZeroShot(["the {}"])
    confusion = compare_views(before, after, zero_shot=zero_shot).confusion
    assert confusion.classes == labelled.classes
    for view, matrix in ((before, confusion.before), (after, confusion.after)):
        assert np.sum(matrix) == 70
        hits = np.trace(matrix) / 70
        assert hits == pytest.approx(zero_shot.evaluate(view).measures[0].value)
    assert confusion.before != confusion.after


def test_many_classes_are_narrowed_to_those_that_changed_and_no_picture_is_lost() -> None:
    right = np.diag([4] * 6)
    after = right.copy()
    after[1, 1:4] = (1, 0, 3)  # three of class 1 are taken for 3 now
    after[4, 4:] = (2, 2)
    whole = Confusion(tuple("abcdef"), *(tuple(map(tuple, side.tolist())) for side in (right, after)))
    assert whole.narrowed(6) is whole
    small = whole.narrowed(3)
    assert (small.classes, small.others) == (("b", "e", "4 others"), 4)
    assert small.before == ((4, 0, 0), (0, 4, 0), (0, 0, 16))
    assert small.after == ((1, 0, 3), (0, 2, 2), (0, 0, 16))
    assert whole.narrowed(5).narrowed(3) == small


def test_of_classes_that_did_not_change_the_most_confused_are_kept() -> None:
    matrix = ((3, 1, 0, 0), (0, 4, 0, 0), (2, 0, 2, 0), (0, 0, 0, 4))
    assert Confusion(tuple("abcd"), matrix, matrix).narrowed(3).classes == ("a", "c", "2 others")


def test_captions_stand_side_by_side(clip, other, adapter, captioned) -> None:
    adapter.writes_captions = True
    adapter.generate = lambda network, pixels, num_beams, max_new_tokens: (
        [f" {num_beams} by {'one' if network is clip else 'other'}"] * len(pixels)
    )
    before, after = (View(network, adapter, captioned) for network in (clip, other))
    captions = compare_views(before, after, count=2, captioning=Captioning(num_beams=5)).captions
    assert [(each.index, each.name) for each in captions] == [(0, "0.png"), (10, "10.png")]
    assert (captions[1].before, captions[1].after) == ("5 by one", "5 by other")
    assert captions[1].references == ("picture 10 seen 0", "picture 10 seen 1")


def test_json_and_back(clip, other, adapter, labelled) -> None:
    adapter.writes_captions = True
    adapter.generate = lambda network, pixels, **settings: ["a caption"] * len(pixels)
    comparison = compare_views(*(View(network, adapter, labelled) for network in (clip, other)))
    record = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert PictureComparison.from_dict(record) == comparison
    assert comparison.confusion is not None
    assert len(comparison.retrieved) == len(comparison.captions) == 6


def test_a_network_that_diverged_finds_nothing(clip, adapter, labelled) -> None:
    diverged = deepcopy(clip)
    with torch.no_grad():
        diverged.visual.proj.fill_(float("nan"))
    comparison = compare_views(View(clip, adapter, labelled), View(diverged, adapter, labelled))
    assert all(each.before and not each.after for each in comparison.retrieved)
    assert np.sum(comparison.confusion.after) == 0
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_views_of_other_pictures_are_refused(clip, adapter, labelled) -> None:
    whole, part = View(clip, adapter, labelled), View(clip, adapter, labelled, limit=5)
    with pytest.raises(ValueError, match="views must be of the same pictures, got 70 of .* and 5 of"):
        compare_views(whole, part)
    with pytest.raises(ValueError, match="count and shown must be at least 1, got count=0 and shown=5"):
        compare_views(whole, whole, count=0)
    with pytest.raises(ValueError, match="most_classes must be at least 2, got 1"):
        compare_views(whole, whole, most_classes=1)
