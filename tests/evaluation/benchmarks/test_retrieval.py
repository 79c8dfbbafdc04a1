"""Retrieval against torchmetrics and against the definition, and what ties and shared captions count."""

import math

import numpy as np
import pytest
import torch

from fulgurite.evaluation.benchmarks import Retrieval, View
from fulgurite.evaluation.benchmarks.ranking import Ranking, rank
from fulgurite.evaluation.benchmarks.retrieval import rankings


@pytest.fixture
def scores(clip, adapter, captioned) -> torch.Tensor:
    view = View(clip, adapter, captioned)
    return view.image_vectors().double() @ view.caption_vectors()[0].double().T


def test_recall_is_that_of_torchmetrics(clip, adapter, captioned, scores) -> None:
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalRecall

    view = View(clip, adapter, captioned, batch_size=6)
    found = Retrieval().evaluate(view)
    owners = torch.from_numpy(view.owners)
    right = owners[None] == torch.arange(len(view))[:, None]  # [pictures, captions]
    queries = {
        "image_to_text": torch.arange(len(view))[:, None].expand_as(right),
        "text_to_image": torch.arange(len(owners))[None].expand_as(right),
    }
    names = []
    for direction, query in queries.items():
        # torchmetrics takes what scores 0 or less as not found
        flat = (scores.flatten() + 1, right.flatten(), query.flatten())
        for k in (1, 5, 10):
            # of a caption one picture is right, so that a hit is a recall
            metric = (RetrievalHitRate if direction == "image_to_text" else RetrievalRecall)(top_k=k)
            names.append(f"{direction}_r{k}")
            measure = next(each for each in found.measures if each.name == names[-1])
            assert measure.value == pytest.approx(float(metric(flat[0], flat[1], indexes=flat[2])), abs=1e-6)
        reciprocal = float(RetrievalMRR()(flat[0], flat[1], indexes=flat[2]))
        assert found.facts[f"{direction}_mean_reciprocal_rank"] == pytest.approx(reciprocal, abs=1e-6)
    assert [measure.name for measure in found.measures] == names


def test_ranks_are_the_first_right_place_in_the_sorted_gallery(clip, adapter, captioned, scores) -> None:
    view = View(clip, adapter, captioned)
    found = Retrieval().evaluate(view)
    by_picture = [
        min(np.flatnonzero(view.owners[np.argsort(-row)] == place)) + 1
        for place, row in enumerate(scores.numpy())
    ]
    by_caption = [
        list(np.argsort(-column)).index(owner) + 1
        for owner, column in zip(view.owners, scores.numpy().T, strict=True)
    ]
    assert rankings(view)["image_to_text"].ranks().tolist() == by_picture
    assert rankings(view)["text_to_image"].ranks().tolist() == by_caption
    assert found.facts["image_to_text_median_rank"] == np.median(by_picture)
    assert found.facts["text_to_image_median_rank"] == np.median(by_caption)


def test_an_item_of_text_to_image_is_a_picture_with_all_its_captions(clip, adapter, captioned) -> None:
    view = View(clip, adapter, captioned)
    measure = next(m for m in Retrieval().evaluate(view).measures if m.name == "text_to_image_r5")
    hits = rankings(view)["text_to_image"].hits(5)
    assert measure.weights.tolist() == [len(texts) for texts in captioned.captions]
    assert measure.items.tolist() == [hits[view.owners == place].sum() for place in range(20)]
    assert measure.value == pytest.approx(hits.mean())


def test_chance_is_that_of_a_random_order(looked_up) -> None:
    captions = [["a1", "a2", "a3"], ["b1"], ["c1", "c2"], ["d1"]]
    texts = {text: torch.randn(8) for some in captions for text in some}
    measures = {
        m.name: m for m in Retrieval((1, 2)).evaluate(looked_up(torch.randn(4, 8), texts, captions)).measures
    }
    # of seven captions, none of one's own a among the first k: C(7 - a, k) / C(7, k)
    for k in (1, 2):
        expected = [1 - math.comb(7 - len(some), k) / math.comb(7, k) for some in captions]
        np.testing.assert_allclose(measures[f"image_to_text_r{k}"].chance_items, expected)
        assert measures[f"text_to_image_r{k}"].chance == pytest.approx(k / 4)


