"""COCO's ways to write a mask in JSON: polygons and run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from x2sam_rt.media.rle import decode_mask
from x2sam_rt.media.types import BoolMask


def decode_segmentation(segmentation: Any, height: int, width: int) -> BoolMask:
    """The (height, width) bool mask of a parsed "segmentation"; None (not visible) gives an empty one.

    Raises ValueError, KeyError or TypeError where it is none, or of another size.
    """
    if segmentation is None:
        return np.zeros((height, width), dtype=np.bool_)
    if isinstance(segmentation, list):
        return _drawn(segmentation, height, width)
    return decode_mask(segmentation, height, width)


def _drawn(polygons: list[Any], height: int, width: int) -> BoolMask:
    reach = 2 * max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon that is no list of at least three x, y pairs")
        if not all(-reach <= number <= reach for number in polygon):
            raise ValueError(f"a polygon with a corner far outside the {width}×{height} frame")
    if not polygons:
        return np.zeros((height, width), dtype=np.bool_)
    together = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    drawn: BoolMask = coco_mask.decode(together).astype(np.bool_)
    return drawn
