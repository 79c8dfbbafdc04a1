"""Gradients in few bytes: what a data-parallel training sends, and who says how many bits each channel gets."""

from fulgurite.gradients.codec import GradientCodec, Payload
from fulgurite.gradients.entropy import Gaussian, measured_bits
from fulgurite.gradients.predictor import EntropyPredictor, load_predictor, save_predictor
from fulgurite.gradients.scheduler import CaqScheduler, caq
from fulgurite.gradients.statistics import STATISTICS, channel_statistics

__all__ = [
    "STATISTICS",
    "CaqScheduler",
    "EntropyPredictor",
    "Gaussian",
    "GradientCodec",
    "Payload",
    "caq",
    "channel_statistics",
    "load_predictor",
    "measured_bits",
    "save_predictor",
]
