"""Semantic segmentation: the category with the most evidence at each pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from x2sam_rt.media.types import LabelMap
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import Segment, Segmentation
from x2sam_rt.tasks.table import Conditions

# The evidence of a tile's bounds and of its pixels is summed in different orders.
_ROUNDING = 1e-4


class SemanticPostProcessor(PostProcessor):
    """argmax over categories of Σ_q probability · sigmoid(mask). The map holds categories from 0 and no pixel is empty.

    One segment per category present, its id the category; score = the greatest class probability of any query for it
    (the published code reports none).
    """

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions

    def __call__(self, frame: FrameLogits) -> Segmentation:
        probabilities = frame.probabilities(len(self._conditions))
        categories = _category_map(TileGrid.of(frame), frame.mask_logits, probabilities)
        scores = probabilities.amax(0).tolist()
        segments = tuple(
            Segment(
                categories == index,
                self._conditions.labels[index],
                index,
                scores[index],
                index,
                self._conditions.is_thing[index],
            )
            for index in np.flatnonzero(np.bincount(categories.ravel())).tolist()
        )
        return Segmentation(segments, categories, empty=-1)


def _category_map(grid: TileGrid, logits: Tensor, probabilities: Tensor) -> LabelMap:
    """logits: (Q, h, w); probabilities: (Q, C). Returns (H, W) int32. Memory: one tile of all queries at a time."""
    low, high = (probabilities.T @ bound.sigmoid() for bound in grid.bounds(logits))  # (C, tiles)
    possible = high >= low.amax(0) - _ROUNDING
    canvas = grid.canvas(possible.int().argmax(0)[None].int())
    every = torch.arange(len(logits), device=logits.device)
    for number in (possible.sum(0) > 1).nonzero().flatten():
        rivals = possible[:, number].nonzero().flatten()
        pixels = grid.values(logits, every, number.expand(len(logits))).sigmoid_()
        winner = (probabilities[:, rivals].T @ pixels.flatten(1)).max(0).indices.view(pixels.shape[1:])
        tile = number[None]
        grid.paint(canvas, torch.zeros_like(tile), tile, rivals[winner][None].int())
    return np.asarray(grid.frame(canvas)[0].cpu().numpy(), dtype=np.int32)
