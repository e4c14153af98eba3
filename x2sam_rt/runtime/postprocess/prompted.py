"""One object by its visual prompt: in an image the mask that fits it best, in a video followed from frame to frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.postprocess.masks import (
    Candidate,
    binary_masks,
    candidates,
    greatest_confidence,
    mask_iou,
    paint_map,
    prompt_at_frame_size,
    resize_nearest,
)
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor, Size
from x2sam_rt.runtime.postprocess.state import RuleState
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import Segment, Segmentation
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import Conditions

EMPTY, OBJECT = 255, 1


class InteractivePostProcessor(PostProcessor):
    """Of the queries whose instance score reaches the threshold, or else the one with the highest, that whose mask
    overlaps the prompt most. prompt: (S, S) bool in the segmentor's input grid. A generated answer may name the
    object by several phrases; they count as one."""

    def __init__(self, conditions: Conditions, options: PostProcessOptions, prompt: Tensor) -> None:
        self._conditions, self._options, self._prompt = conditions, options, prompt

    def __call__(self, frame: FrameLogits) -> Segmentation:
        probability = frame.wanted_probability(self._conditions)
        bound = probability * greatest_confidence(frame.mask_logits)
        best, score = self._fitting(frame, probability, bound) or _highest(frame, probability, bound)
        segments = (Segment(best.mask, self._conditions.labels[0], 0, score, OBJECT),) if best.confidence else ()
        return Segmentation(segments, paint_map(segments, frame.original_size, EMPTY), EMPTY)

    def _fitting(self, frame: FrameLogits, probability: Tensor, bound: Tensor) -> tuple[Candidate, float] | None:
        prompt = prompt_at_frame_size(self._prompt, frame)
        chosen, most = None, -1.0
        for one in candidates(frame, (bound >= self._options.least_score).nonzero().flatten()):
            score = float(probability[one.query]) * one.confidence
            if score >= self._options.least_score and (iou := mask_iou(one.mask, prompt)) > most:
                chosen, most = (one, score), iou
        return chosen


def _highest(frame: FrameLogits, probability: Tensor, bound: Tensor) -> tuple[Candidate, float]:
    """The candidate with the highest score: few are computed, since the bounds are close and taken in their order."""
    order = bound.argsort(descending=True)
    best: tuple[Candidate, float] | None = None
    for position, one in enumerate(candidates(frame, order)):
        score = float(probability[one.query]) * one.confidence
        if best is None or score > best[1]:
            best = one, score
        if position + 1 < len(order) and float(bound[order[position + 1]]) < best[1]:
            break
    assert best is not None, "a frame has queries"
    return best


EMPTY, OBJECT = 255, 1
# X2SAM, video object segmentation: how much shape counts beside class, how many results are remembered, and how good
# a result must be for that.
GEOMETRY, REMEMBERED, ACCEPTED = 0.2, 4, 0.5


class ObjectPostProcessor(PostProcessor):
    """The query that is probable and lies where the object was: on the prompt and in the last accepted results.

    prompt: (S, S) bool in the segmentor's input grid. threshold: of the class probability. Score = 0.2 · weighted mean
    IoU + 0.8 · class probability. A generated answer may name the object by several phrases; they count as one.
    """

    def __init__(self, conditions: Conditions, options: PostProcessOptions, prompt: Tensor) -> None:
        self._conditions, self._options, self._prompt = conditions, options, prompt
        self._accepted: deque[tuple[BoolMask, float]] = deque(maxlen=REMEMBERED)

    def __call__(self, frame: FrameLogits) -> Segmentation:
        probability = frame.wanted_probability(self._conditions)
        references = [(self._anchor(frame), 1.0), *self._remembered(frame.original_size)]
        best, score = max(
            (
                (one, _combined(one, float(probability[one.query]), references))
                for one in self._likely(frame, probability)
            ),
            key=lambda pair: pair[1],
        )
        logits = frame.mask_logits[best.query : best.query + 1]
        mask = binary_masks(TileGrid.of(frame), logits, self._options.mask_threshold)[0]
        if score > ACCEPTED:
            self._accepted.append((mask, score))
        segments = (Segment(mask, self._conditions.labels[0], 0, score, OBJECT),) if mask.any() else ()
        return Segmentation(segments, paint_map(segments, frame.original_size, EMPTY), EMPTY)

    def state(self) -> RuleState:
        masks = tuple(torch.from_numpy(mask) for mask, _ in self._accepted)
        return RuleState(masks=masks, scores=tuple(score for _, score in self._accepted))

    def restore(self, state: RuleState, logits: torch.Size) -> None:
        self._accepted.extend((mask.numpy(), score) for mask, score in state.scored_masks(REMEMBERED, ACCEPTED))

    def _anchor(self, frame: FrameLogits) -> BoolMask:
        """The prompt, or nothing where it is left out: then its weight still counts, as published."""
        prompt = prompt_at_frame_size(self._prompt, frame)
        return prompt if self._options.anchored else np.zeros_like(prompt)

    def _likely(self, frame: FrameLogits, probability: Tensor) -> list[Candidate]:
        return list(candidates(frame, likely(probability, self._options.least_score).nonzero().flatten()))

    def _remembered(self, size: Size) -> list[tuple[BoolMask, float]]:
        return [(_fitted(mask, size), weight) for mask, weight in self._accepted]


def likely(probability: Tensor, least: float) -> Tensor:
    """(Q,) → (Q,) bool: the queries that can be the object."""
    most = probability.max()
    probable = (probability >= least) | (probability == most)
    # Full overlap adds GEOMETRY at most, so a query much less probable than the best cannot win.
    return probable & ((1 - GEOMETRY) * probability + GEOMETRY >= (1 - GEOMETRY) * most)


def combined_score(probability: float, ious: Sequence[float], weights: Sequence[float]) -> float:
    """ious: with each reference. weights: of the references."""
    overlap = sum(weight * iou for iou, weight in zip(ious, weights, strict=True))
    return GEOMETRY * overlap / sum(weights) + (1 - GEOMETRY) * probability


def _combined(candidate: Candidate, probability: float, references: list[tuple[BoolMask, float]]) -> float:
    ious = [mask_iou(candidate.mask, mask) for mask, _ in references]
    return combined_score(probability, ious, [weight for _, weight in references])


def _fitted(mask: BoolMask, size: Size) -> BoolMask:
    return mask if mask.shape == size else resize_nearest(torch.from_numpy(mask), size).numpy()
