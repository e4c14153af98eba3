"""STQ: are the pixels of a video of the right category, and do tracks keep their numbers?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics.panoptic_map import Overlaps, PanopticMap, overlaps


@dataclass(frozen=True)
class TrackingResult:
    """stq: the geometric mean of aq (association) and sq (mIoU of the categories). All 0…1. tracks: true ones."""

    stq: float
    aq: float
    sq: float
    tracks: int


class SegmentationTrackingQuality:
    """STQ over whole clips.

    is_thing: of each category, by index. Association looks at things only and not at their category; crowds of things
    are left out of it on both sides. Of the semantic part, pixels whose truth is void are left out.
    void_is_a_category: count pixels predicted void as one more category, whose IoU is 0, as the published evaluation
    code (DeepLab2) does; otherwise they are misses of their true category and no more. Published figures have it on.
    Source: Weber et al., "STEP: Segmenting and Tracking Every Pixel", arXiv 2102.11859.
    """

    def __init__(self, is_thing: Sequence[bool], *, void_is_a_category: bool = True) -> None:
        self._is_thing = np.asarray(is_thing, dtype=np.bool_)
        self._void_is_a_category = void_is_a_category
        self._confusion = np.zeros((len(is_thing) + 1, len(is_thing) + 1), dtype=np.int64)  # 0 is void
        self._association = 0.0
        self._tracks = 0

    def add(self, truth: PanopticMap, predicted: PanopticMap) -> None:
        """Measures one clip. Raises DataError for two sizes and for unknown categories."""
        for map in (truth, predicted):
            map.require_categories(len(self._is_thing))
        shared = overlaps(truth, predicted).sum(axis=0)
        kinds = np.concatenate([[0], truth.categories + 1])
        found_kinds = np.concatenate([[0], predicted.categories + 1])
        np.add.at(self._confusion, (kinds[:, None], found_kinds[None]), shared)
        self._associate(truth, predicted, shared)

    def result(self) -> TrackingResult:
        """Raises DataError if no labelled pixel, or no track of a thing, was added."""
        if not self._tracks:
            raise DataError("STQ without tracks: no thing that is not a crowd was added. Measure PQ or mIoU instead.")
        aq, sq = self._association / self._tracks, self._mean_iou()
        return TrackingResult(math.sqrt(aq * sq), aq, sq, self._tracks)

    def _associate(self, truth: PanopticMap, predicted: PanopticMap, shared: Overlaps) -> None:
        things = self._is_thing[truth.categories]
        found_things = self._is_thing[predicted.categories]
        crowds = np.concatenate([[False], things & truth.crowds])
        found_sizes = shared[~crowds].sum(axis=0)[1:][found_things]
        tracks = shared[1:][things & ~truth.crowds]
        sizes, common = tracks.sum(axis=1), tracks[:, 1:][:, found_things]
        iou = common / np.maximum(sizes[:, None] + found_sizes - common, 1)
        self._association += float(((common * iou).sum(axis=1) / np.maximum(sizes, 1)).sum())
        self._tracks += int(np.count_nonzero(sizes))

    def _mean_iou(self) -> float:
        labelled = self._confusion.copy()
        labelled[0] = 0
        right = labelled.diagonal()
        union = labelled.sum(axis=1) + labelled.sum(axis=0) - right
        first = 0 if self._void_is_a_category else 1
        met = union[first:] > 0
        return float((right[first:][met] / union[first:][met]).mean())
