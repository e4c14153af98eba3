"""Visual prompts made from a mask, as V-VGD's were: pixel for pixel the published ones, from the same random numbers.

Components (8 neighbours) of more than five pixels each get a point, a scribble and a box; sizes are pixels of the
original frame at any resolution. Source: X2SAM's construction of V-VGD.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from x2sam_rt.data.drawing import Integers, discs, line
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.regions import POINT_RADIUS, SCRIBBLE_RADIUS, PromptKind

_FEWEST_PIXELS = 6
_TRIES = 1000
_SCRIBBLE_IOU = 0.5  # of its frame with the component's box
_BLUR, _BLUR_REACH = 2.0, 8  # of the mask prompt: standard deviation, and pixels that the filter reaches
_EIGHT = np.ones((3, 3), dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class VisualPrompts:
    """(H, W) bool each, and empty where a mask has no component to draw it for."""

    point: BoolMask
    scribble: BoolMask
    box: BoolMask
    mask: BoolMask

    def of(self, kind: PromptKind) -> BoolMask:
        drawn: BoolMask = getattr(self, kind)
        return drawn


@dataclass(frozen=True)
class Box:
    """Rows from top to below bottom, columns from left to before right."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def iou(self, other: Box) -> float:
        """With the pixels beyond the ends counted, as the published construction does."""
        rows = min(self.bottom, other.bottom) - max(self.top, other.top) + 1
        columns = min(self.right, other.right) - max(self.left, other.left) + 1
        shared = max(0, rows) * max(0, columns)
        areas = [(box.height + 1) * (box.width + 1) for box in (self, other)]
        return shared / (sum(areas) - shared)

    def around(self, row: float, column: float, height: float, width: float, size: tuple[int, ...]) -> Box:
        """A box about a centre, its edges cut to whole pixels and to the image."""
        return Box(
            max(0, int(row - height / 2)),
            max(0, int(column - width / 2)),
            min(size[0], int(row + height / 2)),
            min(size[1], int(column + width / 2)),
        )


@dataclass(frozen=True)
class Component:
    """box: around it. row, column: of its centroid."""

    box: Box
    row: float
    column: float


def draw_prompts(mask: BoolMask, rng: random.Random) -> VisualPrompts:
    """The four prompts of an object. mask: (H, W) bool."""
    components = list(_components(mask))
    return VisualPrompts(  # in this order, from one stream of random numbers
        point=_points(mask, components, rng),
        scribble=_scribbles(mask.shape, components, rng),
        box=_boxes(mask.shape, components, rng),
        mask=_blurred(mask),
    )


def _components(mask: BoolMask) -> Iterator[Component]:
    labels, _ = ndimage.label(mask, _EIGHT)
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = np.nonzero(labels[place] == number)
        if len(rows) >= _FEWEST_PIXELS:
            down, across = place
            box = Box(down.start, across.start, down.stop, across.stop)
            yield Component(box, float((rows + box.top).mean()), float((columns + box.left).mean()))


def _points(mask: BoolMask, components: list[Component], rng: random.Random) -> BoolMask:
    found = [point for component in components if (point := _point(mask, component, rng)) is not None]
    return _discs(mask.shape, np.array(found, dtype=np.int64).reshape(-1, 2).T, POINT_RADIUS)


def _point(mask: BoolMask, component: Component, rng: random.Random) -> tuple[int, int] | None:
    box = component.box
    reach = min(box.height, box.width) / 2
    for _ in range(_TRIES):
        angle = rng.uniform(0, 2 * math.pi)
        row = int(component.row + rng.uniform(0, reach) * math.cos(angle))
        column = int(component.column + rng.uniform(0, reach) * math.sin(angle))
        row, column = min(max(row, box.top), box.bottom - 1), min(max(column, box.left), box.right - 1)
        if mask[row, column]:
            return row, column
    return None


def _scribbles(size: tuple[int, ...], components: list[Component], rng: random.Random) -> BoolMask:
    strokes = [stroke for component in components if (stroke := _scribble(size, component, rng)) is not None]
    pixels = np.concatenate(strokes, axis=1) if strokes else np.empty((2, 0), dtype=np.int64)
    return _discs(size, pixels, SCRIBBLE_RADIUS)


def _scribble(size: tuple[int, ...], component: Component, rng: random.Random) -> Integers | None:
    """(2, n) rows and columns of a waved diagonal."""
    if (frame := _scribble_frame(size, component, rng)) is None:
        return None
    corners = [(row, column) for row in (frame.top, frame.bottom) for column in (frame.left, frame.right)]
    row, column = rng.choice(corners)
    rows, columns = line(row, column, frame.top + frame.bottom - row, frame.left + frame.right - column)
    height, waves, phase = rng.uniform(10, 20), rng.uniform(0.2, 1), rng.uniform(0, 2 * math.pi)
    waved = rows + height * np.sin(2 * math.pi * waves * np.linspace(0, 1, len(rows)) + phase)
    clipped = np.clip(waved.astype(np.int64), 0, size[0] - 1)
    return np.stack([clipped, np.clip(columns, 0, size[1] - 1)])


def _scribble_frame(size: tuple[int, ...], component: Component, rng: random.Random) -> Box | None:
    box = component.box
    for _ in range(_TRIES):
        height = box.height * rng.uniform(0.5, 1.2)
        width = box.width * rng.uniform(0.5, 1.2)
        frame = box.around(component.row, component.column, height, width, size)
        if frame.iou(box) >= _SCRIBBLE_IOU:
            return frame
    return None


def _boxes(size: tuple[int, ...], components: list[Component], rng: random.Random) -> BoolMask:
    drawn = np.zeros(size, dtype=np.bool_)
    for component in components:
        box, scale = component.box, rng.uniform(0.9, 1.1)
        middle = (box.top + box.bottom) / 2, (box.left + box.right) / 2
        scaled = box.around(*middle, box.height * scale, box.width * scale, size)
        drawn[scaled.top : scaled.bottom, scaled.left : scaled.right] = True
    return drawn


def _blurred(mask: BoolMask) -> BoolMask:
    """Where the mask, blurred, is above the mean of the blurred image; only what the blur reaches is looked at."""
    drawn = np.zeros(mask.shape, dtype=np.bool_)
    if not mask.any():
        return drawn
    reach = _reached(np.logical_or.reduce(mask, axis=1)), _reached(np.logical_or.reduce(mask, axis=0))
    blurred: npt.NDArray[np.float64] = ndimage.gaussian_filter(mask[reach].astype(np.float64), _BLUR)
    drawn[reach] = blurred > blurred.sum() / mask.size
    return drawn


def _reached(there: BoolMask) -> slice:
    """Twice the filter's reach about what is set, so that an edge of the cut mirrors nothing."""
    found = np.flatnonzero(there)
    return slice(max(0, int(found[0]) - 2 * _BLUR_REACH), int(found[-1]) + 2 * _BLUR_REACH + 1)


def _discs(size: tuple[int, ...], pixels: Integers, radius: int) -> BoolMask:
    return discs(pixels[0], pixels[1], radius, size[0], size[1])
