"""LightningModules: what is trained."""

from lightning_modules.gradient_filter import GradientFilter
from lightning_modules.language_model import LanguageModel

__all__ = ["GradientFilter", "LanguageModel"]
