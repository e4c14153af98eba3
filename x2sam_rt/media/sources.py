"""Opens whatever an address names: video files, images, cameras, network streams, standard input."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from glob import glob
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image

from x2sam_rt.documents import read_plain_file
from x2sam_rt.errors import ConfigError, VideoError
from x2sam_rt.media.audio import Audio
from x2sam_rt.media.containers import PlaylistError, frame_times
from x2sam_rt.media.image import read_image
from x2sam_rt.media.live import (
    LIVE_SCHEMES,
    SCHEMES,
    STANDARD_INPUT,
    LiveStream,
    open_address,
    open_camera,
    open_input,
    open_playlist,
)
from x2sam_rt.media.source import WHOLE, FrameSource, Part
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video import (
    PickedFrames,
    Shrink,
    VideoFrame,
    VideoReader,
    keeping,
    pick_frames,
    sought_frames,
    spread,
)

T = TypeVar("T")
_LONGEST_LIST = 16 * 10**6  # bytes: a hundred thousand long paths
_IMAGE_RATE = Fraction(25)  # frames per second of a folder of images, which says none


def open_source(
    address: str | Path | int,
    part: Part = WHOLE,
    *,
    live: bool | None = None,
    allow_truncated: bool = False,
    allow_playlists: bool = False,
    raw_size: tuple[int, int] | None = None,
) -> FrameSource:
    """Opens whatever an address names.

    address: a video file; an image; a folder, a glob pattern or a `.txt` list of images (a sequence, in the order of
    the numbers in their names; a list in its own order); a camera ("0", "/dev/video0"); an address
    (rtsp, rtmp, http, srt, udp, tcp); "-" for standard input (Y4M, MJPEG, anything FFmpeg can read without seeking).
    live: never look ahead, and of cameras and streams take the newest frame only; None = so for cameras and live
    protocols. allow_truncated: see VideoReader. allow_playlists: read files that open others on this machine, as a
    stream, since they need not end. raw_size: (width, height) of plain RGB bytes on standard input.

    Raises VideoError, which names what was found and what can be read.
    """
    name = str(address)
    if name == STANDARD_INPUT:
        return LiveStream(name, open_input(raw_size), part, newest_only=bool(live))
    if name.isdigit() or name.startswith("/dev/video"):
        return LiveStream(name, open_camera(name), part, newest_only=live is not False)
    if "://" in name:
        scheme = name.partition("://")[0].lower()
        if scheme not in SCHEMES:
            raise VideoError(f"{name}: cannot read {scheme} addresses; wanted one of {', '.join(SCHEMES)}.")
        newest_only = scheme in LIVE_SCHEMES if live is None else live
        return LiveStream(name, open_address(name, scheme), part, newest_only=newest_only)
    images = _images(name)
    if images is not None:
        return ImageSequence(name, images, part, read=read_image, look_ahead=not live)
    try:
        return VideoFile(Path(name), part, allow_truncated=allow_truncated, look_ahead=not live)
    except PlaylistError:
        if not allow_playlists:
            raise
        return LiveStream(name, open_playlist(Path(name)), part, newest_only=bool(live))


class VideoFile(FrameSource):
    """A part of a video file; see VideoReader."""

    def __init__(
        self, path: Path, part: Part = WHOLE, *, allow_truncated: bool = False, look_ahead: bool = True
    ) -> None:
        self.name, self._path, self._part, self._allow_truncated = str(path), path, part, allow_truncated
        self._look_ahead = look_ahead
        self._reader = VideoReader(path, allow_truncated=allow_truncated)
        self.frame_rate = self._reader.frame_rate / part.stride
        self.num_frames = self._reader.num_frames if part.is_whole else None
        codec, self._began = self._reader.audio_codec, 0.0
        self.audio = None if codec is None else Audio(codec, path, lambda: self._reader.origin + self._began)

    def __iter__(self) -> Iterator[VideoFrame]:
        if self._part.start:
            self._reader.start_at(self._part.start)
        return self._part.of(self._noting_the_first())

    def pick(self, count: int, chosen: Collection[int] = (), shrink: Shrink | None = None) -> PickedFrames | None:
        if not self._look_ahead:
            return None
        if self._part.is_whole:
            return pick_frames(self._path, count, chosen, shrink, allow_truncated=self._allow_truncated)
        return self._sought(count, chosen, shrink) or self._read_twice(count, chosen, shrink)

    def frame_size(self, index: int) -> tuple[int, int] | None:
        """That of the file's first frame: what a container says holds for all."""
        return self._reader.height, self._reader.width

    def close(self) -> None:
        self._reader.close()

    def _noting_the_first(self) -> Iterator[VideoFrame]:
        noted = False
        for frame in self._reader:
            if not noted and frame.timestamp >= self._part.start:
                self._began, noted = frame.timestamp, True
            yield frame

    def _sought(self, count: int, chosen: Collection[int], shrink: Shrink | None) -> PickedFrames | None:
        times = frame_times(self._path)
        if times is None:
            return None
        numbers = self._part.numbers(times.seconds)
        self._require(len(numbers))
        wanted = spread(len(numbers), count) | {n for n in chosen if n < len(numbers)}
        keep = keeping(shrink, min(count, len(numbers)), {numbers[n] for n in chosen if n < len(numbers)})
        found = sought_frames(self._path, times, {numbers[n] for n in wanted}, keep)
        if found is None:
            return None
        own = [replace(frame, index=numbers.index(frame.index)) for frame in found]
        return PickedFrames.of(own, len(numbers), count, chosen)

    def _read_twice(self, count: int, chosen: Collection[int], shrink: Shrink | None) -> PickedFrames:
        with self._again() as source:
            total = sum(1 for _ in source)
        self._require(total)
        wanted, keep = spread(total, count) | set(chosen), keeping(shrink, min(count, total), chosen)
        with self._again() as source:
            return PickedFrames.of([keep(frame) for frame in source if frame.index in wanted], total, count, chosen)

    def _again(self) -> VideoFile:
        return VideoFile(self._path, self._part, allow_truncated=self._allow_truncated)

    def _require(self, total: int) -> None:
        if not total:
            raise VideoError(f"{self._path}: has no frame {self._part.span}.")


