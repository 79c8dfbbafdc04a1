"""Stages: callbacks that compress."""

from callbacks.stages.allocating import Allocate
from callbacks.stages.refine import Refine
from callbacks.stages.stage import Stage
from callbacks.stages.static_encoder import StaticEncoderStage

__all__ = ["Allocate", "Refine", "Stage", "StaticEncoderStage"]
