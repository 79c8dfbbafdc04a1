"""What a student learns from a teacher: losses between their outputs, and a teacher's outputs kept on disk."""

from fulgurite.distillation.losses import (
    LOSSES,
    attention_transfer,
    contrastive,
    cosine_distance,
    hidden_distance,
    label_loss,
    logits_divergence,
    similarity_distance,
    top_divergence,
    value_relations,
)
from fulgurite.distillation.outputs import Outputs, TopLogits, attention_maps, observe
from fulgurite.distillation.teacher_cache import TeacherCache

__all__ = [
    "LOSSES",
    "Outputs",
    "TeacherCache",
    "TopLogits",
    "attention_maps",
    "attention_transfer",
    "contrastive",
    "cosine_distance",
    "hidden_distance",
    "label_loss",
    "logits_divergence",
    "observe",
    "similarity_distance",
    "top_divergence",
    "value_relations",
]
