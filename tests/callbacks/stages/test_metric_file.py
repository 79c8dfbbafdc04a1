"""The metrics of a try: what is written is read, tensor by tensor and reason by reason."""

from pathlib import Path

import pytest
import torch

from callbacks.stages.encoding import weighted_error
from callbacks.stages.metric_file import METRICS_NAME, Metrics, write_metrics
from fulgurite.calibration import Metric

METRICS = {
    "whole": Metric(torch.eye(3) * 2, torch.tensor([0.5, 1.5]), "kl"),
    "columns": Metric(torch.eye(4), None, "input", "kl: has NaN or infinite values"),
    "rows": Metric(None, torch.tensor([1.0, 1.0]), "input"),
    "nothing": Metric(None, None, "identity", "input: no batch reached it"),
}


def test_metrics_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "try-1" / METRICS_NAME
    write_metrics(path, METRICS)
    found = Metrics(path)
    assert list(found) == list(METRICS)
    for name, metric in METRICS.items():
        for part in ("hessian", "row_weight"):
            one, other = getattr(found[name], part), getattr(metric, part)
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)
        assert (found[name].kind, found[name].fallback) == (metric.kind, metric.fallback)
    assert [entry.name for entry in path.parent.iterdir()] == [METRICS_NAME]


def test_the_parts_are_mappings_of_those_that_have_them(tmp_path: Path) -> None:
    write_metrics(tmp_path / METRICS_NAME, METRICS)
    found = Metrics(tmp_path / METRICS_NAME)
    assert set(found.hessians) == {"whole", "columns"}
    assert set(found.row_weights) == {"whole", "rows"}
    assert found.hessians.get("rows") is None
    assert torch.equal(found.row_weights["whole"], torch.tensor([0.5, 1.5]))


def test_fallbacks_are_listed_with_their_reasons(tmp_path: Path) -> None:
    write_metrics(tmp_path / METRICS_NAME, METRICS)
    assert Metrics(tmp_path / METRICS_NAME).fallbacks == [
        {"weight": "columns", "kind": "input", "reason": "kl: has NaN or infinite values"},
        {"weight": "nothing", "kind": "identity", "reason": "input: no batch reached it"},
    ]


def test_no_file_and_no_metrics_are_empty(tmp_path: Path) -> None:
    write_metrics(tmp_path / METRICS_NAME, {})
    for found in (Metrics(None), Metrics(tmp_path / METRICS_NAME)):
        assert len(found) == 0
        assert not found.hessians
        assert found.get("whole") is None


def test_the_weighted_error_is_a_share_of_losing_the_weight() -> None:
    weight = torch.tensor([[1.0, 0, 0], [0, 0, 3.0]])
    decoded = torch.tensor([[1.0, 0, 0], [0, 0, 2.0]])
    # 2 * 1.5 * 1 of 2 * (0.5 * 1 + 1.5 * 9)
    assert weighted_error(weight, decoded, METRICS["whole"]) == pytest.approx(3 / 28)
    assert weighted_error(weight, decoded, Metric()) is None
    assert weighted_error(torch.zeros(2, 3), torch.zeros(2, 3), METRICS["whole"]) == 0
    kernel = torch.randn(2, 3, 1, 1)  # seen as a matrix, as codecs see it
    assert weighted_error(kernel, 0.5 * kernel, METRICS["whole"]) == pytest.approx(0.25)
