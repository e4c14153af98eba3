"""An example with what a public data set says beyond its targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from x2sam_rt.data.example import Example, Target
from x2sam_rt.media.types import BoolMask


@dataclass(frozen=True, eq=False)
class AnnotatedExample(Example):
    """crowds: groups under one mask, which are neither missed nor found; they are no targets. ignored: (T, H, W) bool,
    pixels that no figure counts; None: all count.

    Raises DataError as Example does.
    """

    crowds: tuple[Target, ...] = ()
    ignored: BoolMask | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.frames.shape[:3]
        for crowd in self.crowds:
            if crowd.masks.shape != size or not 0 <= crowd.condition < self.conditions:
                raise self.bad(
                    f"crowd {crowd.id} has masks {crowd.masks.shape} and belongs to condition {crowd.condition}; "
                    f"wanted masks {size} and a condition of {self.conditions}, numbered from 0"
                )
        ignored = self.ignored
        if ignored is not None and (ignored.shape != size or ignored.dtype != np.bool_):
            raise self.bad(f"ignored is {ignored.shape} {ignored.dtype}; wanted {size} bool")
