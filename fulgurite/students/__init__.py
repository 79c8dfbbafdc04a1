"""Smaller networks of a teacher's class, made from its own weights or at random."""

from fulgurite.students.importance import Importance, NormStatistics, measure_importance
from fulgurite.students.inherit import fresh, inherit
from fulgurite.students.losses import Divergence, Loss, logit_divergence, next_token_loss
from fulgurite.students.magnitude import magnitude_importance
from fulgurite.students.removal import layer_removal
from fulgurite.students.shape import FullShape, StudentShape

__all__ = [
    "Divergence",
    "FullShape",
    "Importance",
    "Loss",
    "NormStatistics",
    "StudentShape",
    "fresh",
    "inherit",
    "layer_removal",
    "logit_divergence",
    "magnitude_importance",
    "measure_importance",
    "next_token_loss",
]
