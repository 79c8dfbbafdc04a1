"""Zero-shot classification against open_clip's classifier and torchmetrics."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fulgurite.evaluation.benchmarks import View, ZeroShot
from fulgurite.evaluation.benchmarks.zero_shot import class_vectors

TEMPLATES = ["a photo of a {}.", "one {} in a {} picture", "the {}"]


def test_class_vectors_are_those_of_open_clip(clip, adapter, labelled) -> None:
    from open_clip import build_zero_shot_classifier

    clip.eval()
    expected = build_zero_shot_classifier(
        clip, adapter.tokenize, labelled.classes, [t.replace("{}", "{0}") for t in TEMPLATES]
    )
    ours = class_vectors(View(clip, adapter, labelled), labelled.classes, TEMPLATES)
    torch.testing.assert_close(ours, expected.T, atol=1e-5, rtol=0)


def test_top_1_and_top_5_are_those_of_torchmetrics(clip, adapter, labelled) -> None:
    from torchmetrics.functional.classification import multiclass_accuracy

    view = View(clip, adapter, labelled)
    scores = view.image_vectors() @ class_vectors(view, labelled.classes, TEMPLATES).T
    labels = torch.from_numpy(labelled.labels)
    top1, top5 = ZeroShot(TEMPLATES).evaluate(view).measures
    assert (top1.name, top5.name, top1.unit) == ("top1", "top5", "%")
    for measure, k in ((top1, 1), (top5, 5)):
        expected = multiclass_accuracy(scores, labels, 7, average="micro", top_k=k)
        assert measure.value == pytest.approx(float(expected), abs=1e-6)
    assert 0 < top1.value < top5.value < 1


def test_chance_is_the_share_of_the_commonest_classes(clip, adapter, labelled) -> None:
    top1, top5 = ZeroShot().evaluate(View(clip, adapter, labelled)).measures
    assert top1.chance == pytest.approx(22 / 70)
    assert top5.chance == pytest.approx((22 + 16 + 12 + 8 + 6) / 70)


def test_five_classes_have_no_top_5(clip, adapter, labelled) -> None:
    few = type(labelled)(labelled.captions, labelled.classes[:5], np.minimum(labelled.labels, 4))
    assert [measure.name for measure in ZeroShot().evaluate(View(clip, adapter, few)).measures] == ["top1"]


def test_a_network_that_says_the_same_of_all_is_not_above_chance(looked_up, labelled) -> None:
    same = torch.ones(4)
    texts = dict.fromkeys((f"a photo of a {name}." for name in labelled.classes), same)
    view = looked_up(
        same.expand(70, 4), texts, labelled.captions, classes=labelled.classes, labels=labelled.labels
    )
    top1, top5 = ZeroShot().evaluate(view).measures
    np.testing.assert_allclose(top1.items, 1 / 7)  # a guess among equals
    np.testing.assert_allclose(top5.items, 5 / 7)


def test_a_network_that_diverged_gives_nan_items(clip, adapter, labelled) -> None:
    diverged = deepcopy(clip)
    with torch.no_grad():
        diverged.visual.proj.fill_(float("nan"))
    result = ZeroShot().result(View(diverged, adapter, labelled))
    assert result.measures[0].num_not_finite == 70
    assert set(result.predictions.tolist()) == {-1}
    assert int(result.scores.confusion.sum()) == 0
    facts = ZeroShot().evaluate(View(diverged, adapter, labelled)).facts
    assert np.isnan(facts["zero_shot_f1"])
    assert facts["zero_shot_worst_class"] is None


def test_the_result_says_what_became_of_each_class(clip, adapter, labelled) -> None:
    result = ZeroShot().result(View(clip, adapter, labelled))
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (result.labels, result.predictions), 1)
    assert result.scores.confusion.tolist() == expected.tolist()
    hits = np.diag(expected)
    np.testing.assert_allclose(result.scores.class_accuracy, hits / expected.sum(1), atol=1e-6)
    said = expected.sum(0)
    precision = np.mean(np.divide(hits, said, out=np.zeros(7), where=said > 0))
    assert result.scores.precision == pytest.approx(precision, abs=1e-6)
    assert result.scores.recall == pytest.approx(np.mean(hits / expected.sum(1)), abs=1e-6)
    f1 = np.mean(2 * hits / (said + expected.sum(1)))
    assert result.scores.f1 == pytest.approx(f1, abs=1e-6)
    assert result.measures[0].value == pytest.approx(hits.sum() / 70)


def test_other_names_may_be_given_to_the_classes(looked_up) -> None:
    vectors = torch.eye(2)
    view = looked_up(
        vectors,
        {"feline": vectors[0], "canine": vectors[1], "x": vectors[0]},
        [["x"], ["x"]],
        classes=("n02", "n07"),
        labels=np.array([0, 1]),
    )
    (top1,) = ZeroShot(["{}"], classes=["feline", "canine"]).evaluate(view).measures
    assert top1.value == 1
    with pytest.raises(ValueError, match="a name for each of the 2 of pictures in memory, got 3"):
        ZeroShot(["{}"], classes=["a", "b", "c"]).evaluate(view)


def test_the_committed_templates_can_be_read(request) -> None:
    folder = Path(request.config.rootpath) / "configs" / "prompts"
    files = sorted(folder.glob("*.txt"))
    assert files
    for path in files:
        assert len(set(ZeroShot(str(path)).templates)) > 3


def test_settings_that_cannot_be_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"templates must have \{\} in the place of the class, got 'a cat'"):
        ZeroShot(["a cat"])
    with pytest.raises(ValueError, match="templates: expected one of templates at least, found none"):
        ZeroShot([])
    with pytest.raises(ValueError, match="nowhere.txt: expected a file of classes, one a line, found none"):
        ZeroShot(classes=str(tmp_path / "nowhere.txt"))
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(ValueError, match="empty.txt: expected one of classes at least, found none"):
        ZeroShot(classes=str(tmp_path / "empty.txt"))


def test_networks_without_vectors_and_splits_without_classes_are_refused(
    adapter, labelled, captioned
) -> None:
    with pytest.raises(ValueError, match="ZeroShot needs pictures with classes"):
        ZeroShot().check(adapter, captioned)
    no_names = type(labelled)(labelled.captions, (), labelled.labels)
    with pytest.raises(ValueError, match="ZeroShot needs pictures with classes"):
        ZeroShot().check(adapter, no_names)
    adapter.has_vectors = False
    with pytest.raises(ValueError, match="ZeroShot needs a network with vectors .* got tiny, which has none"):
        ZeroShot().check(adapter, labelled)


def test_means_over_templates_are_brought_to_length_1(clip, adapter, labelled) -> None:
    view = View(clip, adapter, labelled)
    vectors = class_vectors(view, ["cat"], TEMPLATES)
    parts = view.text_vectors([template.replace("{}", "cat") for template in TEMPLATES])
    torch.testing.assert_close(vectors[0], functional.normalize(parts.sum(0), dim=0))
