"""PQ of images and VPQ of videos: how well segments are recognised and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics.panoptic_map import Overlaps, PanopticMap, overlaps

VIPSEG_WINDOWS = (1, 2, 4, 6)  # in labelled frames
CITYSCAPES_VPS_WINDOWS = (1, 2, 3, 4)  # every fifth frame is labelled, so these are its k = 0, 5, 10, 15
_MATCH = 0.5  # above it a match is unique
_IGNORED = 0.5  # a prediction with more than this on void and crowd is not counted


@dataclass(frozen=True)
class Quality:
    """Means over categories, 0…1: pq = sq · rq in each category. categories: how many of them occurred."""

    pq: float
    sq: float
    rq: float
    categories: int


@dataclass(frozen=True)
class PanopticResult:
    """things, stuff: None where no category of the kind occurred. per_category: (pq, sq, rq) by index; None where the
    category never occurred."""

    all: Quality
    things: Quality | None
    stuff: Quality | None
    per_category: tuple[tuple[float, float, float] | None, ...]


@dataclass(frozen=True)
class VideoPanopticResult:
    """vpq, things, stuff: means of the windows' PQ. windows: the result of each window, in their order."""

    vpq: float
    things: float | None
    stuff: float | None
    windows: tuple[PanopticResult, ...]


class PanopticQuality:
    """PQ over tubes of `window` labelled frames; an image is a clip of one frame.

    is_thing: of each category, by index. A true and a predicted tube of one category match above an IoU of 0.5, where
    predicted pixels on void do not count. A prediction that lies with more than half of itself on void, or on crowd
    of its own category, is no mistake; a crowd is never missed. Clips shorter than the window add nothing.
    Sources: Kirillov et al., "Panoptic Segmentation", CVPR 2019, with the rules of COCO's panopticapi; tubes: Kim et
    al., "Video Panoptic Segmentation", CVPR 2020, as VIPSeg counts them.
    """

    def __init__(self, is_thing: Sequence[bool], *, window: int = 1) -> None:
        if window < 1:
            raise DataError(f"A window of {window} frames; wanted 1 or more.")
        self._is_thing = np.asarray(is_thing, dtype=np.bool_)
        self._window = window
        self._iou = np.zeros(len(is_thing), dtype=np.float64)
        self._hits, self._extra, self._missed = np.zeros((3, len(is_thing)), dtype=np.int64)

    def add(self, truth: PanopticMap, predicted: PanopticMap) -> None:
        """Measures one clip or image. Raises DataError for two sizes and for unknown categories."""
        for map in (truth, predicted):
            map.require_categories(len(self._is_thing))
        self.add_overlaps(truth, predicted, overlaps(truth, predicted))

    def add_overlaps(self, truth: PanopticMap, predicted: PanopticMap, shared: Overlaps) -> None:
        """As `add`, with the overlaps of the two at hand, for several windows over one clip."""
        shared = _windowed(shared, self._window)
        true_areas, found_areas = shared.sum(axis=2)[:, 1:], shared.sum(axis=1)[:, 1:]
        crowds, kinds, found_kinds = truth.crowds, truth.categories, predicted.categories
        same = (kinds[:, None] == found_kinds) & ~crowds[:, None]
        union = true_areas[:, :, None] + found_areas[:, None] - shared[:, 1:, 1:] - shared[:, :1, 1:]
        iou = shared[:, 1:, 1:] / np.maximum(union, 1)
        matched = same & (iou > _MATCH)
        self._count(self._iou, kinds, np.where(matched, iou, 0).sum(axis=(0, 2)))
        self._count(self._hits, kinds, matched.sum(axis=(0, 2)))
        missed = (true_areas > 0) & ~crowds & ~matched.any(axis=2)
        self._count(self._missed, kinds, missed.sum(axis=0))
        own_crowd = np.where((kinds[:, None] == found_kinds) & crowds[:, None], shared[:, 1:, 1:], 0).sum(axis=1)
        excused = (shared[:, 0, 1:] + own_crowd) / np.maximum(found_areas, 1) > _IGNORED
        extra = (found_areas > 0) & ~matched.any(axis=1) & ~excused
        self._count(self._extra, found_kinds, extra.sum(axis=0))

    def result(self) -> PanopticResult:
        """Raises DataError if nothing was measured."""
        things = self._is_thing
        everything = self._mean(np.ones_like(things))
        if everything is None:
            raise DataError(f"PQ of nothing: no clip of at least {self._window} frames with a segment was added.")
        met, figures = self._met(), self._figures()
        return PanopticResult(
            all=everything,
            things=self._mean(things),
            stuff=self._mean(~things),
            per_category=tuple(
                (float(pq), float(sq), float(rq)) if there else None
                for (pq, sq, rq), there in zip(figures, met, strict=True)
            ),
        )

    def _met(self) -> npt.NDArray[np.bool_]:
        return (self._hits + self._extra + self._missed) > 0

    def _figures(self) -> npt.NDArray[np.float64]:
        """(categories, 3): pq, sq, rq."""
        weight = np.maximum(self._hits + self._extra / 2 + self._missed / 2, 0.5)
        sq = self._iou / np.maximum(self._hits, 1)
        return np.stack([self._iou / weight, sq, self._hits / weight], axis=1)

    def _mean(self, chosen: npt.NDArray[np.bool_]) -> Quality | None:
        chosen = chosen & self._met()
        if not chosen.any():
            return None
        pq, sq, rq = (float(figure) for figure in self._figures()[chosen].mean(axis=0))
        return Quality(pq, sq, rq, int(chosen.sum()))

    @staticmethod
    def _count(
        counter: npt.NDArray[np.generic], kinds: npt.NDArray[np.int64], amounts: npt.NDArray[np.generic]
    ) -> None:
        np.add.at(counter, kinds, amounts)


class VideoPanopticQuality:
    """VPQ: PQ over tubes, averaged over windows of several lengths. windows: in labelled frames.

    Source: Kim et al., CVPR 2020; VIPSeg (Miao et al., CVPR 2022) for the default windows.
    """

    def __init__(self, is_thing: Sequence[bool], *, windows: Sequence[int] = VIPSEG_WINDOWS) -> None:
        if not windows:
            raise DataError("VPQ without windows: give at least one length in frames.")
        self._categories = len(is_thing)
        self._windows = [PanopticQuality(is_thing, window=window) for window in windows]

    def add(self, truth: PanopticMap, predicted: PanopticMap) -> None:
        """Measures one clip, of labelled frames only. Raises DataError for two sizes and for unknown categories."""
        for map in (truth, predicted):
            map.require_categories(self._categories)
        shared = overlaps(truth, predicted)
        for window in self._windows:
            window.add_overlaps(truth, predicted, shared)

    def result(self) -> VideoPanopticResult:
        """Raises DataError if no clip was as long as the longest window."""
        results = tuple(window.result() for window in self._windows)
        return VideoPanopticResult(
            vpq=float(np.mean([result.all.pq for result in results])),
            things=_mean_pq([result.things for result in results]),
            stuff=_mean_pq([result.stuff for result in results]),
            windows=results,
        )


def _mean_pq(qualities: Sequence[Quality | None]) -> float | None:
    found = [quality.pq for quality in qualities if quality is not None]
    return float(np.mean(found)) if found else None


def _windowed(shared: Overlaps, window: int) -> Overlaps:
    """(windows, …): the overlaps of every run of `window` frames."""
    until = np.concatenate([np.zeros_like(shared[:1]), np.cumsum(shared, axis=0)])
    runs: Overlaps = until[window:] - until[:-window]
    return runs
