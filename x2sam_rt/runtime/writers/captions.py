"""What is written on an overlay: names on segments, a legend, visual prompts and the answer's text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from x2sam_rt.media.colors import Color, text_color_on
from x2sam_rt.media.lettering import lettering, line_height
from x2sam_rt.media.palette import Palette
from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation
from x2sam_rt.tasks.regions import BoxPrompt, RegionPrompt, StrokePrompt

_PANEL = (16, 16, 16, 170)  # dark, seen through
_PLAIN, _PROMPT = (245, 245, 245), (255, 255, 255)
_COARSE_SIDE = 256  # a label's place needs no finer grid
_LONGEST = 0.4  # of the frame's width that one label may take
_TALLEST = 0.5  # of the frame's height that the legend may take
_TEXT_LINES = 3  # of the answer
_FARTHEST = 3  # lines a chip may stand from its place: farther off it would seem to belong to another segment

Box = tuple[float, float, float, float]


@dataclass
class Captions:
    """A frame being written on, and the boxes its texts have taken."""

    image: Image.Image
    palette: Palette
    taken: list[Box] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self._size = max(11, round(min(self.image.size) / 42))
        self._line = line_height(self._size)
        self._gap = self._line // 3

    def segments(self, segmentation: Segmentation, *, legend: bool | None) -> None:
        """A chip on every visible segment. legend: a list of all; None: of those that got no chip."""
        segments = _one_per_id(segmentation)
        if legend:
            self._legend(segments)
        step = max(1, min(segmentation.map.shape) // _COARSE_SIDE)
        map = segmentation.map[::step, ::step]
        bare = [one for one in segments if not self._chip(one, *(step * n for n in inner_point(map == one.id)))]
        if legend is None:
            self._legend(bare)

    def prompt(self, number: int, region: RegionPrompt) -> None:
        """A visual prompt as it was drawn, with its number beside it."""
        height, width = self.image.height, self.image.width
        thick = max(2, self._line // 8)
        if isinstance(region, BoxPrompt):
            self._draw.rectangle((region.x0, region.y0, region.x1, region.y1), outline=_PROMPT, width=thick)
            at = (region.x0, region.y0)
        elif isinstance(region, StrokePrompt):
            self._draw.line(region.vertices, fill=_PROMPT, width=thick, joint="curve")
            at = region.vertices[0]
            radius = max(3, region.radius)
            self._draw.ellipse(
                (at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), outline=_PROMPT, width=thick
            )
        else:
            row, column = inner_point(region.mask(height, width))
            at = (column, row)
        self._label(str(number), _PROMPT, at[0] + self._line, at[1] - self._line)

    def text(self, result: FrameResult) -> None:
        """The answer at the lower edge, its phrases in their segments' colours; what has no room is left out."""
        lines = list(self._wrapped(_colored_words(result, self.palette)))
        if not lines:
            return
        if len(lines) > _TEXT_LINES:
            lines = [*lines[: _TEXT_LINES - 1], [*lines[_TEXT_LINES - 1], ("…", _PLAIN)]]
        top = self.image.height - self._gap - self._line * len(lines)
        panel = (0.0, top - self._gap, float(self.image.width), float(self.image.height))
        self._draw.rectangle(panel, fill=_PANEL)
        self.taken.append(panel)
        for row, words in enumerate(lines):
            left = 2 * self._gap
            for word, color in words:
                left += self._write(word + " ", color, left, top + row * self._line)

    def _wrapped(self, words: Iterator[tuple[str, Color]]) -> Iterator[list[tuple[str, Color]]]:
        line: list[tuple[str, Color]] = []
        room = free = self.image.width - 5 * self._gap
        for word, color in words:
            width = lettering(word + " ", self._size).width
            if width > free and line:
                yield line
                line, free = [], room
            line.append((word, color))
            free -= width
        if line:
            yield line

    def _legend(self, segments: list[Segment]) -> None:
        """Colour, label and id of each segment in the top left corner; what has no room is counted."""
        if not segments:
            return
        rows = max(1, int(self.image.height * _TALLEST) // self._line - 1)
        shown = segments if len(segments) <= rows else segments[: rows - 1]
        texts = [f"{self._fitting(segment.label)}  #{segment.id}" for segment in shown]
        if len(shown) < len(segments):
            texts.append(f"and {len(segments) - len(shown)} more")
        gap = self._gap
        width = 3 * gap + self._line + max(lettering(text, self._size).width for text in texts)
        panel = (gap, gap, gap + width, 3 * gap + self._line * len(texts))
        self._draw.rounded_rectangle(panel, radius=gap, fill=_PANEL)
        self.taken.append(panel)
        for row, text in enumerate(texts):
            top = 2 * gap + row * self._line
            if row < len(shown):
                swatch = (2 * gap, top + gap / 2, gap + self._line, top + self._line - gap / 2)
                self._draw.rounded_rectangle(swatch, radius=2, fill=self.palette.of(shown[row].id))
            self._write(text, _PLAIN, 2 * gap + self._line, top)

    def _chip(self, segment: Segment, row: int, column: int) -> bool:
        """The segment's label, id and score, centred at a pixel or close below; False if there is no room. A segment
        that is not seen (row −1 or less) wants none."""
        if row < 0:
            return True
        text = f"{self._fitting(segment.label)} #{segment.id}  {segment.score:.2f}"
        return self._label(text, self.palette.of(segment.id), column, row)

    def _label(self, text: str, color: Color, x: float, y: float) -> bool:
        width, height = lettering(text, self._size).width + self._line * 0.6, float(self._line)
        left = min(max(x - width / 2, 0), max(self.image.width - width, 0))
        top = min(max(y - height / 2, 0), max(self.image.height - height, 0))
        places = [(left, top + n * height, left + width, top + (n + 1) * height) for n in range(_FARTHEST + 1)]
        box = next((place for place in places if self._is_free(place)), None)
        if box is None:
            return False
        self.taken.append(box)
        self._draw.rounded_rectangle(box, radius=self._line // 4, fill=(*color, 225))
        self._write(text, text_color_on(color), box[0] + self._line * 0.3, box[1])
        return True

    def _write(self, text: str, color: Color, left: float, top: float) -> int:
        """A line of text from its upper left corner; how many pixels it is wide."""
        ink = lettering(text, self._size)
        self.image.paste(color, (round(left), round(top)), ink)
        return ink.width

    def _is_free(self, box: Box) -> bool:
        return box[3] <= self.image.height and not any(_overlap(box, other) for other in self.taken)

    def _fitting(self, text: str) -> str:
        longest, width = self.image.width * _LONGEST, lettering(text, self._size).width
        if width <= longest:
            return text
        return text[: max(1, int(len(text) * longest / width) - 1)].rstrip() + "…"


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


def _colored_words(result: FrameResult, palette: Palette) -> Iterator[tuple[str, Color]]:
    """The words of the answer, those of a phrase in the colour of its first segment."""
    colors = {segment.label_id: palette.of(segment.id) for segment in reversed(result.segments)}
    end = 0
    for span in result.spans:
        yield from ((word, _PLAIN) for word in result.text[end : span.start].split())
        yield from ((word, colors.get(span.label_id, _PLAIN)) for word in result.text[span.start : span.end].split())
        end = span.end
    yield from ((word, _PLAIN) for word in result.text[end:].split())


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
