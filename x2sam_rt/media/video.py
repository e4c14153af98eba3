"""Video files in: frames one by one, upright, with their own times; a file that breaks off says so."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from x2sam_rt.errors import VideoError
from x2sam_rt.media.audio import audio_codec
from x2sam_rt.media.containers import (
    BreakError,
    FrameTimes,
    KeyFrame,
    count_packets,
    decode_frames,
    frame_times,
    open_container,
    promised_frames,
    video_stream,
)
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video_writer import VideoWriter

__all__ = ["PickedFrames", "VideoFrame", "VideoReader", "VideoWriter", "pick_frames"]

_log = logging.getLogger(__name__)
_READERS = 4  # of one file at once, each with a decoder's frames in memory
_NO_TIME: int | None = None
_UNSTATED_RATE = Fraction(25)  # what FFmpeg itself assumes for raw streams


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One frame of a file.

    index: from 0. timestamp: seconds after the first frame. pixels: (H, W, 3) uint8 RGB.
    """

    index: int
    timestamp: float
    pixels: Pixels


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A frame before its conversion to RGB."""

    index: int
    timestamp: float
    raw: av.VideoFrame


Keep = Callable[[VideoFrame], VideoFrame]
Shrink = Callable[[Pixels, int], Pixels]


def whole(frame: VideoFrame) -> VideoFrame:
    return frame


def keeping(shrink: Shrink | None, count: int, chosen: Collection[int]) -> Keep:
    """What is held of `count` spread frames: all of the chosen ones, of the others what `shrink` makes of them."""
    if shrink is None:
        return whole
    return lambda frame: frame if frame.index in chosen else replace(frame, pixels=shrink(frame.pixels, count))


class VideoReader:
    """Frames of a video file, one pass, in constant memory.

    Frames are turned upright. Times come from the file, so a variable frame rate is kept; a raw stream
    without times is counted at `frame_rate`. Audio, subtitles and cover art are passed over.

    allow_truncated: end at the first damage, with a logged warning, instead of raising there. Damage is: a
    packet or frame that FFmpeg marks as corrupt or cannot decode, fewer packets than the container's index
    lists, or a file shorter than its own layout says. A container without any such promise (a live recording)
    that is cut exactly between two frames cannot be told from a complete one.

    Raises VideoError if the file is missing, empty, no video, has no video stream or no decodable frame.
    """

    def __init__(self, path: str | Path, *, allow_truncated: bool = False, _frame_threads: bool = False) -> None:
        self.path = Path(path)
        self.allow_truncated = allow_truncated
        self._to_rgb, self._sought, self._origin = VideoReformatter(), False, _NO_TIME
        self._container = open_container(self.path)
        try:
            self._stream = video_stream(self._container, self.path)
            if _frame_threads:  # faster, but damage then only shows in frames that are missing: for seek_frames
                self._stream.thread_type = "AUTO"
            self._decoded = self._decode()
            head = next(self._decoded, None)
            if head is None:
                raise VideoError(f"{self.path}: no frame can be decoded. Fetch or record the file again.")
            self._matrix = _display_matrix(head.raw)
            self._head: VideoFrame | None = self._convert(head)
        except BaseException:
            self._container.close()
            raise
        self._height, self._width, _ = (int(size) for size in self._head.pixels.shape)

    @property
    def width(self) -> int:
        """Pixels across the first frame, upright."""
        return self._width

    @property
    def height(self) -> int:
        """Pixels down the first frame, upright."""
        return self._height

    @property
    def frame_rate(self) -> Fraction:
        """Average frames per second; 25 where the file states none."""
        return self._stream.average_rate or self._stream.guessed_rate or _UNSTATED_RATE

    @property
    def num_frames(self) -> int | None:
        """Frames according to the container; None where it does not say. Never estimated."""
        return promised_frames(self._container, self._stream)

    @property
    def origin(self) -> float:
        """Seconds of the first frame on the file's own clock."""
        return self._seconds(self._origin, 0, 0)

    @property
    def audio_codec(self) -> str | None:
        """The codec of what sounds in it; None if nothing does."""
        return audio_codec(self._container)

    def __iter__(self) -> Iterator[VideoFrame]:
        """The frames in order of display. Raises VideoError where the file breaks off and on a second pass."""
        if not self._sought:
            yield self._take_head()
        for decoded in self._decoded:
            yield self._convert(decoded)

    def pick(self, indices: Collection[int], keep: Keep = whole) -> tuple[list[VideoFrame], int]:
        """The frames with the given numbers, and the number of all frames; only the picked are converted. keep: makes
        of each, as it comes, what is held of it."""
        head = self._take_head()
        picked, count = [keep(head)] if 0 in indices else [], 1
        for decoded in self._decoded:
            count += 1
            if decoded.index in indices:
                picked.append(keep(self._convert(decoded)))
        return picked, count

    def start_at(self, seconds: float) -> None:
        """Begins the pass at the first frame `seconds` or more after the file's first; frames are numbered from there.
        What lies before is passed over by seeking where packets tell the way, else by decoding."""
        self._take_head()
        self._decoded.close()
        times = frame_times(self.path)
        key = None if times is None else times.key_before(seconds)
        if key is None or not self._seek_key(key):
            self._container.close()
            self._container = open_container(self.path)
            self._stream = video_stream(self._container, self.path)
            key = None
        self._sought, self._decoded = True, self._decode(seconds, 0 if key is None else key.before)

    def _seek_key(self, key: KeyFrame) -> bool:
        """Whether decoding goes on at this key frame now; some containers are sought in by guess."""
        self._container.seek(key.time, stream=self._stream)
        first = next(decode_frames(self._container, self._stream, self.path, passed=key.before), None)
        self._container.seek(key.time, stream=self._stream)
        return first is not None and first.pts == key.time

    def seek_frames(self, times: FrameTimes, indices: Collection[int], keep: Keep = whole) -> list[VideoFrame] | None:
        """The frames with the given numbers, decoded from the key frames before them; keep: as in `pick`. None where a
        frame does not come at its time, as after damage: then only decoding from the start tells."""
        self._take_head()
        origin, frames = times.shown[0], list[VideoFrame]()
        for key, wanted in _by_key(times, indices).items():
            self._container.seek(key.time, stream=self._stream)
            try:
                for raw in self._at(wanted, key):
                    if raw.pts in wanted:
                        n = wanted[raw.pts]
                        frames.append(keep(self._convert(_Decoded(n, self._seconds(raw.pts, origin, n), raw))))
            except BreakError:
                return None
        frames.sort(key=lambda frame: frame.index)
        return frames if [frame.index for frame in frames] == sorted(indices) else None

    def _at(self, times: Collection[int], key: KeyFrame) -> Iterator[av.VideoFrame]:
        """Frames from a key frame to the last of these times, those of all these times among them."""
        for raw in decode_frames(self._container, self._stream, self.path, only=times, passed=key.before):
            yield raw
            if raw.pts is None or raw.pts >= max(times):
                return

    def close(self) -> None:
        """Releases the file and the decoder; closing twice is allowed."""
        self._decoded.close()
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_head(self) -> VideoFrame:
        if self._head is None:
            raise VideoError(f"{self.path}: was read already; a reader makes one pass. Open the file again.")
        head, self._head = self._head, None
        return head

    def _decode(self, start: float = 0.0, packets: int = 0) -> Generator[_Decoded, None, None]:
        """start: seconds; frames before are not counted. packets: those passed over by seeking."""
        count, passed, timestamp = 0, 0, 0.0
        try:
            for raw in decode_frames(self._container, self._stream, self.path, passed=packets):
                self._origin = raw.pts if self._origin is None else self._origin
                timestamp = self._seconds(raw.pts, self._origin, count + passed)
                if timestamp < start:
                    passed += 1
                    continue
                count += 1
                yield _Decoded(count - 1, timestamp, raw)
        except BreakError as reason:
            self._report_break(count, timestamp, reason)

    def _seconds(self, pts: int | None, origin: int | None, index: int) -> float:
        if pts is None or origin is None or self._stream.time_base is None:
            return float(index / self.frame_rate)
        return float((pts - origin) * self._stream.time_base)

    def _report_break(self, count: int, timestamp: float, reason: BreakError) -> None:
        if not count:
            raise VideoError(
                f"{self.path}: no frame can be decoded ({reason}). Fetch or record the file again."
            ) from reason
        found = f"{self.path}: breaks off after frame {count - 1} at {timestamp:.3f} s ({reason})"
        if not self.allow_truncated:
            raise VideoError(
                f"{found}. Fetch the file again, re-mux it (ffmpeg -i IN -c copy OUT), or pass "
                f"allow_truncated=True to keep the {count} frames before the break."
            ) from reason
        _log.warning("%s; the %d frames before are kept.", found, count)

    def _convert(self, decoded: _Decoded) -> VideoFrame:
        rgb = self._to_rgb.reformat(decoded.raw, format="rgb24")
        pixels = rgb.to_ndarray().astype(np.uint8, copy=False)
        if self._matrix is not None:
            pixels = upright(pixels, self._matrix)
        return VideoFrame(decoded.index, decoded.timestamp, pixels)


