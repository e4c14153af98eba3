"""A source of the server's owner, named on the command line and never by a client, which the page plays."""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Literal

from PIL import Image

from x2sam_rt.errors import ServeError
from x2sam_rt.media.live import LiveStream
from x2sam_rt.media.source import FrameSource
from x2sam_rt.media.sources import ImageSequence
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video import VideoFrame

Kind = Literal["image", "video", "camera"]
_JPEG_QUALITY = 95


class OwnSource:
    """Frames one by one for whoever asks. name: as the page calls it. phrases: what it asks for by itself.

    One page at a time sees it: who begins a pass ends the one before, so that a camera is opened once. Its methods
    block; any thread may call them. Raises VideoError for a source that cannot be opened.
    """

    def __init__(self, opened: Callable[[], FrameSource], phrases: tuple[str, ...] = ()) -> None:
        self._opened, self._lock, self.phrases = opened, Lock(), phrases
        with opened() as source:
            self.name, self.kind, self._interval = source.name, _kind(source), float(1 / source.frame_rate)
        self._pass = ""
        self._source: FrameSource | None = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._due = 0.0

    def begin(self) -> str:
        """A pass from the source's beginning. Returns what `next` knows it by. Raises VideoError."""
        with self._lock:
            self._close()
            self._source = self._opened()
            self._frames, self._pass = iter(self._source), secrets.token_hex(8)
            return self._pass

    def next(self, name: str) -> bytes | None:
        """The next frame of a pass, as JPEG, of a film not before its time; None at the end. Raises VideoError;
        ServeError for a pass that another one ended."""
        with self._lock:
            if name != self._pass:
                raise ServeError("not_found", f"Another page shows {self.name} now; load this one again.")
            frame = next(self._frames, None)
            if frame is None:
                return None
            picture = _jpeg(frame.pixels)
            if self.kind == "video":
                time.sleep(max(0.0, self._due - time.monotonic()))
                self._due = time.monotonic() + self._interval
            return picture

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source, self._frames, self._pass = None, iter(()), ""


def _kind(source: FrameSource) -> Kind:
    if isinstance(source, ImageSequence) and source.num_frames == 1:
        return "image"
    return "camera" if isinstance(source, LiveStream) and source.newest_only else "video"


def _jpeg(pixels: Pixels) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return held.getvalue()
