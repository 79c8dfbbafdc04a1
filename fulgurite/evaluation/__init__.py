"""Measures of quality, and the statistics that a gate decides by.

network, text -> measures (per item) -> paired bootstrap -> verdict -> diagnosis
"""

from fulgurite.evaluation.cache import cached_result, reference_cache_key
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.gate import Gate
from fulgurite.evaluation.generation import generate
from fulgurite.evaluation.language import LanguageResult, LanguageWindows, evaluate_language
from fulgurite.evaluation.measure import Measure, raw_ratio, retention
from fulgurite.evaluation.recommend import Diagnosis, diagnose, group_errors, weight_group
from fulgurite.evaluation.similarity import RatedPairs, SimilarityResult, evaluate_similarity
from fulgurite.evaluation.statistics import (
    Interval,
    informative,
    minimum_detectable_drop,
    retention_draws,
    retention_interval,
)
from fulgurite.evaluation.storage import StorageError
from fulgurite.evaluation.verdict import MeasureVerdict, Severity, Verdict

__all__ = [
    "Diagnosis",
    "Evaluation",
    "Gate",
    "Interval",
    "LanguageResult",
    "LanguageWindows",
    "Measure",
    "MeasureVerdict",
    "RatedPairs",
    "Severity",
    "SimilarityResult",
    "StorageError",
    "Verdict",
    "cached_result",
    "diagnose",
    "evaluate_language",
    "evaluate_similarity",
    "generate",
    "group_errors",
    "informative",
    "minimum_detectable_drop",
    "raw_ratio",
    "reference_cache_key",
    "retention",
    "retention_draws",
    "retention_interval",
    "weight_group",
]
