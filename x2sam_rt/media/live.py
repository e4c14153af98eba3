"""Frames that come once and by themselves: cameras, network streams, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from threading import Condition, Thread
from typing import Any, BinaryIO

import av
import av.container
import numpy as np

from x2sam_rt.errors import VideoError
from x2sam_rt.media.audio import Audio, audio_codec
from x2sam_rt.media.containers import SELF_CONTAINED, video_stream
from x2sam_rt.media.source import WHOLE, FrameSource, Part
from x2sam_rt.media.video import VideoFrame

STANDARD_INPUT = "-"
SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "srt", "udp", "tcp")
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "srt", "udp")
# What a stream may open on its own: a playlist from the network never names a local file.
_PROTOCOLS = "rtsp,rtsps,rtp,rtmp,http,https,httpproxy,srt,udp,tcp,tls,crypto"
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_TIMEOUT = 10.0  # seconds until a stream that says nothing is given up
_UNSTATED_RATE = Fraction(25)


class LiveStream(FrameSource):
    """Frames that come once: a camera, an address, standard input.

    newest_only: a thread reads on while a frame is worked on, and what nobody took in time is dropped (`dropped`).
    Frames damaged on the way are passed over.
    """

    def __init__(
        self, name: str, container: av.container.InputContainer, part: Part = WHOLE, *, newest_only: bool = False
    ) -> None:
        self.name, self.newest_only, self._part, self._container = name, newest_only, part, container
        try:
            self._stream = video_stream(container, Path(name))
        except VideoError:
            container.close()
            raise
        self.frame_rate = (self._stream.average_rate or self._stream.guessed_rate or _UNSTATED_RATE) / part.stride
        codec = audio_codec(container)
        self.audio = None if codec is None else Audio(codec)
        self._newest = Newest(self._decoded()) if newest_only else None

    @property
    def dropped(self) -> int:  # type: ignore[override]  # it grows while the thread reads
        return 0 if self._newest is None else self._newest.dropped

    def __iter__(self) -> Iterator[VideoFrame]:
        return self._part.of(self._decoded() if self._newest is None else iter(self._newest))

    def close(self) -> None:
        if self._newest is not None:
            self._newest.close()
        self._container.close()

    def _decoded(self) -> Iterator[VideoFrame]:
        origin, index = None, 0
        try:
            for packet in self._container.demux(self._stream):
                for frame in _sound(packet):
                    seconds = index / self.frame_rate if frame.time is None else frame.time
                    origin = seconds if origin is None else origin
                    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
                    yield VideoFrame(index, float(seconds - origin), pixels)
                    index += 1
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{self.name}: breaks off after {index} frames ({error.strerror}).") from error


class Newest:
    """The newest frame of an iterator that does not wait, read in a thread; those nobody took in time are dropped."""

    def __init__(self, frames: Iterator[VideoFrame]) -> None:
        self._changed = Condition()
        self._frame: VideoFrame | None = None
        self._error: VideoError | None = None
        self._ended = False
        self.dropped = 0
        self._thread = Thread(target=self._read, args=(frames,), name="newest frame", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[VideoFrame]:
        while (frame := self._take()) is not None:
            yield frame

    def close(self) -> None:
        """Ends the thread with the frame it is at, so that what it reads from can be closed."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(_TIMEOUT)

    def _take(self) -> VideoFrame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            frame, self._frame = self._frame, None
            if frame is None and self._error is not None:
                raise self._error
            return frame

    def _read(self, frames: Iterator[VideoFrame]) -> None:
        try:
            for frame in frames:
                with self._changed:
                    if self._ended:
                        return
                    self.dropped += self._frame is not None
                    self._frame = frame
                    self._changed.notify()
        except VideoError as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()


def _sound(packet: Any) -> list[av.VideoFrame]:
    try:
        return [frame for frame in packet.decode() if not frame.is_corrupt]
    except av.error.InvalidDataError:
        return []


def open_camera(name: str) -> av.container.InputContainer:
    if sys.platform not in _CAMERAS:
        raise VideoError(f"Camera {name}: cameras are read on Linux and macOS; pass an address or a file here.")
    kind, device = _CAMERAS[sys.platform]
    file = device.format(name) if name.isdigit() else name
    return _open(file, name, "Check that the camera is there and not in use", format=kind)


def open_address(name: str, scheme: str) -> av.container.InputContainer:
    options = {"protocol_whitelist": _PROTOCOLS} | ({"rtsp_transport": "tcp"} if scheme.startswith("rtsp") else {})
    return _open(name, name, "Check the address, and that something is sent there", options=options, timeout=_TIMEOUT)


def open_playlist(path: Path) -> av.container.InputContainer:
    """Of files on this machine only."""
    options = {"protocol_whitelist": "file,crypto,data"}
    return _open(str(path.resolve()), str(path), "Check that the files it names are there", options=options)


def open_input(raw_size: tuple[int, int] | None) -> av.container.InputContainer:
    hint = "Send Y4M, MJPEG or another stream that FFmpeg reads without seeking, or say the size of raw RGB frames"
    if raw_size is None:
        options = {"format_whitelist": SELF_CONTAINED}  # what is sent opens no files here
        return _open(_Pipe(sys.stdin.buffer), STANDARD_INPUT, hint, options=options)
    width, height = raw_size
    options = {"video_size": f"{width}x{height}", "pixel_format": "rgb24", "framerate": str(_UNSTATED_RATE)}
    return _open(_Pipe(sys.stdin.buffer), STANDARD_INPUT, hint, format="rawvideo", options=options)


class _Pipe:
    """A file that cannot be sought in, to FFmpeg: it asks for `seek` where there is one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(size)


def _open(file: Any, name: str, hint: str, **how: Any) -> av.container.InputContainer:
    try:
        container: av.container.InputContainer = av.open(file, "r", metadata_errors="replace", **how)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{name}: cannot be opened ({reason}). {hint}.") from error
    return container
