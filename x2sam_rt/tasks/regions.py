"""Visual prompts: a point, box, scribble or mask on one frame, in that frame's own pixels."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from x2sam_rt.documents import shown
from x2sam_rt.errors import PromptError, VideoError
from x2sam_rt.media.image import read_mask
from x2sam_rt.media.rle import decode_mask, encode_mask
from x2sam_rt.media.types import BoolMask

PromptKind = Literal["point", "scribble", "box", "mask"]
PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
Vertex = tuple[float, float]
_Ints = npt.NDArray[np.int64]

# The radii the published model was trained with, in pixels of the original frame.
POINT_RADIUS = 10
SCRIBBLE_RADIUS = 5

# Of a mask that comes as run lengths, which say any size in a few bytes: more than an 8K frame has.
MOST_PIXELS = 2**26


_WIDEST, _MOST_VERTICES = 2**16, 4096


def _check_numbers(kind: str, numbers: Sequence[object], count: int) -> None:
    """Raises PromptError unless there are so many and all are finite."""
    real = all(isinstance(number, (int, float, np.integer, np.floating)) for number in numbers)
    if not real or len(numbers) != count or not all(abs(number) <= 2**31 for number in numbers):  # type: ignore[arg-type]
        raise PromptError(f"A {kind} at {shown(numbers)}; wanted {count} finite numbers, pixels of the frame.")


@dataclass(frozen=True, eq=False)
class RegionPrompt(ABC):
    """A region of one frame. frame: its number in the stream, from 0. wanted: False of what is not meant."""

    kind: ClassVar[PromptKind]
    frame: int
    wanted: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.frame, int | np.integer) or self.frame < 0:
            raise PromptError(f"{self.kind} prompt on frame {shown(self.frame)}: frames are numbered from 0.")

    @abstractmethod
    def mask(self, height: int, width: int) -> BoolMask:
        """(height, width) bool, at least one pixel set. Raises PromptError where it does not fit the frame."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """As `region_from_json` reads it."""

    def _head(self) -> dict[str, Any]:
        return {"kind": self.kind, "frame": self.frame} | ({} if self.wanted else {"wanted": False})

    def negative(self) -> Self:
        """The same region, as what is not meant: a condition of its own, whose masks are not shown. Of candidates that
        are more like it than like what is meant, none is taken; no mask is cut. That is this package's rule: the
        model was trained with several regions at once, but not with negative ones."""
        return replace(self, wanted=False)

    def require_frame(self, seen: range) -> None:
        """Raises PromptError unless the prompt's frame is one of `seen`, the frames a stream can still show."""
        if self.frame not in seen:
            have = f"frames {seen.start} to {seen.stop - 1} can be prompted on" if seen else "no frame was seen yet"
            raise PromptError(f"{self.kind} prompt on frame {self.frame}, but {have}.")


@dataclass(frozen=True, eq=False)
class StrokePrompt(RegionPrompt):
    """Every pixel within `radius` of a polyline; one vertex makes a disc. vertices: (x, y) in pixels."""

    vertices: tuple[Vertex, ...]
    radius: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.vertices) <= _MOST_VERTICES:
            raise PromptError(f"A {self.kind} with {len(self.vertices)} positions: give 1 to {_MOST_VERTICES} (x, y).")
        if not isinstance(self.radius, int | np.integer) or not 0 <= self.radius <= _WIDEST:
            raise PromptError(f"A {self.kind} of radius {shown(self.radius)}: give 0 (one pixel) to {_WIDEST}.")
        for vertex in self.vertices:
            _check_numbers(self.kind, vertex, 2)

    def mask(self, height: int, width: int) -> BoolMask:
        for x, y in self.vertices:
            if not (0 <= x < width and 0 <= y < height):
                raise PromptError(
                    f"{self.kind} at ({x:g}, {y:g}) lies outside the {width}×{height} frame; "
                    "give pixels of the frame itself, x to the right and y down, from 0."
                )
        return _stroke(self.vertices, self.radius, height, width)

    def to_json(self) -> dict[str, Any]:
        vertices = [[float(x), float(y)] for x, y in self.vertices]
        return {**self._head(), "vertices": vertices, "radius": self.radius}


@dataclass(frozen=True, eq=False)
class PointPrompt(StrokePrompt):
    kind: ClassVar[PromptKind] = "point"


@dataclass(frozen=True, eq=False)
class ScribblePrompt(StrokePrompt):
    kind: ClassVar[PromptKind] = "scribble"


