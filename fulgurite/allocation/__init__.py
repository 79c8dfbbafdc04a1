"""Who gets how many bits: curves of rate and distortion, one search over them, and what to weight them by."""

from fulgurite.allocation.budget import Target, parse_bytes
from fulgurite.allocation.curve import Candidate, Curve
from fulgurite.allocation.engine import Allocation, Choice, allocate
from fulgurite.allocation.measuring import Measured, candidate_of, measure
from fulgurite.allocation.probe import Probe
from fulgurite.allocation.slopes import Effect, Slopes, settle
from fulgurite.allocation.statistics import Statistics, statistics_of
from fulgurite.allocation.strategies import STRATEGIES, Strategy, modelled

__all__ = [
    "STRATEGIES",
    "Allocation",
    "Candidate",
    "Choice",
    "Curve",
    "Effect",
    "Measured",
    "Probe",
    "Slopes",
    "Statistics",
    "Strategy",
    "Target",
    "allocate",
    "candidate_of",
    "measure",
    "modelled",
    "parse_bytes",
    "settle",
    "statistics_of",
]
