"""Results painted over their frames, as a video or a picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import AtomicOutput, Replaces, any_file
from x2sam_rt.media.colors import color_of
from x2sam_rt.media.image import check_image_name, save_image
from x2sam_rt.media.types import BoolMask, Pixels
from x2sam_rt.media.video_writer import VideoWriter
from x2sam_rt.runtime.results import FrameResult, Segmentation
from x2sam_rt.runtime.writers.captions import write_captions
from x2sam_rt.runtime.writers.writer import ResultWriter

_SMALLEST_SIDE = 120  # pixels: on smaller frames words would hide the picture


def draw_overlay(frame: Pixels, segmentation: Segmentation, *, alpha: float = 0.5, legend: bool = True) -> Pixels:
    """A frame with its segments filled, outlined and named.

    frame: (H, W, 3) uint8 RGB, left unchanged. segmentation: of the same size; its map says which segment is on
    top. alpha: strength of the fill, 0…1. legend: list colours, labels and ids in a corner. Frames with a side
    under 120 pixels get no words. Returns (H, W, 3) uint8. Raises VideoError if sizes or types do not fit.
    """
    if frame.shape != (*segmentation.map.shape, 3) or frame.dtype != np.uint8:
        raise VideoError(
            f"Got a frame {frame.shape} {frame.dtype} and a segmentation {segmentation.map.shape}; wanted "
            "(H, W, 3) uint8 and (H, W) of the same H and W."
        )
    if not 0 <= alpha <= 1:
        raise VideoError(f"The overlay's strength alpha is {alpha}; wanted 0 to 1.")
    painted = paint_segments(frame, segmentation, alpha)
    if min(segmentation.map.shape) < _SMALLEST_SIDE:
        return painted
    return write_captions(painted, segmentation, legend=legend)


class OverlayVideoWriter(ResultWriter):
    """Overlays as one video (see VideoWriter); its size is that of the first frame, padded to even."""

    def __init__(
        self, path: str | Path, frame_rate: Fraction | float, *, alpha: float = 0.5, replaces: Replaces = any_file
    ) -> None:
        self._frame_rate, self._alpha = frame_rate, alpha
        self._video: VideoWriter | None = None  # opened when the size is known
        self._output = AtomicOutput(path, replaces=replaces)

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        overlay = draw_overlay(pixels, result.segmentation, alpha=self._alpha)
        if self._video is None:
            height, width = overlay.shape[:2]
            self._video = VideoWriter(self._output, width, height, self._frame_rate)
        self._video.write(overlay, timestamp)

    def close(self) -> None:
        if self._video is None:
            self._output.discard()
            raise VideoError(f"{self._output.target}: no frame was written, so there is no video to save.")
        self._video.close()

    def discard(self) -> None:
        if self._video is not None:
            self._video.discard()
        self._output.discard()


class OverlayImageWriter(ResultWriter):
    """The overlay of one image; the suffix says the format. A second frame raises VideoError."""

    def __init__(self, path: str | Path, *, alpha: float = 0.5, replaces: Replaces = any_file) -> None:
        check_image_name(Path(path))
        self._alpha, self._output = alpha, AtomicOutput(path, replaces=replaces)

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        path = self._output.target
        if self._output.temporary.exists():
            raise VideoError(f"{path}: holds one image, got a second frame. Write a video (.mp4) instead.")
        overlay = draw_overlay(pixels, result.segmentation, alpha=self._alpha)
        save_image(self._output.temporary, Image.fromarray(overlay))

    def close(self) -> None:
        if not self._output.temporary.exists():
            self._output.discard()
            raise VideoError(f"{self._output.target}: no frame was written, so there is no image to save.")
        self._output.publish()

    def discard(self) -> None:
        self._output.discard()


Slots = npt.NDArray[np.intp]  # (H, W): 0 = no segment, else 1 + the segment's place in the list of ids


def paint_segments(frame: Pixels, segmentation: Segmentation, alpha: float) -> Pixels:
    """A copy of frame (H, W, 3) with its segments filled at `alpha` (0…1) and outlined at full strength."""
    slots = _slots(segmentation)
    colors = _colors(segmentation)
    painted = frame.copy()
    filled = slots > 0
    painted[filled] = _faded(1 - alpha)[frame[filled]] + _faded(alpha)[colors[slots[filled]]]
    edges = outline(slots, thickness=max(1, round(min(frame.shape[:2]) / 360)))
    painted[edges] = colors[slots[edges]]
    return painted


def outline(slots: Slots, thickness: int) -> BoolMask:
    """(H, W) bool: the pixels of a segment within `thickness` pixels of another segment or of none.

    The frame's border is no edge. slots: (H, W), 0 where no segment is.
    """
    edges = np.zeros(slots.shape, dtype=np.bool_)
    for step in range(1, thickness + 1):
        rows = slots[step:] != slots[:-step]
        edges[step:] |= rows
        edges[:-step] |= rows
        columns = slots[:, step:] != slots[:, :-step]
        edges[:, step:] |= columns
        edges[:, :-step] |= columns
    return edges & (slots > 0)


def _ids(segmentation: Segmentation) -> list[int]:
    return sorted({segment.id for segment in segmentation.segments} - {segmentation.empty})


def _slots(segmentation: Segmentation) -> Slots:
    """Places instead of ids, so that ids of any size need no large table."""
    ids = np.array(_ids(segmentation), dtype=segmentation.map.dtype)
    if not ids.size:
        return np.zeros(segmentation.map.shape, dtype=np.intp)
    places = np.minimum(np.searchsorted(ids, segmentation.map), ids.size - 1)
    return np.where(ids[places] == segmentation.map, places + 1, 0)


def _colors(segmentation: Segmentation) -> Pixels:
    """(1 + segments, 3): the colour of each slot."""
    return np.array([(0, 0, 0), *(color_of(id) for id in _ids(segmentation))], dtype=np.uint8)


def _faded(weight: float) -> Pixels:
    """A table of the 256 levels times a weight; two whose weights add to 1 never add to more than 255."""
    levels: Pixels = np.floor(np.arange(256) * weight).astype(np.uint8)
    return levels