class ImageSequence(FrameSource, Generic[T]):
    """Images as frames, 25 in a second; they may be of different sizes. read: gets an image, each time it is needed."""

    def __init__(
        self,
        name: str,
        images: Sequence[T],
        part: Part = WHOLE,
        *,
        read: Callable[[T], Pixels],
        look_ahead: bool = True,
    ) -> None:
        self.name, self._read_image, self._look_ahead = name, read, look_ahead
        self.frame_rate = _IMAGE_RATE / part.stride
        numbers = part.numbers([float(n / _IMAGE_RATE) for n in range(len(images))])
        self.images = [images[n] for n in numbers]
        self.num_frames = len(self.images)
        if not self.images:
            raise VideoError(f"{name}: none of its {len(images)} images lies {part.span}, at 25 in a second.")

    def __iter__(self) -> Iterator[VideoFrame]:
        return (self._read(index) for index in range(len(self.images)))

    def pick(self, count: int, chosen: Collection[int] = (), shrink: Shrink | None = None) -> PickedFrames | None:
        if not self._look_ahead:
            return None
        total = len(self.images)
        wanted = sorted(spread(total, count) | {n for n in chosen if n < total})
        keep = keeping(shrink, min(count, total), chosen)
        return PickedFrames.of([keep(self._read(index)) for index in wanted], total, count, chosen)

    def frame_size(self, index: int) -> tuple[int, int] | None:
        if index >= len(self.images):
            return None
        height, width, _ = self._read(index).pixels.shape
        return int(height), int(width)

    def close(self) -> None:
        """Nothing stays open."""

    def _read(self, index: int) -> VideoFrame:
        return VideoFrame(index, float(index / self.frame_rate), self._read_image(self.images[index]))


def _images(name: str) -> list[Path] | None:
    """The images an address names; None if it names something else. Raises VideoError where there are none."""
    path = Path(name)
    if path.suffix.lower() == ".txt":
        return [path.parent / line.strip() for line in _text(path).splitlines() if line.strip()]
    if os.path.isdir(path):  # unlike the methods, these take any name
        found = [one for one in path.iterdir() if is_image(one)]
    elif _is_pattern(name):
        found = [Path(one) for one in glob(name, recursive=True)]
    else:
        return [path] if is_image(path) else None
    if not found:
        raise VideoError(f"{name}: no images there; wanted files Pillow reads (.jpg, .png, …).")
    return sorted(found, key=_by_numbers)


def _text(path: Path) -> str:
    try:
        return read_plain_file(path, _LONGEST_LIST).decode("utf-8")
    except ConfigError as error:
        raise VideoError(f"{error} A list of images is wanted, a path in each line.") from error
    except UnicodeDecodeError as error:
        raise VideoError(f"{path}: a list of images is text, a path in each line; this is not.") from error


def is_one_image(name: str) -> bool:
    """Whether an address is a still image's: no folder's, pattern or address of a network."""
    return is_image(Path(name)) and not (os.path.isdir(name) or _is_pattern(name) or "://" in name)


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[") and not os.path.exists(name)


def is_image(path: Path) -> bool:
    """Whether its name is that of a still image."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN


def _by_numbers(path: Path) -> list[tuple[bool, int, str]]:
    """2.jpg before 10.jpg."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
