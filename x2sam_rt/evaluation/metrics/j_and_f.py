"""J&F of video object segmentation: the mean of region similarity and boundary measure, object by object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics.boundary import boundary_measure
from x2sam_rt.evaluation.metrics.region import region_similarity, require_same_clips
from x2sam_rt.media.types import BoolMask

_FOUND = 0.5  # DAVIS: a frame counts as recalled above this


@dataclass(frozen=True)
class JAndFResult:
    """Means over objects, 0…1. recall: the part of an object's frames whose figure is over 0.5."""

    j_and_f: float
    j: float
    f: float
    j_recall: float
    f_recall: float
    objects: int


class JAndF:
    """Averages over an object's frames, then over objects: each object (or referring expression) weighs the same,
    however long its clip is.

    inner_frames_only: leave out the first frame, which is given, and the last, as the semi-supervised DAVIS evaluation
    does. Referring benchmarks (Ref-DAVIS17, Ref-YouTube-VOS) count all frames.
    Source: the DAVIS 2017 challenge, Pont-Tuset et al., arXiv 1704.00675.
    """

    def __init__(self, *, inner_frames_only: bool = False) -> None:
        self._frames = slice(1, -1) if inner_frames_only else slice(None)
        self._objects: list[tuple[float, float, float, float]] = []

    def add(self, truth: BoolMask, predicted: BoolMask, ignored: BoolMask | None = None) -> None:
        """Measures one object of a clip. truth, predicted: (T, H, W) bool. ignored: (T, H, W) bool, pixels that do not
        count (DAVIS's void). Raises DataError for other shapes, and where no frame is left to measure."""
        require_same_clips(truth, predicted)
        if ignored is not None:
            require_same_clips(truth, ignored)
            truth, predicted = truth & ~ignored, predicted & ~ignored
        truth, predicted = truth[self._frames], predicted[self._frames]
        if not len(truth):
            raise DataError("J&F without a frame to measure: without its first and last frame the clip is empty.")
        j, f = region_similarity(truth, predicted), boundary_measure(truth, predicted)
        self._objects.append((j.mean(), f.mean(), (j > _FOUND).mean(), (f > _FOUND).mean()))

    def result(self) -> JAndFResult:
        """Raises DataError if no object was added."""
        if not self._objects:
            raise DataError("J&F of nothing: no object was added.")
        j, f, j_recall, f_recall = (float(figure) for figure in np.mean(self._objects, axis=0))
        return JAndFResult((j + f) / 2, j, f, j_recall, f_recall, len(self._objects))
