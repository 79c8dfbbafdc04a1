"""Orthogonal maps that make weights easier to code."""

from fulgurite.transforms.hadamard import rotate, unrotate

__all__ = ["rotate", "unrotate"]