def _display_matrix(frame: av.VideoFrame) -> DisplayMatrix | None:
    """The stream's display matrix, which PyAV gives only with a frame.

    For one frame only: asking makes PyAV tie the frame and its side data into a cycle, and the frame's memory is
    then freed late, by the garbage collector.
    """
    side_data = cast(SideDataContainer, frame.side_data)  # PyAV types it as a dict of motion vectors
    matrix = side_data.get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(bytes(matrix), dtype=np.int32).reshape(3, 3)


@dataclass(frozen=True, eq=False)
class PickedFrames:
    """Frames of a file. spread: evenly, in order. chosen: by number, those of the numbers asked for that it has.
    total: how many it has."""

    spread: tuple[VideoFrame, ...]
    chosen: Mapping[int, VideoFrame]
    total: int

    @classmethod
    def of(cls, frames: Iterable[VideoFrame], total: int, count: int, chosen: Collection[int]) -> PickedFrames:
        """frames: at least those that `count` spread ones of `total` and the chosen ones are."""
        found = {frame.index: frame for frame in frames}
        return cls(
            spread=tuple(found[index] for index in sorted(spread(total, count))),
            chosen={index: found[index] for index in sorted(chosen) if index in found},
            total=total,
        )


def pick_frames(
    path: str | Path,
    count: int,
    chosen: Collection[int] = (),
    shrink: Shrink | None = None,
    *,
    allow_truncated: bool = False,
) -> PickedFrames:
    """`count` frames spread evenly from the first to the last (all of a shorter clip), and those numbered `chosen`.

    shrink: makes of a frame's pixels, and the number of spread frames, what is held of it; the chosen ones stay whole.
    Memory is that of the frames returned. Where the packets tell when each frame is shown, only the groups of pictures
    with wanted frames are decoded. Else the whole file is, its packets counted first if the container does not say how
    many frames it holds; again where the number was wrong, as a file that breaks off shows at its end. Raises
    VideoError as VideoReader does.
    """
    if count < 1:
        raise VideoError(f"{path}: {count} evenly spaced frames were asked for; ask for at least 1.")
    times = frame_times(Path(path))
    if times is not None:
        total = len(times.shown)
        wanted = spread(total, count) | {n for n in chosen if n < total}
        found = sought_frames(path, times, wanted, keeping(shrink, min(count, total), chosen))
        if found is not None:
            return PickedFrames.of(found, total, count, chosen)
    with VideoReader(path, allow_truncated=allow_truncated) as reader:
        expected = reader.num_frames or count_packets(reader.path)
        keep = keeping(shrink, min(count, expected), chosen)
        frames, total = reader.pick(spread(expected, count) | set(chosen), keep)
    if expected != total:
        with VideoReader(path, allow_truncated=allow_truncated) as reader:
            keep = keeping(shrink, min(count, total), chosen)
            frames, total = reader.pick(spread(total, count) | set(chosen), keep)
    return PickedFrames.of(frames, total, count, chosen)


