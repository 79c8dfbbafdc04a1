"""The callback of ``lightning_modules.CompressedDDP``, under the name by which recipes know callbacks."""

from lightning_modules.gradient_compression import GradientCompression

__all__ = ["GradientCompression"]
