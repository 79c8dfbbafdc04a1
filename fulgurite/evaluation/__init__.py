"""Measures of quality, and the statistics that a gate decides by.

network, text -> measures (per item) -> paired bootstrap -> verdict -> diagnosis
"""

from fulgurite.evaluation.benchmarks import Benchmark, View, run_benchmarks
from fulgurite.evaluation.cache import cached_result, reference_cache_key
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.gate import Gate
from fulgurite.evaluation.generation import generate
from fulgurite.evaluation.language import LanguageResult, LanguageWindows, evaluate_language
from fulgurite.evaluation.last_word import (
    LastWordQuestion,
    LastWordResult,
    evaluate_last_word,
    last_word_choices,
)
from fulgurite.evaluation.measure import Measure, raw_ratio, retention
from fulgurite.evaluation.recommend import Diagnosis, diagnose, group_errors, weight_group
from fulgurite.evaluation.similarity import RatedPairs, SimilarityResult, evaluate_similarity
from fulgurite.evaluation.spans import SpanResult, cut_spans, evaluate_spans
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
    "Benchmark",
    "Diagnosis",
    "Evaluation",
    "Gate",
    "Interval",
    "LanguageResult",
    "LanguageWindows",
    "LastWordQuestion",
    "LastWordResult",
    "Measure",
    "MeasureVerdict",
    "RatedPairs",
    "Severity",
    "SimilarityResult",
    "SpanResult",
    "StorageError",
    "Verdict",
    "View",
    "cached_result",
    "cut_spans",
    "diagnose",
    "evaluate_language",
    "evaluate_last_word",
    "evaluate_similarity",
    "evaluate_spans",
    "generate",
    "group_errors",
    "informative",
    "last_word_choices",
    "minimum_detectable_drop",
    "raw_ratio",
    "reference_cache_key",
    "retention",
    "retention_draws",
    "retention_interval",
    "run_benchmarks",
    "weight_group",
]