def sought_frames(
    path: str | Path, times: FrameTimes, indices: Collection[int], keep: Keep = whole
) -> list[VideoFrame] | None:
    """As `VideoReader.seek_frames`, by several readers at once, each for some of the key frames: decoders
    themselves seldom keep two processors busy. keep: is called from several threads, first for the first frame."""
    groups = [sorted(wanted.values()) for wanted in _by_key(times, indices).values()]

    def seek(share: list[list[int]]) -> list[VideoFrame] | None:
        with VideoReader(path, _frame_threads=len(groups) == 1) as reader:
            return reader.seek_frames(times, [index for group in share for index in group], keep)

    readers = min(_READERS, os.cpu_count() or 1)
    found = [seek(groups[:1])]
    with ThreadPoolExecutor(readers) as pool:
        found += pool.map(seek, filter(None, (groups[1 + n :: readers] for n in range(readers))))
    frames = [frame for some in found for frame in some or ()]
    return None if None in found else sorted(frames, key=lambda frame: frame.index)


def _by_key(times: FrameTimes, indices: Collection[int]) -> dict[KeyFrame, dict[int, int]]:
    """For each key frame that is needed: the numbers of the wanted frames after it, by their times."""
    groups: dict[KeyFrame, dict[int, int]] = {}
    for index in sorted(indices):
        groups.setdefault(times.key_of(index), {})[times.shown[index]] = index
    return groups


def spread(total: int, count: int) -> frozenset[int]:
    """The numbers of `count` frames, evenly from the first of `total` to the last; all of fewer."""
    return frozenset(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())


DisplayMatrix = npt.NDArray[np.int32]


def upright(pixels: Pixels, matrix: DisplayMatrix) -> Pixels:
    """Applies a display matrix, taken to its nearest quarter turn (with or without a mirror).

    pixels: (H, W, 3) uint8 as stored. matrix: (3, 3) int32, FFmpeg's AV_FRAME_DATA_DISPLAYMATRIX: a stored
    point (x, y) is shown at x' = a·x + c·y, y' = b·x + d·y with ((a, b), (c, d)) its upper left part, y downwards.
    Returns (H, W, 3), or (W, H, 3) for an odd number of quarter turns; contiguous.
    """
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(b) > abs(a):
        pixels = pixels.transpose(1, 0, 2)
        flip_rows, flip_columns = b < 0, c < 0
    else:
        flip_rows, flip_columns = d < 0, a < 0
    return np.ascontiguousarray(pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])