def test_a_network_that_says_the_same_of_all_is_at_chance(looked_up) -> None:
    captions = [[f"{place} {each}" for each in range(1 + place % 4)] for place in range(30)]
    same = torch.randn(33)  # 33: no multiple of what a processor adds up at once
    texts = dict.fromkeys((text for some in captions for text in some), same)
    for measure in Retrieval().evaluate(looked_up(same.expand(30, 33), texts, captions)).measures:
        np.testing.assert_allclose(measure.items, measure.chance_items, atol=1e-12)


def test_a_shared_caption_is_right_for_each_picture_that_has_it(looked_up) -> None:
    captions = [["red"], ["red", "round"], ["blue"]]
    axes = torch.eye(3)
    # the third picture looks red; the first two are known by their colour alone
    images = torch.stack([axes[0], axes[0], axes[0] + 0.1 * axes[1]])
    view = looked_up(images, {"red": axes[0], "round": axes[2], "blue": axes[1]}, captions)
    r1 = {m.name: m.items.tolist() for m in Retrieval((1,)).evaluate(view).measures}
    assert r1["image_to_text_r1"] == [1, 1, 0]
    # "red" finds either of the first two; "round" is equally far from all; "blue" finds its own
    assert r1["text_to_image_r1"] == pytest.approx([1, 1 + 1 / 3, 1])


def test_expected_hits_among_ties_are_those_of_all_orders() -> None:
    from itertools import permutations

    ranking = Ranking(*(np.array([value]) for value in (1, 2, 3, 2)), size=6, finite=np.array([True]))
    orders = list(set(permutations("rrwww")))  # after one wrong one that is above
    firsts = [1 + order.index("r") + 1 for order in orders]
    for k in range(1, 7):
        assert ranking.hits(k)[0] == pytest.approx(np.mean([first <= k for first in firsts]))
    assert ranking.ranks()[0] == pytest.approx(np.mean(firsts))


def test_chunks_do_not_change_the_result() -> None:
    queries, gallery = torch.randn(9, 16), torch.randn(13, 16)
    groups = [np.array([place, 12 - place]) for place in range(3)]
    group_of = np.arange(9) % 3
    whole = rank(queries, gallery, groups, group_of)
    parts = rank(queries, gallery, groups, group_of, at_once=2 * 13)  # 2 queries: they do not divide the 9
    assert len(whole.above) == 9
    assert whole.ranks().tolist() == parts.ranks().tolist()


def test_a_k_of_the_whole_gallery_is_left_out(looked_up) -> None:
    texts = {"a": torch.randn(4), "b": torch.randn(4), "c": torch.randn(4)}
    view = looked_up(torch.randn(3, 4), texts, [["a"], ["b"], ["c"]])
    assert [m.name for m in Retrieval((1, 3)).evaluate(view).measures] == [
        "image_to_text_r1",
        "text_to_image_r1",
    ]


def test_vectors_that_are_no_numbers_give_nan_items(looked_up) -> None:
    texts = {"a": torch.randn(4), "b": torch.full((4,), float("nan")), "c": torch.randn(4)}
    found = Retrieval((1,)).evaluate(looked_up(torch.randn(3, 4), texts, [["a"], ["b"], ["c"]]))
    to_text, to_image = found.measures
    assert to_text.num_not_finite == 3  # the text stands in the gallery of all
    assert np.isnan(to_image.items).tolist() == [False, True, False]
    assert np.isnan(found.facts["image_to_text_median_rank"])


def test_bad_settings_and_data_are_refused(adapter, captioned) -> None:
    for ks in ((), (0, 1), (5, 5)):
        with pytest.raises(ValueError, match="ks must be different numbers from 1"):
            Retrieval(ks)
    with pytest.raises(ValueError, match="Retrieval at 20 needs more pictures, got 20"):
        Retrieval((20,)).check(adapter, captioned)
    bare = type(captioned)([["a"], []])
    with pytest.raises(ValueError, match="Retrieval needs a caption of each picture, got none of 1.png"):
        Retrieval((1,)).check(adapter, bare)
    adapter.has_vectors = False
    with pytest.raises(ValueError, match="Retrieval needs a network with vectors"):
        Retrieval().check(adapter, captioned)
