"""What of an example and of its prediction is measured, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.example import Example, IdMasks, Target
from x2sam_rt.data.readers import AnnotatedExample
from x2sam_rt.evaluation.metrics import PanopticFrame, Tube
from x2sam_rt.evaluation.segmenter import Prediction
from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.results import FrameResult

Numbers = npt.NDArray[np.int64]


def labelled_frames(example: Example) -> BoolMask:
    """(T,) bool. Raises DataError without a labelled frame."""
    flags = np.ones(len(example.frames), dtype=np.bool_) if example.labelled is None else example.labelled
    if not flags.any():
        raise example.bad("no frame is labelled, so there is nothing to measure it by")
    return flags


def measured_results(example: Example, prediction: Prediction) -> Iterator[FrameResult]:
    """All frames are segmented, as the memory needs them; those without labels are left out."""
    labelled = labelled_frames(example)
    return (result for result in prediction.frames if labelled[result.index])


def ignored_pixels(example: Example, frame: int) -> BoolMask | None:
    """(H, W) bool."""
    if not isinstance(example, AnnotatedExample) or example.ignored is None:
        return None
    ignored: BoolMask = example.ignored[frame]
    return ignored


def crowds_of(example: Example) -> tuple[Target, ...]:
    return example.crowds if isinstance(example, AnnotatedExample) else ()


def true_mask(example: Example, condition: int, frame: int) -> BoolMask:
    """(H, W) bool: all targets of a condition together."""
    together = np.zeros(example.frames.shape[1:3], dtype=np.bool_)
    for target in example.targets:
        if target.condition == condition:
            together |= target.masks[frame]
    return together


def found_mask(result: FrameResult, label: int) -> BoolMask:
    """(H, W) bool: all segments of a condition together."""
    together = np.zeros(result.segmentation.map.shape, dtype=np.bool_)
    for segment in result.segments:
        if segment.label_id == label:
            together |= segment.mask
    return together


@dataclass(frozen=True, eq=False)
class CategoryNumbers:
    """The number in the data set's list of each category an example asks for. true: by the targets' conditions, places
    in things + stuff. found: by the segments' labels, places in the question."""

    true: Numbers
    found: Numbers


def category_numbers(example: Example, names: Sequence[str]) -> CategoryNumbers:
    """Raises DataError for a category that is not listed."""
    asked = example.instruction.things + example.instruction.stuff
    if unknown := sorted(set(asked) - set(names)):
        raise example.bad(f"asks for the categories {', '.join(unknown)}, which its data set does not list")
    numbers = np.array([names.index(name) for name in asked], dtype=np.int64)
    order = example.instruction.order
    return CategoryNumbers(numbers, numbers[list(order)] if order else numbers)


def true_panoptic(example: Example, frame: int, numbers: Numbers) -> PanopticFrame:
    """numbers: of the categories, by condition. Where targets overlap the later one wins."""
    listed = [(target, False) for target in example.targets] + [(target, True) for target in crowds_of(example)]
    tubes = [Tube(int(numbers[target.condition]), target.id, crowd) for target, crowd in listed]
    masks = [target.masks for target, _ in listed]
    if masks and all(isinstance(one, IdMasks) for one in masks):
        maps = [one for one in masks if isinstance(one, IdMasks)]
        if all(one.ids is maps[0].ids for one in maps):
            return _present(maps[0].ids[frame], {one.id: tube for one, tube in zip(maps, tubes, strict=True)})
    ids = np.zeros(example.frames.shape[1:3], dtype=np.int32)
    for number, one in enumerate(masks, start=1):
        ids[one[frame]] = number
    return _present(ids, dict(enumerate(tubes, start=1)))


def found_panoptic(result: FrameResult, piece: int, numbers: Numbers) -> PanopticFrame:
    """Things of one id and label are one tube within a piece; stuff of one category is one tube of the whole clip."""
    segments = result.segmentation.segments
    tubes = {
        one.id: Tube(int(numbers[one.label_id]), (piece << 32) + one.id if one.is_thing else -1) for one in segments
    }
    return PanopticFrame(result.segmentation.map, tubes)


def _present(ids: npt.NDArray[np.integer], tubes: dict[int, Tube]) -> PanopticFrame:
    """Only the tubes that have a pixel, as a data set lists a frame's segments."""
    there = set(np.unique(ids).tolist())
    return PanopticFrame(ids.astype(np.int32), {id: tube for id, tube in tubes.items() if id in there})
