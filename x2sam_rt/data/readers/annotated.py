"""Examples with what public data sets say beyond the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.example import Example, Target
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.regions import RegionPrompt


@dataclass(frozen=True, eq=False)
class AnnotatedExample(Example):
    """crowds: groups under one mask, which are neither missed nor found; they are no targets. ignored: (T, H, W) bool,
    pixels that no figure counts; None: all count. raw_labels: (T, H, W) integers, the data set's own label of every
    pixel, kinds of void included, where a figure asks for it (VSPW's mVC).

    Raises DataError as Example does.
    """

    crowds: tuple[Target, ...] = ()
    ignored: BoolMask | None = None
    raw_labels: npt.NDArray[np.integer] | None = None

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


@dataclass(frozen=True, eq=False)
class PromptedExample(AnnotatedExample):
    """Objects with visual prompts on several frames (V-VGD, COCO-VGD). The instruction itself has one region per
    object, on the first frame that shows it: condition k is region k.

    categories: of each target, in their order: its place among all category ids of the data set, sorted. prompts: by
    frame, then by `Target.id`, for every object that has one there.
    """

    categories: tuple[int, ...] = ()
    prompts: Mapping[int, Mapping[int, RegionPrompt]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.categories) != len(self.targets):
            raise self.bad(f"it has {len(self.categories)} categories for {len(self.targets)} targets; wanted one each")
        unknown = {id for prompts in self.prompts.values() for id in prompts} - {target.id for target in self.targets}
        if unknown:
            raise self.bad(f"it has prompts on objects {sorted(unknown)}, which are no targets")


@dataclass(frozen=True, eq=False)
class CaptionedExample(AnnotatedExample):
    """A grounded caption (GCG). caption: plain words. labels: the phrase of each target, in the targets' order; target
    k belongs to condition k."""

    caption: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.labels) != len(self.targets):
            raise self.bad(f"it has {len(self.labels)} phrases for {len(self.targets)} targets; wanted one each")
