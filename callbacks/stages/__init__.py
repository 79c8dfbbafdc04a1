"""Stages: callbacks that compress."""

from callbacks.stages.refine import Refine
from callbacks.stages.stage import Stage

__all__ = ["Refine", "Stage"]
