"""F, the boundary measure of DAVIS: how much of each outline lies close to the other."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from x2sam_rt.evaluation.metrics.region import Figures, require_same_clips
from x2sam_rt.media.types import BoolMask

TOLERANCE = 0.008  # of the frame's diagonal (DAVIS)


def boundary_measure(truth: BoolMask, predicted: BoolMask, *, tolerance: float = TOLERANCE) -> Figures:
    """(T,) float64: F of each frame, 0…1, the harmonic mean of precision and recall of the outlines; 1 where neither
    mask has an outline, 0 where only one has.

    truth, predicted: (T, H, W) bool. tolerance: how far apart two outlines may lie and still agree, as a part of the
    frame's diagonal; rounded up to whole pixels. Raises DataError where the masks are not of one shape.
    Source: as for J; the conventions are those of the DAVIS 2017 evaluation.
    """
    require_same_clips(truth, predicted)
    reach = math.ceil(tolerance * math.hypot(*truth.shape[1:]))
    frames = zip(truth, predicted, strict=True)
    return np.array([_frame_measure(one, other, reach) for one, other in frames], dtype=np.float64)


def outline(mask: BoolMask) -> BoolMask:
    """(H, W) bool: pixels that differ from their neighbour to the right, below or diagonally below; so an outline has
    one pixel of width, and the frame's own edge is none."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right, below, diagonal = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    edge: BoolMask = (here != right) | (here != below) | (here != diagonal)
    return edge


def grown(mask: BoolMask, reach: int) -> BoolMask:
    """(H, W) bool: every pixel at most `reach` pixels (Euclidean) from one of the mask."""
    off = _rows_off(mask, reach)
    near: BoolMask = off <= reach
    width = mask.shape[1]
    for aside in range(1, min(reach, width - 1) + 1):
        within = off <= math.isqrt(reach * reach - aside * aside)
        near[:, aside:] |= within[:, :-aside]
        near[:, :-aside] |= within[:, aside:]
    return near


def _frame_measure(truth: BoolMask, predicted: BoolMask, reach: int) -> float:
    true_outline, found_outline = outline(truth), outline(predicted)
    if not true_outline.any() or not found_outline.any():
        return float(true_outline.any() == found_outline.any())
    box = _box_around(true_outline | found_outline)  # nothing outside is asked for
    true_outline, found_outline = true_outline[box], found_outline[box]
    precision = np.count_nonzero(found_outline & grown(true_outline, reach)) / np.count_nonzero(found_outline)
    recall = np.count_nonzero(true_outline & grown(found_outline, reach)) / np.count_nonzero(true_outline)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _rows_off(mask: BoolMask, reach: int) -> npt.NDArray[np.int32]:
    """(H, W) int32: rows to the next pixel of the mask in the same column; more than `reach` where there is none."""
    height = mask.shape[0]
    far = height + reach + 1
    rows = np.arange(height, dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(mask, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, height + far)[::-1], axis=0)[::-1]
    off: npt.NDArray[np.int32] = np.minimum(rows - above, below - rows)
    return off


def _box_around(mask: BoolMask) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
