"""What a step returns: segments, their map and the time each stage took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from x2sam_rt.media.types import BoolMask, LabelMap

if TYPE_CHECKING:
    from x2sam_rt.tasks.marks import TextSpan


@dataclass(frozen=True, eq=False)
class OnDevice:
    """A map or mask that a GPU draws when it is asked for; until then only what it is drawn from is kept there.

    draw: makes it, on the GPU. size: (H, W). area: pixels that are set, of a mask.
    """

    draw: Callable[[], Tensor]
    size: tuple[int, int]
    area: int = 0


@dataclass(frozen=True, eq=False)
class Segment:
    """One mask with what it was found for.

    drawn: the mask, or where it stays on a GPU what draws it: `mask` brings it to the host, `drawn.draw()` gives it as
    a tensor there. label_id: index of the condition (phrase, category or region) in the instruction. score: the
    task's reported score, 0…1. id: stable over the frames of a stream.
    """

    drawn: BoolMask | OnDevice
    label: str
    label_id: int
    score: float
    id: int
    is_thing: bool = True

    @cached_property
    def mask(self) -> BoolMask:
        """(H, W) bool, in the frame's own size."""
        return np.asarray(self.drawn.draw().cpu().numpy()) if isinstance(self.drawn, OnDevice) else self.drawn

    @property
    def area(self) -> int:
        return self.drawn.area if isinstance(self.drawn, OnDevice) else int(np.count_nonzero(self.drawn))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A frame's segments and their map.

    drawn: the map, or where it stays on a GPU what draws it.
    """

    segments: tuple[Segment, ...]
    drawn: LabelMap | OnDevice
    empty: int

    @cached_property
    def map(self) -> LabelMap:
        """(H, W) int32; a pixel holds the id of its topmost segment, or `empty`. (Semantic segmentation: the category
        index; then `segments` holds one segment per category present.)"""
        return np.asarray(self.drawn.draw().cpu().numpy()) if isinstance(self.drawn, OnDevice) else self.drawn

    def covered(self) -> Tensor:
        """(H, W) bool, where the map is: the pixels that belong to any segment."""
        if isinstance(self.drawn, OnDevice):
            return self.drawn.draw() != self.empty
        return torch.from_numpy(self.drawn != self.empty)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        if isinstance(self.drawn, OnDevice):
            return self.drawn.size
        height, width = self.drawn.shape
        return height, width


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
        if not self.segments:
            return np.zeros((0, *self.segmentation.size), dtype=np.bool_)
        return np.stack([segment.mask for segment in self.segments])

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(segment.label for segment in self.segments)

    @property
    def scores(self) -> tuple[float, ...]:
        return tuple(segment.score for segment in self.segments)
