"""LightningModules: what is trained."""

from lightning_modules.blip import Blip
from lightning_modules.clip import Clip
from lightning_modules.gradient_filter import GradientFilter
from lightning_modules.language_model import LanguageModel
from lightning_modules.text_encoder import TextEncoder

__all__ = ["Blip", "Clip", "GradientFilter", "LanguageModel", "TextEncoder"]
