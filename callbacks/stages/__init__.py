"""Stages: callbacks that compress."""

from callbacks.stages.allocating import Allocate
from callbacks.stages.attention_rank import AttentionRankStage
from callbacks.stages.contrast import ContrastStage
from callbacks.stages.distill import DistillStage
from callbacks.stages.refine import Refine
from callbacks.stages.repair import RepairStage
from callbacks.stages.stage import Stage
from callbacks.stages.static_encoder import StaticEncoderStage
from callbacks.stages.structure import StructuralStage
from callbacks.stages.towers import TowersStage
from callbacks.stages.vocabulary import VocabularyStage
from callbacks.stages.vqvae import VqvaeStage

__all__ = [
    "Allocate",
    "AttentionRankStage",
    "ContrastStage",
    "DistillStage",
    "Refine",
    "RepairStage",
    "Stage",
    "StaticEncoderStage",
    "StructuralStage",
    "TowersStage",
    "VocabularyStage",
    "VqvaeStage",
]
