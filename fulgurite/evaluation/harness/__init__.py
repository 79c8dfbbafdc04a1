"""The benchmarks of language models, by lm-evaluation-harness on any network in memory.

names, data folder -> LanguageSuite -> evaluate(network, tokenizer) -> SuiteResult -> measures for a gate
"""

from fulgurite.evaluation.harness.experts import Expert, ExpertMixture
from fulgurite.evaluation.harness.measures import TaskScore
from fulgurite.evaluation.harness.result import SuiteResult
from fulgurite.evaluation.harness.settings import BenchmarkSettings
from fulgurite.evaluation.harness.sources import BenchmarkDataError
from fulgurite.evaluation.harness.suite import CORE, LanguageSuite, benchmark_folder, expand

__all__ = [
    "CORE",
    "BenchmarkDataError",
    "BenchmarkSettings",
    "Expert",
    "ExpertMixture",
    "LanguageSuite",
    "SuiteResult",
    "TaskScore",
    "benchmark_folder",
    "expand",
]
