"""Panoptic segmentation: PQ of images, VPQ and STQ of videos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics.state import State
from x2sam_rt.media.types import LabelMap

VIPSEG_WINDOWS = (1, 2, 4, 6)  # in labelled frames
CITYSCAPES_VPS_WINDOWS = (1, 2, 3, 4)  # every fifth frame is labelled, so these are its k = 0, 5, 10, 15
_MATCH = 0.5  # above it a match is unique
_IGNORED = 0.5  # a prediction with more than this on void and crowd is not counted
Overlaps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tube:
    """A segment through the frames of a clip; equal ones are the same. crowd: several objects under one mask, neither
    missed nor found. track: tells tubes of one category apart."""

    category: int
    track: int
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class PanopticFrame:
    """ids: (H, W) int32. tubes: whose pixels an id marks, in the order they are listed in; other ids are void."""

    ids: LabelMap
    tubes: Mapping[int, Tube]


class PanopticOverlaps:
    """How many pixels the true and the predicted tubes of one clip share, frame by frame; an image is a clip of one
    frame. No pixels are kept, so a long clip of large frames costs little."""

    def __init__(self) -> None:
        self._true: dict[Tube, int] = {}
        self._found: dict[Tube, int] = {}
        self._frames: list[tuple[list[int], list[int], Overlaps]] = []

    def add(self, truth: PanopticFrame, predicted: PanopticFrame) -> None:
        """The next frame. Raises DataError where the two are not of one size."""
        if truth.ids.shape != predicted.ids.shape:
            raise DataError(f"True map {truth.ids.shape}, predicted {predicted.ids.shape}: they must be of one size.")
        rows, columns = _numbers(self._true, truth.tubes), _numbers(self._found, predicted.tubes)
        pairs = _places(truth) * (len(columns) + 1) + _places(predicted)
        counts = np.bincount(pairs.ravel(), minlength=(len(rows) + 1) * (len(columns) + 1))
        self._frames.append((rows, columns, counts.reshape(len(rows) + 1, len(columns) + 1)))

    @property
    def true(self) -> tuple[Tube, ...]:
        """In the order they were first listed in."""
        return tuple(self._true)

    @property
    def found(self) -> tuple[Tube, ...]:
        return tuple(self._found)

    def shared(self) -> Overlaps:
        """(T, true tubes + 1, predicted tubes + 1) int64: pixels; index 0 is void."""
        shared = np.zeros((len(self._frames), len(self._true) + 1, len(self._found) + 1), dtype=np.int64)
        for frame, (rows, columns, counts) in zip(shared, self._frames, strict=True):
            # Two ids of one frame may be one tube (stuff in pieces), so counts are added and not set.
            np.add.at(frame, (np.array([0, *rows])[:, None], np.array([0, *columns])[None]), counts)
        return shared

    def require_categories(self, count: int) -> None:
        """Raises DataError for a tube whose category is not one of `count`."""
        outside = {tube.category for tube in (*self._true, *self._found) if not 0 <= tube.category < count}
        if outside:
            raise DataError(f"Tubes of the categories {sorted(outside)}; there are {count}, numbered from 0.")


def _numbers(known: dict[Tube, int], tubes: Mapping[int, Tube]) -> list[int]:
    """The number of each tube in its clip, from 1."""
    return [known.setdefault(tube, len(known) + 1) for tube in tubes.values()]


def _places(frame: PanopticFrame) -> npt.NDArray[np.int64]:
    """(H, W): the place of each pixel's tube in the frame's list, from 1; 0 is void."""
    if not frame.tubes:
        return np.zeros(frame.ids.shape, dtype=np.int64)
    listed = np.array(list(frame.tubes), dtype=np.int64)
    order = np.argsort(listed)
    nearest = order[np.searchsorted(listed, frame.ids, sorter=order).clip(max=len(listed) - 1)]
    return np.where(listed[nearest] == frame.ids, nearest + 1, 0)


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


class PanopticQuality:
    """PQ over tubes of `window` labelled frames; an image is a clip of one frame.

    is_thing: of each category, by index. A true and a predicted tube of one category match above an IoU of 0.5, where
    predicted pixels on void do not count. A prediction that lies with more than half of itself on void, or on the crowd
    of its own category (the last one listed, if there are two), is no mistake; a crowd is never missed. Clips shorter
    than the window add nothing.
    Sources: Kirillov et al., "Panoptic Segmentation", CVPR 2019, with the rules of COCO's panopticapi; tubes: Kim et
    al., "Video Panoptic Segmentation", CVPR 2020, as VIPSeg counts them.
    """

    def __init__(self, is_thing: Sequence[bool], *, window: int = 1) -> None:
        if window < 1:
            raise DataError(f"A window of {window} frames; wanted 1 or more.")
        self._is_thing = np.asarray(is_thing, dtype=np.bool_)
        self._window = window
        self._iou, self._hits, self._extra, self._missed = np.zeros((4, len(is_thing)), dtype=np.float64)

    def add(self, clip: PanopticOverlaps) -> None:
        """Measures one clip or image. Raises DataError for unknown categories."""
        clip.require_categories(len(self._is_thing))
        shared = _windowed(clip.shared(), self._window)
        true_areas, found_areas = shared.sum(axis=2)[:, 1:], shared.sum(axis=1)[:, 1:]
        crowds, kinds, found_kinds = _crowds(clip.true), _categories(clip.true), _categories(clip.found)
        same = (kinds[:, None] == found_kinds) & ~crowds[:, None]
        union = true_areas[:, :, None] + found_areas[:, None] - shared[:, 1:, 1:] - shared[:, :1, 1:]
        iou = shared[:, 1:, 1:] / np.maximum(union, 1)
        matched = same & (iou > _MATCH)
        np.add.at(self._iou, kinds, np.where(matched, iou, 0).sum(axis=(0, 2)))
        np.add.at(self._hits, kinds, matched.sum(axis=(0, 2)))
        missed = (true_areas > 0) & ~crowds & ~matched.any(axis=2)
        np.add.at(self._missed, kinds, missed.sum(axis=0))
        excused = (shared[:, 0, 1:] + _on_own_crowd(shared, clip)) / np.maximum(found_areas, 1) > _IGNORED
        extra = (found_areas > 0) & ~matched.any(axis=1) & ~excused
        np.add.at(self._extra, found_kinds, extra.sum(axis=0))

    def state(self) -> State:
        """[[category, Σ IoU of the matches, matches, extra, missed], …], of categories that occurred."""
        counts = zip(self._iou.tolist(), self._hits.tolist(), self._extra.tolist(), self._missed.tolist(), strict=True)
        return [[category, *one] for category, one in enumerate(counts) if any(one)]

    def merge(self, state: State) -> None:
        for category, iou, hits, extra, missed in state:
            self._iou[category] += iou
            self._hits[category] += hits
            self._extra[category] += extra
            self._missed[category] += missed

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


@dataclass(frozen=True)
class VideoPanopticResult:
    """vpq, things, stuff: means of the windows' PQ. windows: the result of each window, in their order."""

    vpq: float
    things: float | None
    stuff: float | None
    windows: tuple[PanopticResult, ...]


