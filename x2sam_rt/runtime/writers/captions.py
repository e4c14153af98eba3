"""Words on an overlay: a chip on each segment and a legend of them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from x2sam_rt.media.colors import color_of, text_color_on
from x2sam_rt.media.types import BoolMask, Pixels
from x2sam_rt.runtime.results import Segment, Segmentation

_PANEL = (16, 16, 16, 170)  # dark, seen through
_PANEL_TEXT = (245, 245, 245)
_COARSE_SIDE = 256  # a label's place needs no finer grid
_LONGEST = 0.4  # of the frame's width that one text may take
_TALLEST = 0.5  # of the frame's height that the legend may take
_FARTHEST = 3  # lines a chip may stand from its place: farther off it would seem to belong to another segment

Box = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass
class Captions:
    """A frame being written on, and the boxes its texts have taken."""

    image: Image.Image
    taken: list[Box] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self._font = _font(max(11, round(min(self.image.size) / 42)))
        self._line = round(self._font.getbbox("Ägjy")[3] * 1.25)

    def legend(self, segments: list[Segment]) -> None:
        """Colour, label and id of each segment in the top left corner; what has no room is counted."""
        rows = max(1, int(self.image.height * _TALLEST) // self._line - 1)
        shown = segments if len(segments) <= rows else segments[: rows - 1]
        texts = [f"{self._fitting(segment.label)}  #{segment.id}" for segment in shown]
        if len(shown) < len(segments):
            texts.append(f"and {len(segments) - len(shown)} more")
        gap = self._line // 3
        width = 3 * gap + self._line + max(self._font.getlength(text) for text in texts)
        panel = (gap, gap, gap + width, 3 * gap + self._line * len(texts))
        self._draw.rounded_rectangle(panel, radius=gap, fill=_PANEL)
        self.taken.append(panel)
        for row, text in enumerate(texts):
            top = 2 * gap + row * self._line
            if row < len(shown):
                swatch = (2 * gap, top + gap / 2, gap + self._line, top + self._line - gap / 2)
                self._draw.rounded_rectangle(swatch, radius=2, fill=color_of(shown[row].id))
            middle = (2 * gap + self._line, top + self._line / 2)
            self._draw.text(middle, text, _PANEL_TEXT, self._font, anchor="lm")

    def chip(self, segment: Segment, at: tuple[int, int]) -> None:
        """The segment's label and score, centred at a (row, column), or close below; nothing if that is taken."""
        text = f"{self._fitting(segment.label)}  {segment.score:.2f}"
        width, height = self._font.getlength(text) + self._line * 0.6, float(self._line)
        left = min(max(at[1] - width / 2, 0), max(self.image.width - width, 0))
        top = min(max(at[0] - height / 2, 0), max(self.image.height - height, 0))
        places = [(left, top + n * height, left + width, top + (n + 1) * height) for n in range(_FARTHEST + 1)]
        box = next((place for place in places if self._is_free(place)), None)
        if box is None:
            return
        self.taken.append(box)
        color = color_of(segment.id)
        self._draw.rounded_rectangle(box, radius=self._line // 4, fill=(*color, 225))
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        self._draw.text(middle, text, text_color_on(color), self._font, anchor="mm")

    def _is_free(self, box: Box) -> bool:
        return box[3] <= self.image.height and not any(_overlap(box, other) for other in self.taken)

    def _fitting(self, text: str) -> str:
        longest = self.image.width * _LONGEST
        if self._font.getlength(text) <= longest:
            return text
        kept = int(len(text) * longest / self._font.getlength(text))
        return text[: max(1, kept - 1)].rstrip() + "…"


def write_captions(pixels: Pixels, segmentation: Segmentation, *, legend: bool) -> Pixels:
    """A frame (H, W, 3) with a chip on every visible segment and, if asked for, a legend."""
    segments = _one_per_id(segmentation)
    if not segments:
        return pixels
    captions = Captions(Image.fromarray(pixels))
    if legend:
        captions.legend(segments)
    step = max(1, min(segmentation.map.shape) // _COARSE_SIDE)
    for segment in segments:
        row, column = inner_point(segmentation.map[::step, ::step] == segment.id)
        if row >= 0:
            captions.chip(segment, (row * step, column * step))
    return np.array(captions.image)


def inner_point(mask: BoolMask) -> tuple[int, int]:
    """(row, column) of a pixel well inside a (H, W) mask, in the middle of its fullest rows; (−1, −1) if empty."""
    widths = mask.sum(axis=1)
    rows = np.flatnonzero(widths >= 0.9 * widths.max())
    row = int(rows[rows.size // 2])
    columns = np.flatnonzero(mask[row])
    return (row, int(columns[columns.size // 2])) if columns.size else (-1, -1)


def _one_per_id(segmentation: Segmentation) -> list[Segment]:
    """The best segment of each id, by id: stuff in several pieces shares one."""
    best: dict[int, Segment] = {}
    for segment in sorted(segmentation.segments, key=lambda one: one.score):
        best[segment.id] = segment
    return [best[id] for id in sorted(best)]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@lru_cache(maxsize=8)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)
