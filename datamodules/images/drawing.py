"""Pictures of coloured shapes, drawn from what their caption says.

(size, colour, shape, place) -> PIL at four times the size -> averaged down -> PNG
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (240, 215, 50),
    "green": (50, 160, 70),
    "blue": (40, 90, 210),
    "purple": (140, 60, 170),
}
SIZES = {"small": 0.09, "medium": 0.135, "large": 0.19}
"""Radius, as a part of the picture's side."""
_FINER = 4  # drawn that much larger: smooth edges
_CORNERS = {  # how many, and the angle of the first in eighths of a turn
    "square": (4, 1.0),
    "triangle": (3, -2.0),
    "diamond": (4, 0.0),
}


@dataclass(frozen=True)
class Thing:
    """One shape.

    Args:
        size: Among ``SIZES``.
        colour: Among ``COLOURS``.
        shape: Among ``SHAPES``.
    """

    size: str
    colour: str
    shape: str

    @property
    def name(self) -> str:
        """Its class: colour and shape."""
        return f"{self.colour} {self.shape}"

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


def drawn(things: list[tuple[Thing, tuple[float, float]]], side: int, chance: np.random.Generator) -> bytes:
    """A PNG of shapes on light grey.

    Args:
        things: Shapes and where their centres lie, from 0 to 1, right and down.
        side: Height and width in pixels.
        chance: Moves each a little, and varies colours and background.
    """
    from PIL import Image, ImageDraw

    full = side * _FINER
    shade = int(chance.integers(205, 250))
    picture = Image.new("RGB", (full, full), (shade, shade, shade))
    pen = ImageDraw.Draw(picture)
    for thing, (right, down) in things:
        x, y = ((place + chance.uniform(-0.03, 0.03)) * full for place in (right, down))
        radius = SIZES[thing.size] * chance.uniform(0.93, 1.07) * full
        tint = chance.integers(-14, 15, 3)
        red, green, blue = np.clip(np.array(COLOURS[thing.colour]) + tint, 0, 255).tolist()
        if thing.shape == "circle":
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), (red, green, blue))
        else:
            pen.polygon(_outline(thing.shape, x, y, radius), (red, green, blue))
    file = io.BytesIO()
    picture.reduce(_FINER).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _outline(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    if shape == "cross":
        arm = 0.36 * radius
        steps = [(-arm, -radius), (arm, -radius), (arm, -arm), (radius, -arm), (radius, arm), (arm, arm)]
        return [(x + a, y + b) for a, b in [*steps, *((-a, -b) for a, b in steps)]]
    if shape == "star":
        radii = [radius if corner % 2 == 0 else 0.45 * radius for corner in range(10)]
        angles = [math.pi * (corner / 5 - 0.5) for corner in range(10)]
    else:
        corners, first = _CORNERS[shape]
        radii = [radius * (1.15 if shape != "diamond" else 1.0)] * corners
        angles = [2 * math.pi * (corner / corners + first / 8) for corner in range(corners)]
    return [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
