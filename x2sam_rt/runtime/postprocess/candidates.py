"""Masks of the queries that can reach a score, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.runtime.postprocess.frame import FrameLogits
from x2sam_rt.runtime.postprocess.masks import confident_masks
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import BoolMask

_AT_ONCE = 32  # full-size masks held at a time, besides those that survive


@dataclass(frozen=True, eq=False)
class Candidate:
    """A query's mask (logit > 0) at the frame's size, (H, W), and the mean sigmoid inside it (0 if empty)."""

    query: int
    mask: BoolMask
    confidence: float


def greatest_confidence(logits: Tensor) -> Tensor:
    """(n, h, w) → (n,): what the mean sigmoid inside each mask cannot exceed, known without resizing."""
    return logits.flatten(1).amax(1).sigmoid()


def candidates(frame: FrameLogits, queries: Tensor) -> Iterator[Candidate]:
    """The masks of these queries, in their order."""
    grid = TileGrid.of(frame)
    for some in torch.split(queries, _AT_ONCE):
        masks, confidences = confident_masks(grid, frame.mask_logits[some])
        yield from map(Candidate, some.tolist(), masks, confidences.tolist())
