"""Sound frames out of a container, and the point and reason where it breaks off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import av
import av.container
import av.video.stream
from av.packet import Packet
from av.stream import Disposition

from x2sam_rt.errors import VideoError
from x2sam_rt.runtime.truncation import missing_tail, promised_packets

VideoPacket: TypeAlias = "Packet[av.video.stream.VideoStream]"


class BreakError(Exception):
    """Why decoding cannot go on. For the reader, which knows the last frame; users see a VideoError."""


def open_container(path: Path) -> av.container.InputContainer:
    """Opens a video file. Raises VideoError if it is missing, empty, a still image or not a video."""
    if not path.is_file():
        raise VideoError(f"{path}: no such file.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes). Check how it was copied or recorded.")
    try:
        container = av.open(str(path.resolve()), "r")  # absolute, so that a colon in a name is no protocol
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{path}: cannot be opened as a video ({error.strerror}). It is not a video, or was cut off "
            "before its index (an MP4 whose recording was interrupted): fetch or record it again."
        ) from error
    kind = container.format.name
    if kind in ("tty", "image2") or kind.endswith("_pipe"):  # FFmpeg also "plays" text files and still images
        container.close()
        raise VideoError(f"{path}: is a {'text' if kind == 'tty' else 'still image'} file, not a video.")
    return container


def video_stream(container: av.container.InputContainer, path: Path) -> av.video.stream.VideoStream:
    """The first moving picture. Raises VideoError if there is none; an album's cover does not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
    kinds = kinds.replace("video", "cover picture")
    raise VideoError(f"{path}: has no video stream (streams found: {kinds}).")


def sound_frames(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, path: Path
) -> Iterator[av.VideoFrame]:
    """Frames in order of display; raises BreakError at the first damage after the first key frame.

    Before the first key frame damage is expected: a broadcast recording begins inside a group of pictures.
    PyAV's default threading (slices) is kept on purpose: with frame threads, an error loses the sound frames
    still in work, and is not raised.
    """
    packets, started = 0, False
    for packet in _packets(container, stream):
        packets += 1
        try:
            frames = _decode(packet)
        except BreakError:
            if not started:
                continue
            yield from _checked(_drain(stream))
            raise
        yield from _checked(frames) if started else _sound_only(frames)
        started = started or packet.is_keyframe
    yield from _checked(_drain(stream))
    promised = promised_packets(container, stream)
    if promised is not None and packets < promised:
        raise BreakError(f"{packets} of the {promised} frames in its index are there")
    missing = missing_tail(path, container)
    if missing is not None:
        raise BreakError(missing)


def _packets(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[VideoPacket]:
    try:
        for packet in container.demux(stream):
            if packet.size:  # PyAV adds an empty one at the end
                yield packet
    except av.FFmpegError as error:
        raise BreakError(f"unreadable: {error.strerror}") from error


def _decode(packet: VideoPacket) -> list[av.VideoFrame]:
    if packet.is_corrupt:
        raise BreakError("the next frame is incomplete")
    try:
        return packet.decode()
    except av.FFmpegError as error:
        raise BreakError(f"the next frame cannot be decoded: {error.strerror}") from error


def _drain(stream: av.video.stream.VideoStream) -> list[av.VideoFrame]:
    """The frames a decoder holds back to bring them into order."""
    try:
        return stream.decode(None)
    except av.FFmpegError as error:
        raise BreakError(f"the last frames cannot be decoded: {error.strerror}") from error


def _checked(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    for frame in frames:
        if frame.is_corrupt:
            raise BreakError("parts of the next frame are missing")
        yield frame


def _sound_only(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    return (frame for frame in frames if not frame.is_corrupt)
