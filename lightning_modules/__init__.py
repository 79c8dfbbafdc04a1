"""LightningModules: what is trained."""

from lightning_modules.gradient_filter import GradientFilter
from lightning_modules.language_model import LanguageModel
from lightning_modules.text_encoder import TextEncoder

__all__ = ["GradientFilter", "LanguageModel", "TextEncoder"]
