"""Masks at the frame's size, and their painting into one map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from x2sam_rt.media.types import BoolMask, LabelMap
from x2sam_rt.runtime.postprocess.rule import FrameLogits
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import Segment


def binary_masks(grid: TileGrid, logits: Tensor, threshold: float = 0.5) -> BoolMask:
    """sigmoid(mask) > threshold at full size. logits: (n, h, w) on the decoder's grid. Returns (n, H, W) bool."""
    cut = logit_cut(threshold)
    low, high = grid.bounds(logits)
    canvas = grid.blank(len(logits))
    whole, where = (low > cut).nonzero(as_tuple=True)
    grid.paint(canvas, whole, where, True)
    mask, tile = ((low <= cut) & (high > cut)).nonzero(as_tuple=True)
    for part in grid.chunks(len(tile)):
        grid.paint(canvas, mask[part], tile[part], grid.values(logits, mask[part], tile[part]) > cut)
    return to_numpy(grid.frame(canvas))


def logit_cut(threshold: float) -> float:
    """The logit above which the sigmoid is above the threshold."""
    return float(torch.logit(torch.tensor(threshold, dtype=torch.float64, device="cpu")))


def confident_masks(grid: TileGrid, logits: Tensor) -> tuple[BoolMask, Tensor]:
    """Masks (logit > 0) and the mean sigmoid inside each, 0 for an empty one.

    logits: (n, h, w). Returns (n, H, W) bool and (n,) fp32 on the logits' device.
    """
    canvas = grid.blank(len(logits))
    mask, tile = (grid.bounds(logits)[1] > 0).nonzero(as_tuple=True)
    sums, counts = (torch.zeros(len(logits), dtype=torch.float64, device=logits.device) for _ in range(2))
    for part in grid.chunks(len(tile)):
        values = grid.values(logits, mask[part], tile[part])
        inside = (values > 0) & grid.inside(tile[part])
        grid.paint(canvas, mask[part], tile[part], inside)
        sums.index_add_(0, mask[part], (values.sigmoid_() * inside).sum((1, 2)).double())
        counts.index_add_(0, mask[part], inside.flatten(1).count_nonzero(1).double())
    return to_numpy(grid.frame(canvas)), (sums / counts.clamp_min(1)).float()


def paint_map(segments: Iterable[Segment], size: tuple[int, int], empty: int) -> LabelMap:
    """(H, W) int32 with the segments' ids; later segments lie over earlier ones."""
    painted = np.full(size, empty, dtype=np.int32)
    for segment in segments:
        rows = np.flatnonzero(segment.mask.any(axis=1))
        if rows.size:  # most segments are far from filling the frame
            reach = slice(int(rows[0]), int(rows[-1]) + 1)
            np.copyto(painted[reach], np.int32(segment.id), where=segment.mask[reach])
    return painted


def mask_iou(first: BoolMask, second: BoolMask) -> float:
    """Intersection over union of two masks of one shape; 0 when both are empty."""
    common = int(np.count_nonzero(first & second))
    union = int(np.count_nonzero(first)) + int(np.count_nonzero(second)) - common
    return common / union if union else 0.0


def resize_nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) → size, each pixel taking the nearest one (`F.interpolate(mode="nearest")`)."""
    resized = torch.nn.functional.interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0]
    return resized.to(mask.dtype)


def prompt_at_frame_size(prompt: Tensor, frame: FrameLogits) -> BoolMask:
    """(S, S) bool in the segmentor's input grid → (H, W): padding cropped, the rest resized to the frame."""
    height, width = frame.scaled_size
    return to_numpy(resize_nearest(prompt[:height, :width], frame.original_size))


def to_numpy(tensor: Tensor) -> BoolMask:
    return np.asarray(tensor.cpu().numpy(), dtype=np.bool_)


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
