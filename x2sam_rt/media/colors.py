"""One colour per segment id: always the same, and far from those of its neighbours."""

from __future__ import annotations

import colorsys
from functools import lru_cache

Color = tuple[int, int, int]

_GOLDEN_RATIO = 0.618033988749895  # a turn by it never comes back near a hue soon
_SHADES = ((0.75, 1.0), (0.95, 0.85), (0.55, 0.95))  # saturation, brightness: lively on dark and on bright video


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
