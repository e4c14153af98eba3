"""Segments by category: panoptic, semantic and instance segmentation, and visual grounding by category."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example
from x2sam_rt.data.readers import AnnotatedExample, PromptedExample
from x2sam_rt.evaluation.evaluators.score import Piece, Score
from x2sam_rt.evaluation.evaluators.truth import (
    CategoryNumbers,
    Numbers,
    category_numbers,
    crowds_of,
    found_panoptic,
    labelled_frames,
    measured_results,
    true_panoptic,
)
from x2sam_rt.evaluation.metrics import (
    COCO_AREAS,
    VIPSEG_WINDOWS,
    YOUTUBE_VIS_AREAS,
    AveragePrecision,
    AveragePrecisionResult,
    FoundInstance,
    MeanIoU,
    PanopticOverlaps,
    PanopticQuality,
    SegmentationTrackingQuality,
    State,
    TrueInstance,
    VideoConsistency,
    VideoPanopticQuality,
)
from x2sam_rt.evaluation.segmenter import Prediction
from x2sam_rt.media.types import BoolMask

_UNKNOWN = -1
_FAR = 1 << 20  # farther from any category than one is from another


class PanopticEvaluator:
    """PQ of images; VPQ and STQ of videos. A video's chunks count as one clip, in which no thing keeps its id from
    chunk to chunk."""

    def __init__(self, dataset: Dataset, *, video: bool) -> None:
        self._names = dataset.things + dataset.stuff
        self._is_thing = (True,) * len(dataset.things) + (False,) * len(dataset.stuff)
        self._video = video

    def measure(self, pieces: Iterable[Piece]) -> State:
        """The state of every metric."""
        clip = PanopticOverlaps()
        for number, (example, prediction) in enumerate(pieces):
            numbers = category_numbers(example, self._names)
            for result in measured_results(example, prediction):
                truth = true_panoptic(example, result.index, numbers.true)
                clip.add(truth, found_panoptic(result, number, numbers.found))
        metrics = self._metrics()
        for metric in metrics:
            metric.add(clip)
        return [metric.state() for metric in metrics]

    def scores(self, states: Iterable[State]) -> Iterator[Score]:
        metrics, samples = self._metrics(), 0
        for state in states:
            samples += 1
            for metric, one in zip(metrics, state, strict=True):
                metric.merge(one)
        if not self._video:
            yield from self._of_images(metrics[0], samples)
            return
        yield from self._of_videos(metrics[0], samples)
        for suffix, tracking in (("", metrics[1]), (" as published", metrics[2])):
            if isinstance(tracking, SegmentationTrackingQuality) and tracking.tracks:
                result = tracking.result()
                yield Score(f"STQ{suffix}", result.stq, samples)
                yield Score(f"AQ{suffix}", result.aq, result.tracks)
                if not suffix:
                    yield Score("SQ", result.sq, samples)

    def _metrics(self) -> list[PanopticQuality | VideoPanopticQuality | SegmentationTrackingQuality]:
        if not self._video:
            return [PanopticQuality(self._is_thing)]
        return [
            VideoPanopticQuality(self._is_thing),
            SegmentationTrackingQuality(self._is_thing),
            SegmentationTrackingQuality(self._is_thing, as_x2sam=True),
        ]

    @staticmethod
    def _of_videos(metric: object, samples: int) -> Iterator[Score]:
        assert isinstance(metric, VideoPanopticQuality)
        result = metric.result()
        yield Score("VPQ", result.vpq, samples, headline=True)
        for name, value in (("things", result.things), ("stuff", result.stuff)):
            if value is not None:
                yield Score(f"VPQ, {name}", value, samples)
        for length, window in zip(VIPSEG_WINDOWS, result.windows, strict=True):
            yield Score(f"VPQ@{length}", window.all.pq, samples)

    @staticmethod
    def _of_images(metric: object, samples: int) -> Iterator[Score]:
        assert isinstance(metric, PanopticQuality)
        result = metric.result()
        yield Score("PQ", result.all.pq, samples, headline=True)
        yield Score("SQ", result.all.sq, samples)
        yield Score("RQ", result.all.rq, samples)
        for name, quality in (("things", result.things), ("stuff", result.stuff)):
            if quality is not None:
                yield Score(f"PQ, {name}", quality.pq, samples)


class SemanticEvaluator:
    """mIoU, and in videos mVC. Pixels of no target are not counted; crowds are pixels of their category like all
    others. A video's chunks count as one clip.

    Two means: over the categories that are true or predicted somewhere, and over those that are true somewhere, as
    published."""

    def __init__(self, dataset: Dataset, *, video: bool) -> None:
        self._names, self._video = dataset.things + dataset.stuff, video

    def measure(self, pieces: Iterable[Piece]) -> State:
        """[state of mIoU, state of mVC]."""
        miou, mvc = MeanIoU(len(self._names), ignored=_UNKNOWN), VideoConsistency()
        for example, prediction in pieces:
            numbers = category_numbers(example, self._names)
            for result in measured_results(example, prediction):
                truth = self._truth(example, result.index, numbers.true)
                found = np.full(truth.shape, _UNKNOWN, dtype=np.int64)
                for segment in result.segments:
                    found[segment.mask] = numbers.found[segment.label_id]
                miou.add(truth, found)
                if self._video:
                    mvc.add(_raw(example, result.index, truth), found)
        return [miou.state(), mvc.state()]

    def scores(self, states: Iterable[State]) -> Iterator[Score]:
        miou, mvc, samples = MeanIoU(len(self._names), ignored=_UNKNOWN), VideoConsistency(), 0
        for of_pixels, of_windows in states:
            samples += 1
            miou.merge(of_pixels)
            mvc.merge(of_windows)
        result, consistency = miou.result(), mvc.result()
        yield Score("mIoU", result.miou_true, samples, headline=True)
        yield Score("mIoU, predicted categories too", result.miou, samples)
        yield Score("pixel accuracy", result.pixel_accuracy, samples)
        for length, value in consistency.mvc.items():
            if value is not None:
                yield Score(f"mVC@{length}", value, consistency.windows[length])

    @staticmethod
    def _truth(example: Example, frame: int, numbers: Numbers) -> Numbers:
        truth = np.full(example.frames.shape[1:3], _UNKNOWN, dtype=np.int64)
        for target in (*example.targets, *crowds_of(example)):
            truth[target.masks[frame]] = numbers[target.condition]
        return truth


def _raw(example: Example, frame: int, truth: Numbers) -> Numbers:
    """mVC tells kinds of void apart, where the data set does."""
    if not isinstance(example, AnnotatedExample) or example.raw_labels is None:
        return truth
    return np.asarray(example.raw_labels[frame], dtype=np.int64)


class InstanceEvaluator:
    """AP of instances, of three kinds.

    "tracks": an example is an image, or a clip, in which the segments of one id and label are one track; its score is
    the mean over the frames it is seen in (COCO, YouTube-VIS). "frames": every frame is an image, as X2SAM's figures
    for V-VGD have it. "pooled": the same, and the frames of one number in all videos are one image, as in X2SAM's
    figures for YouTube-VIS.
    published: crowds are left out, and so are images without another object. Otherwise crowds are neither missed nor
    found. Targets of stuff are always left out.
    """

    def __init__(
        self,
        dataset: Dataset,
        kind: Literal["tracks", "frames", "pooled"],
        *,
        video: bool,
        published: bool,
    ) -> None:
        self._names, self._things = dataset.things + dataset.stuff, len(dataset.things)
        self._kind, self._video, self._published = kind, video, published

    def measure(self, pieces: Iterable[Piece]) -> State:
        """[state of AP, true instances]."""
        metric, true, frames = self._metric(), 0, 0
        for example, prediction in pieces:
            numbers = self._numbers(example)
            if self._kind == "tracks":
                true += self._add_tracks(metric, example, prediction, numbers)
                continue
            for result in measured_results(example, prediction):
                found = [FoundInstance(s.mask[None], int(numbers.found[s.label_id]), s.score) for s in result.segments]
                truth = self._true(example, slice(result.index, result.index + 1), numbers.true)
                true += sum(not one.crowd for one in truth)
                metric.add(truth, found, key=frames)
                frames += 1
        return [metric.state(), true]

    def scores(self, states: Iterable[State]) -> Iterator[Score]:
        metric, true = self._metric(), 0
        for of_images, instances in states:
            metric.merge(of_images)
            true += instances
        yield from instance_scores(metric.result(), true, "" if self._kind == "tracks" else " of frames")

    def _metric(self) -> AveragePrecision:
        tracks = self._kind == "tracks" and self._video
        return AveragePrecision(YOUTUBE_VIS_AREAS if tracks else COCO_AREAS, pooled=self._kind == "pooled")

    def _numbers(self, example: Example) -> CategoryNumbers:
        """The category of each condition."""
        if not isinstance(example, PromptedExample):
            return category_numbers(example, self._names)
        numbers = np.full(example.conditions, _FAR, dtype=np.int64)
        for target, category in zip(example.targets, example.categories, strict=True):
            numbers[target.condition] = category
        return CategoryNumbers(numbers, numbers)

    def _add_tracks(
        self, metric: AveragePrecision, example: Example, prediction: Prediction, numbers: CategoryNumbers
    ) -> int:
        frames = labelled_frames(example)
        truth = self._true(example, frames, numbers.true)
        found = [
            FoundInstance(masks[frames], int(numbers.found[label]), score)
            for label, score, masks in _tracks(example, prediction)
            if masks[frames].any()
        ]
        if truth or not self._published:
            metric.add(truth, found)
        return sum(not one.crowd for one in truth)

    def _true(self, example: Example, frames: slice | BoolMask, numbers: Numbers) -> list[TrueInstance]:
        everything = [(target, False) for target in example.targets]
        everything += [] if self._published else [(target, True) for target in crowds_of(example)]
        stuff = set(range(self._things, len(self._names)))
        instances = [
            TrueInstance(target.masks[frames], int(numbers[target.condition]), crowd)
            for target, crowd in everything
            if int(numbers[target.condition]) not in stuff or isinstance(example, PromptedExample)
        ]
        # A frame that does not show an object has no instance of it.
        return [one for one in instances if self._kind == "tracks" or one.masks.any()]


def instance_scores(result: AveragePrecisionResult, true: int, suffix: str = "") -> Iterator[Score]:
    yield Score(f"AP{suffix}", result.ap, true, headline=True)
    yield Score(f"AP50{suffix}", result.ap50, true)
    yield Score(f"AP75{suffix}", result.ap75, true)
    for name, value in (("small", result.small), ("medium", result.medium), ("large", result.large)):
        if value is not None:
            yield Score(f"AP{suffix}, {name}", value, true)
    yield Score(f"AR10{suffix}", result.ar10, true)


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
