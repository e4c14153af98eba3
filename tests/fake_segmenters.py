"""Segmenters that know the truth, or see nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from x2sam_rt.data.example import Example, Target
from x2sam_rt.evaluation.segmenter import Prediction, Showing
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation
from x2sam_rt.tasks.marks import link, parse_marks

Change = Callable[[Target], Target]


class PerfectSegmenter:
    """Gives every target its true mask. change: what is made of each first."""

    def __init__(self, change: Change = lambda target: target) -> None:
        self._change = change
        self.shown: list[Showing] = []

    @contextlib.contextmanager
    def predict(self, example: Example, showing: Showing) -> Iterator[Prediction]:
        self.shown.append(showing)
        targets = [self._change(target) for target in example.targets]
        yield prediction(example, targets, example.answer or "")


class BlindSegmenter:
    """Finds nothing and says nothing."""

    @contextlib.contextmanager
    def predict(self, example: Example, showing: Showing) -> Iterator[Prediction]:
        yield prediction(example, [], "", has_seg=False)


def prediction(example: Example, targets: list[Target], answer: str, *, has_seg: bool = True) -> Prediction:
    """One segment per target in each frame that shows it."""
    said = link(parse_marks(answer))
    frames = (
        FrameResult(index, segmentation(example, targets, index), said.text, said.spans, {"frame_encoder": 2.0})
        for index in range(len(example.frames))
    )
    return Prediction(frames, said, answer, has_seg, instruction_ms=5.0)


def segmentation(example: Example, targets: list[Target], frame: int) -> Segmentation:
    segments = tuple(
        Segment(target.masks[frame], f"label {target.condition}", target.condition, 0.9, target.id + 1)
        for target in targets
        if target.masks[frame].any()
    )
    painted = np.zeros(example.frames.shape[1:3], dtype=np.int32)
    for segment in segments:
        painted[segment.mask] = segment.id
    return Segmentation(segments, painted, 0)