@dataclass(frozen=True, eq=False)
class BoxPrompt(RegionPrompt):
    """A filled rectangle from (x0, y0) to (x1, y1), pixel edges; what lies beyond the frame is cut off."""

    kind: ClassVar[PromptKind] = "box"
    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_numbers(self.kind, (self.x0, self.y0, self.x1, self.y1), 4)
        if not (self.x1 > self.x0 and self.y1 > self.y0):
            raise PromptError(
                f"Box {self._corners()} has no area: give left, top, right, bottom with right > left and bottom > top."
            )

    def mask(self, height: int, width: int) -> BoolMask:
        if self.x0 >= width or self.y0 >= height or self.x1 <= 0 or self.y1 <= 0:
            raise PromptError(f"Box {self._corners()} lies outside the {width}×{height} frame.")
        left, top = int(max(0, self.x0)), int(max(0, self.y0))
        right, bottom = int(np.ceil(min(self.x1, width))), int(np.ceil(min(self.y1, height)))
        mask = np.zeros((height, width), dtype=np.bool_)
        mask[top:bottom, left:right] = True
        return mask

    def to_json(self) -> dict[str, Any]:
        return {**self._head(), "corners": [float(edge) for edge in (self.x0, self.y0, self.x1, self.y1)]}

    def _corners(self) -> str:
        return f"({self.x0:g}, {self.y0:g}, {self.x1:g}, {self.y1:g})"


@dataclass(frozen=True, eq=False)
class MaskPrompt(RegionPrompt):
    """Any set of pixels. pixels: (H, W) bool, of the frame's own size."""

    kind: ClassVar[PromptKind] = "mask"
    pixels: BoolMask

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pixels.ndim != 2:
            raise PromptError(f"The prompt mask has shape {self.pixels.shape}; (height, width) is wanted.")
        if not self.pixels.any():
            raise PromptError("The prompt mask is empty: at least one pixel must be set.")

    def mask(self, height: int, width: int) -> BoolMask:
        if self.pixels.shape != (height, width):
            found = "×".join(str(n) for n in self.pixels.shape[::-1])
            raise PromptError(f"The prompt mask is {found}, the frame {width}×{height}: they must be of one size.")
        return self.pixels

    def to_json(self) -> dict[str, Any]:
        return {**self._head(), "rle": dict(encode_mask(self.pixels))}


class Prompt:
    """Makes visual prompts: `Prompt.point(x, y, frame=0)` and so on. Coordinates are pixels of the frame."""

    @staticmethod
    def point(x: float, y: float, frame: int = 0, radius: int = POINT_RADIUS) -> RegionPrompt:
        return PointPrompt(frame, ((x, y),), radius)

    @staticmethod
    def box(x0: float, y0: float, x1: float, y1: float, frame: int = 0) -> RegionPrompt:
        return BoxPrompt(frame, x0, y0, x1, y1)

    @staticmethod
    def scribble(vertices: Iterable[Vertex], frame: int = 0, radius: int = SCRIBBLE_RADIUS) -> RegionPrompt:
        return ScribblePrompt(frame, tuple((x, y) for x, y in vertices), radius)

    @staticmethod
    def mask(source: str | Path | npt.ArrayLike, frame: int = 0) -> RegionPrompt:
        """source: an image file or a (H, W) array; whatever is not zero belongs to the mask."""
        if isinstance(source, str | Path):
            return MaskPrompt(frame, _read_mask(Path(source)))
        pixels = np.asarray(source)
        if pixels.dtype.kind not in "buif":
            raise PromptError(f"The prompt mask holds {pixels.dtype}; numbers or booleans are wanted.")
        return MaskPrompt(frame, pixels != 0)


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # `float` reads 1_0 and "nan" besides
_LONGEST = 10**6  # characters: a scribble of fifty thousand places
_SYNTAX = (
    'write "point:x,y", "box:x0,y0,x1,y1", "scribble:x,y;x,y;…" or "mask:file.png", with "@frame" behind for '
    "another frame than 0"
)


def parse_region(text: str) -> RegionPrompt:
    """A visual prompt from the command line: `point:40,60`, `box:0,0,9,9@12`, `scribble:1,1;5,8`, `mask:m.png@3`."""
    match = re.fullmatch(r"(\w+):(.+?)(?:@(-?[0-9]{1,9}))?", text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise PromptError(f"Cannot read the visual prompt {shown(text)}: {_SYNTAX}.")
    kind, body, frame = match[1], match[2], int(match[3] or 0)
    if kind == "mask":
        return Prompt.mask(body, frame)
    vertices = [_numbers(part, text) for part in body.split(";")]
    if kind == "point" and [len(v) for v in vertices] == [2]:
        x, y = vertices[0]
        return Prompt.point(x, y, frame)
    if kind == "box" and [len(v) for v in vertices] == [4]:
        x0, y0, x1, y1 = vertices[0]
        return Prompt.box(x0, y0, x1, y1, frame)
    if kind == "scribble" and all(len(v) == 2 for v in vertices):
        return Prompt.scribble([(x, y) for x, y in vertices], frame=frame)
    raise PromptError(f"Cannot read the visual prompt {shown(text)}: {_SYNTAX}.")


def region_from_json(data: Mapping[str, Any]) -> RegionPrompt:
    """A visual prompt from another's hands, as `RegionPrompt.to_json` writes it. Raises PromptError for all else."""
    try:
        region, wanted = _region_from_json(data), data.get("wanted", True)
        if not isinstance(wanted, bool):
            raise ValueError(f"wanted is {wanted!r}; true or false is meant")
        return region if wanted else region.negative()
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"Not a visual prompt: {error!r}. Write it as `RegionPrompt.to_json` does.") from error


