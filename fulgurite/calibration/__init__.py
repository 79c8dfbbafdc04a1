"""What encoding learns from data: the metric in which a weight's error is measured."""

from fulgurite.calibration._watch import evaluating, frozen
from fulgurite.calibration.gather import gather_metrics
from fulgurite.calibration.metric import Metric, MetricKind
from fulgurite.calibration.sampling import SampledLoss, count_positions, sampled_loss, softmax_curvature

__all__ = [
    "Metric",
    "MetricKind",
    "SampledLoss",
    "count_positions",
    "evaluating",
    "frozen",
    "gather_metrics",
    "sampled_loss",
    "softmax_curvature",
]
