"""One network on one split: what is computed once, and what is left as it was."""

import numpy as np
import pytest
import torch

from fulgurite.evaluation.benchmarks import Retrieval, View, ZeroShot, run_benchmarks


def test_vectors_are_those_of_the_network_in_eval_mode(clip, adapter, captioned) -> None:
    view = View(clip, adapter, captioned, batch_size=7)  # 7: does not divide the 20 pictures
    clip.eval()
    with torch.no_grad():
        expected = clip.encode_image(captioned.values, normalize=True)
    torch.testing.assert_close(view.image_vectors(), expected)
    vectors, owners = view.caption_vectors()
    assert vectors.shape == (len(owners), 32)
    assert owners[:6].tolist() == [0, 1, 1, 2, 2, 2]  # one, two and three captions


def test_modes_are_restored_part_by_part(clip, adapter, captioned) -> None:
    clip.train()
    clip.visual.eval()  # as a frozen tower is
    try:
        View(clip, adapter, captioned).tower_vectors()
        assert clip.training
        assert not clip.visual.training
    finally:
        clip.eval()


def test_pictures_are_read_once(clip, adapter, labelled) -> None:
    seen: list[int] = []
    view = View(clip, adapter, labelled, batch_size=10, progress=seen.append)
    run_benchmarks([ZeroShot()], view)
    first = seen[-1]
    assert first == 70 + 7  # all pictures, and a text of each of seven classes
    run_benchmarks([ZeroShot(), Retrieval(ks=(1,))], view)
    assert seen[-1] == first + 7 + 7  # the classes again, and the seven captions that differ
    assert seen == sorted(seen)


def test_equal_texts_have_equal_vectors(clip, adapter, captioned) -> None:
    vectors = View(clip, adapter, captioned, batch_size=2).text_vectors(["a", "b", "c", "a", "b"])
    assert torch.equal(vectors[:2], vectors[3:])
    assert not torch.allclose(vectors[0], vectors[1])


def test_a_limit_takes_pictures_from_everywhere(clip, adapter, labelled) -> None:
    view = View(clip, adapter, labelled, limit=10)
    assert view.indices == list(range(0, 70, 7))
    assert len(set(view.labels.tolist())) > 4  # the first ten are all of one class
    assert len(view.image_vectors()) == len(view.names) == len(view.captions) == 10


def test_no_pictures_and_numbers_out_of_range_are_refused(clip, adapter, labelled) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        View(clip, adapter, labelled, batch_size=0)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        View(clip, adapter, labelled, limit=0)
    with pytest.raises(ValueError, match="at least one picture, got none in pictures in memory"):
        View(clip, adapter, type(labelled)([]))


def test_measures_of_one_name_are_refused(clip, adapter, labelled) -> None:
    with pytest.raises(ValueError, match="measures of different names, got top1, top5 of ZeroShot"):
        run_benchmarks([ZeroShot(), ZeroShot(["a drawing of a {}"])], View(clip, adapter, labelled))
    with pytest.raises(ValueError, match="at least one benchmark"):
        run_benchmarks([], View(clip, adapter, labelled))


def test_all_benchmarks_are_checked_before_one_computes(clip, adapter, captioned) -> None:
    seen: list[int] = []
    with pytest.raises(ValueError, match="ZeroShot needs pictures with classes, got pictures in memory"):
        run_benchmarks([Retrieval(), ZeroShot()], View(clip, adapter, captioned, progress=seen.append))
    assert seen == []


def test_two_networks_give_paired_measures(clip, adapter, labelled) -> None:
    from copy import deepcopy

    from fulgurite.evaluation.measure import check_paired

    other = deepcopy(clip)
    with torch.no_grad():
        other.visual.proj.normal_()
    benchmarks = [ZeroShot(), Retrieval()]
    one, two = (run_benchmarks(benchmarks, View(network, adapter, labelled)) for network in (clip, other))
    for reference, candidate in zip(one.measures, two.measures, strict=True):
        check_paired(reference, candidate)
    assert any(not np.array_equal(a.items, b.items) for a, b in zip(one.measures, two.measures, strict=True))


def test_settings_are_plain_and_hold_what_files_say(tmp_path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("# comment\n\na photo of a {}.\n")
    assert (
        ZeroShot(str(path)).settings
        == ZeroShot().settings
        == {
            "benchmark": "ZeroShot",
            "templates": ["a photo of a {}."],
            "classes": None,
        }
    )
