"""Shapes as signed distances to their outlines, and their textures."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.synthetic.settings import Shape, Texture

Floats = npt.NDArray[np.float32]
REACH = 1.22  # no shape is farther than this many radii from its centre

_COS30, _SIN30 = math.cos(math.pi / 6), 0.5
_STAR_OUTER, _STAR_INNER = 1.22, 0.52


def distance(shape: Shape, x: Floats, y: Floats, radius: float) -> Floats:
    """Pixels to the outline, negative inside; its zero is exact, far from it only the sign is.

    x, y: any shape that broadcasts, pixels from the object's centre along its own axes (y down). radius: pixels.
    The proportions give all shapes about the area of a circle of 0.95 radii, but for the thinner cross and star.
    """
    return _SHAPES[shape](x, y, radius)


def darkness(texture: Texture, x: Floats, y: Floats, radius: float) -> Floats | np.float32:
    """(T, B, B) from 0 to 1: where the texture is dark."""
    if texture == "plain":
        return np.float32(0)
    if texture == "striped":
        return _soft(np.sin(x * np.float32(2 * np.pi / (0.3 * radius + 3.2))) * 2.5 + 0.4)
    rate = np.float32(np.pi / (0.22 * radius + 2.6))
    return _soft((np.cos(x * rate) * np.cos(y * rate) - 0.42) * 4)


def _soft(values: Floats) -> Floats:
    return np.clip(values, np.float32(0), np.float32(1))


def _circle(x: Floats, y: Floats, radius: float) -> Floats:
    return np.sqrt(x * x + y * y) - np.float32(0.96 * radius)


def _square(x: Floats, y: Floats, radius: float) -> Floats:
    farther: Floats = np.maximum(np.abs(x), np.abs(y))
    return farther - np.float32(0.86 * radius)


def _triangle(x: Floats, y: Floats, radius: float) -> Floats:
    sides = np.abs(x) * np.float32(_COS30) - y * np.float32(_SIN30)
    farthest: Floats = np.maximum(sides, y)
    return farthest - np.float32(0.61 * radius)


def _cross(x: Floats, y: Floats, radius: float) -> Floats:
    across, along = np.abs(x), np.abs(y)
    longer, shorter = np.maximum(across, along), np.minimum(across, along)
    signed: Floats = np.maximum(longer - np.float32(1.05 * radius), shorter - np.float32(0.36 * radius))
    return signed


def _star(x: Floats, y: Floats, radius: float) -> Floats:
    """Five points: every sector is folded onto the one around the upper point, which a single edge bounds."""
    across, up = np.abs(x), -y
    for degrees in (108, 36):
        across, up = _folded(across, up, math.radians(degrees))
    across = np.abs(across)
    tip = _STAR_OUTER * radius
    notch_x, notch_up = (_STAR_INNER * radius * part(math.radians(36)) for part in (math.sin, math.cos))
    length = math.hypot(notch_x, tip - notch_up)
    normal_x, normal_up = (tip - notch_up) / length, notch_x / length
    signed: Floats = across * np.float32(normal_x) + (up - np.float32(tip)) * np.float32(normal_up)
    return signed


def _folded(across: Floats, up: Floats, angle: float) -> tuple[Floats, Floats]:
    """Mirrors what lies beyond the line at `angle` from straight up to this side of it."""
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    beyond: Floats = 2 * np.maximum(across * cos - up * sin, np.float32(0))
    return across - beyond * cos, up + beyond * sin


_SHAPES: dict[Shape, Callable[[Floats, Floats, float], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}
