"""What every source of frames has in common, and the part of it that is wanted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from types import TracebackType
from typing import Self

from x2sam_rt.errors import VideoError
from x2sam_rt.media.audio import Audio
from x2sam_rt.media.video import PickedFrames, Shrink, VideoFrame


@dataclass(frozen=True)
class Part:
    """Which frames of a source: those from `start` to before `end` seconds, every `stride`-th of them, `most` at most.

    Frames are numbered and timed from the first of them. Raises VideoError for a part that holds no frame.
    """

    start: float = 0.0
    end: float | None = None
    stride: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise VideoError(f"No frame lies {self.span}; wanted 0 ≤ start < end.")
        if self.stride < 1 or (self.most is not None and self.most < 1):
            raise VideoError(f"stride={self.stride}, most={self.most}: wanted frames, so 1 or more of both.")

    @property
    def span(self) -> str:
        """For messages."""
        return f"from {self.start:g} seconds on" if self.end is None else f"from {self.start:g} to {self.end:g} seconds"

    @property
    def is_whole(self) -> bool:
        return self == Part()

    def numbers(self, seconds: Sequence[float]) -> list[int]:
        """Which of the frames shown at these times belong to it."""
        inside = [n for n, at in enumerate(seconds) if self.start <= at and (self.end is None or at < self.end)]
        return inside[:: self.stride][: self.most]

    def of(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """frames: in order, from any at or before `start`."""
        inside = (frame for frame in frames if frame.timestamp >= self.start)
        first: float | None = None
        for index, frame in enumerate(islice(_until(self.end, inside), 0, None, self.stride)):
            first = frame.timestamp if first is None else first
            yield replace(frame, index=index, timestamp=frame.timestamp - first)
            if index + 1 == self.most:
                return


WHOLE = Part()


class FrameSource(ABC):
    """Frames one by one, and, of what can be read twice, some of them beforehand. A context manager.

    name: for messages and for what is named after the source. frame_rate: frames per second, a guess where the source
    states none. num_frames: None where it does not say. dropped: those that nobody took in time. audio: what sounds
    with it.
    """

    name: str
    frame_rate: Fraction
    num_frames: int | None = None
    dropped: int = 0
    audio: Audio | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[VideoFrame]:
        """The frames in order, once. Raises VideoError where the source breaks off."""

    def pick(self, count: int, chosen: Collection[int] = (), shrink: Shrink | None = None) -> PickedFrames | None:
        """As `pick_frames`, over all frames to come; None of a source that is not looked ahead in."""
        return None

    def frame_size(self, index: int) -> tuple[int, int] | None:
        """(height, width) of the frame with this number, as it can be known beforehand; None where it cannot. Raises
        VideoError for what cannot be read."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Releases files and devices; closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _until(end: float | None, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    for frame in frames:
        if end is not None and frame.timestamp >= end:
            return
        yield frame
