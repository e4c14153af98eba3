"""Which parts of an example and its prediction a figure is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers import AnnotatedExample
from x2sam_rt.evaluation.prediction import Prediction
from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.results import FrameResult


def labelled_frames(example: Example) -> BoolMask:
    """(T,) bool. Raises DataError without a labelled frame."""
    flags = np.ones(len(example.frames), dtype=np.bool_) if example.labelled is None else example.labelled
    if not flags.any():
        raise example.bad("no frame is labelled, so there is nothing to measure it by")
    return flags


def ignored_pixels(example: Example) -> BoolMask | None:
    return example.ignored if isinstance(example, AnnotatedExample) else None


def crowds_of(example: Example) -> tuple[Target, ...]:
    return example.crowds if isinstance(example, AnnotatedExample) else ()


def cut(targets: Iterable[Target], frames: BoolMask) -> list[Target]:
    """The targets on some of the frames."""
    return [replace(target, masks=target.masks[frames]) for target in targets]


def results_on(prediction: Prediction, frames: BoolMask) -> Iterator[FrameResult]:
    """All frames are segmented, as the memory needs them; those that are not asked for are left out."""
    return (result for result in prediction.frames if frames[result.index])


def masks_by_label(example: Example, prediction: Prediction, labels: int) -> BoolMask:
    """(labels, T, H, W) bool: all segments of a label together."""
    masks = np.zeros((labels, *example.frames.shape[:3]), dtype=np.bool_)
    for result in prediction.frames:
        for segment in result.segments:
            masks[segment.label_id, result.index] |= segment.mask
    return masks


def category_numbers(example: Example, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """The number in the data set's list of each category the example asks for, in the instruction's order.

    Raises DataError for a category that is not listed.
    """
    asked = example.instruction.things + example.instruction.stuff
    if unknown := sorted(set(asked) - set(names)):
        raise example.bad(f"asks for the categories {', '.join(unknown)}, which its data set does not list")
    return np.array([names.index(name) for name in asked], dtype=np.int64)
