"""Maps of weights: rotations and bases in which they are easier to code, projections that take directions out."""

from fulgurite.transforms.hadamard import rotate, unrotate
from fulgurite.transforms.products import Basis, principal_basis
from fulgurite.transforms.projection import contrast_directions, project_out
from fulgurite.transforms.second_moment import damp, root_of

__all__ = [
    "Basis",
    "contrast_directions",
    "damp",
    "principal_basis",
    "project_out",
    "root_of",
    "rotate",
    "unrotate",
]
