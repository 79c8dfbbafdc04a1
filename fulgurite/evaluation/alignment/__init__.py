"""Pairs of completions by four rules, and what a network's preferences among them say.

pairs.jsonl -> benchmarks alignment_<rule> -> AlignmentReport -> a Check for each rule
"""

from fulgurite.evaluation.alignment.pairs import PREFIX, RULES, Pair, pairs, read_pairs
from fulgurite.evaluation.alignment.report import AlignmentReport, RuleReport

__all__ = ["PREFIX", "RULES", "AlignmentReport", "Pair", "RuleReport", "pairs", "read_pairs"]
