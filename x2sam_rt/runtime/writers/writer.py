"""What every writer of results has in common."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TypedDict

import numpy as np

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import Output
from x2sam_rt.media.types import LabelMap, Pixels
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation


class ResultWriter(Output):
    """Takes a stream's results one by one, in constant memory, and publishes its output when it is closed.

    As a context manager it closes itself; left by an exception it discards its output instead, so that a half
    stream is never taken for a whole one.
    """

    @abstractmethod
    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        """Adds a frame.

        pixels: (H, W, 3) uint8 RGB, the frame the result belongs to. timestamp: seconds into the stream, if known.
        Raises VideoError where the result does not fit the format, or cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finishes the output and gives it its name. Raises VideoError if nothing was written to it."""


def is_png_sequence(folder: Path) -> bool:
    """Whether a folder holds nothing but PNGs named by their frames' numbers."""
    return folder.is_dir() and all(file.suffix == ".png" and file.stem.isdecimal() for file in folder.iterdir())


def shifted_ids(segmentation: Segmentation) -> LabelMap:
    """(H, W) int32: 0 where no segment is, else the topmost segment's id + 1.

    Raises VideoError for a negative id, which these formats cannot hold.
    """
    empty = segmentation.map == segmentation.empty
    shifted = np.where(empty, 0, segmentation.map + 1).astype(np.int32)
    if shifted.min(initial=0) < 0 or (shifted[~empty] == 0).any():
        raise VideoError(f"A segment has the id {int(segmentation.map[~empty].min())}; ids from 0 are wanted.")
    return shifted


class Category(TypedDict):
    """A category as COCO's panoptic JSON lists it; isthing is 0 or 1."""

    id: int
    name: str
    supercategory: str
    isthing: int


class Categories:
    """Gives each (label, thing or stuff) one number: its label_id, unless another label has that already.

    A label_id counts within one instruction, so after a new one the same number can mean another label.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, bool], int] = {}
        self._taken: set[int] = set()

    def number_of(self, segment: Segment) -> int:
        key = (segment.label, bool(segment.is_thing))
        if key not in self._numbers:
            wanted = int(segment.label_id)
            number = wanted if wanted not in self._taken else max(self._taken) + 1
            self._numbers[key] = number
            self._taken.add(number)
        return self._numbers[key]

    def listed(self) -> list[Category]:
        """All categories met, by number."""
        ordered = sorted(self._numbers.items(), key=lambda item: item[1])
        return [
            Category(id=number, name=label, supercategory="", isthing=int(is_thing))
            for (label, is_thing), number in ordered
        ]