def _region_from_json(data: Mapping[str, Any]) -> RegionPrompt:
    match data["kind"]:
        case "point" | "scribble" as kind:
            make = PointPrompt if kind == "point" else ScribblePrompt
            vertices = tuple((_number(x), _number(y)) for x, y in data["vertices"])
            return make(_whole(data["frame"]), vertices, _whole(data["radius"]))
        case "box":
            x0, y0, x1, y1 = map(_number, data["corners"])
            return BoxPrompt(_whole(data["frame"]), x0, y0, x1, y1)
        case "mask":
            height, width = map(_whole, data["rle"]["size"])
            if not 0 < height * width <= MOST_PIXELS:
                raise ValueError(f"a mask of {height}×{width} pixels; wanted up to {MOST_PIXELS}")
            return MaskPrompt(_whole(data["frame"]), decode_mask(data["rle"], height, width))
        case kind:
            raise ValueError(f"the kind is {kind!r}; wanted one of {', '.join(PROMPT_KINDS)}")


def _whole(value: object) -> int:
    """At most what a frame can have; a stroke's radius is squared, so nothing larger is a number here."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} where a whole number from 0 is wanted")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 2**31:
        raise ValueError(f"{value!r} where a number is wanted")
    return float(value)


def _numbers(part: str, text: str) -> list[float]:
    numbers = [number.strip() for number in part.split(",")]
    if not all(_NUMBER.fullmatch(number) for number in numbers):
        raise PromptError(f"Cannot read {shown(part)} in the visual prompt {shown(text)}: {_SYNTAX}.")
    return [float(number) for number in numbers]


def _read_mask(path: Path) -> BoolMask:
    try:
        return read_mask(path)
    except VideoError as error:
        raise PromptError(f"Cannot use the prompt mask: {error}") from error


def _stroke(vertices: Sequence[Vertex], radius: int, height: int, width: int) -> BoolMask:
    """Its segments row by row: a row meets each in one run of pixels, of which two ends are counted, not all pixels."""
    begins = np.zeros((height, width + 1), dtype=np.int16)  # runs that begin at a pixel, less those that end before
    starts = vertices if len(vertices) == 1 else vertices[:-1]
    for start, end in zip(starts, vertices[-len(starts) :], strict=True):
        rows, first, last = _runs(start, end, radius, height, width)
        begins[rows, first] += 1
        begins[rows, last + 1] -= 1
    mask = np.cumsum(begins, axis=1, dtype=np.int16)[:, :width] > 0
    for x, y in vertices:  # radius 0 between pixel centres would otherwise touch nothing
        mask[int(y), int(x)] = True
    return mask


def _runs(start: Vertex, end: Vertex, radius: int, height: int, width: int) -> tuple[_Ints, _Ints, _Ints]:
    """The pixels whose distance to a segment is at most `radius`: rows, and the first and last pixel in each.

    A row's outermost points belong to the circle around one place of the segment. Where that is not one of its ends,
    the circle's tangent there runs along the segment, which fixes the place.
    """
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    length2 = dx * dx + dy * dy
    rows = np.arange(max(0, int(min(y0, y1)) - radius), min(height, int(max(y0, y1)) + radius + 2))
    below = rows - y0
    touching = radius * dx / np.sqrt(length2) * np.sign(dy) if length2 else 0.0

    def near(xs: _Ints) -> BoolMask:
        px, py = xs - x0, below[:, None]
        along = np.clip((px * dx + py * dy) / length2, 0, 1) if length2 else 0.0
        return (px - along * dx) ** 2 + (py - along * dy) ** 2 <= radius * radius

    def outermost(side: int) -> tuple[_Ints, BoolMask]:
        """side: -1 left, 1 right. Of the three pixels around the place, as rounding may be off by one."""
        place = np.clip((below + side * touching) / dy, 0, 1) if dy else float(side * dx > 0)
        edge = x0 + place * dx + side * np.sqrt(np.maximum(0, radius * radius - (below - place * dy) ** 2))
        pixels = np.rint(edge).astype(np.int64)[:, None] + side * np.array([1, 0, -1])
        inside = near(pixels)
        return pixels[np.arange(len(pixels)), inside.argmax(1)], np.logical_or.reduce(inside, axis=1)

    (first, found), (last, _) = outermost(-1), outermost(1)
    first, last = np.maximum(first, 0), np.minimum(last, width - 1)
    kept = found & (first <= last)
    return rows[kept], first[kept], last[kept]
