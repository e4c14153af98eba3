"""Segment colours over a frame's pixels, all segments at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from x2sam_rt.runtime.colors import color_of
from x2sam_rt.runtime.orientation import Pixels
from x2sam_rt.runtime.results import BoolMask, Segmentation

Slots = npt.NDArray[np.intp]  # (H, W): 0 = no segment, else 1 + the segment's place in the list of ids


def paint_segments(frame: Pixels, segmentation: Segmentation, alpha: float) -> Pixels:
    """A copy of frame (H, W, 3) with its segments filled at `alpha` (0…1) and outlined at full strength."""
    slots = _slots(segmentation)
    colors = _colors(segmentation)
    painted = frame.copy()
    filled = slots > 0
    painted[filled] = _faded(1 - alpha)[frame[filled]] + _faded(alpha)[colors[slots[filled]]]
    edges = outline(slots, thickness=max(1, round(min(frame.shape[:2]) / 360)))
    painted[edges] = colors[slots[edges]]
    return painted


def outline(slots: Slots, thickness: int) -> BoolMask:
    """(H, W) bool: the pixels of a segment within `thickness` pixels of another segment or of none.

    The frame's border is no edge. slots: (H, W), 0 where no segment is.
    """
    edges = np.zeros(slots.shape, dtype=np.bool_)
    for step in range(1, thickness + 1):
        rows = slots[step:] != slots[:-step]
        edges[step:] |= rows
        edges[:-step] |= rows
        columns = slots[:, step:] != slots[:, :-step]
        edges[:, step:] |= columns
        edges[:, :-step] |= columns
    return edges & (slots > 0)


def _ids(segmentation: Segmentation) -> list[int]:
    return sorted({segment.id for segment in segmentation.segments} - {segmentation.empty})


def _slots(segmentation: Segmentation) -> Slots:
    """Places instead of ids, so that ids of any size need no large table."""
    ids = np.array(_ids(segmentation), dtype=segmentation.map.dtype)
    if not ids.size:
        return np.zeros(segmentation.map.shape, dtype=np.intp)
    places = np.minimum(np.searchsorted(ids, segmentation.map), ids.size - 1)
    return np.where(ids[places] == segmentation.map, places + 1, 0)


def _colors(segmentation: Segmentation) -> Pixels:
    """(1 + segments, 3): the colour of each slot."""
    return np.array([(0, 0, 0), *(color_of(id) for id in _ids(segmentation))], dtype=np.uint8)


def _faded(weight: float) -> Pixels:
    """A table of the 256 levels times a weight; two whose weights add to 1 never add to more than 255."""
    levels: Pixels = np.floor(np.arange(256) * weight).astype(np.uint8)
    return levels
