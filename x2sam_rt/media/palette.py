"""The colours of one stream's segments, which stand off what they are painted on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from x2sam_rt.media.colors import Color, color_of
from x2sam_rt.media.types import Pixels

_PERIOD = 255  # ids this far apart share a place in a Palette's table
_OTHERS = 6  # colours tried where an id's own does not stand off
_STANDS_OFF = 120.0  # distance in RGB, 0…442, at which a tint of one half still shows


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
