"""One mask per phrase, question or region: J&F in videos, IoU in images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from x2sam_rt.data.example import Example
from x2sam_rt.evaluation.evaluators.score import Piece, Score
from x2sam_rt.evaluation.evaluators.truth import (
    found_mask,
    ignored_pixels,
    labelled_frames,
    measured_results,
    true_mask,
)
from x2sam_rt.evaluation.metrics import JAndF, JAndFResult, MaskIoU, MaskIoUResult, State, region_similarity
from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.results import FrameResult


class ObjectEvaluator:
    """J&F. Every condition of an instruction is one object: a phrase, a question or a region; its segments count
    together. Scores for a tag come from the objects of the examples that have it; a tag all have gets none.

    over_frames: X2SAM's published mean, over all frames of all objects, is the headline and is given for every tag.
    """

    def __init__(self, *, over_frames: bool = False) -> None:
        self._over_frames = over_frames

    def measure(self, pieces: Iterable[Piece]) -> State:
        """[tags, J and F of every object, J of each object's hidden frames that show something of it]."""
        tags: set[str] = set()
        measure, hidden = JAndF(), dict[int, list[float]]()
        for example, prediction in pieces:
            labelled_frames(example)
            tags |= example.tags
            for result in measured_results(example, prediction):
                for condition in range(example.conditions):
                    truth, found = _compared(example, result, condition)
                    measure.add(truth, found, key=condition)
                    if example.hidden is not None and example.hidden[result.index] and truth.any():
                        hidden.setdefault(condition, []).append(float(region_similarity(truth, found)[0]))
        return [sorted(tags), measure.state(), list(hidden.values())]

    def scores(self, states: Iterable[State]) -> Iterator[Score]:
        together, hidden, tagged = JAndF(), list[float](), dict[str, JAndF]()
        for tags, objects, concealed in states:
            together.merge(objects)
            hidden += [float(np.mean(values)) for values in concealed]
            for tag in tags:
                tagged.setdefault(tag, JAndF()).merge(objects)
        result = together.result()
        yield Score("J&F", result.j_and_f, result.objects, headline=not self._over_frames)
        yield Score("J", result.j, result.objects)
        yield Score("F", result.f, result.objects)
        if self._over_frames:
            yield Score("J&F over frames", result.over_frames, result.frames, headline=True)
            yield Score("J over frames", result.j_over_frames, result.frames)
            yield Score("F over frames", result.f_over_frames, result.frames)
        if hidden:
            yield Score("J, hidden frames", float(np.mean(hidden)), len(hidden))
        for tag, metric in sorted(tagged.items()):
            if (of_tag := metric.result()).objects < result.objects:
                yield from self._of_tag(tag, of_tag)

    def _of_tag(self, tag: str, result: JAndFResult) -> Iterator[Score]:
        yield Score(f"J&F, {tag}", result.j_and_f, result.objects)
        if self._over_frames:
            yield Score(f"J&F over frames, {tag}", result.over_frames, result.frames)


class OverlapEvaluator:
    """gIoU and cIoU: every condition of an instruction has one mask; segments of one condition count together."""

    def measure(self, pieces: Iterable[Piece]) -> State:
        """[tags, overlaps]."""
        tags: set[str] = set()
        measure = MaskIoU()
        for example, prediction in pieces:
            tags |= example.tags
            for result in measured_results(example, prediction):
                for condition in range(example.conditions):
                    measure.add(*_compared(example, result, condition))
        return [sorted(tags), measure.state()]

    def scores(self, states: Iterable[State]) -> Iterator[Score]:
        together, tagged = MaskIoU(), dict[str, MaskIoU]()
        for tags, overlaps in states:
            together.merge(overlaps)
            for tag in tags:
                tagged.setdefault(tag, MaskIoU()).merge(overlaps)
        result = together.result()
        yield Score("gIoU", result.giou, result.examples, headline=True)
        yield Score("cIoU", result.ciou, result.examples)
        if result.n_acc is not None and result.without_target < result.examples:
            yield Score("N-acc", result.n_acc, result.without_target)
        for tag, metric in sorted(tagged.items()):
            if (of_tag := metric.result()).examples < result.examples:
                yield from _overlaps_of_tag(tag, of_tag)


def _overlaps_of_tag(tag: str, result: MaskIoUResult) -> Iterator[Score]:
    yield Score(f"gIoU, {tag}", result.giou, result.examples)
    yield Score(f"cIoU, {tag}", result.ciou, result.examples)


def _compared(example: Example, result: FrameResult, condition: int) -> tuple[BoolMask, BoolMask]:
    """(1, H, W) bool each: truth and prediction of a condition, without the pixels that count for nothing."""
    truth, found = true_mask(example, condition, result.index), found_mask(result, condition)
    if (ignored := ignored_pixels(example, result.index)) is not None:
        truth, found = truth & ~ignored, found & ~ignored
    return truth[None], found[None]
