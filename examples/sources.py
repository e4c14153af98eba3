"""Frames that come by themselves: a camera or stream address, or a made-up world that needs neither."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from threading import Condition, Thread

import av
from av.error import FFmpegError

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.errors import VideoError
from x2sam_rt.media.types import Pixels

MADE_UP = "made-up"


def camera(address: str, device: str | None = None) -> Iterator[Pixels]:
    """Frames, (H, W, 3) uint8 RGB, from whatever FFmpeg opens, without end where it has none.

    address: a stream ("rtsp://…"), or with device = "v4l2" (Linux), "avfoundation" (macOS), "dshow" (Windows) or
    "lavfi" (FFmpeg's own test pictures) what that calls its camera: "/dev/video0", "0", "video=…", "testsrc2".
    """
    try:
        with av.open(address, format=device) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except FFmpegError as error:
        raise VideoError(f"{address}: {error.strerror}. Check that the camera is there and not in use.") from error


def made_up(rate: float, side: int = 256) -> Iterator[Pixels]:
    """Frames of moving shapes, `rate` per second, without end: a clip, forwards and back again."""
    frames = make_clip(0, ClipSettings(side=side, frames=48)).frames
    due = time.monotonic()
    for frame in itertools.cycle([*frames, *frames[-2:0:-1]]):
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / rate
        yield frame


class Newest:
    """The newest frame of a source that does not wait, read in a thread; frames nobody took in time are let go."""

    def __init__(self, source: Iterator[Pixels]) -> None:
        self._changed = Condition()
        self._frame: Pixels | None = None
        self._error: Exception | None = None
        self._ended = False
        self.dropped = 0
        Thread(target=self._read, args=(source,), daemon=True).start()

    def __iter__(self) -> Iterator[Pixels]:
        """Raises what the source raised."""
        while (frame := self._take()) is not None:
            yield frame

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _take(self) -> Pixels | None:
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            frame, self._frame = self._frame, None
            if frame is None and self._error is not None:
                raise self._error
            return frame

    def _read(self, source: Iterator[Pixels]) -> None:
        try:
            for frame in source:
                with self._changed:
                    if self._ended:
                        return
                    self.dropped += self._frame is not None
                    self._frame = frame
                    self._changed.notify()
        except VideoError as error:
            self._error = error
        finally:
            self.close()
