"""Visual prompts on an object, as somebody would draw them."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.world.objects import pick
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.regions import POINT_RADIUS, SCRIBBLE_RADIUS, Prompt, PromptKind, RegionPrompt

KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
# Pixels that points should be away from the object's edge, the first that is possible.
_POINT_DEPTHS, _SCRIBBLE_DEPTHS = (8, 6, 4, 3, 2, 1), (2, 1)


def region(rng: np.random.Generator, mask: BoolMask, frame: int) -> RegionPrompt:
    """A prompt of a random kind. mask: (H, W) bool, what is seen of the object on that frame; not empty.

    Points and scribbles have any radius up to the published one, which is large for small frames.
    """
    kind = pick(rng, KINDS)
    if kind == "mask":
        return Prompt.mask(mask, frame)
    if kind == "box":
        return _box(rng, mask, frame)
    if kind == "point":
        x, y = _some(rng, _deep(mask, _POINT_DEPTHS), 1)[0]
        return Prompt.point(x, y, frame, radius=int(rng.integers(4, POINT_RADIUS + 1)))
    vertices = sorted(_some(rng, _deep(mask, _SCRIBBLE_DEPTHS), 3))
    return Prompt.scribble(vertices, frame, radius=int(rng.integers(2, SCRIBBLE_RADIUS + 1)))


def _box(rng: np.random.Generator, mask: BoolMask, frame: int) -> RegionPrompt:
    """Around the object, its sides 0.9 to 1.1 of what they should be."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = []
    for first, last in ((columns[0], columns[-1] + 1), (rows[0], rows[-1] + 1)):
        middle, half = (first + last) / 2, (last - first) / 2 * rng.uniform(0.9, 1.1)
        edges.append((float(middle - half), float(middle + half)))
    (left, right), (top, bottom) = edges
    return Prompt.box(left, top, right, bottom, frame)


def _deep(mask: BoolMask, depths: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """(n, 2) rows and columns of the pixels well inside, as deep as there are any."""
    height, width = mask.shape
    for depth in depths:
        edged = np.pad(mask, depth)
        up, down = edged[: -2 * depth, depth:-depth], edged[2 * depth :, depth:-depth]
        left, right = edged[depth:-depth, : -2 * depth], edged[depth:-depth, 2 * depth :]
        inside = mask & up & down & left & right
        assert inside.shape == (height, width), "padding and cutting cancel"
        if inside.any():
            return np.argwhere(inside)
    return np.argwhere(mask)


def _some(rng: np.random.Generator, pixels: npt.NDArray[np.int64], count: int) -> list[tuple[float, float]]:
    """x and y of `count` of the pixels."""
    chosen = pixels[rng.integers(len(pixels), size=count)]
    return [(float(column), float(row)) for row, column in chosen]
