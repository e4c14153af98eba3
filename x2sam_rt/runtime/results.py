"""What a step returns: segments, their map and the time each stage took; and the forms that others want it in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import atomic_file
from x2sam_rt.media.image import write_image
from x2sam_rt.media.rle import RunLengths, encode_mask
from x2sam_rt.media.shapes import Ring, bounding_box, polygons
from x2sam_rt.media.types import BoolMask, LabelMap, Pixels

if TYPE_CHECKING:
    import pandas
    import supervision

    from x2sam_rt.tasks.marks import TextSpan


class SegmentRecord(TypedDict):
    """A segment as JSON. bbox: [x, y, width, height] in pixels; area in pixels."""

    id: int
    label: str
    label_id: int
    score: float
    is_thing: bool
    area: int
    bbox: list[int]
    rle: RunLengths


class SpanRecord(TypedDict):
    """text[start:end] names the condition `label_id`."""

    start: int
    end: int
    label_id: int


class FrameRecord(TypedDict):
    """A frame's result as JSON. size: [height, width]. timestamp: seconds, null if unknown. spans: its phrases."""

    frame: int
    timestamp: float | None
    size: list[int]
    segments: list[SegmentRecord]
    text: str
    spans: list[SpanRecord]


@dataclass(frozen=True, eq=False)
class OnDevice:
    """A map or mask that a GPU draws when it is asked for; until then only what it is drawn from is kept there.

    draw: makes it, on the GPU. size: (H, W). area: pixels that are set, of a mask.
    """

    draw: Callable[[], Tensor]
    size: tuple[int, int]
    area: int = 0


@dataclass(frozen=True, eq=False, repr=False)
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

    @property
    def record(self) -> SegmentRecord:
        return SegmentRecord(
            id=int(self.id),
            label=self.label,
            label_id=int(self.label_id),
            score=float(self.score),
            is_thing=bool(self.is_thing),
            area=self.area,
            bbox=bounding_box(self.mask),
            rle=encode_mask(self.mask),
        )

    def __repr__(self) -> str:
        return f"<{self.label} #{self.id} {self.score:.2f}, {self.area} px>"


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

    def only(self, kept: Callable[[Segment], bool], *, first_on_top: bool) -> Segmentation:
        """Without the other segments; what lay beneath them shows. first_on_top: how the map is painted."""
        segments = tuple(filter(kept, self.segments))
        if len(segments) == len(self.segments):
            return self
        order = segments[::-1] if first_on_top else segments
        if isinstance(self.drawn, OnDevice):
            repainted = OnDevice(partial(_repainted, self.drawn, order, self.empty), self.size)
            return replace(self, segments=segments, drawn=repainted)
        painted = np.full_like(self.drawn, self.empty)
        for segment in order:
            painted[segment.mask] = segment.id
        return replace(self, segments=segments, drawn=painted)

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


def _repainted(before: OnDevice, segments: Sequence[Segment], empty: int) -> Tensor:
    """(H, W) int32, where it was painted before."""
    canvas = torch.full_like(before.draw(), empty)
    for segment in segments:
        mask = segment.drawn.draw() if isinstance(segment.drawn, OnDevice) else torch.from_numpy(segment.drawn)
        canvas.masked_fill_(mask.to(canvas.device), segment.id)
    return canvas


@dataclass(frozen=True, eq=False, repr=False)
class FrameResult:
    """Result of one `VideoSession.step`.

    index: the frame's number in its stream, from 0. text: the model's answer to the current instruction, without
    marks; empty where the answer was known beforehand. spans: its phrases, each with the condition
    (`Segment.label_id`) it names. timings: milliseconds per stage, in the order the stages ran. timestamp: seconds into
    the stream, where its source tells. frame: its pixels, (H, W, 3) uint8, where `Runtime.track` read them.
    """

    index: int
    segmentation: Segmentation
    text: str
    spans: tuple[TextSpan, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    timestamp: float | None = None
    frame: Pixels | None = None

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

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(segment.id for segment in self.segments)

    @property
    def boxes(self) -> npt.NDArray[np.int64]:
        """(segments, 4) int64: left, top, right, bottom in pixel edges, so that right − left is the width."""
        boxes = np.array([bounding_box(segment.mask) for segment in self.segments], dtype=np.int64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    def polygons(self) -> tuple[tuple[Ring, ...], ...]:
        """The outlines of every segment (see `media.shapes.polygons`)."""
        return tuple(polygons(segment.mask) for segment in self.segments)

    def rle(self) -> tuple[RunLengths, ...]:
        """COCO's compressed run lengths of every segment."""
        return tuple(encode_mask(segment.mask) for segment in self.segments)

    def record(self) -> FrameRecord:
        """All of it as JSON's types; a line of a `.jsonl` output is this."""
        return FrameRecord(
            frame=self.index,
            timestamp=self.timestamp,
            size=list(self.segmentation.size),
            segments=[segment.record for segment in self.segments],
            text=self.text,
            spans=[SpanRecord(start=s.start, end=s.end, label_id=s.label_id) for s in self.spans],
        )

    def to_json(self) -> str:
        return json.dumps(self.record(), ensure_ascii=False, allow_nan=False)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per segment: frame, timestamp, id, label, label_id, score, is_thing, area, x0, y0, x1, y1. Raises
        ModuleNotFoundError without pandas."""
        import pandas

        columns = ["id", "label", "label_id", "score", "is_thing", "area"]
        table = pandas.DataFrame([[getattr(one, name) for name in columns] for one in self.segments], columns=columns)
        table[["x0", "y0", "x1", "y1"]] = self.boxes
        table.insert(0, "timestamp", self.timestamp)
        table.insert(0, "frame", self.index)
        return table

    def to_supervision(self) -> supervision.Detections:
        """The segments as supervision's detections, ids as its tracker ids. Raises ModuleNotFoundError without it."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            mask=self.masks,
            confidence=np.array(self.scores, dtype=np.float32),
            class_id=np.array([segment.label_id for segment in self.segments], dtype=int),
            tracker_id=np.array(self.ids, dtype=int),
            data={"class_name": np.array(self.labels, dtype=str)},
        )

    def plot(self, frame: Pixels | None = None) -> Pixels:
        """The frame that this is the result of, (H, W, 3) uint8 RGB, painted over. frame: needed where `self.frame` is
        not there. Raises VideoError without any, or where it does not fit."""
        from x2sam_rt.runtime.writers.overlay import Overlay  # it draws results, so it stands above them

        pixels = self.frame if frame is None else frame
        if pixels is None:
            raise VideoError("A picture is the frame painted over: pass the frame that was segmented, too.")
        return Overlay().draw(pixels, self)

    def save(self, path: str | Path, frame: Pixels | None = None) -> None:
        """`.json`: the record; `.png`, `.jpg`: as `plot`. Raises VideoError for other suffixes, and where it cannot be
        written."""
        if Path(path).suffix.lower() != ".json":
            return write_image(path, self.plot(frame))
        with atomic_file(path) as temporary:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        height, width = self.segmentation.size
        return f"<FrameResult {self.index}, {width}×{height}: {', '.join(map(repr, self.segments)) or 'no segments'}>"
