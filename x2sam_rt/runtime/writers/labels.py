"""Segment maps as the formats with a reserved zero want them."""

from __future__ import annotations

import numpy as np

from x2sam_rt.errors import VideoError
from x2sam_rt.runtime.results import LabelMap, Segmentation


def shifted_ids(segmentation: Segmentation) -> LabelMap:
    """(H, W) int32: 0 where no segment is, else the topmost segment's id + 1.

    Raises VideoError for a negative id, which these formats cannot hold.
    """
    empty = segmentation.map == segmentation.empty
    shifted = np.where(empty, 0, segmentation.map + 1).astype(np.int32)
    if shifted.min(initial=0) < 0 or (shifted[~empty] == 0).any():
        raise VideoError(f"A segment has the id {int(segmentation.map[~empty].min())}; ids from 0 are wanted.")
    return shifted
