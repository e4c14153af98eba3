"""Referring, reasoning and grounded conversation: the best query of each phrase."""

from __future__ import annotations

import torch

from x2sam_rt.runtime.postprocess.masks import binary_masks, paint_map
from x2sam_rt.runtime.postprocess.rule import FrameLogits
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import Segment, Segmentation
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import Conditions

EMPTY = 255


class PhrasePostProcessor:
    """One segment per phrase, in the phrases' order, later ones painted over earlier ones; score = class probability.

    Ids are the phrase's number from 1, so they hold over a stream. A phrase with an empty mask has no segment.
    """

    def __init__(self, conditions: Conditions, options: PostProcessOptions) -> None:
        self._conditions = conditions
        self._options = options

    def __call__(self, frame: FrameLogits) -> Segmentation:
        scores, best = frame.probabilities(len(self._conditions)).max(0)
        queries, which = torch.unique(best, return_inverse=True)
        masks = binary_masks(TileGrid.of(frame), frame.mask_logits[queries], self._options.mask_threshold)
        segments = tuple(
            Segment(masks[query], label, index, score, _phrase_id(index))
            for index, (label, score, query) in enumerate(
                zip(self._conditions.labels, scores.tolist(), which.tolist(), strict=True)
            )
            if score >= self._options.least_score and masks[query].any()
        )
        return Segmentation(segments, paint_map(segments, frame.original_size, EMPTY), EMPTY)


def _phrase_id(index: int) -> int:
    return index + 1 if index + 1 < EMPTY else index + 2  # 255 marks empty pixels
