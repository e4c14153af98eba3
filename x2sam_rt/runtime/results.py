"""What a step returns: segments, their map and the time each stage took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from x2sam_rt.media.types import BoolMask, LabelMap

if TYPE_CHECKING:
    from x2sam_rt.tasks.marks import TextSpan


@dataclass(frozen=True, eq=False)
class Segment:
    """One mask with what it was found for.

    mask: (H, W) bool, in the frame's own size. label_id: index of the condition (phrase, category or
    region) in the instruction. score: the task's reported score, 0…1. id: stable over the frames of a stream.
    """

    mask: BoolMask
    label: str
    label_id: int
    score: float
    id: int
    is_thing: bool = True

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A frame's segments and their map.

    map: (H, W) int32; a pixel holds the id of its topmost segment, or `empty`. (Semantic segmentation: the
    category index; then `segments` holds one segment per category present.)
    """

    segments: tuple[Segment, ...]
    map: LabelMap
    empty: int


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Result of one `VideoSession.step`.

    index: the frame's number in its stream, from 0. text: the model's answer to the current instruction, without
    marks; empty where the answer was known beforehand. spans: its phrases, each with the condition
    (`Segment.label_id`) it names. timings: milliseconds per stage, in the order the stages ran.
    """

    index: int
    segmentation: Segmentation
    text: str
    spans: tuple[TextSpan, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def segments(self) -> tuple[Segment, ...]:
        return self.segmentation.segments

    @property
    def masks(self) -> BoolMask:
        """(segments, H, W) bool."""
        height, width = self.segmentation.map.shape
        if not self.segments:
            return np.zeros((0, height, width), dtype=np.bool_)
        return np.stack([segment.mask for segment in self.segments])

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(segment.label for segment in self.segments)

    @property
    def scores(self) -> tuple[float, ...]:
        return tuple(segment.score for segment in self.segments)
