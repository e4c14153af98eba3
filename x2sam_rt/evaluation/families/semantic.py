"""mIoU of the category of every pixel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example
from x2sam_rt.evaluation.families.selection import category_numbers, crowds_of, labelled_frames, results_on
from x2sam_rt.evaluation.figures import Figure
from x2sam_rt.evaluation.metrics import MeanIoU
from x2sam_rt.evaluation.prediction import Prediction

_UNKNOWN = -1


class SemanticFamily:
    """Pixels of no target are not counted; crowds are pixels of their category like all others."""

    def __init__(self, dataset: Dataset) -> None:
        self._names = dataset.things + dataset.stuff
        self._miou = MeanIoU(len(self._names), ignored=_UNKNOWN)
        self._examples = 0

    def add(self, example: Example, prediction: Prediction) -> None:
        frames, numbers = labelled_frames(example), category_numbers(example, self._names)
        truth = np.full(example.frames.shape[:3], _UNKNOWN, dtype=np.int64)
        for target in (*example.targets, *crowds_of(example)):
            truth[target.masks] = numbers[target.condition]
        for result in results_on(prediction, frames):
            found = np.full(truth.shape[1:], _UNKNOWN, dtype=np.int64)
            for segment in result.segments:
                found[segment.mask] = numbers[segment.label_id]
            self._miou.add(truth[result.index], found)
        self._examples += 1

    def figures(self) -> Iterator[Figure]:
        result = self._miou.result()
        yield Figure("mIoU", result.miou, self._examples, headline=True)
        yield Figure("pixel accuracy", result.pixel_accuracy, self._examples)
