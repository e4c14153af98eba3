"""VPQ and STQ of videos, PQ of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example
from x2sam_rt.evaluation.families.selection import category_numbers, crowds_of, cut, labelled_frames, results_on
from x2sam_rt.evaluation.figures import Figure
from x2sam_rt.evaluation.metrics import (
    PanopticMap,
    PanopticQuality,
    SegmentationTrackingQuality,
    VideoPanopticQuality,
)
from x2sam_rt.evaluation.prediction import Prediction
from x2sam_rt.runtime.results import Segmentation

_NO_MASK = np.zeros((0, 0), dtype=np.bool_)


class _Maps:
    """Truth and prediction of an example as panoptic maps, with the data set's numbers for the categories."""

    def __init__(self, dataset: Dataset) -> None:
        self._names = dataset.things + dataset.stuff

    def of(self, example: Example, prediction: Prediction) -> tuple[PanopticMap, PanopticMap]:
        frames, numbers = labelled_frames(example), category_numbers(example, self._names)
        shape = (int(frames.sum()), *example.frames.shape[1:3])
        truth = PanopticMap.of_targets(shape, cut(example.targets, frames), cut(crowds_of(example), frames))
        found = PanopticMap.of_results([_light(one.segmentation) for one in results_on(prediction, frames)])
        return _renumbered(truth, numbers), _renumbered(found, numbers)


class VideoPanopticFamily:
    def __init__(self, dataset: Dataset) -> None:
        is_thing = _is_thing(dataset)
        self._maps = _Maps(dataset)
        self._quality = VideoPanopticQuality(is_thing)
        self._tracking = SegmentationTrackingQuality(is_thing)
        self._things = frozenset(range(len(dataset.things)))
        self._clips, self._tracks = 0, 0

    def add(self, example: Example, prediction: Prediction) -> None:
        truth, found = self._maps.of(example, prediction)
        self._quality.add(truth, found)
        self._tracking.add(truth, found)
        self._clips += 1
        self._tracks += sum(tube.category in self._things and not tube.crowd for tube in truth.tubes)

    def figures(self) -> Iterator[Figure]:
        result = self._quality.result()
        yield Figure("VPQ", result.vpq, self._clips, headline=True)
        for name, value in (("things", result.things), ("stuff", result.stuff)):
            if value is not None:
                yield Figure(f"VPQ, {name}", value, self._clips)
        if self._tracks:
            tracking = self._tracking.result()
            yield Figure("STQ", tracking.stq, self._clips)
            yield Figure("AQ", tracking.aq, tracking.tracks)
            yield Figure("SQ", tracking.sq, self._clips)


class ImagePanopticFamily:
    def __init__(self, dataset: Dataset) -> None:
        self._maps = _Maps(dataset)
        self._quality = PanopticQuality(_is_thing(dataset))
        self._images = 0

    def add(self, example: Example, prediction: Prediction) -> None:
        self._quality.add(*self._maps.of(example, prediction))
        self._images += 1

    def figures(self) -> Iterator[Figure]:
        result = self._quality.result()
        yield Figure("PQ", result.all.pq, self._images, headline=True)
        yield Figure("SQ", result.all.sq, self._images)
        yield Figure("RQ", result.all.rq, self._images)
        for name, quality in (("things", result.things), ("stuff", result.stuff)):
            if quality is not None:
                yield Figure(f"PQ, {name}", quality.pq, self._images)


def _is_thing(dataset: Dataset) -> tuple[bool, ...]:
    return (True,) * len(dataset.things) + (False,) * len(dataset.stuff)


def _light(segmentation: Segmentation) -> Segmentation:
    """Without the segments' own masks, which the map makes superfluous; a long clip has many."""
    segments = tuple(replace(segment, mask=_NO_MASK) for segment in segmentation.segments)
    return replace(segmentation, segments=segments)


def _renumbered(map: PanopticMap, numbers: npt.NDArray[np.int64]) -> PanopticMap:
    return replace(map, tubes=tuple(replace(tube, category=int(numbers[tube.category])) for tube in map.tubes))
