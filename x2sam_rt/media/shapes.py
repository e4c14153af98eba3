"""A mask as a box and as polygons."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator

from x2sam_rt.media.types import BoolMask

Ring = npt.NDArray[np.float64]  # (corners, 2): x, y in pixels; closed, the last corner is the first


def bounding_box(mask: BoolMask) -> list[int]:
    """[x, y, width, height] of a (H, W) bool mask in pixels; zeros for an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return [0, 0, 0, 0]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def polygons(mask: BoolMask) -> tuple[Ring, ...]:
    """The outlines of a (H, W) bool mask's pieces and of their holes; filled by the even-odd rule they give it back.

    They run halfway between the centres of pixels that are set and those that are not; the centre of the first pixel
    is (0.5, 0.5).
    """
    levels = np.pad(mask, 1).astype(np.float64)
    rings = contour_generator(z=levels).lines(0.5)
    return tuple(np.asarray(ring) - 0.5 for ring in rings)
