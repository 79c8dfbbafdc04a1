"""Benchmarks of image-text networks, chosen in a recipe, each with its chance level and its result for every picture.

network, split -> View -> ZeroShot, Retrieval, Captioning, Matching, Drift -> Evaluation -> gate
"""

from fulgurite.evaluation.benchmarks.base import Benchmark, run_benchmarks
from fulgurite.evaluation.benchmarks.captioning import Captioning
from fulgurite.evaluation.benchmarks.classification import Classification, classify
from fulgurite.evaluation.benchmarks.cost import Cost
from fulgurite.evaluation.benchmarks.drift import Drift
from fulgurite.evaluation.benchmarks.efficiency import Efficiency, measure_efficiency
from fulgurite.evaluation.benchmarks.matching import Matching
from fulgurite.evaluation.benchmarks.pictures import PictureComparison, compare_views
from fulgurite.evaluation.benchmarks.retrieval import Retrieval
from fulgurite.evaluation.benchmarks.view import TowerVectors, View
from fulgurite.evaluation.benchmarks.zero_shot import ZeroShot, ZeroShotResult, class_vectors

__all__ = [
    "Benchmark",
    "Captioning",
    "Classification",
    "Cost",
    "Drift",
    "Efficiency",
    "Matching",
    "PictureComparison",
    "Retrieval",
    "TowerVectors",
    "View",
    "ZeroShot",
    "ZeroShotResult",
    "class_vectors",
    "classify",
    "compare_views",
    "measure_efficiency",
    "run_benchmarks",
]
