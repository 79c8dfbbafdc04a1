"""Orthogonal maps that make weights easier to code, and projections that take directions out of them."""

from fulgurite.transforms.hadamard import rotate, unrotate
from fulgurite.transforms.projection import contrast_directions, project_out

__all__ = ["contrast_directions", "project_out", "rotate", "unrotate"]
