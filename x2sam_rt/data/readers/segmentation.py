"""COCO's ways to write a mask in JSON: polygons, run lengths, and run lengths packed into text."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from x2sam_rt.runtime.results import BoolMask


def decode_segmentation(segmentation: Any, height: int, width: int) -> BoolMask:
    """The (height, width) bool mask of a parsed "segmentation"; None (not visible) gives an empty one.

    Raises ValueError, KeyError or TypeError where it is none, or of another size. Run lengths are unpacked here:
    pycocotools fills what too few of them leave open with whatever lies in memory.
    """
    if segmentation is None:
        return np.zeros((height, width), dtype=np.bool_)
    if isinstance(segmentation, list):
        return _drawn(segmentation, height, width)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"a mask of size {segmentation['size']}; wanted {[height, width]}, the size of the frame")
    counts = segmentation["counts"]
    runs = unpack(counts) if isinstance(counts, str) else list(counts)
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"run lengths that cover {sum(runs)} pixels; wanted {height * width}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def unpack(counts: str) -> list[int]:
    """The run lengths in COCO's packed text: 5 bits per character, lowest first, with a sign; from the third run on
    the difference to the one before the last. Raises ValueError for other characters, and where it breaks off."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{character!r} in packed run lengths")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("packed run lengths that break off")
    return runs


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
