"""Results painted over their frames, as a video or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import Replaces, any_file
from x2sam_rt.media.audio import Audio
from x2sam_rt.media.encoding import DEFAULT_ENCODING, Encoding
from x2sam_rt.media.palette import Palette, slots_of
from x2sam_rt.media.types import BoolMask, Pixels
from x2sam_rt.runtime.results import FrameResult, Segmentation
from x2sam_rt.runtime.writers.captions import Captions
from x2sam_rt.runtime.writers.pictures import PictureImageWriter, PictureVideoWriter
from x2sam_rt.tasks.regions import RegionPrompt

_SMALLEST_SIDE = 120  # pixels: on smaller frames words would hide the picture
_PROMPT_SECONDS = 1.0  # how long a video shows a visual prompt, from its frame on


@dataclass(frozen=True)
class OverlayStyle:
    """How overlays look.

    alpha: strength of the fill, 0…1. outline: its width in pixels; None = by the frame's size. legend: list all
    segments in a corner; None = only those for whose name the picture had no room. Raises VideoError for other numbers.
    """

    alpha: float = 0.5
    outline: int | None = None
    legend: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise VideoError(f"alpha={self.alpha}, the overlay's strength: wanted 0 to 1.")
        if self.outline is not None and self.outline < 0:
            raise VideoError(f"outline={self.outline}, pixels: wanted 0 (none) or more.")


PLAIN_STYLE = OverlayStyle()


class Overlay:
    """Paints the frames of one stream; an id keeps its colour.

    regions: the instruction's visual prompts, drawn with their numbers on their frames and, of a video, for a second
    after. frame_rate: frames per second; None of an image.
    """

    def __init__(
        self,
        style: OverlayStyle = PLAIN_STYLE,
        regions: Sequence[RegionPrompt] = (),
        frame_rate: Fraction | float | None = None,
    ) -> None:
        self._style, self._regions = style, regions
        self._shown = 1 if frame_rate is None else max(1, round(_PROMPT_SECONDS * frame_rate))
        self._palette = Palette()

    def draw(self, frame: Pixels, result: FrameResult) -> Pixels:
        """A frame with its segments filled, outlined and named, the visual prompts, and the answer's text.

        frame: (H, W, 3) uint8 RGB, left unchanged. result: of a frame of the same size; its map says which segment is
        on top. Frames with a side under 120 pixels get no words. Returns (H, W, 3) uint8. Raises VideoError if sizes
        or types do not fit.
        """
        _require_same_size(frame, result.segmentation)
        painted = self._paint(frame, result.segmentation)
        if min(painted.size) >= _SMALLEST_SIDE:
            captions = Captions(painted, self._palette)
            for number, region in enumerate(self._regions, 1):
                if 0 <= result.index - region.frame < self._shown:
                    captions.prompt(number, region)
            captions.text(result)
            captions.segments(result.segmentation, legend=self._style.legend)
        return np.array(painted)

    def _paint(self, frame: Pixels, segmentation: Segmentation) -> Image.Image:
        slots = slots_of(segmentation.map, segmentation.empty)
        ids = sorted({segment.id for segment in segmentation.segments} - {segmentation.empty})
        self._palette.meet(ids, *_coarse(frame, slots))
        colors = Image.fromarray(slots, "P")
        colors.putpalette(self._palette.table(ids).tobytes())
        colors = colors.convert("RGB")
        picture = Image.fromarray(frame)
        painted = Image.composite(Image.blend(picture, colors, self._style.alpha), picture, _ink(slots > 0))
        width = self._style.outline
        edges = outline(slots, max(1, round(min(slots.shape) / 360)) if width is None else width)
        painted.paste(colors, mask=_ink(edges))
        return painted


def draw_overlay(frame: Pixels, segmentation: Segmentation, style: OverlayStyle = PLAIN_STYLE) -> Pixels:
    """One frame by itself, as `Overlay.draw` paints it. Raises VideoError if sizes or types do not fit."""
    return Overlay(style).draw(frame, FrameResult(0, segmentation, ""))


class OverlayVideoWriter(PictureVideoWriter):
    """Overlays as one video. encoding, audio: see VideoWriter."""

    def __init__(
        self,
        path: str | Path,
        frame_rate: Fraction | float,
        style: OverlayStyle = PLAIN_STYLE,
        regions: Sequence[RegionPrompt] = (),
        *,
        encoding: Encoding = DEFAULT_ENCODING,
        audio: Audio | None = None,
        replaces: Replaces = any_file,
    ) -> None:
        paint = Overlay(style, regions, frame_rate).draw
        super().__init__(path, frame_rate, paint, encoding=encoding, audio=audio, replaces=replaces)


class OverlayImageWriter(PictureImageWriter):
    """The overlay of one image."""

    def __init__(
        self,
        path: str | Path,
        style: OverlayStyle = PLAIN_STYLE,
        regions: Sequence[RegionPrompt] = (),
        *,
        replaces: Replaces = any_file,
    ) -> None:
        super().__init__(path, Overlay(style, regions).draw, replaces=replaces)


def outline(slots: Pixels, thickness: int) -> BoolMask:
    """(H, W) bool: the pixels of a segment within `thickness` pixels of another segment or of none.

    The frame's border is no edge. slots: (H, W) uint8, 0 where no segment is.
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


def _coarse(frame: Pixels, slots: Pixels) -> tuple[Pixels, Pixels]:
    """Enough pixels to tell what colour a segment has."""
    step = max(1, min(slots.shape) // 270)
    return frame[::step, ::step], slots[::step, ::step]


def _ink(mask: BoolMask) -> Image.Image:
    """A mask as Pillow takes it, 0 or 255."""
    return Image.fromarray(mask.view(np.uint8) * np.uint8(255), "L")


def _require_same_size(frame: Pixels, segmentation: Segmentation) -> None:
    if frame.shape != (*segmentation.map.shape, 3) or frame.dtype != np.uint8:
        raise VideoError(
            f"Got a frame {frame.shape} {frame.dtype} and a segmentation {segmentation.map.shape}; wanted "
            "(H, W, 3) uint8 and (H, W) of the same H and W."
        )
