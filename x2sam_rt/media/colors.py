"""One colour per segment id: far from those of its neighbours, and on a picture from what it is painted on."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from x2sam_rt.media.types import Pixels

Color = tuple[int, int, int]

_GOLDEN_RATIO = 0.618033988749895  # a turn by it never comes back near a hue soon
_SHADES = ((0.75, 1.0), (0.95, 0.85), (0.55, 0.95))  # saturation, brightness: lively on dark and on bright video
_PERIOD = 255  # ids this far apart share a place in a Palette's table
_OTHERS = 6  # colours tried where an id's own does not stand off
_STANDS_OFF = 120.0  # distance in RGB, 0…442, at which a tint of one half still shows


@lru_cache(maxsize=4096)
def color_of(id: int) -> Color:
    """The colour of a segment id (an integer from 0): red, green and blue, each 0…255."""
    hue = (id * _GOLDEN_RATIO) % 1
    saturation, brightness = _SHADES[id % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color_on(color: Color) -> Color:
    """Black or white, whichever reads better on a colour (by its luminance, ITU-R BT.601)."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


class Palette:
    """The colours of one stream's segments, each chosen when its id is first seen and kept from then on.

    A segment gets `color_of(id)`, or, where its own pixels are of about that colour, the next one that stands off.
    """

    def __init__(self) -> None:
        self._colors: dict[int, Color] = {}

    def of(self, id: int) -> Color:
        return self._colors.get(id, color_of(id))

    def meet(self, ids: list[int], frame: Pixels, slots: Pixels) -> None:
        """Chooses colours for ids not seen before. frame: (H, W, 3) uint8. slots: (H, W) uint8, see `slot_of`."""
        new = [id for id in ids if id not in self._colors]
        if new:
            means = _mean_colors(frame, slots)
            self._colors |= {id: _standing_off(id, means[slot_of(id)]) for id in new}

    def table(self, ids: list[int]) -> Pixels:
        """(256, 3) uint8: the colour of every slot."""
        table = np.zeros((_PERIOD + 1, 3), dtype=np.uint8)
        for id in ids:
            table[slot_of(id)] = self.of(id)
        return table


def slot_of(id: int) -> int:
    """An id's place in tables of 256, 1…255; 0 is what no segment covers. Ids 255 apart share one: so many segments on
    one frame nobody tells apart by colour."""
    return 1 + id % _PERIOD


def slots_of(map: npt.NDArray[np.int32], empty: int) -> Pixels:
    """(H, W) uint8: `slot_of` every pixel of a map of ids; 0 where it holds `empty`."""
    slots = np.remainder(map, _PERIOD).astype(np.uint8)
    slots += 1
    slots[map == empty] = 0
    return slots


def _mean_colors(frame: Pixels, slots: Pixels) -> npt.NDArray[np.float64]:
    """(256, 3): what the pixels of each slot look like; zero where it has none."""
    flat = slots.ravel()
    counts = np.maximum(np.bincount(flat, minlength=_PERIOD + 1), 1)
    sums = [np.bincount(flat, frame[..., channel].ravel(), _PERIOD + 1) for channel in range(3)]
    means: npt.NDArray[np.float64] = np.stack(sums, axis=-1) / counts[:, None]
    return means


def _standing_off(id: int, ground: npt.NDArray[np.float64]) -> Color:
    candidates = [color_of(id + _PERIOD * turn) for turn in range(_OTHERS)]
    distances = [float(np.linalg.norm(np.subtract(color, ground))) for color in candidates]
    far = [color for color, distance in zip(candidates, distances, strict=True) if distance >= _STANDS_OFF]
    return far[0] if far else candidates[int(np.argmax(distances))]
