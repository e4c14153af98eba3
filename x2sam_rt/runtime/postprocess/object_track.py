"""Following one object through a video from its visual prompt."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from x2sam_rt.runtime.postprocess.candidates import Candidate, candidates
from x2sam_rt.runtime.postprocess.conditions import Conditions
from x2sam_rt.runtime.postprocess.frame import FrameLogits, Size
from x2sam_rt.runtime.postprocess.masks import binary_masks, mask_iou, paint_map, prompt_at_frame_size, resize_nearest
from x2sam_rt.runtime.postprocess.options import PostProcessOptions
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import BoolMask, Segment, Segmentation

EMPTY, OBJECT = 255, 1
# X2SAM, video object segmentation: how much shape counts beside class, how many results are remembered, and how good
# a result must be for that.
GEOMETRY, REMEMBERED, ACCEPTED = 0.2, 4, 0.5


class ObjectPostProcessor:
    """The query that is probable and lies where the object was: on the prompt and in the last accepted results.

    prompt: (S, S) bool in the segmentor's input grid. threshold: of the class probability. Score = 0.2 · weighted mean
    IoU + 0.8 · class probability. A generated answer may name the object by several phrases; they count as one.
    """

    def __init__(self, conditions: Conditions, options: PostProcessOptions, prompt: Tensor) -> None:
        self._conditions, self._options, self._prompt = conditions, options, prompt
        self._accepted: deque[tuple[BoolMask, float]] = deque(maxlen=REMEMBERED)

    def __call__(self, frame: FrameLogits) -> Segmentation:
        probability = frame.probabilities(len(self._conditions)).amax(1)
        references = [(prompt_at_frame_size(self._prompt, frame), 1.0), *self._remembered(frame.original_size)]
        best, score = max(
            (
                (one, _combined(one, float(probability[one.query]), references))
                for one in self._likely(frame, probability)
            ),
            key=lambda pair: pair[1],
        )
        mask = binary_masks(TileGrid.of(frame), frame.mask_logits[[best.query]], self._options.mask_threshold)[0]
        if score > ACCEPTED:
            self._accepted.append((mask, score))
        segments = (Segment(mask, self._conditions.labels[0], 0, score, OBJECT),) if mask.any() else ()
        return Segmentation(segments, paint_map(segments, frame.original_size, EMPTY), EMPTY)

    def _likely(self, frame: FrameLogits, probability: Tensor) -> list[Candidate]:
        most = probability.max()
        probable = (probability >= self._options.least_score) | (probability == most)
        # Full overlap adds GEOMETRY at most, so a query much less probable than the best cannot win.
        able = (1 - GEOMETRY) * probability + GEOMETRY >= (1 - GEOMETRY) * most
        return list(candidates(frame, (probable & able).nonzero().flatten()))

    def _remembered(self, size: Size) -> list[tuple[BoolMask, float]]:
        return [(_fitted(mask, size), weight) for mask, weight in self._accepted]


def _combined(candidate: Candidate, probability: float, references: list[tuple[BoolMask, float]]) -> float:
    overlap = sum(weight * mask_iou(candidate.mask, mask) for mask, weight in references)
    return GEOMETRY * overlap / sum(weight for _, weight in references) + (1 - GEOMETRY) * probability


def _fitted(mask: BoolMask, size: Size) -> BoolMask:
    return mask if mask.shape == size else resize_nearest(torch.from_numpy(mask), size).numpy()
