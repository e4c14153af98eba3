"""One labelled example: frames, what is asked about them, and the masks that are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from x2sam_rt.errors import DataError
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.table import Media


class Masks(Protocol):
    """(T, H, W) bool by indexing, as an array is one; `np.asarray` gives the array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, key: Any, /) -> BoolMask: ...

    def __array__(self) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class IdMasks:
    """The pixels that hold an id, made when they are asked for: a clip of 60 segments is held as one map.

    ids: (T, H, W) integers.
    """

    ids: npt.NDArray[np.integer]
    id: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ids.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.bool_)

    def __getitem__(self, key: Any, /) -> BoolMask:
        found: BoolMask = np.asarray(self.ids[key] == self.id)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self.ids == self.id, dtype=dtype)


@dataclass(frozen=True, eq=False)
class Target:
    """One thing that must be found. condition: which phrase, category or region of the instruction it belongs to, in
    their order (several targets may share one: two cats). masks: (T, H, W) bool; empty where it is out of sight.
    id: of its track, 0 or more.
    """

    condition: int
    masks: Masks
    id: int


@dataclass(frozen=True, eq=False)
class Example:
    """name: unique in its data set; every complaint about the example gives it. frames: (T, H, W, 3) uint8; T = 1 for
    an image. instruction: what is asked; its regions are the visual prompts. conditions: how many phrases, categories
    and regions the targets may belong to. answer: what the model should write, with `<p>…</p>` and `<SEG>`, for
    tasks whose answer is not known beforehand; None for the others. tags: what to report figures by
    ("unseen", "same_colour", …). labelled: (T,) bool, frames whose masks are known; hidden: (T,) bool, frames that do
    not show by themselves which object is meant (None: no such frame). seen: how many frames, from the first, the
    language model is shown (None: all); 1 is what a live stream begins with.

    Raises DataError, naming the example, when its parts do not fit each other.
    """

    name: str
    media: Media
    frames: npt.NDArray[np.uint8]
    instruction: Instruction
    conditions: int
    targets: tuple[Target, ...]
    answer: str | None = None
    tags: frozenset[str] = frozenset()
    labelled: npt.NDArray[np.bool_] | None = None
    hidden: npt.NDArray[np.bool_] | None = None
    seen: int | None = None

    def __post_init__(self) -> None:
        frames = self.frames
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise self.bad(f"frames are {_described(frames)}; wanted (T, H, W, 3) uint8, at least one frame")
        for target in self.targets:
            if target.masks.shape != frames.shape[:3] or target.masks.dtype != np.bool_:
                raise self.bad(
                    f"the masks of target {target.id} are {target.masks.shape} {target.masks.dtype}; "
                    f"wanted {frames.shape[:3]} bool, the size of the frames"
                )
            if not 0 <= target.condition < self.conditions:
                raise self.bad(
                    f"target {target.id} belongs to condition {target.condition}; "
                    f"the instruction has {self.conditions}, numbered from 0"
                )
        for name, flags in (("labelled", self.labelled), ("hidden", self.hidden)):
            if flags is not None and (flags.shape != frames.shape[:1] or flags.dtype != np.bool_):
                raise self.bad(f"{name} is {_described(flags)}; wanted {frames.shape[:1]} bool")

    def bad(self, what: str) -> DataError:
        """The error to raise about this example."""
        return DataError(f"Example {self.name}: {what}.")

    def masks_of(self, condition: int) -> BoolMask:
        """(T, H, W) bool: all targets of a condition together."""
        together = np.zeros(self.frames.shape[:3], dtype=np.bool_)
        for target in self.targets:
            if target.condition == condition:
                together |= target.masks[:]
        return together


def _described(array: npt.NDArray[Any]) -> str:
    return f"{array.shape} {array.dtype}"