class VideoPanopticQuality:
    """VPQ: PQ over tubes, averaged over windows of several lengths. windows: in labelled frames.

    Source: Kim et al., CVPR 2020; VIPSeg (Miao et al., CVPR 2022) for the default windows.
    """

    def __init__(self, is_thing: Sequence[bool], *, windows: Sequence[int] = VIPSEG_WINDOWS) -> None:
        if not windows:
            raise DataError("VPQ without windows: give at least one length in frames.")
        self._windows = [PanopticQuality(is_thing, window=window) for window in windows]

    def add(self, clip: PanopticOverlaps) -> None:
        """Measures one clip, of labelled frames only. Raises DataError for unknown categories."""
        for window in self._windows:
            window.add(clip)

    def state(self) -> State:
        """One state per window."""
        return [window.state() for window in self._windows]

    def merge(self, state: State) -> None:
        for window, one in zip(self._windows, state, strict=True):
            window.merge(one)

    def result(self) -> VideoPanopticResult:
        """Raises DataError if no clip was as long as the longest window."""
        results = tuple(window.result() for window in self._windows)
        return VideoPanopticResult(
            vpq=float(np.mean([result.all.pq for result in results])),
            things=_mean_pq([result.things for result in results]),
            stuff=_mean_pq([result.stuff for result in results]),
            windows=results,
        )


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
    as_x2sam: as X2SAM's figures for VIPSeg are made. Of each clip's true tubes the one listed first is taken for a
    crowd, and no other (tubes are numbered from 0, which DeepLab2 takes for the number of crowds); and what is
    predicted on void adds nothing to a prediction's size.
    Source: Weber et al., "STEP: Segmenting and Tracking Every Pixel", arXiv 2102.11859.
    """

    def __init__(self, is_thing: Sequence[bool], *, void_is_a_category: bool = True, as_x2sam: bool = False) -> None:
        self._is_thing = np.asarray(is_thing, dtype=np.bool_)
        self._void_is_a_category = void_is_a_category
        self._as_x2sam = as_x2sam
        self._confusion = np.zeros((len(is_thing) + 1, len(is_thing) + 1), dtype=np.int64)  # 0 is void
        self._association = 0.0
        self._tracks = 0

    def add(self, clip: PanopticOverlaps) -> None:
        """Measures one clip. Raises DataError for unknown categories."""
        clip.require_categories(len(self._is_thing))
        shared = clip.shared().sum(axis=0)
        kinds = np.concatenate([[0], _categories(clip.true) + 1])
        found_kinds = np.concatenate([[0], _categories(clip.found) + 1])
        np.add.at(self._confusion, (kinds[:, None], found_kinds[None]), shared)
        self._associate(clip, shared)

    def state(self) -> State:
        """[Σ association, tracks, [[place in the flat confusion matrix, pixels], …]]."""
        flat = self._confusion.ravel()
        pixels = [[int(place), int(flat[place])] for place in np.flatnonzero(flat)]
        return [self._association, self._tracks, pixels]

    def merge(self, state: State) -> None:
        association, tracks, pixels = state
        self._association += association
        self._tracks += tracks
        for place, count in pixels:
            self._confusion.flat[place] += count

    @property
    def tracks(self) -> int:
        """True ones so far, crowds left out."""
        return self._tracks

    def result(self) -> TrackingResult:
        """Raises DataError if no labelled pixel, or no track of a thing, was added."""
        if not self._tracks:
            raise DataError("STQ without tracks: no thing that is not a crowd was added. Measure PQ or mIoU instead.")
        aq, sq = self._association / self._tracks, self._mean_iou()
        return TrackingResult(math.sqrt(aq * sq), aq, sq, self._tracks)

    def _associate(self, clip: PanopticOverlaps, shared: Overlaps) -> None:
        things = self._is_thing[_categories(clip.true)]
        found_things = self._is_thing[_categories(clip.found)]
        crowds = things & self._crowds(clip.true)
        found_sizes = shared[np.concatenate([[not self._as_x2sam], ~crowds])].sum(axis=0)[1:][found_things]
        tracks = shared[1:][things & ~crowds]
        sizes, common = tracks.sum(axis=1), tracks[:, 1:][:, found_things]
        iou = common / np.maximum(sizes[:, None] + found_sizes - common, 1)
        self._association += float(((common * iou).sum(axis=1) / np.maximum(sizes, 1)).sum())
        self._tracks += int(np.count_nonzero(sizes))

    def _crowds(self, true: Sequence[Tube]) -> npt.NDArray[np.bool_]:
        return np.arange(len(true)) == 0 if self._as_x2sam else _crowds(true)

    def _mean_iou(self) -> float:
        labelled = self._confusion.copy()
        labelled[0] = 0
        right = labelled.diagonal()
        union = labelled.sum(axis=1) + labelled.sum(axis=0) - right
        first = 0 if self._void_is_a_category else 1
        met = union[first:] > 0
        return float((right[first:][met] / union[first:][met]).mean())


def _mean_pq(qualities: Sequence[Quality | None]) -> float | None:
    found = [quality.pq for quality in qualities if quality is not None]
    return float(np.mean(found)) if found else None


def _categories(tubes: Sequence[Tube]) -> npt.NDArray[np.int64]:
    return np.array([tube.category for tube in tubes], dtype=np.int64)


def _crowds(tubes: Sequence[Tube]) -> npt.NDArray[np.bool_]:
    return np.array([tube.crowd for tube in tubes], dtype=np.bool_)


def _on_own_crowd(shared: Overlaps, clip: PanopticOverlaps) -> Overlaps:
    """(windows, predicted tubes): pixels each prediction has on the last crowd of its category."""
    pixels = np.zeros((len(shared), len(clip.found)), dtype=np.int64)
    for number, tube in enumerate(clip.true, start=1):
        if tube.crowd:
            there = shared[:, number].sum(axis=1) > 0
            own = _categories(clip.found) == tube.category
            pixels = np.where(there[:, None] & own, shared[:, number, 1:], pixels)
    return pixels


def _windowed(shared: Overlaps, window: int) -> Overlaps:
    """(windows, …): the overlaps of every run of `window` frames."""
    until = np.concatenate([np.zeros_like(shared[:1]), np.cumsum(shared, axis=0)])
    runs: Overlaps = until[window:] - until[:-window]
    return runs
