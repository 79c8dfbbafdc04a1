"""Features that belong together."""

import numpy as np
import pytest

from fulgurite.features.categories import find_categories


def _blocks(sizes: tuple[int, ...] = (6, 9, 5), noise: float = 0.5) -> tuple[list[str], np.ndarray]:
    """Groups of features, each with a common cause; those of different groups have nothing in common."""
    random = np.random.default_rng(0)
    parts = [random.normal(size=(1000, 1)) * random.choice([-1, 1], size) + noise * random.normal(size=(1000, size))
             for size in sizes]  # fmt: skip
    sample = np.concatenate(parts, axis=1)
    names = [f"g{group}.{place}" for group, size in enumerate(sizes) for place in range(size)]
    return names, (sample - sample.mean(0)) / sample.std(0)


@pytest.mark.parametrize("wanted", ["auto", 3])
def test_groups_that_correlate_are_found_whatever_their_sign(wanted: int | str) -> None:
    names, sample = _blocks()
    found = find_categories(names, sample, wanted)
    assert sorted(map(sorted, found.values())) == [list(range(6)), list(range(6, 15)), list(range(15, 20))]
    assert list(found) == ["cluster0", "cluster1", "cluster2"]
    assert len(found["cluster0"]) == 9  # the largest first


def test_a_small_cluster_joins_its_nearest() -> None:
    names, sample = _blocks((8, 8, 1))
    assert min(map(len, find_categories(names, sample, "auto", smallest=4).values())) >= 8


def test_categories_by_source_go_by_what_stands_before_the_last_dot() -> None:
    assert find_categories(["a.0", "a.1", "b", "c.d.0"], np.zeros((2, 4)), "source") == {
        "a": [0, 1], "b": [2], "c.d": [3],
    }  # fmt: skip


def test_given_patterns_and_the_rest() -> None:
    found = find_categories(["x1", "y1", "x2", "z"], np.zeros((2, 4)), {"x": "x*", "y": ["y*"]})
    assert found == {"x": [0, 2], "y": [1], "rest": [3]}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [({"x": "q*"}, "matches no feature"), (9, "must be in \\[1, 3\\]"), ("colour", "must be auto, source")],
)
def test_categories_that_cannot_be_are_refused(wanted: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        find_categories(["a", "b", "c"], np.zeros((5, 3)), wanted)  # type: ignore[arg-type]


def test_few_features_are_one_category() -> None:
    assert find_categories(["a", "b"], np.zeros((5, 2))) == {"cluster0": [0, 1]}
