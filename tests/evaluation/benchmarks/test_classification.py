"""Scores of answers, where a class has no pictures or no answer."""

import numpy as np

from fulgurite.evaluation.benchmarks import classify


def test_a_class_without_pictures_has_no_accuracy_and_counts_in_no_mean() -> None:
    # the third of four classes is neither there nor said
    found = classify(np.array([0, 0, 1, 3, 3]), np.array([0, 1, 1, 3, 3]), 4)
    np.testing.assert_allclose(found.class_accuracy, [1, 0.5, np.nan, 1])
    np.testing.assert_allclose(found.precision, (0.5 + 1 + 1) / 3, atol=1e-6)
    np.testing.assert_allclose(found.recall, (1 + 0.5 + 1) / 3, atol=1e-6)
    assert found.confusion.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]


def test_no_answers_have_no_scores() -> None:
    found = classify(np.array([], int), np.array([], int), 3)
    assert np.isnan([found.precision, found.recall, found.f1, *found.class_accuracy]).all()
    assert found.confusion.shape == (3, 3)
