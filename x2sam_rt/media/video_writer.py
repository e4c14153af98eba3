"""Video files out, published under their name only when they are complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av import VideoStream
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import AtomicOutput, Output, naming_write_errors
from x2sam_rt.media.audio import Audio, AudioCopy
from x2sam_rt.media.encoding import DEFAULT_ENCODING, Encoding, even, kept_scheduling
from x2sam_rt.media.types import Pixels

_TICKS = 90_000  # per second: divides every usual frame rate, 30000/1001 included
_UNCUT = ("matroska", "webm")  # formats that hold gaps of any length
_LONGEST_STEP = 2**31 - 1  # ticks from frame to frame that an MP4's tables hold: 6.6 hours


class VideoWriter(Output):
    """A file with one stream of pictures (BT.709), renamed to its target by `close`.

    output: the path, or what was opened for it; its suffix says the container (VIDEO_SUFFIXES).
    Most codecs halve the colour planes, so an odd width or height is padded to even by repeating the last column
    or row; every player shows such a file, which is not so for the formats that keep odd sizes.
    width, height: of the frames to come. frame_rate: frames per second, used where no timestamp is given.
    encoding: see Encoding; H.264 in yuv420p by default (VP9 in .webm). audio: copied beside the pictures, as long as
    they last; the container must hold it (`Audio.obstacle`).
    Left by an exception, the context manager removes the file.
    Raises VideoError on bad arguments, and when the folder cannot be written to or the disk is full.
    """

    def __init__(
        self,
        output: str | Path | AtomicOutput,
        width: int,
        height: int,
        frame_rate: Fraction | float,
        *,
        encoding: Encoding = DEFAULT_ENCODING,
        audio: Audio | None = None,
    ) -> None:
        self.path = output.target if isinstance(output, AtomicOutput) else Path(output)
        self._frame_rate = Fraction(frame_rate).limit_denominator(100_000)
        if width < 1 or height < 1 or self._frame_rate <= 0:
            raise VideoError(f"{self.path}: {width}×{height} pixels at {frame_rate} frames/s is no video.")
        self.width, self.height, self._encoder = width, height, encoding.encoder(self.path)
        self._replacement = output if isinstance(output, AtomicOutput) else AtomicOutput(output)
        self._to_yuv = VideoReformatter()
        self._last: Fraction | None = None
        self._last_tick = -1
        with self._discarding_on_error():
            self._container = av.open(
                str(self._replacement.temporary.resolve()),
                "w",
                format=self._encoder.format,
                options={} if self._encoder.format in _UNCUT else {"movflags": "+faststart"},
            )
            stream = self._container.add_stream(
                self._encoder.codec.encoder, rate=self._frame_rate, options=self._encoder.options
            )
            assert isinstance(stream, VideoStream), "its codec is one of pictures"
            self._stream = stream
            self._describe_stream()
            with kept_scheduling():
                stream.codec_context.open()
            self._audio = None if audio is None else AudioCopy(audio, self._container)

    def write(self, pixels: Pixels, timestamp: float | None = None) -> None:
        """Appends a frame.

        pixels: (height, width, 3) uint8 RGB, with a fourth channel where the encoding has transparency (255 = opaque,
        colours not multiplied by it). timestamp: seconds, later than the frame before; by default one frame interval
        after it. Raises VideoError on another size or type, an earlier time, or a full disk.
        """
        self._check(pixels)
        frame = av.VideoFrame.from_ndarray(self._even(pixels), format="rgba" if self._encoder.alpha else "rgb24")
        frame = self._to_yuv.reformat(
            frame,
            format=self._encoder.pixels,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1 if self._encoder.alpha else 0,  # at the borders between threads FFmpeg 8 loses alpha's pixels
        )
        frame.time_base = Fraction(1, _TICKS)
        frame.pts = self._next_tick(timestamp)
        frame.duration = round(_TICKS / self._frame_rate)
        with self._naming_errors():
            self._container.mux(self._stream.encode(frame))
            self._copy_audio()

    def close(self) -> None:
        """Finishes the file and gives it its name. Raises VideoError if nothing was written."""
        if self._last is None:
            self.discard()
            raise VideoError(f"{self.path}: no frame was written, so there is no video to save.")
        with self._discarding_on_error():
            self._container.mux(self._stream.encode(None))
            self._container.close()
        self._close_audio()
        self._replacement.publish()

    def discard(self) -> None:
        """Gives up the file; whatever stood under its name before is untouched."""
        self._close_audio()
        with suppress(OSError):  # the data are unwanted; what stopped the writing is on its way to the user
            self._container.close()
        self._replacement.discard()

    def _copy_audio(self) -> None:
        """As far as the frames reach that are there."""
        if self._audio is not None and self._last is not None:
            self._audio.copy_until(self._last + 1 / self._frame_rate)

    def _close_audio(self) -> None:
        if self._audio is not None:
            self._audio.close()

    def _describe_stream(self) -> None:
        self._stream.width = even(self.width)
        self._stream.height = even(self.height)
        self._stream.pix_fmt = self._encoder.pixels
        self._stream.time_base = Fraction(1, _TICKS)
        context = self._stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        if self._encoder.codec.tag is not None and self._encoder.format not in _UNCUT:
            context.codec_tag = self._encoder.codec.tag

    def _check(self, pixels: Pixels) -> None:
        wanted = (self.height, self.width, 4 if self._encoder.alpha else 3)
        if pixels.shape != wanted or pixels.dtype != np.uint8:
            colors = "RGBA" if self._encoder.alpha else "RGB"
            raise VideoError(
                f"{self.path}: got a frame {pixels.shape} {pixels.dtype}, "
                f"wanted {wanted} uint8 (rows, columns, {colors}), as at the start."
            )

    def _even(self, pixels: Pixels) -> Pixels:
        missing = even(self.height) - self.height, even(self.width) - self.width
        if any(missing):
            return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
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
        format = self._encoder.format
        if step * _TICKS > _LONGEST_STEP and format not in _UNCUT:
            raise VideoError(
                f"{self.path}: a frame at {float(time):.0f} s follows one at {self._seen()}, and {format} holds "
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
