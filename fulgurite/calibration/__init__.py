"""What encoding learns from data: the metric in which a weight's error is measured."""

from fulgurite.calibration._shares import Share
from fulgurite.calibration._watch import evaluating, frozen
from fulgurite.calibration.gather import gather_metrics
from fulgurite.calibration.metric import Metric, MetricKind
from fulgurite.calibration.paired import PairedMoments, call_groups, gather_paired
from fulgurite.calibration.sampling import SampledLoss, count_positions, sampled_loss, softmax_curvature

__all__ = [
    "Metric",
    "MetricKind",
    "PairedMoments",
    "SampledLoss",
    "Share",
    "call_groups",
    "count_positions",
    "evaluating",
    "frozen",
    "gather_metrics",
    "gather_paired",
    "sampled_loss",
    "softmax_curvature",
]
