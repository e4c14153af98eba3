"""Video files out: H.264 in MP4, QuickTime or Matroska, published under their name only when they are complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import AtomicOutput, Output, naming_write_errors
from x2sam_rt.media.types import Pixels

_TICKS = 90_000  # per second: divides every usual frame rate, 30000/1001 included
_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
VIDEO_SUFFIXES = tuple(_FORMATS)
_LONGEST_STEP = 2**31 - 1  # ticks from frame to frame that an MP4's tables hold: 6.6 hours


class VideoWriter(Output):
    """A file with one H.264 stream (libx264, yuv420p, BT.709), renamed to its target by `close`.

    output: the path, or what was opened for it; its suffix says the container (VIDEO_SUFFIXES).
    yuv420p halves the colour planes, so an odd width or height is padded to even by repeating the last column
    or row; every player shows such a file, which is not so for the formats that keep odd sizes.
    width, height: of the frames to come. frame_rate: frames per second, used where no timestamp is given.
    crf: x264's quality, 0 (lossless) to 51. Left by an exception, the context manager removes the file.
    Raises VideoError on bad arguments, and when the folder cannot be written to or the disk is full.
    """

    def __init__(
        self, output: str | Path | AtomicOutput, width: int, height: int, frame_rate: Fraction | float, *, crf: int = 18
    ) -> None:
        self.path = output.target if isinstance(output, AtomicOutput) else Path(output)
        self._frame_rate = Fraction(frame_rate).limit_denominator(100_000)
        if width < 1 or height < 1 or self._frame_rate <= 0:
            raise VideoError(f"{self.path}: {width}×{height} pixels at {frame_rate} frames/s is no video.")
        self.width, self.height, self._format = width, height, _format_of(self.path)
        self._replacement = output if isinstance(output, AtomicOutput) else AtomicOutput(output)
        self._to_yuv = VideoReformatter()
        self._last: Fraction | None = None
        self._last_tick = -1
        with self._discarding_on_error():
            self._container = av.open(
                str(self._replacement.temporary.resolve()),
                "w",
                format=self._format,
                options={} if self._format == "matroska" else {"movflags": "+faststart"},
            )
            self._stream = self._container.add_stream(
                "libx264", rate=self._frame_rate, options={"crf": str(crf), "preset": "fast"}
            )
            self._describe_stream()

    def write(self, pixels: Pixels, timestamp: float | None = None) -> None:
        """Appends a frame.

        pixels: (height, width, 3) uint8 RGB. timestamp: seconds, later than the frame before; by default one
        frame interval after it. Raises VideoError on another size or type, an earlier time, or a full disk.
        """
        self._check(pixels)
        frame = av.VideoFrame.from_ndarray(self._even(pixels), format="rgb24")
        frame = self._to_yuv.reformat(
            frame,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.time_base = Fraction(1, _TICKS)
        frame.pts = self._next_tick(timestamp)
        frame.duration = round(_TICKS / self._frame_rate)
        with self._naming_errors():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finishes the file and gives it its name. Raises VideoError if nothing was written."""
        if self._last is None:
            self.discard()
            raise VideoError(f"{self.path}: no frame was written, so there is no video to save.")
        with self._discarding_on_error():
            self._container.mux(self._stream.encode(None))
            self._container.close()
        self._replacement.publish()

    def discard(self) -> None:
        """Gives up the file; whatever stood under its name before is untouched."""
        with suppress(OSError):  # the data are unwanted; what stopped the writing is on its way to the user
            self._container.close()
        self._replacement.discard()

    def _describe_stream(self) -> None:
        self._stream.width = self.width + self.width % 2
        self._stream.height = self.height + self.height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = Fraction(1, _TICKS)
        context = self._stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709

    def _check(self, pixels: Pixels) -> None:
        if pixels.shape != (self.height, self.width, 3) or pixels.dtype != np.uint8:
            raise VideoError(
                f"{self.path}: got a frame {pixels.shape} {pixels.dtype}, "
                f"wanted {(self.height, self.width, 3)} uint8 (rows, columns, RGB), as at the start."
            )

    def _even(self, pixels: Pixels) -> Pixels:
        if self.width % 2 or self.height % 2:
            return np.pad(pixels, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        return np.ascontiguousarray(pixels)

    def _next_tick(self, timestamp: float | None) -> int:
        """The frame's time in ticks. Times are summed as fractions, so 30000/1001 does not drift."""
        if timestamp is not None:
            time = Fraction(timestamp)
        else:
            time = Fraction(0) if self._last is None else self._last + 1 / self._frame_rate
        self._check_step(time)
        self._last = time
        self._last_tick = max(round(time * _TICKS), self._last_tick + 1)
        return self._last_tick

    def _check_step(self, time: Fraction) -> None:
        if time < 0 or (self._last is not None and time <= self._last):
            raise VideoError(f"{self.path}: a frame at {float(time):.6f} s follows one at {self._seen()}.")
        step = time - (self._last or 0)
        if step * _TICKS > _LONGEST_STEP and self._format != "matroska":
            raise VideoError(
                f"{self.path}: a frame at {float(time):.0f} s follows one at {self._seen()}, and {self._format} holds "
                f"gaps of {_LONGEST_STEP // _TICKS} s at most. Write .mkv, which holds any."
            )

    def _seen(self) -> str:
        return "the start" if self._last is None else f"{float(self._last):.6f} s; times must increase"

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        with naming_write_errors(self.path):
            try:
                yield
            except av.FFmpegError as error:
                if isinstance(error, OSError):
                    raise
                raise VideoError(f"{self.path}: cannot be encoded ({error.strerror}). Write .jsonl instead.") from error

    @contextmanager
    def _discarding_on_error(self) -> Iterator[None]:
        try:
            with self._naming_errors():
                yield
        except BaseException:
            self._replacement.discard()
            raise


def _format_of(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise VideoError(f"{path}: {suffix or 'no suffix'} is no video format here; use {', '.join(_FORMATS)}.")
    return _FORMATS[suffix]
