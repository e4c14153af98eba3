"""Masks as COCO's run lengths, plain or packed into text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco_mask

from x2sam_rt.media.types import BoolMask

_MOST_BITS = 60


class RunLengths(TypedDict):
    """COCO's compressed run lengths, columns first. size: [height, width]."""

    size: list[int]
    counts: str


def encode_mask(mask: BoolMask) -> RunLengths:
    """A (H, W) bool mask as COCO's compressed run lengths."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return RunLengths(size=[int(side) for side in encoded["size"]], counts=encoded["counts"].decode("ascii"))


def decode_mask(rle: Mapping[str, Any], height: int, width: int) -> BoolMask:
    """The (height, width) bool mask of run lengths, whose counts are a list or packed into text.

    Raises ValueError, KeyError or TypeError where they are none, or of another size. They are unpacked here:
    pycocotools fills what too few of them leave open with whatever lies in memory.
    """
    if list(rle["size"]) != [height, width]:
        raise ValueError(f"a mask of size {rle['size']}; wanted {[height, width]}, the size of the frame")
    counts = rle["counts"]
    runs = unpack(counts) if isinstance(counts, str) else list(counts)
    if not all(isinstance(run, int | np.integer) for run in runs):
        raise TypeError("run lengths that are no whole numbers")
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
        if not 0 <= code < 64 or shift > _MOST_BITS:
            raise ValueError(f"{character!r} in packed run lengths" if shift <= _MOST_BITS else "a run beyond 64 bits")
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
