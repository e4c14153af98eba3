"""Pictures made of frames and their results, as one video, one image or a folder of images; mattes and cut-outs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import AtomicOutput, Replaces, any_file, nothing
from x2sam_rt.media.audio import Audio
from x2sam_rt.media.encoding import DEFAULT_ENCODING, Encoding
from x2sam_rt.media.image import check_image_name, save_image
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video_writer import VideoWriter
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.writers.writer import ResultWriter, is_png_sequence

Painter = Callable[[Pixels, FrameResult], Pixels]
"""Makes a picture, (H, W, 3 or 4) uint8, of a frame (H, W, 3) uint8 RGB and its result; of several: in their order."""


def matte(frame: Pixels, result: FrameResult) -> Pixels:
    """(H, W, 3) uint8: white where any segment is, black elsewhere."""
    return np.repeat(_inside(result)[..., None], 3, axis=2)


def cutout(frame: Pixels, result: FrameResult) -> Pixels:
    """(H, W, 4) uint8, RGB and alpha: the frame where any segment is; elsewhere nothing, not even hidden colours."""
    inside = _inside(result)
    return np.dstack((np.where(inside[..., None] > 0, frame, np.uint8(0)), inside))


def _inside(result: FrameResult) -> Pixels:
    return np.where(result.segmentation.map != result.segmentation.empty, 255, 0).astype(np.uint8)


class PictureVideoWriter(ResultWriter):
    """Pictures as one video (see VideoWriter); its size is that of the first, padded to even. size: (height, width)
    of the pictures to come, if it is known: one that cannot be encoded is refused at once."""

    def __init__(
        self,
        path: str | Path,
        frame_rate: Fraction | float,
        paint: Painter,
        *,
        encoding: Encoding = DEFAULT_ENCODING,
        audio: Audio | None = None,
        size: tuple[int, int] | None = None,
        replaces: Replaces = any_file,
    ) -> None:
        encoder = encoding.encoder(Path(path))  # what cannot be encoded is refused before anything is computed
        if size is not None:
            encoder.require_size(Path(path), *size)
        self._frame_rate, self._paint, self._encoding, self._audio = frame_rate, paint, encoding, audio
        self._video: VideoWriter | None = None  # opened when the size is known
        self._output = AtomicOutput(path, replaces=replaces)

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        picture = self._paint(pixels, result)
        if self._video is None:
            height, width = picture.shape[:2]
            self._video = VideoWriter(
                self._output, width, height, self._frame_rate, encoding=self._encoding, audio=self._audio
            )
        self._video.write(picture, timestamp)

    def close(self) -> None:
        if self._video is None:
            self._output.discard()
            raise VideoError(f"{self._output.target}: no frame was written, so there is no video to save.")
        self._video.close()

    def discard(self) -> None:
        if self._video is not None:
            self._video.discard()
        self._output.discard()


class PictureImageWriter(ResultWriter):
    """The picture of one frame; the suffix says the format. A second frame raises VideoError."""

    def __init__(self, path: str | Path, paint: Painter, *, replaces: Replaces = any_file) -> None:
        check_image_name(Path(path))
        self._paint, self._output = paint, AtomicOutput(path, replaces=replaces)

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        path = self._output.target
        if self._output.temporary.exists():
            raise VideoError(f"{path}: holds one image, got a second frame. Write a video (.mp4) instead.")
        save_image(self._output.temporary, Image.fromarray(self._paint(pixels, result)))

    def close(self) -> None:
        if not self._output.temporary.exists():
            self._output.discard()
            raise VideoError(f"{self._output.target}: no frame was written, so there is no image to save.")
        self._output.publish()

    def discard(self) -> None:
        self._output.discard()


class PictureFolderWriter(ResultWriter):
    """A PNG for each frame, named by its index. overwrite: whether an older folder of such files may be replaced."""

    def __init__(self, folder: str | Path, paint: Painter, *, overwrite: bool = False) -> None:
        self._paint = paint
        self._output = AtomicOutput(folder, folder=True, replaces=is_png_sequence if overwrite else nothing)

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        save_image(self._output.temporary / f"{result.index:05d}.png", Image.fromarray(self._paint(pixels, result)))

    def close(self) -> None:
        self._output.publish()

    def discard(self) -> None:
        self._output.discard()
