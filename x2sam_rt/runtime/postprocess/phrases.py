"""Referring, reasoning and grounded conversation: the best query of each phrase, or all good ones together."""

from __future__ import annotations

import torch
from torch import Tensor

from x2sam_rt.runtime.postprocess.masks import binary_masks, paint_map
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import Segment, Segmentation
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import Conditions

EMPTY = 255


class PhrasePostProcessor(PostProcessor):
    """One segment per phrase, in the phrases' order, later ones painted over earlier ones; score = class
    probability; the mean of several.

    Ids are the phrase's number from 1, so they hold over a stream. A phrase with an empty mask has no segment.
    """

    def __init__(self, conditions: Conditions, options: PostProcessOptions) -> None:
        self._conditions = conditions
        self._options = options

    def __call__(self, frame: FrameLogits) -> Segmentation:
        probability = frame.probabilities(len(self._conditions))
        chosen = chosen_queries(probability, self._options.together)
        scores = (probability * chosen).sum(0) / chosen.sum(0)
        queries = chosen.any(1).nonzero().flatten()
        masks = binary_masks(TileGrid.of(frame), frame.mask_logits[queries], self._options.mask_threshold)
        of_phrase = (masks[own.cpu().numpy()].any(0) for own in chosen[queries].T)
        segments = tuple(
            Segment(mask, label, index, score, phrase_id(index))
            for index, (label, score, mask) in enumerate(
                zip(self._conditions.labels, scores.tolist(), of_phrase, strict=True)
            )
            if score >= self._options.least_score and mask.any()
        )
        return Segmentation(segments, paint_map(segments, frame.original_size, EMPTY), EMPTY)


def chosen_queries(probability: Tensor, together: float | None) -> Tensor:
    """(Q, phrases) → the same shape, bool: the queries whose masks are a phrase's."""
    best = torch.zeros_like(probability, dtype=torch.bool)
    best.scatter_(0, probability.argmax(0, keepdim=True), True)
    if together is None:
        return best
    return best | (probability >= together) | (probability == probability.amax(0))


def phrase_id(index: int) -> int:
    return index + 1 if index + 1 < EMPTY else index + 2  # 255 marks empty pixels
