"""Results as JSON lines with COCO's run-length masks: exact, overlapping masks kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import AtomicOutput, naming_write_errors
from x2sam_rt.media.rle import RunLengths, decode_mask, encode_mask
from x2sam_rt.media.types import BoolMask, Pixels
from x2sam_rt.runtime.results import FrameResult, Segment
from x2sam_rt.runtime.writers.writer import ResultWriter
from x2sam_rt.tasks.marks import TextSpan


class SegmentRecord(TypedDict):
    """A segment as it stands in the file. bbox: [x, y, width, height] in pixels; area in pixels."""

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
    """One line of the file. size: [height, width]. timestamp: seconds, null if unknown. spans: phrases of the text."""

    frame: int
    timestamp: float | None
    size: list[int]
    segments: list[SegmentRecord]
    text: str
    spans: list[SpanRecord]


@dataclass(frozen=True, eq=False)
class CocoFrame:
    """A line read back. size: (height, width)."""

    index: int
    timestamp: float | None
    size: tuple[int, int]
    segments: tuple[Segment, ...]
    text: str
    spans: tuple[TextSpan, ...]


class CocoRleWriter(ResultWriter):
    """One JSON object per line and frame (see FrameRecord), in UTF-8."""

    def __init__(self, path: str | Path) -> None:
        self._replacement = AtomicOutput(path)
        with naming_write_errors(self._replacement.target):
            self._file = self._replacement.temporary.open("x", encoding="utf-8")

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        height, width = result.segmentation.size
        record = FrameRecord(
            frame=result.index,
            timestamp=timestamp,
            size=[height, width],
            segments=[_record(segment) for segment in result.segments],
            text=result.text,
            spans=[SpanRecord(start=s.start, end=s.end, label_id=s.label_id) for s in result.spans],
        )
        with naming_write_errors(self._replacement.target):
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        try:
            with naming_write_errors(self._replacement.target):
                self._file.close()
        except VideoError:
            self._replacement.discard()
            raise
        self._replacement.publish()

    def discard(self) -> None:
        try:
            self._file.close()
        finally:
            self._replacement.discard()


def read_coco_rle(path: str | Path) -> Iterator[CocoFrame]:
    """The frames of a CocoRleWriter's file, one by one. Raises VideoError if it is missing or damaged."""
    if not Path(path).is_file():
        raise VideoError(f"{path}: no such file.")
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record: FrameRecord = json.loads(line)
                yield _frame(record)
            except (ValueError, KeyError, TypeError) as error:
                raise VideoError(
                    f"{path}: line {number} is not a frame's result ({type(error).__name__}: {error}). The file "
                    "was cut off or changed; write it again."
                ) from error


def bounding_box(mask: BoolMask) -> list[int]:
    """[x, y, width, height] of a (H, W) bool mask in pixels; zeros for an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return [0, 0, 0, 0]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def _record(segment: Segment) -> SegmentRecord:
    return SegmentRecord(
        id=int(segment.id),
        label=segment.label,
        label_id=int(segment.label_id),
        score=float(segment.score),
        is_thing=bool(segment.is_thing),
        area=segment.area,
        bbox=bounding_box(segment.mask),
        rle=encode_mask(segment.mask),
    )


def _frame(record: FrameRecord) -> CocoFrame:
    height, width = record["size"]
    segments = tuple(
        Segment(
            decode_mask(entry["rle"], height, width),
            label=entry["label"],
            label_id=entry["label_id"],
            score=entry["score"],
            id=entry["id"],
            is_thing=entry["is_thing"],
        )
        for entry in record["segments"]
    )
    spans = tuple(TextSpan(**span) for span in record["spans"])
    return CocoFrame(record["frame"], record["timestamp"], (height, width), segments, record["text"], spans)
