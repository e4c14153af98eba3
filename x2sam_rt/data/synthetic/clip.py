"""A clip of the made-up world with everything there is to know about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.synthetic.scene import SceneObject
from x2sam_rt.data.synthetic.settings import HELD_OUT, Stuff
from x2sam_rt.data.synthetic.shapes import Floats
from x2sam_rt.media.types import BoolMask

FIRST_OBJECT, OCCLUDER = 2, -1


@dataclass(frozen=True, eq=False)
class SyntheticClip:
    """frames: (T, H, W, 3) uint8. ids: (T, H, W) int16: 0 upper stuff, 1 lower stuff, 2 + k object k, −1 occluder.
    objects: k = 0, 1, …. stuff: names of the upper and the lower. focus: the object the others were drawn around.
    desaturated: (T,) bool, frames without colour. visible: (T, objects), pixels of ids. occluded: (T, objects) float32,
    the share of the object's pixels inside the frame that something else covers (1 where it is outside).
    overlap: (T, objects, objects) pixels, inside the frame or not, where the first lies directly over the second.
    centres: (T, objects, 2) x and y, pixels.
    """

    frames: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int16]
    objects: tuple[SceneObject, ...]
    stuff: tuple[Stuff, Stuff]
    focus: int
    desaturated: BoolMask
    visible: npt.NDArray[np.int64]
    occluded: Floats
    overlap: npt.NDArray[np.int64]
    centres: Floats

    def mask(self, number: int) -> BoolMask:
        """(T, H, W) bool: what is seen of object `number`."""
        return np.equal(self.ids, FIRST_OBJECT + number)

    def stuff_mask(self, number: int) -> BoolMask:
        """(T, H, W) bool: what is seen of the upper (0) or lower (1) stuff."""
        return np.equal(self.ids, number)

    def is_held_out(self, number: int) -> bool:
        return self.objects[number].pair in HELD_OUT

    def still(self, frame: int) -> SyntheticClip:
        """A clip of that one frame."""
        one = slice(frame, frame + 1)
        return replace(
            self,
            frames=self.frames[one],
            ids=self.ids[one],
            desaturated=self.desaturated[one],
            visible=self.visible[one],
            occluded=self.occluded[one],
            overlap=self.overlap[one],
            centres=self.centres[one],
        )
