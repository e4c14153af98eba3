"""Where a clip is painted, with its labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.world.backgrounds import Background
from x2sam_rt.data.world.clip import FIRST_OBJECT, OCCLUDER
from x2sam_rt.data.world.hiding import OCCLUDER_GREY, Occluder, drain
from x2sam_rt.data.world.shapes import Floats
from x2sam_rt.media.types import BoolMask


@dataclass(frozen=True, eq=False)
class Canvas:
    """Colour planes and labels with a border as wide as the largest object reaches, so that nothing needs clipping.

    Planes, because numpy is slow where the innermost axis is three channels.
    inside: (T, objects) pixels an object has within the frame. over_pixels: as in the clip.
    """

    bordered_planes: npt.NDArray[np.uint8]
    bordered_ids: npt.NDArray[np.int16]
    border: int
    inside: npt.NDArray[np.int64]
    over_pixels: npt.NDArray[np.int64]

    @classmethod
    def over(cls, background: Background, drained: BoolMask, objects: int, border: int) -> Canvas:
        frames, side = background.ids.shape[:2]
        bordered = side + 2 * border
        canvas = cls(
            np.zeros((frames, 3, bordered, bordered), np.uint8),
            np.zeros((frames, bordered, bordered), np.int16),
            border,
            np.zeros((frames, objects), np.int64),
            np.zeros((frames, objects, objects), np.int64),
        )
        canvas.planes[:] = background.planes
        canvas.ids[:] = background.ids
        if drained.any():
            canvas.planes[drained] = drain(background.planes[drained])
        return canvas

    @property
    def planes(self) -> npt.NDArray[np.uint8]:
        """(T, 3, H, W), a view."""
        return self.bordered_planes[:, :, self.border : -self.border, self.border : -self.border]

    def pictures(self) -> npt.NDArray[np.uint8]:
        """(T, H, W, 3), a copy."""
        pictures = np.empty((*self.ids.shape, 3), np.uint8)
        for channel in range(3):
            pictures[..., channel] = self.planes[:, channel]
        return pictures

    @property
    def ids(self) -> npt.NDArray[np.int16]:
        """(T, H, W), a view."""
        return self.bordered_ids[:, self.border : -self.border, self.border : -self.border]

    def paint(self, frame: int, left: int, top: int, alpha: Floats, colours: Floats, number: int) -> None:
        """Object `number` on one frame. left, top: of its box, in the frame. alpha: (B, B). colours: (3, B, B),
        already multiplied by alpha.
        """
        rows = slice(top + self.border, top + self.border + alpha.shape[0])
        columns = slice(left + self.border, left + self.border + alpha.shape[1])
        box = self.bordered_planes[frame, :, rows, columns]
        blended = box * (1 - alpha)
        blended += colours
        box[:] = blended
        ids, mask = self.bordered_ids[frame, rows, columns], alpha > 0.5
        below = np.bincount(ids[mask], minlength=FIRST_OBJECT + self.inside.shape[1])
        self.over_pixels[frame, number] += below[FIRST_OBJECT:]
        ids[mask] = FIRST_OBJECT + number
        side = self.ids.shape[1]
        inner = mask[max(0, -top) : max(0, side - top), max(0, -left) : max(0, side - left)]
        self.inside[frame, number] = np.count_nonzero(inner)

    def paint_occluder(self, occluder: Occluder) -> None:
        alpha = np.clip(0.5 - occluder.distance(self.ids.shape[1]), 0, 1)
        self.ids[alpha > 0.5] = OCCLUDER
        self.planes[:] = self.planes * (1 - alpha)[:, None] + (alpha * np.float32(OCCLUDER_GREY))[:, None]
