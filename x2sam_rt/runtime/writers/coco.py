"""Results as JSON lines with COCO's run-length masks: exact, overlapping masks kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import AtomicOutput, Replaces, any_file, naming_write_errors
from x2sam_rt.media.rle import decode_mask
from x2sam_rt.media.types import Pixels
from x2sam_rt.runtime.results import FrameRecord, FrameResult, Segment
from x2sam_rt.runtime.writers.writer import ResultWriter
from x2sam_rt.tasks.marks import TextSpan


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
    """One JSON object per line and frame (see FrameRecord), in UTF-8. replaces: see AtomicOutput.

    growing: the file while it is written: every line is in it once `write` returns, and whoever has it open keeps it
    when it takes its name.
    """

    def __init__(self, path: str | Path, *, replaces: Replaces = any_file) -> None:
        self._replacement = AtomicOutput(path, replaces=replaces)
        self.growing = self._replacement.temporary
        with self._replacement.discarded_on_error():
            self._file = self._replacement.temporary.open("x", encoding="utf-8")

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        line = replace(result, timestamp=timestamp).to_json()
        with naming_write_errors(self._replacement.target):
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        with self._replacement.discarded_on_error():
            self._file.close()
        self._replacement.publish()

    def discard(self) -> None:
        with suppress(OSError):  # what is not written yet is unwanted
            self._file.close()
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
