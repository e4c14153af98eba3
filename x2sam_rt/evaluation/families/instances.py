"""AP of instances, in images and through videos."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example
from x2sam_rt.evaluation.families.selection import category_numbers, crowds_of, labelled_frames
from x2sam_rt.evaluation.figures import Figure
from x2sam_rt.evaluation.metrics import AreaLimits, AveragePrecision, FoundInstance, TrueInstance
from x2sam_rt.evaluation.prediction import Prediction
from x2sam_rt.media.types import BoolMask


class InstanceFamily:
    """In a video the segments of one id and label are one track; its score is the mean over the frames it is seen in.
    Targets of stuff are left out. limits: what is small and medium."""

    def __init__(self, dataset: Dataset, limits: AreaLimits) -> None:
        self._names = dataset.things + dataset.stuff
        self._things = len(dataset.things)
        self._precision = AveragePrecision(limits)
        self._true = 0

    def add(self, example: Example, prediction: Prediction) -> None:
        frames, numbers = labelled_frames(example), category_numbers(example, self._names)
        true = [
            TrueInstance(target.masks[frames], int(numbers[target.condition]), crowd)
            for crowd, targets in ((False, example.targets), (True, crowds_of(example)))
            for target in targets
            if numbers[target.condition] < self._things
        ]
        self._true += sum(not one.crowd for one in true)
        found = [
            FoundInstance(masks[frames], int(numbers[label]), score)
            for label, score, masks in _tracks(example, prediction)
            if masks[frames].any()
        ]
        self._precision.add(true, found)

    def figures(self) -> Iterator[Figure]:
        result = self._precision.result()
        yield Figure("AP", result.ap, self._true, headline=True)
        yield Figure("AP50", result.ap50, self._true)
        yield Figure("AP75", result.ap75, self._true)
        for name, value in (("small", result.small), ("medium", result.medium), ("large", result.large)):
            if value is not None:
                yield Figure(f"AP, {name}", value, self._true)
        yield Figure("AR10", result.ar10, self._true)


def _tracks(example: Example, prediction: Prediction) -> list[tuple[int, float, BoolMask]]:
    """Label, score and (T, H, W) masks of each."""
    masks: dict[tuple[int, int], BoolMask] = {}
    scores: dict[tuple[int, int], list[float]] = {}
    for result in prediction.frames:
        for segment in result.segments:
            key = (segment.id, segment.label_id)
            if key not in masks:
                masks[key] = np.zeros(example.frames.shape[:3], dtype=np.bool_)
            masks[key][result.index] |= segment.mask
            scores.setdefault(key, []).append(segment.score)
    return [(key[1], float(np.mean(scores[key])), masks[key]) for key in masks]
