"""LightningModules: what is trained."""

from lightning_modules.blip import Blip
from lightning_modules.clip import Clip
from lightning_modules.compressed_ddp import CompressedDDP
from lightning_modules.entropy_predictor import EntropyPredictorModule
from lightning_modules.gradient_filter import GradientFilter
from lightning_modules.hierarchical_vqvae import HierarchicalVqvae
from lightning_modules.language_model import LanguageModel
from lightning_modules.sharded import Sharded
from lightning_modules.text_encoder import TextEncoder

__all__ = [
    "Blip",
    "Clip",
    "CompressedDDP",
    "EntropyPredictorModule",
    "GradientFilter",
    "HierarchicalVqvae",
    "LanguageModel",
    "Sharded",
    "TextEncoder",
]
